/**
 * Priorities and progress counters. The proxy holds the stream at a line, so that what the client
 * shows in between is certain and not a matter of luck.
 */

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';

import { kind } from '../harness/line_proxy.js';
import { assertOracle } from '../harness/oracle.js';
import { World } from '../harness/world.js';

const TODOS = 2500;

/** @type {World} */
let world;

before(async () => {
  world = await World.start({
    before: `
      INSERT INTO lists VALUES ('l1', 'ann', 'One'), ('l2', 'ann', 'Two');
      INSERT INTO todos SELECT 't' || i, 'l' || (1 + i % 2), 'todo ' || i FROM generate_series(1, ${TODOS}) i;
      INSERT INTO notes SELECT 'n' || i, 'ann', 'note ' || i, i FROM generate_series(1, 1200) i;`,
  });
});
after(() => world.close());

/** A gate in front of the line for which `here` first holds; opened by the test. */
function gate(
  /** @type {import('../harness/line_proxy.js').LineProxy} */ proxy,
  /** @type {(line: string) => boolean} */ here,
) {
  const { promise: reached, resolve: arrive } = Promise.withResolvers();
  const { promise: opened, resolve: open } = Promise.withResolvers();
  proxy.onLine = async (line) => {
    if (here(line)) {
      arrive(undefined);
      await opened;
    }
    return undefined;
  };
  return { reached, open: () => open(undefined) };
}

const after_partial = (/** @type {number} */ priority) => {
  let seen = false;
  return (/** @type {string} */ line) => {
    if (seen) return true;
    seen = JSON.parse(line).partial_checkpoint_complete?.priority === priority;
    return false;
  };
};

test('rows of a higher priority are shown while lower ones are still on their way', async () => {
  const proxy = await world.proxy();
  const { reached, open } = gate(proxy, after_partial(1));
  const client = world.client('ann', { endpoint: proxy.url });
  await client.connect();
  await reached;
  await client.db.waitForFirstSync({ priority: 1 });
  assert.equal((await client.rows('SELECT * FROM lists')).length, 2);
  assert.equal((await client.rows('SELECT * FROM todos')).length, 0);
  assert.equal(client.db.currentStatus.hasSynced, false);
  assert.equal(client.db.currentStatus.statusForPriority(1)?.hasSynced, true);
  assert.notEqual(client.db.currentStatus.statusForPriority(3)?.hasSynced, true);
  open();
  await client.synced();
  await assertOracle(world, client);
});

test('each priority but the last is completed by itself, in ascending order', async () => {
  const proxy = await world.proxy();
  const client = world.client('ann', { endpoint: proxy.url });
  await client.connect();
  await world.barrier(client);
  const first = proxy.streams[0].lines.map((line) => JSON.parse(line));
  const end = first.findIndex((line) => line.checkpoint_complete);
  const partials = first.slice(0, end).filter((line) => line.partial_checkpoint_complete);
  assert.deepEqual(partials.map((line) => line.partial_checkpoint_complete.priority), [1, 2]);
  const priority = Object.fromEntries(
    first[0].checkpoint.buckets.map((/** @type {any} */ { bucket, priority }) => [bucket, priority]),
  );
  const order = first.slice(0, end).filter((line) => line.data).map((line) => priority[line.data.bucket]);
  assert.deepEqual(order, [...order].sort());
});

test('a subscription may ask for another priority than its stream has', async () => {
  await world.sql.query(`UPDATE lists SET is_public = true WHERE id = 'l2'`);
  const proxy = await world.proxy();
  const { reached, open } = gate(proxy, after_partial(1));
  const client = world.client('cy', { endpoint: proxy.url });
  await client.db.syncStream('public_todos', { list: 'l2' }).subscribe({ priority: 1 });
  await client.connect();
  await reached;
  await client.db.waitForFirstSync({ priority: 1 });
  assert.equal((await client.rows('SELECT * FROM todos')).length, TODOS / 2);
  open();
  await client.synced();
});

test('progress counts the operations that have arrived and those that are announced', async () => {
  const proxy = await world.proxy();
  const data = (/** @type {string} */ line) => kind(line) === 'data';
  let lines = 0;
  const { reached, open } = gate(proxy, (line) => data(line) && (lines += 1) > 2);
  const client = world.client('ann', { endpoint: proxy.url });
  await client.connect();
  await reached;
  const [stream] = proxy.streams;
  const announced = JSON.parse(stream.lines[0]).checkpoint.buckets;
  const total = announced.reduce((/** @type {number} */ sum, /** @type {any} */ { count }) => sum + count, 0);
  const arrived = stream.lines.filter(data).reduce((sum, line) => sum + JSON.parse(line).data.data.length, 0);
  assert.ok(total >= TODOS + 1200 && arrived > 0 && arrived < total, `${arrived} of ${total}`);

  const progress = await client.until('the progress tells what has arrived', () => {
    const now = client.db.currentStatus.downloadProgress;
    return now && now.downloadedOperations >= arrived && now;
  });
  assert.deepEqual(
    { downloaded: progress.downloadedOperations, total: progress.totalOperations },
    { downloaded: arrived, total },
  );
  const lists = announced.filter((/** @type {any} */ { priority }) => priority <= 1);
  const until = progress.untilPriority(1);
  assert.deepEqual(
    { downloaded: until.downloadedOperations, total: until.totalOperations },
    { downloaded: lists[0].count, total: lists[0].count },
  );
  open();
  await client.synced();
  assert.equal(client.db.currentStatus.downloadProgress, null);
});

test('progress of a later download counts only what is new', async () => {
  const proxy = await world.proxy();
  const client = world.client('ann', { endpoint: proxy.url });
  await client.connect();
  await world.barrier(client);
  const before = proxy.streams[0].lines.length;
  // Behind the data of the change: its completion.
  const { reached, open } = gate(proxy, (line) => kind(line) === 'checkpoint_complete');
  await world.commit(`UPDATE todos SET n = 1 WHERE id IN ('t1', 't2', 't3')`);
  await reached;
  const new_lines = proxy.streams[0].lines.slice(before);
  const arrived = new_lines.filter((line) => kind(line) === 'data').reduce((n, l) => n + JSON.parse(l).data.data.length, 0);
  assert.equal(arrived, 3);
  const progress = await client.until('the three operations are counted', () => {
    const now = client.db.currentStatus.downloadProgress;
    return now && now.downloadedOperations >= 3 && now;
  });
  assert.deepEqual([progress.downloadedOperations, progress.totalOperations], [3, 3]);
  open();
  await world.barrier(client);
});
