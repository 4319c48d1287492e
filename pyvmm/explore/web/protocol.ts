// What the server sends and takes: see pyvmm/explore/session.py.

export interface Status {
  name: string;
  state: string;
  kind: string;
  num_cpus: number;
  rim?: string | null;
  reason?: string;
}

export interface GranuleMap {
  at: number;
  base: string;
  granules: number;
  runs: [number, number][];
}

export interface Hello {
  type: "hello";
  name: string;
  gpis: string[];
  states: string[];
  first: number;
  next: number;
}

export interface Events {
  type: "events";
  first: number;
  times: number[];
  pes: number[];
  tooks: number[];
  lines: string;
  inside: number[];
}

export type FromServer =
  | { type: "instances"; instances: Status[] }
  | Hello
  | Events
  | { type: "map"; map: GranuleMap; next: number; lost: number; skipped: number }
  | { type: "status"; status: Status | null; problem: string }
  | { type: "answer"; id: number; result?: unknown; error?: string };

// --- pictures: see pyvmm/arch/pictures.py --------------------------------------------------------

export interface GranulePicture {
  pa: string;
  gpi: string;
  gpt_entry: string;
  gpt_entry_pa: string;
  state: string;
  owner: string;
  ipas: string[];
  accesses: Record<string, string>;
}

export interface Step {
  stage: number;
  level: number;
  address: string;
  pas: string;
  index: number;
  descriptor: string;
  kind: string;
  output: string;
  fields: Record<string, string>;
}

export interface WalkPicture {
  address: string;
  pe: number;
  el: number;
  steps: Step[];
  ipa: string | null;
  pa: string | null;
  pas: string | null;
  gpi: string | null;
  accesses: { access: string; is_allowed: boolean; fault: string; taken_to: string; esr: string }[];
}

export interface EntryRun {
  ipa: string;
  index: number;
  count: number;
  size: number;
  state: string;
  ripas: string;
  pa: string;
  descriptor: string;
}

export interface TablePicture {
  pa: string;
  level: number;
  ipa: string;
  live: number;
  entries: EntryRun[];
}

export interface RttPicture {
  rd: string;
  tables: TablePicture[];
}

export interface Stage1Run {
  va: string;
  index: number;
  count: number;
  size: number;
  kind: string;
  output: string;
  descriptor: string;
  fields: Record<string, string>;
}

export interface Stage1Picture {
  pe: number;
  register: string;
  level: number;
  va: string;
  ipa: string;
  pa: string | null;
  runs: Stage1Run[];
}

export interface RecordPicture {
  address: string;
  fields: Record<string, string>;
}

export interface PePicture {
  index: number;
  world: string;
  pstate: string;
  registers: Record<string, string>;
  system: Record<string, string>;
  controls: Record<string, string>;
}

export interface Vcpu {
  is_on: boolean;
  pstate: string;
  registers: Record<string, string>;
  code: { address: string; word: string; text: string }[];
}
