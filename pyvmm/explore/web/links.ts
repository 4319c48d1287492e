// Texts whose addresses are links to what they name.

import { h, type Child } from "./dom";
import { select } from "./selection";

// Arguments that are physical addresses of granules, and those that are addresses of a realm.
const GRANULES = new Set(["pa", "rd", "rec", "rtt", "data", "src", "addr", "rec_ptr", "run_ptr", "run", "rtt_addr", "params_ptr", "params"]);
const IPAS = new Set(["ipa", "base", "top"]);

export function granuleLink(pa: string, text = pa): HTMLElement {
  return h("a", { href: "#", class: "pa", title: `granule ${pa}` }, [text], {
    click: (event) => {
      event.preventDefault();
      select({ pa: hexPage(pa) });
    },
  });
}

export function addressLink(ipa: string, text = ipa): HTMLElement {
  return h("a", { href: "#", class: "ipa", title: `walk ${ipa}` }, [text], {
    click: (event) => {
      event.preventDefault();
      select({ ipa, kind: "ipa", tab: "walk" });
    },
  });
}

export function virtualLink(va: string): HTMLElement {
  return h("a", { href: "#", class: "va", title: `walk virtual address ${va}` }, [va], {
    click: (event) => {
      event.preventDefault();
      select({ ipa: va, kind: "el1", tab: "walk" });
    },
  });
}

function hexPage(pa: string): string {
  return `0x${(BigInt(pa) & ~0xfffn).toString(16)}`;
}

/** Return a line of a trace with links. */
export function linked(text: string): Child[] {
  const children: Child[] = [];
  let end = 0;
  for (const match of text.matchAll(/([a-z_]+)=(0x[0-9a-f]+)/g)) {
    const [, name, value] = match as unknown as [string, string, string];
    const make = GRANULES.has(name) ? granuleLink : IPAS.has(name) ? addressLink : null;
    if (!make) continue;
    children.push(text.slice(end, match.index + name.length + 1), make(value));
    end = match.index + match[0].length;
  }
  children.push(text.slice(end));
  return children;
}
