/**
 * The original client of IHP DataSync, unmodified, as an IHP application uses it: only its host is
 * another one.
 */

import assert from 'node:assert/strict';
import { after, before, beforeEach, test } from 'node:test';
import { isDeepStrictEqual } from 'node:util';

import { ANN, BOB, IhpWorld, Shown } from '../harness/ihp.js';
import { originalProgram } from '../harness/original.js';
import { Random } from '../harness/random.js';
import { token } from '../harness/token.js';

/** @type {IhpWorld} */
let world;
/** @type {string} */
let code;

before(async () => {
  code = await originalProgram();
  world = await IhpWorld.start();
});
beforeEach(() => world.sql.query('DELETE FROM tasks; DELETE FROM projects; DELETE FROM pages'));
after(() => world.close());

/** What an application of this user imports. */
function application(/** @type {string | null} */ user) {
  const page = world.page(code, user);
  page.ihp.initIHPBackend({ host: world.server.url });
  return { ...page.ihp, page, controller: () => page.ihp.DataSyncController.getInstance() };
}

const titles = (/** @type {any[]} */ rows) => rows.map(({ title }) => title);
/** @param {Promise<unknown>} promise @returns {Promise<Error>} */
const failure = (promise) => promise.then(() => assert.fail('it did not fail'), (error) => error);

test('ds_19_every_way_to_ask_gives_what_postgres_gives_this_user', async () => {
  await world.sql.query(`
    INSERT INTO tasks (user_id, title, type, position, price, is_completed, due_at, created_at) VALUES
      ('${ANN}', 'a', 'todo', 1, 0.5, false, '2024-01-01T00:00:00.5Z', '2024-01-01'),
      ('${ANN}', 'b', 'doing', 2, NULL, true, NULL, '2024-01-02'),
      ('${ANN}', 'c', 'done', NULL, 1e21, false, '2024-03-01', '2024-01-03'),
      ('${ANN}', 'd', 'todo', 2, -2.25, true, '2024-02-01', '2024-01-04'),
      ('${BOB}', 'e', 'todo', 1, 1, false, NULL, '2024-01-05');
    INSERT INTO pages (user_id, title) VALUES
      ('${ANN}', 'Bread and butter'), ('${ANN}', 'Breaded fish'), ('${ANN}', 'Fishing for bread, breads and bread'), ('${BOB}', 'Bread of Bob')`);
  const ihp = application(ANN);
  const { and, eq, greaterThan, greaterThanOrEqual, lessThan, lessThanOrEqual, notEq, or, query, where, whereGreaterThan, whereIn, whereLessThan, whereNot } = ihp;
  const is = (/** @type {string} */ op, /** @type {unknown} */ value) =>
    ({ tag: 'InfixOperatorExpression', left: { tag: 'ColumnExpression', field: 'position' }, op, right: { tag: 'LiteralExpression', value } });
  const tasks = () => query('tasks').orderBy('title');
  /** @type {[any, string][]} */
  const cases = [
    [tasks(), 'true'],
    [tasks().where('title', 'b'), `title = 'b'`],
    [tasks().filterWhere('position', 2), 'position = 2'],
    [tasks().where({ position: 2, isCompleted: true, type_: 'todo' }), `position = 2 AND is_completed AND type = 'todo'`],
    // Of one key the client makes an AND without its right side.
    [tasks().where({ position: 2 }), 'position = 2'],
    [tasks().where('position', null), 'position IS NULL'],
    [tasks().where('position', undefined), 'position IS NULL'],
    [tasks().whereNot('position', null), 'position IS NOT NULL'],
    [tasks().whereNot('position', 2), 'position <> 2'],
    [tasks().where('position', 2).where('type', 'todo'), `position = 2 AND type = 'todo'`],
    [tasks().whereLessThan('position', 2), 'position < 2'],
    [tasks().whereLessThanOrEqual('price', 0.5), 'price <= 0.5'],
    [tasks().whereGreaterThan('price', 0.5), 'price > 0.5'],
    [tasks().whereGreaterThanOrEqual('dueAt', new Date('2024-02-01T00:00:00Z')), `due_at >= '2024-02-01'`],
    [tasks().whereIn('position', [1, 3]), 'position IN (1, 3)'],
    [tasks().whereIn('position', [1, null]), 'position = 1 OR position IS NULL'],
    [tasks().whereIn('position', []), 'false'],
    [tasks().whereIn('type', ['todo', 'done']).where('isCompleted', false), `type IN ('todo', 'done') AND NOT is_completed`],
    [tasks().where('position', 1).or(where('price', null)), 'position = 1 OR price IS NULL'],
    [tasks().where('position', 2).and(where('title', 'b').or(where('title', 'd'))), `position = 2 AND title IN ('b', 'd')`],
    [tasks().where(or(eq('title', 'a'), and(greaterThan('position', 1), notEq('title', 'b')))), `title = 'a' OR (position > 1 AND title <> 'b')`],
    [tasks().where(or([eq('title', 'a'), eq('title', 'c'), eq('title', 'd')])), `title IN ('a', 'c', 'd')`],
    [tasks().where(and(greaterThanOrEqual('position', 1), lessThanOrEqual('position', 2), lessThan('price', 0))), 'position BETWEEN 1 AND 2 AND price < 0'],
    [tasks().where(whereNot('title', 'a').where('isCompleted', false)), `title <> 'a' AND NOT is_completed`],
    [tasks().where(whereLessThan('title', 'c')).where(whereGreaterThan('title', 'a')), `title < 'c' AND title > 'a'`],
    [tasks().where(whereIn('title', ['a', 'e'])), `title = 'a'`],
    // A builder without any condition is the literal TRUE.
    [tasks().where(new ihp.ConditionBuilder()), 'true'],
    [tasks().where(is('OpIs', null)), 'position IS NULL'],
    [tasks().where(is('OpIsNot', null)), 'position IS NOT NULL'],
  ];
  for (const [builder, condition] of cases) {
    const expected = await world.as(ANN, `SELECT title FROM tasks WHERE ${condition} ORDER BY title`);
    assert.deepEqual(titles(await builder.fetch()), titles(expected), condition);
  }
  assert.deepEqual(titles(await query('tasks').orderByDesc('createdAt').limit(2).offset(1).fetch()), ['c', 'b']);
  assert.deepEqual(titles(await query('tasks').orderByAsc('position').orderByDesc('title').fetch()), ['a', 'd', 'b', 'c']);
  assert.deepEqual(titles(await query('tasks').distinctOn('position').orderBy('position').orderBy('title').fetch()), ['a', 'b', 'c']);
  assert.deepEqual(await query('tasks').select('title', 'position').where('title', 'a').fetch(), [{ title: 'a', position: 1 }]);
  assert.deepEqual(await query('tasks', ['title']).where('title', 'a').fetchOne(), { title: 'a' });
  assert.equal(await query('tasks').where('title', 'e').fetchOne(), null);
  const found = async (/** @type {string} */ text) => titles(await query('pages').whereTextSearchStartsWith('ts', text).fetch());
  for (const [text, terms] of [[' bre ', 'bre:*'], ['fish  bread', 'fish&bread:*'], ['butter', 'butter:*']]) {
    const tsquery = `to_tsquery('english', '${terms}')`;
    const ranked = await world.as(ANN, `SELECT title FROM pages WHERE ts @@ ${tsquery} ORDER BY ts_rank(ts, ${tsquery})`);
    assert.ok(ranked.length > 0);
    assert.deepEqual(await found(text), titles(ranked));
  }
  assert.deepEqual(await found(''), []);
});

test('ds_8_writes_give_and_store_what_the_application_wrote', async () => {
  const { createRecord, createRecords, deleteRecord, deleteRecords, query, updateRecord, updateRecords } = application(ANN);
  const id = crypto.randomUUID();
  const written = {
    id, title: 'new', body: 'é "quoted"\n', type_: 'doing', position: -7, price: 0.1, isCompleted: true, tags: ['a', 'b,"c"'],
    settings: { list: [1, 'two', null], deep: { of: true } }, dueAt: new Date('2024-02-03T04:05:06.700Z'), userId: ANN, projectId: null,
  };
  const made = await createRecord('tasks', { ...written });
  assert.deepEqual(made, { ...written, dueAt: '2024-02-03T04:05:06.7+00:00', createdAt: made.createdAt });
  assert.deepEqual(await query('tasks').where('id', id).fetchOne(), made);
  // What the server gave is what it takes: times, arrays, objects.
  const { id: _id, ...again } = made;
  assert.deepEqual(await updateRecord('tasks', id, again), made);
  assert.deepEqual(await updateRecord('tasks', id, { tags: [], settings: [1], position: null }), { ...made, tags: [], settings: [1], position: null });
  assert.deepEqual(await updateRecord('tasks', id, {}), { ...made, tags: [], settings: [1], position: null });

  const several = await createRecords('tasks', [{ title: 'x' }, { title: 'y', position: 3 }, { title: 'z', type_: 'done' }]);
  assert.deepEqual(several.map(({ title, position, type_ }) => [title, position, type_]), [['x', null, 'todo'], ['y', 3, 'todo'], ['z', null, 'done']]);
  const ids = several.map((/** @type {any} */ { id: one }) => one);
  assert.deepEqual(titles(await updateRecords('tasks', ids, { isCompleted: true })).sort(), ['x', 'y', 'z']);
  assert.deepEqual(await updateRecords('tasks', [crypto.randomUUID()], { isCompleted: true }), []);
  await deleteRecords('tasks', ids);
  await deleteRecord('tasks', id);
  await deleteRecord('tasks', id);
  assert.deepEqual(await query('tasks').fetch(), []);
});

test('ds_10_5_what_is_subscribed_to_is_what_postgres_shows_whoever_writes', async () => {
  const [ann, bob] = [application(ANN), application(BOB)];
  const [anns, bobs] = [ann, bob].map(({ query }) => new Shown(query('tasks').orderBy('title')));
  await Promise.all([anns.titles([]), bobs.titles([])]);
  const project = await ann.createRecord('projects', { name: 'P' });
  const task = await ann.createRecord('tasks', { title: 'b', projectId: project.id });
  await ann.createRecord('tasks', { title: 'a' });
  await bob.createRecord('tasks', { title: 'c' });
  await Promise.all([anns.titles(['a', 'b']), bobs.titles(['c'])]);
  // A row that comes, changes and goes because of another table.
  await world.sql.query(`INSERT INTO project_members (project_id, user_id) VALUES ('${project.id}', '${BOB}')`);
  await bobs.titles(['b', 'c']);
  await ann.updateRecord('tasks', task.id, { title: 'bb' });
  await bobs.titles(['bb', 'c']);
  await world.sql.query('DELETE FROM project_members');
  await bobs.titles(['c']);
  // A row that moves by an UPDATE: the original server never tells whom it comes to.
  await world.sql.query(`UPDATE tasks SET user_id = '${BOB}' WHERE title = 'a'`);
  await Promise.all([anns.titles(['bb']), bobs.titles(['a', 'c'])]);
  // What is held is what a query gives, value by value.
  assert.deepEqual(bobs.rows, await bob.query('tasks').orderBy('title').fetch());
  await world.sql.query('TRUNCATE projects CASCADE');
  await Promise.all([anns.titles([]), bobs.titles([])]);
  for (const { rows } of [anns, bobs]) assert.deepEqual(rows, []);
});

test('own writes are shown before they are answered, and refused ones are taken back', async () => {
  const { createRecord, deleteRecord, query, updateRecord } = application(ANN);
  const shown = new Shown(query('tasks').orderBy('title'));
  await shown.titles([]);
  const making = createRecord('tasks', { title: 'a' });
  await Promise.resolve();
  const isOptimistic = shown.rows?.length === 1;
  const { id } = await making;
  await shown.titles(['a']);
  const renaming = updateRecord('tasks', id, { title: 'b' });
  if (isOptimistic) assert.deepEqual(titles(shown.rows ?? []), ['b']);
  await renaming;
  await shown.titles(['b']);

  const refused = await failure(createRecord('tasks', { title: '' }));
  assert.match(refused.message, /title_is_not_empty/);
  if (isOptimistic) assert.match(refused.message, /while calling:\n\ncreateRecord\("tasks", \{/);
  assert.match((await failure(updateRecord('tasks', id, { title: '' }))).message, /title_is_not_empty/);
  assert.match((await failure(createRecord('tasks', { title: 'x', userId: BOB }))).message, /row-level security|permission/i);
  await shown.titles(['b']);
  // A record that names one that is still being made.
  const project = { id: crypto.randomUUID(), name: 'P' };
  const parent = createRecord('projects', project);
  const child = createRecord('tasks', { title: 'c', projectId: project.id });
  assert.equal((await child).projectId, (await parent).id);
  await shown.titles(['b', 'c']);
  const deleting = deleteRecord('tasks', id);
  if (isOptimistic) assert.deepEqual(titles(shown.rows ?? []), ['c']);
  await deleting;
  await shown.titles(['c']);
  // Nothing was ever shown twice.
  for (const rows of shown.history) assert.equal(new Set(rows.map((row) => row.id)).size, rows.length);
});

test('ds_17_6_texts_that_both_append_to_end_as_in_postgres', async () => {
  const { createRecord, query, updateRecord } = application(ANN);
  const { id } = await createRecord('tasks', { title: 't', body: 'x'.repeat(500) });
  const [writer, reader] = [new Shown(query('tasks')), new Shown(application(ANN).query('tasks'))];
  await Promise.all([writer.titles(['t']), reader.titles(['t'])]);
  let body = 'x'.repeat(500);
  // Typing: each write goes out before the last one was answered or told.
  const typed = [];
  for (const letter of 'hello, world') {
    body += letter;
    typed.push(updateRecord('tasks', id, { body }));
  }
  await Promise.all(typed);
  await world.sql.query(`UPDATE tasks SET body = body || ' and others'`);
  await world.sql.query(`UPDATE tasks SET body = body || ', too', title = 'end'`);
  await Promise.all([writer, reader].map((shown) => shown.until('the end', ([task]) => task.title === 'end')));
  for (const { rows } of [writer, reader]) assert.equal(rows?.[0].body, `${body} and others, too`);
});

test('ds_9_transactions_commit_roll_back_and_say_what_became_of_them', async () => {
  const { Transaction, query, withTransaction } = application(ANN);
  const shown = new Shown(query('tasks').orderBy('title'));
  await shown.titles([]);
  const count = async () => (await query('tasks').fetch()).length;
  const given = await withTransaction(async (/** @type {any} */ transaction) => {
    const task = await transaction.createRecord('tasks', { title: 'a' });
    await transaction.createRecords('tasks', [{ title: 'b' }, { title: 'c' }]);
    await transaction.updateRecord('tasks', task.id, { title: 'aa' });
    assert.deepEqual(titles(await transaction.query('tasks').orderBy('title').fetch()), ['aa', 'b', 'c']);
    assert.equal(await count(), 0);
    assert.deepEqual(shown.rows, []);
    return 'given';
  });
  assert.equal(given, 'given');
  await shown.titles(['aa', 'b', 'c']);
  const thrown = await failure(withTransaction(async (/** @type {any} */ transaction) => {
    const [{ id }] = await transaction.query('tasks').where('title', 'b').fetch();
    await transaction.deleteRecord('tasks', id);
    await transaction.createRecord('tasks', { title: 'ghost' });
    throw new Error('the application does not want it');
  }));
  assert.equal(thrown.message, 'the application does not want it');
  const refused = await failure(withTransaction(async (/** @type {any} */ transaction) => {
    await transaction.createRecord('tasks', { title: 'ghost' });
    await transaction.createRecord('tasks', { title: '' });
  }));
  assert.match(refused.message, /title_is_not_empty/);
  const one = new Transaction();
  await one.start();
  await failure(one.createRecord('tasks', { title: '' }));
  assert.match((await failure(one.commit())).message, /Transaction was rolled back because an earlier statement failed/);
  assert.match((await failure(one.commit())).message, /No transaction with id/);
  assert.deepEqual(titles(await query('tasks').orderBy('title').fetch()), ['aa', 'b', 'c']);
  await shown.titles(['aa', 'b', 'c']);
});

test('ds_10_5_8_a_window_is_the_window', async () => {
  const { createRecord, deleteRecord, query } = application(ANN);
  const window = new Shown(query('tasks').orderByDesc('position').limit(3));
  const page = new Shown(query('tasks').orderByDesc('position').limit(2).offset(1));
  await Promise.all([window.titles([]), page.titles([])]);
  const ids = [];
  for (const position of [1, 5, 3, 4, 2]) ids.push((await createRecord('tasks', { title: `t${position}`, position })).id);
  await Promise.all([window.titles(['t5', 't4', 't3']), page.titles(['t4', 't3'])]);
  await deleteRecord('tasks', ids[3]);
  await Promise.all([window.titles(['t5', 't3', 't2']), page.titles(['t3', 't2'])]);
  await world.sql.query(`UPDATE tasks SET position = 9 WHERE title = 't1'`);
  await Promise.all([window.titles(['t1', 't5', 't3']), page.titles(['t5', 't3'])]);
});

test('after any writes all queries show what Postgres shows, also over a cut', async () => {
  const seed = Number(process.env.CONFORMANCE_SEED ?? Date.now() % 1_000_000);
  const random = new Random(seed);
  const [ann, bob] = [application(ANN), application(BOB)];
  const builders = (/** @type {any} */ { eq, or, query }) => [
    query('tasks').orderBy('title'),
    query('tasks').where('isCompleted', false).orderBy('title'),
    query('tasks').where(or(eq('type_', 'todo'), eq('position', 1))).orderByDesc('title'),
    query('tasks').orderBy('title').limit(4),
    query('tasks').distinctOn('position').orderBy('position').orderBy('title'),
    // With all that writes set: what a client shows ahead keeps fields that were not selected.
    query('tasks').select('id', 'title', 'position', 'createdAt', 'type_').whereGreaterThan('position', 1).orderBy('title'),
  ];
  // From a row with `createdAt` the client learns to make one up, as a Date: so its own rows can be told from told ones.
  await world.sql.query(`INSERT INTO tasks (user_id, title, position) VALUES ('${ANN}', 'first', 2)`);
  const watched = [ann, bob].map((user) => builders(user).map((builder) => new Shown(builder)));
  await Promise.all(watched.flat().map((shown) => shown.until('it begins', () => true)));
  const { id: project } = await ann.createRecord('projects', { name: 'P' });
  const one = () => `(SELECT id FROM tasks ORDER BY md5(id::text || ${random.below(1000)}) LIMIT 1)`;
  const steps = [
    (/** @type {number} */ at) => ann.createRecord('tasks', { title: `a${at}`, position: random.below(4) }),
    (/** @type {number} */ at) => bob.createRecords('tasks', [{ title: `b${at}` }, { title: `B${at}`, type_: 'done', position: random.below(4) }]),
    () => world.sql.query(`UPDATE tasks SET is_completed = NOT is_completed, position = ${random.below(4)} WHERE id = ${one()}`),
    () => world.sql.query(`UPDATE tasks SET user_id = '${random.pick([ANN, BOB])}' WHERE id = ${one()}`),
    () => world.sql.query(`UPDATE tasks SET project_id = '${project}' WHERE id = ${one()}`),
    () => world.sql.query(`INSERT INTO project_members (project_id, user_id) VALUES ('${project}', '${random.pick([ANN, BOB])}')`),
    () => world.sql.query('DELETE FROM project_members'),
    () => world.sql.query(`DELETE FROM tasks WHERE id = ${one()}`),
    async () => {
      const [task] = await ann.query('tasks').where('userId', ANN).orderBy('createdAt').limit(1).fetch();
      if (task) await ann.updateRecord('tasks', task.id, { type_: random.pick(['todo', 'doing', 'done']) });
    },
  ];
  for (let at = 0; at < 60; at += 1) {
    if (at === 30) bob.page.cut();
    // Requests that were on their way when the page was cut fail; the application tries again.
    const step = random.pick(steps);
    for (;;) {
      const done = await Promise.resolve(step(at)).then(() => true, (error) => {
        if (/WebSocket closed/.test(error.message)) return false;
        throw error;
      });
      if (done) break;
    }
  }
  for (const [number, user] of [ann, bob].entries()) {
    const fresh = application([ANN, BOB][number]);
    for (const [at, builder] of builders(fresh).entries()) {
      const expected = await builder.fetch();
      await watched[number][at].until(`seed ${seed}, query ${at}: ${JSON.stringify(expected)}`, (rows) => isDeepStrictEqual(rows, expected));
    }
  }
});

test('ds_13_errors_say_what_the_original_says', async () => {
  const { CountSubscription, DataSubscription, Transaction, controller, createRecords, query, updateRecord } = application(ANN);
  const said = async (/** @type {Promise<unknown>} */ promise) => (await failure(promise)).message;
  assert.match(await said(query('users').fetch()), /Row level security is required for accessing this table/);
  assert.match(await said(query('nothing').fetch()), /nothing/);
  assert.match(await said(query('tasks').where('nothing', 1).fetch()), /nothing/);
  assert.match(await said(createRecords('tasks', [])), /At least one record is required/);
  assert.match(await said(updateRecord('tasks', crypto.randomUUID(), { title: 'x' })),
    /Could not apply the update to the given record\. Are you sure the record ID you passed is correct\? If the record ID is correct, likely the row level security policy is not making the record visible to the UPDATE operation\./);
  const unknown = crypto.randomUUID();
  const send = (/** @type {object} */ message) => controller().sendMessage(message);
  assert.match(await said(send({ tag: 'DeleteDataSubscription', subscriptionId: unknown })), new RegExp(`Failed to delete DataSubscription, could not find DataSubscription with id ${unknown}`));
  assert.match(await said(send({ tag: 'CommitTransaction', id: unknown })), new RegExp(`No transaction with id ${unknown}`));
  assert.match(await said(send({ tag: 'NoSuchMessage' })), /NoSuchMessage/);
  const failing = new DataSubscription(query('users').query);
  assert.match(await said(failing.createOnServer()), /Row level security is required[^]*while trying to subscribe to:/);
  const transactions = Array.from({ length: 10 }, () => new Transaction());
  for (const transaction of transactions) await transaction.start();
  assert.match(await said(new Transaction().start()), /You've reached the transaction limit of 10 transactions/);
  for (const transaction of transactions) await transaction.rollback();
  // Those that failed do not count, nor do those that ended.
  const subscriptions = Array.from({ length: 128 }, () => new DataSubscription(query('tasks').query));
  for (const subscription of subscriptions) await subscription.createOnServer();
  assert.match(await said(new DataSubscription(query('tasks').query).createOnServer()), /You've reached the subscriptions limit of 128 subscriptions/);
  for (const subscription of subscriptions) await subscription.close();
  assert.equal(typeof CountSubscription, 'function');
  await new DataSubscription(query('tasks').query).createOnServer();
});

test('ds_14_its_requests_over_http_are_answered', async () => {
  const { createRecord, fetchAuthenticated, ihpBackendUrl } = application(ANN);
  await createRecord('tasks', { title: 'a' });
  assert.equal(ihpBackendUrl('/api/tasks'), `${world.server.url}/api/tasks`);
  const answer = await fetchAuthenticated('/api/tasks?fields=title', {});
  assert.deepEqual([answer.status, await answer.json()], [200, [{ title: 'a' }]]);
});

test('ds_17_8_after_the_server_was_killed_everything_goes_on', async () => {
  const { CountSubscription, controller, createRecord, page, query, withTransaction } = application(ANN);
  const shown = new Shown(query('tasks').orderBy('title'));
  const count = new CountSubscription(query('tasks').query);
  const counted = new Shown({ subscribe: (/** @type {any} */ tell) => count.subscribe(() => tell(count.getCount() === null ? null : [{ title: String(count.getCount()) }])) });
  await createRecord('tasks', { title: 'a' });
  await Promise.all([shown.titles(['a']), counted.titles(['1'])]);
  const lost = failure(withTransaction(async (/** @type {any} */ transaction) => {
    await transaction.createRecord('tasks', { title: 'ghost' });
    await world.server.end('SIGKILL');
    await transaction.createRecord('tasks', { title: 'ghost' });
  }));
  assert.ok((await lost).message);
  assert.equal(controller().connection, null);
  await world.sql.query(`INSERT INTO tasks (user_id, title) VALUES ('${ANN}', 'meanwhile')`);
  await world.server.startAgain();
  await Promise.all([shown.titles(['a', 'meanwhile']), counted.titles(['2'])]);
  await createRecord('tasks', { title: 'z' });
  await Promise.all([shown.titles(['a', 'meanwhile', 'z']), counted.titles(['3'])]);
  assert.ok(page.sockets >= 2);
});

test('ds_1_who_shows_a_token_that_does_not_hold_is_let_in_when_he_shows_another', async () => {
  const { initIHPBackend, query, page } = application(null);
  assert.throws(() => initIHPBackend({ host: 'live.example.com' }), /needs to start with/);
  assert.throws(() => initIHPBackend({ host: 'https://live.example.com/' }), /trailing slash/);
  page.signIn('not.a.token');
  // What asked with the token that did not hold goes on with the new one, or fails, by the client's age.
  const first = query('tasks').fetch().catch((/** @type {Error} */ error) => error);
  await page.refused;
  page.signIn(token(ANN));
  assert.deepEqual(await query('tasks').fetch(), []);
  await first;
});
