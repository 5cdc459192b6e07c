/**
 * The server or the client dies in the middle (F-1, F-43). The rows end right, and what is not yet
 * uploaded is not lost.
 */

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';

import { HeadwaterConnector } from '@headwater/client';

import { kind } from '../harness/line_proxy.js';
import { assertOracle } from '../harness/oracle.js';
import { token } from '../harness/token.js';
import { World } from '../harness/world.js';

const VICTIM = fileURLToPath(new URL('../harness/victim.js', import.meta.url));

/** @type {World} */
let world;

before(async () => {
  world = await World.start({
    before: `
      INSERT INTO lists VALUES ('l1', 'ann', 'One'), ('l2', 'ann', 'Two');
      INSERT INTO todos SELECT 't' || i, 'l' || (1 + i % 2), 'todo ' || i FROM generate_series(1, 5000) i`,
  });
});
after(() => world.close());

const withWrites = (/** @type {string} */ endpoint) => ({
  endpoint,
  connector: new HeadwaterConnector({ endpoint, token: () => token('ann'), firstRetryMs: 5, longestRetryMs: 20 }),
});

for (const signal of /** @type {const} */ (['SIGTERM', 'SIGKILL'])) {
  test(`a server that is ended by ${signal} and started again is resumed without sending anything twice (F-1)`, async () => {
    const proxy = await world.proxy();
    const client = world.client('ann', { endpoint: proxy.url });
    await client.connect();
    await world.barrier(client);
    await world.server.end(signal);
    await client.until('the end is noticed', () => !client.db.currentStatus.connected);
    await world.commit(`UPDATE todos SET title = 'while it was down, ${signal}' WHERE id IN ('t1', 't2')`);
    const streams = proxy.streams.length;
    await world.server.startAgain();
    await world.barrier(client);
    await assertOracle(world, client);
    const sent = proxy.streams.slice(streams).flatMap(({ lines }) => lines).filter((line) => kind(line) === 'data');
    const todos = sent.flatMap((line) => JSON.parse(line).data.data).filter(({ object_type }) => object_type === 'todos');
    assert.deepEqual(todos.map(({ object_id }) => object_id).sort(), ['t1', 't2']);
  });
}

test('a write made while the server is down arrives once it is back, without a further write', async () => {
  const client = world.client('ann', withWrites(world.server.url));
  await client.connect();
  await world.barrier(client);
  await world.server.end('SIGKILL');
  await client.db.execute(`INSERT INTO todos (id, list_id, title, done) VALUES ('down', 'l1', 'Made meanwhile', 0)`);
  await world.server.startAgain();
  await client.settled();
  assert.deepEqual(await world.ask(`SELECT title FROM todos WHERE id = 'down'`), [{ title: 'Made meanwhile' }]);
  await world.barrier(client);
  await assertOracle(world, client);
});

/**
 * A client in a process of its own, killed when the proxy has passed `k` lines on; its database is
 * left as it was at that moment.
 * @param {number} k
 * @returns {Promise<string>} the directory of the database
 */
async function killedAfter(k) {
  const proxy = await world.proxy();
  const reached = proxy.until(`line ${k} was passed on`, () => (proxy.streams[0]?.lines.length ?? 0) >= k);
  // Nothing follows the k-th line: the client is somewhere in applying it.
  proxy.onLine = (_, index) => (index < k ? undefined : new Promise(() => {}));
  const seed = world.client('ann', { endpoint: proxy.url });
  await seed.db.execute(`INSERT INTO todos (id, list_id, title, done) VALUES ('queued${k}', 'l1', 'Queued', 0)`);
  const { directory } = await seed.released();
  const victim = spawn(process.execPath, [VICTIM, directory, proxy.url, token('ann')], {
    stdio: ['ignore', 'inherit', 'inherit'],
  });
  const ended = once(victim, 'exit');
  await Promise.race([reached, ended.then(() => assert.fail('the client ended by itself'))]);
  victim.kill('SIGKILL');
  await ended;
  return directory;
}

for (const k of [1, 2, 3, 5, 7, 9]) {
  test(`a client that is killed while it applies line ${k} ends right, with its queue (F-43)`, async () => {
    const directory = await killedAfter(k);
    const client = world.client('ann', { ...withWrites(world.server.url), directory });
    const queued = await client.rows('SELECT data FROM ps_crud');
    assert.deepEqual(queued.map(({ data }) => JSON.parse(data).id), [`queued${k}`]);
    await client.connect();
    await client.settled();
    await world.barrier(client);
    await assertOracle(world, client);
    assert.deepEqual(await world.ask(`SELECT id FROM todos WHERE id = 'queued${k}'`), [{ id: `queued${k}` }]);
  });

  test(`a client that loses power while it applies line ${k} resumes from what its disk kept (F-43)`, async () => {
    const directory = await killedAfter(k);
    // What SQLite had written but not synced is gone: the newest part of its write-ahead log.
    const log = fs.readdirSync(directory).find((name) => name.endsWith('-wal'));
    assert.ok(log, 'the database has a write-ahead log');
    const file = path.join(directory, log);
    fs.truncateSync(file, Math.floor(fs.statSync(file).size * 0.6));
    fs.rmSync(file.replace(/-wal$/, '-shm'), { force: true });
    const client = world.client('ann', { ...withWrites(world.server.url), directory });
    await client.connect();
    await client.settled();
    await world.barrier(client);
    await assertOracle(world, client);
  });
}
