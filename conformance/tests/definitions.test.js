/**
 * A changed sync configuration under connected clients: SIGHUP, an invalid file, a restart.
 */

import assert from 'node:assert/strict';
import fs from 'node:fs';
import { after, before, test } from 'node:test';

import { kind } from '../harness/line_proxy.js';
import { assertOracle } from '../harness/oracle.js';
import { LISTS_YAML, World } from '../harness/world.js';

/** @type {World} */
let world;

before(async () => {
  world = await World.start({
    before: `
      INSERT INTO lists VALUES ('l1', 'ann', 'One'), ('l2', 'bob', 'Two');
      INSERT INTO todos SELECT 't' || i, 'l1', 'todo ' || i FROM generate_series(1, 500) i;
      INSERT INTO news VALUES ('n1', 'north', 1, 'First'), ('n2', 'south', 1, 'Second')`,
  });
});
after(() => world.close());

const configure = (/** @type {string} */ text) => fs.writeFileSync(world.server.syncConfigFile, text);

const NEWS = `${LISTS_YAML}
  all_news:
    auto_subscribe: true
    query: SELECT * FROM news
`;

test('a stream that is added brings its rows, and unchanged ones are not sent again', async () => {
  const proxy = await world.proxy();
  const client = world.client('ann', { endpoint: proxy.url });
  await client.connect();
  await world.barrier(client);
  assert.deepEqual(await client.rows('SELECT id FROM news'), []);
  const streams = proxy.streams.length;

  configure(NEWS);
  await world.server.signal('SIGHUP');
  await client.until('the news are there', async () => (await client.rows('SELECT id FROM news')).length === 2);
  await world.barrier(client);
  await assertOracle(world, client);
  const lines = proxy.streams.slice(streams).flatMap((stream) => stream.lines).filter((line) => kind(line) === 'data');
  const types = lines.flatMap((line) => JSON.parse(line).data.data.map((/** @type {any} */ op) => op.object_type));
  assert.deepEqual([...new Set(types)].sort(), ['beacon', 'news']);
});

test('an invalid file changes nothing, and says so', async () => {
  const client = world.client('ann');
  await client.connect();
  await world.barrier(client);
  world.server.allowed.push(/sync configuration|HW1/);
  configure(LISTS_YAML.replace('owner_id = auth.user_id()', 'onwer_id == '));
  await world.server.signal('SIGHUP');
  await world.server.logged(/"level":"(ERROR|WARN)"/);
  await world.commit(`UPDATE todos SET n = 7 WHERE id = 't1'`);
  await world.barrier(client);
  await assertOracle(world, client);
  assert.equal((await client.rows('SELECT id FROM news')).length, 2, 'the earlier configuration still serves');
});

test('a query that changes replaces its rows, and a stream that is dropped takes its rows away', async () => {
  const client = world.client('ann');
  await client.connect();
  await world.barrier(client);
  configure(NEWS.replace('SELECT * FROM news\n', `SELECT id, upper(body) AS body FROM news WHERE region = 'north'\n`));
  await world.server.signal('SIGHUP');
  await client.until('the other rows are there', async () => {
    const rows = await client.rows('SELECT id, body FROM news');
    return JSON.stringify(rows) === '[{"id":"n1","body":"FIRST"}]';
  });
  configure(LISTS_YAML);
  await world.server.signal('SIGHUP');
  await client.until('the news are gone', async () => (await client.rows('SELECT id FROM news')).length === 0);
  await world.barrier(client);
  await assertOracle(world, client);
});

test('a configuration that changed while the server was down is served after its start', async () => {
  const client = world.client('ann');
  await client.connect();
  await world.barrier(client);
  await world.server.end('SIGTERM');
  configure(NEWS);
  await world.server.startAgain();
  await client.until('the news are there', async () => (await client.rows('SELECT id FROM news')).length === 2);
  await world.barrier(client);
  await assertOracle(world, client);
});
