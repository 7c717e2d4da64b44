/** A small daemon made of node:http, for what the real one does not do on demand. */

import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";

export interface Asked {
  method: string;
  url: string;
  headers: IncomingMessage["headers"];
  body: string;
}

/** Answers one request. */
export type Answer = (response: ServerResponse, asked: Asked, request: IncomingMessage) => unknown;

/** Each request gets the next answer; one more than there are is a failure that the test sees as a 599. */
export class FakeDaemon {
  readonly asked: Asked[] = [];
  readonly connections = new Set<unknown>();
  #server: Server;
  #answers: Answer[];

  private constructor(answers: Answer[]) {
    this.#answers = answers;
    this.#server = createServer((request, response) => {
      this.connections.add(request.socket);
      let body = "";
      request.setEncoding("utf8").on("data", (text: string) => (body += text));
      request.on("end", () => {
        const asked = { method: request.method ?? "", url: request.url ?? "", headers: request.headers, body };
        this.asked.push(asked);
        const answer = this.#answers.shift() ?? json({ error: "nothing more was prepared" }, 599);
        void answer(response, asked, request);
      });
    });
  }

  static async start(...answers: Answer[]): Promise<FakeDaemon> {
    const daemon = new FakeDaemon(answers);
    await new Promise<void>((done) => daemon.#server.listen(0, "127.0.0.1", done));
    return daemon;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  /** Method and path of everything that was asked. */
  get lines(): string[] {
    return this.asked.map((asked) => `${asked.method} ${asked.url}`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((done) => this.#server.close(done));
  }
}

export function json(value: unknown, status = 200, headers: Record<string, string> = {}): Answer {
  return (response) => response.writeHead(status, { "Content-Type": "application/json", ...headers }).end(JSON.stringify(value));
}

export function empty(status = 204): Answer {
  return (response) => response.writeHead(status).end();
}

/** The error answer that Cella gives. */
export function refuse(status: number, code: string, error = "because", hint: string | null = null): Answer {
  return json({ error, code, hint }, status);
}

/** Closes the connection without a word. */
export const hangUp: Answer = (response) => response.socket?.destroy();

/** NDJSON events, and then the end of the answer, unless they are cut. */
export function events(list: unknown[], cut = false): Answer {
  return (response) => {
    response.writeHead(200, { "Content-Type": "application/x-ndjson" });
    response.write(list.map((event) => JSON.stringify(event) + "\n").join(""), () => {
      if (cut) response.socket?.destroy();
      else response.end();
    });
  };
}

export const A = "sbx_" + "a".repeat(32);
export const B = "sbx_" + "b".repeat(32);
export const C = "sbx_" + "c".repeat(32);

/** A sandbox as the daemon describes it. */
export function cell(id = A, more: object = {}): Answer {
  return json(described(id, more), 201);
}

export function described(id = A, more: object = {}): object {
  return { id, template: "default", status: "running", driver: "plain", isolation: "none", metadata: {}, created_at: "2026-01-01T00:00:00Z", ...more };
}
