/**
 * The connection is cut at each k-th line (F-39): resuming gives the oracle's state for each k.
 * The proxy cuts after whole lines and in the middle of lines.
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
      INSERT INTO lists VALUES ('l1', 'ann', 'One'), ('l2', 'ann', 'Two'), ('l3', 'bob', 'Three');
      INSERT INTO list_members VALUES ('m1', 'l3', 'ann');
      INSERT INTO todos SELECT 't' || i, 'l' || (1 + i % 3), 'todo ' || i FROM generate_series(1, 3600) i;
      INSERT INTO notes SELECT 'n' || i, 'ann', 'note ' || i, i FROM generate_series(1, 30) i;`,
  });
});
after(() => world.close());

/** How many lines a first sync has, up to and with its completion. */
async function linesOfAFirstSync() {
  const proxy = await world.proxy();
  const client = world.client('ann', { endpoint: proxy.url });
  await client.connect();
  await client.synced();
  await client.close();
  const { lines } = proxy.streams[0];
  return lines.findIndex((line) => kind(line) === 'checkpoint_complete') + 1;
}

test('a first sync that ends after its k-th line is resumed right there, for each k (F-39)', async (t) => {
  const total = await linesOfAFirstSync();
  assert.ok(total >= 8, `a first sync has only ${total} lines`);
  for (let k = 0; k < total; k += 1) {
    await t.test(`k = ${k} of ${total}`, async () => {
      const proxy = await world.proxy();
      proxy.onLine = (_, index, exchange) => (exchange === proxy.streams[0] && index === k ? 'end' : undefined);
      const client = world.client('ann', { endpoint: proxy.url });
      await client.connect();
      await world.barrier(client);
      const [first, second] = proxy.streams;
      assert.equal(first.lines.length, k);
      assert.deepEqual(asked(second), received(first.lines));
      await assertOracle(world, client);
      assertNothingTwice(proxy);
      await client.close();
    });
  }
});

/** Where a client is after these lines of a first stream, by bucket (protocol 6.5, 7.5). */
function received(/** @type {string[]} */ lines) {
  const positions = /** @type {Record<string, string>} */ ({});
  let buckets = /** @type {any[]} */ ([]);
  for (const { checkpoint, data, partial_checkpoint_complete: partial } of lines.map((line) => JSON.parse(line))) {
    if (checkpoint) buckets = checkpoint.buckets;
    if (data) positions[data.bucket] = data.next_after;
    for (const { bucket, priority } of partial ? buckets : []) {
      if (priority <= partial.priority && bucket in positions) positions[bucket] = partial.last_op_id;
    }
  }
  return positions;
}

/** Where a client said it was, by bucket; those without a position are left out. */
function asked(/** @type {import('../harness/line_proxy.js').Exchange} */ { body }) {
  const positions = body.buckets.map((/** @type {any} */ { name, after }) => [name, after]);
  return Object.fromEntries(positions.filter((/** @type {any} */ [, after]) => after !== '0'));
}

/** Each stream begins after what its client said it has, and sends no operation twice. */
function assertNothingTwice(/** @type {import('../harness/line_proxy.js').LineProxy} */ proxy) {
  for (const stream of proxy.streams) {
    const positions = asked(stream);
    for (const { data } of stream.lines.map((line) => JSON.parse(line))) {
      for (const { op_id } of data?.data ?? []) {
        assert.ok(BigInt(op_id) > BigInt(positions[data.bucket] ?? 0), `${data.bucket} sent ${op_id} again`);
        positions[data.bucket] = op_id;
      }
    }
  }
}

test('a first sync that is cut in the middle of its k-th line ends with the right rows, for each k (F-39)', async (t) => {
  const total = await linesOfAFirstSync();
  for (let k = 0; k < total; k += 1) {
    await t.test(`k = ${k} of ${total}`, async () => {
      const proxy = await world.proxy();
      proxy.onLine = (line, index, exchange) =>
        exchange === proxy.streams[0] && index === k ? Math.floor(Buffer.byteLength(line) / 2) : undefined;
      const client = world.client('ann', { endpoint: proxy.url });
      await client.connect();
      await world.barrier(client);
      await assertOracle(world, client);
      await client.close();
    });
  }
});

test('changes that are cut after their k-th line arrive whole after resuming, for each k (F-39)', async (t) => {
  const proxy = await world.proxy();
  const client = world.client('ann', { endpoint: proxy.url });
  await client.connect();
  await world.barrier(client);
  // What resuming takes when nothing of it arrived before.
  let total = 0;
  for (let k = 0; k === 0 || k < total; k += 1) {
    await t.test(`k = ${k}`, async () => {
      await client.db.disconnect();
      // Every kind of change, in several buckets, and one bucket that comes and goes.
      await world.commit(`
        UPDATE todos SET n = ${k} WHERE id IN ('t1', 't2', 't3', 't4');
        INSERT INTO todos VALUES ('new${k}', 'l1', 'New'), ('new${k}b', 'l2', 'New');
        DELETE FROM todos WHERE id = 't1${k}';
        UPDATE todos SET list_id = 'l' || (1 + ${k} % 3) WHERE id = 't7';
        UPDATE lists SET name = 'Name ${k}' WHERE id = 'l1';
        UPDATE lists SET owner_id = CASE owner_id WHEN 'ann' THEN 'bob' ELSE 'ann' END WHERE id = 'l2'`);
      const first = proxy.streams.length;
      proxy.onLine = (_, index, exchange) => (exchange === proxy.streams[first] && index === k ? 'cut' : undefined);
      await client.connect();
      await world.barrier(client);
      await assertOracle(world, client);
      assert.equal(proxy.streams[first].lines.length, k, 'the stream was cut there');
      if (k === 0) total = proxy.streams[first + 1].lines.map(kind).indexOf('checkpoint_complete') + 1;
    });
  }
});

test('a live change that is cut after its k-th line arrives whole, for each k', async (t) => {
  const proxy = await world.proxy();
  const client = world.client('ann', { endpoint: proxy.url });
  await client.connect();
  await world.barrier(client);
  for (let k = 0; k < 5; k += 1) {
    await t.test(`k = ${k}`, async () => {
      await client.until('it is connected', () => client.db.currentStatus.connected);
      const stream = /** @type {import('../harness/line_proxy.js').Exchange} */ (proxy.streams.at(-1));
      const start = stream.lines.length;
      proxy.onLine = (_, index, exchange) => (exchange === stream && index === start + k ? 'cut' : undefined);
      await world.commit(`
        UPDATE todos SET n = -${k} WHERE id IN ('t3', 't4', 't5');
        UPDATE notes SET body = 'live ${k}' WHERE id = 'n1'`);
      await world.barrier(client);
      await assertOracle(world, client);
    });
  }
});

test('a client whose every connection ends after three lines gets there all the same', async () => {
  const proxy = await world.proxy();
  proxy.onLine = (_, index) => (index === 3 ? 'end' : undefined);
  const client = world.client('ann', { endpoint: proxy.url });
  await client.connect();
  // Not at the barrier: the stream cannot stay open for the beacon's later change.
  await client.synced();
  proxy.onLine = () => undefined;
  await world.barrier(client);
  await assertOracle(world, client);
  assertNothingTwice(proxy);
});
