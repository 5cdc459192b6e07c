/**
 * Tables and records as an application sees them.
 *
 * `TableRegistry` and `NewRecordRegistry` are empty here: generated types fill them
 * (`declare module '@headwater/client/live' { interface TableRegistry { … } }`), and from then on
 * names of tables and fields, and the types of values, are checked. While they are empty, any name
 * is a table and any field may be anything.
 *
 * Generated types put an interface for each table into the same module, so names in here, and in
 * `index.ts`, must be unlikely names of tables.
 */
import type { Written } from './types.js';

export type UUID = string;

/** A row of a table that no generated type describes. */
export interface DataRecord {
  id: UUID;
  // eslint-disable-next-line @typescript-eslint/no-explicit-any
  [field: string]: any;
}

/** From the name of a table to the type of its records. */
// eslint-disable-next-line @typescript-eslint/no-empty-object-type
export interface TableRegistry {}

/** From the name of a table to what a new record of it needs. */
// eslint-disable-next-line @typescript-eslint/no-empty-object-type
export interface NewRecordRegistry {}

export type TableName = keyof TableRegistry extends never ? string : Extract<keyof TableRegistry, string>;

/** The record of a table. */
export type IHPRecord<T extends string> = T extends keyof TableRegistry ? TableRegistry[T] : DataRecord;

/** What `createRecord` takes: an `id` may always be given, and is made where it is not. */
export type NewRecord<T extends string> = T extends keyof NewRecordRegistry
  ? Written<Omit<NewRecordRegistry[T], 'id'>> & { id?: UUID }
  : T extends keyof TableRegistry
    ? Written<Partial<TableRegistry[T]>>
    : // eslint-disable-next-line @typescript-eslint/no-explicit-any
      { id?: UUID; [field: string]: any };

