/**
 * Changes that arrive while a client is connected, and rows that move between buckets (F-22, F-23).
 */

import assert from 'node:assert/strict';
import { after, before, beforeEach, test } from 'node:test';

import { assertOracle } from '../harness/oracle.js';
import { World } from '../harness/world.js';

/** @type {World} */
let world;
/** @type {import('../harness/client.js').Client} */
let ann;
/** @type {import('../harness/client.js').Client} */
let bob;

before(async () => {
  world = await World.start();
  [ann, bob] = [world.client('ann'), world.client('bob')];
  await Promise.all([ann.connect(), bob.connect()]);
});
after(() => world.close());

beforeEach(async () => {
  await world.commit(`
    DELETE FROM todos; DELETE FROM lists; DELETE FROM list_members;
    INSERT INTO lists VALUES ('a1', 'ann', 'Ann one'), ('a2', 'ann', 'Ann two'), ('b1', 'bob', 'Bob one');
    INSERT INTO todos VALUES ('t1', 'a1', 'Milk'), ('t2', 'a1', 'Bread'), ('t3', 'a2', 'Nails'), ('t4', 'b1', 'Paint')`);
  await world.barrier(ann, bob);
});

/** Commits, waits at the barrier and compares both clients. @param {string} statements */
async function change(statements) {
  await world.commit(statements);
  await world.barrier(ann, bob);
  await assertOracle(world, ann);
  await assertOracle(world, bob);
}

const todos = async (/** @type {import('../harness/client.js').Client} */ client) =>
  (await client.rows('SELECT id FROM todos ORDER BY id')).map(({ id }) => id);

test('an inserted row appears', async () => {
  await change(`INSERT INTO todos VALUES ('t5', 'a1', 'Butter')`);
  assert.deepEqual(await todos(ann), ['t1', 't2', 't3', 't5']);
  assert.deepEqual(await todos(bob), ['t4']);
});

test('an updated row shows its new values', async () => {
  await change(`UPDATE todos SET done = true, title = 'Oat milk' WHERE id = 't1'`);
  const [row] = await ann.rows(`SELECT title, done FROM todos WHERE id = 't1'`);
  assert.deepEqual(row, { title: 'Oat milk', done: 1 });
});

test('a deleted row disappears', async () => {
  await change(`DELETE FROM todos WHERE id = 't1'`);
  assert.deepEqual(await todos(ann), ['t2', 't3']);
});

test('a changed primary key shows one row under the new key (F-23)', async () => {
  await change(`UPDATE todos SET id = 't9' WHERE id = 't1'`);
  assert.deepEqual(await todos(ann), ['t2', 't3', 't9']);
});

test('primary keys that swap within one transaction end where they belong', async () => {
  await change(`
    UPDATE todos SET id = 'swap' WHERE id = 't1';
    UPDATE todos SET id = 't1' WHERE id = 't2';
    UPDATE todos SET id = 't2' WHERE id = 'swap'`);
  const rows = await ann.rows(`SELECT id, title FROM todos WHERE list_id = 'a1' ORDER BY id`);
  assert.deepEqual(rows, [{ id: 't1', title: 'Bread' }, { id: 't2', title: 'Milk' }]);
});

test('a row that moves to a bucket of another user leaves one client and reaches the other', async () => {
  await change(`UPDATE todos SET list_id = 'b1' WHERE id = 't1'`);
  assert.deepEqual(await todos(ann), ['t2', 't3']);
  assert.deepEqual(await todos(bob), ['t1', 't4']);
  await change(`UPDATE todos SET list_id = 'a2' WHERE id = 't1'`);
  assert.deepEqual(await todos(ann), ['t1', 't2', 't3']);
  assert.deepEqual(await todos(bob), ['t4']);
});

test('a row that moves between two buckets of one user stays', async () => {
  await change(`UPDATE todos SET list_id = 'a2' WHERE id = 't1'`);
  assert.deepEqual(await todos(ann), ['t1', 't2', 't3']);
});

test('a list that changes its owner takes its rows along, both in one step', async () => {
  await change(`UPDATE lists SET owner_id = 'bob' WHERE id = 'a1'`);
  assert.deepEqual(await todos(ann), ['t3']);
  assert.deepEqual(await todos(bob), ['t1', 't2', 't4']);
});

test('a membership brings the rows of a list, and ending it takes them away', async () => {
  await change(`INSERT INTO list_members VALUES ('m1', 'a1', 'bob')`);
  assert.deepEqual(await todos(bob), ['t1', 't2', 't4']);
  await change(`DELETE FROM list_members WHERE id = 'm1'`);
  assert.deepEqual(await todos(bob), ['t4']);
});

test('a row that reaches a client in two ways stays until both are gone', async () => {
  await change(`INSERT INTO list_members VALUES ('m1', 'a1', 'ann')`);
  await change(`UPDATE lists SET owner_id = 'bob' WHERE id = 'a1'`);
  assert.deepEqual(await todos(ann), ['t1', 't2', 't3']);
  await change(`UPDATE todos SET title = 'Changed' WHERE id = 't1'`);
  await change(`DELETE FROM list_members WHERE id = 'm1'`);
  assert.deepEqual(await todos(ann), ['t3']);
});

test('a truncated table is empty at once (F-22)', async () => {
  await change('TRUNCATE todos');
  assert.deepEqual(await todos(ann), []);
  await change(`INSERT INTO todos VALUES ('t1', 'a1', 'Again')`);
  assert.deepEqual(await todos(ann), ['t1']);
});

test('what was rolled back is never shown, a savepoint neither', async () => {
  await world.sql.query(`BEGIN; INSERT INTO todos VALUES ('gone', 'a1', 'Rolled back'); ROLLBACK`);
  await change(`
    INSERT INTO todos VALUES ('kept', 'a1', 'Kept');
    SAVEPOINT s; INSERT INTO todos VALUES ('gone', 'a1', 'Rolled back'); ROLLBACK TO s`);
  assert.deepEqual(await todos(ann), ['kept', 't1', 't2', 't3']);
});

test('a large value that an update did not touch is kept (F-24)', async () => {
  const large = `(SELECT string_agg(md5(i::text), '') FROM generate_series(1, 700) i)`;
  await world.commit('ALTER TABLE notes ALTER body SET STORAGE EXTERNAL');
  await change(`INSERT INTO notes VALUES ('n1', 'ann', ${large}, 1)`);
  await change(`UPDATE notes SET score = 2.5 WHERE id = 'n1'`);
  await change(`UPDATE notes SET owner_id = 'bob' WHERE id = 'n1'`);
  const [row] = await bob.rows('SELECT length(body) AS length, score FROM notes');
  assert.deepEqual(row, { length: 22_400, score: 2.5 });
});

test('a watched query never shows half of a transaction', async () => {
  await world.commit(`UPDATE todos SET n = 0 WHERE list_id = 'a1'`);
  await world.barrier(ann);
  /** @type {any[]} */
  const seen = [];
  const stop = new AbortController();
  ann.db.watch(
    `SELECT count(*) AS rows, sum(n) AS sum FROM todos WHERE list_id = 'a1'`,
    [],
    { onResult: (result) => seen.push(result.array[0]) },
    { signal: stop.signal, throttleMs: 0 },
  );
  for (let i = 1; i <= 20; i += 1) {
    await world.commit(`UPDATE todos SET n = n + 1 WHERE id = 't1'; UPDATE todos SET n = n - 1 WHERE id = 't2'`);
  }
  await world.barrier(ann);
  stop.abort();
  for (const row of seen) assert.deepEqual(row, { rows: 2, sum: 0 });
});

test('a change made in SQL reaches a watched query of the client', async () => {
  const results = ann.db.watch(`SELECT title FROM todos WHERE list_id = 'a2'`)[Symbol.asyncIterator]();
  assert.deepEqual((await results.next()).value.array, [{ title: 'Nails' }]);
  await world.commit(`UPDATE todos SET title = 'Screws' WHERE id = 't3'`);
  for (;;) {
    const { value } = await results.next();
    if (value.array[0]?.title === 'Screws') break;
    assert.deepEqual(value.array, [{ title: 'Nails' }]);
  }
  await results.return?.();
});
