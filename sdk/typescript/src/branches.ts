/** What the requests about branches answer: copies, differences, the family. Sizes in bytes, times in milliseconds. */

import { errorFor, type CellaError } from "./errors.js";
import { list, number, numberOrNull, object, strings, text, textOrNull, type JsonObject } from "./json.js";
import type { Sandbox } from "./sandbox.js";

/** Something that a copy does not have: a connection, a pipe, a process that is no context. `text` says it in words. */
export interface NotCarried {
  kind: string;
  text: string;
  /** The copy it is about; null: every one. */
  sandboxId: string | null;
  contextId: string | null;
  fd: number | null;
  pid: number | null;
}

/**
 * The copies that `fork` made: an array of sandboxes, and what there is to say about them. Leaving its `await using`
 * block closes every one that is not merged.
 *
 * ```ts
 * await using branches = await sandbox.fork(4);
 * for (const branch of branches) …
 * ```
 */
export class Branches extends Array<Sandbox> {
  /** What `map`, `filter` and the like make is a plain array. */
  static override get [Symbol.species](): ArrayConstructor {
    return Array;
  }

  /** One for each copy that could not be made (its `index` says which). */
  readonly errors: CellaError[] = [];
  /** What the copies do not have. */
  readonly notCarried: NotCarried[] = [];
  /** How long the parent stood still. */
  readonly frozenMs: number | null = null;
  /** Of `forkTree`, for `promote`. */
  readonly treeId: string | null = null;

  /** @internal */
  static made(sandboxes: Sandbox[], answer: JsonObject): Branches {
    const branches = new Branches();
    branches.push(...sandboxes);
    return Object.assign(branches, {
      errors: list(answer["errors"] ?? []).map(failure),
      notCarried: list(answer["not_carried"] ?? []).map(notCarried),
      frozenMs: numberOrNull(answer["frozen_ms"]),
      treeId: textOrNull(answer["tree_id"]),
    });
  }

  /** Delete every copy that is not merged or gone already. When several fail, an AggregateError has their errors. */
  async close(): Promise<void> {
    const ends = await Promise.allSettled([...this].map((sandbox) => sandbox.close()));
    const errors = ends.flatMap((end) => (end.status === "rejected" ? [end.reason as unknown] : []));
    if (errors.length === 1) throw errors[0];
    if (errors.length) throw new AggregateError(errors, `${errors.length} of ${ends.length} branches could not be closed`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

function failure(value: JsonObject, position: number): CellaError {
  // fork says "error", fork-tree "err" (a sentence, or an error object).
  const err = value["err"];
  const error = errorFor(null, { ...(typeof err === "object" ? object(err) : { error: err }), ...value });
  error.index = number(value["index"], position);
  return error;
}

/** @internal */
export function notCarried(value: JsonObject): NotCarried {
  return {
    kind: text(value["kind"]),
    text: text(value["text"]),
    sandboxId: textOrNull(value["sandbox_id"]),
    contextId: textOrNull(value["context_id"]),
    fd: numberOrNull(value["fd"]),
    pid: numberOrNull(value["pid"]),
  };
}

/** A path that differs. */
export interface FileChange {
  path: string;
  type: "file" | "directory" | "symlink" | "other";
  /** null: not told. */
  size: number | null;
  /** Of a modified file. */
  sizeBefore: number | null;
  /** Unified, with `text: true` and where both are text. */
  textDiff: string | null;
  binary: boolean;
  raw: JsonObject;
}

/** A variable that differs: its type's name and a short text of its value, and both as they were before. */
export interface VariableChange {
  name: string;
  type: string;
  value: string;
  typeBefore: string | null;
  valueBefore: string | null;
}

/** When there are more than one answer holds: how many of how many are here. null: all. */
export type Shown = { shown: number; total: number } | null;

export interface FileChanges {
  added: FileChange[];
  removed: FileChange[];
  modified: FileChange[];
  truncated: Shown;
}

export interface VariableChanges {
  added: VariableChange[];
  removed: VariableChange[];
  changed: VariableChange[];
  /** Names of variables that may differ: comparing them would run code or take too long. */
  unknown: string[];
  truncated: Shown;
}

/** How a sandbox differs from another one. */
export interface Diff {
  sandboxId: string;
  /** `"template"`, or the other sandbox's id. */
  against: string;
  files: FileChanges;
  /** null: not asked for, or `variablesError`. */
  variables: VariableChanges | null;
  /** Why the variables could not be told. */
  variablesError: CellaError | null;
  /** Nothing is known to differ. */
  isEmpty: boolean;
  raw: JsonObject;
}

/** @internal */
export function diffOf(raw: JsonObject): Diff {
  const inFiles = object(raw["files"]);
  const files: FileChanges = {
    added: list(inFiles["added"]).map(fileChange),
    removed: list(inFiles["removed"]).map(fileChange),
    modified: list(inFiles["modified"]).map(fileChange),
    truncated: shown(inFiles["truncated"]),
  };
  const variables = raw["variables"] ? variableChanges(object(raw["variables"])) : null;
  const all = [files.added, files.removed, files.modified, variables?.added, variables?.removed, variables?.changed];
  return {
    sandboxId: text(raw["sandbox_id"]),
    against: text(raw["against"]),
    files,
    variables,
    variablesError: raw["variables_error"] ? errorFor(null, raw["variables_error"]) : null,
    isEmpty: all.every((changes) => !changes?.length),
    raw,
  };
}

function fileChange(raw: JsonObject): FileChange {
  return {
    path: text(raw["path"]),
    type: text(raw["type"], "file") as FileChange["type"],
    size: numberOrNull(raw["size"]),
    sizeBefore: numberOrNull(raw["size_before"]),
    textDiff: textOrNull(raw["text_diff"]),
    binary: raw["binary"] === true,
    raw,
  };
}

function variableChanges(value: JsonObject): VariableChanges {
  const changes = (kind: string): VariableChange[] =>
    list(value[kind]).map((v) => ({
      name: text(v["name"]),
      type: text(v["type"]),
      value: text(v["value"]),
      typeBefore: textOrNull(v["type_before"]),
      valueBefore: textOrNull(v["value_before"]),
    }));
  const unknown = Array.isArray(value["unknown"]) ? (value["unknown"] as unknown[]) : [];
  return {
    added: changes("added"),
    removed: changes("removed"),
    changed: changes("changed"),
    unknown: unknown.map((name) => text(name)),
    truncated: shown(value["truncated"]),
  };
}

function shown(value: unknown): Shown {
  return value ? { shown: number(object(value)["shown"]), total: number(object(value)["total"]) } : null;
}

/** A sandbox in its family. Iterate over it for the whole family below it, itself first; `String(node)` draws it. */
export class TreeNode {
  readonly id: string;
  readonly state: "running" | "paused" | "hibernated" | "ended";
  readonly parentId: string | null;
  /** Why it ended. */
  readonly reason: string | null;
  readonly createdAt: string | null;
  readonly endedAt: string | null;
  readonly metadata: Record<string, string>;
  readonly children: TreeNode[] = [];
  readonly raw: JsonObject;

  private constructor(raw: JsonObject) {
    this.id = text(raw["id"]);
    this.state = text(raw["state"]) as TreeNode["state"];
    this.parentId = textOrNull(raw["parent_id"]);
    this.reason = textOrNull(raw["reason"]);
    this.createdAt = textOrNull(raw["created_at"]);
    this.endedAt = textOrNull(raw["ended_at"]);
    this.metadata = strings(raw["metadata"]);
    this.raw = raw;
  }

  /** Not by recursion: a family can be deeper than the stack. @internal */
  static from(raw: JsonObject): TreeNode {
    const root = new TreeNode(raw);
    const waiting = [root];
    for (let node = waiting.pop(); node; node = waiting.pop()) {
      for (const child of list(node.raw["children"] ?? [])) node.children.push(new TreeNode(child));
      waiting.push(...node.children);
    }
    return root;
  }

  *[Symbol.iterator](): Generator<TreeNode, void, undefined> {
    const waiting: TreeNode[] = [this];
    for (let node = waiting.pop(); node; node = waiting.pop()) {
      yield node;
      waiting.push(...[...node.children].reverse());
    }
  }

  find(sandboxId: string): TreeNode | null {
    for (const node of this) if (node.id === sandboxId) return node;
    return null;
  }

  toString(): string {
    const lines: string[] = [];
    const waiting: [TreeNode, string, string][] = [[this, "", ""]];
    for (let next = waiting.pop(); next; next = waiting.pop()) {
      const [node, lead, below] = next;
      lines.push([lead + node.id, node.state, node.reason].filter(Boolean).join(" "));
      [...node.children].reverse().forEach((child, i) => {
        waiting.push([child, below + (i === 0 ? "└─ " : "├─ "), below + (i === 0 ? "   " : "│  ")]);
      });
    }
    return lines.join("\n");
  }
}

/** What `promote` did: the siblings it deleted, and those it could not delete with the reason. */
export interface Promotion {
  winner: string;
  treeId: string | null;
  deleted: string[];
  failures: Record<string, string>;
}

/** @internal */
export function promotionOf(value: JsonObject): Promotion {
  const deleted = Array.isArray(value["deleted"]) ? (value["deleted"] as unknown[]) : [];
  return {
    winner: text(value["winner"]),
    treeId: textOrNull(value["tree_id"]),
    deleted: deleted.map((id) => text(id)),
    failures: strings(value["failures"]),
  };
}
