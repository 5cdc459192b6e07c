/**
 * A client's first download: the rows of its user, no others, and all of them.
 */

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';

import { kind } from '../harness/line_proxy.js';
import { assertOracle } from '../harness/oracle.js';
import { World } from '../harness/world.js';

/** @type {World} */
let world;

before(async () => {
  world = await World.start({
    before: `
      INSERT INTO lists VALUES ('l1', 'ann', 'Groceries', false), ('l2', 'ann', 'Café ☕ "quoted"', true),
        ('l3', 'bob', 'Secret', false);
      INSERT INTO todos VALUES ('t1', 'l1', 'Milk', false, 1), ('t2', 'l1', 'Bread', true, 9007199254740991),
        ('t3', 'l2', E'two\\nlines', false, NULL), ('t4', 'l3', 'Hidden', false, 0);
      INSERT INTO notes VALUES ('n1', 'ann', '', 1.5), ('n2', 'ann', NULL, 3);`,
  });
});
after(() => world.close());

test('a first sync brings exactly the rows that the user may see', async () => {
  const [ann, bob] = [world.client('ann'), world.client('bob')];
  await Promise.all([ann.connect(), bob.connect()]);
  await Promise.all([ann.synced(), bob.synced()]);
  await assertOracle(world, ann);
  await assertOracle(world, bob);
  assert.equal((await ann.rows('SELECT * FROM todos')).length, 3);
  assert.equal((await bob.rows('SELECT * FROM todos')).length, 1);
});

test('rows that were committed before a client connected are all there without a further change', async () => {
  await world.commit(`INSERT INTO todos SELECT 'many' || i, 'l1', 'todo ' || i FROM generate_series(1, 3000) i`);
  const client = world.client('ann');
  await world.barrier();
  await client.connect();
  await client.synced();
  await world.barrier(client);
  await assertOracle(world, client);
  await world.commit(`DELETE FROM todos WHERE id LIKE 'many%'`);
});

test('a user without any row has synced all the same', async () => {
  const client = world.client('nobody');
  await client.connect();
  await client.synced();
  assert.equal(client.db.currentStatus.hasSynced, true);
  assert.deepEqual(await client.rows('SELECT * FROM lists'), []);
  await assertOracle(world, client);
});

test('a client that was closed asks on from its position and is sent nothing twice', async () => {
  const proxy = await world.proxy();
  const first = world.client('ann', { endpoint: proxy.url });
  await first.connect();
  await world.barrier(first);
  const held = await first.buckets();
  const again = world.adopt(await first.reopened());
  await assertOracle(world, again, 'offline, from the file');

  const streams = proxy.streams.length;
  await again.connect();
  await proxy.until('the second stream is complete', () =>
    proxy.streams.slice(streams).some(({ lines }) => lines.some((line) => kind(line) === 'checkpoint_complete')),
  );
  const { body, lines } = proxy.streams[streams];
  assert.deepEqual(
    body.buckets.sort((/** @type {any} */ a, /** @type {any} */ b) => (a.name < b.name ? -1 : 1)),
    held.map(({ name, position }) => ({ name, after: position })),
  );
  assert.deepEqual(lines.map(kind).filter((name) => name === 'data'), []);
  await assertOracle(world, again, 'after reconnecting');
});

test('clearing the local database and connecting again brings everything back', async () => {
  const client = world.client('ann');
  await client.connect();
  await world.barrier(client);
  await client.db.disconnectAndClear();
  assert.deepEqual(await client.rows('SELECT * FROM lists'), []);
  await client.connect();
  await world.barrier(client);
  await assertOracle(world, client);
});

test('what another user synced before on the same device is gone after a clear', async () => {
  const ann = world.client('ann');
  await ann.connect();
  await world.barrier(ann);
  await ann.db.disconnectAndClear({ soft: true });
  const bob = world.adopt(await ann.reopened({ user: 'bob' }));
  await bob.connect();
  await world.barrier(bob);
  await assertOracle(world, bob);
});
