// Builds elements; text is always text, never markup.

export type Child = Node | string | null | undefined;
type Listeners = { [K in keyof HTMLElementEventMap]?: (event: HTMLElementEventMap[K]) => void };

/** Return an element with attributes and children; `on` adds listeners. */
export function h<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  attributes: Record<string, string> = {},
  children: Child[] = [],
  on: Listeners = {},
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  for (const child of children) if (child != null) element.append(child);
  for (const [name, listener] of Object.entries(on)) {
    element.addEventListener(name, listener as EventListener);
  }
  return element;
}

export function button(text: string, title: string, act: () => void): HTMLButtonElement {
  return h("button", { type: "button", title }, [text], { click: act });
}

/** Replace the children of an element. */
export function fill(element: Element, ...children: Child[]): void {
  element.replaceChildren(...children.filter((child) => child != null));
}

/** Return a table of name and value. */
export function facts(rows: [string, Child][]): HTMLElement {
  const list = h("dl", { class: "facts" });
  for (const [name, value] of rows) list.append(h("dt", {}, [name]), h("dd", {}, [value]));
  return list;
}

export function table(headings: string[], rows: Child[][]): HTMLElement {
  const head = h("tr", {}, headings.map((text) => h("th", { scope: "col" }, [text])));
  const body = rows.map((row) => h("tr", {}, row.map((cell) => h("td", {}, [cell]))));
  return h("table", {}, [h("thead", {}, [head]), h("tbody", {}, body)]);
}

export function hex(value: number): string {
  return `0x${value.toString(16)}`;
}
