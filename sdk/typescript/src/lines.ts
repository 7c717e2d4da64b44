/** Newline-delimited JSON out of a stream of bytes. */

import { CellaError } from "./errors.js";
import { object, type JsonObject } from "./json.js";

/**
 * Cuts text at newlines and only there. A last line without one is not a line: the stream was cut. A line may be
 * hundreds of megabytes (an image): each piece is searched once, and joined once.
 * @internal
 */
export class LineSplitter {
  #decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  #pending: string[] = [];

  *feed(piece: Uint8Array): Generator<string, void, undefined> {
    const text = this.#decoder.decode(piece, { stream: true });
    let from = 0;
    for (let at = text.indexOf("\n"); at >= 0; at = text.indexOf("\n", from)) {
      this.#pending.push(text.slice(from, at));
      from = at + 1;
      const line = this.#pending.join("");
      this.#pending = [];
      yield line;
    }
    if (from < text.length) this.#pending.push(text.slice(from));
  }
}

/** One object per line; blank lines and keepalives are nothing. @internal */
export async function* ndjson(pieces: AsyncIterable<Uint8Array>): AsyncGenerator<JsonObject, void, undefined> {
  const splitter = new LineSplitter();
  for await (const piece of pieces) {
    for (const line of splitter.feed(piece)) {
      if (line.trim() === "") continue;
      const value = parse(line);
      if (value["type"] !== "keepalive") yield value;
    }
  }
}

function parse(line: string): JsonObject {
  try {
    return object(JSON.parse(line));
  } catch {
    throw new CellaError("the daemon sent an event that is not JSON");
  }
}
