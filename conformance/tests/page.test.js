/**
 * The page of `headwater dev` in a real browser: what it says of itself is so, what somebody writes
 * on it arrives, online or not, and it is fit for a phone.
 */

import assert from 'node:assert/strict';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';

import { Browser, browser } from '../harness/browser.js';
import { connect, freePort } from '../harness/postgres.js';
import { Guarded } from '../harness/process.js';
import { BINARY } from '../harness/server.js';

const DESKTOP = { width: 1280, height: 900 };
const PHONE = { width: 390, height: 844 };
/** Smaller than this is missed by fingers. */
const TOUCH_PX = 44;
// In CI a test that cannot run is a failure.
const skip = browser || process.env.CI ? false : 'there is no browser here; scripts/setup test installs one';

const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'hw-page-'));
const data = path.join(directory, 'data');
/** @type {string} */
let url;
/** @type {string[]} */
let command;
/** @type {Guarded} */
let dev;
/** @type {Browser} */
let chromium;
/** @type {import('pg').Client} */
let sql;

async function start() {
  dev = new Guarded(BINARY, command, { env: { PATH: process.env.PATH, HOME: directory } });
  await dev.line(/^ {2}page /);
}

async function stop() {
  await sql.end();
  await dev.signal('SIGTERM');
  assert.equal(await dev.ended, 0, dev.lines.join('\n'));
}

async function connectToItsPostgres() {
  const [host, port, , user, password] = fs.readFileSync(path.join(data, 'postgres.pass'), 'utf8').trim().split(':');
  sql = await connect(`postgres://${user}:${password}@${host}:${port}/sample`);
}

/** How many rows a query counts, once it is as many as expected. */
async function counts(/** @type {string} */ query, /** @type {number} */ expected) {
  for (const end = Date.now() + 20_000; ; await new Promise((resolve) => setTimeout(resolve, 25))) {
    const count = Number((await sql.query(query)).rows[0].count);
    if (count === expected) return;
    assert.ok(Date.now() < end, `${query}: ${count}, not ${expected}`);
  }
}

before(async () => {
  if (skip) return;
  const port = await freePort();
  url = `http://127.0.0.1:${port}/`;
  command = ['dev', '--data-dir', data, '--listen', `127.0.0.1:${port}`];
  await start();
  await connectToItsPostgres();
  chromium = await Browser.start();
  // While the server starts nothing is served yet.
  chromium.expected.push(/ 500 .*\/sync\/stream/);
});

after(async () => {
  if (skip) return;
  try {
    // The pages go first: they ask for the status, and would complain of a server that ends meanwhile.
    await chromium.close();
  } finally {
    await stop();
    fs.rmSync(directory, { recursive: true, force: true });
  }
});

/** @param {{width: number, height: number}} size */
async function open(size, as = '') {
  const page = await chromium.open(url + (as && `?as=${as}`), size);
  await page.until(`document.querySelector('#stream')?.textContent === 'Live'`);
  await page.until(`document.querySelector('#mine article')`);
  return page;
}

const text = (/** @type {string} */ selector) => `document.querySelector(${JSON.stringify(selector)}).innerText`;

test('it says who one is and what to try, and shows names', { skip }, async () => {
  const ada = await open(DESKTOP);
  assert.equal(await ada.ask(text('#who')), 'You are ada');
  assert.match(await ada.ask(text('#psql')), /^PGPASSFILE=.* psql -h 127\.0\.0\.1 .* -c 'UPDATE todos SET completed/);
  assert.deepEqual(await ada.ask(`[...document.querySelectorAll('#others a')].map((a) => a.getAttribute('href'))`), ['/?as=ben', '/?as=cleo']);

  const ben = await open(DESKTOP, 'ben');
  assert.equal(await ben.ask(text('#who')), 'You are ben');
  // ada's public list is there to read only.
  await ben.until(`${text('#shared')}.includes('ada’s Groceries')`);
  assert.equal(await ben.ask(`document.querySelectorAll('#shared button, #shared input:enabled').length`), 0);

  await sql.query(`UPDATE todos SET completed = true WHERE description = 'Apples' AND created_by = 'ada'`);
  for (const page of [ada, ben]) {
    await page.until(`${text('#changes')}.includes('Apples (Groceries): done')`);
    assert.doesNotMatch(await page.ask(text('#changes')), /[0-9a-f]{8}-/, 'ids are nobody’s names');
  }
});

test('what is written offline is kept, also over a reload, and sent when one is back', { skip }, async () => {
  const page = await open(DESKTOP);
  await page.click('#switch');
  await page.until(`${text('#stream')} === 'Offline, as you wished'`);
  await page.submit('#list-name', 'Written offline');
  await page.until(`${text('#mine')}.includes('Written offline')`);
  assert.match(await page.ask(text('#stream')), /1 change waits to be sent/);
  const card = `[...document.querySelectorAll('#mine article')].find((one) => one.innerText.includes('Written offline'))`;
  const field = await page.ask(`${card}.querySelector('input').id`);
  await page.submit(`#${field}`, 'And a todo');
  await page.until(`document.querySelector('#stream').textContent.includes('2 changes wait')`);
  await counts(`SELECT count(*) FROM lists WHERE name = 'Written offline'`, 0);
  await page.click('#switch');
  await counts(`SELECT count(*) FROM todos JOIN lists ON lists.id = list_id WHERE name = 'Written offline' AND lists.owner_id = 'ada'`, 1);
  await page.until(`document.querySelector('#stream').textContent === 'Live' && !document.querySelector('.waits')`);

  await page.click('#switch');
  await page.submit('#list-name', 'Written before a reload');
  await page.until(`document.querySelector('#stream').textContent.includes('1 change waits')`);
  await page.ask('location.reload()');
  await counts(`SELECT count(*) FROM lists WHERE name = 'Written before a reload'`, 1);
});

test('without a server it says so, knows no figures, and loses nothing', { skip }, async () => {
  const page = await open(DESKTOP);
  await page.until(`/ms|B/.test(${text('#lag')})`);
  chromium.expected.push(/ERR_CONNECTION_REFUSED|ERR_INCOMPLETE_CHUNKED|ERR_CONNECTION_RESET|503/);
  await stop();
  await page.until(`${text('#stream')}.startsWith('Not connected: the server ')`);
  await page.until(`${text('#lag')} === 'not known' && ${text('#clients')} === 'not known'`);
  assert.equal(await page.ask(text('#server')), 'the server does not answer');
  await page.submit('#list-name', 'Typed without a server');
  await page.until(`${text('#mine')}.includes('Typed without a server')`);
  await start();
  await connectToItsPostgres();
  await counts(`SELECT count(*) FROM lists WHERE name = 'Typed without a server'`, 1);
  await page.until(`${text('#stream')} === 'Live' && !document.querySelector('.waits')`);
  await page.until(`${text('#mine')}.includes('Typed without a server')`);
});

test('what is deleted can be had back, and what Postgres refuses is taken back', { skip }, async () => {
  const page = await open(DESKTOP);
  const before = await page.ask(`document.querySelectorAll('#mine li').length`);
  const [list] = (await sql.query(`SELECT id, (SELECT count(*) FROM todos WHERE list_id = lists.id) AS todos
    FROM lists WHERE owner_id = 'ada' AND name = 'Groceries'`)).rows;
  assert.ok(list.todos > 0);
  await page.click('[aria-label="Delete the list Groceries"]');
  await counts(`SELECT count(*) FROM lists WHERE id = '${list.id}'`, 0);
  await page.click('#undo');
  await counts(`SELECT count(*) FROM todos WHERE list_id = '${list.id}'`, Number(list.todos));
  await page.until(`document.querySelectorAll('#mine li').length === ${before} && !document.querySelector('.waits')`);

  await page.ask(`write({ op: 'PUT', type: 'lists', id: uuid(), data: { name: 'Not mine', owner_id: 'ben' } })`);
  await page.until(`${text('#toast')}.includes('Postgres refused this')`);
  await page.until(`!${text('#content')}.includes('Not mine')`);
});

test('on a phone the lists come first and fingers hit what they aim at', { skip }, async () => {
  const page = await open(PHONE);
  assert.equal(await page.ask('document.documentElement.scrollWidth'), PHONE.width, 'nothing sticks out');
  const small = await page.ask(`[...document.querySelectorAll('button, a, summary, li label, input:not([type=checkbox])')]
    .filter((one) => one.offsetParent && !one.closest('.hidden'))
    .map((one) => [one.id || one.ariaLabel || one.textContent, one.getBoundingClientRect()])
    .filter(([, { width, height }]) => width < ${TOUCH_PX} || height < ${TOUCH_PX})
    .map(([name, { width, height }]) => name + ': ' + width + ' x ' + height)`);
  assert.deepEqual(small, []);
  const top = await page.ask(`document.querySelector('#mine article').getBoundingClientRect().top`);
  assert.ok(top < PHONE.height / 2, `the first list begins at ${top}`);
});
