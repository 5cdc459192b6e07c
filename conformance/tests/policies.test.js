/**
 * Sync from policies: what the SDK holds is what Postgres shows its user, without a sync configuration.
 */

import assert from 'node:assert/strict';
import fs from 'node:fs';
import { after, before, test } from 'node:test';

import { World } from '../harness/world.js';

/** @type {World} */
let world;

before(async () => {
  world = await World.start({
    syncConfig: null,
    access: fs.readFileSync(new URL('../worlds/policies_access.sql', import.meta.url), 'utf8'),
    before: `
      INSERT INTO lists VALUES ('a1', 'ann', 'Mine'), ('b1', 'bob', 'Shared'), ('b2', 'bob', 'Secret');
      INSERT INTO list_members VALUES ('m1', 'b1', 'ann');
      INSERT INTO todos VALUES ('t1', 'a1', 'One'), ('t2', 'b1', 'Two'), ('t3', 'b2', 'Three');
      INSERT INTO news VALUES ('n1', 'eu', 1, 'Near'), ('n2', 'us', 1, 'Far'), ('n3', 'eu', 3, 'Dear');
      INSERT INTO notes VALUES ('x1', 'ann', 'Nobody may')`,
  });
});
after(() => world.close());

/** The ids of every table that Postgres shows somebody. */
async function shown(/** @type {string} */ user, /** @type {any} */ claims) {
  /** @type {Record<string, string[]>} */
  const ids = {};
  await world.sql.query('BEGIN');
  await world.sql.query(
    `SELECT set_config('request.jwt.claims', $1, true), set_config('request.jwt.claim.sub', $2, true),
            set_config('role', 'headwater_authenticated', true)`,
    [JSON.stringify({ sub: user, ...claims }), user],
  );
  for (const table of ['lists', 'todos', 'news', 'notes']) {
    ids[table] = (await world.ask(`SELECT id FROM ${table} ORDER BY id`)).map(({ id }) => id);
  }
  await world.sql.query('ROLLBACK');
  return ids;
}

async function held(/** @type {import('../harness/client.js').Client} */ client) {
  /** @type {Record<string, string[]>} */
  const ids = {};
  for (const table of ['lists', 'todos', 'news', 'notes']) {
    ids[table] = (await client.rows(`SELECT id FROM ${table} ORDER BY id`)).map(({ id }) => id);
  }
  return ids;
}

const settled = async (/** @type {any} */ client, /** @type {string} */ user, /** @type {any} */ claims) => {
  const expected = await shown(user, claims);
  await client.until(`${user} holds what Postgres shows`, async () => {
    return JSON.stringify(await held(client)) === JSON.stringify(expected);
  });
  return expected;
};

test('owner, membership and claim decide what a user holds, also when they change', async () => {
  const claims = { region: 'eu' };
  const ann = world.client('ann', { claims });
  const bob = world.client('bob');
  await Promise.all([ann.connect(), bob.connect()]);
  await world.barrier(ann, bob);
  assert.deepEqual(await held(ann), { lists: ['a1', 'b1'], todos: ['t1', 't2'], news: ['n1'], notes: [] });
  assert.deepEqual(await held(ann), await shown('ann', claims));
  assert.deepEqual(await held(bob), await shown('bob', {}));

  await world.commit(`DELETE FROM list_members; UPDATE lists SET owner_id = 'ann' WHERE id = 'b2'`);
  await world.barrier(ann, bob);
  assert.deepEqual(await held(ann), { lists: ['a1', 'b2'], todos: ['t1', 't3'], news: ['n1'], notes: [] });
  assert.deepEqual(await held(bob), await shown('bob', {}));
});

test('a policy that is made, altered and dropped brings and takes its rows', async () => {
  const ann = world.client('ann', { claims: { region: 'eu' } });
  await ann.connect();
  await world.barrier(ann);
  for (const change of [
    `CREATE POLICY mine ON notes USING (owner_id = me())`,
    `ALTER POLICY region ON news USING (region = claim('region'))`,
    `DROP POLICY mine ON notes`,
    `DROP POLICY of_lists ON todos`,
  ]) {
    await world.commit(change);
    const expected = await settled(ann, 'ann', { region: 'eu' });
    assert.equal(expected.notes.length, change.startsWith('CREATE') || change.startsWith('ALTER') ? 1 : 0);
  }
});
