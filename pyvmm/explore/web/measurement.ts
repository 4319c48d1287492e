// The RIM as the chain of its steps, some of which are computed again here.

import { fill, h, table, type Child } from "./dom";
import { linked } from "./links";
import type { Entry, Log } from "./log";
import type { Pane } from "./pane";
import { select } from "./selection";

const SHOWN = 400; // rows
const TYPES: Record<string, number> = { DATA: 0, RIPAS: 2 };
const MEANINGS: Record<string, string> = {
  REALM_CREATE: "the realm's parameters: the chain begins with their hash",
  RIPAS: "these IPAs are RAM",
  DATA: "a page with this content is at this IPA",
  REC: "a vCPU begins with these registers",
  DEBUG: "the host may debug the realm",
};

interface Step {
  entry: Entry;
  name: string;
  fields: Record<string, string>;
  before: string;
  rim: string;
}

export const measurement: Pane = {
  id: "rim",
  name: "RIM",
  async show(element, _link, log) {
    if (!log) return;
    const steps = read(log);
    const last = steps.at(-1);
    if (!last) {
      fill(element, h("p", { class: "hint" }, ["no step of a realm's measurement is in the record"]));
      return;
    }
    const checked = await recompute(steps);
    const count = checked.filter((is) => is !== null).length;
    const wrong = checked.filter((is) => is === false).length;
    fill(element,
      h("p", { class: "rim" }, [
        `${steps.length} steps; the initial measurement is `, h("b", { class: "digest" }, [last.rim]),
      ]),
      h("p", { class: wrong ? "error" : "hint", role: "status" }, [
        wrong ? `${wrong} steps do not follow from the step before`
        : `${count} steps were computed again in this browser: each follows from the step before.`,
      ]),
      table(["number", "step", "what is measured", "fields", "RIM after it", "again"], rows(steps, checked)));
  },
};

function read(log: Log): Step[] {
  const numbers: number[] = [];
  log.search(log.first, new Set(["RIM"]), [], numbers);
  const steps: Step[] = [];
  for (const number of numbers) {
    const entry = log.entry(number)!;
    const [left, rim] = entry.text.split(" -> ");
    const words = left!.split(" ");
    const name = words[2]!;
    const fields = Object.fromEntries(words.slice(3).map((word) => word.split("=") as [string, string]));
    const before = name === "REALM_CREATE" ? "" : (steps.at(-1)?.rim ?? "");
    steps.push({ entry, name, fields, before, rim: rim! });
  }
  return steps;
}

/** Compute the steps again whose inputs are all in their events; null for the others. */
async function recompute(steps: Step[]): Promise<(boolean | null)[]> {
  if (!globalThis.crypto?.subtle) return steps.map(() => null);
  return Promise.all(steps.map(async (step) => {
    const type = TYPES[step.name];
    if (type === undefined || !step.before) return null;
    const algorithm = step.rim.length === 64 ? "SHA-256" : "SHA-512";
    const digest = await crypto.subtle.digest(algorithm, descriptor(type, step));
    return toHex(new Uint8Array(digest)) === step.rim;
  }));
}

/** Return the 256 bytes that extend the measurement (DEN0137, "Realm measurement"). */
function descriptor(type: number, step: Step): ArrayBuffer {
  const bytes = new ArrayBuffer(0x100);
  const view = new DataView(bytes);
  view.setUint8(0, type);
  view.setBigUint64(0x8, 0x100n, true);
  new Uint8Array(bytes).set(fromHex(step.before), 0x10);
  const { ipa, flags, content, base, top } = step.fields;
  view.setBigUint64(0x50, BigInt(ipa ?? base ?? 0), true);
  view.setBigUint64(0x58, BigInt(flags ?? top ?? 0), true);
  if (content && content !== "-") new Uint8Array(bytes).set(fromHex(content), 0x60);
  return bytes;
}

function fromHex(text: string): Uint8Array {
  return Uint8Array.from(text.match(/../g) ?? [], (pair) => parseInt(pair, 16));
}

function toHex(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function rows(steps: Step[], checked: (boolean | null)[]): Child[][] {
  const all = steps.map((step, index) => ({ step, index }));
  const hidden = all.length - SHOWN;
  const shown = hidden > 0 ? [...all.slice(0, SHOWN / 2), null, ...all.slice(-SHOWN / 2)] : all;
  return shown.map((row) => (row ? rowOf(row.step, row.index, checked[row.index]!) : ["", `… ${hidden} more`]));
}

function rowOf(step: Step, index: number, isRight: boolean | null): Child[] {
  const fields = Object.entries(step.fields).map(([name, value]) =>
    `${name}=${value.length > 40 ? `${value.slice(0, 24)}…` : value}`).join(" ");
  return [
    h("button", { type: "button", title: "go to this time" }, [String(index)], {
      click: () => select({ at: step.entry.number + 1 }),
    }),
    h("b", {}, [step.name]), MEANINGS[step.name] ?? "", h("span", {}, linked(fields)),
    h("span", { class: "digest", title: step.rim }, [`${step.rim.slice(0, 24)}…`]),
    isRight === null ? "" : isRight ? "✓" : "✗",
  ];
}
