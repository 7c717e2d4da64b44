/** docs/sdk-typescript.md says what the comments say, and its examples compile. Needs one Node only. */

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";

import { root } from "./installed.js";

const page = join(process.env["CELLA_TREE"] ?? join(root, "../.."), "docs/sdk-typescript.md");

test("the reference is up to date", () => {
  const { status, stderr } = spawnSync(process.execPath, [join(root, "scripts/reference.mjs"), page, "--check"], { encoding: "utf8" });
  assert.equal(status, 0, stderr);
});

test("the programs on the page compile", () => {
  const programs = readFileSync(page, "utf8").split("<!-- From here")[0]!.match(/(?<=```ts\n)[^]*?(?=```)/g)!;
  const whole = programs.filter((text) => text.startsWith("import "));
  assert.ok(whole.length >= 6, "whole programs");
  const home = mkdtempSync(join(root, "dist-test", "page-"));
  try {
    symlinkSync(join(root, "node_modules"), join(home, "node_modules"));
    whole.forEach((text, i) => writeFileSync(join(home, `${i}.ts`), `${text}\nexport {};\n`));
    // Not whole by themselves: what they leave open is declared.
    const parts = programs.filter((text) => !text.startsWith("import ")).map((text) => `{\n${text}\n}`);
    const open = "const code: string, candidates: string[], spaceId: string, signal: AbortSignal; declare function log(text: string): void; declare function ask(prompt: string): Promise<string>;";
    writeFileSync(join(home, "parts.ts"), `import { Sandbox } from "@cella/sdk";\ndeclare ${open}\nconst sandbox = await Sandbox.create();\n${parts.join("\n")}\n`);
    writeFileSync(join(home, "given.d.ts"), "declare const apiKey: string;\n");
    const compilerOptions = { target: "ES2022", lib: ["ES2022", "ESNext.Disposable"], module: "NodeNext", moduleResolution: "NodeNext", types: ["node"], strict: true, skipLibCheck: true, noEmit: true, moduleDetection: "force" };
    writeFileSync(join(home, "tsconfig.json"), JSON.stringify({ compilerOptions, include: ["."] }));
    const { status, stdout } = spawnSync(process.execPath, [join(root, "node_modules/typescript/bin/tsc"), "-p", home], { encoding: "utf8" });
    assert.equal(status, 0, stdout);
  } finally {
    rmSync(home, { recursive: true });
  }
});
