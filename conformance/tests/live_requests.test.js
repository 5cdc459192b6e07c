/**
 * Our SDK of live queries: queries, writes and transactions over one socket, as the user who is signed
 * in.
 */

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';

import { and, eq, greaterThan, LiveError, or, whereIn } from '@headwater/client/live';

import { LiveWorld, Watched } from '../harness/live.js';
import { token } from '../harness/token.js';

/** @type {LiveWorld} */
let world;

before(async () => {
  world = await LiveWorld.start({
    before: `
      INSERT INTO users VALUES ('ann', 'Ann'), ('bob', 'Bob');
      INSERT INTO tasks (owner_id, title, mood, n, price, created_at) VALUES
        ('ann', 'zebra', 'done', 1, 0.1, '2024-01-01T00:00:00.5Z'), ('ann', 'Äpfel', 'open', 2, NULL, '2024-01-02'),
        ('ann', 'apple', 'doing', 3, 10, '2024-01-03'), ('bob', 'Bob''s', 'open', 4, 1, '2024-01-04')`,
  });
});
after(() => world.close());

const titles = (/** @type {any[]} */ rows) => rows.map(({ title }) => title);
/** @param {Promise<unknown>} promise @returns {Promise<LiveError>} */
const failure = (promise) => promise.then(() => assert.fail('it did not fail'), (error) => error);

test('ds_5_queries_are_answered_as_postgres_answers_this_user', async () => {
  const ann = world.client('ann');
  const tasks = () => ann.query('tasks');
  const asked = async (/** @type {any} */ builder) => titles(await builder.fetch());
  assert.deepEqual(await asked(tasks().orderBy('title')), ['Äpfel', 'apple', 'zebra']);
  assert.deepEqual(await asked(tasks().orderByDesc('mood')), ['zebra', 'apple', 'Äpfel']);
  assert.deepEqual(await asked(tasks().where({ mood: 'open' })), ['Äpfel']);
  assert.deepEqual(await asked(tasks().where('price', null)), ['Äpfel']);
  assert.deepEqual(await asked(tasks().where(or(eq('n', 1), and(greaterThan('n', 2), eq('mood', 'doing')))).orderBy('n')), ['zebra', 'apple']);
  assert.deepEqual(await asked(tasks().where(whereIn('n', [1, 3, null])).orderBy('n')), ['zebra', 'apple']);
  assert.deepEqual(await asked(tasks().whereGreaterThan('createdAt', new Date('2024-01-01T12:00:00Z')).orderBy('n')), ['Äpfel', 'apple']);
  assert.deepEqual(await asked(tasks().orderBy('n').limit(1).offset(1)), ['Äpfel']);
  assert.deepEqual(await asked(tasks().distinctOn('ownerId').orderBy('ownerId').orderByDesc('n')), ['apple']);
  assert.deepEqual(await tasks().select('n', 'price').where('n', 3).fetchOne(), { n: 3, price: 10 });
  assert.equal(await tasks().where('n', 99).fetchOne(), null);
  const nobody = world.client(null);
  nobody.connection.connect();
  await new Promise((resolve) => nobody.listen(() => nobody.status.error && resolve(undefined)));
});

test('ds_8_writes_give_the_record_as_postgres_has_it', async () => {
  const ann = world.client('ann');
  const made = await ann.createRecord('tasks', { title: 'new', tags: ['a', 'b'], createdAt: new Date('2024-02-03T04:05:06.700Z') });
  assert.deepEqual(
    { ...made, id: undefined },
    { id: undefined, ownerId: 'ann', teamId: null, title: 'new', mood: 'open', n: null, price: null, tags: ['a', 'b'], createdAt: '2024-02-03T04:05:06.7+00:00' },
  );
  const changed = await ann.updateRecord('tasks', made.id, { n: 7, tags: [] });
  assert.deepEqual(changed, { ...made, n: 7, tags: [] });
  const several = await ann.createRecords('tasks', [{ title: 'b' }, { title: 'a', n: 1 }]);
  assert.deepEqual(titles(several), ['b', 'a']);
  const ids = several.map(({ id }) => id);
  assert.equal((await ann.updateRecords('tasks', [...ids, made.id], { mood: 'dropped' })).length, 3);
  await ann.deleteRecords('tasks', ids);
  await ann.deleteRecord('tasks', made.id);
  assert.equal(await ann.query('tasks').where('mood', 'dropped').fetchOne(), null);
});

test('ds_13_refusals_say_what_is_wrong_in_words_and_codes', async () => {
  const ann = world.client('ann');
  const bob = world.client('bob');
  const [bobs] = await bob.query('tasks').fetch();
  const empty = await failure(ann.createRecord('tasks', { title: '' }));
  assert.ok(empty instanceof LiveError);
  assert.deepEqual([empty.kind, empty.sqlstate], ['refused', '23514']);
  assert.match(empty.message, /title_is_not_empty/);
  assert.match(empty.code ?? '', /^HW\d{4}$/);
  const foreign = await failure(ann.createRecord('tasks', { title: 'x', ownerId: 'bob' }));
  assert.deepEqual([foreign.kind, foreign.sqlstate], ['refused', '42501']);
  const hidden = await failure(ann.updateRecord('tasks', bobs.id, { title: 'mine' }));
  assert.match(hidden.message, /Could not apply the update/);
  assert.match((await failure(ann.query('nothing').fetch())).message, /nothing/);
  assert.match((await failure(ann.query('beacon').fetch())).message, /Row level security is required/);
  assert.match((await failure(ann.createRecords('tasks', []))).message, /At least one record/);
  assert.equal((await failure(ann.query('tasks').where('title', 'x').limit(-1).fetch())).kind, 'refused');
});

test('ds_3_writes_of_one_socket_happen_in_their_order_without_being_awaited', async () => {
  const ann = world.client('ann');
  const team = '00000000-0000-4000-8000-00000000000a';
  void ann.createRecord('teams', { id: team, name: 'A' });
  const task = ann.createRecord('tasks', { title: 'of the team', teamId: team });
  const seen = ann.query('tasks').where('teamId', team).fetch();
  assert.deepEqual(titles(await seen), ['of the team']);
  await ann.deleteRecord('tasks', (await task).id);
  await ann.deleteRecord('teams', team);
});

test('ds_9_transactions_are_whole_or_nothing', async () => {
  const ann = world.client('ann');
  const count = async () => (await ann.query('tasks').where('n', 50).fetch()).length;
  await ann.withTransaction(async (transaction) => {
    await transaction.createRecord('tasks', { title: 'a', n: 50 });
    assert.equal((await transaction.query('tasks').where('n', 50).fetch()).length, 1);
    assert.equal(await count(), 0);
  });
  assert.equal(await count(), 1);
  const failed = await failure(ann.withTransaction(async (transaction) => {
    await transaction.createRecord('tasks', { title: 'b', n: 50 });
    await transaction.createRecord('tasks', { title: '', n: 50 });
  }));
  assert.equal(failed.sqlstate, '23514');
  assert.equal(await count(), 1);
  // Whoever goes on after a failed statement is told when he commits.
  const caught = await failure(ann.withTransaction(async (transaction) => {
    await failure(transaction.createRecord('tasks', { title: '', n: 50 }));
  }));
  assert.match(caught.message, /rolled back because an earlier statement failed/);
  await world.sql.query('DELETE FROM tasks WHERE n = 50');
});

test('requests are settled when the connection is cut, and a transaction ends with it', async () => {
  const proxy = await world.proxy();
  const ann = world.client('ann', { host: proxy.url });
  await ann.query('tasks').fetch();
  const lost = await failure(ann.withTransaction(async (transaction) => {
    await transaction.createRecord('tasks', { title: 'lost', n: 60 });
    proxy.cut();
    await transaction.createRecord('tasks', { title: 'lost', n: 60 });
  }));
  assert.equal(lost.kind, 'connection');
  assert.deepEqual(await ann.query('tasks').where('n', 60).fetch(), []);
  assert.equal(proxy.connections, 2);
});

test('ds_1_a_token_is_renewed_on_the_open_socket_and_its_subscriptions_go_on', async () => {
  const proxy = await world.proxy();
  let asked = 0;
  const give = () => {
    asked += 1;
    return token('ann', { ttl: asked === 1 ? 3 : 3600 });
  };
  const ann = world.client('ann', { host: proxy.url, token: give });
  const watched = new Watched(ann, ann.query('tasks').where('n', 70));
  await watched.shows('title', []);
  const end = Date.now() + 3000;
  // The socket outlives the first token: asked until that has surely ended.
  while (Date.now() < end + 500) await ann.query('tasks').limit(1).fetch();
  await world.sql.query(`INSERT INTO tasks (owner_id, title, n) VALUES ('ann', 'later', 70)`);
  await watched.shows('title', ['later']);
  await world.sql.query('DELETE FROM tasks WHERE n = 70');
  assert.equal(proxy.connections, 1);
  assert.equal(asked, 2);
});

test('ds_1_a_user_who_signs_in_after_another_sees_nothing_of_him', async () => {
  let user = 'ann';
  const client = world.client(null, { token: () => token(user) });
  assert.ok(titles(await client.query('tasks').fetch()).includes('apple'));
  user = 'bob';
  await client.refreshToken();
  assert.deepEqual(titles(await client.query('tasks').fetch()), ["Bob's"]);
  assert.deepEqual(await client.currentUser?.fetchOne(), { id: 'bob', name: 'Bob' });
});
