// The tables of stage 1 as a tree to unfold; each table is read when it is unfolded.

import { fill, h, type Child } from "./dom";
import type { Source } from "./link";
import { addressLink, granuleLink, virtualLink } from "./links";
import type { Stage1Picture, Stage1Run } from "./protocol";
import { select, selection } from "./selection";
import { size } from "./units";

const HALVES = ["0x0", "0xffffffffffffffff"]; // an address in each

/** Show the tables of both halves of a PE's address space. */
export async function stage1(element: HTMLElement, link: Source): Promise<void> {
  const number = h("input", { type: "number", min: "0", max: "511", value: selection().pe, "aria-label": "PE of stage 1" }, [], {
    change: () => {
      select({ pe: number.value || "0" });
      void stage1(element, link);
    },
  });
  const found = await Promise.all(HALVES.map((va) => root(va, link)));
  fill(element, h("section", { class: "tree stage1" }, [
    h("h3", {}, ["Tables of stage 1 of ", h("label", {}, ["PE ", number])]), ...found,
  ]));
}

async function root(va: string, link: Source): Promise<HTMLElement> {
  try {
    const picture = await ask(link, va, null);
    return table(picture.register, picture.ipa, async () => entries(picture, link), true);
  } catch (error) {
    return h("p", { class: "hint" }, [(error as Error).message]);
  }
}

function ask(link: Source, va: string, level: number | null): Promise<Stage1Picture> {
  return link.ask<Stage1Picture>("observe_stage1", { va, level, pe: Number(selection().pe) });
}

function table(name: Child, ipa: string, read: () => Promise<HTMLElement[]>, isOpen: boolean): HTMLElement {
  const body = h("div", { class: "entries" });
  const details = h("details", { class: "table" }, [h("summary", {}, [name]), body]);
  const unfold = async (): Promise<void> => {
    if (!details.open || body.childElementCount) return;
    try {
      fill(body, ...(await read()));
    } catch (error) {
      fill(body, h("p", { class: "hint" }, [(error as Error).message]));
    }
  };
  details.addEventListener("toggle", () => void unfold());
  details.open = isOpen;
  void unfold();
  return h("div", { class: "node" }, [addressLink(ipa), details]);
}

function entries(picture: Stage1Picture, link: Source): HTMLElement[] {
  const where = picture.pa ? h("div", { class: "hint" }, ["in granule ", granuleLink(picture.pa)]) : null;
  return [...(where ? [where] : []), ...picture.runs.map((run) => entry(run, picture.level, link))];
}

function entry(run: Stage1Run, level: number, link: Source): HTMLElement {
  if (run.kind === "table") {
    const name = h("span", {}, [h("b", {}, [`level ${level + 1}`]), ` [${run.index}] ${run.va} and up`]);
    const read = async (): Promise<HTMLElement[]> => entries(await ask(link, run.va, level + 1), link);
    return table(name, run.output, read, false);
  }
  const last = run.count > 1 ? `–${run.index + run.count - 1}` : "";
  const fields = Object.entries(run.fields).map(([name, value]) => `${name}=${value}`).join(" ");
  return h("div", { class: `entry ${run.kind}` }, [
    h("span", { class: "index" }, [`[${run.index}${last}]`]), " ", virtualLink(run.va),
    ` ${size(run.size)} ${run.kind}`, run.output ? " → " : "", run.output ? addressLink(run.output) : null,
    h("span", { class: "descriptor" }, [` ${fields}`]),
  ]);
}
