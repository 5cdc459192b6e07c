/**
 * The original hooks, unmodified, in a real browser: what two users of an IHP application see in two tabs.
 */

import assert from 'node:assert/strict';
import http from 'node:http';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';

import { build } from 'esbuild';

import { Browser, browser } from '../harness/browser.js';
import { ANN, BOB, IhpWorld } from '../harness/ihp.js';
import { originalModules } from '../harness/original.js';
import { TcpProxy } from '../harness/tcp_proxy.js';
import { token } from '../harness/token.js';

const SIZE = { width: 800, height: 600 };
const skip = browser || process.env.CI ? false : 'there is no browser here; scripts/setup test installs one';
const HTML = '<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,"><div id="root"></div><script type="module" src="/original.js"></script>';

/** @type {IhpWorld} */
let world;
/** @type {Browser} */
let chromium;
/** @type {http.Server} */
let pages;
/** @type {string[]} The two users' origins: what is stored belongs to an origin. */
let origins;

before(async () => {
  if (skip) return;
  world = await IhpWorld.start({
    before: `INSERT INTO tasks (user_id, title, created_at) VALUES ('${ANN}', 'apples', '2024-01-01'), ('${ANN}', 'zebra', '2024-01-02'), ('${BOB}', 'pears', '2024-01-03')`,
  });
  const { outputFiles } = await build({
    entryPoints: [fileURLToPath(new URL('../pages/original.js', import.meta.url))],
    alias: originalModules(),
    // Its sources lie elsewhere; an application has one React.
    nodePaths: [fileURLToPath(new URL('../../node_modules', import.meta.url))],
    bundle: true,
    format: 'esm',
    outdir: '/',
    write: false,
    define: { 'process.env.NODE_ENV': '"development"' },
  });
  pages = http.createServer((request, response) => {
    const isProgram = new URL(request.url ?? '', 'http://page').pathname === '/original.js';
    response.setHeader('content-type', isProgram ? 'text/javascript' : 'text/html');
    response.end(isProgram ? outputFiles[0].text : HTML);
  });
  await new Promise((resolve) => pages.listen(0, '127.0.0.1', () => resolve(undefined)));
  const { port } = /** @type {import('node:net').AddressInfo} */ (pages.address());
  origins = [`http://127.0.0.1:${port}`, `http://localhost:${port}`];
  chromium = await Browser.start();
  // What a socket that is cut, or not let in, says of itself.
  chromium.expected.push(/WebSocket|ERR_CONNECTION/, /Download the React DevTools/);
});

after(async () => {
  if (skip) return;
  pages.close();
  pages.closeAllConnections();
  try {
    await chromium.close();
  } finally {
    await world.close();
  }
});

const LIST = `[...document.querySelectorAll('#tasks li')].map((one) => one.textContent).join()`;
const shows = (/** @type {string} */ expected) => `${LIST} === ${JSON.stringify(expected)}`;
const says = (/** @type {string} */ id, /** @type {string} */ expected) => `document.querySelector('#${id}')?.textContent === ${JSON.stringify(expected)}`;

test('issue_6_7_the_original_hooks_show_each_user_his_rows', { skip }, async () => {
  const proxy = await TcpProxy.start(world.server.url);
  const open = async (/** @type {string} */ user, /** @type {string} */ origin, /** @type {string} */ host) => {
    const page = await chromium.open(`${origin}/?host=${encodeURIComponent(host)}&token=${token(user)}`, SIZE);
    await page.until(`document.querySelector('#tasks')`);
    return page;
  };
  try {
    const ann = await open(ANN, origins[0], proxy.url);
    const bob = await open(BOB, origins[1], world.server.url);
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
