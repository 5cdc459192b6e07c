/** Hooks and shared sockets in a real browser, before a server in memory. */
import assert from 'node:assert/strict';
import http from 'node:http';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';
import { Browser, browser } from '../../../conformance/harness/browser.js';
import { startSocketServer } from '../../client/test/live/socket_server.js';
import { World } from '../../client/test/live/world.js';

// In CI a test that cannot run is a failure.
const skip = browser || process.env.CI ? false : 'there is no browser here; scripts/setup test installs one';
const SIZE = { width: 800, height: 600 };
const HTML = '<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,"><div id="root"></div><script type="module" src="/live.js"></script>';
const world = new World();
const open = new Set();
let server, pages, origin, chromium;

before(async () => {
  if (skip) return;
  server = await startSocketServer((socket, text) => {
    if (text === null) {
      socket.session = world.attach((message) => socket.send(message));
      socket.onend = () => {
        socket.session.end();
        open.delete(socket);
      };
      open.add(socket);
    } else socket.session.receive(text);
  });
  const { outputFiles } = await build({
    entryPoints: {
      live: fileURLToPath(new URL('../../../conformance/pages/live.js', import.meta.url)),
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
    const file = files.get(new URL(request.url, 'http://page').pathname);
    response.setHeader('content-type', file === undefined ? 'text/html' : 'text/javascript');
    response.end(file ?? HTML);
  });
  await new Promise((resolve) => pages.listen(0, '127.0.0.1', resolve));
  origin = `http://127.0.0.1:${pages.address().port}`;
  chromium = await Browser.start();
  chromium.expected.push(/WebSocket/);
});

after(async () => {
  if (skip) return;
  pages.close();
  pages.closeAllConnections();
  try {
    await chromium.close();
  } finally {
    await server.close();
  }
});

const jwt = (claims) => `h.${Buffer.from(JSON.stringify(claims)).toString('base64url')}.s`;
const LIST = `[...document.querySelectorAll('#tasks li')].map((one) => one.textContent).join()`;
const shows = (expected) => `document.querySelector('#tasks') && ${LIST} === ${JSON.stringify(expected)}`;
const says = (id, expected) => `document.querySelector('#${id}')?.textContent === ${JSON.stringify(expected)}`;

/** Waits for what happens at the server, which has no notification. */
async function until(what, condition) {
  for (const end = Date.now() + 20_000; !condition(); await new Promise((resolve) => setTimeout(resolve, 10))) {
    assert.ok(Date.now() < end, `never: ${what}`);
  }
}

let tabs = 0;
const page = (user, more = '') => {
  tabs += 1;
  return chromium.open(`${origin}/?tab=${tabs}&host=${encodeURIComponent(server.host)}&token=${jwt({ sub: user })}${more}`, SIZE);
};

test('a page shows rows, counts and who is signed in, and own writes at once', { skip }, async () => {
  world.commit([['users', 'ada', { name: 'Ada' }], ['tasks', '1', { title: 'a', createdAt: '2024-01-01' }]]);
  const ada = await page('ada');
  await ada.until(`${shows('a')} && ${says('who', 'Ada')} && ${says('count', '1')} && ${says('newest', 'a')} && ${says('state', 'online')}`);
  // Nothing is awaited between the write and the look.
  const seen = await ada.ask(`(app.updateRecord('tasks', '1', { title: 'b' }), new Promise((resolve) => setTimeout(() => resolve(${LIST}))))`);
  assert.equal(seen, 'b');
  await ada.ask(`app.createRecord('tasks', { id: '2', title: 'c', bad: true }).catch(() => {})`);
  await ada.until(shows('b'));
  world.commit([['tasks', '2', { title: 'c', createdAt: '2024-01-02' }]]);
  await ada.until(`${shows('b,c')} && ${says('count', '2')} && ${says('newest', 'c')}`);
  for (const socket of open) socket.cut();
  world.commit([['tasks', '2', null]]);
  await ada.until(`${shows('b')} && ${says('count', '1')} && ${says('state', 'online')}`);
  await ada.ask(`app.signIn(${JSON.stringify(jwt({ sub: 'nobody' }))})`);
  await ada.until(`${shows('b')} && ${says('who', 'true')}`);
  await ada.send('Page.close');
  await until('its socket ends with the page', () => open.size === 0);
});

test('tabs of one user have one socket, and a tab that is gone leaves nothing on it', { skip }, async () => {
  const [one, other] = [await page('ada', '&shared'), await page('ada', '&shared')];
  for (const tab of [one, other]) await tab.until(`${shows('b')} && ${says('who', 'Ada')}`);
  assert.equal(open.size, 1);
  const [{ subscriptions }] = world.sockets.slice(-1);
  const both = subscriptions.size;
  await one.ask(`app.createRecord('tasks', { id: '3', title: 'd' })`);
  for (const tab of [one, other]) await tab.until(shows('b,d'));
  await one.send('Page.close');
  await until('its subscriptions end with the page', () => subscriptions.size === both / 2);
  world.commit([['tasks', '3', null]]);
  await other.until(shows('b'));
  const stranger = await page('ben', '&shared');
  await stranger.until(shows('b'));
  assert.equal(open.size, 2, 'another user has a socket of his own');
});
