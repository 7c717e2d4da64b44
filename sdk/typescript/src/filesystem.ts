/** Files of a sandbox. */

import * as calls from "./calls.js";
import { CellaError, FileNotFound, GoneError, InvalidRequest, NotADirectory } from "./errors.js";
import { list, number, object, text } from "./json.js";
import { ndjson } from "./lines.js";
import { readLocal, writeLocal, type LocalPath } from "./local.js";
import { fileInfo, type FileEvent, type FileInfo } from "./models.js";
import type { CallOptions } from "./runner.js";
import type { Call, Transport } from "./transport.js";
import type { Body } from "./wire.js";

/** What can be written: text (as UTF-8), bytes, or something that gives bytes piece by piece. */
export type Content =
  | string
  | ArrayBuffer
  | ArrayBufferView
  | Blob
  | ReadableStream<Uint8Array>
  | AsyncIterable<Uint8Array>
  | Iterable<Uint8Array>;

export interface ReadOptions extends CallOptions {
  /** First byte. */
  offset?: number | undefined;
  /** At most this many bytes. */
  length?: number | undefined;
}

export interface WriteOptions extends CallOptions {
  /** Permission bits, such as 0o755. A new file has 0o644. */
  mode?: number | undefined;
  /** Behind what is there. */
  append?: boolean | undefined;
  /** Make directories that are missing. Default true. */
  parents?: boolean | undefined;
}

/**
 * `sandbox.filesystem`. Paths are absolute, or relative to `/workspace`; sizes in bytes; files of any size stream.
 *
 * Errors: FileNotFound, IsADirectory, NotADirectory, PermissionDenied, FileExists, NoSpaceError.
 */
export class Filesystem {
  #transport: Transport;
  #id: string;

  /** @internal */
  constructor(transport: Transport, sandboxId: string) {
    this.#transport = transport;
    this.#id = sandboxId;
  }

  /**
   * A file's content: `"text"` (UTF-8; CellaError when it is not), `"bytes"`, or `"stream"`: a stream that never holds
   * the whole file (cancel it, or read it to its end).
   */
  read(path: string, options?: ReadOptions & { format?: "text" }): Promise<string>;
  read(path: string, options: ReadOptions & { format: "bytes" }): Promise<Uint8Array>;
  read(path: string, options: ReadOptions & { format: "stream" }): Promise<ReadableStream<Uint8Array>>;
  async read(
    path: string,
    options: ReadOptions & { format?: "text" | "bytes" | "stream" } = {},
  ): Promise<string | Uint8Array | ReadableStream<Uint8Array>> {
    const { format = "text", offset, length, signal } = options;
    const call = calls.fileRead(this.#id, path, offset, length);
    if (format === "stream") return opened(this.#transport.pieces(call, signal));
    if (format !== "text" && format !== "bytes") throw new InvalidRequest(`format is "text", "bytes" or "stream", not "${String(format)}"`);
    const content = await this.#transport.read(call, signal, (answer) => answer.bytes());
    return format === "bytes" ? content : decode(content, path);
  }

  /** Put a file in place, whole or not at all; parents are made. Returns the bytes written. */
  async write(path: string, content: Content, options: WriteOptions = {}): Promise<number> {
    return number(object(await this.#put(calls.fileWrite(this.#id, path, body(content), options), options))["bytes"]);
  }

  /** Entries below a directory, `depth` levels down (default 1). */
  async list(path = ".", options: CallOptions & { depth?: number | undefined } = {}): Promise<FileInfo[]> {
    return list(await this.#transport.json(calls.fileList(this.#id, path, options.depth ?? 1), options.signal)).map(fileInfo);
  }

  async stat(path: string, options: CallOptions = {}): Promise<FileInfo> {
    return fileInfo(object(await this.#transport.json(calls.fileStat(this.#id, path), options.signal)));
  }

  async exists(path: string, options: CallOptions = {}): Promise<boolean> {
    try {
      await this.stat(path, options);
      return true;
    } catch (error) {
      if (error instanceof GoneError) throw error;
      if (error instanceof FileNotFound || error instanceof NotADirectory) return false;
      throw error;
    }
  }

  /** Make a directory. True when it was made, false when it was there already (`parents` only, which is the default). */
  async mkdir(path: string, options: CallOptions & { parents?: boolean | undefined } = {}): Promise<boolean> {
    const answer = await this.#transport.json(calls.fileMkdir(this.#id, path, options.parents ?? true), options.signal);
    return object(answer)["created"] !== false;
  }

  /** Rename. FileExists when `target` is there and `overwrite` is not set. */
  async move(source: string, target: string, options: CallOptions & { overwrite?: boolean | undefined } = {}): Promise<void> {
    await this.#transport.json(calls.fileMove(this.#id, source, target, options.overwrite ?? false), options.signal);
  }

  /** Delete a file, or with `recursive` a directory and what is in it. Symlinks are removed, not followed. */
  async remove(path: string, options: CallOptions & { recursive?: boolean | undefined } = {}): Promise<void> {
    await this.#transport.json(calls.fileRemove(this.#id, path, options.recursive ?? false), options.signal);
  }

  /**
   * Changes in a directory, with `recursive` below it too. When the promise is fulfilled, no later change is missed;
   * the iteration goes on until it is left, or the signal aborts (which throws its reason).
   */
  async watch(path = ".", options: CallOptions & { recursive?: boolean | undefined } = {}): Promise<AsyncGenerator<FileEvent, void, undefined>> {
    const call = calls.fileWatch(this.#id, path, options.recursive ?? false);
    const events = ndjson(this.#transport.pieces(call, options.signal));
    const first = await events.next();
    if (first.done) throw new CellaError("the daemon ended the watching before it began");
    return changes(first.value, events);
  }

  /** Copy a local file into the sandbox. Returns its bytes. */
  upload(local: LocalPath, path: string, options: WriteOptions = {}): Promise<number> {
    return this.write(path, readLocal(local), options);
  }

  /** Copy a file out. The local file appears only when it is complete. Returns its bytes. */
  download(path: string, local: LocalPath, options: CallOptions = {}): Promise<number> {
    return writeLocal(local, this.#transport.pieces(calls.fileRead(this.#id, path), options.signal));
  }

  /** A directory tree as a tar stream (pax). */
  readTar(path: string, options: CallOptions = {}): Promise<ReadableStream<Uint8Array>> {
    return opened(this.#transport.pieces(calls.tarRead(this.#id, path), options.signal));
  }

  /**
   * Unpack a tar (plain or gzip) into a directory, which is made when it is not there. Entries that would leave it are
   * refused (InvalidRequest). Returns the number of entries.
   */
  async writeTar(path: string, content: Content, options: CallOptions = {}): Promise<number> {
    return number(object(await this.#put(calls.tarWrite(this.#id, path, body(content)), options))["entries"]);
  }

  /** An error of the content's own source is what the caller wants to see, not that the upload broke. */
  async #put(call: Call, options: CallOptions): Promise<unknown> {
    const source = failures.get(call.body as object);
    try {
      return await this.#transport.json(call, options.signal);
    } catch (error) {
      throw source?.failed ? source.error : error;
    }
  }
}

/** Of the streams that body() made: whether their source threw. */
const failures = new WeakMap<object, { failed: boolean; error: unknown }>();

function body(content: Content): Body {
  if (typeof content === "string") return new TextEncoder().encode(content);
  if (content instanceof ArrayBuffer || content instanceof Blob || content instanceof ReadableStream) return content;
  if (ArrayBuffer.isView(content)) return new Uint8Array(content.buffer, content.byteOffset, content.byteLength);
  const state = { failed: false, error: undefined as unknown };
  const source = Symbol.asyncIterator in content ? content[Symbol.asyncIterator]() : content[Symbol.iterator]();
  const stream = new ReadableStream<Uint8Array>({
    async pull(controller) {
      try {
        const { done, value } = await source.next();
        if (done) controller.close();
        else controller.enqueue(value);
      } catch (error) {
        Object.assign(state, { failed: true, error });
        throw error;
      }
    },
    async cancel() {
      await source.return?.();
    },
  });
  failures.set(stream, state);
  return stream;
}

/** The pieces as a web stream. The first one is fetched before, so that "not found" is thrown here and not later. */
async function opened(pieces: AsyncGenerator<Uint8Array, void, undefined>): Promise<ReadableStream<Uint8Array>> {
  let next: IteratorResult<Uint8Array, void> | null = await pieces.next();
  return new ReadableStream<Uint8Array>({
    async pull(controller) {
      const { done, value } = next ?? (await pieces.next());
      next = null;
      if (done) controller.close();
      else controller.enqueue(value);
    },
    async cancel() {
      await pieces.return();
    },
  });
}

async function* changes(first: object, events: AsyncGenerator<Record<string, unknown>, void, undefined>): AsyncGenerator<FileEvent, void, undefined> {
  try {
    for (let raw = object(first); ; ) {
      if (raw["type"] !== "start") yield { type: text(raw["type"]) as FileEvent["type"], path: text(raw["path"]) };
      const next = await events.next();
      if (next.done) return;
      raw = next.value;
    }
  } finally {
    await events.return();
  }
}

function decode(content: Uint8Array, path: string): string {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(content);
  } catch (cause) {
    throw new CellaError(`${path} is not UTF-8 text`, { hint: 'read it with format: "bytes"', cause });
  }
}
