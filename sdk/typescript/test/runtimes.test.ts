/** Bun and Deno, from npm. Needs one Node only. */

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

import { root } from "./installed.js";

const smoke = fileURLToPath(new URL("smoke.js", import.meta.url));
function runs(program: string, ...options: string[]): void {
  const { status, stdout, stderr, error } = spawnSync(join(root, "node_modules", program), ["run", ...options, smoke], { cwd: root, encoding: "utf8", timeout: 120_000 });
  assert.equal(status, 0, stderr + String(error ?? ""));
  assert.match(stdout, /all is well/);
}

test("Bun", () => runs("@oven/bun-linux-x64/bin/bun"));
test("Deno", () => runs("@deno/linux-x64-glibc/deno", "--no-prompt", "--allow-net", "--allow-env", "--allow-read"));
