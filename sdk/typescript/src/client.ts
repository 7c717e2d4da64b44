/** One daemon, for programs that use several or do not want the environment's. */

import { resolve, type ConnectionOptions } from "./config.js";
import type { SandboxInfo } from "./models.js";
import type { CallOptions } from "./runner.js";
import { Sandbox, type CreateOptions, type SandboxFilter } from "./sandbox.js";
import { Snapshot, Space, type SnapshotFilter } from "./snapshots.js";
import { Transport } from "./transport.js";

/** `cella.sandboxes`. */
export class Sandboxes {
  #transport: Transport;

  /** @internal */
  constructor(transport: Transport) {
    this.#transport = transport;
  }

  /** As {@link Sandbox.create}. */
  create(options?: CreateOptions): Promise<Sandbox>;
  create(template: string, options?: CreateOptions): Promise<Sandbox>;
  create(first: string | CreateOptions = {}, second: CreateOptions = {}): Promise<Sandbox> {
    return Sandbox.createOn(this.#transport, typeof first === "string" ? { ...second, template: first } : first);
  }

  /** Living and frozen sandboxes, oldest first. */
  list(options: SandboxFilter & CallOptions = {}): Promise<SandboxInfo[]> {
    return Sandbox.listOn(this.#transport, options);
  }

  /** A sandbox that exists already. NotFoundError when there is none, GoneError when it has ended. */
  get(id: string, options: CallOptions = {}): Promise<Sandbox> {
    return Sandbox.connectOn(this.#transport, id, options);
  }

  /** The same as {@link get}. */
  connect(id: string, options: CallOptions = {}): Promise<Sandbox> {
    return this.get(id, options);
  }

  /** As {@link Sandbox.resume}. */
  resume(spaceId: string, options: CallOptions = {}): Promise<Sandbox> {
    return Sandbox.resumeOn(this.#transport, spaceId, options);
  }
}

/** `cella.snapshots`. */
export class Snapshots {
  #transport: Transport;

  /** @internal */
  constructor(transport: Transport) {
    this.#transport = transport;
  }

  /** Oldest first; with `sandboxId` or `name` only those. */
  list(options: SnapshotFilter & CallOptions = {}): Promise<Snapshot[]> {
    return Snapshot.listOn(this.#transport, options);
  }

  /** NotFoundError when there is none. */
  get(id: string, options: CallOptions = {}): Promise<Snapshot> {
    return Snapshot.getOn(this.#transport, id, options);
  }

  /** Nothing happens when it is gone already. */
  delete(id: string): Promise<void> {
    return new Snapshot(this.#transport, { id }).delete();
  }
}

/** `cella.spaces`. */
export class Spaces {
  #transport: Transport;

  /** @internal */
  constructor(transport: Transport) {
    this.#transport = transport;
  }

  list(options: CallOptions = {}): Promise<Space[]> {
    return Space.listOn(this.#transport, options);
  }

  /** NotFoundError when there is none. */
  get(id: string, options: CallOptions = {}): Promise<Space> {
    return Space.getOn(this.#transport, id, options);
  }

  /** Deletes its sandbox too. Nothing happens when it is gone already. */
  delete(id: string): Promise<void> {
    return new Space(this.#transport, { space_id: id }).delete();
  }
}

/**
 * A daemon and a key.
 *
 * ```ts
 * const cella = new Cella({ host: "https://cella.example", apiKey });
 * await using sandbox = await cella.sandboxes.create({ ttlSeconds: 600 });
 * ```
 */
export class Cella {
  readonly sandboxes: Sandboxes;
  readonly snapshots: Snapshots;
  readonly spaces: Spaces;

  /** Throws InvalidRequest when `host` is no address. Asks nobody yet. */
  constructor(options: ConnectionOptions = {}) {
    const transport = new Transport(resolve(options));
    this.sandboxes = new Sandboxes(transport);
    this.snapshots = new Snapshots(transport);
    this.spaces = new Spaces(transport);
  }
}
