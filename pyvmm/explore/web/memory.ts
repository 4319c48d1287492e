// The map of DRAM: one cell per granule, drawn from typed arrays; only what is visible is drawn.

import { paint, type Paint } from "./colours";
import { button, fill, h, hex } from "./dom";
import type { Log } from "./log";

const COUNT_PACE = 250; // ms between two counts
const ZOOMS = [1, 2, 4, 8];
const KEYS: Record<string, (columns: number) => number> = {
  ArrowLeft: () => -1,
  ArrowRight: () => 1,
  ArrowUp: (columns) => -columns,
  ArrowDown: (columns) => columns,
  PageUp: (columns) => -16 * columns,
  PageDown: (columns) => 16 * columns,
};

export class MemoryMap {
  readonly element: HTMLElement;
  readonly canvas: HTMLCanvasElement;
  #spacer = h("div", { class: "spacer" });
  #scroller: HTMLElement;
  #hint = h("output", { class: "hint", id: "map-hint" });
  #legend = h("div", { class: "legend" });
  #zoom = 1;
  #log: Log | null = null;
  #selected = -1;
  #cursor = 0;
  #paints: Paint[] = [];
  #image: ImageData | null = null;
  #counts = new Uint32Array(0);
  #counted = 0;
  #countedVersion: string | undefined = "";
  #drawn = "";

  constructor(private choose: (pa: string) => void) {
    this.canvas = h("canvas", {
      tabindex: "0", role: "application", "aria-describedby": "map-hint",
      "aria-label": "memory: one cell per granule; arrow keys move, Enter selects, + and - zoom",
    }, [], {
      mousemove: (event) => this.#hover(this.#at(event)),
      click: (event) => this.#pick(this.#at(event)),
      keydown: (event) => this.#key(event),
    });
    this.#scroller = h("div", { class: "scroller" }, [this.#spacer]);
    this.#spacer.append(this.canvas);
    const zoom = h("span", { class: "buttons" }, [
      button("−", "smaller cells", () => this.#setZoom(-1)),
      button("+", "larger cells", () => this.#setZoom(1)),
    ]);
    this.element = h("section", { class: "memory", "aria-label": "memory" }, [
      h("h2", {}, ["Memory: a cell per granule of 4 KiB ", zoom, this.#hint]),
      this.#scroller,
      this.#legend,
    ]);
  }

  set log(log: Log | null) {
    this.#log = log;
    this.#paints = [];
    this.#drawn = this.#countedVersion = "";
  }

  /** Show a granule. */
  select(pa: string): void {
    this.#selected = pa && this.#log ? (Number(pa) - this.#log.base) / 4096 : -1;
    if (this.#selected >= 0) {
      this.#cursor = this.#selected;
      this.#reveal(this.#selected);
    }
  }

  get #columns(): number {
    const width = Math.floor(this.#scroller.clientWidth / this.#zoom);
    return Math.max(64, width - (width % 64));
  }

  #reveal(granule: number): void {
    const top = Math.floor(granule / this.#columns) * this.#zoom;
    const { scrollTop, clientHeight } = this.#scroller;
    if (top < scrollTop || top + this.#zoom > scrollTop + clientHeight) {
      this.#scroller.scrollTop = top - clientHeight / 2;
    }
  }

  #setZoom(change: number): void {
    const index = Math.min(Math.max(ZOOMS.indexOf(this.#zoom) + change, 0), ZOOMS.length - 1);
    this.#zoom = ZOOMS[index]!;
    this.#layOut();
    this.#reveal(this.#cursor);
  }

  #at(event: MouseEvent): number {
    const box = this.canvas.getBoundingClientRect();
    const column = Math.floor((event.clientX - box.left) / this.#zoom);
    const row = Math.floor((event.clientY - box.top + this.#scroller.scrollTop) / this.#zoom);
    return column < this.#columns ? row * this.#columns + column : -1;
  }

  #hover(granule: number): void {
    const log = this.#log;
    const code = log?.codes?.[granule];
    this.#hint.textContent =
      log === null || code === undefined ? ""
      : `${hex(log.base + granule * 4096)} ${log.gpi(code)} ${log.state(code)}`;
  }

  #pick(granule: number): void {
    if (this.#log?.codes?.[granule] === undefined) return;
    this.#cursor = granule;
    this.choose(hex(this.#log.base + granule * 4096));
  }

  #key(event: KeyboardEvent): void {
    const move = KEYS[event.key];
    if (move && this.#log) {
      const last = this.#log.granules - 1;
      this.#cursor = Math.min(Math.max(this.#cursor + move(this.#columns), 0), last);
      this.#hover(this.#cursor);
      this.#reveal(this.#cursor);
    } else if (event.key === "Enter") this.#pick(this.#cursor);
    else if (event.key === "+" || event.key === "=") this.#setZoom(1);
    else if (event.key === "-") this.#setZoom(-1);
    else return;
    event.preventDefault();
  }

  #layOut(): void {
    const rows = Math.ceil((this.#log?.granules ?? 0) / this.#columns);
    const height = `${rows * this.#zoom}px`;
    if (this.#spacer.style.height !== height) this.#spacer.style.height = height;
    const { clientWidth: width, clientHeight: visible } = this.#scroller;
    if (this.canvas.width !== width || this.canvas.height !== visible) {
      this.canvas.width = width;
      this.canvas.height = visible;
      this.#image = null;
    }
  }

  draw(now: number): void {
    const log = this.#log;
    const context = this.canvas.getContext("2d");
    this.#layOut();
    const { width, height } = this.canvas;
    if (!context || !width || !height) return;
    const hasFocus = document.activeElement === this.canvas;
    const state = [
      log?.version, this.#scroller.scrollTop, this.#zoom, this.#selected, this.#cursor, hasFocus, width, height,
    ].join(" ");
    const isCounted = log?.version === this.#countedVersion || now - this.#counted < COUNT_PACE;
    if (state === this.#drawn && isCounted) return;
    this.#drawn = state;
    this.#image ??= context.createImageData(width, height);
    const dots = new Uint32Array(this.#image.data.buffer);
    dots.fill(0);
    if (log?.codes) {
      this.#paints = this.#paints.length ? this.#paints : palette(log);
      this.#paintCells(log.codes, dots, width, height);
      if (!isCounted) this.#count(log, log.codes, now);
    }
    context.putImageData(this.#image, 0, 0);
    this.#mark(context, this.#selected, "#000", "#fff");
    if (hasFocus) this.#mark(context, this.#cursor, "#fff", "#000");
  }

  #paintCells(codes: Uint8Array, dots: Uint32Array, width: number, height: number): void {
    const columns = this.#columns;
    const zoom = this.#zoom;
    const top = this.#scroller.scrollTop;
    const hasPattern = zoom >= 4;
    const scale = zoom / 4;
    for (let y = 0; y < height; y++) {
      const row = Math.floor((y + top) / zoom);
      const first = row * columns;
      if (first >= codes.length) return;
      const line = y * width;
      const bits = Math.floor(((y + Math.floor(top)) % zoom) / scale) * 4;
      const last = Math.min(columns, codes.length - first, Math.ceil(width / zoom));
      for (let column = 0; column < last; column++) {
        const { colour, ink, pattern } = this.#paints[codes[first + column]!]!;
        const x = line + column * zoom;
        if (zoom === 1) dots[x] = colour;
        else if (!hasPattern || !pattern) dots.fill(colour, x, x + zoom);
        else {
          for (let n = 0; n < zoom; n++) {
            dots[x + n] = (pattern >> (bits + Math.floor(n / scale))) & 1 ? ink : colour;
          }
        }
      }
    }
  }

  #mark(context: CanvasRenderingContext2D, granule: number, inner: string, outer: string): void {
    if (granule < 0) return;
    const x = (granule % this.#columns) * this.#zoom;
    const y = Math.floor(granule / this.#columns) * this.#zoom - this.#scroller.scrollTop;
    for (const [margin, colour] of [[3, outer], [2, inner]] as const) {
      context.strokeStyle = colour;
      context.lineWidth = 1;
      context.strokeRect(x - margin + 0.5, y - margin + 0.5, this.#zoom + 2 * margin - 1, this.#zoom + 2 * margin - 1);
    }
  }

  #count(log: Log, codes: Uint8Array, now: number): void {
    this.#counted = now;
    this.#countedVersion = log.version;
    const counts = new Uint32Array(256);
    for (const code of codes) counts[code]!++;
    if (counts.every((count, code) => count === this.#counts[code])) return;
    this.#counts = counts;
    const used = [...counts.keys()].filter((code) => counts[code]);
    fill(this.#legend, ...used.map((code) => {
      const name = [log.gpi(code), log.state(code)].filter(Boolean).join(" ");
      const key = h("span", { class: "key" });
      key.style.background = this.#paints[code]!.css;
      return h("span", { class: "legend-item", "data-code": name }, [
        key, `${name} `, h("b", {}, [counts[code]!.toLocaleString("en")]),
      ]);
    }));
  }
}

function palette(log: Log): Paint[] {
  const codes = Array.from({ length: 256 }, (_, code) => code);
  return codes.map((code) => paint(log.gpi(code), log.state(code)));
}
