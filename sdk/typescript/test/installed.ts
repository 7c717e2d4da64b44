/** The package as npm would publish it, in a node_modules of its own. */

import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

export const root = fileURLToPath(new URL("../..", import.meta.url));

/** The new directory below which `@cella/sdk` is found. Whoever asked for it deletes it. */
export function installed(): string {
  const home = mkdtempSync(join(tmpdir(), "cella-ts-package-"));
  execFileSync("npm", ["pack", "--ignore-scripts", "--silent", "--pack-destination", home], { cwd: root, stdio: ["ignore", "ignore", "inherit"] });
  mkdirSync(join(home, "node_modules/@cella/sdk"), { recursive: true });
  const { version } = JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as { version: string };
  execFileSync("tar", ["-xzf", join(home, `cella-sdk-${version}.tgz`), "--strip-components=1", "-C", join(home, "node_modules/@cella/sdk")]);
  return home;
}
