// What would an access do? The walk of an address, entry by entry.

import { facts, fill, h, table, type Child } from "./dom";
import { granuleLink } from "./links";
import type { Source } from "./link";
import type { Pane } from "./pane";
import type { WalkPicture } from "./protocol";
import { select, selection } from "./selection";

export const walk: Pane = {
  id: "walk",
  name: "What would this access do?",
  async show(element, link) {
    const result = h("div", { class: "walk-result", "aria-live": "polite" });
    fill(element, form(), result);
    if (selection().ipa) await show(result, link);
  },
};

function form(): HTMLElement {
  const address = h("input", {
    type: "text", "aria-label": "address", placeholder: "address, such as 0x80000000", size: "24",
    value: selection().ipa, spellcheck: "false", class: "address",
  });
  const kinds = h("select", { "aria-label": "kind of address" }, [
    ["ipa", "IPA of the guest"], ["el1", "virtual address, EL1"], ["el0", "virtual address, EL0"],
    ["pa", "physical address"],
  ].map(([value, text]) => h("option", { value: value! }, [text!])));
  kinds.value = selection().kind;
  const number = h("input", { type: "number", min: "0", max: "511", value: selection().pe, "aria-label": "PE" });
  return h("form", { class: "walk-form" }, [
    address, kinds, h("label", {}, ["PE ", number]),
    h("button", { type: "submit" }, ["Walk"]),
  ], {
    submit: (event) => {
      event.preventDefault();
      const kind = kinds.value;
      const pe = number.value || "0";
      const text = address.value.trim();
      const wanted = /^0x/i.test(text) ? text.toLowerCase() : `0x${text}`;
      if (kind === "pa") select({ pa: wanted });
      else select({ ipa: wanted, kind, pe, tab: "walk" });
    },
  });
}

async function show(element: HTMLElement, link: Source): Promise<void> {
  const { ipa: address, kind, pe } = selection();
  const walked = await link.ask<WalkPicture>("observe_walk", {
    address, pe: Number(pe), is_ipa: kind === "ipa", el: kind === "ipa" ? null : Number(kind[2]),
  });
  fill(element, ...lines(walked));
}

function lines(walked: WalkPicture): Child[] {
  const steps = walked.steps.map((step) => [
    `stage ${step.stage} level ${step.level}`, `[${step.index}]`, granuleLink(step.address),
    step.pas, step.descriptor, h("b", {}, [step.kind]),
    step.output ? granuleLinkIf(step.stage === 2, step.output) : "",
    Object.entries(step.fields).map(([name, value]) => `${name}=${value}`).join(" "),
  ]);
  const accesses = walked.accesses.map((each) =>
    h("li", { class: each.is_allowed ? "allowed" : "refused" }, [
      h("b", {}, [`${each.is_allowed ? "✓" : "✗"} ${each.access}: `]),
      each.is_allowed ? "allowed" : `${each.fault}, taken to ${each.taken_to} with ESR ${each.esr}`,
    ]),
  );
  return [
    facts([
      ["IPA", walked.ipa ?? "none: stage 1 has no translation"],
      ["PA", walked.pa ? h("span", { class: "walk-pa" }, [granuleLink(walked.pa), ` ${walked.pas ?? ""}`]) : "none"],
      ["GPI", walked.gpi ?? "none"],
    ]),
    accesses.length ? h("ul", { class: "accesses" }, accesses) : null,
    table(["table", "entry", "at", "PAS", "descriptor", "kind", "output", "fields"], steps),
  ];
}

function granuleLinkIf(is: boolean, address: string): Child {
  return is ? granuleLink(address) : address;
}
