/**
 * A bucket whose rows change all the time. Whoever comes, from wherever, is sent the newest version
 * of each row at most once, and the sums of what was superseded are right: the official client would
 * otherwise refuse the checkpoint and begin again (FD-49, FD-73).
 */

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';

import { kind } from '../harness/line_proxy.js';
import { assertOracle } from '../harness/oracle.js';
import { World } from '../harness/world.js';

const ROWS = 100;

/** @type {World} */
let world;

before(async () => {
  world = await World.start({
    before: `
      INSERT INTO lists VALUES ('l1', 'ann', 'Hot');
      INSERT INTO todos SELECT 't' || i, 'l1', 'first ' || i FROM generate_series(1, ${ROWS}) i`,
  });
});
after(() => world.close());

/** Rewrites all rows so often, each time in a transaction of its own, with a row that comes and goes. */
async function rewrite(/** @type {number} */ times) {
  for (let n = 0; n < times; n++) {
    await world.commit(`UPDATE todos SET title = 'superseded ${n}'; INSERT INTO todos VALUES ('gone${n}', 'l1', 'superseded')`);
    await world.commit(`DELETE FROM todos WHERE id LIKE 'gone%'`);
  }
  await world.commit(`UPDATE todos SET title = 'newest ' || id`);
}

/** The operations on todos and the kinds of all that a proxy has passed on. */
function sent(/** @type {import('../harness/line_proxy.js').LineProxy} */ proxy) {
  const lines = proxy.streams.flatMap((stream) => stream.lines);
  const data = lines.filter((line) => kind(line) === 'data').flatMap((line) => JSON.parse(line).data.data);
  const completions = lines.filter((line) => kind(line) === 'checkpoint_complete').length;
  return { data, todos: data.filter(({ object_type }) => object_type === 'todos'), completions };
}

test('clients at every place of a hot bucket get its rows and no superseded version', async () => {
  const far = world.client('ann');
  await far.connect();
  await world.barrier(far);
  await far.db.disconnect();
  await rewrite(200);
  const near = world.client('ann');
  await near.connect();
  await world.barrier(near);
  await near.db.disconnect();
  await rewrite(2);

  const kinds = [];
  for (const [what, client] of /** @type {const} */ ([['far', far], ['near', near], ['new', undefined]])) {
    const proxy = await world.proxy();
    const coming = client
      ? world.adopt(await client.reopened({ endpoint: proxy.url }))
      : world.client('ann', { endpoint: proxy.url });
    await coming.connect();
    await world.barrier(coming);
    await assertOracle(world, coming);
    const { data, todos, completions } = sent(proxy);
    assert.ok(completions > 0, `${what}: checkpoints are completed`);
    assert.equal(proxy.streams.length, 1, `${what}: no checkpoint was refused`);
    const puts = todos.filter(({ op }) => op === 'PUT').map(({ object_id }) => object_id);
    assert.deepEqual([...puts].sort(), Array.from({ length: ROWS }, (_, i) => `t${i + 1}`).sort(), what);
    assert.ok(!JSON.stringify(data).includes('superseded'), `${what}: nothing superseded`);
    kinds.push(new Set(data.map(({ op }) => op)));
  }
  const [farKinds, nearKinds, newKinds] = kinds;
  assert.ok(farKinds.has('CLEAR'), 'who missed more than is remembered starts again');
  assert.ok(!nearKinds.has('CLEAR') && nearKinds.has('MOVE'), 'who missed little goes on');
  assert.ok(!newKinds.has('CLEAR') && !newKinds.has('REMOVE'), 'a new client is told nothing of what is gone');
});
