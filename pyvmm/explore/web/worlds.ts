// The four worlds, each PE in the one where it is, and the last call that crossed each border.

import { fill, h } from "./dom";
import { linked } from "./links";
import type { Entry, Log } from "./log";

const WORLDS = [
  ["normal", "Normal world", "pyvmm: the host"],
  ["root", "Root (EL3)", "Monitor, GPT"],
  ["rmm", "Realm world (R-EL2)", "RMM"],
  ["guest", "Realm (R-EL1, EL0)", "the guest"],
] as const;
const SCAN = 600; // events before a moment that are searched for those of each PE

interface Row {
  element: HTMLElement;
  cells: HTMLElement[];
  texts: string[];
}

export class Worlds {
  readonly element: HTMLElement;
  #body = h("div", { class: "pes" });
  #rows: Row[] = [];
  #drawn = "";

  constructor() {
    const heads = WORLDS.map(([id, name, who]) =>
      h("div", { class: `world ${id}` }, [h("b", {}, [name]), h("span", { class: "who" }, [who])]),
    );
    this.element = h("section", { class: "worlds", "aria-label": "worlds" }, [
      h("div", { class: "world-heads" }, heads),
      this.#body,
    ]);
  }

  draw(log: Log | null, numPes: number, isLive: boolean): void {
    const count = Math.max(log?.pes ?? 0, numPes, 1);
    while (this.#rows.length < count) this.#rows.push(this.#add(this.#rows.length));
    while (this.#rows.length > count) this.#rows.pop()!.element.remove();
    const state = `${log?.version} ${count} ${isLive}`;
    if (!log || state === this.#drawn) return;
    this.#drawn = state;
    this.#rows.forEach((row, pe) => this.#show(row, log, pe, isLive));
  }

  #add(pe: number): Row {
    const cells = WORLDS.map(([id]) => h("div", { class: `cell ${id}` }));
    const element = h("div", { class: "pe", "data-pe": String(pe) }, cells);
    this.#body.append(element);
    return { element, cells, texts: ["", "", "", ""] };
  }

  #show(row: Row, log: Log, pe: number, isLive: boolean): void {
    const recent = lastOf(log, pe);
    const world = isLive
      ? (log.inside.includes(pe) ? "guest" : "normal")
      : worldAt(log, pe);
    row.element.dataset.world = world;
    const texts = [
      recent.mmio ?? "", recent.gpt ?? recent.hes ?? "", recent.rmi ?? "", recent.exit ?? recent.rsi ?? "",
    ];
    WORLDS.forEach(([id], n) => {
      const key = `${id === world}${texts[n]}`;
      if (row.texts[n] === key) return;
      row.texts[n] = key;
      const token = id === world ? h("span", { class: "token" }, [`PE ${pe}`]) : null;
      fill(row.cells[n]!, token, h("span", { class: "call" }, linked(texts[n]!)));
    });
  }
}

type Recent = Partial<Record<"mmio" | "gpt" | "hes" | "rmi" | "exit" | "rsi", string>>;

function lastOf(log: Log, pe: number): Recent {
  const found: Recent = {};
  const stop = Math.max(log.first, log.position - SCAN);
  for (let number = log.position - 1; number >= stop; number--) {
    const entry = log.entry(number);
    if (!entry || entry.number !== number || entry.pe !== pe) continue;
    const name = nameOf(entry);
    if (name) found[name] ??= entry.text;
    if (found.rmi && found.exit && found.gpt && found.mmio) break;
  }
  return found;
}

function nameOf(entry: Entry): keyof Recent | null {
  switch (entry.kind) {
    case "MMIO": return "mmio";
    case "GPT": return "gpt";
    case "HES": return "hes";
    case "RMI": return "rmi";
    case "REC_EXIT": return "exit";
    case "RSI": case "PSCI": return "rsi";
    default: return null;
  }
}

/** Return where a PE was: what it did next tells it. */
function worldAt(log: Log, pe: number): string {
  const now = log.entry(log.position)?.time ?? Infinity;
  for (let number = log.position; number < Math.min(log.end, log.position + SCAN); number++) {
    const entry = log.entry(number);
    if (!entry || entry.pe !== pe) continue;
    switch (entry.kind) {
      case "GPT": return "root";
      case "GRANULE": case "RTT": case "RIM": case "HES": return "rmm";
      case "RSI": case "PSCI": case "REC_EXIT": return "guest";
      case "RMI": return entry.time - entry.took <= now ? "rmm" : "normal";
      case "MMIO": return "normal";
    }
  }
  return "normal";
}
