/**
 * Random transactions against the oracle: after each batch every client has exactly the rows that
 * Postgres answers for its user, and its checksums are those that the server announces.
 *
 * `CONFORMANCE_FULL=1` (or the `HEADWATER_SOAK=1` of `make soak`) runs 10,000 transactions instead of 500, `CONFORMANCE_SEED=n` repeats a run.
 */

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';

import { assertOracle } from '../harness/oracle.js';
import { Random, transaction } from '../harness/random.js';
import { token } from '../harness/token.js';
import { World } from '../harness/world.js';

const USERS = ['ann', 'bob', 'cy'];
const BATCH = 25;
const FULL = process.env.CONFORMANCE_FULL === '1' || process.env.HEADWATER_SOAK === '1';
const BATCHES = FULL ? 400 : 20;
const SEED = Number(process.env.CONFORMANCE_SEED ?? Math.floor(Math.random() * 2 ** 31));

/** @type {World} */
let world;

before(async () => {
  world = await World.start();
});
after(() => world.close());

/** Bucket names and checksums that the server announces to somebody who connects now. */
async function announced(/** @type {string} */ user) {
  const stop = new AbortController();
  const answer = await fetch(`${world.server.url}/sync/stream`, {
    method: 'POST',
    headers: { authorization: `Token ${token(user)}`, 'content-type': 'application/json', accept: 'application/x-ndjson' },
    body: JSON.stringify({ buckets: [], include_checksum: true, raw_data: true }),
    signal: stop.signal,
  });
  let text = '';
  const decoder = new TextDecoder();
  for await (const chunk of /** @type {ReadableStream<Uint8Array>} */ (answer.body)) {
    text += decoder.decode(chunk, { stream: true });
    if (text.includes('\n')) break;
  }
  stop.abort();
  const { buckets } = JSON.parse(text.slice(0, text.indexOf('\n'))).checkpoint;
  return new Map(buckets.map((/** @type {any} */ { bucket, checksum }) => [bucket, checksum >>> 0]));
}

/** What the client has added up of each bucket is what the server announces (protocol 6.2). */
async function assertChecksums(/** @type {import('../harness/client.js').Client} */ client, /** @type {string} */ where) {
  const expected = await announced(client.user);
  const held = new Map((await client.buckets()).map(({ name, checksum }) => [name, checksum]));
  for (const [name, checksum] of expected) {
    assert.equal(held.get(name) ?? 0, checksum, `checksum of ${name} ${where}`);
  }
  for (const name of held.keys()) assert.ok(expected.has(name), `${name} is held and not announced ${where}`);
}

test(`rows and checksums are equal over ${BATCHES * BATCH} random transactions (seed ${SEED})`, async () => {
  const random = new Random(SEED);
  const clients = USERS.map((user) => world.client(user));
  await Promise.all(clients.map((client) => client.connect()));
  let compared = 0;
  for (let batch = 0; batch < BATCHES; batch += 1) {
    const where = `after batch ${batch} of seed ${SEED}`;
    // One of them is away during this batch, one starts from nothing in its middle.
    const away = batch % 4 === 3 ? random.below(clients.length) : -1;
    await clients[away]?.db.disconnect();
    for (let i = 0; i < BATCH; i += 1) {
      await world.sql.query(transaction(random, USERS));
      if (batch % 5 === 2 && i === Math.floor(BATCH / 2)) {
        const place = random.below(clients.length);
        await clients[place].close();
        clients[place] = world.client(USERS[place]);
        await clients[place].connect();
      }
    }
    await clients[away]?.connect();
    await world.barrier(...clients);
    for (const client of clients) {
      compared += await assertOracle(world, client, where);
      await assertChecksums(client, where);
    }
  }
  assert.ok(compared > BATCHES * USERS.length * 10, `only ${compared} rows were ever compared`);
});
