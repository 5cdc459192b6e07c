/** What the modules in here say about tables, records and keys among themselves. */
import type { IHPRecord } from './registry.js';

/** Dates may be given where texts of points in time are read. */
export type Writable<V> = V | (string extends NonNullable<V> ? Date : never);

export type Written<R> = { [F in keyof R]: Writable<R[F]> };

/** What `updateRecord` takes. */
export type Patch<T extends string> = Written<Partial<IHPRecord<T>>>;

/** A field of a table's records. */
export type Field<T extends string> = Extract<keyof IHPRecord<T>, string>;

/** What a row is addressed by: the value of its key, an array of values where the key has several columns. */
export type RecordId = string | number | readonly (string | number)[];

/** A record as the pure parts see it. */
export type Row = Readonly<Record<string, unknown>>;

/** One text per key: `1` and `"1"` name the same row, because a column has one type. */
export function keyOf(id: unknown): string {
  return typeof id === 'string' ? id : JSON.stringify(id);
}

/** The same for a record, by the fields of its key; `undefined` where it has not all of them. */
export function keyOfRecord(record: Row, fields: readonly string[]): string | undefined {
  const values = fields.map((field) => record[field]);
  return values.some((value) => value == null) ? undefined : keyOf(values.length === 1 ? values[0] : values);
}
