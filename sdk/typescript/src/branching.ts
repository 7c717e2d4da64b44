/** The part of Sandbox that is about branches and the disk. */

import { Branches, diffOf, promotionOf, TreeNode, type Diff, type Promotion } from "./branches.js";
import * as calls from "./calls.js";
import { list, object, textOrNull, type JsonObject } from "./json.js";
import type { CallOptions } from "./runner.js";
import type { Sandbox } from "./sandbox.js";
import { Snapshot } from "./snapshots.js";
import { madeOrUndone, type Transport } from "./transport.js";

/** Options of `fork`. An abort rejects at once; copies that are made all the same are deleted. */
export interface ForkOptions extends CallOptions {
  /** Laid over the parent's. */
  metadata?: Record<string, string> | undefined;
  ttlSeconds?: number | null | undefined;
  idleTimeoutSeconds?: number | null | undefined;
}

export interface DiffOptions extends CallOptions {
  /** With a unified diff of text files. Default false. */
  text?: boolean | undefined;
  /** With the Python variables that differ. Default true. */
  variables?: boolean | undefined;
  /** Whose variables. Default: the default context's. */
  context?: { id: string } | string | undefined;
}

/** What a live sandbox can be made into: copies, another branch's state, a file. */
export abstract class Branching {
  abstract readonly id: string;
  /** @internal */
  protected abstract readonly transport: Transport;
  /** @internal */
  protected abstract branch(description: JsonObject): Sandbox;
  /** @internal */
  protected abstract learnSpace(spaceId: string): void;
  /** @internal */
  abstract mergedAway(parentId: string): void;

  // ---- copies ----

  /**
   * `n` (1 to 100) copies of the sandbox as it is now: memory, files, what runs. It goes on itself.
   *
   * The copies share memory and files with it until somebody writes. They have its environment, limits and metadata, a
   * time to live counted anew, and are not persistent. Code that runs goes on in every copy, as an execution of its own.
   *
   * The answer's `errors` has the reason for each copy that could not be made. Throws when not a single one could be
   * made: LimitError, NoSpaceError, UnsupportedError…
   */
  fork(n = 1, options: ForkOptions = {}): Promise<Branches> {
    const { metadata, ttlSeconds, idleTimeoutSeconds } = options;
    const fields = { count: n, metadata, ttl_seconds: ttlSeconds, idle_timeout_seconds: idleTimeoutSeconds };
    return madeOrUndone(async () => {
      const answer = object(await this.transport.json(calls.fork(this.id, fields)));
      const described = new Map(list(answer["sandboxes"] ?? []).map((value) => [value["id"], value]));
      const ids = Array.isArray(answer["children"]) ? (answer["children"] as unknown[]) : [];
      return Branches.made(ids.map((id) => this.branch(described.get(id) ?? { id })), answer);
    }, options.signal, (branches) => branches.close());
  }

  /**
   * Like {@link fork}, for siblings of which one will be chosen: they share a `treeId` (also in their metadata), and
   * {@link promote} of the winner can delete the others.
   */
  forkTree(count = 2, options: CallOptions & { metadata?: Record<string, string> | undefined } = {}): Promise<Branches> {
    return madeOrUndone(async () => {
      const answer = object(await this.transport.json(calls.forkTree(this.id, { count, metadata: options.metadata })));
      return Branches.made(list(answer["children"] ?? []).map((value) => this.branch(value)), answer);
    }, options.signal, (branches) => branches.close());
  }

  // ---- choosing ----

  /** Of the winner: name it among its siblings of {@link forkTree}, and with `cleanupSiblings` delete those. */
  async promote(options: CallOptions & { cleanupSiblings?: boolean | undefined; treeId?: string | undefined } = {}): Promise<Promotion> {
    const fields = { cleanup_siblings: options.cleanupSiblings ?? false, tree_id: options.treeId };
    return promotionOf(object(await this.transport.json(calls.promote(this.id, fields), options.signal)));
  }

  /**
   * Take over the state of `branch` (a descendant or a sibling, or its id): this object's id names that state from now on.
   *
   * What this sandbox was is gone, and so is the id of `branch`: its object says so (`mergedInto`), and closing it is
   * harmless. This sandbox keeps its metadata, time limits and Space; other branches stay.
   *
   * Throws InvalidRequest for a sandbox into itself, ConflictError when they are not of the same family, GoneError.
   */
  async mergeInto(branch: Sandbox | string, options: CallOptions = {}): Promise<void> {
    await this.transport.json(calls.merge(this.id, typeof branch === "string" ? branch : branch.id), options.signal);
    if (typeof branch !== "string") branch.mergedAway(this.id);
  }

  // ---- looking ----

  /**
   * What happened here since it was like `other`: a sandbox of the same template (or its id), `"template"`, `"parent"`.
   * Without one: the parent if there is one, else the template.
   */
  async diff(other?: Sandbox | string | null, options: DiffOptions = {}): Promise<Diff> {
    const against = typeof other === "string" ? other : other?.id;
    const context = typeof options.context === "string" ? options.context : options.context?.id;
    const call = calls.diff(this.id, against, options.text ?? false, options.variables ?? true, context);
    return diffOf(object(await this.transport.json(call, options.signal)));
  }

  /** The family, from its root: running, frozen and ended ones. */
  async tree(options: CallOptions = {}): Promise<TreeNode> {
    return TreeNode.from(object(object(await this.transport.json(calls.tree(this.id), options.signal))["tree"]));
  }

  // ---- to the disk ----

  /** Write a copy of the sandbox to the disk; it goes on itself. NoSpaceError when it does not fit. */
  async snapshot(name?: string, options: CallOptions = {}): Promise<Snapshot> {
    const answer = await this.transport.json(calls.snapshotCreate(this.id, name), options.signal);
    return new Snapshot(this.transport.unwatched(), object(answer));
  }

  /** Those made of this sandbox, oldest first. */
  snapshots(options: CallOptions = {}): Promise<Snapshot[]> {
    return Snapshot.listOn(this.transport.unwatched(), { ...options, sandboxId: this.id });
  }

  /**
   * Put the sandbox away on the disk and free its memory. Its id stays; the next request to it wakes it, with the same
   * live objects. Also for one that is not persistent.
   */
  async hibernate(options: CallOptions = {}): Promise<void> {
    const space = textOrNull(object(await this.transport.json(calls.hibernate(this.id), options.signal))["space_id"]);
    if (space) this.learnSpace(space);
  }

  /** Bring it back now, instead of with the next request. Nothing happens when it is awake. */
  async wake(options: CallOptions = {}): Promise<void> {
    await this.transport.json(calls.wake(this.id), options.signal);
  }
}
