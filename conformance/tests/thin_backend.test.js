/**
 * The client of Thin Backend and its hooks, the older originals that the npm registry has (`thin-backend` 0.12.1,
 * `thin-backend-react` 0.10.1), unmodified.
 *
 * It has a defect that no server can mend: a push that comes while a request waits for its answer makes it
 * forget its last request, whose promise then never settles. So pages that follow something here ask for
 * nothing meanwhile, and what is written is written by another page, as in applications that work with it.
 */

import assert from 'node:assert/strict';
import { after, before, beforeEach, test } from 'node:test';

import { browser } from '../harness/browser.js';
import { ANN, BOB, IhpWorld, program, Shown } from '../harness/ihp.js';
import { IhpPages, says, shows } from '../harness/ihp_pages.js';

const skip = browser || process.env.CI ? false : 'there is no browser here; scripts/setup test installs one';

/** @type {IhpWorld} */
let world;
/** @type {string} */
let code;

before(async () => {
  code = await program(`export * from 'thin-backend';`, import.meta.dirname);
  world = await IhpWorld.start();
});
beforeEach(() => world.sql.query('DELETE FROM tasks'));
after(() => world.close());

/** What a page of this user imports. */
function application(/** @type {string} */ user) {
  const page = world.page(code, user);
  page.ihp.initThinBackend({ host: world.server.url });
  return { ...page.ihp, page };
}

const titles = (/** @type {any[]} */ rows) => rows.map(({ title }) => title);

test('the older original client asks, follows, writes and uses transactions', async () => {
  const [reader, other, writer] = [application(ANN), application(BOB), application(ANN)];
  assert.deepEqual(await reader.query('tasks').fetch(), []);
  const shown = new Shown(reader.query('tasks').orderBy('createdAt'));
  const others = new Shown(other.query('tasks').orderBy('createdAt'));
  await Promise.all([shown, others].map((one) => one.until('it begins', () => true)));

  const { createRecord, createRecords, deleteRecord, deleteRecords, query, updateRecord, updateRecords, where, withTransaction } = writer;
  const task = await createRecord('tasks', { title: 'a', userId: ANN, body: 'x'.repeat(400) });
  await shown.titles(['a']);
  assert.equal((await updateRecord('tasks', task.id, { title: 'b', type: 'doing' })).type_, 'doing');
  await shown.titles(['b']);
  const [c, d] = await createRecords('tasks', [{ title: 'c' }, { title: 'd' }]);
  await shown.until('c and d', (rows) => rows.length === 3);
  await updateRecords('tasks', [c.id, d.id], { isCompleted: true });
  await shown.until('both completed', (rows) => rows.filter(({ isCompleted }) => isCompleted).length === 2);
  assert.deepEqual(titles(await query('tasks').where('isCompleted', true).and(where('title', 'd')).fetch()), ['d']);
  assert.equal((await query('tasks').whereNot('title', 'c').orderByDesc('title').fetchOne()).title, 'd');
  await deleteRecords('tasks', [c.id, d.id]);
  await shown.titles(['b']);

  // What is appended to a long text: this client knows whole values only.
  await world.sql.query(`UPDATE tasks SET body = body || 'end'`);
  await shown.until('the whole text', ([{ body }]) => body.endsWith('end'));
  assert.equal(shown.rows?.[0].body, `${'x'.repeat(400)}end`);

  await withTransaction(async (/** @type {any} */ transaction) => {
    await transaction.createRecord('tasks', { title: 'of a transaction' });
    assert.equal((await transaction.query('tasks').fetch()).length, 2);
    assert.equal(shown.rows?.length, 1);
  });
  await shown.titles(['b', 'of a transaction']);
  await assert.rejects(withTransaction(async (/** @type {any} */ transaction) => {
    await transaction.deleteRecord('tasks', task.id);
    throw new Error('not like this');
  }), /not like this/);
  await assert.rejects(createRecord('tasks', { title: '' }), /title_is_not_empty/);
  await assert.rejects(updateRecord('tasks', crypto.randomUUID(), { title: 'x' }), /Could not apply the update to the given record/);

  await world.sql.query(`UPDATE tasks SET user_id = '${BOB}' WHERE title = 'b'`);
  await Promise.all([shown.titles(['of a transaction']), others.titles(['b'])]);
  const [{ id }] = await query('tasks').fetch();
  await deleteRecord('tasks', id);
  await shown.titles([]);
});

test('the older original client comes back when its connection was cut', async () => {
  const [reader, writer] = [application(ANN), application(ANN)];
  const shown = new Shown(reader.query('tasks').orderBy('createdAt'));
  await shown.titles([]);
  reader.page.cut();
  await writer.createRecord('tasks', { title: 'meanwhile' });
  await shown.titles(['meanwhile']);
});

test('the older original hooks show what there is', { skip }, async () => {
  const pages = await IhpPages.start('thin_backend.js');
  try {
    await world.sql.query(`INSERT INTO tasks (user_id, title) VALUES ('${ANN}', 'a'); INSERT INTO projects (user_id, name) VALUES ('${ANN}', 'P')`);
    const [ann, bob] = [await pages.open(ANN, world.server.url), await pages.open(BOB, world.server.url)];
    await ann.until(`${shows('a')} && ${says('newest', 'P')} && ${says('state', 'online')}`);
    await bob.until(`${shows('')} && ${says('newest', 'none')}`);
    await world.sql.query(`UPDATE tasks SET user_id = '${BOB}', title = 'b'`);
    await Promise.all([ann.until(shows('')), bob.until(shows('b'))]);
    await world.sql.query(`INSERT INTO tasks (user_id, title) VALUES ('${BOB}', 'c')`);
    await bob.until(shows('b,c'));
    await world.sql.query('DELETE FROM tasks');
    await bob.until(shows(''));
  } finally {
    await pages.close();
  }
});
