/**
 * What decides which rows a client gets besides its user: connection parameters, claims of the
 * token, and, in the classic form, request parameters and parameter tables.
 */

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';

import { World } from '../harness/world.js';

/** @type {World} */
let world;

before(async () => {
  world = await World.start({
    before: `INSERT INTO news VALUES ('1', 'north', 1, 'a'), ('2', 'north', 2, 'b'), ('3', 'south', 1, 'c')`,
  });
});
after(() => world.close());

const news = async (/** @type {import('../harness/client.js').Client} */ client) =>
  (await client.rows('SELECT id FROM news ORDER BY id')).map(({ id }) => id);

test('a connection parameter selects the rows, and connecting with another one selects others', async () => {
  const client = world.client('ann');
  await client.connect({ params: { region: 'north' } });
  await world.barrier(client);
  assert.deepEqual(await news(client), ['1', '2']);

  await world.commit(`INSERT INTO news VALUES ('4', 'north', 1, 'd'); UPDATE news SET region = 'south' WHERE id = '1'`);
  await world.barrier(client);
  assert.deepEqual(await news(client), ['2', '4']);

  await client.db.disconnect();
  await client.connect({ params: { region: 'south' } });
  await world.barrier(client);
  assert.deepEqual(await news(client), ['1', '3']);
  await world.commit(`UPDATE news SET region = 'north' WHERE id = '1'; DELETE FROM news WHERE id = '4'`);
});

test('without the parameter the stream is empty and everything else goes on', async () => {
  const client = world.client('ann');
  await client.connect();
  await world.barrier(client);
  assert.deepEqual(await news(client), []);
});

test('a claim of the token selects rows that the client could not have asked for', async () => {
  const client = world.client('ann', { claims: { tier: 2 } });
  await client.connect({ params: { tier: 1 } });
  await world.barrier(client);
  assert.deepEqual(await news(client), ['2']);
});

test('a new token with other claims takes away what the old one showed (F-45)', async () => {
  const options = { claims: { tier: 1 } };
  const first = world.client('ann', options);
  await first.connect();
  await world.barrier(first);
  assert.deepEqual(await news(first), ['1', '3']);
  const second = world.adopt(await first.reopened({ claims: { tier: 2 } }));
  await second.connect();
  await world.barrier(second);
  assert.deepEqual(await news(second), ['2']);
});

test('parameters of every JSON type keep their type', async () => {
  const classic = await World.start({
    syncConfig: `
bucket_definitions:
  beacon:
    data: [SELECT * FROM beacon]
  by_tier:
    parameters: SELECT request.parameters() ->> 'tier' AS tier
    data: [SELECT * FROM news WHERE tier = bucket.tier]
  by_region:
    parameters: SELECT value AS region FROM json_each(request.parameters() -> 'regions')
    data: [SELECT * FROM news WHERE region = bucket.region]
`,
    before: `INSERT INTO news VALUES ('1', 'north', 1, 'a'), ('2', 'Café ☕', 2, 'b'), ('3', 'south', 3, 'c')`,
  });
  try {
    const client = classic.client('ann');
    await client.connect({ params: { tier: 3, regions: ['north', 'Café ☕'] } });
    await classic.barrier(client);
    assert.deepEqual(await news(client), ['1', '2', '3']);
    await client.db.disconnect();
    await client.connect({ params: { tier: '3', regions: [] } });
    await classic.barrier(client);
    assert.deepEqual(await news(client), [], 'a text is not a number');
  } finally {
    await classic.close();
  }
});

test('classic parameter queries follow their tables, and global buckets reach everybody', async () => {
  const classic = await World.start({
    syncConfig: `
bucket_definitions:
  global:
    data: ["SELECT * FROM beacon", "SELECT * FROM news"]
  owned:
    priority: 1
    parameters: SELECT id AS list_id FROM lists WHERE owner_id = request.user_id()
    data:
      - SELECT * FROM lists WHERE id = bucket.list_id
      - SELECT * FROM todos WHERE list_id = bucket.list_id
  shared:
    parameters:
      - SELECT list_id FROM list_members WHERE user_id = token_parameters.user_id
    data: [SELECT * FROM todos WHERE list_id = bucket.list_id AND NOT done]
`,
    before: `
      INSERT INTO news VALUES ('1', 'north', 1, 'a');
      INSERT INTO lists VALUES ('l1', 'ann', 'Ann'), ('l2', 'bob', 'Bob');
      INSERT INTO todos VALUES ('t1', 'l1', 'Milk', false), ('t2', 'l2', 'Paint', false), ('t3', 'l2', 'Done', true)`,
  });
  try {
    const ann = classic.client('ann');
    await ann.connect();
    const todos = async () => (await ann.rows('SELECT id FROM todos ORDER BY id')).map(({ id }) => id);
    await classic.barrier(ann);
    assert.deepEqual([await news(ann), await todos()], [['1'], ['t1']]);
    await classic.commit(`INSERT INTO list_members VALUES ('m', 'l2', 'ann')`);
    await classic.barrier(ann);
    assert.deepEqual(await todos(), ['t1', 't2']);
    await classic.commit(`UPDATE todos SET done = NOT done WHERE list_id = 'l2'`);
    await classic.barrier(ann);
    assert.deepEqual(await todos(), ['t1', 't3']);
    await classic.commit(`UPDATE lists SET owner_id = 'ann' WHERE id = 'l2'; DELETE FROM list_members`);
    await classic.barrier(ann);
    assert.deepEqual(await todos(), ['t1', 't2', 't3']);
    await classic.commit(`UPDATE lists SET owner_id = 'bob'`);
    await classic.barrier(ann);
    assert.deepEqual(await todos(), []);
    assert.deepEqual(await ann.rows('SELECT * FROM lists'), []);
  } finally {
    await classic.close();
  }
});
