/** The declarations of the package as npm would publish it, compiled against under strict settings. Needs one Node only. */

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { cpSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";

import { installed, root } from "./installed.js";

const tools = join(root, "node_modules");
let home: string;
before(() => {
  home = installed();
});
after(() => rmSync(home, { recursive: true }));

function compile(file: string, options: Record<string, unknown>): void {
  cpSync(join(root, "test/consumer/types.ts"), join(home, file));
  const compilerOptions = {
    target: "ES2022", module: "NodeNext", moduleResolution: "NodeNext", strict: true, exactOptionalPropertyTypes: true,
    noUncheckedIndexedAccess: true, skipLibCheck: false, noEmit: true, typeRoots: [join(tools, "@types")], ...options,
  };
  writeFileSync(join(home, "tsconfig.json"), JSON.stringify({ compilerOptions, files: [file] }));
  const { status, stdout } = spawnSync(process.execPath, [join(tools, "typescript/bin/tsc"), "-p", home], { encoding: "utf8" });
  assert.equal(status, 0, stdout);
}

const NODE = { lib: ["ES2022", "ESNext.Disposable"], types: ["node"] };
const BROWSER = { lib: ["ES2022", "ESNext.Disposable", "DOM", "DOM.AsyncIterable"], types: [] };
test("the types fit strict programs: ES module", () => compile("types.mts", NODE));
test("the types fit strict programs: CommonJS", () => compile("types.cts", NODE));
test("the types fit strict programs: a bundler, without Node's types", () => {
  compile("types.ts", { ...BROWSER, module: "ESNext", moduleResolution: "Bundler" });
});
