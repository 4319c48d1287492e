// Colours of the worlds, which people with colour blindness can tell apart (after Okabe and Ito), and
// for each use of a granule a shade and a pattern, so that nothing depends on colour alone.

type Rgb = [number, number, number];

const WORLDS: Record<string, Rgb> = {
  NS: [176, 180, 184],
  REALM: [0, 114, 178],
  ROOT: [213, 94, 0],
  SECURE: [230, 159, 0],
  ANY: [240, 228, 66],
  NO_ACCESS: [90, 90, 90],
};

// Of granules in the Realm world: how much lighter, and the pattern of a cell of 4 × 4 dots.
const USES: Record<string, [number, number]> = {
  UNDELEGATED: [0, 0x0000],
  DELEGATED: [0.72, 0x0000],
  RD: [0, 0xffff],
  REC: [0.1, 0x5a5a],
  REC_AUX: [0.35, 0x1248],
  DATA: [0.3, 0x0000],
  RTT: [0, 0x0f0f],
  METADATA: [0.2, 0x8888],
};
const OF_USE: Record<string, Rgb> = {
  RD: [230, 40, 120],
  REC: [204, 121, 167],
  REC_AUX: [204, 121, 167],
  RTT: [0, 158, 115],
  METADATA: [240, 228, 66],
};

function mix(colour: Rgb, share: number, other: Rgb): Rgb {
  return colour.map((part, n) => Math.round(part + (other[n]! - part) * share)) as Rgb;
}

export interface Paint {
  colour: number; // of a dot in a canvas: 0xAABBGGRR
  ink: number; // of the pattern
  pattern: number; // 16 bits: one per dot of a cell
  css: string;
}

function packed([red, green, blue]: Rgb): number {
  return ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;
}

export function paint(gpi: string, state: string): Paint {
  const [lighter, pattern] = USES[state] ?? [0, 0];
  const world = WORLDS[gpi] ?? [128, 128, 128];
  const colour =
    gpi === "REALM" ? mix(OF_USE[state] ?? world, lighter, [255, 255, 255])
    : state === "UNDELEGATED" ? mix(world, 0.55, [255, 255, 255])
    : world;
  return {
    colour: packed(colour),
    ink: packed(mix(colour, 0.75, [0, 0, 0])),
    pattern,
    css: `rgb(${colour.join(" ")})`,
  };
}
