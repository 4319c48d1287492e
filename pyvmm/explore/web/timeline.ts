// The worlds over time: a lane for each PE and world; the wheel or + and - zoom, arrow keys move.

import { h } from "./dom";
import type { Log } from "./log";
import { select, selection } from "./selection";

const WORLDS = ["normal", "rmm", "guest"] as const;
const NAMES = ["normal", "RMM", "realm"];
const LANE = 13; // px
const LABEL = 92; // px
const FIELDS = 4; // of a span: start and end in µs, PE, number of the event at its end
const SMALLEST = 20; // µs that a picture shows at least
const COLOURS = ["--normal", "--rmm", "--guest"];

/** Time that a PE spent in a world, from one switch to the next, as the events tell. */
class Spans {
  #values = new Float64Array(FIELDS << 12);
  count = 0;

  add(start: number, end: number, pe: number, number: number): void {
    const at = this.count * FIELDS;
    if (at === this.#values.length) {
      const larger = new Float64Array(2 * at);
      larger.set(this.#values);
      this.#values = larger;
    }
    this.#values.set([start, end, pe, number], at);
    this.count++;
  }

  get(index: number): [start: number, end: number, pe: number, number: number] {
    const at = index * FIELDS;
    const values = this.#values;
    return [values[at]!, values[at + 1]!, values[at + 2]!, values[at + 3]!];
  }

  /** Return the index of the first span that ends at a time or later. */
  from(time: number): number {
    let low = 0;
    let high = this.count;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.#values[middle * FIELDS + 1]! < time) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}

export class Timeline {
  readonly element: HTMLElement;
  #canvas: HTMLCanvasElement;
  #hint = h("output", { class: "hint", id: "timeline-hint" });
  #log: Log | null = null;
  #spans = WORLDS.map(() => new Spans());
  #read = 0; // number after the last event that is in the spans
  #last: number[] = []; // by PE: the end of its last span in the realm world
  #pes = 1;
  #start = 0; // µs; what is shown
  #length = 0; // µs; 0: everything
  #drawn = "";

  constructor() {
    this.#canvas = h("canvas", {
      tabindex: "0", role: "application", "aria-describedby": "timeline-hint",
      "aria-label": "timeline: a lane per PE and world; + and - zoom, arrow keys move, Enter selects",
    }, [], {
      mousemove: (event) => this.#hover(event),
      click: (event) => this.#pick(this.#time(event.offsetX)),
      wheel: (event) => {
        event.preventDefault();
        this.#zoom(event.deltaY < 0 ? 0.5 : 2, this.#time(event.offsetX));
      },
      keydown: (event) => this.#key(event),
    });
    this.element = h("div", { class: "timeline" }, [
      this.#canvas,
      h("p", { class: "hint" }, ["Time that each PE spent in each world. Wheel: zoom. Click: go there. ", this.#hint]),
    ]);
  }

  set log(log: Log | null) {
    this.#log = log;
    this.#spans = WORLDS.map(() => new Spans());
    this.#read = 0;
    this.#last = [];
    this.#pes = 1;
    this.#length = 0;
    this.#drawn = "";
  }

  // --- what is known ------------------------------------------------------------------------------

  #collect(log: Log): void {
    for (let number = Math.max(this.#read, log.first); number < log.received; number++) {
      const entry = log.entry(number);
      if (!entry || entry.number !== number || entry.pe < 0) continue;
      const world = entry.kind === "RMI" ? 1 : entry.kind === "REC_EXIT" ? 2 : -1;
      if (world < 0 || !entry.took) continue;
      // The RMM's part of an entry into a realm begins when the realm is left.
      const start = Math.max(entry.time - entry.took, this.#last[entry.pe] ?? 0);
      this.#close(start, entry.pe, number);
      this.#spans[world]!.add(start, entry.time, entry.pe, number);
      this.#last[entry.pe] = entry.time;
      this.#pes = Math.max(this.#pes, entry.pe + 1);
    }
    this.#read = log.received;
  }

  /** The PE was in the normal world up to now. */
  #close(start: number, pe: number, number: number): void {
    const last = this.#last[pe] ?? start;
    if (last < start) this.#spans[0]!.add(last, start, pe, number);
  }

  // --- what is shown ------------------------------------------------------------------------------

  get #end(): number {
    return this.#log?.entry(this.#log.received - 1)?.time ?? 0;
  }

  #range(): [number, number] {
    const first = this.#log?.start ?? 0;
    const all = Math.max(this.#end - first, SMALLEST);
    if (!this.#length || this.#length >= all) return [first, all];
    return [Math.min(Math.max(this.#start, first), first + all - this.#length), this.#length];
  }

  #time(x: number): number {
    const [start, length] = this.#range();
    return start + (Math.max(0, x - LABEL) / Math.max(1, this.#canvas.clientWidth - LABEL)) * length;
  }

  #zoom(factor: number, around: number): void {
    const [start, length] = this.#range();
    this.#length = Math.max(length * factor, SMALLEST);
    this.#start = around - ((around - start) / length) * this.#length;
    this.#drawn = "";
  }

  #key(event: KeyboardEvent): void {
    const [start, length] = this.#range();
    const here = this.#now();
    const step = { ArrowLeft: -length / 8, ArrowRight: length / 8 }[event.key];
    if (step) {
      this.#start = start + step;
      this.#length = length;
    } else if (event.key === "+" || event.key === "=") this.#zoom(0.5, here);
    else if (event.key === "-") this.#zoom(2, here);
    else if (event.key === "Enter") this.#pick(start + length / 2);
    else return;
    event.preventDefault();
  }

  /** The selected time; the middle of the picture if it is not in it. */
  #now(): number {
    const [start, length] = this.#range();
    const log = this.#log;
    const time = log?.entry(Math.max(log.position - 1, log.first))?.time ?? 0;
    return time >= start && time <= start + length ? time : start + length / 2;
  }

  #found(time: number): [world: number, start: number, end: number, pe: number, number: number] | null {
    for (const world of [2, 1, 0]) {
      const spans = this.#spans[world]!;
      const index = spans.from(time);
      if (index >= spans.count) continue;
      const [start, end, pe, number] = spans.get(index);
      if (start <= time && time <= end) return [world, start, end, pe, number];
    }
    return null;
  }

  #hover(event: MouseEvent): void {
    const found = this.#found(this.#time(event.offsetX));
    const text = found && this.#log?.entry(found[4])?.text;
    this.#hint.textContent = !found ? "" :
      `PE ${found[3]} ${NAMES[found[0]]} for ${((found[2] - found[1]) / 1000).toFixed(3)} ms, up to ${text}`;
  }

  #pick(time: number): void {
    const found = this.#found(time);
    if (found) select({ at: found[4] + 1 });
  }

  draw(isLive: boolean): void {
    const log = this.#log;
    if (!log || !this.element.isConnected) return;
    if (this.#read < log.received) this.#collect(log);
    const width = this.#canvas.clientWidth;
    const height = this.#pes * WORLDS.length * LANE;
    const range = this.#range();
    const theme = document.documentElement.className;
    const state = [log.received, log.position, width, height, ...range, isLive, theme].join(" ");
    if (state === this.#drawn || !width) return;
    this.#drawn = state;
    this.#canvas.width = width;
    this.#canvas.height = height;
    this.#paint(this.#canvas.getContext("2d")!, range, width, height);
  }

  #paint(context: CanvasRenderingContext2D, [start, length]: [number, number], width: number, height: number): void {
    const style = getComputedStyle(document.documentElement);
    const scale = (width - LABEL) / length;
    context.font = "11px system-ui";
    WORLDS.forEach((_, world) => {
      context.fillStyle = style.getPropertyValue("--ink");
      for (let pe = 0; pe < this.#pes; pe++) {
        context.fillText(`PE ${pe} ${NAMES[world]}`, 4, (pe * WORLDS.length + world + 1) * LANE - 3);
      }
      context.fillStyle = style.getPropertyValue(COLOURS[world]!);
      this.#lane(context, this.#spans[world]!, world, start, length, scale);
    });
    if (selection().at === null) return;
    context.fillStyle = style.getPropertyValue("--ink");
    context.fillRect(LABEL + (this.#now() - start) * scale, 0, 1, height);
  }

  /** Draw the spans of a world; those that would be in the same dots only once. */
  #lane(
    context: CanvasRenderingContext2D, spans: Spans, world: number, start: number, length: number, scale: number,
  ): void {
    const drawn: number[] = [];
    for (let index = spans.from(start); index < spans.count; index++) {
      const [from, to, pe] = spans.get(index);
      if (from > start + length) continue; // another PE's may have begun before
      const x = LABEL + Math.max(0, from - start) * scale;
      const end = LABEL + Math.min(length, to - start) * scale;
      if (end <= (drawn[pe] ?? 0)) continue;
      drawn[pe] = Math.ceil(end);
      context.fillRect(x, (pe * WORLDS.length + world) * LANE + 1, Math.max(1, end - x), LANE - 2);
    }
  }
}
