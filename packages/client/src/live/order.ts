/**
 * Where a record stands in a result, as far as that can be proved here.
 *
 * The server gives a result in its order, and afterwards changes without places. The order of texts
 * is that of a collation and the order of an enum that of its declaration: JavaScript knows neither.
 * So a place is only taken where it follows from
 * - comparisons that have one answer whatever the column's type is: NULLs, booleans, numbers that
 *   differ, UUIDs, dates and points in time in the server's own form;
 * - the order of the rows that are there: a value that stands among them already belongs beside its
 *   equals.
 * Everything else is `undefined`, and the server is asked (`result.ts`).
 */
import type { Row } from './types.js';
import type { OrderByClause } from './wire.js';

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;
/** Dates and points in time as the server writes them, years of four digits. */
const MOMENT = /^\d{4}-\d\d-\d\d(?:T\d\d:\d\d:\d\d(?:\.\d+)?(?:\+00:00)?)?$/;
/** What may be a number, a point in time, an address, bytes or something composed, whose text is not its value. */
const IS_PERHAPS_NO_TEXT = /^[\s\d+\-.,({["$\\]|::|^[\da-f]{2,4}[:.-]|^(?:nan|inf|infinity|today|now|epoch|tomorrow|yesterday|empty)$/i;

/** Which of two values is the greater in Postgres; `undefined` if that cannot be told. Not for NULL. */
export function compareValues(a: unknown, b: unknown): number | undefined {
  if (typeof a === 'number' && typeof b === 'number') {
    // Reading decimals is monotone, so numbers that differ here differ in the same way there. Two
    // that are equal here may have lost their difference.
    return a !== b ? Math.sign(a - b) : Number.isSafeInteger(a) ? 0 : undefined;
  }
  if (typeof a === 'boolean' && typeof b === 'boolean') {
    return Number(a) - Number(b);
  }
  if (typeof a === 'string' && typeof b === 'string') {
    return a === b ? 0 : compareTexts(a, b);
  }
  return undefined;
}

function compareTexts(a: string, b: string): number | undefined {
  if (UUID.test(a) && UUID.test(b)) {
    return a < b ? -1 : 1;
  }
  if (!MOMENT.test(a) || !MOMENT.test(b)) {
    return undefined;
  }
  let at = 0;
  while (a[at] === b[at]) {
    at += 1;
  }
  const [one, other] = [a[at], b[at]];
  // Whole against fractional seconds is where collations of texts and time itself part.
  return one !== undefined && other !== undefined && one !== '.' && other !== '.' ? (one < other ? -1 : 1) : undefined;
}

/** Whether two values are one in Postgres; `undefined` if that cannot be told. Not for NULL. */
export function isSame(a: unknown, b: unknown): boolean | undefined {
  if (typeof a === 'string' && typeof b === 'string') {
    if (a === b) {
      return true;
    }
    const [one, other] = [a.toLowerCase(), b.toLowerCase()];
    if (UUID.test(one) && UUID.test(other)) {
      return one === other;
    }
    if (IS_PERHAPS_NO_TEXT.test(a) || IS_PERHAPS_NO_TEXT.test(b)) {
      return undefined;
    }
    // A collation may see no more than letters, and one letter in two (ß), of which only the plain ones are known here.
    const [some, others] = [letters(one), letters(other)];
    return some === others || !/^[a-z\d]*$/.test(some + others) ? undefined : false;
  }
  const order = compareValues(a, b);
  return order === undefined ? undefined : order === 0;
}

/** What is left of a text under the loosest collation, and without the blanks behind a `char(n)`. */
function letters(text: string): string {
  return text.normalize('NFKD').replace(/[^\p{L}\p{N}]/gu, '');
}

/** The fields that an order needs; `undefined` if it needs more than fields. */
export function orderFields(clauses: readonly OrderByClause[]): string[] | undefined {
  const fields: string[] = [];
  for (const clause of clauses) {
    if (!('orderByColumn' in clause)) {
      return undefined;
    }
    fields.push(clause.orderByColumn);
  }
  return fields;
}

/** Rows in their order; an array is one. */
export interface Sorted {
  readonly length: number;
  at(place: number): Row | undefined;
}

/**
 * Where a record goes among rows that stand in their order; `undefined` if that cannot be told.
 *
 * - Takes: rows that are sorted by `clauses` as the server does it.
 * - Returns: the index before which it goes; behind its equals, whose order nobody knows.
 */
export function placeOf(row: Row, rows: Sorted, clauses: readonly OrderByClause[]): number | undefined {
  // All rows from the one to the other are equal to it in the fields so far.
  let [from, to] = [0, rows.length];
  for (const clause of clauses) {
    if (from === to) {
      return from;
    }
    if (!('orderByColumn' in clause)) {
      return undefined;
    }
    const { orderByColumn: field, orderByDirection } = clause;
    const sign = orderByDirection === 'Desc' ? -1 : 1;
    const among: Among = { value: row[field], field, sign, rows, from, to };
    const equals = equalsByHalves(among) ?? equalsOneByOne(among);
    if (equals === undefined) {
      return undefined;
    }
    [from, to] = equals;
  }
  return to;
}

interface Among {
  value: unknown;
  field: string;
  sign: 1 | -1;
  rows: Sorted;
  from: number;
  to: number;
}

/** The first and the last but one of the rows with an equal value; nothing in between where one would stand. */
type Equals = [from: number, to: number];

/** By comparing with rows in the middle; `undefined` if one of these comparisons has no answer. */
function equalsByHalves({ value, field, sign, rows, from, to }: Among): Equals | undefined {
  const bound = (low: number, isBefore: (order: number) => boolean): number | undefined => {
    let high = to;
    while (low < high) {
      const middle = (low + high) >> 1;
      const order = compareNulls(value, rows.at(middle)![field]);
      if (order === undefined) {
        return undefined;
      }
      if (isBefore(order * sign)) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return low;
  };
  const first = bound(from, (order) => order > 0);
  const end = first === undefined ? undefined : bound(first, (order) => order >= 0);
  return first === undefined || end === undefined ? undefined : [first, end];
}

/** By looking at all of them: a value that stands there already belongs to its equals, which stand together. */
function equalsOneByOne({ value, field, sign, rows, from, to }: Among): Equals | undefined {
  let [low, high] = [from, to];
  let [first, last] = [-1, -1];
  for (let at = from; at < to; at += 1) {
    const other = rows.at(at)![field];
    if (value === other) {
      first = first < 0 ? at : first;
      last = at;
      continue;
    }
    const order = compareNulls(value, other);
    if (order === undefined) {
      continue;
    }
    if (order * sign > 0) {
      low = at + 1;
    } else if (at < high) {
      high = at;
    }
  }
  if (first < 0) {
    return low === high ? [low, low] : undefined;
  }
  return isSurelyEqual(value, value) ? [first, last + 1] : undefined;
}

/** Whether two rows surely stand beside each other in an order. */
export function areEquals(a: Row, b: Row, clauses: readonly OrderByClause[]): boolean {
  return clauses.every((clause) => {
    if (!('orderByColumn' in clause)) {
      return false;
    }
    return isSurelyEqual(a[clause.orderByColumn], b[clause.orderByColumn]);
  });
}

export function isSurelyEqual(a: unknown, b: unknown): boolean {
  return compareNulls(a, b) === 0;
}

/** As `compareValues`, with NULL above everything, as Postgres has it. */
function compareNulls(a: unknown, b: unknown): number | undefined {
  if (a === undefined || b === undefined) {
    return undefined;
  }
  if (a === null || b === null) {
    return Number(a === null) - Number(b === null);
  }
  return compareValues(a, b);
}
