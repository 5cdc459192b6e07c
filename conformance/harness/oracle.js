/**
 * The oracle: what Postgres answers to the streams' queries, asked for one user, in the form in
 * which the rows lie in that user's local database.
 */

import assert from 'node:assert/strict';

const MY_LISTS = 'SELECT id FROM lists WHERE owner_id = $1';
const SHARED_LISTS = 'SELECT list_id FROM list_members WHERE user_id = $1';

/** By table: its rows for user `$1` in Postgres, and all rows in the client. */
const QUERIES = {
  lists: {
    source: `SELECT id, owner_id, name, is_public::int FROM lists WHERE owner_id = $1`,
    local: 'SELECT id, owner_id, name, is_public FROM lists',
  },
  todos: {
    source: `SELECT id, list_id, title, done::int, n FROM todos
             WHERE list_id IN (${MY_LISTS}) OR list_id IN (${SHARED_LISTS})`,
    local: 'SELECT id, list_id, title, done, n FROM todos',
  },
  notes: {
    source: 'SELECT id, owner_id, body, score FROM notes WHERE owner_id = $1',
    local: 'SELECT id, owner_id, body, score FROM notes',
  },
  documents: {
    source: 'SELECT id, owner_id, title, body FROM documents WHERE owner_id = $1',
    local: 'SELECT id, owner_id, title, body FROM documents',
  },
};

const sorted = (/** @type {any[]} */ rows) =>
  rows.map((row) => ({ ...row })).sort((a, b) => (a.id < b.id ? -1 : a.id > b.id ? 1 : 0));

/**
 * Compares every table of a client that follows the streams without subscriptions or parameters.
 * The caller has waited at a barrier.
 * @param {import('./world.js').World} world
 * @param {import('./client.js').Client} client
 * @param {string} [where] for the failure's text
 * @returns {Promise<number>} how many rows were compared
 */
export async function assertOracle(world, client, where = '') {
  let rows = 0;
  for (const [table, { source, local }] of Object.entries(QUERIES)) {
    const expected = sorted(await world.ask(source, [client.user]));
    const actual = sorted(await client.rows(local));
    assert.deepEqual(actual, expected, `${table} of ${client.user} ${where}`);
    rows += expected.length;
  }
  return rows;
}
