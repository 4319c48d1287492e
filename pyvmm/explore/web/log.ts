// The events of an instance, and the granules at any of them.
//
// Each event that moves a granule tells its old and its new use, so the map can be taken forward and
// back along the log. A keyframe is a map that the server sent: the first one, or one after a loss.

import type { Events, GranuleMap, Hello } from "./protocol";

export const KINDS = [
  "RMI", "RSI", "PSCI", "HES", "GPT", "GRANULE", "RTT", "RIM", "REC_EXIT", "MMIO",
] as const;
export type Kind = (typeof KINDS)[number];

const PREFIXES: [string, Kind][] = [
  ["RMI_", "RMI"], ["RSI_", "RSI"], ["PSCI_", "PSCI"], ["SMCCC_", "PSCI"], ["HES ", "HES"],
  ["GPT ", "GPT"], ["GRANULE ", "GRANULE"], ["RTT ", "RTT"], ["RIM ", "RIM"],
  ["REC_EXIT ", "REC_EXIT"], ["MMIO ", "MMIO"],
];

const FIELDS = 5; // of a change: event, granule, 0 for the GPI or 1 for the state, old, new

interface Chunk {
  first: number;
  end: number;
  times: number[];
  pes: number[];
  tooks: number[];
  lines: string[];
  kinds: Uint8Array;
  changes: Int32Array;
}

interface Keyframe {
  at: number;
  before: Uint8Array | null;
  after: Uint8Array;
}

export interface Entry {
  number: number;
  time: number; // µs
  pe: number;
  took: number; // µs
  kind: Kind;
  text: string;
}

export class Log {
  gpis: string[] = [];
  states: string[] = [];
  base = 0;
  granules = 0;
  codes: Uint8Array | null = null;
  position = 0; // number of the first event that is not in `codes`
  inside: number[] = [];
  gaps = 0; // events that are missing between those that are here
  pes = 0;
  received = 0; // number after the last event that has arrived
  history = 0; // number of the first event that was not there when the page was opened
  isComplete = false; // all before it have arrived
  #chunks: Chunk[] = [];
  #keyframes: Keyframe[] = [];

  constructor(hello: Hello) {
    this.gpis = hello.gpis;
    this.states = hello.states;
    this.position = hello.first;
    this.history = hello.next;
    this.isComplete = hello.first === hello.next;
  }

  get first(): number {
    return this.#chunks[0]?.first ?? this.position;
  }


  /** The number after the last event that is known of: a map may have come before its events. */
  get end(): number {
    return Math.max(this.received, this.#keyframes.at(-1)?.at ?? 0);
  }

  get start(): number {
    return this.#chunks[0]?.times[0] ?? 0;
  }

  gpi(code: number): string {
    return this.gpis[code % this.gpis.length] ?? "?";
  }

  state(code: number): string {
    return this.states[Math.floor(code / this.gpis.length)] ?? "?";
  }

  /** Add events; those after a gap still have their numbers. */
  add(message: Events): void {
    const lines = message.lines.split("\n");
    lines.pop();
    const previous = this.#chunks.at(-1);
    if (previous && message.first > previous.end) this.gaps += message.first - previous.end;
    const chunk: Chunk = {
      first: message.first,
      end: message.first + lines.length,
      times: message.times,
      pes: message.pes,
      tooks: message.tooks,
      lines,
      kinds: new Uint8Array(lines.length),
      changes: new Int32Array(0),
    };
    chunk.changes = this.#read(chunk);
    this.inside = message.inside;
    for (const pe of message.pes) if (pe >= this.pes) this.pes = pe + 1;
    if (lines.length) this.#chunks.push(chunk);
    this.received = Math.max(this.received, chunk.end);
    this.isComplete ||= this.received >= this.history;
  }

  #read(chunk: Chunk): Int32Array {
    const changes: number[] = [];
    chunk.lines.forEach((line, index) => {
      const kind = PREFIXES.find(([prefix]) => line.startsWith(prefix))?.[1] ?? "RMI";
      chunk.kinds[index] = KINDS.indexOf(kind);
      if (kind !== "GRANULE" && kind !== "GPT") return;
      const words = line.split(" ");
      const pa = Number(words[1]?.slice(3));
      const isState = kind === "GRANULE" ? 1 : 0;
      const names = isState ? this.states : this.gpis;
      const count = isState ? 1 : Number(words[2]?.slice(5)) / 4096;
      const [old, , now] = words.slice(isState ? 2 : 3);
      for (let n = 0; n < count; n++) {
        changes.push(index, pa / 4096 + n, isState, names.indexOf(old ?? ""), names.indexOf(now ?? ""));
      }
    });
    return Int32Array.from(changes);
  }

  /** Something that differs whenever what is shown may differ. */
  get version(): string {
    return `${this.position} ${this.received} ${this.#keyframes.length} ${this.inside.join()}`;
  }

  /** Take a map from the server, which sends the events from `next` on now. */
  addMap(map: GranuleMap, next: number): void {
    this.received = Math.max(this.received, next);
    const codes = new Uint8Array(map.granules);
    let index = 0;
    for (const [count, code] of map.runs) {
      codes.fill(code, index, index + count);
      index += count;
    }
    this.base = Number(map.base);
    this.granules = map.granules;
    this.#keyframes.push({ at: map.at, before: null, after: codes });
    if (this.codes === null) {
      this.codes = codes.slice();
      this.position = map.at;
    }
  }

  /** Make `codes` what it was before the event with a number. */
  seek(target: number): void {
    if (this.codes === null || this.received < this.position) return;
    const goal = Math.min(Math.max(target, this.first), this.end);
    if (goal > this.position) this.#forward(goal);
    else if (goal < this.position) this.#back(goal);
  }

  #forward(goal: number): void {
    for (const keyframe of this.#keyframes) {
      if (keyframe.at <= this.position || keyframe.at > goal) continue;
      this.#apply(this.position, keyframe.at, true);
      keyframe.before ??= this.codes!.slice();
      this.codes = keyframe.after.slice();
      this.position = keyframe.at;
    }
    this.#apply(this.position, goal, true);
    this.position = goal;
  }

  #back(goal: number): void {
    for (const keyframe of this.#keyframes.toReversed()) {
      if (keyframe.at > this.position || keyframe.at <= goal || !keyframe.before) continue;
      this.#apply(keyframe.at, this.position, false);
      this.codes = keyframe.before.slice();
      this.position = keyframe.at;
    }
    this.#apply(goal, this.position, false);
    this.position = goal;
  }

  #apply(from: number, to: number, isForward: boolean): void {
    const chunks = this.#chunks.slice(this.#find(from), this.#find(to) + 1);
    for (const chunk of isForward ? chunks : chunks.reverse()) {
      const count = chunk.changes.length / FIELDS;
      for (let n = 0; n < count; n++) {
        this.#change(chunk, isForward ? n : count - 1 - n, from, to, isForward);
      }
    }
  }

  #change(chunk: Chunk, index: number, from: number, to: number, isForward: boolean): void {
    const at = index * FIELDS;
    const number = chunk.first + chunk.changes[at]!;
    if (number < from || number >= to) return;
    const granule = chunk.changes[at + 1]! - this.base / 4096;
    const code = this.codes![granule];
    const value = chunk.changes[at + (isForward ? 4 : 3)]!;
    if (code === undefined || value < 0) return;
    const size = this.gpis.length;
    const gpi = code % size;
    this.codes![granule] = chunk.changes[at + 2] ? gpi + size * value : code - gpi + value;
  }

  /** Return the index of the chunk that contains or follows a number. */
  #find(number: number): number {
    let low = 0;
    let high = this.#chunks.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.#chunks[middle]!.end <= number) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  /** Return an event; the next one if it is missing. */
  entry(number: number): Entry | null {
    const chunk = this.#chunks[this.#find(number)];
    if (!chunk) return null;
    const index = Math.max(0, number - chunk.first);
    return {
      number: chunk.first + index,
      time: chunk.times[index]!,
      pe: chunk.pes[index]!,
      took: chunk.tooks[index]!,
      kind: KINDS[chunk.kinds[index]!]!,
      text: chunk.lines[index]!,
    };
  }

  /** Append the numbers of matching events from a number on. */
  search(from: number, kinds: Set<Kind>, words: string[], found: number[]): void {
    const isWanted = KINDS.map((kind) => kinds.has(kind));
    for (let index = this.#find(from); index < this.#chunks.length; index++) {
      const chunk = this.#chunks[index]!;
      for (let n = Math.max(0, from - chunk.first); n < chunk.lines.length; n++) {
        if (!isWanted[chunk.kinds[n]!]) continue;
        if (words.every((word) => chunk.lines[n]!.includes(word))) found.push(chunk.first + n);
      }
    }
  }

  /** Return the last event before a number whose text contains a word. */
  last(before: number, word: string, max = 200_000): Entry | null {
    for (let index = Math.min(this.#find(before), this.#chunks.length - 1); index >= 0; index--) {
      const chunk = this.#chunks[index]!;
      for (let n = Math.min(before - chunk.first, chunk.lines.length) - 1; n >= 0; n--) {
        if (--max < 0) return null;
        if (chunk.lines[n]!.includes(word)) return this.entry(chunk.first + n);
      }
    }
    return null;
  }
}
