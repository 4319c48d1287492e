// The page: its parts, and the loop that draws them.

import { button, fill, h } from "./dom";
import { EventList } from "./events";
import { Inspector } from "./inspector";
import { Link, type Source } from "./link";
import { Log } from "./log";
import { measurement } from "./measurement";
import { MemoryMap } from "./memory";
import type { Pane } from "./pane";
import { pes, realms } from "./pes";
import type { Events, FromServer, Status } from "./protocol";
import { Recorded } from "./recorded";
import { onSelect, select, selection, type Selection } from "./selection";
import { tables } from "./tables";
import { Timeline } from "./timeline";
import { token } from "./token";
import { walk } from "./walk";
import { Worlds } from "./worlds";

const PANES: Pane[] = [tables, walk, realms, pes, measurement, token];
const NOTICE = "seen from the machine: no host could see this";

class Page {
  #log: Log | null = null;
  #instances: Status[] = [];
  #status: Status | null = null;
  #problem = "";
  #lost = 0;
  #skipped = 0;
  #link = this.#connect();
  #map = new MemoryMap((pa) => select({ pa }));
  #worlds = new Worlds();
  #events = new EventList();
  #timeline = new Timeline();
  #inspector = new Inspector(this.#link);
  #chooser = h("select", { "aria-label": "instance" }, [], {
    change: () => select({ name: this.#chooser.value, at: null, pa: "" }),
  });
  #state = h("span", { class: "state", role: "status" });
  #live = button("Live", "follow the newest event (L)", () => this.#toggleLive());
  #slider = h("input", { type: "range", min: "0", max: "0", "aria-label": "time" }, [], {
    input: () => select({ at: Number(this.#slider.value) }),
  });
  #time = h("output", { class: "time" });
  #tabs = h("div", { class: "tabs", role: "tablist", "aria-label": "panes" });
  #pane = h("div", { class: "pane", role: "tabpanel", "aria-live": "off" });

  constructor() {
    document.body.append(this.#header(), this.#worlds.element, h("main", {}, [
      this.#map.element,
      h("section", { class: "lower" }, [this.#tabs, this.#pane]),
    ]), this.#inspector.element);
    this.#showTabs();
    onSelect((now, before) => this.#selected(now, before));
    document.addEventListener("keydown", (event) => this.#key(event));
    requestAnimationFrame((now) => this.#draw(now));
  }

  #connect(): Source {
    const record = document.getElementById("record");
    const take = (message: FromServer): void => this.#take(message);
    if (!record) return new Link(take, () => this.#opened(), () => this.#closed());
    return new Recorded(record.textContent, take);
  }

  #header(): HTMLElement {
    return h("header", {}, [
      h("h1", {}, ["pyvmm"]), this.#chooser, this.#state,
      h("span", { class: "notice" }, [NOTICE]),
      h("span", { class: "buttons" }, [
        button("◂", "one event back (,)", () => this.#step(-1)),
        this.#live,
        button("▸", "one event on (.)", () => this.#step(1)),
      ]),
      this.#slider, this.#time,
      button("Aa", "lecture: large type, few numbers", () => toggle("lecture")),
      button("◐", "dark or light", () => toggle("dark")),
    ]);
  }

  #showTabs(): void {
    const all = [{ id: "events", name: "Events" }, { id: "timeline", name: "Timeline" }, ...PANES];
    fill(this.#tabs, ...all.map(({ id, name }) => {
      const isShown = selection().tab === id;
      return h("button", {
        type: "button", role: "tab", "aria-selected": String(isShown), "data-tab": id,
      }, [name], { click: () => select({ tab: id }) });
    }));
    void this.#showPane();
  }

  async #showPane(): Promise<void> {
    const pane = PANES.find(({ id }) => id === selection().tab);
    if (!pane) {
      fill(this.#pane, selection().tab === "timeline" ? this.#timeline.element : this.#events.element);
      return;
    }
    const body = h("div", { class: `pane-body ${pane.id}` }, ["…"]);
    fill(this.#pane, body);
    try {
      await pane.show(body, this.#link, this.#log);
    } catch (error) {
      body.append(h("p", { class: "error" }, [(error as Error).message]));
    }
  }

  // --- messages ---------------------------------------------------------------------------------

  #opened(): void {
    if (selection().name) this.#link.watch(selection().name);
  }

  #closed(): void {
    this.#problem = "the server has ended: start pyvmm explore again, and open its address";
    this.#showState();
  }

  #take(message: FromServer): void {
    switch (message.type) {
      case "instances":
        this.#instances = message.instances;
        this.#showInstances();
        break;
      case "hello":
        this.#setLog(new Log(message));
        break;
      case "events":
        this.#add(message);
        break;
      case "map":
        this.#log?.addMap(message.map, message.next);
        this.#lost = message.lost;
        this.#skipped = message.skipped;
        this.#map.select(selection().pa);
        this.#showState();
        break;
      case "status":
        this.#status = message.status;
        this.#problem = message.problem;
        this.#showState();
        break;
    }
  }

  #add(message: Events): void {
    const log = this.#log;
    if (!log) return;
    const wasComplete = log.isComplete;
    log.add(message);
    if (log.isComplete && !wasComplete && selection().tab === measurement.id) void this.#showPane();
  }

  #setLog(log: Log): void {
    this.#log = log;
    this.#lost = this.#skipped = 0;
    this.#map.log = log;
    this.#events.log = log;
    this.#timeline.log = log;
    void this.#inspector.select(selection().pa);
    void this.#showPane();
  }

  #showInstances(): void {
    const names = this.#instances.map(({ name }) => name);
    fill(this.#chooser, ...this.#instances.map(({ name, kind }) =>
      h("option", { value: name }, [`${kind} ${name}`])));
    if (!selection().name && names[0] !== undefined) select({ name: names[0] });
    this.#chooser.value = selection().name;
    if (!names.length) fill(this.#state, "no instance: create one with --observe");
  }

  #showState(): void {
    const { state, num_cpus, reason } = this.#status ?? { state: "", num_cpus: 0, reason: "" };
    const parts = [
      this.#problem || [state, reason].filter(Boolean).join(": "),
      num_cpus ? `${num_cpus} PE${num_cpus > 1 ? "s" : ""}` : "",
      this.#lost ? `${this.#lost} events lost` : "",
      this.#skipped ? `${this.#skipped} events skipped: this browser was too slow` : "",
    ];
    fill(this.#state, parts.filter(Boolean).join(" · "));
    this.#state.classList.toggle("error", Boolean(this.#problem));
  }

  // --- what the user does -----------------------------------------------------------------------

  #selected(now: Selection, before: Selection): void {
    if (now.name !== before.name) {
      this.#log = null;
      this.#map.log = null;
      this.#chooser.value = now.name;
      this.#link.watch(now.name);
    }
    if (now.pa !== before.pa) {
      this.#map.select(now.pa);
      void this.#inspector.select(now.pa);
    }
    const isWalk = (["ipa", "kind", "pe"] as const).some((part) => now[part] !== before[part]);
    if (now.tab !== before.tab || (now.tab === "walk" && isWalk)) this.#showTabs();
    this.#live.setAttribute("aria-pressed", String(now.at === null));
  }

  #toggleLive(): void {
    select({ at: selection().at === null ? (this.#log?.position ?? null) : null });
  }

  #step(change: number): void {
    if (this.#log) select({ at: Math.min(Math.max(this.#log.position + change, this.#log.first), this.#log.end) });
  }

  #key(event: KeyboardEvent): void {
    const target = event.target as HTMLElement;
    if (target.matches("input[type=text], input[type=search], input[type=number], select")) return;
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    if (event.key === ",") this.#step(-1);
    else if (event.key === ".") this.#step(1);
    else if (event.key.toLowerCase() === "l") this.#toggleLive();
  }

  // --- the loop ---------------------------------------------------------------------------------

  #draw(now: number): void {
    requestAnimationFrame((next) => this.#draw(next));
    const log = this.#log;
    const isLive = selection().at === null;
    if (log) {
      log.seek(selection().at ?? log.end);
      this.#slider.min = String(log.first);
      this.#slider.max = String(log.end);
      this.#slider.value = String(log.position);
      const last = log.entry(Math.max(log.position - 1, log.first));
      this.#time.textContent = last ? `t = ${((last.time - log.start) / 1000).toFixed(3)} ms` : "";
    }
    this.#map.draw(now);
    this.#worlds.draw(log, this.#status?.num_cpus ?? 0, isLive);
    this.#events.draw(isLive);
    this.#timeline.draw(isLive);
    this.#inspector.draw(log, now);
  }
}

function toggle(name: string): void {
  document.documentElement.classList.toggle(name);
  localStorage.setItem(name, String(document.documentElement.classList.contains(name)));
}

for (const name of ["lecture", "dark"]) {
  if (localStorage.getItem(name) === "true") document.documentElement.classList.add(name);
}
new Page();
