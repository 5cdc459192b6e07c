/**
 * Our SDK of live queries: what subscriptions show is what Postgres answers this
 * user, in its order, whatever happens and wherever the connection is cut.
 */

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';

import { eq, or } from '@headwater/client/live';

import { LiveWorld, Watched } from '../harness/live.js';
import { Random } from '../harness/random.js';

/** @type {LiveWorld} */
let world;

before(async () => {
  world = await LiveWorld.start({
    before: `
      INSERT INTO users VALUES ('ann', 'Ann'), ('bob', 'Bob');
      INSERT INTO teams VALUES ('00000000-0000-4000-8000-00000000000a', 'A')`,
  });
});
after(() => world.close());

const TEAM = '00000000-0000-4000-8000-00000000000a';

test('ds_10_5_2_rows_come_and_go_by_whatever_lets_them', async () => {
  const ann = world.client('ann');
  const bob = world.client('bob');
  const [anns, bobs] = [ann, bob].map((client) => new Watched(client, client.query('tasks').orderBy('title')));
  const count = new Watched(bob, bob.query('tasks'), 'count');
  await Promise.all([anns.shows('title', []), bobs.shows('title', [])]);
  const { sql } = world;
  await sql.query(`INSERT INTO tasks (owner_id, title) VALUES ('ann', 'zebra'), ('ann', 'apple'), ('bob', 'mine')`);
  await anns.shows('title', ['apple', 'zebra']);
  await sql.query(`UPDATE tasks SET owner_id = 'bob' WHERE title = 'zebra'`);
  await Promise.all([anns.shows('title', ['apple']), bobs.shows('title', ['mine', 'zebra'])]);
  // By a change elsewhere, and back.
  await sql.query(`UPDATE tasks SET team_id = '${TEAM}' WHERE title = 'apple'`);
  await sql.query(`INSERT INTO team_members VALUES ('${TEAM}', 'bob')`);
  await bobs.shows('title', ['apple', 'mine', 'zebra']);
  await count.until('three', (data) => data === 3);
  await sql.query(`DELETE FROM team_members`);
  await bobs.shows('title', ['mine', 'zebra']);
  await count.until('two', (data) => data === 2);
  await sql.query(`TRUNCATE tasks`);
  await Promise.all([anns.shows('title', []), bobs.shows('title', [])]);
});

test('issue_6_2_groups_follow_what_comes_and_goes_for_whoever_looks', async () => {
  const bob = world.client('bob');
  const { sql } = world;
  await sql.query(`INSERT INTO tasks (owner_id, title, mood, price) VALUES ('bob', 'a', 'open', 1.50), ('ann', 'b', 'done', 2)`);
  const query = bob.query('tasks').groupBy('mood').aggregate({ tasks: 'count', sum: { sum: 'price' }, last: { max: 'price' } });
  const all = new Watched(bob, bob.query('tasks').aggregate({ tasks: 'count', mean: { avg: 'price' } }));
  const groups = new Watched(bob, query);
  /** @param {unknown[]} expected */
  const shows = async (expected) => {
    const text = (/** @type {any[]} */ all) => JSON.stringify(all.map((one) => JSON.stringify(Object.entries(one).sort())).sort());
    await groups.until(JSON.stringify(expected), (data) => text(data) === text(expected));
  };
  await shows([{ mood: 'open', tasks: 1, sum: 1.5, last: 1.5 }]);
  await sql.query(`UPDATE tasks SET owner_id = 'bob' WHERE title = 'b'`);
  await shows([{ mood: 'open', tasks: 1, sum: 1.5, last: 1.5 }, { mood: 'done', tasks: 1, sum: 2, last: 2 }]);
  await all.until('both', ([{ tasks, mean }]) => tasks === 2 && mean === 1.75);
  await sql.query(`UPDATE tasks SET mood = 'done', price = NULL WHERE title = 'a'`);
  await shows([{ mood: 'done', tasks: 2, sum: 2, last: 2 }]);
  assert.deepEqual(await query.fetch(), [{ mood: 'done', tasks: 2, sum: 2, last: 2 }]);
  await sql.query(`TRUNCATE tasks`);
  await shows([]);
  await all.until('none', ([{ tasks, mean }]) => tasks === 0 && mean === null);
});

test('an order that only Postgres knows is the order that is shown', async () => {
  const ann = world.client('ann');
  const byTitle = new Watched(ann, ann.query('tasks').orderBy('title'));
  const byMood = new Watched(ann, ann.query('tasks').orderByDesc('mood').orderBy('price'));
  const window = new Watched(ann, ann.query('tasks').select('title').orderBy('title').limit(2));
  await byTitle.shows('title', []);
  const words = ['zebra', 'Äpfel', 'apple', 'B', 'a', '10', '9', 'résumé', 'resume'];
  const moods = ['open', 'doing', 'done', 'dropped'];
  for (const [at, title] of words.entries()) {
    await world.sql.query('INSERT INTO tasks (owner_id, title, mood, price) VALUES ($1, $2, $3, $4)', ['ann', title, moods[at % 4], at % 3 === 0 ? null : `0.${'1'.repeat(at)}`]);
  }
  const asked = async (/** @type {string} */ rest) => (await world.as('ann', `SELECT title FROM tasks ${rest}`)).map(({ title }) => title);
  await byTitle.shows('title', await asked('ORDER BY title'));
  await byMood.shows('title', await asked('ORDER BY mood DESC, price'));
  await window.shows('title', await asked('ORDER BY title LIMIT 2'));
  assert.deepEqual(Object.keys(window.data[0]), ['title']);
  await world.sql.query(`UPDATE tasks SET title = 'aardvark' WHERE title = 'zebra'`);
  await byTitle.shows('title', await asked('ORDER BY title'));
  await window.shows('title', await asked('ORDER BY title LIMIT 2'));
  await world.sql.query(`DELETE FROM tasks WHERE title IN ('9', '10')`);
  await window.shows('title', await asked('ORDER BY title LIMIT 2'));
  await world.sql.query('DELETE FROM tasks');
  await byTitle.shows('title', []);
});

test('own writes are shown at once and never flicker, refused ones go', async () => {
  const ann = world.client('ann');
  const watched = new Watched(ann, ann.query('tasks').orderBy('n'));
  await watched.shows('title', []);
  const task = await ann.createRecord('tasks', { title: '0', n: 1 });
  await watched.shows('title', ['0']);
  watched.history = [];
  // Quick typing, as in defect 3 of the original: every text that is shown is the last one that was typed.
  const typed = [];
  for (let length = 1; length <= 30; length += 1) {
    const title = 'x'.repeat(length);
    typed.push(ann.updateRecord('tasks', task.id, { title }));
    assert.equal(watched.data[0].title, title);
    if (length % 5 === 0) await typed.at(-1);
  }
  await Promise.all(typed);
  await world.sql.query(`UPDATE tasks SET n = 2`);
  await watched.until('n is 2', ([row]) => row.n === 2);
  const lengths = watched.history.map(([row]) => row.title.length);
  assert.deepEqual(lengths, [...lengths].sort((a, b) => a - b));
  assert.equal(watched.data[0].title, 'x'.repeat(30));
  await assert.rejects(ann.updateRecord('tasks', task.id, { title: '' }));
  assert.equal(watched.data[0].title, 'x'.repeat(30));
  await ann.deleteRecord('tasks', task.id);
  assert.deepEqual(watched.data, []);
  await world.sql.query('DELETE FROM tasks');
});

const QUERIES = [
  (/** @type {any} */ q) => [q.orderBy('title').orderBy('id'), 'ORDER BY title, id'],
  (/** @type {any} */ q) => [q.orderByDesc('n').orderBy('id').limit(5), 'ORDER BY n DESC, id LIMIT 5'],
  (/** @type {any} */ q) => [q.where('mood', 'open').orderByDesc('createdAt').orderBy('id'), `WHERE mood = 'open' ORDER BY created_at DESC, id`],
  (/** @type {any} */ q) => [q.where(or(eq('n', 1), eq('teamId', TEAM))).orderBy('mood').orderBy('id'), `WHERE n = 1 OR team_id = '${TEAM}' ORDER BY mood, id`],
  (/** @type {any} */ q) => [q.whereGreaterThan('n', 1).orderBy('price').orderByDesc('id').limit(3), 'WHERE n > 1 ORDER BY price, id DESC LIMIT 3'],
];

/** Statements of somebody else, one after the other. */
let last = Promise.resolve(/** @type {any} */ (undefined));
function elsewhere(/** @type {string} */ statement, /** @type {unknown[]} */ parameters = []) {
  last = last.then(() => world.sql.query(statement, parameters));
  return last;
}

/** One random statement, or write of a client. @param {Random} random @param {import('@headwater/client/live').LiveClient[]} clients */
async function something(random, clients) {
  const ids = (await elsewhere('SELECT id FROM tasks ORDER BY id')).rows.map(({ id }) => id);
  const id = ids.length > 0 ? random.pick(ids) : undefined;
  const title = random.pick(['a', 'B', 'ä', 'z', '10', '9', 'Zoë']);
  const values = { title, n: random.pick([null, 1, 2, 3]), price: random.pick([null, 0.1, 0.5, 12]), mood: random.pick(['open', 'doing', 'done']) };
  const ignore = () => {};
  const client = random.pick(clients);
  switch (random.below(9)) {
    case 0:
    case 1:
      return client.createRecord('tasks', values).catch(ignore);
    case 2:
      return id && client.updateRecord('tasks', id, values).catch(ignore);
    case 3:
      return id && client.deleteRecord('tasks', id).catch(ignore);
    case 4:
      return elsewhere('UPDATE tasks SET owner_id = $1, n = $2 WHERE id = $3', [random.pick(['ann', 'bob']), values.n, id]);
    case 5:
      return elsewhere('UPDATE tasks SET team_id = $1 WHERE id = $2', [random.pick([null, TEAM]), id]);
    case 6:
      return elsewhere(random.pick([`DELETE FROM team_members`, `INSERT INTO team_members VALUES ('${TEAM}', 'bob') ON CONFLICT DO NOTHING`]));
    case 7:
      return elsewhere('INSERT INTO tasks (owner_id, title, n, price, mood) VALUES ($1, $2, $3, $4, $5)', [random.pick(['ann', 'bob']), title, values.n, values.price, values.mood]);
    default:
      return client.withTransaction(async (transaction) => {
        await transaction.createRecord('tasks', values);
        if (id) await transaction.deleteRecord('tasks', id);
        if (random.below(3) === 0) throw new Error('no');
      }).catch(ignore);
  }
}

test('the oracle: after random changes and cuts every query shows what Postgres answers its user', async () => {
  const seed = Number(process.env.CONFORMANCE_SEED ?? Math.floor(Math.random() * 2 ** 31));
  const random = new Random(seed);
  const users = ['ann', 'bob'];
  const proxies = await Promise.all(users.map(() => world.proxy()));
  const clients = users.map((user, at) => world.client(user, { host: proxies[at]?.url ?? '' }));
  const watched = users.flatMap((user, at) => {
    const client = /** @type {import('@headwater/client/live').LiveClient} */ (clients[at]);
    return QUERIES.map((make) => {
      const [builder, sql] = make(client.query('tasks'));
      return { user, sql, watched: new Watched(client, builder) };
    });
  });
  const rounds = process.env.CONFORMANCE_FULL === '1' ? 200 : 12;
  for (let round = 0; round < rounds; round += 1) {
    const under = [];
    for (let step = 0; step < 8; step += 1) {
      under.push(something(random, clients));
      if (random.below(3) === 0) await under.at(-1);
      if (random.below(12) === 0) random.pick(proxies).cut();
    }
    await Promise.all(under);
    for (const { user, sql, watched: one } of watched) {
      const expected = (await world.as(user, `SELECT id, title, mood, n FROM tasks ${sql}`)).map(({ id, title, mood, n }) => `${id} ${title} ${mood} ${n}`);
      const what = `seed ${seed}, round ${round}: ${user} ${sql}\nexpected ${JSON.stringify(expected)}`;
      await one.until(what, (rows) => JSON.stringify(rows.map((/** @type {any} */ row) => `${row.id} ${row.title} ${row.mood} ${row.n}`)) === JSON.stringify(expected));
    }
  }
});
