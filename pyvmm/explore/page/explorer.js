"use strict";
(() => {
  // dom.ts
  function h(tag, attributes = {}, children = [], on = {}) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    for (const child of children) if (child != null) element.append(child);
    for (const [name, listener] of Object.entries(on)) {
      element.addEventListener(name, listener);
    }
    return element;
  }
  function button(text, title, act) {
    return h("button", { type: "button", title }, [text], { click: act });
  }
  function fill(element, ...children) {
    element.replaceChildren(...children.filter((child) => child != null));
  }
  function facts(rows2) {
    const list = h("dl", { class: "facts" });
    for (const [name, value] of rows2) list.append(h("dt", {}, [name]), h("dd", {}, [value]));
    return list;
  }
  function table(headings, rows2) {
    const head = h("tr", {}, headings.map((text) => h("th", { scope: "col" }, [text])));
    const body = rows2.map((row) => h("tr", {}, row.map((cell) => h("td", {}, [cell]))));
    return h("table", {}, [h("thead", {}, [head]), h("tbody", {}, body)]);
  }
  function hex(value) {
    return `0x${value.toString(16)}`;
  }

  // selection.ts
  var listeners = [];
  var current = parse();
  function parse() {
    const parameters = new URLSearchParams(location.hash.slice(1));
    const at = parameters.get("at");
    return {
      name: parameters.get("name") ?? "",
      pa: parameters.get("pa") ?? "",
      at: at !== null && /^\d+$/.test(at) ? Number(at) : null,
      tab: parameters.get("tab") ?? "events",
      ipa: parameters.get("ipa") ?? "",
      kind: parameters.get("kind") ?? "ipa",
      pe: parameters.get("pe") ?? "0",
      kinds: parameters.get("kinds") ?? "",
      words: parameters.get("words") ?? ""
    };
  }
  function selection() {
    return current;
  }
  function select(change) {
    const before = current;
    current = { ...current, ...change };
    const parameters = new URLSearchParams();
    for (const [name, value] of Object.entries(current)) {
      if (value !== "" && value !== null) parameters.set(name, String(value));
    }
    history.replaceState(null, "", `#${parameters}`);
    for (const listener of listeners) listener(current, before);
  }
  function onSelect(listener) {
    listeners.push(listener);
  }
  window.addEventListener("hashchange", () => select(parse()));

  // links.ts
  var GRANULES = /* @__PURE__ */ new Set(["pa", "rd", "rec", "rtt", "data", "src", "addr", "rec_ptr", "run_ptr", "run", "rtt_addr", "params_ptr", "params"]);
  var IPAS = /* @__PURE__ */ new Set(["ipa", "base", "top"]);
  function granuleLink(pa, text = pa) {
    return h("a", { href: "#", class: "pa", title: `granule ${pa}` }, [text], {
      click: (event) => {
        event.preventDefault();
        select({ pa: hexPage(pa) });
      }
    });
  }
  function addressLink(ipa, text = ipa) {
    return h("a", { href: "#", class: "ipa", title: `walk ${ipa}` }, [text], {
      click: (event) => {
        event.preventDefault();
        select({ ipa, kind: "ipa", tab: "walk" });
      }
    });
  }
  function virtualLink(va) {
    return h("a", { href: "#", class: "va", title: `walk virtual address ${va}` }, [va], {
      click: (event) => {
        event.preventDefault();
        select({ ipa: va, kind: "el1", tab: "walk" });
      }
    });
  }
  function hexPage(pa) {
    return `0x${(BigInt(pa) & ~0xfffn).toString(16)}`;
  }
  function linked(text) {
    const children = [];
    let end = 0;
    for (const match of text.matchAll(/([a-z_]+)=(0x[0-9a-f]+)/g)) {
      const [, name, value] = match;
      const make = GRANULES.has(name) ? granuleLink : IPAS.has(name) ? addressLink : null;
      if (!make) continue;
      children.push(text.slice(end, match.index + name.length + 1), make(value));
      end = match.index + match[0].length;
    }
    children.push(text.slice(end));
    return children;
  }

  // log.ts
  var KINDS = [
    "RMI",
    "RSI",
    "PSCI",
    "HES",
    "GPT",
    "GRANULE",
    "RTT",
    "RIM",
    "REC_EXIT",
    "MMIO"
  ];
  var PREFIXES = [
    ["RMI_", "RMI"],
    ["RSI_", "RSI"],
    ["PSCI_", "PSCI"],
    ["SMCCC_", "PSCI"],
    ["HES ", "HES"],
    ["GPT ", "GPT"],
    ["GRANULE ", "GRANULE"],
    ["RTT ", "RTT"],
    ["RIM ", "RIM"],
    ["REC_EXIT ", "REC_EXIT"],
    ["MMIO ", "MMIO"]
  ];
  var FIELDS = 5;
  var Log = class {
    gpis = [];
    states = [];
    base = 0;
    granules = 0;
    codes = null;
    position = 0;
    // number of the first event that is not in `codes`
    inside = [];
    gaps = 0;
    // events that are missing between those that are here
    pes = 0;
    received = 0;
    // number after the last event that has arrived
    history = 0;
    // number of the first event that was not there when the page was opened
    isComplete = false;
    // all before it have arrived
    #chunks = [];
    #keyframes = [];
    constructor(hello) {
      this.gpis = hello.gpis;
      this.states = hello.states;
      this.position = hello.first;
      this.history = hello.next;
      this.isComplete = hello.first === hello.next;
    }
    get first() {
      return this.#chunks[0]?.first ?? this.position;
    }
    /** The number after the last event that is known of: a map may have come before its events. */
    get end() {
      return Math.max(this.received, this.#keyframes.at(-1)?.at ?? 0);
    }
    get start() {
      return this.#chunks[0]?.times[0] ?? 0;
    }
    gpi(code) {
      return this.gpis[code % this.gpis.length] ?? "?";
    }
    state(code) {
      return this.states[Math.floor(code / this.gpis.length)] ?? "?";
    }
    /** Add events; those after a gap still have their numbers. */
    add(message) {
      const lines2 = message.lines.split("\n");
      lines2.pop();
      const previous = this.#chunks.at(-1);
      if (previous && message.first > previous.end) this.gaps += message.first - previous.end;
      const chunk = {
        first: message.first,
        end: message.first + lines2.length,
        times: message.times,
        pes: message.pes,
        tooks: message.tooks,
        lines: lines2,
        kinds: new Uint8Array(lines2.length),
        changes: new Int32Array(0)
      };
      chunk.changes = this.#read(chunk);
      this.inside = message.inside;
      for (const pe of message.pes) if (pe >= this.pes) this.pes = pe + 1;
      if (lines2.length) this.#chunks.push(chunk);
      this.received = Math.max(this.received, chunk.end);
      this.isComplete ||= this.received >= this.history;
    }
    #read(chunk) {
      const changes = [];
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
    get version() {
      return `${this.position} ${this.received} ${this.#keyframes.length} ${this.inside.join()}`;
    }
    /** Take a map from the server, which sends the events from `next` on now. */
    addMap(map, next) {
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
    seek(target) {
      if (this.codes === null || this.received < this.position) return;
      const goal = Math.min(Math.max(target, this.first), this.end);
      if (goal > this.position) this.#forward(goal);
      else if (goal < this.position) this.#back(goal);
    }
    #forward(goal) {
      for (const keyframe of this.#keyframes) {
        if (keyframe.at <= this.position || keyframe.at > goal) continue;
        this.#apply(this.position, keyframe.at, true);
        keyframe.before ??= this.codes.slice();
        this.codes = keyframe.after.slice();
        this.position = keyframe.at;
      }
      this.#apply(this.position, goal, true);
      this.position = goal;
    }
    #back(goal) {
      for (const keyframe of this.#keyframes.toReversed()) {
        if (keyframe.at > this.position || keyframe.at <= goal || !keyframe.before) continue;
        this.#apply(keyframe.at, this.position, false);
        this.codes = keyframe.before.slice();
        this.position = keyframe.at;
      }
      this.#apply(goal, this.position, false);
      this.position = goal;
    }
    #apply(from, to, isForward) {
      const chunks = this.#chunks.slice(this.#find(from), this.#find(to) + 1);
      for (const chunk of isForward ? chunks : chunks.reverse()) {
        const count = chunk.changes.length / FIELDS;
        for (let n = 0; n < count; n++) {
          this.#change(chunk, isForward ? n : count - 1 - n, from, to, isForward);
        }
      }
    }
    #change(chunk, index, from, to, isForward) {
      const at = index * FIELDS;
      const number = chunk.first + chunk.changes[at];
      if (number < from || number >= to) return;
      const granule = chunk.changes[at + 1] - this.base / 4096;
      const code = this.codes[granule];
      const value = chunk.changes[at + (isForward ? 4 : 3)];
      if (code === void 0 || value < 0) return;
      const size2 = this.gpis.length;
      const gpi = code % size2;
      this.codes[granule] = chunk.changes[at + 2] ? gpi + size2 * value : code - gpi + value;
    }
    /** Return the index of the chunk that contains or follows a number. */
    #find(number) {
      let low = 0;
      let high = this.#chunks.length;
      while (low < high) {
        const middle = low + high >> 1;
        if (this.#chunks[middle].end <= number) low = middle + 1;
        else high = middle;
      }
      return low;
    }
    /** Return an event; the next one if it is missing. */
    entry(number) {
      const chunk = this.#chunks[this.#find(number)];
      if (!chunk) return null;
      const index = Math.max(0, number - chunk.first);
      return {
        number: chunk.first + index,
        time: chunk.times[index],
        pe: chunk.pes[index],
        took: chunk.tooks[index],
        kind: KINDS[chunk.kinds[index]],
        text: chunk.lines[index]
      };
    }
    /** Append the numbers of matching events from a number on. */
    search(from, kinds, words, found) {
      const isWanted = KINDS.map((kind) => kinds.has(kind));
      for (let index = this.#find(from); index < this.#chunks.length; index++) {
        const chunk = this.#chunks[index];
        for (let n = Math.max(0, from - chunk.first); n < chunk.lines.length; n++) {
          if (!isWanted[chunk.kinds[n]]) continue;
          if (words.every((word) => chunk.lines[n].includes(word))) found.push(chunk.first + n);
        }
      }
    }
    /** Return the last event before a number whose text contains a word. */
    last(before, word, max = 2e5) {
      for (let index = Math.min(this.#find(before), this.#chunks.length - 1); index >= 0; index--) {
        const chunk = this.#chunks[index];
        for (let n = Math.min(before - chunk.first, chunk.lines.length) - 1; n >= 0; n--) {
          if (--max < 0) return null;
          if (chunk.lines[n].includes(word)) return this.entry(chunk.first + n);
        }
      }
      return null;
    }
  };

  // events.ts
  var ROW = 20;
  var MAX_HEIGHT = 1e7;
  var NO_KIND = "none";
  function kept() {
    const { kinds } = selection();
    if (!kinds) return KINDS.filter((kind) => kind !== "GRANULE" && kind !== "RTT");
    return KINDS.filter((kind) => kinds.split(",").includes(kind));
  }
  var EventList = class {
    element;
    #scroller;
    #spacer = h("div", { class: "spacer" });
    #rows = h("div", { class: "rows", role: "list" });
    #count = h("output", { class: "hint" });
    #filter;
    #kinds = new Set(kept());
    #found = [];
    #searched = 0;
    #log = null;
    #drawn = "";
    constructor() {
      this.#filter = h("input", {
        type: "search",
        placeholder: "filter, such as rd=0x60008000",
        "aria-label": "filter events",
        value: selection().words
      }, [], { input: () => this.#search() });
      const kinds = KINDS.map((kind) => {
        const box = h("input", { type: "checkbox" }, [], {
          change: () => {
            if (box.checked) this.#kinds.add(kind);
            else this.#kinds.delete(kind);
            this.#search();
          }
        });
        box.checked = this.#kinds.has(kind);
        return h("label", {}, [box, kind]);
      });
      const only = button("selection", "show only events with the selected address", () => {
        this.#filter.value = selection().pa;
        this.#search();
      });
      this.#scroller = h("div", { class: "scroller", tabindex: "0", role: "group", "aria-label": "events" }, [
        this.#spacer
      ], { keydown: (event) => this.#key(event) });
      this.#spacer.append(this.#rows);
      this.element = h("div", { class: "events" }, [
        h("div", { class: "filters" }, [this.#filter, only, ...kinds, this.#count]),
        this.#scroller
      ]);
    }
    set log(log) {
      this.#log = log;
      this.#reset();
    }
    /** Search anew; the address of the page keeps the filters. */
    #search() {
      select({ words: this.#filter.value, kinds: [...this.#kinds].join() || NO_KIND });
      this.#reset();
    }
    #reset() {
      this.#found = [];
      this.#searched = 0;
      this.#drawn = "";
    }
    #key(event) {
      const step = { ArrowUp: -1, ArrowDown: 1 }[event.key];
      if (!step || !this.#log) return;
      event.preventDefault();
      const index = this.#index(this.#log.position - 1) + step;
      const number = this.#found[Math.min(Math.max(index, 0), this.#found.length - 1)];
      if (number !== void 0) select({ at: number + 1 });
    }
    /** Return the index of the last event that is found, up to a number. */
    #index(number) {
      let low = 0;
      let high = this.#found.length;
      while (low < high) {
        const middle = low + high >> 1;
        if (this.#found[middle] <= number) low = middle + 1;
        else high = middle;
      }
      return low - 1;
    }
    draw(isLive) {
      const log = this.#log;
      if (!log || !this.element.isConnected || !this.#scroller.clientHeight) return;
      if (this.#searched < log.received) {
        const words = this.#filter.value.trim().split(/\s+/).filter(Boolean);
        log.search(Math.max(this.#searched, log.first), this.#kinds, words, this.#found);
        this.#searched = log.received;
      }
      const rows2 = Math.ceil(this.#scroller.clientHeight / ROW);
      const height = Math.min(this.#found.length * ROW, MAX_HEIGHT);
      const current2 = this.#index(log.position - 1);
      const place = log.received < log.position ? "?" : String(log.position);
      const state = () => `${this.#found.length} ${place} ${this.#scroller.scrollTop} ${rows2} ${isLive}`;
      if (state() === this.#drawn) return;
      this.#spacer.style.height = `${height}px`;
      let first = Math.round(this.#scroller.scrollTop / (height || 1) * this.#found.length);
      if (isLive || this.#drawn.split(" ")[1] !== place) {
        first = Math.min(Math.max(current2 - (isLive ? rows2 - 2 : rows2 >> 1), 0), this.#found.length);
        this.#scroller.scrollTop = first / (this.#found.length || 1) * height;
      }
      this.#drawn = state();
      this.#count.textContent = `${this.#found.length.toLocaleString("en")} events`;
      fill(this.#rows, ...this.#found.slice(first, first + rows2).map((n) => this.#row(log, n)));
    }
    #row(log, number) {
      const entry3 = log.entry(number);
      if (!entry3) return null;
      const isCurrent = number === log.position - 1;
      const time = ((entry3.time - log.start) / 1e3).toFixed(3);
      return h("div", {
        class: `row ${isCurrent ? "current" : ""}`,
        role: "listitem",
        "data-kind": entry3.kind
      }, [
        h("button", { type: "button", class: "time", title: "go to this time" }, [`${time} ms`], {
          click: () => select({ at: number + 1 })
        }),
        h("span", { class: "pe-number" }, [entry3.pe < 0 ? "" : `PE${entry3.pe}`]),
        h("span", { class: "text" }, linked(entry3.text))
      ]);
    }
  };

  // inspector.ts
  var PACE = 100;
  var WORLDS = [
    ["normal world, devices", ["NS"]],
    ["realm world", ["NS", "REALM"]],
    ["EL3", ["NS", "SECURE", "REALM", "ROOT"]]
  ];
  var RULE = "Each access carries a physical address space; the granule protection check compares it with the granule's entry in the GPT, whoever makes the access.";
  var Inspector = class {
    constructor(link) {
      this.link = link;
      this.element = h("aside", { class: "inspector", "aria-label": "inspector" }, [
        this.#title,
        this.#now,
        this.#machine
      ]);
      this.#hint();
    }
    link;
    element;
    #title = h("h2", {}, ["Inspector"]);
    #now = h("div", { class: "now" });
    #machine = h("div", { class: "machine", "aria-live": "polite" });
    #shown = "";
    #pa = "";
    #drawn = 0;
    #hint() {
      fill(this.#machine, h("p", { class: "hint" }, [
        "Select a granule in the memory map or any underlined address."
      ]));
    }
    async select(pa) {
      this.#pa = pa;
      this.#shown = "";
      fill(this.#title, pa ? `Granule ${pa}` : "Inspector");
      if (!pa) {
        fill(this.#now);
        this.#hint();
        return;
      }
      try {
        const picture = await this.link.ask("observe_granule", { pa });
        if (this.#pa === pa) fill(this.#machine, ...machine(picture));
      } catch (error) {
        if (this.#pa === pa) fill(this.#machine, h("p", { class: "hint" }, [error.message]));
      }
    }
    draw(log, now) {
      if (now - this.#drawn < PACE) return;
      this.#drawn = now;
      const code = log?.codes?.[(Number(this.#pa) - log.base) / 4096];
      const state = `${this.#pa} ${code} ${log?.position} ${log?.received}`;
      if (state === this.#shown || !log || code === void 0 || !this.#pa) return;
      this.#shown = state;
      const last = log.last(log.position, `=${this.#pa} `, 2e4);
      fill(
        this.#now,
        facts([
          ["PAS", log.gpi(code)],
          ["state", log.state(code) || "not managed by the RMM"],
          ["last event", last ? h("span", {}, linked(last.text)) : "none found"]
        ]),
        h("h3", {}, ["Who may access it?"]),
        h("ul", { class: "accesses" }, WORLDS.map(([world, spaces]) => access(world, spaces, log.gpi(code)))),
        h("p", { class: "rule" }, [RULE])
      );
    }
  };
  function access(world, spaces, gpi) {
    const isAllowed = gpi === "ANY" || spaces.includes(gpi);
    return h("li", { class: isAllowed ? "allowed" : "refused" }, [
      h("b", {}, [`${isAllowed ? "✓" : "✗"} ${world}: `]),
      isAllowed ? "may access it" : `granule protection fault: the GPT says ${gpi}, an access is ${spaces.join(" or ")}`
    ]);
  }
  function machine(picture) {
    const owner = picture.owner || "none in the realm world";
    return [
      h("h3", {}, ["In the machine now"]),
      facts([
        ["GPI", picture.gpi],
        ["GPT entry", h("span", {}, [picture.gpt_entry, " at ", granuleLink(picture.gpt_entry_pa)])],
        ["state", picture.state],
        ["owner", h("span", { class: "owner" }, ownerLinks(owner))],
        ["mapped at IPA", picture.ipas.length ? h("span", {}, picture.ipas.flatMap((ipa) => [addressLink(ipa), " "])) : "nowhere in a realm"]
      ])
    ];
  }
  function ownerLinks(text) {
    return text.split(/(realm 0x[0-9a-f]+|IPA 0x[0-9a-f]+)/).map((part) => {
      const [what, address] = part.split(" ");
      if (what === "realm" && address?.startsWith("0x")) return granuleLink(address, part);
      if (what === "IPA" && address?.startsWith("0x")) return addressLink(address, part);
      return part;
    });
  }

  // link.ts
  var Link = class {
    #socket;
    #next = 1;
    #pending = /* @__PURE__ */ new Map();
    constructor(take, opened, closed) {
      this.#socket = new WebSocket(new URL("live", location.href.replace(/^http/, "ws")));
      this.#socket.onopen = opened;
      this.#socket.onclose = () => {
        for (const each of this.#pending.values()) each.reject(new Error("the server has ended"));
        this.#pending.clear();
        closed();
      };
      this.#socket.onmessage = (event) => {
        const message = JSON.parse(event.data);
        if (message.type === "answer") this.#answer(message.id, message.result, message.error);
        else take(message);
      };
    }
    #answer(id, result, error) {
      const pending = this.#pending.get(id);
      this.#pending.delete(id);
      if (error) pending?.reject(new Error(error));
      else pending?.resolve(result);
    }
    watch(name) {
      this.#socket.send(JSON.stringify({ type: "watch", name }));
    }
    ask(method, params = {}) {
      const id = this.#next++;
      return new Promise((resolve, reject) => {
        this.#pending.set(id, { resolve, reject });
        this.#socket.send(JSON.stringify({ type: "ask", id, method, params }));
      });
    }
  };

  // measurement.ts
  var SHOWN = 400;
  var TYPES = { DATA: 0, RIPAS: 2 };
  var MEANINGS = {
    REALM_CREATE: "the realm's parameters: the chain begins with their hash",
    RIPAS: "these IPAs are RAM",
    DATA: "a page with this content is at this IPA",
    REC: "a vCPU begins with these registers",
    DEBUG: "the host may debug the realm"
  };
  var measurement = {
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
      fill(
        element,
        h("p", { class: "rim" }, [
          `${steps.length} steps; the initial measurement is `,
          h("b", { class: "digest" }, [last.rim])
        ]),
        h("p", { class: wrong ? "error" : "hint", role: "status" }, [
          wrong ? `${wrong} steps do not follow from the step before` : `${count} steps were computed again in this browser: each follows from the step before.`
        ]),
        table(["number", "step", "what is measured", "fields", "RIM after it", "again"], rows(steps, checked))
      );
    }
  };
  function read(log) {
    const numbers = [];
    log.search(log.first, /* @__PURE__ */ new Set(["RIM"]), [], numbers);
    const steps = [];
    for (const number of numbers) {
      const entry3 = log.entry(number);
      const [left, rim] = entry3.text.split(" -> ");
      const words = left.split(" ");
      const name = words[2];
      const fields = Object.fromEntries(words.slice(3).map((word) => word.split("=")));
      const before = name === "REALM_CREATE" ? "" : steps.at(-1)?.rim ?? "";
      steps.push({ entry: entry3, name, fields, before, rim });
    }
    return steps;
  }
  async function recompute(steps) {
    if (!globalThis.crypto?.subtle) return steps.map(() => null);
    return Promise.all(steps.map(async (step) => {
      const type = TYPES[step.name];
      if (type === void 0 || !step.before) return null;
      const algorithm = step.rim.length === 64 ? "SHA-256" : "SHA-512";
      const digest = await crypto.subtle.digest(algorithm, descriptor(type, step));
      return toHex(new Uint8Array(digest)) === step.rim;
    }));
  }
  function descriptor(type, step) {
    const bytes = new ArrayBuffer(256);
    const view = new DataView(bytes);
    view.setUint8(0, type);
    view.setBigUint64(8, 0x100n, true);
    new Uint8Array(bytes).set(fromHex(step.before), 16);
    const { ipa, flags, content, base, top } = step.fields;
    view.setBigUint64(80, BigInt(ipa ?? base ?? 0), true);
    view.setBigUint64(88, BigInt(flags ?? top ?? 0), true);
    if (content && content !== "-") new Uint8Array(bytes).set(fromHex(content), 96);
    return bytes;
  }
  function fromHex(text) {
    return Uint8Array.from(text.match(/../g) ?? [], (pair) => parseInt(pair, 16));
  }
  function toHex(bytes) {
    return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  }
  function rows(steps, checked) {
    const all = steps.map((step, index) => ({ step, index }));
    const hidden = all.length - SHOWN;
    const shown = hidden > 0 ? [...all.slice(0, SHOWN / 2), null, ...all.slice(-SHOWN / 2)] : all;
    return shown.map((row) => row ? rowOf(row.step, row.index, checked[row.index]) : ["", `… ${hidden} more`]);
  }
  function rowOf(step, index, isRight) {
    const fields = Object.entries(step.fields).map(([name, value]) => `${name}=${value.length > 40 ? `${value.slice(0, 24)}…` : value}`).join(" ");
    return [
      h("button", { type: "button", title: "go to this time" }, [String(index)], {
        click: () => select({ at: step.entry.number + 1 })
      }),
      h("b", {}, [step.name]),
      MEANINGS[step.name] ?? "",
      h("span", {}, linked(fields)),
      h("span", { class: "digest", title: step.rim }, [`${step.rim.slice(0, 24)}…`]),
      isRight === null ? "" : isRight ? "✓" : "✗"
    ];
  }

  // colours.ts
  var WORLDS2 = {
    NS: [176, 180, 184],
    REALM: [0, 114, 178],
    ROOT: [213, 94, 0],
    SECURE: [230, 159, 0],
    ANY: [240, 228, 66],
    NO_ACCESS: [90, 90, 90]
  };
  var USES = {
    UNDELEGATED: [0, 0],
    DELEGATED: [0.72, 0],
    RD: [0, 65535],
    REC: [0.1, 23130],
    REC_AUX: [0.35, 4680],
    DATA: [0.3, 0],
    RTT: [0, 3855],
    METADATA: [0.2, 34952]
  };
  var OF_USE = {
    RD: [230, 40, 120],
    REC: [204, 121, 167],
    REC_AUX: [204, 121, 167],
    RTT: [0, 158, 115],
    METADATA: [240, 228, 66]
  };
  function mix(colour, share, other) {
    return colour.map((part, n) => Math.round(part + (other[n] - part) * share));
  }
  function packed([red, green, blue]) {
    return (255 << 24 | blue << 16 | green << 8 | red) >>> 0;
  }
  function paint(gpi, state) {
    const [lighter, pattern] = USES[state] ?? [0, 0];
    const world = WORLDS2[gpi] ?? [128, 128, 128];
    const colour = gpi === "REALM" ? mix(OF_USE[state] ?? world, lighter, [255, 255, 255]) : state === "UNDELEGATED" ? mix(world, 0.55, [255, 255, 255]) : world;
    return {
      colour: packed(colour),
      ink: packed(mix(colour, 0.75, [0, 0, 0])),
      pattern,
      css: `rgb(${colour.join(" ")})`
    };
  }

  // memory.ts
  var COUNT_PACE = 250;
  var ZOOMS = [1, 2, 4, 8];
  var KEYS = {
    ArrowLeft: () => -1,
    ArrowRight: () => 1,
    ArrowUp: (columns) => -columns,
    ArrowDown: (columns) => columns,
    PageUp: (columns) => -16 * columns,
    PageDown: (columns) => 16 * columns
  };
  var MemoryMap = class {
    constructor(choose) {
      this.choose = choose;
      this.canvas = h("canvas", {
        tabindex: "0",
        role: "application",
        "aria-describedby": "map-hint",
        "aria-label": "memory: one cell per granule; arrow keys move, Enter selects, + and - zoom"
      }, [], {
        mousemove: (event) => this.#hover(this.#at(event)),
        click: (event) => this.#pick(this.#at(event)),
        keydown: (event) => this.#key(event)
      });
      this.#scroller = h("div", { class: "scroller" }, [this.#spacer]);
      this.#spacer.append(this.canvas);
      const zoom = h("span", { class: "buttons" }, [
        button("−", "smaller cells", () => this.#setZoom(-1)),
        button("+", "larger cells", () => this.#setZoom(1))
      ]);
      this.element = h("section", { class: "memory", "aria-label": "memory" }, [
        h("h2", {}, ["Memory: a cell per granule of 4 KiB ", zoom, this.#hint]),
        this.#scroller,
        this.#legend
      ]);
    }
    choose;
    element;
    canvas;
    #spacer = h("div", { class: "spacer" });
    #scroller;
    #hint = h("output", { class: "hint", id: "map-hint" });
    #legend = h("div", { class: "legend" });
    #zoom = 1;
    #log = null;
    #selected = -1;
    #cursor = 0;
    #paints = [];
    #image = null;
    #counts = new Uint32Array(0);
    #counted = 0;
    #countedVersion = "";
    #drawn = "";
    set log(log) {
      this.#log = log;
      this.#paints = [];
      this.#drawn = this.#countedVersion = "";
    }
    /** Show a granule. */
    select(pa) {
      this.#selected = pa && this.#log ? (Number(pa) - this.#log.base) / 4096 : -1;
      if (this.#selected >= 0) {
        this.#cursor = this.#selected;
        this.#reveal(this.#selected);
      }
    }
    get #columns() {
      const width = Math.floor(this.#scroller.clientWidth / this.#zoom);
      return Math.max(64, width - width % 64);
    }
    #reveal(granule) {
      const top = Math.floor(granule / this.#columns) * this.#zoom;
      const { scrollTop, clientHeight } = this.#scroller;
      if (top < scrollTop || top + this.#zoom > scrollTop + clientHeight) {
        this.#scroller.scrollTop = top - clientHeight / 2;
      }
    }
    #setZoom(change) {
      const index = Math.min(Math.max(ZOOMS.indexOf(this.#zoom) + change, 0), ZOOMS.length - 1);
      this.#zoom = ZOOMS[index];
      this.#layOut();
      this.#reveal(this.#cursor);
    }
    #at(event) {
      const box = this.canvas.getBoundingClientRect();
      const column = Math.floor((event.clientX - box.left) / this.#zoom);
      const row = Math.floor((event.clientY - box.top + this.#scroller.scrollTop) / this.#zoom);
      return column < this.#columns ? row * this.#columns + column : -1;
    }
    #hover(granule) {
      const log = this.#log;
      const code = log?.codes?.[granule];
      this.#hint.textContent = log === null || code === void 0 ? "" : `${hex(log.base + granule * 4096)} ${log.gpi(code)} ${log.state(code)}`;
    }
    #pick(granule) {
      if (this.#log?.codes?.[granule] === void 0) return;
      this.#cursor = granule;
      this.choose(hex(this.#log.base + granule * 4096));
    }
    #key(event) {
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
    #layOut() {
      const rows2 = Math.ceil((this.#log?.granules ?? 0) / this.#columns);
      const height = `${rows2 * this.#zoom}px`;
      if (this.#spacer.style.height !== height) this.#spacer.style.height = height;
      const { clientWidth: width, clientHeight: visible } = this.#scroller;
      if (this.canvas.width !== width || this.canvas.height !== visible) {
        this.canvas.width = width;
        this.canvas.height = visible;
        this.#image = null;
      }
    }
    draw(now) {
      const log = this.#log;
      const context = this.canvas.getContext("2d");
      this.#layOut();
      const { width, height } = this.canvas;
      if (!context || !width || !height) return;
      const hasFocus = document.activeElement === this.canvas;
      const state = [
        log?.version,
        this.#scroller.scrollTop,
        this.#zoom,
        this.#selected,
        this.#cursor,
        hasFocus,
        width,
        height
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
    #paintCells(codes, dots, width, height) {
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
        const bits = Math.floor((y + Math.floor(top)) % zoom / scale) * 4;
        const last = Math.min(columns, codes.length - first, Math.ceil(width / zoom));
        for (let column = 0; column < last; column++) {
          const { colour, ink, pattern } = this.#paints[codes[first + column]];
          const x = line + column * zoom;
          if (zoom === 1) dots[x] = colour;
          else if (!hasPattern || !pattern) dots.fill(colour, x, x + zoom);
          else {
            for (let n = 0; n < zoom; n++) {
              dots[x + n] = pattern >> bits + Math.floor(n / scale) & 1 ? ink : colour;
            }
          }
        }
      }
    }
    #mark(context, granule, inner, outer) {
      if (granule < 0) return;
      const x = granule % this.#columns * this.#zoom;
      const y = Math.floor(granule / this.#columns) * this.#zoom - this.#scroller.scrollTop;
      for (const [margin, colour] of [[3, outer], [2, inner]]) {
        context.strokeStyle = colour;
        context.lineWidth = 1;
        context.strokeRect(x - margin + 0.5, y - margin + 0.5, this.#zoom + 2 * margin - 1, this.#zoom + 2 * margin - 1);
      }
    }
    #count(log, codes, now) {
      this.#counted = now;
      this.#countedVersion = log.version;
      const counts = new Uint32Array(256);
      for (const code of codes) counts[code]++;
      if (counts.every((count, code) => count === this.#counts[code])) return;
      this.#counts = counts;
      const used = [...counts.keys()].filter((code) => counts[code]);
      fill(this.#legend, ...used.map((code) => {
        const name = [log.gpi(code), log.state(code)].filter(Boolean).join(" ");
        const key = h("span", { class: "key" });
        key.style.background = this.#paints[code].css;
        return h("span", { class: "legend-item", "data-code": name }, [
          key,
          `${name} `,
          h("b", {}, [counts[code].toLocaleString("en")])
        ]);
      }));
    }
  };
  function palette(log) {
    const codes = Array.from({ length: 256 }, (_, code) => code);
    return codes.map((code) => paint(log.gpi(code), log.state(code)));
  }

  // pes.ts
  var pes = {
    id: "pes",
    name: "PEs",
    async show(element, link) {
      const pictures = await link.ask("observe_pes");
      const code = h("div", { class: "code" });
      const result = h("span", { class: "hint", role: "status" });
      const tell = (error) => fill(result, error.message);
      const again = () => pes.show(element, link, null);
      const act = (method) => void link.ask(method).then(again, tell);
      const step = async (cpu) => {
        try {
          const isDone = await link.ask("debug_step", { cpu });
          await again();
          if (!isDone) fill(element.querySelector(".hint"), `PE ${cpu} waits for an interrupt: continue`);
          element.querySelector(`[data-step="${cpu}"]`)?.focus();
        } catch (error) {
          tell(error);
        }
      };
      fill(
        element,
        h("div", { class: "filters" }, [
          button("Pause the guest", "stop every vCPU", () => act("pause")),
          button("Continue", "let the vCPUs run", () => act("resume")),
          button("Read again", "read the registers again", () => void again()),
          result
        ]),
        code,
        ...pictures.map(registers)
      );
      try {
        fill(code, ...(await link.ask("debug")).map((vcpu, cpu) => listing(vcpu, cpu, step)));
      } catch (error) {
        fill(code, h("p", { class: "hint" }, [`No code: ${error.message}`]));
      }
    }
  };
  function registers(picture) {
    const values = (rows2) => h("div", { class: "registers" }, Object.entries(rows2).map(([name, value]) => h("span", { class: "register" }, [h("b", {}, [name]), ` ${value}`])));
    return h("section", { class: "pe-registers" }, [
      h("h3", {}, [`PE ${picture.index}: ${picture.world}, ${picture.pstate}`]),
      values(picture.registers),
      h("h4", {}, ["EL1"]),
      values(picture.system),
      h("h4", {}, ["EL2"]),
      values(picture.controls)
    ]);
  }
  function listing(vcpu, cpu, step) {
    const pc = vcpu.registers["pc"];
    const rows2 = vcpu.code.map((line) => [
      h("span", { class: line.address === pc ? "here" : "" }, [line.address]),
      line.word,
      line.text
    ]);
    const next = button("Step", `execute one instruction of PE ${cpu}, while the guest is paused`, () => void step(cpu));
    next.dataset.step = String(cpu);
    return h("section", { "data-code": String(cpu) }, [
      h("h3", {}, [`Code of PE ${cpu} `, next]),
      table(["address", "word", "instruction"], rows2)
    ]);
  }
  var realms = {
    id: "realms",
    name: "Realm",
    async show(element, link) {
      const found = await link.ask("observe_realms");
      const recs = await link.ask("observe_recs");
      fill(element, ...found.map((each) => record("Realm", each)), ...recs.map((each) => record("REC", each)));
    }
  };
  var ADDRESSES = /* @__PURE__ */ new Set(["rtt_base", "owner", "metadata", "aux"]);
  function record(kind, picture) {
    return h("section", { class: "record" }, [
      h("h3", {}, [`${kind} `, granuleLink(picture.address)]),
      facts(Object.entries(picture.fields).map(([name, value]) => [
        name,
        ADDRESSES.has(name) && value.startsWith("0x") ? h("span", {}, value.split(" ").flatMap((each) => [granuleLink(each), " "])) : value
      ]))
    ]);
  }

  // recorded.ts
  var Recorded = class {
    constructor(data, take) {
      this.take = take;
      void this.#read(data.trim());
    }
    take;
    #answers = {};
    async #read(data) {
      const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
      const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
      const text = await new Response(stream).text();
      for (const line of text.split("\n")) {
        const message = JSON.parse(line);
        if (message.type === "recorded") this.#answers = message.answers;
        else this.take(message);
      }
    }
    watch() {
    }
    ask(method) {
      const answer = this.#answers[method];
      if (answer === void 0) return Promise.reject(new Error("not in this record: only a running instance can tell"));
      return Promise.resolve(answer);
    }
  };

  // units.ts
  function size(bytes) {
    const units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let unit = 0;
    while (bytes >= 1024 && unit < units.length - 1) {
      bytes /= 1024;
      unit++;
    }
    return `${bytes} ${units[unit]}`;
  }

  // stage1.ts
  var HALVES = ["0x0", "0xffffffffffffffff"];
  async function stage1(element, link) {
    const number = h("input", { type: "number", min: "0", max: "511", value: selection().pe, "aria-label": "PE of stage 1" }, [], {
      change: () => {
        select({ pe: number.value || "0" });
        void stage1(element, link);
      }
    });
    const found = await Promise.all(HALVES.map((va) => root(va, link)));
    fill(element, h("section", { class: "tree stage1" }, [
      h("h3", {}, ["Tables of stage 1 of ", h("label", {}, ["PE ", number])]),
      ...found
    ]));
  }
  async function root(va, link) {
    try {
      const picture = await ask(link, va, null);
      return table2(picture.register, picture.ipa, async () => entries(picture, link), true);
    } catch (error) {
      return h("p", { class: "hint" }, [error.message]);
    }
  }
  function ask(link, va, level) {
    return link.ask("observe_stage1", { va, level, pe: Number(selection().pe) });
  }
  function table2(name, ipa, read2, isOpen) {
    const body = h("div", { class: "entries" });
    const details = h("details", { class: "table" }, [h("summary", {}, [name]), body]);
    const unfold = async () => {
      if (!details.open || body.childElementCount) return;
      try {
        fill(body, ...await read2());
      } catch (error) {
        fill(body, h("p", { class: "hint" }, [error.message]));
      }
    };
    details.addEventListener("toggle", () => void unfold());
    details.open = isOpen;
    void unfold();
    return h("div", { class: "node" }, [addressLink(ipa), details]);
  }
  function entries(picture, link) {
    const where = picture.pa ? h("div", { class: "hint" }, ["in granule ", granuleLink(picture.pa)]) : null;
    return [...where ? [where] : [], ...picture.runs.map((run) => entry(run, picture.level, link))];
  }
  function entry(run, level, link) {
    if (run.kind === "table") {
      const name = h("span", {}, [h("b", {}, [`level ${level + 1}`]), ` [${run.index}] ${run.va} and up`]);
      const read2 = async () => entries(await ask(link, run.va, level + 1), link);
      return table2(name, run.output, read2, false);
    }
    const last = run.count > 1 ? `–${run.index + run.count - 1}` : "";
    const fields = Object.entries(run.fields).map(([name, value]) => `${name}=${value}`).join(" ");
    return h("div", { class: `entry ${run.kind}` }, [
      h("span", { class: "index" }, [`[${run.index}${last}]`]),
      " ",
      virtualLink(run.va),
      ` ${size(run.size)} ${run.kind}`,
      run.output ? " → " : "",
      run.output ? addressLink(run.output) : null,
      h("span", { class: "descriptor" }, [` ${fields}`])
    ]);
  }

  // tables.ts
  var tables = {
    id: "tables",
    name: "Tables",
    async show(element, link) {
      const realm = h("div", { class: "side" });
      const guest = h("div", { class: "side" }, ["…"]);
      fill(element, h("div", { class: "sides" }, [realm, guest]));
      try {
        fill(realm, ...(await link.ask("observe_rtt")).map(tree));
      } catch (error) {
        fill(realm, h("p", { class: "hint" }, [error.message]));
      }
      await stage1(guest, link);
    }
  };
  function tree(picture) {
    const byAddress = new Map(picture.tables.map((each) => [each.pa, each]));
    const top = Math.min(...picture.tables.map((each) => each.level));
    const starts = picture.tables.filter((each) => each.level === top);
    return h("section", { class: "tree" }, [
      h("h3", {}, ["Realm translation tables of ", granuleLink(picture.rd, `realm ${picture.rd}`)]),
      ...starts.map((each) => table3(each, byAddress, true))
    ]);
  }
  function table3(picture, others, isOpen) {
    const body = h("div", { class: "entries" });
    const details = h("details", { class: "table", "data-pa": picture.pa }, [
      h("summary", {}, [
        h("b", {}, [`level ${picture.level}`]),
        ` IPA ${picture.ipa} and up, ${picture.live} live entries`
      ]),
      body
    ]);
    const unfold = () => {
      if (details.open && !body.childElementCount) {
        fill(body, ...picture.entries.map((run) => entry2(run, others)));
      }
    };
    details.addEventListener("toggle", unfold);
    details.open = isOpen;
    unfold();
    return h("div", { class: "node" }, [granuleLink(picture.pa), details]);
  }
  function entry2(run, others) {
    const child = run.state === "TABLE" ? others.get(run.pa) : void 0;
    if (child) return table3(child, others, false);
    const last = run.count > 1 ? `–${run.index + run.count - 1}` : "";
    return h("div", { class: `entry ${run.state}` }, [
      h("span", { class: "index" }, [`[${run.index}${last}]`]),
      " ",
      addressLink(run.ipa),
      ` ${size(run.size)} ${run.state}`,
      run.ripas ? `/${run.ripas}` : "",
      run.pa ? " → " : "",
      run.pa ? granuleLink(run.pa) : null,
      h("span", { class: "descriptor" }, [` ${run.descriptor}`])
    ]);
  }

  // timeline.ts
  var WORLDS3 = ["normal", "rmm", "guest"];
  var NAMES = ["normal", "RMM", "realm"];
  var LANE = 13;
  var LABEL = 92;
  var FIELDS2 = 4;
  var SMALLEST = 20;
  var COLOURS = ["--normal", "--rmm", "--guest"];
  var Spans = class {
    #values = new Float64Array(FIELDS2 << 12);
    count = 0;
    add(start, end, pe, number) {
      const at = this.count * FIELDS2;
      if (at === this.#values.length) {
        const larger = new Float64Array(2 * at);
        larger.set(this.#values);
        this.#values = larger;
      }
      this.#values.set([start, end, pe, number], at);
      this.count++;
    }
    get(index) {
      const at = index * FIELDS2;
      const values = this.#values;
      return [values[at], values[at + 1], values[at + 2], values[at + 3]];
    }
    /** Return the index of the first span that ends at a time or later. */
    from(time) {
      let low = 0;
      let high = this.count;
      while (low < high) {
        const middle = low + high >> 1;
        if (this.#values[middle * FIELDS2 + 1] < time) low = middle + 1;
        else high = middle;
      }
      return low;
    }
  };
  var Timeline = class {
    element;
    #canvas;
    #hint = h("output", { class: "hint", id: "timeline-hint" });
    #log = null;
    #spans = WORLDS3.map(() => new Spans());
    #read = 0;
    // number after the last event that is in the spans
    #last = [];
    // by PE: the end of its last span in the realm world
    #pes = 1;
    #start = 0;
    // µs; what is shown
    #length = 0;
    // µs; 0: everything
    #drawn = "";
    constructor() {
      this.#canvas = h("canvas", {
        tabindex: "0",
        role: "application",
        "aria-describedby": "timeline-hint",
        "aria-label": "timeline: a lane per PE and world; + and - zoom, arrow keys move, Enter selects"
      }, [], {
        mousemove: (event) => this.#hover(event),
        click: (event) => this.#pick(this.#time(event.offsetX)),
        wheel: (event) => {
          event.preventDefault();
          this.#zoom(event.deltaY < 0 ? 0.5 : 2, this.#time(event.offsetX));
        },
        keydown: (event) => this.#key(event)
      });
      this.element = h("div", { class: "timeline" }, [
        this.#canvas,
        h("p", { class: "hint" }, ["Time that each PE spent in each world. Wheel: zoom. Click: go there. ", this.#hint])
      ]);
    }
    set log(log) {
      this.#log = log;
      this.#spans = WORLDS3.map(() => new Spans());
      this.#read = 0;
      this.#last = [];
      this.#pes = 1;
      this.#length = 0;
      this.#drawn = "";
    }
    // --- what is known ------------------------------------------------------------------------------
    #collect(log) {
      for (let number = Math.max(this.#read, log.first); number < log.received; number++) {
        const entry3 = log.entry(number);
        if (!entry3 || entry3.number !== number || entry3.pe < 0) continue;
        const world = entry3.kind === "RMI" ? 1 : entry3.kind === "REC_EXIT" ? 2 : -1;
        if (world < 0 || !entry3.took) continue;
        const start = Math.max(entry3.time - entry3.took, this.#last[entry3.pe] ?? 0);
        this.#close(start, entry3.pe, number);
        this.#spans[world].add(start, entry3.time, entry3.pe, number);
        this.#last[entry3.pe] = entry3.time;
        this.#pes = Math.max(this.#pes, entry3.pe + 1);
      }
      this.#read = log.received;
    }
    /** The PE was in the normal world up to now. */
    #close(start, pe, number) {
      const last = this.#last[pe] ?? start;
      if (last < start) this.#spans[0].add(last, start, pe, number);
    }
    // --- what is shown ------------------------------------------------------------------------------
    get #end() {
      return this.#log?.entry(this.#log.received - 1)?.time ?? 0;
    }
    #range() {
      const first = this.#log?.start ?? 0;
      const all = Math.max(this.#end - first, SMALLEST);
      if (!this.#length || this.#length >= all) return [first, all];
      return [Math.min(Math.max(this.#start, first), first + all - this.#length), this.#length];
    }
    #time(x) {
      const [start, length] = this.#range();
      return start + Math.max(0, x - LABEL) / Math.max(1, this.#canvas.clientWidth - LABEL) * length;
    }
    #zoom(factor, around) {
      const [start, length] = this.#range();
      this.#length = Math.max(length * factor, SMALLEST);
      this.#start = around - (around - start) / length * this.#length;
      this.#drawn = "";
    }
    #key(event) {
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
    #now() {
      const [start, length] = this.#range();
      const log = this.#log;
      const time = log?.entry(Math.max(log.position - 1, log.first))?.time ?? 0;
      return time >= start && time <= start + length ? time : start + length / 2;
    }
    #found(time) {
      for (const world of [2, 1, 0]) {
        const spans = this.#spans[world];
        const index = spans.from(time);
        if (index >= spans.count) continue;
        const [start, end, pe, number] = spans.get(index);
        if (start <= time && time <= end) return [world, start, end, pe, number];
      }
      return null;
    }
    #hover(event) {
      const found = this.#found(this.#time(event.offsetX));
      const text = found && this.#log?.entry(found[4])?.text;
      this.#hint.textContent = !found ? "" : `PE ${found[3]} ${NAMES[found[0]]} for ${((found[2] - found[1]) / 1e3).toFixed(3)} ms, up to ${text}`;
    }
    #pick(time) {
      const found = this.#found(time);
      if (found) select({ at: found[4] + 1 });
    }
    draw(isLive) {
      const log = this.#log;
      if (!log || !this.element.isConnected) return;
      if (this.#read < log.received) this.#collect(log);
      const width = this.#canvas.clientWidth;
      const height = this.#pes * WORLDS3.length * LANE;
      const range = this.#range();
      const theme = document.documentElement.className;
      const state = [log.received, log.position, width, height, ...range, isLive, theme].join(" ");
      if (state === this.#drawn || !width) return;
      this.#drawn = state;
      this.#canvas.width = width;
      this.#canvas.height = height;
      this.#paint(this.#canvas.getContext("2d"), range, width, height);
    }
    #paint(context, [start, length], width, height) {
      const style = getComputedStyle(document.documentElement);
      const scale = (width - LABEL) / length;
      context.font = "11px system-ui";
      WORLDS3.forEach((_, world) => {
        context.fillStyle = style.getPropertyValue("--ink");
        for (let pe = 0; pe < this.#pes; pe++) {
          context.fillText(`PE ${pe} ${NAMES[world]}`, 4, (pe * WORLDS3.length + world + 1) * LANE - 3);
        }
        context.fillStyle = style.getPropertyValue(COLOURS[world]);
        this.#lane(context, this.#spans[world], world, start, length, scale);
      });
      if (selection().at === null) return;
      context.fillStyle = style.getPropertyValue("--ink");
      context.fillRect(LABEL + (this.#now() - start) * scale, 0, 1, height);
    }
    /** Draw the spans of a world; those that would be in the same dots only once. */
    #lane(context, spans, world, start, length, scale) {
      const drawn = [];
      for (let index = spans.from(start); index < spans.count; index++) {
        const [from, to, pe] = spans.get(index);
        if (from > start + length) continue;
        const x = LABEL + Math.max(0, from - start) * scale;
        const end = LABEL + Math.min(length, to - start) * scale;
        if (end <= (drawn[pe] ?? 0)) continue;
        drawn[pe] = Math.ceil(end);
        context.fillRect(x, (pe * WORLDS3.length + world) * LANE + 1, Math.max(1, end - x), LANE - 2);
      }
    }
  };

  // token.ts
  var token = {
    id: "token",
    name: "Token",
    async show(element, link) {
      const result = h("div", { class: "token", "aria-live": "polite" });
      const text = h("input", {
        type: "text",
        "aria-label": "token",
        placeholder: "or paste a token: base64 or hexadecimal",
        size: "40"
      });
      fill(
        element,
        h("form", { class: "walk-form" }, [
          button("Get a token", "ask the agent in the realm, with a new challenge", () => void show(result, link, "")),
          text,
          h("button", { type: "submit" }, ["Verify"])
        ], {
          submit: (event) => {
            event.preventDefault();
            void show(result, link, text.value.trim());
          }
        }),
        result
      );
    }
  };
  async function show(element, link, text) {
    fill(element, "…");
    try {
      const picture = await link.ask("token", text ? { text } : {});
      fill(element, ...parts(picture));
    } catch (error) {
      fill(element, h("p", { class: "error" }, [error.message]));
    }
  }
  function parts(picture) {
    const marks = { passed: "✓", failed: "✗", skipped: "–" };
    const checks = picture.checks.map(({ name, outcome, findings }) => [
      h("span", { class: outcome === "failed" ? "refused" : "allowed" }, [h("b", {}, [marks[outcome] ?? ""])]),
      name,
      outcome,
      findings.join("; ")
    ]);
    const claims = picture.claims.map(({ part, name, value, meaning }) => [
      part,
      h("b", {}, [name]),
      meaning,
      h("span", { class: "digest" }, [value])
    ]);
    return [
      h("p", { class: picture.is_verified ? "allowed" : "refused" }, [
        h("b", {}, [picture.is_verified ? "✓ verified" : "✗ not verified"]),
        picture.challenge ? ` for the challenge ${picture.challenge.slice(0, 16)}…` : ""
      ]),
      h("h3", {}, ["Checks"]),
      table(["passed", "check", "outcome", "findings"], checks),
      h("h3", {}, ["Claims"]),
      table(["part", "claim", "what it means", "value"], claims)
    ];
  }

  // walk.ts
  var walk = {
    id: "walk",
    name: "What would this access do?",
    async show(element, link) {
      const result = h("div", { class: "walk-result", "aria-live": "polite" });
      fill(element, form(), result);
      if (selection().ipa) await show2(result, link);
    }
  };
  function form() {
    const address = h("input", {
      type: "text",
      "aria-label": "address",
      placeholder: "address, such as 0x80000000",
      size: "24",
      value: selection().ipa,
      spellcheck: "false",
      class: "address"
    });
    const kinds = h("select", { "aria-label": "kind of address" }, [
      ["ipa", "IPA of the guest"],
      ["el1", "virtual address, EL1"],
      ["el0", "virtual address, EL0"],
      ["pa", "physical address"]
    ].map(([value, text]) => h("option", { value }, [text])));
    kinds.value = selection().kind;
    const number = h("input", { type: "number", min: "0", max: "511", value: selection().pe, "aria-label": "PE" });
    return h("form", { class: "walk-form" }, [
      address,
      kinds,
      h("label", {}, ["PE ", number]),
      h("button", { type: "submit" }, ["Walk"])
    ], {
      submit: (event) => {
        event.preventDefault();
        const kind = kinds.value;
        const pe = number.value || "0";
        const text = address.value.trim();
        const wanted = /^0x/i.test(text) ? text.toLowerCase() : `0x${text}`;
        if (kind === "pa") select({ pa: wanted });
        else select({ ipa: wanted, kind, pe, tab: "walk" });
      }
    });
  }
  async function show2(element, link) {
    const { ipa: address, kind, pe } = selection();
    const walked = await link.ask("observe_walk", {
      address,
      pe: Number(pe),
      is_ipa: kind === "ipa",
      el: kind === "ipa" ? null : Number(kind[2])
    });
    fill(element, ...lines(walked));
  }
  function lines(walked) {
    const steps = walked.steps.map((step) => [
      `stage ${step.stage} level ${step.level}`,
      `[${step.index}]`,
      granuleLink(step.address),
      step.pas,
      step.descriptor,
      h("b", {}, [step.kind]),
      step.output ? granuleLinkIf(step.stage === 2, step.output) : "",
      Object.entries(step.fields).map(([name, value]) => `${name}=${value}`).join(" ")
    ]);
    const accesses = walked.accesses.map(
      (each) => h("li", { class: each.is_allowed ? "allowed" : "refused" }, [
        h("b", {}, [`${each.is_allowed ? "✓" : "✗"} ${each.access}: `]),
        each.is_allowed ? "allowed" : `${each.fault}, taken to ${each.taken_to} with ESR ${each.esr}`
      ])
    );
    return [
      facts([
        ["IPA", walked.ipa ?? "none: stage 1 has no translation"],
        ["PA", walked.pa ? h("span", { class: "walk-pa" }, [granuleLink(walked.pa), ` ${walked.pas ?? ""}`]) : "none"],
        ["GPI", walked.gpi ?? "none"]
      ]),
      accesses.length ? h("ul", { class: "accesses" }, accesses) : null,
      table(["table", "entry", "at", "PAS", "descriptor", "kind", "output", "fields"], steps)
    ];
  }
  function granuleLinkIf(is, address) {
    return is ? granuleLink(address) : address;
  }

  // worlds.ts
  var WORLDS4 = [
    ["normal", "Normal world", "pyvmm: the host"],
    ["root", "Root (EL3)", "Monitor, GPT"],
    ["rmm", "Realm world (R-EL2)", "RMM"],
    ["guest", "Realm (R-EL1, EL0)", "the guest"]
  ];
  var SCAN = 600;
  var Worlds = class {
    element;
    #body = h("div", { class: "pes" });
    #rows = [];
    #drawn = "";
    constructor() {
      const heads = WORLDS4.map(
        ([id, name, who]) => h("div", { class: `world ${id}` }, [h("b", {}, [name]), h("span", { class: "who" }, [who])])
      );
      this.element = h("section", { class: "worlds", "aria-label": "worlds" }, [
        h("div", { class: "world-heads" }, heads),
        this.#body
      ]);
    }
    draw(log, numPes, isLive) {
      const count = Math.max(log?.pes ?? 0, numPes, 1);
      while (this.#rows.length < count) this.#rows.push(this.#add(this.#rows.length));
      while (this.#rows.length > count) this.#rows.pop().element.remove();
      const state = `${log?.version} ${count} ${isLive}`;
      if (!log || state === this.#drawn) return;
      this.#drawn = state;
      this.#rows.forEach((row, pe) => this.#show(row, log, pe, isLive));
    }
    #add(pe) {
      const cells = WORLDS4.map(([id]) => h("div", { class: `cell ${id}` }));
      const element = h("div", { class: "pe", "data-pe": String(pe) }, cells);
      this.#body.append(element);
      return { element, cells, texts: ["", "", "", ""] };
    }
    #show(row, log, pe, isLive) {
      const recent = lastOf(log, pe);
      const world = isLive ? log.inside.includes(pe) ? "guest" : "normal" : worldAt(log, pe);
      row.element.dataset.world = world;
      const texts = [
        recent.mmio ?? "",
        recent.gpt ?? recent.hes ?? "",
        recent.rmi ?? "",
        recent.exit ?? recent.rsi ?? ""
      ];
      WORLDS4.forEach(([id], n) => {
        const key = `${id === world}${texts[n]}`;
        if (row.texts[n] === key) return;
        row.texts[n] = key;
        const token2 = id === world ? h("span", { class: "token" }, [`PE ${pe}`]) : null;
        fill(row.cells[n], token2, h("span", { class: "call" }, linked(texts[n])));
      });
    }
  };
  function lastOf(log, pe) {
    const found = {};
    const stop = Math.max(log.first, log.position - SCAN);
    for (let number = log.position - 1; number >= stop; number--) {
      const entry3 = log.entry(number);
      if (!entry3 || entry3.number !== number || entry3.pe !== pe) continue;
      const name = nameOf(entry3);
      if (name) found[name] ??= entry3.text;
      if (found.rmi && found.exit && found.gpt && found.mmio) break;
    }
    return found;
  }
  function nameOf(entry3) {
    switch (entry3.kind) {
      case "MMIO":
        return "mmio";
      case "GPT":
        return "gpt";
      case "HES":
        return "hes";
      case "RMI":
        return "rmi";
      case "REC_EXIT":
        return "exit";
      case "RSI":
      case "PSCI":
        return "rsi";
      default:
        return null;
    }
  }
  function worldAt(log, pe) {
    const now = log.entry(log.position)?.time ?? Infinity;
    for (let number = log.position; number < Math.min(log.end, log.position + SCAN); number++) {
      const entry3 = log.entry(number);
      if (!entry3 || entry3.pe !== pe) continue;
      switch (entry3.kind) {
        case "GPT":
          return "root";
        case "GRANULE":
        case "RTT":
        case "RIM":
        case "HES":
          return "rmm";
        case "RSI":
        case "PSCI":
        case "REC_EXIT":
          return "guest";
        case "RMI":
          return entry3.time - entry3.took <= now ? "rmm" : "normal";
        case "MMIO":
          return "normal";
      }
    }
    return "normal";
  }

  // main.ts
  var PANES = [tables, walk, realms, pes, measurement, token];
  var NOTICE = "seen from the machine: no host could see this";
  var Page = class {
    #log = null;
    #instances = [];
    #status = null;
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
      change: () => select({ name: this.#chooser.value, at: null, pa: "" })
    });
    #state = h("span", { class: "state", role: "status" });
    #live = button("Live", "follow the newest event (L)", () => this.#toggleLive());
    #slider = h("input", { type: "range", min: "0", max: "0", "aria-label": "time" }, [], {
      input: () => select({ at: Number(this.#slider.value) })
    });
    #time = h("output", { class: "time" });
    #tabs = h("div", { class: "tabs", role: "tablist", "aria-label": "panes" });
    #pane = h("div", { class: "pane", role: "tabpanel", "aria-live": "off" });
    constructor() {
      document.body.append(this.#header(), this.#worlds.element, h("main", {}, [
        this.#map.element,
        h("section", { class: "lower" }, [this.#tabs, this.#pane])
      ]), this.#inspector.element);
      this.#showTabs();
      onSelect((now, before) => this.#selected(now, before));
      document.addEventListener("keydown", (event) => this.#key(event));
      requestAnimationFrame((now) => this.#draw(now));
    }
    #connect() {
      const record2 = document.getElementById("record");
      const take = (message) => this.#take(message);
      if (!record2) return new Link(take, () => this.#opened(), () => this.#closed());
      return new Recorded(record2.textContent, take);
    }
    #header() {
      return h("header", {}, [
        h("h1", {}, ["pyvmm"]),
        this.#chooser,
        this.#state,
        h("span", { class: "notice" }, [NOTICE]),
        h("span", { class: "buttons" }, [
          button("◂", "one event back (,)", () => this.#step(-1)),
          this.#live,
          button("▸", "one event on (.)", () => this.#step(1))
        ]),
        this.#slider,
        this.#time,
        button("Aa", "lecture: large type, few numbers", () => toggle("lecture")),
        button("◐", "dark or light", () => toggle("dark"))
      ]);
    }
    #showTabs() {
      const all = [{ id: "events", name: "Events" }, { id: "timeline", name: "Timeline" }, ...PANES];
      fill(this.#tabs, ...all.map(({ id, name }) => {
        const isShown = selection().tab === id;
        return h("button", {
          type: "button",
          role: "tab",
          "aria-selected": String(isShown),
          "data-tab": id
        }, [name], { click: () => select({ tab: id }) });
      }));
      void this.#showPane();
    }
    async #showPane() {
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
        body.append(h("p", { class: "error" }, [error.message]));
      }
    }
    // --- messages ---------------------------------------------------------------------------------
    #opened() {
      if (selection().name) this.#link.watch(selection().name);
    }
    #closed() {
      this.#problem = "the server has ended: start pyvmm explore again, and open its address";
      this.#showState();
    }
    #take(message) {
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
    #add(message) {
      const log = this.#log;
      if (!log) return;
      const wasComplete = log.isComplete;
      log.add(message);
      if (log.isComplete && !wasComplete && selection().tab === measurement.id) void this.#showPane();
    }
    #setLog(log) {
      this.#log = log;
      this.#lost = this.#skipped = 0;
      this.#map.log = log;
      this.#events.log = log;
      this.#timeline.log = log;
      void this.#inspector.select(selection().pa);
      void this.#showPane();
    }
    #showInstances() {
      const names = this.#instances.map(({ name }) => name);
      fill(this.#chooser, ...this.#instances.map(({ name, kind }) => h("option", { value: name }, [`${kind} ${name}`])));
      if (!selection().name && names[0] !== void 0) select({ name: names[0] });
      this.#chooser.value = selection().name;
      if (!names.length) fill(this.#state, "no instance: create one with --observe");
    }
    #showState() {
      const { state, num_cpus, reason } = this.#status ?? { state: "", num_cpus: 0, reason: "" };
      const parts2 = [
        this.#problem || [state, reason].filter(Boolean).join(": "),
        num_cpus ? `${num_cpus} PE${num_cpus > 1 ? "s" : ""}` : "",
        this.#lost ? `${this.#lost} events lost` : "",
        this.#skipped ? `${this.#skipped} events skipped: this browser was too slow` : ""
      ];
      fill(this.#state, parts2.filter(Boolean).join(" · "));
      this.#state.classList.toggle("error", Boolean(this.#problem));
    }
    // --- what the user does -----------------------------------------------------------------------
    #selected(now, before) {
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
      const isWalk = ["ipa", "kind", "pe"].some((part) => now[part] !== before[part]);
      if (now.tab !== before.tab || now.tab === "walk" && isWalk) this.#showTabs();
      this.#live.setAttribute("aria-pressed", String(now.at === null));
    }
    #toggleLive() {
      select({ at: selection().at === null ? this.#log?.position ?? null : null });
    }
    #step(change) {
      if (this.#log) select({ at: Math.min(Math.max(this.#log.position + change, this.#log.first), this.#log.end) });
    }
    #key(event) {
      const target = event.target;
      if (target.matches("input[type=text], input[type=search], input[type=number], select")) return;
      if (event.ctrlKey || event.altKey || event.metaKey) return;
      if (event.key === ",") this.#step(-1);
      else if (event.key === ".") this.#step(1);
      else if (event.key.toLowerCase() === "l") this.#toggleLive();
    }
    // --- the loop ---------------------------------------------------------------------------------
    #draw(now) {
      requestAnimationFrame((next) => this.#draw(next));
      const log = this.#log;
      const isLive = selection().at === null;
      if (log) {
        log.seek(selection().at ?? log.end);
        this.#slider.min = String(log.first);
        this.#slider.max = String(log.end);
        this.#slider.value = String(log.position);
        const last = log.entry(Math.max(log.position - 1, log.first));
        this.#time.textContent = last ? `t = ${((last.time - log.start) / 1e3).toFixed(3)} ms` : "";
      }
      this.#map.draw(now);
      this.#worlds.draw(log, this.#status?.num_cpus ?? 0, isLive);
      this.#events.draw(isLive);
      this.#timeline.draw(isLive);
      this.#inspector.draw(log, now);
    }
  };
  function toggle(name) {
    document.documentElement.classList.toggle(name);
    localStorage.setItem(name, String(document.documentElement.classList.contains(name)));
  }
  for (const name of ["lecture", "dark"]) {
    if (localStorage.getItem(name) === "true") document.documentElement.classList.add(name);
  }
  new Page();
})();
