/**
 * Live queries message by message: each request of the protocol with its exact answer, each operator,
 * each event, each refusal.
 */

import assert from 'node:assert/strict';
import http from 'node:http';
import { createHmac } from 'node:crypto';
import { after, before, test } from 'node:test';

import { LiveWorld } from '../harness/live.js';
import { field, infix, Messages, order, query, select, value } from '../harness/messages.js';
import { token } from '../harness/token.js';

const HOOK_SECRET = 'a secret of hooks of the conformance suite';
const id = (/** @type {number} */ n) => `00000000-0000-4000-8000-${String(n).padStart(12, '0')}`;

/** @type {LiveWorld} */
let world;
/** @type {http.Server} An application that answers messages of its own. */
let application;
/** @type {{signature: string, body: string}[]} */
const asked = [];

before(async () => {
  application = http.createServer((request, response) => {
    let body = '';
    request.on('data', (chunk) => (body += chunk));
    request.on('end', () => {
      asked.push({ signature: String(request.headers['x-headwater-signature']), body });
      const { message } = JSON.parse(body);
      const answers = /** @type {Record<string, object>} */ ({
        LoginWithEmailAndPassword: { tag: 'InvalidCredentials' },
        CreateUser: { tag: 'CreateUserFailed', validationFailures: [['email', 'is taken']] },
        ConfirmUser: { tag: 'DidConfirmUserAlready' },
      });
      response.end(JSON.stringify(answers[message.tag]));
    });
  });
  await new Promise((resolve) => application.listen(0, '127.0.0.1', () => resolve(undefined)));
  const { port } = /** @type {import('node:net').AddressInfo} */ (application.address());
  const hook = `http://127.0.0.1:${port}/hook`;
  world = await LiveWorld.start({
    config: `datasync:
  enabled: true
  hook_secret: ${HOOK_SECRET}
  hooks: {LoginWithEmailAndPassword: '${hook}', CreateUser: '${hook}', ConfirmUser: '${hook}'}
`,
    before: `
      INSERT INTO users VALUES ('ann', 'Ann'), ('bob', 'Bob');
      INSERT INTO tasks (id, owner_id, title, mood, n, price, tags, created_at) VALUES
        ('${id(1)}', 'ann', 'apple', 'done', 1, 1.50, '{x,"y z"}', '2024-01-01T00:00:00.5Z'),
        ('${id(2)}', 'ann', 'bread', 'open', 2, NULL, '{}', '2024-01-02'),
        ('${id(3)}', 'ann', 'cider', 'doing', NULL, 10, '{}', '2024-01-03'),
        ('${id(4)}', 'bob', 'hush', 'open', 4, 1, '{}', '2024-01-04')`,
  });
  await isFollowed();
});
after(async () => {
  // Whatever became of the world, an application that listens would keep the run from ending.
  application.close();
  await world.close();
});

const open = (user = 'ann') => Messages.open(world.server.url, user);

/**
 * Waits until the table is followed, and what is subscribed computed from its changes: from then on an update
 * is told with what it changed alone, and also where it changed nothing. Before that, whoever subscribes is
 * asked each second, and so each of these updates is told as well.
 */
async function isFollowed() {
  const bob = await open('bob');
  const all = query('tasks', select('id', 'title', 'price'));
  await bob.ask({ tag: 'CreateDataSubscription', query: all });
  for (let price = 2, told; told !== '["price"]'; price += 1) {
    await world.sql.query(`UPDATE tasks SET price = ${price} WHERE owner_id = 'bob'`);
    told = JSON.stringify(Object.keys((await bob.push()).changeSet));
  }
  bob.close();
}

const of = (/** @type {object} */ more) => ({ tag: 'DataSyncQuery', query: query('tasks', more) });

test('ds_3_a_query_is_answered_with_records', async () => {
  const ann = await open();
  const answer = await ann.ask(of({ whereCondition: infix(field('n'), 'OpEqual', value(1)) }));
  assert.deepEqual(answer, {
    tag: 'DataSyncResult',
    result: [
      {
        id: id(1), ownerId: 'ann', teamId: null, title: 'apple', mood: 'done', n: 1, price: 1.5, tags: ['x', 'y z'],
        createdAt: '2024-01-01T00:00:00.5+00:00',
      },
    ],
  });
  const some = await ann.ask(of({ ...select('title'), orderByClause: [order('title', 'Desc')], limit: 1, offset: 1 }));
  assert.deepEqual(some.result, [{ title: 'bread' }]);
  const distinct = { ...select('ownerId'), distinctOnColumn: 'ownerId', orderByClause: [order('ownerId')] };
  assert.deepEqual((await ann.ask(of(distinct))).result, [{ ownerId: 'ann' }]);
  ann.close();
});

test('ds_5_every_operator_means_what_it_means_in_sql', async () => {
  const ann = await open();
  const list = (/** @type {unknown[]} */ ...values) => ({ tag: 'ListExpression', values });
  const search = (/** @type {string} */ text) => ({ tag: 'CallExpression', functionCall: { tag: 'ToTSQuery', text } });
  /** @type {[object, string][]} */
  const cases = [
    [infix(field('n'), 'OpEqual', value(1)), 'n = 1'],
    [infix(field('n'), 'OpEqual', value(null)), 'n IS NULL'],
    [infix(value(null), 'OpEqual', field('n')), 'n IS NULL'],
    [infix(field('n'), 'OpNotEqual', value(1)), 'n <> 1'],
    [infix(field('n'), 'OpNotEqual', value(null)), 'n IS NOT NULL'],
    [infix(field('n'), 'OpGreaterThan', value(1)), 'n > 1'],
    [infix(field('n'), 'OpGreaterThanOrEqual', value(1)), 'n >= 1'],
    [infix(field('n'), 'OpLessThan', value(2)), 'n < 2'],
    [infix(field('n'), 'OpLessThanOrEqual', value(2)), 'n <= 2'],
    [infix(field('n'), 'OpIs', value(null)), 'n IS NULL'],
    [infix(field('n'), 'OpIsNot', value(null)), 'n IS NOT NULL'],
    [infix(field('n'), 'OpIsNot', value(1)), 'n IS DISTINCT FROM 1'],
    [infix(infix(field('n'), 'OpEqual', value(1)), 'OpIs', value(true)), '(n = 1) IS TRUE'],
    [infix(infix(field('n'), 'OpEqual', value(1)), 'OpIsNot', value(true)), '(n = 1) IS NOT TRUE'],
    [infix(field('n'), 'OpIn', list(1, 2)), 'n IN (1, 2)'],
    [infix(field('n'), 'OpIn', list(1, null)), 'n IN (1) OR n IS NULL'],
    [infix(field('n'), 'OpIn', list()), 'false'],
    [infix(infix(field('n'), 'OpEqual', value(1)), 'OpOr', infix(field('mood'), 'OpEqual', value('open'))), `n = 1 OR mood = 'open'`],
    [infix(infix(field('n'), 'OpLessThan', value(3)), 'OpAnd', infix(field('mood'), 'OpEqual', value('open'))), `n < 3 AND mood = 'open'`],
    [infix(infix(field('n'), 'OpEqual', value(2)), 'OpAnd'), 'n = 2'],
    [infix(field('createdAt'), 'OpGreaterThan', value('2024-01-01T12:00:00.000Z')), `created_at > '2024-01-01 12:00Z'`],
    [infix(field('title'), 'OpGreaterThan', value('bread')), `title > 'bread'`],
    [infix(field('tags'), 'OpEqual', value(['x', 'y z'])), `tags = '{x,"y z"}'`],
    [value(true), 'true'],
  ];
  for (const [whereCondition, sql] of cases) {
    const { result } = await ann.ask(of({ ...select('id'), whereCondition, orderByClause: [order('id')] }));
    assert.deepEqual(result, await world.as('ann', `SELECT id FROM tasks WHERE ${sql} ORDER BY id`), sql);
  }
  // Of a table that nobody subscribes to: one that is followed would be copied again, because this rewrites it.
  await world.sql.query(`INSERT INTO teams (name) VALUES ('apple'), ('bread'), ('cider')`);
  await world.sql.query(`ALTER TABLE teams ADD COLUMN found tsvector GENERATED ALWAYS AS (to_tsvector('english', name)) STORED`);
  const found = await ann.ask({
    tag: 'DataSyncQuery',
    query: query('teams', {
      ...select('name'), whereCondition: infix(field('found'), 'OpTSMatch', search('appl:* | bread')),
      orderByClause: [{ tag: 'OrderByTSRank', tsvector: 'found', tsquery: 'bread', orderByDirection: 'Desc' }],
    }),
  });
  assert.deepEqual(found.result, [{ name: 'bread' }, { name: 'apple' }], JSON.stringify(found));
  ann.close();
});

test('ds_8_every_write_is_answered_with_what_it_wrote', async () => {
  const ann = await open();
  const record = { id: id(10), title: 'new', createdAt: '2024-02-03T04:05:06.700Z' };
  const whole = { id: id(10), ownerId: 'ann', teamId: null, title: 'new', mood: 'open', n: null, price: null, tags: [], createdAt: '2024-02-03T04:05:06.7+00:00' };
  const table = 'tasks';
  assert.deepEqual(await ann.ask({ tag: 'CreateRecordMessage', table, record }), { tag: 'DidCreateRecord', record: whole });
  const several = await ann.ask({ tag: 'CreateRecordsMessage', table, records: [{ id: id(12), title: 'b', n: 5 }, { id: id(11), title: 'a' }] });
  assert.deepEqual([several.tag, several.records.map((/** @type {any} */ it) => [it.id, it.n])], ['DidCreateRecords', [[id(12), 5], [id(11), null]]]);
  const patch = { n: 7 };
  assert.deepEqual(await ann.ask({ tag: 'UpdateRecordMessage', table, id: id(10), patch }), { tag: 'DidUpdateRecord', record: { ...whole, n: 7 } });
  assert.deepEqual(await ann.ask({ tag: 'UpdateRecordMessage', table, id: id(10), patch: {} }), { tag: 'DidUpdateRecord', record: { ...whole, n: 7 } });
  const both = await ann.ask({ tag: 'UpdateRecordsMessage', table, ids: [id(11), id(12), id(4)], patch });
  assert.deepEqual([both.tag, both.records.length], ['DidUpdateRecords', 2], 'not the one of bob');
  assert.deepEqual(await ann.ask({ tag: 'UpdateRecordsMessage', table, ids: [], patch }), { tag: 'DidUpdateRecords', records: [] });
  assert.deepEqual(await ann.ask({ tag: 'DeleteRecordMessage', table, id: id(10) }), { tag: 'DidDeleteRecord' });
  assert.deepEqual(await ann.ask({ tag: 'DeleteRecordMessage', table, id: id(10) }), { tag: 'DidDeleteRecord' });
  assert.deepEqual(await ann.ask({ tag: 'DeleteRecordsMessage', table, ids: [id(11), id(12), id(4)] }), { tag: 'DidDeleteRecords' });
  assert.deepEqual(await ann.ask({ tag: 'DeleteRecordsMessage', table, ids: [] }), { tag: 'DidDeleteRecords' });
  const { rows } = await world.sql.query('SELECT title FROM tasks ORDER BY id');
  assert.deepEqual(rows.map(({ title }) => title), ['apple', 'bread', 'cider', 'hush']);
  ann.close();
});

test('ds_9_transactions_are_begun_used_and_ended_by_their_ids', async () => {
  const ann = await open();
  const begun = await ann.ask({ tag: 'StartTransaction' });
  assert.match(begun.transactionId, /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
  const { transactionId } = begun;
  assert.deepEqual(begun, { tag: 'DidStartTransaction', transactionId });
  await ann.ask({ tag: 'CreateRecordMessage', table: 'tasks', record: { id: id(20), title: 'x' }, transactionId });
  const within = of({ ...select('title'), whereCondition: infix(field('id'), 'OpEqual', value(id(20))) });
  assert.deepEqual((await ann.ask({ ...within, transactionId })).result, [{ title: 'x' }]);
  assert.deepEqual((await ann.ask({ ...within, transactionId: null })).result, []);
  assert.deepEqual(await ann.ask({ tag: 'RollbackTransaction', id: transactionId }), { tag: 'DidRollbackTransaction', transactionId });
  const gone = await ann.refused({ tag: 'CommitTransaction', id: transactionId });
  assert.equal(gone.errorMessage, `No transaction with id ${transactionId}`);
  const second = (await ann.ask({ tag: 'StartTransaction' })).transactionId;
  await ann.ask({ tag: 'CreateRecordMessage', table: 'tasks', record: { id: id(20), title: 'x' }, transactionId: second });
  assert.deepEqual(await ann.ask({ tag: 'CommitTransaction', id: second }), { tag: 'DidCommitTransaction', transactionId: second });
  assert.deepEqual((await ann.ask(within)).result, [{ title: 'x' }]);
  await ann.ask({ tag: 'DeleteRecordMessage', table: 'tasks', id: id(20) });
  ann.close();
});

test('ds_10_a_subscription_tells_each_change_with_the_position_that_it_reaches', async () => {
  const ann = await open();
  const all = query('tasks', { ...select('id', 'title'), whereCondition: infix(field('n'), 'OpEqual', value(30)) });
  const begun = await ann.ask({ tag: 'CreateDataSubscription', query: all, appends: true });
  const { subscriptionId, lsn } = begun;
  assert.deepEqual(begun, { tag: 'DidCreateDataSubscription', subscriptionId, result: [], lsn });
  assert.match(lsn, /^[0-9A-F]+\/[0-9A-F]+$/);
  const event = async () => {
    const { lsn: at, subscriptionId: of, ...more } = await ann.push();
    assert.equal(of, subscriptionId);
    assert.match(at, /^[0-9A-F]+\/[0-9A-F]+$/);
    return more;
  };
  await world.sql.query(`INSERT INTO tasks (id, owner_id, title, n) VALUES ('${id(30)}', 'ann', 'a', 30), ('${id(31)}', 'bob', 'hush', 30)`);
  assert.deepEqual(await event(), { tag: 'DidInsert', record: { id: id(30), title: 'a' } });
  await world.sql.query(`UPDATE tasks SET title = 'b', price = 1 WHERE n = 30`);
  assert.deepEqual(await event(), { tag: 'DidUpdate', id: id(30), changeSet: { title: 'b' } });
  await world.sql.query(`UPDATE tasks SET title = title WHERE n = 30`);
  assert.deepEqual(await event(), { tag: 'DidUpdate', id: id(30) });
  const long = 'x'.repeat(300);
  await world.sql.query(`UPDATE tasks SET title = '${long}' WHERE n = 30`);
  assert.deepEqual(await event(), { tag: 'DidUpdate', id: id(30), changeSet: { title: long } });
  await world.sql.query(`UPDATE tasks SET title = title || 'yz' WHERE n = 30`);
  assert.deepEqual(await event(), { tag: 'DidUpdate', id: id(30), appendSet: { title: 'yz' } });
  await world.sql.query(`UPDATE tasks SET n = 31 WHERE n = 30`);
  assert.deepEqual(await event(), { tag: 'DidDelete', id: id(30) });
  assert.deepEqual(await ann.ask({ tag: 'DeleteDataSubscription', subscriptionId }), { tag: 'DidDeleteDataSubscription', subscriptionId });
  const unknown = await ann.refused({ tag: 'DeleteDataSubscription', subscriptionId });
  assert.equal(unknown.errorMessage, `Failed to delete DataSubscription, could not find DataSubscription with id ${subscriptionId}`);
  const count = await ann.ask({ tag: 'CreateCountSubscription', query: query('tasks') });
  assert.deepEqual(count, { tag: 'DidCreateCountSubscription', subscriptionId: count.subscriptionId, count: 4 });
  await world.sql.query(`DELETE FROM tasks WHERE n = 31`);
  assert.deepEqual(await ann.push(), { tag: 'DidChangeCount', subscriptionId: count.subscriptionId, count: 3 });
  ann.close();
});

test('ds_21_a_subscription_goes_on_on_another_socket', async () => {
  const all = query('tasks', { ...select('id', 'title'), whereCondition: infix(field('n'), 'OpEqual', value(40)) });
  const first = await open();
  const { subscriptionId, lsn } = await first.ask({ tag: 'CreateDataSubscription', query: all });
  first.close();
  await world.sql.query(`INSERT INTO tasks (id, owner_id, title, n) VALUES ('${id(40)}', 'ann', 'a', 40)`);
  const second = await open();
  const resume = { subscriptionId, lsn };
  const again = await second.ask({ tag: 'CreateDataSubscription', query: all, resume });
  assert.deepEqual(again, { tag: 'DidCreateDataSubscription', subscriptionId: again.subscriptionId, resumed: true, lsn });
  const told = await second.push();
  assert.deepEqual([told.tag, told.record, told.subscriptionId], ['DidInsert', { id: id(40), title: 'a' }, again.subscriptionId]);
  const bob = await open('bob');
  const foreign = await bob.ask({ tag: 'CreateDataSubscription', query: all, resume: { ...resume, subscriptionId: again.subscriptionId } });
  assert.deepEqual(foreign.result, []);
  await world.sql.query('DELETE FROM tasks WHERE n = 40');
  assert.equal((await second.push()).tag, 'DidDelete');
  bob.close();
  second.close();
});

test('ds_3_a_login_makes_a_socket_somebody_elses', async () => {
  const socket = await open('bob');
  const jwt = token('ann');
  assert.deepEqual(await socket.ask({ tag: 'LoginWithJWT', jwt }), { tag: 'LoginSuccessful', userId: 'ann', jwt });
  assert.equal((await socket.ask(of({}))).result.length, 3);
  for (const [wrong, code] of [['', 'HW4106'], ['x.y.z', 'HW4101'], [token('ann', { ttl: -3600 }), 'HW4103']]) {
    assert.equal((await socket.refused({ tag: 'LoginWithJWT', jwt: wrong })).code, code);
  }
  assert.equal((await socket.ask(of({}))).result.length, 3, 'still ann');
  // Whoever follows results, or has a transaction open, begins anew.
  await socket.ask({ tag: 'CreateDataSubscription', query: query('tasks') });
  assert.equal((await socket.ask({ tag: 'LoginWithJWT', jwt: token('bob') })).tag, 'LoginSuccessful');
  assert.equal((await socket.closed).code, 4401);
});

test('ds_15_messages_of_the_application_are_answered_by_its_hooks', async () => {
  const ann = await open();
  const email = { email: 'a@example.com', password: 'secret' };
  assert.deepEqual(await ann.ask({ tag: 'LoginWithEmailAndPassword', ...email }), { tag: 'InvalidCredentials' });
  assert.deepEqual(await ann.ask({ tag: 'CreateUser', ...email }), { tag: 'CreateUserFailed', validationFailures: [['email', 'is taken']] });
  assert.deepEqual(await ann.ask({ tag: 'ConfirmUser', userId: 'ann', token: 't' }), { tag: 'DidConfirmUserAlready' });
  assert.equal(asked.length, 3);
  for (const { signature, body } of asked) {
    const [, seconds, sent] = /** @type {RegExpExecArray} */ (/^t=(\d+),v1=([0-9a-f]{64})$/.exec(signature));
    assert.equal(sent, createHmac('sha256', HOOK_SECRET).update(`${seconds}.${body}`).digest('hex'));
    assert.equal(JSON.parse(body).userId, 'ann');
  }
  assert.equal((await ann.refused({ tag: 'Unheard' })).code, 'HW5401');
  ann.close();
});

test('ds_13_every_refusal_says_what_is_wrong', async () => {
  const ann = await open();
  const table = 'tasks';
  const wide = Array.from({ length: 10_001 }, () => 1);
  const nested = (/** @type {number} */ depth) => Array.from({ length: depth - 1 }).reduce((/** @type {any} */ inner) => infix(inner, 'OpAnd', value(true)), value(true));
  /** @type {[object, string, RegExp][]} */
  const cases = [
    [{ tag: 'DataSyncQuery', query: query('nowhere') }, 'HW5305', /"nowhere" does not exist/],
    [{ tag: 'DataSyncQuery', query: query('beacon') }, 'HW4305', /Row level security is required for accessing this table/],
    [of(select('nothing')), 'HW5402', /nothing/],
    [of({ limit: -1 }), 'HW5401', /limit/],
    [of({ whereCondition: nested(65) }), 'HW5401', /64/],
    [of({ whereCondition: infix(field('n'), 'OpIn', { tag: 'ListExpression', values: wide }) }), 'HW5401', /10000/],
    [of({ whereCondition: infix(field('n'), 'OpLike', value('a')) }), 'HW5401', /OpLike/],
    [of({ whereCondition: infix(field('n'), 'OpEqual', value('a')) }), 'HW5306', /does not fit/],
    [{ tag: 'DataSyncQuery', query: 7 }, 'HW5401', /field `query` must be an object/],
    [{ tag: 'CreateRecordsMessage', table, records: [] }, 'HW5407', /At least one record is required/],
    [{ tag: 'CreateRecordMessage', table, record: { title: '' } }, 'HW5306', /title_is_not_empty/],
    [{ tag: 'CreateRecordMessage', table, record: { title: 'x', ownerId: 'bob' } }, 'HW5306', /row-level security policy/],
    [{ tag: 'CreateRecordMessage', table, record: { id: id(1), title: 'x' } }, 'HW5306', /same value exists already/],
    [{ tag: 'UpdateRecordMessage', table, id: id(4), patch: { title: 'mine' } }, 'HW5406', /^Could not apply the update to the given record/],
    [{ tag: 'UpdateRecordMessage', table, id: null, patch: {} }, 'HW5401', /id/],
    [{ tag: 'CreateDataSubscription', query: query('nowhere') }, 'HW5305', /"nowhere" does not exist/],
    [{ tag: 'CreateDataSubscription', query: query('beacon') }, 'HW4305', /Row level security is required/],
    [{ tag: 'RollbackTransaction', id: 'x' }, 'HW5405', /No transaction with id x/],
    [{ tag: 'DeleteDataSubscription' }, 'HW5401', /subscriptionId/],
  ];
  for (const [message, expected, words] of cases) {
    const { code, errorMessage } = await ann.refused(message);
    assert.deepEqual([code, words.test(errorMessage)], [expected, true], `${JSON.stringify(message)}: ${code} ${errorMessage}`);
    assert.doesNotMatch(errorMessage, /hush|struct|line \d/);
  }
  // Without a number nobody can be answered.
  for (const text of ['nonsense', '[]', '{"tag":"StartTransaction"}', '{"tag":"StartTransaction","requestId":99999999999999999999}']) {
    ann.text(text);
    assert.equal((await ann.push()).tag, 'FailedToDecodeMessageError');
  }
  assert.equal((await ann.ask(of({}))).tag, 'DataSyncResult', 'and nothing closes the socket');
  for (let number = 0; number < 10; number += 1) await ann.ask({ tag: 'StartTransaction' });
  assert.match((await ann.refused({ tag: 'StartTransaction' })).errorMessage, /You've reached the transaction limit of 10 transactions/);
  ann.close();
  const bob = await open('bob');
  const all = { tag: 'CreateCountSubscription', query: query('users') };
  await Promise.all(Array.from({ length: 128 }, () => bob.ask(all)));
  assert.match((await bob.refused(all)).errorMessage, /You've reached the subscriptions limit of 128 subscriptions/);
  bob.close();
});
