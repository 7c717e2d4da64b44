/** Reading the daemon's JSON: wire names are snake_case, ours camelCase; what is missing gets the honest value. */

/** A JSON object as it came. */
export type JsonObject = { [name: string]: unknown };

/** @internal */
export function object(value: unknown): JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value) ? (value as JsonObject) : {};
}

/** The objects of a list answer, whether it is a bare array or wrapped as {"…": […]}. @internal */
export function list(value: unknown): JsonObject[] {
  const found = Array.isArray(value) ? value : Object.values(object(value)).find(Array.isArray);
  return ((found as unknown[] | undefined) ?? []).map(object);
}

/** @internal */
export function text(value: unknown, otherwise = ""): string {
  return typeof value === "string" ? value : otherwise;
}

/** @internal */
export function textOrNull(value: unknown): string | null {
  return typeof value === "string" ? value : null;
}

/** @internal */
export function number(value: unknown, otherwise = 0): number {
  return typeof value === "number" ? value : otherwise;
}

/** @internal */
export function numberOrNull(value: unknown): number | null {
  return typeof value === "number" ? value : null;
}

/** Strings of an object of strings. @internal */
export function strings(value: unknown): Record<string, string> {
  return Object.fromEntries(Object.entries(object(value)).filter((e): e is [string, string] => typeof e[1] === "string"));
}

/** The fields that were given. null is a value, undefined is none. @internal */
export function some(fields: JsonObject): JsonObject {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined));
}

/** Bytes of base64 text; null for anything else. @internal */
export function bytes(value: unknown): Uint8Array | null {
  if (typeof value !== "string") return null;
  const binary = atob(value);
  const out = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) out[i] = binary.charCodeAt(i);
  return out;
}
