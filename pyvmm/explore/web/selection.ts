// What is selected; the fragment of the address holds it, so that a link leads to the same sight.

export interface Selection {
  name: string; // of the instance
  pa: string; // of a granule
  at: number | null; // number of an event; null: live
  tab: string;
  ipa: string; // or a virtual address: what the walk is about
  kind: string; // of that address: "ipa", "el1" or "el0"
  pe: string; // whose tables are walked
  kinds: string; // of events that are shown, separated by commas; empty: those that are shown at first
  words: string; // that an event must contain
}

type Listener = (now: Selection, before: Selection) => void;

const listeners: Listener[] = [];
let current = parse();

function parse(): Selection {
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
    words: parameters.get("words") ?? "",
  };
}

export function selection(): Selection {
  return current;
}

export function select(change: Partial<Selection>): void {
  const before = current;
  current = { ...current, ...change };
  const parameters = new URLSearchParams();
  for (const [name, value] of Object.entries(current)) {
    if (value !== "" && value !== null) parameters.set(name, String(value));
  }
  history.replaceState(null, "", `#${parameters}`);
  for (const listener of listeners) listener(current, before);
}

export function onSelect(listener: Listener): void {
  listeners.push(listener);
}

window.addEventListener("hashchange", () => select(parse()));
