// What the panes in the lower part have in common.

import type { Link } from "./link";

export interface Pane {
  id: string;
  name: string;
  /** Ask the instance, and fill the element; errors are shown in its place. */
  show(element: HTMLElement, link: Link): Promise<void>;
}
