/* Steps of a program that runs somebody's package: each has a name and an outcome, and one that fails does not keep the others from running.
 * The last line that is printed is {name: {value} | {error, message, status}}. */
const outcomes = {}

export async function step(name, f) {
  try {
    const value = await f()
    outcomes[name] = { value: value === undefined ? null : value }
  } catch (e) {
    outcomes[name] = { error: e.constructor.name, message: String(e.message), status: e.statusCode ?? e.status ?? null, code: e.code ?? null, exit_code: e.exitCode ?? null }
  }
}

export function finish() {
  console.log(JSON.stringify(outcomes))
}
