/** Hooks over a client whose server is in memory: what components show, and how often they render. */
import assert from 'node:assert/strict';
import { Writable } from 'node:stream';
import { afterEach, test } from 'node:test';
import { Component, createElement as h, Suspense } from 'react';
import { renderToPipeableStream } from 'react-dom/server';
import { act, create } from 'react-test-renderer';
import { LiveClient } from '@headwater/client/live';
import { World } from '../../client/test/live/world.js';
import {
  HeadwaterProvider,
  ThinBackend,
  useAggregate,
  useCount,
  useCurrentUser,
  useIsConnected,
  useIsLoggedIn,
  useQuery,
  useQuerySingleResult,
  useQueryState,
  useSuspenseQuery,
} from '../dist/index.js';

globalThis.IS_REACT_ACT_ENVIRONMENT = true;
const said = [];
console.error = (...words) => said.push(words.join(' '));
afterEach(() => {
  // Uncaught by design: React tells of errors that a boundary takes.
  const unexpected = said.filter((text) => !/deprecated|error boundary|refused by/.test(text));
  said.length = 0;
  assert.deepEqual(unexpected, []);
});

const jwt = (claims) => `h.${Buffer.from(JSON.stringify(claims)).toString('base64url')}.s`;

class Boundary extends Component {
  state = { error: null };
  static getDerivedStateFromError(error) {
    return { error };
  }
  render() {
    return this.state.error ? `error: ${this.state.error.message}` : this.props.children;
  }
}

function start({ token = () => null } = {}) {
  const world = new World();
  const client = new LiveClient({ host: 'http://live.test', environment: world.environment, token });
  const run = (milliseconds) => act(() => world.run(milliseconds));
  const render = async (element) => {
    let tree;
    await act(async () => {
      tree = create(h(HeadwaterProvider, { client }, h(Boundary, null, element)));
    });
    return { text: () => [tree.toJSON()].flat().join(''), unmount: () => act(() => tree.unmount()) };
  };
  return { world, client, run, render };
}

const tasks = (client) => client.query('tasks').orderBy('n');
const titles = (rows) => rows.map(({ title }) => title).join('');

test('ds_18_useQuery_is_null_while_it_loads_then_live', async () => {
  const { world, client, run, render } = start();
  let renders = 0;
  const Tasks = () => {
    renders += 1;
    const rows = useQuery(tasks(client));
    return rows === null ? 'loading' : `[${titles(rows)}]`;
  };
  world.commit([['tasks', '1', { n: 1, title: 'a' }]]);
  const { text, unmount } = await render(h(Tasks));
  assert.equal(text(), 'loading');
  await run();
  assert.equal(text(), '[a]');
  world.commit([['tasks', '2', { n: 0, title: 'b' }]]);
  await run();
  assert.equal(text(), '[ba]');
  const before = renders;
  world.commit([['tasks', '2', { n: 0, title: 'b' }]]);
  await run(60_000);
  assert.equal(renders, before, 'nothing changed, so nothing renders');
  await unmount();
  await run(2000);
  assert.ok(world.log.includes('> DeleteDataSubscription'));
});

test('own writes are shown in the same moment', async () => {
  const { world, client, run, render } = start();
  const Tasks = () => titles(useQuery(tasks(client)) ?? []);
  const { text } = await render(h(Tasks));
  await run();
  await act(() => void client.createRecord('tasks', { n: 1, title: 'mine' }));
  assert.equal(text(), 'mine');
  assert.equal(world.rows('tasks').length, 0);
  await run();
  assert.equal(text(), 'mine');
});

test('a query that changes shows the new rows', async () => {
  const { world, client, run } = start();
  world.commit([['tasks', '1', { n: 1, title: 'a' }], ['tasks', '2', { n: 2, title: 'b' }]]);
  const Tasks = ({ n }) => {
    const rows = useQuery(client.query('tasks').where('n', n));
    return rows === null ? 'loading' : titles(rows);
  };
  let tree;
  const show = (n) => act(() => {
    const element = h(HeadwaterProvider, { client }, h(Tasks, { n }));
    if (tree) tree.update(element);
    else tree = create(element);
  });
  await show(1);
  await run();
  assert.equal(tree.toJSON(), 'a');
  await show(2);
  assert.equal(tree.toJSON(), 'loading');
  await run();
  assert.equal(tree.toJSON(), 'b');
});

test('ds_16_8_a_single_result_is_null_if_there_is_none_and_leaves_the_builder_alone', async () => {
  const { world, client, run, render } = start();
  const builder = tasks(client);
  const One = () => {
    const row = useQuerySingleResult(builder);
    return row ? row.title : String(row);
  };
  const { text } = await render(h(One));
  assert.equal(text(), 'undefined');
  await run();
  assert.equal(text(), 'null');
  world.commit([['tasks', '1', { n: 1, title: 'a' }]]);
  await run();
  assert.equal(text(), 'a');
  assert.equal(builder.query.limit, null);
});

test('issue_6_2_useAggregate_is_null_while_it_loads_then_live', async () => {
  const { world, client, run, render } = start();
  const Sums = () => {
    const groups = useAggregate(client.query('tasks').groupBy('team').aggregate({ sum: { sum: 'n' } }));
    return groups === null ? 'loading' : groups.map(({ team, sum }) => `${team}${sum}`).join(' ');
  };
  world.commit([['tasks', '1', { team: 'a', n: 1 }]]);
  const { text, unmount } = await render(h(Sums));
  assert.equal(text(), 'loading');
  await run();
  assert.equal(text(), 'a1');
  world.commit([['tasks', '2', { team: 'a', n: 2 }], ['tasks', '3', { team: 'b', n: 4 }]]);
  await run();
  assert.equal(text(), 'a3 b4');
  await unmount();
});

test('ds_16_7_useCount_goes_on_after_a_reconnect', async () => {
  const { world, client, run, render } = start();
  const Count = () => `${useCount(client.query('tasks'))} ${useIsConnected()}`;
  const { text } = await render(h(Count));
  assert.equal(text(), 'null false');
  await run();
  assert.equal(text(), '0 true');
  world.isUp = false;
  world.cut();
  await run();
  assert.equal(text(), '0 false');
  world.commit([['tasks', '1', {}]]);
  world.isUp = true;
  await run(5000);
  assert.equal(text(), '1 true');
});

test('ds_16_9_a_refusal_goes_to_the_error_boundary_or_into_the_state', async () => {
  const { world, client, run, render } = start();
  world.intercept = ({ tag }) => (tag === 'CreateDataSubscription' ? { tag: 'DataSyncError', errorMessage: 'refused by a policy' } : undefined);
  const Throws = () => useQuery(tasks(client));
  const Tells = () => {
    const { data, status, error } = useQueryState(tasks(client));
    return `${data} ${status} ${error?.message}`;
  };
  const [one, other] = [await render(h(Throws)), await render(h(Tells))];
  await run();
  assert.equal(one.text(), 'error: refused by a policy');
  assert.equal(other.text(), 'null error refused by a policy');
});

test('the suspense variant waits, and shows rows without a flash of nothing', async () => {
  const { world, client, run, render } = start();
  world.commit([['tasks', '1', { n: 1, title: 'a' }]]);
  const Tasks = () => titles(useSuspenseQuery(tasks(client)));
  const { text } = await render(h(Suspense, { fallback: 'waits' }, h(Tasks)));
  assert.equal(text(), 'waits');
  await run();
  await run(500);
  assert.equal(text(), 'a');
  await run(60_000);
  world.commit([['tasks', '2', { n: 2, title: 'b' }]]);
  await run();
  assert.equal(text(), 'ab');
  assert.equal(world.log.filter((line) => line === '> CreateDataSubscription').length, 1);
});

/** What a server sends of an element, and what it says of errors. */
function onServer(element) {
  return new Promise((resolve) => {
    const [chunks, errors] = [[], []];
    const sink = new Writable({
      write: (chunk, _encoding, done) => (chunks.push(chunk), done()),
      final: (done) => (done(), resolve({ html: Buffer.concat(chunks).toString(), errors })),
    });
    const stream = renderToPipeableStream(element, {
      onAllReady: () => stream.pipe(sink),
      onShellError: ({ message }) => resolve({ html: null, errors: [message] }),
      onError: ({ message }) => void errors.push(message),
    });
  });
}

test('the suspense variant is left to the page by a server, which opens nothing', async () => {
  const { world, client } = start();
  const Tasks = () => h('p', null, titles(useSuspenseQuery(tasks(client))));
  const page = (inner) => h(HeadwaterProvider, { client }, inner);
  const { html, errors } = await onServer(page(h(Suspense, { fallback: 'waits' }, h(Tasks))));
  assert.match(html, /waits/);
  assert.deepEqual(errors, ['useSuspenseQuery loads nothing on a server: the page loads it, and shows the fallback of <Suspense> until then']);
  assert.deepEqual(world.sockets, []);
  // Without a boundary it is an error at once, and nothing that hangs.
  assert.equal((await onServer(page(h(Tasks)))).html, null);
  // What is there is shown.
  world.commit([['tasks', '1', { n: 1, title: 'a' }]]);
  client.rows(tasks(client).query).listen(() => {});
  await world.run();
  assert.match((await onServer(page(h(Suspense, { fallback: 'waits' }, h(Tasks))))).html, /<p>a<\/p>/);
});

test('ds_18_the_current_user_is_a_live_row_of_whoever_is_signed_in', async () => {
  let user = 'ada';
  const { world, client, run, render } = start({ token: () => user && jwt({ sub: user }) });
  world.commit([['users', 'ada', { name: 'Ada' }], ['users', 'ben', { name: 'Ben' }]]);
  const Me = () => `${useIsLoggedIn()} ${useCurrentUser()?.name}`;
  const { text } = await render(h(Me));
  await run();
  assert.equal(text(), 'true Ada');
  world.commit([['users', 'ada', { name: 'Countess' }]]);
  await run();
  assert.equal(text(), 'true Countess');
  user = null;
  await act(() => client.refreshToken());
  await run(5000);
  assert.equal(text(), 'false undefined');
});

test('ThinBackend renders for whoever may see it', async () => {
  const gone = [];
  globalThis.location = { assign: (url) => gone.push(url) };
  const { run, render } = start();
  const [open, closed] = [await render(h(ThinBackend, null, 'page')), await render(h(ThinBackend, { requireLogin: true }, 'page'))];
  await run();
  assert.deepEqual([open.text(), closed.text(), gone], ['page', '', ['/']]);
});

test('a token that cannot be had at first is asked for again, though nothing else wants a connection', async () => {
  let fails = true;
  const token = () => {
    if (fails) throw new Error('no network');
    return jwt({ sub: 'ada' });
  };
  const { run, render } = start({ token });
  const { text } = await render(h(ThinBackend, null, 'page'));
  await run(5000);
  assert.equal(text(), '');
  const told = said.splice(0).filter((text) => !/deprecated/.test(text));
  assert.deepEqual(told, ['Headwater asked for a token and got none; it will ask again: Error: no network']);
  fails = false;
  await run(60_000);
  assert.equal(text(), 'page');
});

test('rendering alone opens no connection: it may be on a server, or thrown away', async () => {
  const { world, client, run } = start();
  client.rows(tasks(client).query);
  await run(60_000);
  assert.equal(world.sockets.length, 0);
});
