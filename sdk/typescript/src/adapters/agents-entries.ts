/** Puts the entries of a manifest into a sandbox. */

import { ForbiddenError, UnsupportedError } from "../errors.js";
import type { Filesystem } from "../filesystem.js";

/** An entry as the Agents SDK has it. */
export interface EntryLike {
  type: string;
  [name: string]: any;
}

/**
 * Write an entry and what is in it. Files of this machine must lie in the working directory or below a granted path;
 * symbolic links there are refused.
 * @internal
 */
export async function writeEntry(files: Filesystem, path: string, entry: EntryLike, grants: { path: string }[]): Promise<void> {
  switch (entry.type) {
    case "file":
      await files.write(path, entry["content"]);
      return;
    case "dir":
      await files.mkdir(path);
      for (const [name, child] of Object.entries((entry["children"] ?? {}) as Record<string, EntryLike>)) await writeEntry(files, `${path}/${name}`, child, grants);
      return;
    case "local_file":
    case "local_dir":
      return copyLocal(files, path, await allowed(String(entry["src"]), grants));
    default:
      throw new UnsupportedError(`entries of type "${entry.type}" are not supported by this backend`, { hint: "use file, dir, local_file or local_dir" });
  }
}

async function allowed(source: string, grants: { path: string }[]): Promise<string> {
  const [{ realpath }, { resolve, sep }] = await Promise.all([import("node:fs/promises"), import("node:path")]);
  const real = await realpath(resolve(source));
  const roots = await Promise.all([".", ...grants.map((grant) => grant.path)].map((root) => realpath(resolve(root))));
  if (roots.some((root) => real === root || real.startsWith(root === sep ? sep : root + sep))) return real;
  throw new ForbiddenError(`${source} is outside of the working directory`, { hint: "name its directory in the manifest's extraPathGrants" });
}

async function copyLocal(files: Filesystem, target: string, source: string): Promise<void> {
  const { lstat, readdir } = await import("node:fs/promises");
  const kind = await lstat(source);
  if (kind.isDirectory()) {
    await files.mkdir(target);
    for (const name of await readdir(source)) await copyLocal(files, `${target}/${name}`, `${source}/${name}`);
  } else if (kind.isFile()) {
    await files.upload(source, target, { mode: kind.mode & 0o777 });
  } else {
    throw new UnsupportedError(`${source} is neither a file nor a directory`);
  }
}
