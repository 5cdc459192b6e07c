/**
 * Our hooks in a real browser: what two users see in two tabs while rows move between them, over an
 * offline time and a change of who is signed in; and tabs of one user on one socket.
 */

import assert from 'node:assert/strict';
import http from 'node:http';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';

import { build } from 'esbuild';

import { Browser, browser } from '../harness/browser.js';
import { LiveWorld } from '../harness/live.js';
import { token } from '../harness/token.js';

const SIZE = { width: 800, height: 600 };
// In CI a test that cannot run is a failure.
const skip = browser || process.env.CI ? false : 'there is no browser here; scripts/setup test installs one';
const HTML = '<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,"><div id="root"></div><script type="module" src="/live.js"></script>';

/** @type {LiveWorld} */
let world;
/** @type {Browser} */
let chromium;
/** @type {http.Server} */
let pages;
/** @type {string} */
let origin;
let tabs = 0;

before(async () => {
  if (skip) return;
  world = await LiveWorld.start({
    before: `
      INSERT INTO users VALUES ('ann', 'Ann'), ('bob', 'Bob');
      INSERT INTO tasks (owner_id, title, created_at) VALUES
        ('ann', 'Äpfel', '2024-01-01'), ('ann', 'zebra', '2024-01-02'), ('bob', 'pears', '2024-01-03')`,
  });
  const { outputFiles } = await build({
    entryPoints: {
      live: fileURLToPath(new URL('../pages/live.js', import.meta.url)),
      worker: fileURLToPath(import.meta.resolve('@headwater/client/live-worker')),
    },
    bundle: true,
    format: 'esm',
    outdir: '/',
    write: false,
    define: { 'process.env.NODE_ENV': '"development"' },
  });
  const files = new Map(outputFiles.map(({ path, text }) => [path, text]));
  pages = http.createServer((request, response) => {
    const file = files.get(new URL(request.url ?? '', 'http://page').pathname);
    response.setHeader('content-type', file === undefined ? 'text/html' : 'text/javascript');
    response.end(file ?? HTML);
  });
  await new Promise((resolve) => pages.listen(0, '127.0.0.1', () => resolve(undefined)));
  origin = `http://127.0.0.1:${/** @type {import('node:net').AddressInfo} */ (pages.address()).port}`;
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

/** @param {string} user @param {string} host */
async function open(user, host, more = '') {
  tabs += 1;
  const page = await chromium.open(`${origin}/?tab=${tabs}&host=${encodeURIComponent(host)}&token=${token(user)}${more}`, SIZE);
  await page.until(`document.querySelector('#tasks')`);
  return page;
}

const LIST = `[...document.querySelectorAll('#tasks li')].map((one) => one.textContent).join()`;
const shows = (/** @type {string} */ expected) => `${LIST} === ${JSON.stringify(expected)}`;
const says = (/** @type {string} */ id, /** @type {string} */ expected) => `document.querySelector('#${id}')?.textContent === ${JSON.stringify(expected)}`;

test('issue_6_7_a_row_that_moves_from_one_user_to_another_leaves_one_tab_and_comes_into_the_other', { skip }, async () => {
  const proxy = await world.proxy();
  const ann = await open('ann', proxy.url);
  const bob = await open('bob', world.server.url);
  await ann.until(shows('Äpfel,zebra'));
  await bob.until(shows('pears'));
  await ann.until(`${says('who', 'Ann')} && ${says('count', '2')} && ${says('newest', 'zebra')} && ${says('state', 'online')}`);

  await world.sql.query(`UPDATE tasks SET owner_id = 'bob' WHERE title = 'zebra'`);
  await ann.until(shows('Äpfel'));
  await bob.until(shows('pears,zebra'));
  await ann.until(`${says('count', '1')} && ${says('newest', 'Äpfel')}`);

  // Offline: what is there stays, and what happens meanwhile is there afterwards.
  proxy.isOpen = false;
  proxy.cut();
  await ann.until(says('state', 'offline'));
  await ann.until(shows('Äpfel'));
  await world.sql.query(`UPDATE tasks SET owner_id = 'ann' WHERE title = 'pears'`);
  await bob.until(shows('zebra'));
  proxy.isOpen = true;
  await ann.until(shows('Äpfel,pears'));

  // Another one signs in on the same page: nothing of the former stays.
  await ann.ask(`app.signIn(${JSON.stringify(token('bob'))})`);
  await ann.until(`${shows('zebra')} && ${says('who', 'Bob')}`);
  await world.sql.query(`UPDATE tasks SET title = 'zoo' WHERE title = 'zebra'`);
  for (const page of [ann, bob]) await page.until(shows('zoo'));
});

test('tabs of one user have one socket, and hear of each other', { skip }, async () => {
  const proxy = await world.proxy();
  const [one, other] = [await open('ann', proxy.url, '&shared'), await open('ann', proxy.url, '&shared')];
  await one.ask(`app.createRecord('tasks', { title: 'shared' })`);
  for (const page of [one, other]) await page.until(`${LIST}.includes('shared')`);
  assert.equal(proxy.connections, 1);
  proxy.cut();
  await world.sql.query(`UPDATE tasks SET title = 'all the same' WHERE title = 'shared'`);
  for (const page of [one, other]) await page.until(`${LIST}.includes('all the same')`);
  assert.equal(proxy.connections, 2);
  await world.sql.query(`DELETE FROM tasks WHERE title = 'all the same'`);
});
