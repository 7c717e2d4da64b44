/** Sandboxes that belong to one test, and waiting for their end. */

import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";

import { Sandbox } from "@cella/sdk";

if (!process.env["CELLA_URL"]) throw new Error("CELLA_URL names no daemon: run sdk/typescript/check");

/** A mark for `create`'s metadata, and how many sandboxes with it live. */
export function marked() {
  const metadata = { test: `adapters-${randomBytes(6).toString("hex")}` };
  const alive = async (): Promise<Sandbox[]> => Promise.all((await Sandbox.list({ metadata })).map((info) => Sandbox.connect(info.id)));
  return {
    create: { metadata },
    alive,
    /** The only one. */
    one: async () => {
      const all = await alive();
      assert.equal(all.length, 1);
      return all[0]!;
    },
    /** Until there is none; the test's own time limit ends what never does. */
    gone: async () => {
      while ((await alive()).length) await new Promise((done) => setTimeout(done, 20));
    },
  };
}

export const CHART = "import matplotlib.pyplot as plt\n_ = plt.plot([1, 2])\nplt.show()";
export const LIMIT = { timeout: 120_000 };
/** What needs images of cells. */
export const FREEZES = process.env["CELLA_TEST_DRIVER"] === "plain" ? { ...LIMIT, skip: "the plain driver does not freeze" } : LIMIT;
