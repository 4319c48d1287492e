// The panel about the selected granule: its use at the shown time, and who may access it.

import { facts, fill, h, type Child } from "./dom";
import { addressLink, granuleLink, linked } from "./links";
import type { Source } from "./link";
import type { Log } from "./log";
import type { GranulePicture } from "./protocol";

const PACE = 100; // ms between two searches for the last event

// The address spaces that each world may use.
const WORLDS: [string, string[]][] = [
  ["normal world, devices", ["NS"]],
  ["realm world", ["NS", "REALM"]],
  ["EL3", ["NS", "SECURE", "REALM", "ROOT"]],
];

// What the rule is that an access meets.
const RULE =
  "Each access carries a physical address space; the granule protection check compares it with the" +
  " granule's entry in the GPT, whoever makes the access.";

export class Inspector {
  readonly element: HTMLElement;
  #title = h("h2", {}, ["Inspector"]);
  #now = h("div", { class: "now" });
  #machine = h("div", { class: "machine", "aria-live": "polite" });
  #shown = "";
  #pa = "";
  #drawn = 0;

  constructor(private link: Source) {
    this.element = h("aside", { class: "inspector", "aria-label": "inspector" }, [
      this.#title, this.#now, this.#machine,
    ]);
    this.#hint();
  }

  #hint(): void {
    fill(this.#machine, h("p", { class: "hint" }, [
      "Select a granule in the memory map or any underlined address.",
    ]));
  }

  async select(pa: string): Promise<void> {
    this.#pa = pa;
    this.#shown = "";
    fill(this.#title, pa ? `Granule ${pa}` : "Inspector");
    if (!pa) {
      fill(this.#now);
      this.#hint();
      return;
    }
    try {
      const picture = await this.link.ask<GranulePicture>("observe_granule", { pa });
      if (this.#pa === pa) fill(this.#machine, ...machine(picture));
    } catch (error) {
      if (this.#pa === pa) fill(this.#machine, h("p", { class: "hint" }, [(error as Error).message]));
    }
  }

  draw(log: Log | null, now: number): void {
    if (now - this.#drawn < PACE) return;
    this.#drawn = now;
    const code = log?.codes?.[(Number(this.#pa) - log.base) / 4096];
    const state = `${this.#pa} ${code} ${log?.position} ${log?.received}`;
    if (state === this.#shown || !log || code === undefined || !this.#pa) return;
    this.#shown = state;
    const last = log.last(log.position, `=${this.#pa} `, 20_000);
    fill(this.#now,
      facts([
        ["PAS", log.gpi(code)],
        ["state", log.state(code) || "not managed by the RMM"],
        ["last event", last ? h("span", {}, linked(last.text)) : "none found"],
      ]),
      h("h3", {}, ["Who may access it?"]),
      h("ul", { class: "accesses" }, WORLDS.map(([world, spaces]) => access(world, spaces, log.gpi(code)))),
      h("p", { class: "rule" }, [RULE]),
    );
  }
}

/** Return what the granule protection check makes of an access by a world. */
function access(world: string, spaces: string[], gpi: string): HTMLElement {
  const isAllowed = gpi === "ANY" || spaces.includes(gpi);
  return h("li", { class: isAllowed ? "allowed" : "refused" }, [
    h("b", {}, [`${isAllowed ? "✓" : "✗"} ${world}: `]),
    isAllowed ? "may access it"
    : `granule protection fault: the GPT says ${gpi}, an access is ${spaces.join(" or ")}`,
  ]);
}

function machine(picture: GranulePicture): Child[] {
  const owner = picture.owner || "none in the realm world";
  return [
    h("h3", {}, ["In the machine now"]),
    facts([
      ["GPI", picture.gpi],
      ["GPT entry", h("span", {}, [picture.gpt_entry, " at ", granuleLink(picture.gpt_entry_pa)])],
      ["state", picture.state],
      ["owner", h("span", { class: "owner" }, ownerLinks(owner))],
      ["mapped at IPA", picture.ipas.length
        ? h("span", {}, picture.ipas.flatMap((ipa) => [addressLink(ipa), " "])) : "nowhere in a realm"],
    ]),
  ];
}

function ownerLinks(text: string): Child[] {
  return text.split(/(realm 0x[0-9a-f]+|IPA 0x[0-9a-f]+)/).map((part) => {
    const [what, address] = part.split(" ");
    if (what === "realm" && address?.startsWith("0x")) return granuleLink(address, part);
    if (what === "IPA" && address?.startsWith("0x")) return addressLink(address, part);
    return part;
  });
}
