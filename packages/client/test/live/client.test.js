/** The client against a server in memory, whose connection ends whenever it hurts. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { DataSubscription, LiveClient, LiveError, NewRecordBehaviour } from '../../dist/live/index.js';
import { World } from './world.js';

const HOST = 'http://live.test';

function start(options = {}) {
  const world = new World();
  const client = new LiveClient({ host: HOST, token: () => null, environment: world.environment, ...options });
  return { world, client };
}

/** What a promise became, told without waiting for it. */
function outcome(promise) {
  const result = { state: 'waits' };
  promise.then(
    (value) => Object.assign(result, { state: 'done', value }),
    (error) => Object.assign(result, { state: 'failed', error }),
  );
  return result;
}

/** What it becomes while the world goes on. */
async function outcomeIn(world, promise) {
  const result = outcome(promise);
  await world.run();
  assert.equal(result.state, 'done');
  return result.value;
}

const jwt = (claims) => `h.${Buffer.from(JSON.stringify(claims)).toString('base64url')}.s`;
const titles = (rows) => rows.map(({ title }) => title).join('');
const byTitle = (client) => client.query('tasks').orderBy('n');

test('ds_16_a_subscription_shows_rows_and_every_change', async () => {
  const { world, client } = start();
  world.commit([['tasks', '1', { n: 1, title: 'a' }]]);
  const seen = [];
  const stop = byTitle(client).subscribe((rows) => seen.push(titles(rows)));
  await world.run();
  world.commit([['tasks', '2', { n: 0, title: 'b' }]]);
  await world.run();
  world.commit([['tasks', '1', null], ['tasks', '2', { n: 0, title: 'c' }]]);
  await world.run();
  assert.deepEqual(seen, ['a', 'ba', 'c']);
  stop();
  await world.run(1000);
  assert.equal(world.log.at(-1), '< DidDeleteDataSubscription');
  assert.equal(world.sockets[0].url, 'ws://live.test/DataSyncController');
});

test('issue_6_2_groups_are_shown_with_their_aggregates_and_every_change_of_them', async () => {
  const { world, client } = start();
  world.commit([
    ['tasks', '1', { team: 'null', n: 1 }],
    ['tasks', '2', { team: null, n: 2 }],
  ]);
  const seen = [];
  const grouped = client.query('tasks').whereGreaterThan('n', 0).orderBy('n').groupBy('team').aggregate({
    tasks: 'count',
    sum: { sum: 'n' },
    most: { max: 'n' },
  });
  const stop = grouped.subscribe((groups) => seen.push(groups));
  await world.run();
  const [text, none] = [{ team: 'null', tasks: 1, sum: 1, most: 1 }, { team: null, tasks: 1, sum: 2, most: 2 }];
  assert.deepEqual(seen.pop(), [text, none], 'a text that says null is another group than NULL');
  world.commit([['tasks', '3', { team: null, n: 5 }], ['tasks', '1', null], ['tasks', '4', { team: 'a', n: 3 }]]);
  await world.run();
  const now = [{ team: null, tasks: 2, sum: 7, most: 5 }, { team: 'a', tasks: 1, sum: 3, most: 3 }];
  assert.deepEqual(seen.pop(), now);
  assert.deepEqual(await outcomeIn(world, grouped.fetch()), now);
  // What has not changed is the same object.
  world.commit([['tasks', '4', { team: 'a', n: 4 }]]);
  await world.run();
  const [first, second] = seen.pop();
  world.commit([['tasks', '4', { team: 'a', n: 5 }]]);
  await world.run();
  const [same, other] = seen.pop();
  assert.ok(same === first && other !== second);
  // Own writes are shown when the server says what they make of it.
  const created = client.createRecord('tasks', { id: '5', team: 'a', n: 9 });
  assert.deepEqual(seen, []);
  await outcomeIn(world, created);
  assert.equal(seen.pop()[1].sum, 14);
  stop();
  await world.run(1000);
  assert.equal(world.log.at(-1), '< DidDeleteDataSubscription');
});

test('issue_6_2_without_groups_it_is_one_and_it_goes_on_after_a_reconnect', async () => {
  const { world, client } = start();
  const all = client.query('tasks').aggregate({ n: { count: 'n' }, mean: { avg: 'n' } });
  const seen = [];
  all.subscribe((groups) => seen.push(groups));
  await world.run();
  assert.deepEqual(seen.pop(), [{ n: 0, mean: null }]);
  world.cut();
  await world.run();
  world.commit([['tasks', '1', { n: 3 }]]);
  await world.run(5000);
  assert.deepEqual(seen.pop(), [{ n: 1, mean: 3 }]);
  assert.throws(() => client.query('tasks').aggregate({ n: {} }), TypeError);
  assert.throws(() => client.query('tasks').aggregate({ n: { min: 'n', max: 'n' } }), TypeError);
});

test('equal queries share one subscription, which ends with its last listener', async () => {
  const { world, client } = start();
  const stops = [1, 2].map(() => byTitle(client).subscribe(() => {}));
  await world.run();
  stops[0]();
  await world.run(5000);
  assert.equal(world.log.filter((line) => line === '> CreateDataSubscription').length, 1);
  assert.ok(!world.log.includes('> DeleteDataSubscription'));
  stops[1]();
  await world.run(500);
  // Somebody who comes back in time finds it.
  const again = byTitle(client).subscribe(() => {});
  await world.run(5000);
  assert.ok(!world.log.includes('> DeleteDataSubscription'));
  again();
  await world.run(1000);
  assert.ok(world.log.includes('> DeleteDataSubscription'));
});

test('ds_16_10_a_row_that_comes_in_one_task_with_the_first_answer_is_not_lost', async () => {
  const { world, client } = start();
  let last;
  world.burst = 10;
  byTitle(client).subscribe((rows) => (last = titles(rows)));
  world.intercept = ({ tag, requestId }, socket) => {
    if (tag !== 'CreateDataSubscription') return undefined;
    socket.sends({ tag: 'DidCreateDataSubscription', requestId, subscriptionId: 's', result: [] });
    socket.sends({ tag: 'DidInsert', subscriptionId: 's', record: { id: '1', title: 'x', n: 1 } });
    return 'nothing';
  };
  await world.run();
  assert.equal(last, 'x');
});

test('ds_16_1_requests_are_settled_when_the_connection_ends', async () => {
  const { world, client } = start();
  world.commit([['tasks', '1', { n: 1, title: 'a' }]]);
  world.intercept = () => 'nothing';
  const write = outcome(client.updateRecord('tasks', '1', { title: 'b' }));
  const read = outcome(byTitle(client).fetch());
  await world.run();
  world.cut();
  await world.run();
  assert.equal(write.state, 'failed');
  assert.ok(write.error instanceof LiveError && write.error.kind === 'connection');
  assert.equal(read.state, 'waits');
  world.intercept = () => undefined;
  await world.run(1000);
  assert.deepEqual([read.state, titles(read.value)], ['done', 'a']);
});

test('a read that ends every socket is told so in the end', async () => {
  const { world, client } = start();
  world.intercept = (_message, socket) => {
    socket.end(1009);
    return 'nothing';
  };
  const read = outcome(byTitle(client).fetch());
  await world.run(60_000);
  assert.deepEqual([read.state, read.error?.kind], ['failed', 'connection']);
  assert.equal(world.sockets.length, 4);
});

test('ds_16_2_a_silent_server_is_given_up_once', async () => {
  const { world, client } = start();
  world.intercept = () => 'nothing';
  byTitle(client).subscribe(() => {});
  await world.run();
  const [first] = world.sockets;
  await world.run(10_000);
  assert.equal(first.readyState, 3);
  world.intercept = () => undefined;
  await world.run(1000);
  const [, second] = world.sockets;
  assert.equal(client.status.state, 'open');
  // What the first one says late has no meaning any more.
  assert.equal(first.onclose, null);
  assert.equal(first.onmessage, null);
  assert.equal(second, world.socket);
  // A server that owes nothing need not say much.
  await world.run(3_600_000);
  assert.equal(world.socket, second);
});

test('keep-alives are enough for a slow answer', async () => {
  const { world, client } = start();
  let late;
  world.intercept = (message, socket) => {
    late = () => socket.sends({ tag: 'DataSyncResult', requestId: message.requestId, result: [] });
    return 'nothing';
  };
  const read = outcome(byTitle(client).fetch());
  await world.run();
  for (let turn = 0; turn < 10; turn += 1) {
    await world.run(6000);
    world.socket.sends({ tag: 'KeepAlive' });
    await world.run();
  }
  late();
  await world.run();
  assert.equal(read.state, 'done');
  assert.equal(world.sockets.length, 1);
});

test('attempts to connect become rarer, and start over after a success', async () => {
  const { world, client } = start();
  world.isUp = false;
  byTitle(client).subscribe(() => {});
  await world.run(120_000);
  const tries = world.sockets.length;
  assert.ok(tries >= 8 && tries <= 12, `${tries} attempts in two minutes`);
  assert.match(client.status.error.message, /connection failed/);
  world.isUp = true;
  await world.run(30_000);
  assert.equal(client.status.state, 'open');
  world.cut();
  await world.run(400);
  assert.equal(client.status.state, 'open');
});

test('a network that is back is tried at once', async () => {
  const world = new World();
  let online;
  const environment = { ...world.environment, whenOnline: (call) => ((online = call), () => {}) };
  const client = new LiveClient({ host: HOST, token: () => null, environment });
  online();
  assert.equal(world.sockets.length, 0, 'nobody asked for anything yet');
  world.isUp = false;
  byTitle(client).subscribe(() => {});
  await world.run(60_000);
  world.isUp = true;
  online();
  await world.run();
  assert.equal(client.status.state, 'open');
});

test('a connection that leads nowhere is noticed though nobody waits for an answer', async () => {
  const world = new World();
  let online;
  const environment = { ...world.environment, whenOnline: (call) => ((online = call), () => {}) };
  const client = new LiveClient({ host: HOST, token: () => null, environment });
  let last;
  byTitle(client).subscribe((rows) => (last = titles(rows)));
  await world.run(100_000);
  assert.equal(world.sockets.length, 1);
  world.socket.isHalfOpen = true;
  world.commit([['tasks', '1', { n: 1, title: 'a' }]]);
  await world.run(36_000);
  assert.deepEqual([world.sockets.length, last], [2, 'a']);
  assert.equal(world.sockets[0].readyState, 3);
  // Where the platform tells that there is a network again, a socket of the one before has to show that it lives.
  online();
  await world.run(100_000);
  assert.equal(world.sockets.length, 2);
  world.socket.isHalfOpen = true;
  world.commit([['tasks', '1', { n: 1, title: 'b' }]]);
  online();
  await world.run(21_000);
  assert.deepEqual([world.sockets.length, last], [3, 'b']);
  // The answer that somebody waits for is not waited for longer.
  world.socket.isHalfOpen = true;
  const read = outcome(byTitle(client).fetch());
  await world.run(5000);
  online();
  await world.run(11_000);
  assert.equal(read.state, 'done');
});

test('a query that was named, forgotten and is listened to after all begins again', async () => {
  const { world, client } = start();
  world.commit([['tasks', '1', { n: 1, title: 'a' }]]);
  const live = client.rows(byTitle(client).query);
  await world.run(60_000);
  const other = client.rows(byTitle(client).query);
  assert.notEqual(live, other);
  const stops = [live, other].map((one) => one.listen(() => {}));
  await world.run();
  assert.deepEqual([titles(live.state.data), titles(other.state.data)], ['a', 'a']);
  void client.updateRecord('tasks', '1', { title: 'b' });
  assert.deepEqual([titles(live.state.data), titles(other.state.data)], ['b', 'b']);
  await world.run();
  world.cut();
  await world.run(5000);
  world.commit([['tasks', '1', { n: 1, title: 'c' }]]);
  await world.run(5000);
  assert.deepEqual([titles(live.state.data), titles(other.state.data)], ['c', 'c']);
  stops.forEach((stop) => stop());
  await world.run(5000);
  assert.equal(world.socket.subscriptions.size, 0);
  live.listen(() => {});
  await world.run();
  assert.equal(live.state.status, 'live');
});

test('rows stay while the connection is away, and are what they are when it is back', async () => {
  const { world, client } = start();
  world.commit([['tasks', '1', { n: 1, title: 'a' }], ['tasks', '2', { n: 2, title: 'b' }]]);
  const live = client.rows(byTitle(client).query);
  const states = [];
  live.listen(() => states.push(live.state));
  await world.run();
  const before = live.state.data;
  world.isUp = false;
  world.cut();
  await world.run(2000);
  assert.equal(live.state.status, 'reconnecting');
  assert.equal(live.state.data, before);
  world.commit([['tasks', '2', { n: 2, title: 'c' }]]);
  world.isUp = true;
  await world.run(5000);
  assert.equal(live.state.status, 'live');
  assert.equal(titles(live.state.data), 'ac');
  assert.equal(live.state.data[0], before[0], 'what has not changed is the same object');
});

test('ds_21_r_a_subscription_goes_on_where_it_was_if_the_server_lets_it', async () => {
  const { world, client } = start();
  const asked = [];
  world.intercept = ({ tag, resume, requestId }, socket) => {
    if (tag !== 'CreateDataSubscription') return undefined;
    asked.push(resume);
    const more = resume ? { resumed: true } : { result: [{ id: '1', n: 1, title: 'a' }], lsn: '0/1' };
    socket.sends({ tag: 'DidCreateDataSubscription', requestId, subscriptionId: `s${asked.length}`, ...more });
    if (resume) socket.sends({ tag: 'DidInsert', subscriptionId: 's2', record: { id: '2', n: 2, title: 'b' }, lsn: '0/9' });
    return 'nothing';
  };
  let last;
  byTitle(client).subscribe((rows) => (last = titles(rows)));
  await world.run();
  world.socket.sends({ tag: 'DidUpdate', subscriptionId: 's1', id: '1', changeSet: { title: 'c' }, lsn: '0/5' });
  await world.run();
  world.cut();
  await world.run(1000);
  assert.equal(last, 'cb');
  world.cut();
  await world.run(1000);
  assert.deepEqual(asked, [undefined, { subscriptionId: 's1', lsn: '0/5' }, { subscriptionId: 's2', lsn: '0/9' }]);
});

test('an answer to a subscription that nobody wants any more ends it at the server', async () => {
  const { world, client } = start({ keepMs: 0 });
  let late;
  world.intercept = ({ tag, requestId }, socket) => {
    if (tag !== 'CreateDataSubscription') return undefined;
    late = () => socket.sends({ tag: 'DidCreateDataSubscription', requestId, subscriptionId: 'late', result: [] });
    return 'nothing';
  };
  const stop = byTitle(client).subscribe(() => assert.fail('nobody listens'));
  await world.run();
  stop();
  await world.run(1);
  late();
  await world.run();
  assert.ok(world.log.includes('> DeleteDataSubscription'));
});

test('ds_16_9_a_refused_subscription_tells_its_listeners, and is tried again when asked to', async () => {
  const { world, client } = start();
  world.intercept = ({ tag }) => (tag.startsWith('Create') ? { tag: 'DataSyncError', errorMessage: 'Row level security is required', code: 'HW1' } : undefined);
  const errors = [];
  byTitle(client).subscribe(() => {}, { onError: (error) => errors.push(error) });
  const subscription = new DataSubscription(byTitle(client).query, { client });
  await world.run();
  assert.deepEqual(errors.map(({ message, kind, code }) => [message, kind, code]), [['Row level security is required', 'refused', 'HW1']]);
  await assert.rejects(subscription.createOnServer(), /Row level security/);
  assert.equal(subscription.connectError, errors[0]);
  world.intercept = () => undefined;
  client.rows(byTitle(client).query).retry();
  await world.run();
  assert.ok(subscription.isConnected);
  assert.equal(subscription.connectError, null);
});

test('a server that is busy, or copies the table first, is asked again, and what was shown stays', async () => {
  const { world, client } = start();
  world.commit([['tasks', '1', { n: 1, title: 'a' }]]);
  const live = client.rows(byTitle(client).query);
  const states = [];
  live.listen(() => states.push(live.state.status));
  let code = 'HW5415';
  world.intercept = ({ tag }) => (tag.startsWith('Create') && code ? { tag: 'DataSyncError', errorMessage: 'it is being copied', code } : undefined);
  await world.run(60_000);
  const asked = world.log.filter((line) => line === '> CreateDataSubscription').length;
  assert.ok(asked > 3 && asked < 10, `asked ${asked} times in a minute`);
  assert.deepEqual(live.state, { data: null, status: 'loading', error: null });
  code = null;
  await world.run(30_000);
  assert.equal(live.state.status, 'live');
  code = 'HW5307';
  world.cut();
  await world.run(5000);
  assert.deepEqual([live.state.status, titles(live.state.data)], ['reconnecting', 'a']);
  code = null;
  await world.run(5000);
  assert.deepEqual(states, ['live', 'reconnecting', 'live']);
  // Also when it ends what it had begun.
  world.socket.sends({ tag: 'DataSyncError', subscriptionId: [...world.socket.subscriptions.keys()].at(-1), errorMessage: 'no memory', code: 'HW5311' });
  await world.run(5000);
  assert.deepEqual([live.state.status, states.includes('error')], ['live', false]);
});

test('ds_10_5_12_a_subscription_that_the_server_ends_says_why', async () => {
  const { world, client } = start();
  world.commit([['tasks', '1', { n: 1, title: 'a' }]]);
  const live = client.rows(byTitle(client).query);
  live.listen(() => {});
  await world.run();
  world.socket.sends({ tag: 'DidDelete', subscriptionId: 's1', id: '1' });
  world.socket.sends({ tag: 'DataSyncError', subscriptionId: 's1', errorMessage: 'row level security was switched off' });
  await world.run();
  assert.deepEqual([live.state.status, live.state.data], ['error', []]);
  assert.match(live.state.error.message, /switched off/);
});

test('own writes are shown before anything is sent, and go when they are refused', async () => {
  const { world, client } = start();
  world.commit([['tasks', '1', { n: 1, title: 'a' }]]);
  const seen = [];
  byTitle(client).subscribe((rows) => seen.push(titles(rows)));
  await world.run();
  const good = client.createRecord('tasks', { n: 2, title: 'b' });
  assert.equal(seen.at(-1), 'ab');
  const bad = outcome(client.updateRecord('tasks', '1', { title: 'x', bad: true }));
  assert.equal(seen.at(-1), 'xb');
  const gone = client.deleteRecord('tasks', '1');
  assert.equal(seen.at(-1), 'b');
  await world.run();
  assert.equal((await good).made, 'by the server');
  assert.deepEqual([bad.state, bad.error.kind], ['failed', 'refused']);
  await gone;
  // The second of the two has what the server added to the record.
  assert.deepEqual(seen, ['a', 'ab', 'xb', 'b', 'b'], 'nothing came back in between');
  const rolled = outcome(client.createRecords('tasks', [{ n: 3, title: 'c' }, { n: 4, title: 'd', bad: true }]));
  assert.equal(seen.at(-1), 'bcd');
  await world.run();
  assert.equal(rolled.state, 'failed');
  assert.equal(seen.at(-1), 'b');
  const [{ id }] = world.rows('tasks');
  const some = outcome(client.updateRecords('tasks', [id, 'nobody'], { title: 'z' }));
  await world.run(10_000);
  assert.deepEqual(some.value.map(({ title }) => title), ['z']);
  assert.deepEqual(seen, ['a', 'ab', 'xb', 'b', 'b', 'bcd', 'b', 'z']);
});

test('ds_16_5_a_record_may_name_one_that_is_still_being_created', async () => {
  const { world, client } = start();
  const parent = '00000000-0000-4000-8000-000000000001';
  const both = Promise.all([client.createRecord('tasks', { id: parent, n: 1 }), client.createRecord('tasks', { n: 2, parent }), client.updateRecord('tasks', parent, { n: 3 })]);
  await world.run();
  assert.deepEqual((await both).map(({ n }) => n), [1, 2, 3]);
});

test('ds_16_6_a_transaction_shows_nothing_before_it_is_committed', async () => {
  const { world, client } = start();
  let last;
  byTitle(client).subscribe((rows) => (last = titles(rows)));
  const failed = outcome(client.withTransaction(async (transaction) => {
    await transaction.createRecord('tasks', { n: 1, title: 'a' });
    assert.equal(last, '');
    throw new Error('changed my mind');
  }));
  await world.run();
  assert.match(failed.error.message, /changed my mind/);
  assert.equal(last, '');
  const done = outcome(client.withTransaction(async (transaction) => {
    await transaction.createRecords('tasks', [{ n: 1, title: 'a' }]);
    return (await transaction.query('tasks').fetch()).length;
  }));
  await world.run();
  assert.equal(done.state, 'done');
  assert.equal(last, 'a');
});

test('a transaction ends with its connection', async () => {
  const { world, client } = start();
  let transaction;
  const done = outcome(client.withTransaction(async (one) => {
    transaction = one;
    await one.createRecord('tasks', { n: 1 });
    world.cut();
    await new Promise((resolve) => world.environment.setTimer(resolve, 5000));
    await one.createRecord('tasks', { n: 2 });
  }));
  await world.run(10_000);
  assert.deepEqual([done.state, done.error.kind], ['failed', 'connection']);
  assert.equal(transaction.transactionId, null);
  assert.deepEqual(world.rows('tasks'), []);
});

test('ds_16_7_counts_are_kept, over connections too', async () => {
  const { world, client } = start();
  const live = client.count(client.query('tasks').query);
  live.listen(() => {});
  await world.run();
  assert.deepEqual(live.state, { data: 0, status: 'live', error: null });
  world.commit([['tasks', '1', {}], ['tasks', '2', {}]]);
  await world.run();
  assert.equal(live.state.data, 2);
  world.cut();
  world.commit([['tasks', '3', {}]]);
  await world.run(1000);
  assert.equal(live.state.data, 3);
});

test('the token is renewed before it ends, on the same socket', async () => {
  let asked = 0;
  const { world, client } = start({
    token: () => jwt({ sub: 'ada', exp: (world?.now ?? 0) / 1000 + 600, n: (asked += 1) }),
  });
  byTitle(client).subscribe(() => {});
  await world.run();
  assert.match(world.socket.url, /\?access_token=h\./);
  await world.run(1_200_000);
  assert.ok(asked >= 3, `asked ${asked} times`);
  assert.ok(world.log.includes('> LoginWithJWT'));
  assert.equal(world.sockets.length, 1);
});

test('a token that has expired is replaced at once, one that goes on expiring with patience', async () => {
  let asked = 0;
  const { world, client } = start({ token: () => jwt({ sub: 'ada', n: (asked += 1) }) });
  byTitle(client).subscribe(() => {});
  await world.run();
  world.cut(4401);
  await world.run();
  assert.equal(world.sockets.length, 2);
  world.isUp = false;
  world.cut(4401);
  await world.run(60_000);
  assert.ok(world.sockets.length < 12, `${world.sockets.length} attempts`);
});

test('what one user was shown, and what he wrote, is nothing of the next', async () => {
  let user = 'ada';
  const { world, client } = start({ token: () => user && jwt({ sub: user }) });
  world.commit([['tasks', '1', { n: 1, title: 'a' }]]);
  const live = client.rows(byTitle(client).query);
  live.listen(() => {});
  await world.run();
  assert.deepEqual([titles(live.state.data), client.identity.userId], ['a', 'ada']);
  world.isUp = false;
  world.cut();
  await world.run(1000);
  const write = outcome(client.updateRecord('tasks', '1', { title: 'by ada' }));
  assert.equal(titles(live.state.data), 'by ada');
  user = 'ben';
  await Promise.all([client.refreshToken(), world.run()]);
  assert.deepEqual(live.state, { data: null, status: 'loading', error: null });
  assert.equal(write.state, 'failed');
  world.isUp = true;
  await world.run(5000);
  assert.equal(titles(live.state.data), 'a');
  user = null;
  await Promise.all([client.refreshToken(), world.run()]);
  await world.run(1000);
  assert.equal(client.identity.userId, null);
  assert.equal(world.socket.url, 'ws://live.test/DataSyncController');
});

test('another user means another socket, whoever notices it first', async () => {
  let user = 'ada';
  const { world, client } = start({ token: () => user && jwt({ sub: user }) });
  world.commit([['tasks', '1', { n: 1, title: 'a' }]]);
  const live = client.rows(byTitle(client).query);
  live.listen(() => {});
  await world.run();
  user = 'ben';
  // As requests over HTTP do.
  const token = await client.token();
  assert.equal(client.identity.userId, 'ben');
  assert.equal(world.sockets[0].readyState, 3, 'the socket of the last user is no more');
  assert.deepEqual(live.state, { data: null, status: 'loading', error: null });
  const made = client.createRecord('tasks', { n: 2, title: 'by ben' });
  await world.run();
  await made;
  assert.equal(world.sockets.length, 2);
  assert.equal(world.socket.url, `ws://live.test/DataSyncController?access_token=${encodeURIComponent(token)}`);
  assert.equal(live.state.status, 'live');
});

test('a socket that opens for the last user is not used for the next', async () => {
  // The newest asking is answered first, or so many microtasks later.
  for (const gap of [-1, 0, 1, 2, 3, 4, 5, 6, 7, 8]) {
    const answers = [];
    const { world, client } = start({ token: () => new Promise((resolve) => answers.push(resolve)) });
    byTitle(client).subscribe(() => {});
    const token = client.token();
    const turns = [() => answers[0](jwt({ sub: 'ada' })), () => answers[1](jwt({ sub: 'ben' }))];
    if (gap < 0) turns.reverse();
    turns[0]();
    for (let turn = 0; turn < Math.abs(gap); turn += 1) await null;
    turns[1]();
    await token;
    await world.run();
    // A socket that was given up has asked for a token of its own.
    answers[2]?.(jwt({ sub: 'ben' }));
    await world.run();
    assert.equal(client.identity.userId, 'ben', `gap ${gap}`);
    assert.deepEqual(world.log, ['> CreateDataSubscription', '< DidCreateDataSubscription'], `gap ${gap}`);
    assert.equal(world.socket.url.split('=')[1], encodeURIComponent(jwt({ sub: 'ben' })), `gap ${gap}`);
  }
});

test('what the last user asked for is not asked in the name of the next', async () => {
  let user = 'ada';
  const { world, client } = start({ token: () => jwt({ sub: user }) });
  byTitle(client).subscribe(() => {});
  await world.run();
  world.intercept = ({ tag }) => (tag === 'DataSyncQuery' || tag.endsWith('Message') ? 'nothing' : undefined);
  const read = outcome(byTitle(client).fetch());
  const write = outcome(client.updateRecord('tasks', '1', { n: 1 }));
  await world.run();
  user = 'ben';
  world.intercept = () => undefined;
  await Promise.all([client.refreshToken(), world.run()]);
  await world.run(1000);
  assert.deepEqual([read.state, read.error?.kind], ['failed', 'closed']);
  assert.deepEqual([write.state, write.error?.kind], ['failed', 'connection'], 'it may have happened');
  assert.equal(world.log.filter((line) => line === '> DataSyncQuery').length, 1);
});

test('who follows rows is told at once that they are nothing of the next user', async () => {
  let user = 'ada';
  const { world, client } = start({ token: () => jwt({ sub: user }) });
  world.commit([['tasks', '1', { n: 1, title: 'of ada' }]]);
  const [seen, also] = [[], []];
  byTitle(client).subscribe((rows) => seen.push(titles(rows)));
  new DataSubscription(byTitle(client).query, { client }).subscribe((rows) => also.push(titles(rows)));
  await world.run();
  user = 'ben';
  world.isUp = false;
  await Promise.all([client.refreshToken(), world.run()]);
  assert.deepEqual([seen, also], [['of ada', ''], ['of ada', '']]);
  world.isUp = true;
  world.commit([['tasks', '1', { n: 1, title: 'of ben' }]]);
  await world.run(5000);
  assert.deepEqual([seen, also], [['of ada', '', 'of ben'], ['of ada', '', 'of ben']]);
});

test('a query that has ended shows the next user nothing of the last', async () => {
  let user = 'ada';
  const { world, client } = start({ token: () => jwt({ sub: user }) });
  world.commit([['tasks', '1', { n: 1, title: 'of ada' }]]);
  const live = client.rows(byTitle(client).query);
  const unseen = client.rows(client.query('tasks').query);
  unseen.listen(() => {})();
  const subscription = new DataSubscription(byTitle(client).query, { client });
  await world.run(5000);
  assert.ok(live.isClosed && unseen.isClosed);
  assert.equal(titles(subscription.getRecords()), 'of ada', 'who is still the same may look at it');
  user = 'ben';
  await Promise.all([client.refreshToken(), world.run()]);
  world.commit([['tasks', '1', { n: 1, title: 'of ben' }]]);
  assert.equal(subscription.getRecords(), null);
  assert.deepEqual(live.state, { data: null, status: 'loading', error: null });
  const seen = [];
  subscription.subscribe((rows) => seen.push(titles(rows)));
  // Also one that nobody looked at meanwhile.
  for (const one of [live, unseen]) one.listen(() => seen.push(one.state.data && titles(one.state.data)));
  await world.run(1000);
  assert.deepEqual([...new Set(seen)].filter((text) => text !== null), ['of ben']);
});

test('a listener that throws harms nobody else', async () => {
  const { world, client } = start();
  const broken = () => {
    throw new Error('a bug of the application');
  };
  let last;
  byTitle(client).subscribe(broken);
  byTitle(client).subscribe((rows) => (last = titles(rows)));
  client.listen(broken);
  const read = outcome(byTitle(client).fetch());
  const told = [];
  /** The platform tells of what is thrown in its timers. */
  const run = async (milliseconds) => {
    for (let turn = 0; turn < 50; turn += 1) await world.run(milliseconds).catch((error) => told.push(error.message));
  };
  await run();
  const write = outcome(client.createRecord('tasks', { n: 1, title: 'a' }));
  await run();
  assert.deepEqual([read.state, write.state, last], ['done', 'done', 'a']);
  const refused = outcome(client.createRecord('tasks', { n: 2, title: 'b', bad: true }));
  assert.equal(last, 'ab');
  await run();
  assert.deepEqual([refused.state, last], ['failed', 'a']);
  world.cut();
  const lost = outcome(client.deleteRecord('tasks', '7'));
  await run(1000);
  assert.equal(lost.state, 'failed');
  world.commit([['tasks', '9', { n: 9, title: 'z' }]]);
  await run();
  assert.equal(last, 'az');
  assert.ok(told.length > 0 && told.every((message) => message === 'a bug of the application'), 'it is not hidden either');
});

test('a token that cannot be had is told, once in a row, and asked for again', async () => {
  const told = [];
  const { error } = console;
  console.error = (...words) => told.push(words.join(' '));
  try {
    let give = () => {
      throw new Error('the session is over');
    };
    const { world, client } = start({ token: () => give() });
    let rows;
    byTitle(client).subscribe((now) => (rows = now));
    await world.run();
    await world.run(10_000);
    assert.match(client.status.error.message, /session is over/);
    assert.equal(told.length, 1);
    assert.match(told[0], /asked for a token and got none.*session is over/);
    give = () => null;
    await world.run(30_000);
    assert.equal(client.status.state, 'open');
    assert.deepEqual(rows, []);

    // What is no token is not sent as one.
    for (const [wrong, named] of [[undefined, /gave undefined/], ['', /an empty string/], [7, /gave number/]]) {
      give = () => wrong;
      world.cut();
      await world.run(1000);
      assert.equal(client.status.state, 'waiting');
      assert.match(client.status.error.message, named);
      assert.match(told.at(-1), named);
      give = () => null;
      await world.run(30_000);
    }
    assert.equal(told.length, 4);
  } finally {
    console.error = error;
  }
});

test('records that come go before the others where that is wished and nothing else orders them', async () => {
  const { world, client } = start();
  let last;
  const subscription = new DataSubscription(client.query('tasks').query, { client, newRecordBehaviour: NewRecordBehaviour.PREPEND_NEW_RECORD });
  subscription.subscribe((rows) => (last = titles(rows)));
  await world.run();
  world.commit([['tasks', '1', { title: 'a' }]]);
  world.commit([['tasks', '2', { title: 'b' }]]);
  await world.run();
  assert.equal(last, 'ba');
  let closed = 0;
  subscription.onClose = () => (closed += 1);
  subscription.close();
  subscription.close();
  assert.deepEqual([closed, subscription.isClosed], [1, true]);
});

test('the number of a message is ours, whatever it came with', async () => {
  const { world, client } = start();
  const seen = [];
  world.intercept = (message) => (seen.push(message), { tag: 'Did' });
  const sends = [{ requestId: 7, tag: 'Poke' }, { tag: 'Poke', requestId: 0 }].map((message) => client.request(message));
  await world.run();
  await Promise.all(sends);
  assert.deepEqual(seen, [{ requestId: 0, tag: 'Poke' }, { requestId: 1, tag: 'Poke' }]);
});

test('what JSON cannot hold fails by itself, and leaves nothing', async () => {
  const { world, client } = start();
  let last;
  byTitle(client).subscribe((rows) => (last = titles(rows)));
  await world.run();
  const cycle = { n: 1 };
  cycle.self = cycle;
  const bad = [
    () => client.createRecord('tasks', { n: 1n, title: 'x' }),
    () => client.createRecords('tasks', [{ n: 1, title: 'x' }, cycle]),
    () => client.updateRecord('tasks', '1', cycle),
    () => client.query('tasks').where('n', 1n).fetch(),
    () => client.request({ tag: 'Whatever', cycle }),
  ];
  for (const call of bad) await assert.rejects(call(), TypeError);
  assert.throws(() => client.query('tasks').where('n', 1n).subscribe(() => {}), TypeError);
  assert.equal(last, '');
  // Also while all of it waits for a socket.
  world.cut();
  await world.run(1);
  const good = outcome(client.createRecord('tasks', { n: 1, title: 'a' }));
  for (const call of bad) await assert.rejects(call(), TypeError);
  const read = outcome(byTitle(client).fetch());
  await world.run(5000);
  assert.deepEqual([good.state, read.state, last], ['done', 'done', 'a']);
  assert.equal(world.sockets.length, 2);
});

test('a table whose key was not named is an error, not one row of many', async () => {
  const { world, client } = start();
  const seats = [{ row: 1, place: 1 }, { row: 1, place: 2 }];
  const starts = { keyless: seats, wrong: [{ id: 7, n: 1 }, { id: 7, n: 2 }], empty: [] };
  world.intercept = ({ tag, query }) =>
    tag === 'CreateDataSubscription' ? { tag: 'DidCreateDataSubscription', subscriptionId: query.table, result: starts[query.table] } : undefined;
  for (const [table, message] of [
    ['keyless', 'records of keyless have no field id: name the key of keyless in `tables`'],
    ['wrong', 'records of wrong have one id together: name the key of wrong in `tables`'],
    ['empty', 'records of empty have no field id: name the key of empty in `tables`'],
  ]) {
    const live = client.rows(client.query(table).query);
    live.listen(() => {});
    await world.run();
    if (table === 'empty') world.socket.sends({ tag: 'DidInsert', subscriptionId: 'empty', record: { row: 1, place: 1 } });
    await world.run();
    assert.equal(live.state.status, 'error', table);
    assert.equal(live.state.error.message, message);
    assert.equal(world.log.at(-2), '> DeleteDataSubscription', 'it is ended at the server');
  }
  assert.equal(client.status.state, 'open');
  // What is only asked for needs no key; what is changed resolves.
  world.intercept = ({ tag }) => (tag === 'UpdateRecordsMessage' ? { tag: 'DidUpdateRecords', records: seats } : { tag: 'DataSyncResult', result: seats });
  const [read, write] = [outcome(client.query('keyless').fetch()), outcome(client.updateRecords('keyless', ['1'], { n: 1 }))];
  await world.run();
  assert.deepEqual([read.value, write.value], [seats, seats]);
});

test('a subscription that is closed before its first result says so', async () => {
  const { world, client } = start();
  world.intercept = () => 'nothing';
  const subscription = new DataSubscription(byTitle(client).query, { client });
  const begun = outcome(subscription.createOnServer());
  await world.run();
  subscription.close();
  await world.run();
  assert.deepEqual([begun.state, begun.error?.kind], ['failed', 'closed']);
});

test('a client that is closed tells all who follow something', async () => {
  const { world, client } = start();
  world.commit([['tasks', '1', { n: 1, title: 'a' }]]);
  const [live, count] = [client.rows(byTitle(client).query), client.count(client.query('tasks').query)];
  const errors = [];
  byTitle(client).subscribe(() => {}, { onError: ({ kind }) => errors.push(kind) });
  count.listen(() => {});
  await world.run();
  world.intercept = () => 'nothing';
  const late = client.rows(client.query('others').query);
  late.listen(() => {});
  const subscription = new DataSubscription(client.query('more').query, { client });
  const begun = outcome(subscription.createOnServer());
  await world.run();
  client.close();
  await world.run();
  for (const one of [live, count, late]) assert.deepEqual([one.state.status, one.state.error?.kind], ['error', 'closed']);
  assert.deepEqual([begun.state, begun.error?.kind, subscription.isConnected], ['failed', 'closed', false]);
  assert.deepEqual(errors, ['closed']);
  // Whoever comes later is told too.
  const after = client.rows(client.query('anything').query);
  after.listen(() => {});
  await world.run();
  assert.equal(after.state.error?.kind, 'closed');
});

test('what was refused is not told once more when the client is closed', async () => {
  const { world, client } = start();
  world.intercept = ({ tag }) => (tag.startsWith('Create') ? { tag: 'DataSyncError', errorMessage: 'no', code: 'HW1' } : undefined);
  const errors = [];
  byTitle(client).subscribe(() => {}, { onError: ({ kind }) => errors.push(kind) });
  await world.run();
  client.close();
  await world.run();
  assert.deepEqual(errors, ['refused']);
});

test('a write is to the row that the answer names', async () => {
  const { world, client } = start();
  const seen = [];
  byTitle(client).subscribe((rows) => seen.push(rows.map(({ id, title }) => `${id}${title}`).join()));
  await world.run();
  // A server whose ids are lower case, whatever was written, and whose changes come late, or before the answer.
  const first = { answer: 0, change: 1 };
  for (const order of [first, { answer: 1, change: 0 }]) {
    world.intercept = ({ tag, requestId, record, patch }, socket) => {
      if (!tag.endsWith('RecordMessage')) return undefined;
      const id = order === first ? 'a' : 'b';
      const row = { id, n: 1, ...record, ...patch };
      row.id = id;
      const messages = [];
      messages[order.answer] = { tag: tag.startsWith('Create') ? 'DidCreateRecord' : 'DidUpdateRecord', requestId, record: row };
      messages[order.change] = tag.startsWith('Create')
        ? { tag: 'DidInsert', subscriptionId: 's1', record: row }
        : { tag: 'DidUpdate', subscriptionId: 's1', id, changeSet: patch };
      messages.forEach((message) => socket.sends(message));
      return 'nothing';
    };
    const id = order === first ? 'A' : 'B';
    void client.createRecord('tasks', { id, n: 1, title: '1' });
    await world.run();
    void client.updateRecord('tasks', id, { title: '2' });
    await world.run();
    world.socket.sends({ tag: 'DidUpdate', subscriptionId: 's1', id: id.toLowerCase(), changeSet: { title: '3' } });
    await world.run();
    assert.equal(seen.at(-1), order === first ? 'a3' : 'a3,b3');
  }
  assert.ok(!seen.some((text) => text.includes('A1,a1') || text.includes('a1,A1') || text.includes('B1,b1')), seen.join(' | '));
  await world.run(5000);
  assert.equal(seen.at(-1), 'a3,b3');
});

test('what was written to a record while it was created goes with it to the key that the answer names', async () => {
  const { world, client } = start();
  const seen = [];
  byTitle(client).subscribe((rows) => seen.push(rows.map(({ id, title }) => `${id}${title}`).join()));
  await world.run();
  const answers = [];
  world.intercept = ({ tag, requestId, record, patch }, socket) => {
    if (!tag.endsWith('RecordMessage')) return undefined;
    const [said, change] = patch ? ['DidUpdateRecord', { tag: 'DidUpdate', id: 'a', changeSet: patch }] : ['DidCreateRecord', { tag: 'DidInsert', record: { ...record, id: 'a' } }];
    answers.push(() => socket.sends({ tag: said, requestId, record: { ...record, ...patch, id: 'a' } }));
    answers.push(() => socket.sends({ ...change, subscriptionId: 's1' }));
    return 'nothing';
  };
  void client.createRecord('tasks', { id: 'A', n: 1, title: '1' });
  void client.updateRecord('tasks', 'A', { title: '2' });
  await world.run();
  for (const answer of answers) {
    answer();
    await world.run();
  }
  await world.run(5000);
  assert.deepEqual(seen, ['', 'A1', 'A2', 'a2']);
});

test('a closed client settles everything', async () => {
  const { world, client } = start();
  world.intercept = () => 'nothing';
  const read = outcome(byTitle(client).fetch());
  await world.run();
  client.close();
  await world.run();
  assert.deepEqual([read.state, read.error.kind], ['failed', 'closed']);
  await assert.rejects(client.createRecord('tasks', {}), /closed/);
  assert.equal(world.socket.readyState, 3);
});

test('ids of tables whose database makes them are not made here', async () => {
  const { world, client } = start({ tables: { invoices: { ids: 'database' }, seats: { key: ['row', 'place'] } } });
  const sent = [];
  world.intercept = (message) => {
    sent.push(message.record);
    return { tag: 'DidCreateRecord', record: { id: 7 } };
  };
  let seats;
  client.query('seats').subscribe((rows) => (seats = rows));
  const made = Promise.all([client.createRecord('invoices', { total: 1 }), client.createRecord('seats', { row: 1, place: 2 })]);
  await world.run();
  await made;
  assert.deepEqual(sent.filter(Boolean), [{ total: 1 }, { row: 1, place: 2 }]);
  assert.ok(seats);
});

test('wrong arguments are refused before anything is sent', async () => {
  const { world, client } = start();
  await assert.rejects(client.createRecord(7, {}), TypeError);
  await assert.rejects(client.createRecord('t', null), TypeError);
  await assert.rejects(client.createRecords('t', {}), TypeError);
  await assert.rejects(client.updateRecord('t', null, {}), TypeError);
  await assert.rejects(client.updateRecords('t', 'a', {}), TypeError);
  await assert.rejects(client.deleteRecord('t', {}), TypeError);
  assert.throws(() => new LiveClient({ host: 'live.test' }), TypeError);
  assert.throws(() => new LiveClient({ host: 'http://live.test/' }), TypeError);
  await world.run();
  assert.deepEqual(world.log, []);
});

/** What an application may do, with every message of it in the log. */
async function useEverything(world, client) {
  const shown = { rows: [], count: null };
  client.query('tasks').where('isOpen', true).orderBy('n').limit(3).subscribe((rows) => {
    shown.rows = rows;
    assert.ok(rows.length <= 3);
  });
  const count = client.count(client.query('tasks').query);
  count.listen(() => (shown.count = count.state.data));
  const settled = [];
  const does = (promise) => settled.push(outcome(promise));
  await world.run();
  does(client.createRecord('tasks', { id: 'a', n: 1, isOpen: true }));
  does(client.createRecord('tasks', { id: 'b', n: 2, isOpen: true }));
  world.commit([['tasks', 'c', { n: 0, isOpen: true }], ['tasks', 'd', { n: 3, isOpen: true }]]);
  await world.run();
  does(client.updateRecord('tasks', 'c', { n: 5 }));
  does(client.deleteRecord('tasks', 'b'));
  does(client.updateRecord('tasks', 'a', { bad: true }));
  does(client.withTransaction(async (transaction) => {
    await transaction.createRecord('tasks', { id: 'e', n: 4, isOpen: true });
    await transaction.updateRecord('tasks', 'd', { isOpen: false });
  }));
  does(client.query('tasks').fetch());
  await world.run();
  world.commit([['tasks', 'c', null]]);
  await world.run(120_000);
  return { shown, settled };
}

test('wherever the connection is cut, everything is settled and what is shown is so', async () => {
  for (let at = 1; ; at += 1) {
    const { world, client } = start();
    let cut = false;
    world.fate = (number) => {
      cut ||= number === at;
      return number === at ? 'cut' : 'pass';
    };
    const { shown, settled } = await useEverything(world, client);
    const expected = world.rows('tasks').filter(({ isOpen }) => isOpen).sort((a, b) => a.n - b.n).slice(0, 3);
    assert.deepEqual(shown.rows, expected, `cut at message ${at}\n${world.log.join('\n')}`);
    assert.equal(shown.count, world.rows('tasks').length, `cut at message ${at}`);
    for (const { state, error } of settled) {
      assert.notEqual(state, 'waits', `cut at message ${at}`);
      assert.ok(state === 'done' || error instanceof LiveError, `${error?.stack}`);
    }
    client.close();
    if (!cut) {
      assert.ok(at > 30, `only ${at} messages`);
      break;
    }
  }
});
