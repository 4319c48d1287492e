// What the panes in the lower part have in common.

import type { Source } from "./link";
import type { Log } from "./log";

export interface Pane {
  id: string;
  name: string;
  /** Ask the instance, and fill the element; errors are shown in its place. */
  show(element: HTMLElement, link: Source, log: Log | null): Promise<void>;
}
