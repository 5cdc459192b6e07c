/** The free functions: one client for the application, under the names of the original API. */
import assert from 'node:assert/strict';
import { beforeEach, test } from 'node:test';
import {
  createRecord,
  createRecords,
  DataSubscription,
  DataSyncController,
  deleteRecord,
  deleteRecords,
  ensureIsUser,
  fetchAuthenticated,
  getCurrentUser,
  getCurrentUserId,
  ihpBackendUrl,
  initAuth,
  initHeadwater,
  initIHPBackend,
  liveClient,
  logout,
  query,
  updateRecord,
  updateRecords,
  withTransaction,
} from '../../dist/live/index.js';
import { World } from './world.js';

const jwt = (claims) => `h.${Buffer.from(JSON.stringify(claims)).toString('base64url')}.s`;
const stored = new Map();
const gone = [];
globalThis.localStorage = {
  getItem: (key) => stored.get(key) ?? null,
  removeItem: (key) => void stored.delete(key),
};
globalThis.location = { origin: 'http://page.test', assign: (url) => gone.push(url) };

beforeEach(() => {
  stored.clear();
  gone.length = 0;
});

/** An application whose server is in memory. */
function start(options = {}) {
  const world = new World();
  initHeadwater({ environment: world.environment, ...options });
  const settle = async (promise) => {
    await world.run();
    return promise;
  };
  return { world, settle };
}

test('ds_19_queries_that_were_made_before_the_client_use_it', async () => {
  const before = query('tasks').orderBy('n');
  const { world, settle } = start();
  world.commit([['tasks', '1', { n: 1 }]]);
  assert.deepEqual(await settle(before.fetch()), [{ id: '1', n: 1 }]);
  assert.deepEqual(await settle(query('tasks', ['n']).fetch()), [{ n: 1 }]);
  assert.equal(world.socket.url, 'ws://page.test/DataSyncController');
});

test('ds_8_every_write_has_a_free_function', async () => {
  const { world, settle } = start();
  await settle(createRecord('tasks', { id: 'a', n: 1 }));
  await settle(createRecords('tasks', [{ id: 'b', n: 2 }, { id: 'c', n: 3 }]));
  await settle(updateRecord('tasks', 'a', { n: 4 }));
  await settle(updateRecords('tasks', ['b', 'c'], { n: 5 }));
  assert.deepEqual(world.rows('tasks').map(({ n }) => n), [4, 5, 5]);
  await settle(deleteRecord('tasks', 'a'));
  await settle(deleteRecords('tasks', ['b']));
  await settle(withTransaction((transaction) => transaction.deleteRecord('tasks', 'c')));
  assert.deepEqual(world.rows('tasks'), []);
});

test('ds_18_who_is_signed_in_is_what_the_page_stored', async () => {
  stored.set('ihp_jwt', jwt({ sub: 'ada' }));
  const { world, settle } = start({ loginUrl: '/login' });
  world.commit([['users', 'ada', { name: 'Ada' }]]);
  assert.equal(await getCurrentUserId(), 'ada');
  assert.deepEqual(await settle(getCurrentUser()), { id: 'ada', name: 'Ada' });
  await ensureIsUser();
  assert.deepEqual(gone, []);
  await settle(logout({ redirect: '/bye' }));
  assert.deepEqual([await getCurrentUserId(), await getCurrentUser(), stored.size], [null, null, 0]);
  await ensureIsUser();
  assert.deepEqual(gone, ['/bye', '/login']);
});

test('requests over HTTP go to the same server as the same user', async () => {
  const asked = [];
  globalThis.fetch = async (url, init) => asked.push([url, init.method, new Headers(init.headers).get('authorization'), init.credentials]);
  stored.set('ihp_jwt', 'a token');
  initIHPBackend({ host: 'https://live.test' });
  assert.equal(ihpBackendUrl('/api/tasks'), 'https://live.test/api/tasks');
  await fetchAuthenticated('/api/tasks', { method: 'POST' });
  stored.clear();
  await fetchAuthenticated('/api/tasks');
  assert.deepEqual(asked, [
    ['https://live.test/api/tasks', 'POST', 'Bearer a token', undefined],
    ['https://live.test/api/tasks', undefined, null, 'include'],
  ]);
  assert.throws(() => initIHPBackend({ host: 'live.test' }), TypeError);
  assert.throws(() => initIHPBackend({ host: 'https://live.test/' }), TypeError);
});

test('ds_16_subscriptions_and_messages_have_the_forms_of_the_original', async () => {
  const { world, settle } = start();
  world.commit([['tasks', '1', { n: 1 }]]);
  const subscription = new DataSubscription(query('tasks').query);
  await settle(subscription.createOnServer());
  assert.deepEqual(subscription.getRecords(), [{ id: '1', n: 1 }]);
  subscription.close();
  const controller = DataSyncController.getInstance();
  assert.equal(DataSyncController.getInstance(), controller);
  const answer = await settle(controller.sendMessage({ tag: 'DataSyncQuery', query: query('tasks').query }));
  assert.deepEqual([answer.tag, answer.result], ['DataSyncResult', [{ id: '1', n: 1 }]]);
  world.intercept = () => ({ tag: 'DataSyncError', errorMessage: 'no such message' });
  const refused = assert.rejects(controller.sendMessage({ tag: 'Whatever' }), /no such message/);
  await settle(refused);
  assert.equal(DataSyncController.ihpBackendHost, 'http://page.test');
  DataSyncController.ihpBackendHost = 'https://live.test';
  assert.equal(liveClient().host, 'https://live.test');
  assert.equal(DataSyncController.getWSUrl(), 'wss://live.test/DataSyncController');
});

test('an application that makes its client anew ends the old one', async () => {
  const { world } = start();
  const old = liveClient();
  const stop = query('tasks').subscribe(() => {});
  await world.run();
  start();
  assert.equal(old.status.state, 'closed');
  assert.equal(world.socket.readyState, 3);
  await initAuth();
  stop();
});
