/**
 * A sandbox backend for the OpenAI Agents SDK's `SandboxAgent`: shell, files, patches, images, in cells of your own machine.
 *
 * ```ts
 * import { SandboxAgent } from "@openai/agents/sandbox";
 * import { CellaSandboxClient } from "@cella/sdk/openai-agents-sandbox";
 *
 * const agent = new SandboxAgent({ name: "Engineer", instructions });
 * await run(agent, "Fix the failing test.", { sandbox: { client: new CellaSandboxClient() } });
 * ```
 *
 * Needs `@openai/agents` beside it.
 *
 * @packageDocumentation
 */

import { Manifest } from "@openai/agents/sandbox";

import type { ConnectionOptions } from "../config.js";
import { UnsupportedError } from "../errors.js";
import { Sandbox, type CreateOptions } from "../sandbox.js";
import { CellaSandboxSession, type CellaSessionState } from "./agents-session.js";

export { CellaSandboxSession };
export type { CellaSessionState };

/** How sandboxes are made: `template`, `limits`, `ttlSeconds`, `host`… With `persistent` a run's sandbox is frozen instead of deleted. */
export type CellaClientOptions = Omit<CreateOptions, "signal"> & ConnectionOptions;

/** A `SandboxClient` of the Agents SDK. Each run that is given no session gets a sandbox of its own, closed with it. */
export class CellaSandboxClient {
  readonly backendId = "cella";
  readonly supportsDefaultOptions = true;
  #options: CellaClientOptions;

  constructor(options: CellaClientOptions = {}) {
    this.#options = options;
  }

  /** A sandbox with what the manifest names in it. `options` are laid over those of the client. */
  async create(args: any = {}, manifestOptions?: any): Promise<CellaSandboxSession> {
    const bare = args instanceof Manifest;
    const manifest = manifestOf(bare ? args : args.manifest);
    const snapshot = bare ? undefined : args.snapshot;
    // "local" is what the framework asks for by default; here `persistent` is what keeps a workspace.
    if (snapshot && snapshot.type !== "noop" && snapshot.type !== "local") {
      throw new UnsupportedError(`sandbox snapshots of type "${snapshot.type}" are not kept by this backend`, { hint: "use fromSnapshot or persistent" });
    }
    const options: CellaClientOptions = { ...this.#options, ...(bare ? manifestOptions : args.options) };
    const env = { ...options.env, ...(await manifest.resolveEnvironment()) };
    const sandbox = await Sandbox.create({ ...options, env });
    try {
      const session = new CellaSandboxSession(sandbox, { manifest, sandboxId: sandbox.id, environment: env });
      await session.applyManifest(manifest);
      return session;
    } catch (error) {
      await sandbox.delete().catch(() => {});
      throw error;
    }
  }

  /** The session of a sandbox that exists. */
  async resume(state: CellaSessionState): Promise<CellaSandboxSession> {
    return new CellaSandboxSession(await Sandbox.connect(state.sandboxId, this.#options), state);
  }

  async delete(state: CellaSessionState): Promise<void> {
    await (await this.resume(state)).sandbox.delete();
  }

  async serializeSessionState(state: CellaSessionState): Promise<Record<string, unknown>> {
    return { sandboxId: state.sandboxId };
  }

  async deserializeSessionState(state: Record<string, unknown>): Promise<CellaSessionState> {
    return { ...state, manifest: manifestOf(state["manifest"]), sandboxId: String(state["sandboxId"]) };
  }

  /** What a run leaves behind is there for the next one only when it is persistent. */
  canPersistOwnedSessionState(): boolean {
    return this.#options.persistent === true;
  }
}

function manifestOf(given: unknown): Manifest {
  return given instanceof Manifest ? given : new Manifest(given ?? {});
}
