// The realm translation tables as a tree to unfold.

import { fill, h } from "./dom";
import { addressLink, granuleLink } from "./links";
import type { EntryRun, RttPicture, TablePicture } from "./protocol";
import type { Pane } from "./pane";
import { stage1 } from "./stage1";
import { size } from "./units";

export const tables: Pane = {
  id: "tables",
  name: "Tables",
  async show(element, link) {
    const realm = h("div", { class: "side" });
    const guest = h("div", { class: "side" }, ["…"]);
    fill(element, h("div", { class: "sides" }, [realm, guest]));
    try {
      fill(realm, ...(await link.ask<RttPicture[]>("observe_rtt")).map(tree));
    } catch (error) {
      fill(realm, h("p", { class: "hint" }, [(error as Error).message]));
    }
    await stage1(guest, link);
  },
};

function tree(picture: RttPicture): HTMLElement {
  const byAddress = new Map(picture.tables.map((each) => [each.pa, each]));
  const top = Math.min(...picture.tables.map((each) => each.level));
  const starts = picture.tables.filter((each) => each.level === top);
  return h("section", { class: "tree" }, [
    h("h3", {}, ["Realm translation tables of ", granuleLink(picture.rd, `realm ${picture.rd}`)]),
    ...starts.map((each) => table(each, byAddress, true)),
  ]);
}

function table(picture: TablePicture, others: Map<string, TablePicture>, isOpen: boolean): HTMLElement {
  const body = h("div", { class: "entries" });
  const details = h("details", { class: "table", "data-pa": picture.pa }, [
    h("summary", {}, [
      h("b", {}, [`level ${picture.level}`]), ` IPA ${picture.ipa} and up, ${picture.live} live entries`,
    ]),
    body,
  ]);
  const unfold = (): void => {
    if (details.open && !body.childElementCount) {
      fill(body, ...picture.entries.map((run) => entry(run, others)));
    }
  };
  details.addEventListener("toggle", unfold);
  details.open = isOpen;
  unfold();
  return h("div", { class: "node" }, [granuleLink(picture.pa), details]);
}

function entry(run: EntryRun, others: Map<string, TablePicture>): HTMLElement {
  const child = run.state === "TABLE" ? others.get(run.pa) : undefined;
  if (child) return table(child, others, false);
  const last = run.count > 1 ? `–${run.index + run.count - 1}` : "";
  return h("div", { class: `entry ${run.state}` }, [
    h("span", { class: "index" }, [`[${run.index}${last}]`]), " ",
    addressLink(run.ipa), ` ${size(run.size)} ${run.state}`,
    run.ripas ? `/${run.ripas}` : "", run.pa ? " → " : "", run.pa ? granuleLink(run.pa) : null,
    h("span", { class: "descriptor" }, [` ${run.descriptor}`]),
  ]);
}
