/**
 * Tokens that expire, are refused, or end (F-45).
 */

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';

import { kind } from '../harness/line_proxy.js';
import { assertOracle } from '../harness/oracle.js';
import { token } from '../harness/token.js';
import { World } from '../harness/world.js';

/** @type {World} */
let world;

before(async () => {
  world = await World.start({ before: `INSERT INTO lists VALUES ('l1', 'ann', 'One'), ('l2', 'bob', 'Two')` });
});
after(() => world.close());

/** A connector whose token comes from a function of how often it was asked before. */
function tokens(/** @type {string} */ endpoint, /** @type {(call: number) => string | null} */ give) {
  let calls = 0;
  return {
    fetchCredentials: async () => {
      const text = give(calls);
      calls += 1;
      return text === null ? null : { endpoint, token: text };
    },
    uploadData: async () => {},
  };
}

test('an expired token is refused, and the SDK comes back with a new one', async () => {
  const proxy = await world.proxy();
  const connector = tokens(proxy.url, (call) => token('ann', { ttl: call === 0 ? -120 : 3600 }));
  const client = world.client('ann', { connector });
  await client.connect();
  await world.barrier(client);
  await assertOracle(world, client);
  assert.deepEqual(proxy.streams.map(({ status }) => status), [401, 200]);
  assert.ok(client.logged(/PSYNC_S2103/), client.describe());
});

test('a token that is about to expire is renewed without a gap', async () => {
  const proxy = await world.proxy();
  const connector = tokens(proxy.url, (call) => token('ann', { ttl: call === 0 ? 22 : 3600 }));
  const client = world.client('ann', { connector });
  await client.connect();
  let disconnected = 0;
  client.db.registerListener({
    statusChanged: ({ connected, connecting }) => {
      if (!connected && !connecting) disconnected += 1;
    },
  });
  await client.until('the token was renewed', () => client.credentialsFetched >= 2);
  await proxy.until('the stream was restarted', () => proxy.streams.length >= 2);
  await world.barrier(client);
  await assertOracle(world, client);
  assert.equal(disconnected, 0, 'it was never shown as disconnected');
});

test('a stream ends with its token, and nothing is sent after that (P4)', async () => {
  const proxy = await world.proxy();
  // The SDK asks for a new token when it is warned; it gets the same one, then none.
  const only = token('ann', { ttl: 3 });
  const connector = tokens(proxy.url, (call) => (call < 2 ? only : null));
  const client = world.client('ann', { connector });
  await client.connect();
  await client.synced();
  await proxy.until('every stream has ended', () => {
    const streams = proxy.streams;
    return streams.some(({ status }) => status === 200) && streams.every(({ open }) => !open);
  });
  const last = proxy.streams.filter(({ lines }) => lines.length > 0).at(-1)?.lines.at(-1) ?? '{}';
  assert.deepEqual(JSON.parse(last), { token_expires_in: 0 });
  await client.until('it waits for somebody to sign in', () => client.logged(/Not signed in/));
  await world.commit(`INSERT INTO lists VALUES ('late', 'ann', 'Too late')`);
  await world.barrier();
  assert.deepEqual(await client.rows(`SELECT id FROM lists WHERE id = 'late'`), []);
  assert.equal(client.db.currentStatus.connected, false);
});

test('data goes on flowing through many short-lived tokens', async () => {
  const proxy = await world.proxy();
  const connector = tokens(proxy.url, () => token('ann', { ttl: 2 }));
  const client = world.client('ann', { connector });
  await client.connect();
  let change = 0;
  while (client.credentialsFetched < 4) {
    change += 1;
    await world.commit(`UPDATE lists SET name = 'Name ${change}' WHERE id = 'l1'`);
    await world.barrier(client);
    await assertOracle(world, client);
    const seen = proxy.exchanges.length;
    // Idle until something moves: the next renewal.
    await proxy.until('the next stream', () => proxy.exchanges.length > seen);
  }
});

test('a forged token gets an error that says nothing about the data', async () => {
  const connector = tokens(world.server.url, () => token('ann', { secret: 'another secret, just as long as ours' }));
  const client = world.client('ann', { connector });
  await client.connect();
  await client.until('the error is shown', () => client.db.currentStatus.downloadError);
  assert.match(String(client.db.currentStatus.downloadError), /PSYNC_S210\d/);
  assert.deepEqual(await client.rows('SELECT * FROM lists'), []);
});

test('a write checkpoint needs a valid token too', async () => {
  const answer = await fetch(`${world.server.url}/write-checkpoint2.json?client_id=x`, {
    headers: { authorization: `Token ${token('ann', { ttl: -120 })}` },
  });
  assert.equal(answer.status, 401);
  assert.equal((await answer.json()).error.code, 'PSYNC_S2103');
});

test('keepalives carry the time that the token has left', async () => {
  const proxy = await world.proxy();
  const connector = tokens(proxy.url, (call) => token('ann', { ttl: call === 0 ? 22 : 3600 }));
  const client = world.client('ann', { connector });
  await client.connect();
  const line = await proxy.until('a keepalive', () =>
    proxy.streams.flatMap(({ lines }) => lines).find((text) => kind(text) === 'token_expires_in'),
  );
  const left = JSON.parse(line).token_expires_in;
  assert.ok(Number.isInteger(left) && left <= 20, line);
});
