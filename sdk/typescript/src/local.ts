/** Files of this machine, where the runtime has `node:fs` (Node, Bun, Deno). Loaded when first used. */

import { CellaError } from "./errors.js";

/** A local path, or a file: URL. */
export type LocalPath = string | URL;

/** The bytes of a local file, as a stream that reads as fast as it is taken. @internal */
export async function* readLocal(path: LocalPath): AsyncGenerator<Uint8Array, void, undefined> {
  const { open } = await import("node:fs/promises");
  const file = await open(path, "r");
  try {
    for (;;) {
      const { bytesRead, buffer } = await file.read(new Uint8Array(256 * 1024), 0, 256 * 1024, null);
      if (!bytesRead) return;
      yield buffer.subarray(0, bytesRead);
    }
  } finally {
    await file.close();
  }
}

/** Write the pieces to a local file that appears only when all are there. Returns their bytes. @internal */
export async function writeLocal(path: LocalPath, pieces: AsyncIterable<Uint8Array>): Promise<number> {
  const [{ open, rename, rm }, { fileURLToPath }] = await Promise.all([import("node:fs/promises"), import("node:url")]);
  const target = typeof path === "string" ? path : fileURLToPath(path);
  const partial = `${target}.part`;
  let total = 0;
  try {
    const file = await open(partial, "w");
    try {
      for await (const piece of pieces) {
        for (let at = 0; at < piece.length; ) {
          const { bytesWritten } = await file.write(piece, at);
          if (!bytesWritten) throw new CellaError(`${partial} takes no more bytes`);
          at += bytesWritten;
        }
        total += piece.length;
      }
    } finally {
      await file.close();
    }
    await rename(partial, target);
  } catch (error) {
    await rm(partial, { force: true });
    throw error;
  }
  return total;
}
