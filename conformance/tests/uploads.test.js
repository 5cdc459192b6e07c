/**
 * Writes of the client: offline, uploaded by `@headwater/client`, seen again by their author
 * (F-48 to F-50).
 */

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';

import { HeadwaterConnector } from '@headwater/client';

import { assertOracle } from '../harness/oracle.js';
import { token } from '../harness/token.js';
import { World } from '../harness/world.js';

/** @type {World} */
let world;

before(async () => {
  world = await World.start({
    before: `INSERT INTO lists VALUES ('l1', 'ann', 'Groceries'), ('b1', 'bob', 'Bob');
      INSERT INTO todos VALUES ('t1', 'l1', 'Milk'), ('t2', 'l1', 'Bread'), ('bt', 'b1', 'Paint')`,
  });
});
after(() => world.close());

/**
 * A client that writes through our connector.
 * @param {{user?: string, endpoint?: string, connector?: Partial<import('@headwater/client').HeadwaterConnectorOptions>}} [options]
 */
function writer({ user = 'ann', endpoint = world.server.url, connector = {} } = {}) {
  return world.client(user, {
    endpoint,
    connector: new HeadwaterConnector({
      endpoint,
      token: () => token(user),
      firstRetryMs: 5,
      longestRetryMs: 20,
      ...connector,
    }),
  });
}

const titles = async () =>
  Object.fromEntries((await world.ask('SELECT id, title FROM todos')).map(({ id, title }) => [id, title]));

test('what was written offline arrives in Postgres as it was written', async () => {
  const client = writer();
  await client.connect();
  await world.barrier(client);
  await client.db.disconnect();

  await client.db.writeTransaction(async (tx) => {
    await tx.execute(`INSERT INTO lists (id, owner_id, name, is_public) VALUES ('off', 'ann', 'Offline ☕', 1)`);
    await tx.execute(`INSERT INTO todos (id, list_id, title, done, n) VALUES ('off1', 'off', 'New', 0, 42)`);
  });
  await client.db.execute(`UPDATE todos SET done = 1, title = 'Oat milk' WHERE id = 't1'`);
  await client.db.execute(`DELETE FROM todos WHERE id = 't2'`);
  assert.deepEqual(await titles(), { t1: 'Milk', t2: 'Bread', bt: 'Paint' }, 'nothing left the device yet');

  await client.connect();
  await client.settled();
  assert.deepEqual(await titles(), { t1: 'Oat milk', off1: 'New', bt: 'Paint' });
  const [row] = await world.ask(`SELECT list_id, done, n FROM todos WHERE id = 'off1'`);
  assert.deepEqual(row, { list_id: 'off', done: false, n: 42 });
  const [list] = await world.ask(`SELECT owner_id, name, is_public FROM lists WHERE id = 'off'`);
  assert.deepEqual(list, { owner_id: 'ann', name: 'Offline ☕', is_public: true });
  await world.barrier(client);
  await assertOracle(world, client);
});

test('what was written before the app was closed is uploaded at the next start', async () => {
  const first = writer();
  await first.connect();
  await world.barrier(first);
  await first.db.disconnect();
  await first.db.execute(`INSERT INTO todos (id, list_id, title, done) VALUES ('kept', 'l1', 'Kept', 0)`);
  const again = world.adopt(await first.reopened());
  await again.connect();
  await again.settled();
  assert.equal((await titles()).kept, 'Kept');
});

test('an own write stays visible from the moment it is made, through its upload and its return (P5)', async () => {
  const client = writer();
  await client.connect();
  await world.barrier(client);
  /** @type {string[]} */
  const seen = [];
  const stop = new AbortController();
  client.db.watch(
    `SELECT coalesce(group_concat(title), '') AS title FROM todos WHERE id = 'mine'`,
    [],
    { onResult: (result) => seen.push(result.array[0].title) },
    { signal: stop.signal, throttleMs: 0 },
  );
  await client.db.execute(`INSERT INTO todos (id, list_id, title, done) VALUES ('mine', 'l1', 'First', 0)`);
  await client.settled();
  for (let i = 0; i < 10; i += 1) {
    await client.db.execute(`UPDATE todos SET title = ? WHERE id = 'mine'`, [`Version ${i}`]);
    // Somebody else keeps the stream busy meanwhile.
    await world.commit(`UPDATE todos SET n = ${i} WHERE id = 't1'`);
  }
  await client.settled();
  await world.barrier(client);
  stop.abort();
  const first = seen.findIndex((title) => title !== '');
  const shown = seen.slice(first);
  assert.ok(!shown.includes(''), `the row disappeared: ${shown}`);
  const order = shown.map((title) => (title === 'First' ? -1 : Number(title.slice(8))));
  assert.deepEqual(order, [...order].sort((a, b) => a - b), 'an older version was shown again');
  assert.equal((await titles()).mine, 'Version 9');
});

test('an acknowledged write has come back when the client says so, however late the stream is', async () => {
  const proxy = await world.proxy();
  const client = writer({ endpoint: proxy.url });
  await client.connect();
  await world.barrier(client);
  // The stream is held until the upload is through: the write checkpoint then decides.
  const { promise: uploaded, resolve } = Promise.withResolvers();
  proxy.onLine = async () => {
    await uploaded;
    return undefined;
  };
  await client.db.execute(`UPDATE todos SET title = 'Held' WHERE id = 't1'`);
  await proxy.until('the write checkpoint was asked for', () =>
    proxy.exchanges.some(({ path, status }) => path.startsWith('/write-checkpoint2.json') && status === 200),
  );
  assert.deepEqual(await client.rows(`SELECT title FROM todos WHERE id = 't1'`), [{ title: 'Held' }]);
  resolve(undefined);
  await client.settled();
  await assertOracle(world, client);
});

test('a rejected write does not stand in the way, and the row shows what Postgres has (F-49)', async () => {
  /** @type {import('@headwater/client').RejectedWrite[]} */
  const rejected = [];
  const client = writer({ connector: { onRejected: (write) => void rejected.push(write) } });
  await client.connect();
  await world.barrier(client);
  await client.db.disconnect();
  await client.db.execute(`UPDATE todos SET title = '' WHERE id = 't1'`);
  await client.db.execute(`INSERT INTO todos (id, list_id, title, done) VALUES ('after', 'l1', 'After', 0)`);
  const before = (await titles()).t1;
  await client.connect();
  await client.settled();
  await world.barrier(client);
  const now = await titles();
  assert.deepEqual([now.t1, now.after], [before, 'After']);
  await assertOracle(world, client);
  const [{ sqlstate, constraint, table, entries }] = rejected;
  assert.deepEqual(
    { sqlstate, constraint, table, id: entries[0].id },
    { sqlstate: '23514', constraint: 'title_is_not_empty', table: 'todos', id: 't1' },
  );
  const recorded = await world.ask(`SELECT sqlstate FROM headwater.rejected_writes`);
  assert.deepEqual(recorded, [{ sqlstate: '23514' }]);
});

test("a write to another user's row is rejected and changes nothing (P4)", async () => {
  /** @type {import('@headwater/client').RejectedWrite[]} */
  const rejected = [];
  const client = writer({ connector: { onRejected: (write) => void rejected.push(write) } });
  await client.connect();
  await world.barrier(client);
  await client.db.execute(`INSERT INTO todos (id, list_id, title, done) VALUES ('intruder', 'b1', 'Mine now', 0)`);
  await client.settled();
  await world.barrier(client);
  assert.equal((await titles()).intruder, undefined);
  assert.equal(rejected[0].sqlstate, '42501');
  assert.deepEqual(await client.rows(`SELECT id FROM todos WHERE id = 'intruder'`), []);
});

test('a transaction is rejected whole, with its good half', async () => {
  const client = writer({ connector: { onRejected: () => {} } });
  await client.connect();
  await world.barrier(client);
  await client.db.writeTransaction(async (tx) => {
    await tx.execute(`INSERT INTO todos (id, list_id, title, done) VALUES ('good', 'l1', 'Good', 0)`);
    await tx.execute(`INSERT INTO todos (id, list_id, title, done) VALUES ('bad', 'l1', '', 0)`);
  });
  await client.settled();
  await world.barrier(client);
  assert.equal((await titles()).good, undefined);
  await assertOracle(world, client);
});

test('a write whose answer was lost is applied once (F-48)', async () => {
  await world.sql.query(`
    CREATE TABLE runs (id int8 GENERATED ALWAYS AS IDENTITY, todo text);
    CREATE FUNCTION count_run() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS
      $$ BEGIN INSERT INTO public.runs (todo) VALUES (NEW.id); RETURN NEW; END $$;
    CREATE TRIGGER count_run AFTER INSERT OR UPDATE ON todos FOR EACH ROW EXECUTE FUNCTION count_run()`);
  const proxy = await world.proxy();
  let dropped = 0;
  proxy.onRequest = ({ path }) => (path === '/api/v1/upload' && (dropped += 1) <= 3 ? 'drop answer' : undefined);
  const client = writer({ endpoint: proxy.url });
  await client.connect();
  await world.barrier(client);
  await client.db.execute(`INSERT INTO todos (id, list_id, title, done) VALUES ('once', 'l1', 'Once', 0)`);
  await client.settled();
  assert.equal(dropped, 4);
  assert.deepEqual(await world.ask(`SELECT count(*) AS runs FROM runs WHERE todo = 'once'`), [{ runs: 1 }]);
  await world.sql.query('DROP TRIGGER count_run ON todos');
});

test('a server that is unwell for a while gets the write later, without a new local write (F-50)', async () => {
  const proxy = await world.proxy();
  let refused = 0;
  proxy.onRequest = ({ path }) =>
    path === '/api/v1/upload' && (refused += 1) <= 12 ? { status: 503, body: '{}' } : undefined;
  const client = writer({ endpoint: proxy.url, connector: { patienceMs: 50 } });
  await client.connect();
  await world.barrier(client);
  await client.db.execute(`INSERT INTO todos (id, list_id, title, done) VALUES ('patient', 'l1', 'Patient', 0)`);
  await client.until('the app is told', () => client.db.currentStatus.uploadError);
  await client.settled();
  assert.equal((await titles()).patient, 'Patient');
  assert.equal(client.db.currentStatus.uploadError, undefined);
});

test('a row that two users write at once ends the same everywhere (F-52)', async () => {
  await world.commit(`INSERT INTO list_members VALUES ('m1', 'l1', 'bob')`);
  await world.commit(`CREATE POLICY shared ON todos USING (list_id IN (SELECT list_id FROM list_members WHERE user_id = me()));
    ALTER TABLE list_members ENABLE ROW LEVEL SECURITY; CREATE POLICY mine ON list_members USING (user_id = me());
    GRANT SELECT ON list_members TO headwater_authenticated`);
  const [ann, bob] = [writer(), writer({ user: 'bob' })];
  await Promise.all([ann.connect(), bob.connect()]);
  await world.barrier(ann, bob);
  for (let i = 0; i < 25; i += 1) {
    await Promise.all([
      ann.db.execute(`UPDATE todos SET title = ?, n = ? WHERE id = 't1'`, [`ann ${i}`, i]),
      bob.db.execute(`UPDATE todos SET title = ? WHERE id = 't1'`, [`bob ${i}`]),
    ]);
  }
  await Promise.all([ann.settled(), bob.settled()]);
  await world.barrier(ann, bob);
  await assertOracle(world, ann);
  await assertOracle(world, bob);
  const [{ n }] = await world.ask(`SELECT n FROM todos WHERE id = 't1'`);
  assert.equal(n, 24, "the column that only one of them writes keeps that one's last value");
});

test('a token that has expired when the upload starts is renewed by the connector', async () => {
  let asked = 0;
  const client = writer({
    connector: { token: () => token('ann', { ttl: (asked += 1) === 1 ? -120 : 3600 }) },
  });
  await client.connect();
  await client.db.execute(`INSERT INTO todos (id, list_id, title, done) VALUES ('renewed', 'l1', 'Renewed', 0)`);
  await client.settled();
  assert.equal((await titles()).renewed, 'Renewed');
});

test('a whole number above 2^53 arrives with all its digits', async () => {
  const client = writer();
  await client.connect();
  await world.barrier(client);
  await client.db.execute(
    `INSERT INTO todos (id, list_id, title, done, n) VALUES ('big', 'l1', 'Big', 0, 9007199254740993)`,
  );
  await client.settled();
  const [{ n }] = await world.ask(`SELECT n::text FROM todos WHERE id = 'big'`);
  assert.equal(n, '9007199254740993');
  await world.barrier(client);
  const [{ text }] = await client.rows(`SELECT CAST(n AS text) AS text FROM todos WHERE id = 'big'`);
  assert.equal(text, '9007199254740993');
});
