/** Sandboxes on the disk: snapshots (copies) and Spaces (the sandbox itself, put away). */

import { notCarried, type NotCarried } from "./branches.js";
import * as calls from "./calls.js";
import { resolve, type ConnectionOptions } from "./config.js";
import { NotFoundError } from "./errors.js";
import { list, number, numberOrNull, object, strings, text, textOrNull, type JsonObject } from "./json.js";
import type { CallOptions } from "./runner.js";
import { Sandbox, type CreateOptions } from "./sandbox.js";
import { Transport } from "./transport.js";

/** Which snapshots. */
export interface SnapshotFilter {
  sandboxId?: string | undefined;
  name?: string | undefined;
}

/**
 * A copy of a sandbox at one instant, on the disk: variables, files, what ran. Any number of sandboxes can start from
 * it, also after a reboot, and none needs it once it runs.
 *
 * ```ts
 * const snapshot = await sandbox.snapshot("loaded");
 * const again = await snapshot.start();   // the same as Sandbox.create({ fromSnapshot: "loaded" })
 * ```
 */
export class Snapshot {
  readonly id: string;
  /** Of which it is a copy. */
  readonly sandboxId: string;
  readonly name: string | null;
  readonly template: string;
  /** RFC 3339. */
  readonly createdAt: string;
  /** On the disk: `memoryBytes` and `diskBytes` together. */
  readonly sizeBytes: number;
  /** Pages that differ from the template's. */
  readonly memoryBytes: number;
  /** Files that differ from the template's. */
  readonly diskBytes: number;
  /** How long the sandbox stood still. */
  readonly pausedMs: number | null;
  /** What a sandbox made of it will not have. */
  readonly notCarried: readonly NotCarried[];
  readonly raw: JsonObject;
  #transport: Transport;

  /** @internal */
  constructor(transport: Transport, value: JsonObject) {
    this.id = text(value["id"]);
    this.sandboxId = text(value["sandbox_id"]);
    this.name = textOrNull(value["name"]);
    this.template = text(value["template"]);
    this.createdAt = text(value["created_at"]);
    this.sizeBytes = number(value["size_bytes"]);
    this.memoryBytes = number(value["memory_bytes"]);
    this.diskBytes = number(value["disk_bytes"]);
    this.pausedMs = numberOrNull(value["paused_ms"]);
    this.notCarried = list(value["not_carried"] ?? []).map(notCarried);
    this.raw = value;
    this.#transport = transport;
  }

  /** Oldest first; with `sandboxId` or `name` only those. */
  static list(options: SnapshotFilter & ConnectionOptions & CallOptions = {}): Promise<Snapshot[]> {
    return Snapshot.listOn(new Transport(resolve(options)), options);
  }

  /** NotFoundError when there is none. */
  static get(id: string, options: ConnectionOptions & CallOptions = {}): Promise<Snapshot> {
    return Snapshot.getOn(new Transport(resolve(options)), id, options);
  }

  /** @internal */
  static async listOn(transport: Transport, options: SnapshotFilter & CallOptions): Promise<Snapshot[]> {
    const answer = await transport.json(calls.snapshotList(options.sandboxId, options.name), options.signal);
    return list(answer).map((value) => new Snapshot(transport, value));
  }

  /** @internal */
  static async getOn(transport: Transport, id: string, options: CallOptions): Promise<Snapshot> {
    return new Snapshot(transport, object(await transport.json(calls.snapshot(id), options.signal)));
  }

  /** A new sandbox from it. ImageRefused when it does not fit this host any more. */
  start(options: Omit<CreateOptions, "template" | "fromSnapshot"> = {}): Promise<Sandbox> {
    return Sandbox.createOn(this.#transport, { ...options, fromSnapshot: this.id });
  }

  /** Nothing happens when it is gone already. */
  async delete(): Promise<void> {
    await quietly(this.#transport.json(calls.snapshotDelete(this.id)));
  }
}

/** Where a persistent sandbox lives: in memory (`"live"`) or put away on the disk (`"frozen"`). */
export class Space {
  readonly id: string;
  readonly sandboxId: string;
  readonly state: "live" | "frozen";
  readonly template: string;
  /** RFC 3339. */
  readonly createdAt: string;
  /** Of what is on the disk; null: it never froze. */
  readonly frozenAt: string | null;
  /** On the disk: `memoryBytes` and `diskBytes` together. */
  readonly sizeBytes: number;
  readonly memoryBytes: number;
  readonly diskBytes: number;
  readonly metadata: Record<string, string>;
  readonly raw: JsonObject;
  #transport: Transport;

  /** @internal */
  constructor(transport: Transport, value: JsonObject) {
    this.id = text(value["space_id"]);
    this.sandboxId = text(value["sandbox_id"]);
    this.state = text(value["state"]) as Space["state"];
    this.template = text(value["template"]);
    this.createdAt = text(value["created_at"]);
    this.frozenAt = textOrNull(value["frozen_at"]);
    this.sizeBytes = number(value["size_bytes"]);
    this.memoryBytes = number(value["memory_bytes"]);
    this.diskBytes = number(value["disk_bytes"]);
    this.metadata = strings(value["metadata"]);
    this.raw = value;
    this.#transport = transport;
  }

  static list(options: ConnectionOptions & CallOptions = {}): Promise<Space[]> {
    return Space.listOn(new Transport(resolve(options)), options);
  }

  /** NotFoundError when there is none. */
  static get(id: string, options: ConnectionOptions & CallOptions = {}): Promise<Space> {
    return Space.getOn(new Transport(resolve(options)), id, options);
  }

  /** @internal */
  static async listOn(transport: Transport, options: CallOptions): Promise<Space[]> {
    return list(await transport.json(calls.spaceList(), options.signal)).map((value) => new Space(transport, value));
  }

  /** @internal */
  static async getOn(transport: Transport, id: string, options: CallOptions): Promise<Space> {
    return new Space(transport, object(await transport.json(calls.space(id), options.signal)));
  }

  /** The sandbox, awake. The same as `Sandbox.resume(space.id)`. */
  resume(options: CallOptions = {}): Promise<Sandbox> {
    return Sandbox.resumeOn(this.#transport, this.id, options);
  }

  /** Delete it with its sandbox. Nothing happens when it is gone already. */
  async delete(): Promise<void> {
    await quietly(this.#transport.json(calls.spaceDelete(this.id)));
  }
}

async function quietly(deleting: Promise<unknown>): Promise<void> {
  try {
    await deleting;
  } catch (error) {
    if (!(error instanceof NotFoundError)) throw error;
  }
}
