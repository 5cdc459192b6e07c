/**
 * Applications that upload through a back end of their own: Headwater then sees the writes in the
 * log like any others, and write checkpoints tell when they have come back.
 */

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';

import { assertOracle } from '../harness/oracle.js';
import { token } from '../harness/token.js';
import { World } from '../harness/world.js';

/** @type {World} */
let world;

before(async () => {
  world = await World.start({ before: `INSERT INTO lists VALUES ('l1', 'ann', 'Groceries')` });
});
after(() => world.close());

/** Writes one entry of the queue as a simple back end would. */
async function apply(/** @type {import('@powersync/node').CrudEntry} */ { op, table, id, opData = {} }) {
  const columns = Object.keys(opData);
  const values = Object.values(opData);
  if (op === 'DELETE') {
    await world.ask(`DELETE FROM ${table} WHERE id = $1`, [id]);
  } else if (op === 'PATCH') {
    const sets = columns.map((column, i) => `${column} = $${i + 2}`);
    await world.ask(`UPDATE ${table} SET ${sets} WHERE id = $1`, [id, ...values]);
  } else {
    const places = columns.map((_, i) => `$${i + 2}`);
    await world.ask(`INSERT INTO ${table} (id, ${columns}) VALUES ($1, ${places})`, [id, ...values]);
  }
}

/** A connector that uploads through `upload`. */
function connector(
  /** @type {(db: import('@powersync/node').AbstractPowerSyncDatabase) => Promise<void>} */ upload,
  endpoint = world.server.url,
) {
  return { fetchCredentials: async () => ({ endpoint, token: token('ann') }), uploadData: upload };
}

test('getCrudBatch gives the queue in order, batch by batch, and each completed one is gone', async () => {
  /** @type {{ids: string[], haveMore: boolean}[]} */
  const batches = [];
  const client = world.client('ann', {
    connector: connector(async (db) => {
      for (let batch = await db.getCrudBatch(4); batch; batch = await db.getCrudBatch(4)) {
        batches.push({ ids: batch.crud.map(({ id }) => id), haveMore: batch.haveMore });
        for (const entry of batch.crud) await apply(entry);
        await batch.complete();
      }
    }),
  });
  for (let i = 1; i <= 10; i += 1) {
    await client.db.execute(`INSERT INTO todos (id, list_id, title, done) VALUES (?, 'l1', ?, 0)`, [`b${i}`, `Todo ${i}`]);
  }
  await client.connect();
  await client.settled();
  assert.deepEqual(batches, [
    { ids: ['b1', 'b2', 'b3', 'b4'], haveMore: true },
    { ids: ['b5', 'b6', 'b7', 'b8'], haveMore: true },
    { ids: ['b9', 'b10'], haveMore: false },
  ]);
  await world.barrier(client);
  await assertOracle(world, client);
  assert.equal((await client.rows('SELECT id FROM todos')).length, 10);
});

test('a checkpoint with the own write is only shown when the write checkpoint has arrived', async () => {
  const proxy = await world.proxy();
  const { promise: stuck, resolve: release } = Promise.withResolvers();
  const client = world.client('ann', {
    endpoint: proxy.url,
    connector: connector(async (db) => {
      const transaction = await db.getNextCrudTransaction();
      await stuck;
      for (const entry of transaction?.crud ?? []) await apply(entry);
      await transaction?.complete();
    }, proxy.url),
  });
  await client.connect();
  await world.barrier(client);
  await client.db.execute(`INSERT INTO todos (id, list_id, title, done) VALUES ('own', 'l1', 'Own', 0)`);
  // The stream goes on, and its checkpoints must not be shown: they lack the own write.
  const lines = proxy.streams[0].lines.length;
  await world.commit(`INSERT INTO todos VALUES ('other', 'l1', 'Of somebody else')`);
  await proxy.until('a checkpoint has passed', () =>
    proxy.streams[0].lines.slice(lines).some((line) => line.startsWith('{"checkpoint_complete"')),
  );
  assert.deepEqual(await client.rows(`SELECT id FROM todos WHERE id IN ('own', 'other')`), [{ id: 'own' }]);
  release(undefined);
  await client.settled();
  await world.barrier(client);
  await assertOracle(world, client);
});

for (const checkpointMode of /** @type {const} */ (['legacy', 'requests'])) {
  test(`an own write comes back in checkpoint mode "${checkpointMode}"`, async () => {
    const client = world.client('ann', {
      connector: connector(async (db) => {
        const transaction = await db.getNextCrudTransaction();
        for (const entry of transaction?.crud ?? []) await apply(entry);
        await transaction?.complete();
      }),
    });
    await client.connect({ checkpointMode });
    await world.barrier(client);
    for (let i = 0; i < 5; i += 1) {
      await client.db.execute(`UPDATE lists SET name = ? WHERE id = 'l1'`, [`${checkpointMode} ${i}`]);
      await client.settled();
      assert.deepEqual(await world.ask(`SELECT name FROM lists WHERE id = 'l1'`), [{ name: `${checkpointMode} ${i}` }]);
      await assertOracle(world, client);
    }
  });
}

test('a requested checkpoint contains everything that was committed before it', async () => {
  const client = world.client('ann');
  await client.connect({ checkpointMode: 'requests' });
  await client.synced();
  for (let i = 0; i < 10; i += 1) {
    await world.commit(`UPDATE lists SET name = 'Requested ${i}' WHERE id = 'l1'`);
    const request = await client.db.requestCheckpoint();
    await request.waitForSync();
    assert.deepEqual(await client.rows(`SELECT name FROM lists WHERE id = 'l1'`), [{ name: `Requested ${i}` }]);
  }
});
