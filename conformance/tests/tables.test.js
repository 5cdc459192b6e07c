/**
 * The kinds of tables a client schema may have: local-only, insert-only, raw, with tracked previous
 * values and with metadata.
 */

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';

import { HeadwaterConnector } from '@headwater/client';
import { column, Schema, Table } from '@powersync/node';

import { assertOracle } from '../harness/oracle.js';
import { COLUMNS, TABLES } from '../harness/schema.js';
import { token } from '../harness/token.js';
import { World } from '../harness/world.js';

/** @type {World} */
let world;

before(async () => {
  world = await World.start({
    config: `
uploads:
  tables:
    events: { table: public.events }
    documents: { conflict: reject }
`,
    before: `
      INSERT INTO lists VALUES ('l1', 'ann', 'Groceries');
      INSERT INTO notes VALUES ('n1', 'ann', 'One', 1.5), ('n2', 'ann', 'Two', NULL), ('n3', 'bob', 'Hidden', 0);
      INSERT INTO documents VALUES ('d1', 'ann', 'Title', 'Body'), ('d2', 'ann', 'Second', 'Body')`,
  });
});
after(() => world.close());

/** @param {Record<string, Table>} tables @param {Partial<import('@headwater/client').HeadwaterConnectorOptions>} [connector] */
function writer(tables, connector = {}) {
  const endpoint = world.server.url;
  const options = { endpoint, token: () => token('ann'), firstRetryMs: 5, longestRetryMs: 20, ...connector };
  return world.client('ann', {
    schema: new Schema({ ...TABLES, ...tables }),
    connector: new HeadwaterConnector(options),
  });
}

test('a local-only table is neither uploaded nor touched by sync', async () => {
  const client = writer({ drafts: new Table({ text: column.text }, { localOnly: true }) });
  await client.connect();
  await world.barrier(client);
  await client.db.execute(`INSERT INTO drafts (id, text) VALUES ('x', 'only here')`);
  assert.deepEqual(await client.rows('SELECT * FROM ps_crud'), []);
  await world.commit(`UPDATE lists SET name = 'Other' WHERE id = 'l1'`);
  await world.barrier(client);
  assert.deepEqual(await client.rows('SELECT * FROM drafts'), [{ id: 'x', text: 'only here' }]);
  await client.db.disconnectAndClear({ clearLocal: false });
  assert.deepEqual(await client.rows('SELECT * FROM drafts'), [{ id: 'x', text: 'only here' }]);
});

test('an insert-only table is uploaded and keeps nothing on the device', async () => {
  const client = writer({ events: new Table({ user_id: column.text, kind: column.text }, { insertOnly: true }) });
  await client.connect();
  await world.barrier(client);
  await client.db.execute(`INSERT INTO events (id, user_id, kind) VALUES ('e1', 'ann', 'opened'), ('e2', 'ann', 'closed')`);
  assert.deepEqual(await client.rows('SELECT * FROM events'), []);
  await client.settled();
  assert.deepEqual(await world.ask('SELECT id, user_id, kind FROM events ORDER BY id'), [
    { id: 'e1', user_id: 'ann', kind: 'opened' },
    { id: 'e2', user_id: 'ann', kind: 'closed' },
  ]);
  await assertOracle(world, client);
});

test('an insert-only table whose author may only insert is uploaded, and an id is taken once', async () => {
  await world.commit('DROP POLICY mine ON events; CREATE POLICY blind ON events FOR INSERT WITH CHECK (user_id = me())');
  /** @type {import('@headwater/client').RejectedWrite[]} */
  const rejected = [];
  const client = writer(
    { events: new Table({ user_id: column.text, kind: column.text }, { insertOnly: true }) },
    { onRejected: (write) => void rejected.push(write) },
  );
  await client.connect();
  await client.db.execute(`INSERT INTO events (id, user_id, kind) VALUES ('blind', 'ann', 'opened')`);
  await client.settled();
  assert.deepEqual(rejected, []);
  const blind = `SELECT user_id, kind FROM events WHERE id = 'blind'`;
  assert.deepEqual(await world.ask(blind), [{ user_id: 'ann', kind: 'opened' }]);
  await client.db.execute(`INSERT INTO events (id, user_id, kind) VALUES ('blind', 'ann', 'closed')`);
  await client.settled();
  assert.deepEqual(
    rejected.map(({ sqlstate, table, message }) => ({ sqlstate, table, message })),
    [
      {
        sqlstate: '42501',
        table: 'events',
        message: 'a row with this id exists already, and you may not change it this way',
      },
    ],
  );
  assert.deepEqual(await world.ask(blind), [{ user_id: 'ann', kind: 'opened' }]);
});

test('a raw table receives rows, changes and deletions, and uploads writes to it', async () => {
  const { notes: _, ...others } = TABLES;
  const schema = new Schema(others);
  schema.withRawTables({
    notes: {
      put: {
        sql: 'INSERT OR REPLACE INTO notes (id, owner_id, body, score) VALUES (?, ?, ?, ?)',
        params: ['Id', { Column: 'owner_id' }, { Column: 'body' }, { Column: 'score' }],
      },
      delete: { sql: 'DELETE FROM notes WHERE id = ?', params: ['Id'] },
      clear: 'DELETE FROM notes',
    },
  });
  const endpoint = world.server.url;
  const connector = new HeadwaterConnector({ endpoint, token: () => token('ann'), firstRetryMs: 5 });
  const client = world.client('ann', { schema, connector });
  await client.db.execute(
    'CREATE TABLE notes (id TEXT PRIMARY KEY, owner_id TEXT NOT NULL, body TEXT, score REAL) STRICT',
  );
  await client.db.execute(`CREATE TRIGGER notes_written AFTER UPDATE ON notes FOR EACH ROW
    WHEN NOT powersync_in_sync_operation()
    BEGIN
      INSERT INTO powersync_crud (op, id, type, data)
      VALUES ('PATCH', NEW.id, 'notes', json_object('body', NEW.body));
    END`);
  await client.connect();
  await world.barrier(client);
  await assertOracle(world, client, 'at first');
  await world.commit(`UPDATE notes SET score = 2.25 WHERE id = 'n1'; DELETE FROM notes WHERE id = 'n2';
    INSERT INTO notes VALUES ('n4', 'ann', NULL, -0.5)`);
  await world.barrier(client);
  await assertOracle(world, client, 'after changes');
  await client.db.execute(`UPDATE notes SET body = 'Written here' WHERE id = 'n1'`);
  await client.settled();
  assert.deepEqual(await world.ask(`SELECT body, score FROM notes WHERE id = 'n1'`), [
    { body: 'Written here', score: 2.25 },
  ]);
  await assertOracle(world, client, 'after an own write');
});

const tracked = new Table(COLUMNS.documents, { trackPrevious: true });

test('tracked previous values travel with the entry', async () => {
  const client = writer({ documents: tracked });
  await client.connect();
  await world.barrier(client);
  await client.db.disconnect();
  await client.db.execute(`UPDATE documents SET title = 'New title' WHERE id = 'd1'`);
  const [entry] = (await client.db.getCrudBatch(1))?.crud ?? [];
  assert.deepEqual(entry.opData, { title: 'New title' });
  assert.deepEqual(entry.previousValues, { owner_id: 'ann', title: 'Title', body: 'Body' });
  await client.connect();
  await client.settled();
  assert.deepEqual(await world.ask(`SELECT title FROM documents WHERE id = 'd1'`), [{ title: 'New title' }]);
});

test('under "reject if changed" a write on top of an outdated row is rejected, and the row is the newer one', async () => {
  /** @type {import('@headwater/client').RejectedWrite[]} */
  const rejected = [];
  const client = writer({ documents: tracked }, { onRejected: (write) => void rejected.push(write) });
  await client.connect();
  await world.barrier(client);
  await client.db.disconnect();
  await client.db.execute(`UPDATE documents SET title = 'Mine' WHERE id = 'd2'`);
  await world.commit(`UPDATE documents SET title = 'Theirs' WHERE id = 'd2'`);
  await client.connect();
  await client.settled();
  await world.barrier(client);
  assert.equal(rejected[0].sqlstate, '40001');
  assert.deepEqual(await client.rows(`SELECT title FROM documents WHERE id = 'd2'`), [{ title: 'Theirs' }]);
  await assertOracle(world, client);

  await client.db.execute(`UPDATE documents SET title = 'Mine after all' WHERE id = 'd2'`);
  await client.settled();
  assert.deepEqual(await world.ask(`SELECT title FROM documents WHERE id = 'd2'`), [{ title: 'Mine after all' }]);
  assert.equal(rejected.length, 1);
});

test('under "reject if changed" a delete of a row that has changed is rejected', async () => {
  /** @type {import('@headwater/client').RejectedWrite[]} */
  const rejected = [];
  const client = writer({ documents: tracked }, { onRejected: (write) => void rejected.push(write) });
  await client.connect();
  await world.barrier(client);
  await client.db.disconnect();
  await client.db.execute(`DELETE FROM documents WHERE id = 'd1'`);
  await world.commit(`UPDATE documents SET body = 'Newer' WHERE id = 'd1'`);
  await client.connect();
  await client.settled();
  await world.barrier(client);
  assert.equal(rejected[0].sqlstate, '40001');
  assert.deepEqual(await client.rows(`SELECT body FROM documents WHERE id = 'd1'`), [{ body: 'Newer' }]);
});

test('metadata of a write is accepted, and kept with a rejection', async () => {
  const client = writer(
    { todos: new Table(COLUMNS.todos, { trackMetadata: true }) },
    { onRejected: () => {} },
  );
  await client.connect();
  await world.barrier(client);
  await client.db.execute(
    `INSERT INTO todos (id, list_id, title, done, _metadata) VALUES ('m1', 'l1', 'With metadata', 0, 'from the widget')`,
  );
  await client.settled();
  assert.deepEqual(await world.ask(`SELECT title FROM todos WHERE id = 'm1'`), [{ title: 'With metadata' }]);
  await client.db.execute(`UPDATE todos SET title = '', _metadata = 'swiped' WHERE id = 'm1'`);
  await client.settled();
  const [{ entries }] = await world.ask(
    `SELECT entries FROM headwater.rejected_writes WHERE table_name = 'todos' ORDER BY rejected_at DESC LIMIT 1`,
  );
  assert.deepEqual(entries.map((/** @type {any} */ { id, metadata }) => ({ id, metadata })), [
    { id: 'm1', metadata: 'swiped' },
  ]);
});

test('rows of tables that the client schema does not name do no harm', async () => {
  const { notes: _, ...others } = TABLES;
  const client = world.client('ann', { schema: new Schema(others) });
  await client.connect();
  await world.barrier(client);
  const [{ untyped }] = await client.rows(`SELECT count(*) AS untyped FROM ps_untyped WHERE type = 'notes'`);
  assert.ok(untyped >= 1);
});
