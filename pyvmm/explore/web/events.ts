// The list of events: only the visible rows exist as elements.

import { button, fill, h } from "./dom";
import { linked } from "./links";
import { KINDS, type Kind, type Log } from "./log";
import { select, selection } from "./selection";

const ROW = 20; // px
const MAX_HEIGHT = 10_000_000; // px that a browser can scroll

const NO_KIND = "none";

function kept(): Kind[] {
  const { kinds } = selection();
  if (!kinds) return KINDS.filter((kind) => kind !== "GRANULE" && kind !== "RTT");
  return KINDS.filter((kind) => kinds.split(",").includes(kind));
}

export class EventList {
  readonly element: HTMLElement;
  #scroller: HTMLElement;
  #spacer = h("div", { class: "spacer" });
  #rows = h("div", { class: "rows", role: "list" });
  #count = h("output", { class: "hint" });
  #filter: HTMLInputElement;
  #kinds = new Set<Kind>(kept());
  #found: number[] = [];
  #searched = 0;
  #log: Log | null = null;
  #drawn = "";

  constructor() {
    this.#filter = h("input", {
      type: "search", placeholder: "filter, such as rd=0x60008000", "aria-label": "filter events",
      value: selection().words,
    }, [], { input: () => this.#search() });
    const kinds = KINDS.map((kind) => {
      const box = h("input", { type: "checkbox" }, [], {
        change: () => {
          if (box.checked) this.#kinds.add(kind);
          else this.#kinds.delete(kind);
          this.#search();
        },
      });
      box.checked = this.#kinds.has(kind);
      return h("label", {}, [box, kind]);
    });
    const only = button("selection", "show only events with the selected address", () => {
      this.#filter.value = selection().pa;
      this.#search();
    });
    this.#scroller = h("div", { class: "scroller", tabindex: "0", role: "group", "aria-label": "events" }, [
      this.#spacer,
    ], { keydown: (event) => this.#key(event) });
    this.#spacer.append(this.#rows);
    this.element = h("div", { class: "events" }, [
      h("div", { class: "filters" }, [this.#filter, only, ...kinds, this.#count]),
      this.#scroller,
    ]);
  }

  set log(log: Log | null) {
    this.#log = log;
    this.#reset();
  }

  /** Search anew; the address of the page keeps the filters. */
  #search(): void {
    select({ words: this.#filter.value, kinds: [...this.#kinds].join() || NO_KIND });
    this.#reset();
  }

  #reset(): void {
    this.#found = [];
    this.#searched = 0;
    this.#drawn = "";
  }

  #key(event: KeyboardEvent): void {
    const step = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    if (!step || !this.#log) return;
    event.preventDefault();
    const index = this.#index(this.#log.position - 1) + step;
    const number = this.#found[Math.min(Math.max(index, 0), this.#found.length - 1)];
    if (number !== undefined) select({ at: number + 1 });
  }

  /** Return the index of the last event that is found, up to a number. */
  #index(number: number): number {
    let low = 0;
    let high = this.#found.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.#found[middle]! <= number) low = middle + 1;
      else high = middle;
    }
    return low - 1;
  }

  draw(isLive: boolean): void {
    const log = this.#log;
    if (!log || !this.element.isConnected || !this.#scroller.clientHeight) return;
    if (this.#searched < log.received) {
      const words = this.#filter.value.trim().split(/\s+/).filter(Boolean);
      log.search(Math.max(this.#searched, log.first), this.#kinds, words, this.#found);
      this.#searched = log.received;
    }
    const rows = Math.ceil(this.#scroller.clientHeight / ROW);
    const height = Math.min(this.#found.length * ROW, MAX_HEIGHT);
    const current = this.#index(log.position - 1);
    const place = log.received < log.position ? "?" : String(log.position); // its event may be missing
    const state = (): string => `${this.#found.length} ${place} ${this.#scroller.scrollTop} ${rows} ${isLive}`;
    if (state() === this.#drawn) return;
    this.#spacer.style.height = `${height}px`;
    let first = Math.round((this.#scroller.scrollTop / (height || 1)) * this.#found.length);
    if (isLive || this.#drawn.split(" ")[1] !== place) {
      first = Math.min(Math.max(current - (isLive ? rows - 2 : rows >> 1), 0), this.#found.length);
      this.#scroller.scrollTop = (first / (this.#found.length || 1)) * height;
    }
    this.#drawn = state();
    this.#count.textContent = `${this.#found.length.toLocaleString("en")} events`;
    fill(this.#rows, ...this.#found.slice(first, first + rows).map((n) => this.#row(log, n)));
  }

  #row(log: Log, number: number): HTMLElement | null {
    const entry = log.entry(number);
    if (!entry) return null;
    const isCurrent = number === log.position - 1;
    const time = ((entry.time - log.start) / 1000).toFixed(3);
    return h("div", {
      class: `row ${isCurrent ? "current" : ""}`, role: "listitem", "data-kind": entry.kind,
    }, [
      h("button", { type: "button", class: "time", title: "go to this time" }, [`${time} ms`], {
        click: () => select({ at: number + 1 }),
      }),
      h("span", { class: "pe-number" }, [entry.pe < 0 ? "" : `PE${entry.pe}`]),
      h("span", { class: "text" }, linked(entry.text)),
    ]);
  }
}
