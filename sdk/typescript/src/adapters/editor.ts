/** The commands of Anthropic's text editor tool, on a sandbox's files. */

import { InvalidRequest } from "../errors.js";
import type { Sandbox } from "../sandbox.js";

/** What a command did: a sentence or a file's lines for the model, and numbers for the server tool's shapes. @internal */
export interface Edited {
  text: string;
  view?: { content: string; startLine: number; lines: number; totalLines: number };
  created?: { isUpdate: boolean };
  replaced?: { start: number; oldLines: string[]; newLines: string[] };
}

/** Throws InvalidRequest for what cannot be done as it was asked, and what the file system refuses. @internal */
export async function edit(sandbox: Sandbox, input: Record<string, unknown>): Promise<Edited> {
  const path = need(input, "path");
  const files = sandbox.filesystem;
  switch (input["command"]) {
    case "view":
      return view(sandbox, path, input["view_range"]);
    case "create": {
      const isUpdate = await files.exists(path);
      await files.write(path, need(input, "file_text"));
      return { text: `${path} is written.`, created: { isUpdate } };
    }
    case "str_replace": {
      const [before, old, fresh] = [await read(sandbox, path), need(input, "old_str"), need(input, "new_str", "")];
      const times = before.split(old).length - 1;
      if (old === "" || times !== 1) throw new InvalidRequest(`old_str is ${times ? `${times} times` : "not"} in ${path}; it must be there exactly once`);
      const at = before.indexOf(old);
      await files.write(path, before.slice(0, at) + fresh + before.slice(at + old.length));
      const replaced = { start: before.slice(0, at).split("\n").length, oldLines: old.split("\n"), newLines: fresh.split("\n") };
      return { text: `${path} is changed.`, replaced };
    }
    case "insert": {
      const lines = (await read(sandbox, path)).split("\n");
      const at = Number(input["insert_line"]);
      if (!Number.isInteger(at) || at < 0 || at > lines.length) throw new InvalidRequest(`insert_line must be 0 to ${lines.length}`);
      const fresh = need(input, "insert_text" in input ? "insert_text" : "new_str").replace(/\n$/, "").split("\n");
      await files.write(path, [...lines.slice(0, at), ...fresh, ...lines.slice(at)].join("\n"));
      return { text: `${path} is changed.`, replaced: { start: at + 1, oldLines: [], newLines: fresh } };
    }
    default:
      throw new InvalidRequest(`the command "${String(input["command"])}" is none of view, create, str_replace, insert`);
  }
}

async function view(sandbox: Sandbox, path: string, range: unknown): Promise<Edited> {
  if ((await sandbox.filesystem.stat(path)).isDirectory) {
    const entries = await sandbox.filesystem.list(path, { depth: 2 });
    const content = entries.map((entry) => entry.path + (entry.isDirectory ? "/" : "")).join("\n");
    return { text: content, view: { content, startLine: 1, lines: entries.length, totalLines: entries.length } };
  }
  const all = (await read(sandbox, path)).replace(/\n$/, "").split("\n");
  const [from, to] = Array.isArray(range) ? (range as number[]) : [1, -1];
  const first = Math.max(1, Number(from) || 1);
  const chosen = all.slice(first - 1, to === undefined || to === -1 ? undefined : Number(to));
  const text = chosen.map((line, i) => `${String(first + i).padStart(6)}\t${line}`).join("\n");
  return { text, view: { content: chosen.join("\n"), startLine: first, lines: chosen.length, totalLines: all.length } };
}

async function read(sandbox: Sandbox, path: string): Promise<string> {
  const bytes = await sandbox.filesystem.read(path, { format: "bytes" });
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    throw new InvalidRequest(`${path} is not a text file`);
  }
}

function need(input: Record<string, unknown>, name: string, otherwise?: string): string {
  const value = input[name] ?? otherwise;
  if (typeof value !== "string") throw new InvalidRequest(`${name} is missing`);
  return value;
}
