/**
 * The client's side of `worlds/lists.sql`.
 */

import { column, Schema, Table } from '@powersync/node';

/** Columns by table, for schemas of tests that want one table in another form. */
export const COLUMNS = {
  beacon: { n: column.integer },
  lists: { owner_id: column.text, name: column.text, is_public: column.integer },
  todos: { list_id: column.text, title: column.text, done: column.integer, n: column.integer },
  news: { region: column.text, tier: column.integer, body: column.text },
  notes: { owner_id: column.text, body: column.text, score: column.real },
  documents: { owner_id: column.text, title: column.text, body: column.text },
};

/** Every synced table in its plain form. */
export const TABLES = Object.fromEntries(
  Object.entries(COLUMNS).map(([name, columns]) => [name, new Table(columns)]),
);

/** What clients have unless a test says otherwise. */
export const SCHEMA = new Schema(TABLES);
