/** JSON values: the form in which the server will give them back, and whether two are one. */

/** A value as it will come back, as far as that can be told: dates become the server's texts. */
export function jsonForm(value: unknown): unknown {
  if (!(value instanceof Date)) {
    return value;
  }
  // `2024-01-02T03:04:05.600Z` is printed by the server as `2024-01-02T03:04:05.6+00:00`.
  return Number.isNaN(value.getTime()) ? null : value.toISOString().replace(/\.?0*Z$/, '+00:00');
}

/** All values of an object in that form; without what JSON leaves out. */
export function jsonForms(values: Readonly<Record<string, unknown>>): Record<string, unknown> {
  const forms: Record<string, unknown> = {};
  for (const [field, value] of Object.entries(values)) {
    if (value !== undefined) {
      forms[field] = jsonForm(value);
    }
  }
  return forms;
}

export function isEqual(a: unknown, b: unknown): boolean {
  if (a === b) {
    return true;
  }
  if (typeof a !== 'object' || typeof b !== 'object' || a === null || b === null) {
    return false;
  }
  if (Array.isArray(a) !== Array.isArray(b)) {
    return false;
  }
  const [one, other] = [Object.entries(a), b as Record<string, unknown>];
  return (
    one.length === Object.keys(other).length &&
    one.every(([field, value]) => field in other && isEqual(value, other[field]))
  );
}
