// The connection to the server.

import type { FromServer } from "./protocol";

type Pending = { resolve: (result: unknown) => void; reject: (error: Error) => void };

/** What answers for an instance: a server, or a record. */
export interface Source {
  watch(name: string): void;
  /** Ask the instance; addresses are texts such as "0x1000". */
  ask<T>(method: string, params?: Params): Promise<T>;
}

type Params = Record<string, string | number | boolean | null>;

export class Link implements Source {
  #socket: WebSocket;
  #next = 1;
  #pending = new Map<number, Pending>();

  constructor(take: (message: FromServer) => void, opened: () => void, closed: () => void) {
    this.#socket = new WebSocket(new URL("live", location.href.replace(/^http/, "ws")));
    this.#socket.onopen = opened;
    this.#socket.onclose = () => {
      for (const each of this.#pending.values()) each.reject(new Error("the server has ended"));
      this.#pending.clear();
      closed();
    };
    this.#socket.onmessage = (event) => {
      const message = JSON.parse(event.data as string) as FromServer;
      if (message.type === "answer") this.#answer(message.id, message.result, message.error);
      else take(message);
    };
  }

  #answer(id: number, result: unknown, error: string | undefined): void {
    const pending = this.#pending.get(id);
    this.#pending.delete(id);
    if (error) pending?.reject(new Error(error));
    else pending?.resolve(result);
  }

  watch(name: string): void {
    this.#socket.send(JSON.stringify({ type: "watch", name }));
  }

  ask<T>(method: string, params: Params = {}): Promise<T> {
    const id = this.#next++;
    return new Promise((resolve, reject) => {
      this.#pending.set(id, { resolve: resolve as (result: unknown) => void, reject });
      this.#socket.send(JSON.stringify({ type: "ask", id, method, params }));
    });
  }
}
