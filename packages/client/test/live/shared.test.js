/** Tabs that share one socket: each sees what is its, and leaves nothing behind. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { LiveClient } from '../../dist/live/index.js';
import { SharedSocket } from '../../dist/live/shared_socket.js';
import { SharedWorkerHub } from '../../dist/live/shared_worker.js';
import { World } from './world.js';

// Node 22 has no locks; those of a page are held until it says so here.
const locks = new Map();
Object.defineProperty(globalThis.navigator, 'locks', {
  configurable: true,
  value: {
    request: async (name, call) => {
      await locks.get(name)?.free;
      const held = {};
      held.free = new Promise((resolve) => (held.release = resolve));
      locks.set(name, held);
      await call({ name });
      held.release();
    },
  },
});

/** A pair of ports whose messages arrive when the world moves. */
function channel(world) {
  const [one, other] = [{}, {}];
  for (const [port, peer] of [[one, other], [other, one]]) {
    Object.assign(port, {
      onmessage: null,
      postMessage: (message) => {
        const data = structuredClone(message);
        if (port === other) world.toPages = (world.toPages ?? 0) + 1;
        world.environment.setTimer(() => peer.onmessage?.({ data }), 0);
      },
      close() {},
    });
  }
  return [one, other];
}

function start() {
  const world = new World();
  const hub = new SharedWorkerHub(world.environment.openSocket, (lock, call) => void navigator.locks.request(lock, call), world.environment.now);
  const tab = () => {
    const environment = {
      ...world.environment,
      openSocket: (url) => {
        const [mine, its] = channel(world);
        hub.connect(its);
        return new SharedSocket(url, mine);
      },
    };
    return new LiveClient({ host: 'http://live.test', token: () => null, environment });
  };
  return { world, tab };
}

const listed = (client) => {
  const seen = { rows: null };
  seen.stop = client.query('tasks').orderBy('n').subscribe((rows) => (seen.rows = rows.map(({ title }) => title).join('')));
  return seen;
};

test('tabs have one socket, and each hears of its own', async () => {
  const { world, tab } = start();
  world.commit([['tasks', '1', { n: 1, title: 'a' }]]);
  const [ada, ben] = [tab(), tab()];
  const [one, other] = [listed(ada), listed(ben)];
  await world.run();
  assert.equal(world.sockets.length, 1);
  const write = ben.createRecord('tasks', { n: 2, title: 'b' });
  await world.run();
  assert.equal((await write).title, 'b');
  assert.deepEqual([one.rows, other.rows], ['ab', 'ab']);
});

test('a tab that waits hears that the server lives, though all that it says is for another', async () => {
  const { world, tab } = start();
  const [ada, ben, idle] = [tab(), tab(), tab()];
  const seen = listed(ada);
  idle.query('others').subscribe(() => {});
  await world.run();
  let late;
  world.intercept = ({ tag, requestId }, socket) => {
    if (tag !== 'DataSyncQuery') return undefined;
    late = () => socket.sends({ tag: 'DataSyncResult', requestId, result: [] });
    return 'nothing';
  };
  const read = ben.query('tasks').fetch();
  let told = 0;
  for (let n = 0; n < 40; n += 1) {
    // A server that says something does not say besides that it lives.
    world.commit([['tasks', '1', { n, title: `${n}` }]]);
    world.commit([['tasks', '2', { n, title: '' }]]);
    await world.run(1000);
    if (n === 20) told = world.toPages;
  }
  assert.deepEqual([seen.rows, ben.status.state, idle.status.state, world.sockets.length], ['39', 'open', 'open', 1]);
  assert.ok(world.toPages - told < 3 * 19, 'it is told rarely');
  late();
  await world.run();
  assert.deepEqual(await read, []);
});

test('a socket that ends, ends for all, and comes back for all', async () => {
  const { world, tab } = start();
  const tabs = [tab(), tab()];
  const seen = tabs.map(listed);
  await world.run();
  world.cut();
  await world.run(1);
  assert.deepEqual(tabs.map(({ status }) => status.state), ['waiting', 'waiting']);
  world.commit([['tasks', '1', { n: 1, title: 'a' }]]);
  await world.run(5000);
  assert.deepEqual(seen.map(({ rows }) => rows), ['a', 'a']);
  assert.equal(world.sockets.length, 2);
});

test('what a tab that has gone began is ended at the server', async () => {
  const { world, tab } = start();
  const [ada, ben] = [tab(), tab()];
  const seen = listed(ben);
  listed(ada);
  await world.run();
  const begun = ada.request({ tag: 'StartTransaction' });
  await world.run();
  await begun;
  // One whose answer comes when nobody waits for it any more.
  void ada.request({ tag: 'StartTransaction' }).catch(() => {});
  assert.equal(world.socket.subscriptions.size, 2);
  ada.close();
  await world.run();
  assert.equal(world.socket.subscriptions.size, 1);
  assert.equal(world.socket.transactions.size, 0);
  world.commit([['tasks', '1', { n: 1, title: 'a' }]]);
  await world.run();
  assert.equal(seen.rows, 'a');
  ben.close();
  await world.run();
  assert.equal(world.socket.readyState, 3, 'nobody needs the socket any more');
});

test('a tab that crashes is noticed by the lock that it held', async () => {
  const { world, tab } = start();
  const crashing = tab();
  listed(crashing);
  await world.run();
  listed(tab());
  await world.run();
  assert.equal(world.socket.subscriptions.size, 2);
  const [[, held]] = [...locks].filter(([name]) => name.startsWith('headwater page')).slice(-2);
  held.release();
  await world.run();
  await world.run();
  assert.equal(world.socket.subscriptions.size, 1);
});
