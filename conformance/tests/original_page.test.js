/**
 * The original hooks, unmodified, in a real browser: what two users of an IHP application see in two tabs.
 */

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';

import { browser } from '../harness/browser.js';
import { ANN, BOB, IhpWorld } from '../harness/ihp.js';
import { IhpPages, says, shows } from '../harness/ihp_pages.js';
import { originalModules } from '../harness/original.js';
import { TcpProxy } from '../harness/tcp_proxy.js';

const skip = browser || process.env.CI ? false : 'there is no browser here; scripts/setup test installs one';

/** @type {IhpWorld} */
let world;
/** @type {IhpPages} */
let pages;

before(async () => {
  if (skip) return;
  world = await IhpWorld.start({
    before: `INSERT INTO tasks (user_id, title, created_at) VALUES ('${ANN}', 'apples', '2024-01-01'), ('${ANN}', 'zebra', '2024-01-02'), ('${BOB}', 'pears', '2024-01-03')`,
  });
  pages = await IhpPages.start('original.js', originalModules());
});

after(async () => {
  if (skip) return;
  try {
    await pages.close();
  } finally {
    await world.close();
  }
});

test('issue_6_7_the_original_hooks_show_each_user_his_rows', { skip }, async () => {
  const proxy = await TcpProxy.start(world.server.url);
  try {
    const ann = await pages.open(ANN, proxy.url);
    const bob = await pages.open(BOB, world.server.url);
    await ann.until(`${shows('apples,zebra')} && ${says('newest', 'zebra')} && ${says('state', 'online 2')}`);
    await bob.until(`${shows('pears')} && ${says('newest', 'pears')} && ${says('state', 'online 1')}`);

    await world.sql.query(`UPDATE tasks SET user_id = '${BOB}' WHERE title = 'zebra'`);
    await ann.until(`${shows('apples')} && ${says('newest', 'apples')} && ${says('state', 'online 1')}`);
    await bob.until(`${shows('pears,zebra')} && ${says('newest', 'pears')} && ${says('state', 'online 2')}`);
    await bob.ask(`(async () => {
      const { id } = await app.createRecord('tasks', { title: 'figs' });
      await app.updateRecord('tasks', id, { isCompleted: true, title: 'dates' });
      const [pears] = await app.query('tasks').where('title', 'pears').fetch();
      await app.deleteRecord('tasks', pears.id);
    })()`);
    await bob.until(`${shows('dates,zebra')} && ${says('newest', 'dates')} && ${says('state', 'online 1')}`);

    proxy.isOpen = false;
    proxy.cut();
    await ann.until(`document.querySelector('#state').textContent.startsWith('offline')`);
    await world.sql.query(`UPDATE tasks SET user_id = '${ANN}' WHERE title = 'dates'`);
    proxy.isOpen = true;
    await ann.until(`${shows('apples,dates')} && ${says('newest', 'dates')} && ${says('state', 'online 1')}`);
    await bob.until(`${shows('zebra')} && ${says('newest', 'zebra')} && ${says('state', 'online 1')}`);
    assert.ok(proxy.connections >= 2);
  } finally {
    await proxy.close();
  }
});
