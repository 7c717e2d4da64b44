/* Steps of a program that runs one of E2B's packages: each has a name and an outcome, and one that fails does not keep the others from running.
 * The last line that is printed is {name: {value} | {error, message, …}}. */
export const e2b = await import(process.env.E2B_MODULE)

const outcomes = {}

export async function step(name, f) {
  try {
    const value = await f()
    outcomes[name] = { value: value === undefined ? null : value }
  } catch (e) {
    outcomes[name] = { error: e.name, message: String(e.message), result: e.result ?? null }
  }
}

/** Until the condition holds; what it gave. Fails after a long time, which is long enough for a machine that is busy. */
export async function until(what, f) {
  for (const end = Date.now() + 60_000; ; await new Promise((r) => setTimeout(r, 50))) {
    const got = await f()
    if (got) return got
    if (Date.now() > end) throw new Error(`never came: ${what}`)
  }
}

export function finish() {
  console.log(JSON.stringify(outcomes))
}
