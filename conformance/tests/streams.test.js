/**
 * Sync streams as the SDK offers them: subscribing and unsubscribing while connected.
 */

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { setTimeout } from 'node:timers/promises';

import { World } from '../harness/world.js';

/** @type {World} */
let world;

before(async () => {
  world = await World.start({
    before: `
      INSERT INTO lists VALUES ('p1', 'bob', 'Public one', true), ('p2', 'bob', 'Public two', true),
        ('s1', 'bob', 'Secret', false), ('a1', 'ann', 'Mine', false);
      INSERT INTO todos VALUES ('t1', 'p1', 'One'), ('t2', 'p2', 'Two'), ('t3', 's1', 'Three'), ('t4', 'a1', 'Four')`,
  });
});
after(() => world.close());

const todos = async (/** @type {import('../harness/client.js').Client} */ client) =>
  (await client.rows('SELECT id FROM todos ORDER BY id')).map(({ id }) => id);

async function connected(/** @type {string} */ user, /** @type {any} */ options = {}) {
  const client = world.client(user);
  await client.connect(options);
  return client;
}

test('subscribing while connected brings the rows, live from then on', async () => {
  const client = await connected('ann');
  await world.barrier(client);
  assert.deepEqual(await todos(client), ['t4']);
  await client.subscribed('public_todos', { list: 'p1' });
  assert.deepEqual(await todos(client), ['t1', 't4']);
  await world.commit(`INSERT INTO todos VALUES ('live', 'p1', 'Live')`);
  await world.barrier(client);
  assert.deepEqual(await todos(client), ['live', 't1', 't4']);
  await world.commit(`DELETE FROM todos WHERE id = 'live'`);
});

test('one stream can be subscribed to with several parameters at a time', async () => {
  const client = await connected('cy');
  const [one, two] = await Promise.all([
    client.subscribed('public_todos', { list: 'p1' }),
    client.subscribed('public_todos', { list: 'p2' }),
  ]);
  assert.deepEqual(await todos(client), ['t1', 't2']);
  assert.equal(client.db.currentStatus.forStream(one)?.subscription.active, true);
  assert.equal(client.db.currentStatus.forStream(two)?.subscription.hasSynced, true);
});

test('unsubscribing takes the rows away once the subscription has run out', async () => {
  const client = await connected('cy');
  const kept = await client.subscribed('public_todos', { list: 'p2' });
  // With a `ttl` of 0 the SDK can take its own subscription for one that has run out while it opens
  // the stream for it: it renews first and looks then, each with a clock of its own.
  const drop = await client.subscribed('public_todos', { list: 'p1' }, { ttl: 1 });
  assert.deepEqual(await todos(client), ['t1', 't2']);
  await setTimeout(1_100);
  drop.unsubscribe();
  await client.until('the rows of the ended subscription are gone', async () => {
    return JSON.stringify(await todos(client)) === '["t2"]';
  });
  kept.unsubscribe();
});

test('a subscription outlives the app, and is live again at the next start', async () => {
  const client = await connected('cy');
  await client.subscribed('public_todos', { list: 'p1' });
  const again = world.adopt(await client.reopened());
  await world.commit(`INSERT INTO todos VALUES ('later', 'p1', 'Later')`);
  await again.connect();
  await world.barrier(again);
  assert.deepEqual(await todos(again), ['later', 't1']);
  await world.commit(`DELETE FROM todos WHERE id = 'later'`);
});

test('a stream gives nothing that its query does not allow, and does not say why', async () => {
  const client = await connected('cy');
  await client.subscribed('public_todos', { list: 's1' });
  await client.subscribed('public_todos', { list: 'missing' });
  assert.deepEqual(await todos(client), []);
  await world.commit(`UPDATE lists SET is_public = true WHERE id = 's1'`);
  await world.barrier(client);
  assert.deepEqual(await todos(client), ['t3']);
  await world.commit(`UPDATE lists SET is_public = false WHERE id = 's1'`);
  await world.barrier(client);
  assert.deepEqual(await todos(client), []);
});

test('a stream that does not exist harms no other', async () => {
  const client = await connected('ann');
  const missing = await client.db.syncStream('no_such_stream', {}).subscribe();
  await world.barrier(client);
  assert.deepEqual(await todos(client), ['t4']);
  assert.notEqual(client.db.currentStatus.forStream(missing)?.subscription.active, true);
});

test('default streams can be left out, and one of them asked for by name', async () => {
  const client = await connected('ann', { includeDefaultStreams: false });
  // The barrier's own stream is a default too.
  await client.db.syncStream('beacon').subscribe();
  await world.barrier(client);
  assert.deepEqual(await client.rows('SELECT id FROM lists'), []);
  await client.subscribed('my_lists');
  await world.barrier(client);
  assert.deepEqual(await client.rows('SELECT id FROM lists'), [{ id: 'a1' }]);
  assert.deepEqual(await todos(client), []);
});

test('the client learns which streams are default ones, without subscribing', async () => {
  const client = await connected('ann');
  await world.barrier(client);
  const streams = client.db.currentStatus.syncStreams ?? [];
  const names = streams.filter(({ subscription }) => subscription.isDefault).map(({ subscription }) => subscription.name);
  assert.deepEqual(names.sort(), [
    'beacon', 'my_documents', 'my_lists', 'my_notes', 'my_todos', 'regional_news', 'shared_todos', 'tier_news',
  ]);
});
