/** A session of the Agents SDK's sandbox runtime: its calls, on a sandbox. */

import { applyDiff } from "@openai/agents";

import { UnsupportedError } from "../errors.js";
import type { Sandbox } from "../sandbox.js";
import { Running, type ExecResult } from "./agents-running.js";
import { writeEntry, type EntryLike } from "./agents-entries.js";

/** What the Agents SDK keeps of a session. */
export interface CellaSessionState {
  manifest: any;
  sandboxId: string;
  environment?: Record<string, string>;
  [name: string]: unknown;
}

/** Arguments of `exec`. Times in milliseconds; a token is taken for four characters. */
export interface ExecArgs {
  cmd: string;
  workdir?: string | undefined;
  shell?: string | undefined;
  login?: boolean | undefined;
  tty?: boolean | undefined;
  yieldTimeMs?: number | undefined;
  maxOutputTokens?: number | undefined;
  runAs?: string | undefined;
}

const MAX_IMAGE = 10 * 1024 * 1024; // what the framework's own sessions allow

/** A session of `CellaSandboxClient`. `sandbox` is the cell it works in. */
export class CellaSandboxSession {
  readonly state: CellaSessionState;
  readonly sandbox: Sandbox;
  #running = new Map<number, Running>();
  #lastId = 0;

  /** @internal */
  constructor(sandbox: Sandbox, state: CellaSessionState) {
    this.sandbox = sandbox;
    this.state = state;
  }

  /** Where relative paths start. */
  get root(): string {
    return this.state.manifest.root;
  }

  // ---- commands ----

  /** Run a command; one that takes longer than `yieldTimeMs` goes on, and the answer has its `sessionId`. */
  async exec(args: ExecArgs): Promise<ExecResult> {
    const running = await Running.start(this.sandbox, { ...args, cwd: this.#path(args.workdir ?? ""), user: user(args.runAs) });
    const result = await running.wait(args.yieldTimeMs ?? 10_000, args.maxOutputTokens);
    if (running.ended) return result;
    this.#running.set(++this.#lastId, running);
    return { ...result, sessionId: this.#lastId };
  }

  async execCommand(args: ExecArgs): Promise<string> {
    return told(await this.exec(args));
  }

  /** Type into a command that goes on, and give what it printed since. `\u0003` interrupts it. */
  async writeStdin(args: { sessionId: number; chars?: string | undefined; yieldTimeMs?: number | undefined; maxOutputTokens?: number | undefined }): Promise<string> {
    const running = this.#running.get(args.sessionId);
    if (!running) return `There is no session ${args.sessionId}: it has ended, or never was.`;
    running.write(args.chars ?? "");
    const result = await running.wait(args.yieldTimeMs ?? 250, args.maxOutputTokens);
    if (running.ended) this.#running.delete(args.sessionId);
    return told(running.ended ? result : { ...result, sessionId: args.sessionId });
  }

  supportsPty(): boolean {
    return true;
  }

  // ---- files ----

  async readFile(args: { path: string; runAs?: string | undefined; maxBytes?: number | undefined }): Promise<Uint8Array> {
    return this.sandbox.filesystem.read(this.#path(args.path), { format: "bytes", length: args.maxBytes });
  }

  async listDir(args: { path: string }): Promise<{ name: string; path: string; type: "file" | "dir" | "other" }[]> {
    const entries = await this.sandbox.filesystem.list(this.#path(args.path));
    return entries.map(({ name, isDirectory, isFile }) => ({
      name,
      path: args.path === "" || args.path === "." ? name : `${args.path.replace(/\/$/, "")}/${name}`,
      type: isDirectory ? "dir" : isFile ? "file" : "other",
    }));
  }

  async pathExists(path: string): Promise<boolean> {
    return this.sandbox.filesystem.exists(this.#path(path));
  }

  async directoryExists(path: string): Promise<boolean> {
    return (await this.pathExists(path)) && (await this.sandbox.filesystem.stat(this.#path(path))).isDirectory;
  }

  async viewImage(args: { path: string }): Promise<{ type: "image"; image: { data: string; mediaType: string } }> {
    const { size, isFile } = await this.sandbox.filesystem.stat(this.#path(args.path));
    if (!isFile) throw new UnsupportedError(`${args.path} is not a file`);
    if (size > MAX_IMAGE) throw new UnsupportedError(`${args.path} exceeds the 10 MB limit`);
    const data = await this.readFile(args);
    const mediaType = mediaTypeOf(data);
    if (!mediaType) throw new UnsupportedError(`${args.path} is not a supported image file`);
    return { type: "image", image: { data: base64(data), mediaType } };
  }

  /** What `apply_patch` works with. */
  createEditor() {
    const files = this.sandbox.filesystem;
    return {
      createFile: async ({ path, diff }: { path: string; diff: string }) => {
        await files.write(this.#path(path), applyDiff("", diff, "create"));
        return { status: "completed" as const, output: `Created ${path}` };
      },
      updateFile: async ({ path, diff, moveTo }: { path: string; diff: string; moveTo?: string | undefined }) => {
        const fresh = applyDiff(await files.read(this.#path(path)), diff);
        await files.write(this.#path(path), fresh);
        if (moveTo !== undefined) await files.move(this.#path(path), this.#path(moveTo));
        return { status: "completed" as const, output: `Updated ${moveTo ?? path}` };
      },
      deleteFile: async ({ path }: { path: string }) => {
        await files.remove(this.#path(path));
        return { status: "completed" as const, output: `Deleted ${path}` };
      },
    };
  }

  // ---- the workspace ----

  async materializeEntry(args: { path: string; entry: EntryLike }): Promise<void> {
    await writeEntry(this.sandbox.filesystem, this.#path(args.path), args.entry, this.state.manifest.extraPathGrants ?? []);
  }

  async applyManifest(manifest: any): Promise<void> {
    if (manifest.root !== this.root) throw new UnsupportedError("the root of a manifest cannot change");
    await this.sandbox.filesystem.mkdir(this.root);
    for (const [path, entry] of Object.entries(manifest.entries as Record<string, EntryLike>)) await this.materializeEntry({ path, entry });
  }

  /** The workspace as a tar. */
  async persistWorkspace(): Promise<Uint8Array> {
    return new Uint8Array(await new Response(await this.sandbox.filesystem.readTar(this.root)).arrayBuffer());
  }

  async hydrateWorkspace(data: string | ArrayBuffer | Uint8Array): Promise<void> {
    await this.sandbox.filesystem.writeTar(this.root, data);
  }

  // ---- life ----

  async running(): Promise<boolean> {
    return (await this.sandbox.info()).status === "running";
  }

  /** End what still runs, and the sandbox (a persistent one is frozen). */
  async close(): Promise<void> {
    for (const running of this.#running.values()) running.close();
    this.#running.clear();
    await this.sandbox.close();
  }

  #path(path: string): string {
    if (path.startsWith("/")) return path;
    return path === "" || path === "." ? this.root : `${this.root}/${path}`;
  }
}

/** How the framework tells its models about a command. */
function told(result: ExecResult): string {
  const state = result.sessionId === undefined ? `Process exited with code ${result.exitCode ?? "unknown"}` : `Process running with session ID ${result.sessionId}`;
  const cut = result.originalTokenCount === undefined ? [] : [`Original token count: ${result.originalTokenCount}`];
  return [`Wall time: ${result.wallTimeSeconds.toFixed(4)} seconds`, state, ...cut, "Output:", result.output].join("\n");
}

function user(runAs: string | undefined): "user" | "root" | undefined {
  if (runAs === undefined || runAs === "user" || runAs === "root") return runAs;
  throw new UnsupportedError(`a cell has the users "user" and "root", not "${runAs}"`);
}

function mediaTypeOf(data: Uint8Array): string | null {
  const head = String.fromCharCode(...data.subarray(0, 12));
  if (head.startsWith("\x89PNG")) return "image/png";
  if (head.startsWith("\xff\xd8\xff")) return "image/jpeg";
  if (head.startsWith("GIF8")) return "image/gif";
  return head.startsWith("RIFF") && head.endsWith("WEBP") ? "image/webp" : null;
}

function base64(data: Uint8Array): string {
  let binary = "";
  for (let from = 0; from < data.length; from += 8192) binary += String.fromCharCode(...data.subarray(from, from + 8192));
  return btoa(binary);
}
