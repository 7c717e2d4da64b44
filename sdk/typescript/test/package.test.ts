/** The package as npm would publish it: imported and required. */

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";

import { installed } from "./installed.js";

let home: string;
before(() => {
  home = installed();
});
after(() => rmSync(home, { recursive: true }));

function run(name: string, source: string): unknown {
  writeFileSync(join(home, name), source);
  return JSON.parse(execFileSync(process.execPath, [join(home, name)], { encoding: "utf8" })) as unknown;
}

const NAMES = "Object.keys(sdk).sort()";
const LOOK = `console.log(JSON.stringify({ names: ${NAMES}, kind: typeof sdk.Sandbox.create, error: new sdk.FileNotFound("x") instanceof sdk.FilesystemError }))`;

test("import and require give the same names", () => {
  const imported = run("a.mjs", `import * as sdk from "@cella/sdk"; ${LOOK}`) as { names: string[]; kind: string; error: boolean };
  const required = run("a.cjs", `const sdk = require("@cella/sdk"); ${LOOK}`) as typeof imported;
  assert.deepEqual(required.names.filter((name) => name !== "__esModule"), imported.names);
  assert.deepEqual([required.kind, required.error, imported.kind, imported.error], ["function", true, "function", true]);
  for (const name of ["Sandbox", "Cella", "Execution", "CellaError", "NoSpaceError", "Snapshot"]) assert.ok(imported.names.includes(name), name);
});

test("the package has no dependencies and every file that it points to", () => {
  const at = join(home, "node_modules/@cella/sdk");
  const manifest = JSON.parse(readFileSync(join(at, "package.json"), "utf8")) as Record<string, unknown>;
  assert.equal(manifest["dependencies"], undefined);
  const paths = JSON.stringify([manifest["exports"], manifest["main"], manifest["module"], manifest["types"]]).match(/\.\/dist[^"]+/g)!;
  assert.ok(paths.length >= 7);
  for (const path of paths) assert.ok(readFileSync(join(at, path), "utf8").length, path);
});
