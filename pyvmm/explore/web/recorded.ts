// A recorded run: the messages of a server, compressed, in the page itself.

import type { Source } from "./link";
import type { FromServer } from "./protocol";

export class Recorded implements Source {
  #answers: Record<string, unknown> = {};

  constructor(data: string, private take: (message: FromServer) => void) {
    void this.#read(data.trim());
  }

  async #read(data: string): Promise<void> {
    const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const text = await new Response(stream).text();
    for (const line of text.split("\n")) {
      const message = JSON.parse(line) as FromServer | { type: "recorded"; answers: Record<string, unknown> };
      if (message.type === "recorded") this.#answers = message.answers;
      else this.take(message);
    }
  }

  watch(): void {
    // there is only one instance
  }

  ask<T>(method: string): Promise<T> {
    const answer = this.#answers[method];
    if (answer === undefined) return Promise.reject(new Error("not in this record: only a running instance can tell"));
    return Promise.resolve(answer as T);
  }
}
