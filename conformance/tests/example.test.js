/**
 * The example client, as the README has it: a change made in SQL arrives in the local SQLite, and
 * a write made offline arrives in Postgres.
 */

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';

import { token } from '../harness/token.js';
import { SAMPLE_WORLD, World } from '../harness/world.js';

const EXAMPLE = fileURLToPath(new URL('../example.js', import.meta.url));
const LIST = '00000000-0000-4000-8000-000000000001';
const TODO = '00000000-0000-4000-8000-000000000002';

/** @type {World} */
let world;

before(async () => {
  world = await World.start({
    ...SAMPLE_WORLD,
    before: `INSERT INTO lists (id, owner_id, name) VALUES ('${LIST}', 'ann', 'Groceries');
      INSERT INTO todos (id, list_id, description) VALUES ('${TODO}', '${LIST}', 'Milk')`,
  });
});
after(() => world.close());

test('the example client shows a change made in SQL and uploads what was written offline', async () => {
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'hw-example-'));
  const file = path.join(directory, 'client.db');
  const child = spawn(process.execPath, [EXAMPLE, '--endpoint', world.server.url, '--token', token('ann'), '--file', file]);
  child.stderr.pipe(process.stderr);
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  /** The next line that says this; earlier ones are skipped. */
  const said = async (/** @type {string} */ text) => {
    for (;;) {
      const { value, done } = await lines.next();
      assert.ok(!done, `the client ended before it said "${text}"`);
      if (value.includes(text)) return value;
    }
  };
  const type = (/** @type {string} */ text) => child.stdin.write(`${text}\n`);
  try {
    await said('[ ] Groceries: Milk');
    await world.commit(`UPDATE todos SET completed = true WHERE id = '${TODO}'`);
    await said('[x] Groceries: Milk');

    type('offline');
    await said('offline');
    type('add Bread and butter');
    await said('Groceries: Bread and butter');
    assert.deepEqual(await world.ask(`SELECT * FROM todos WHERE description LIKE 'Bread%'`), []);

    type('frobnicate');
    await said('"frobnicate" is no word of mine');
    type('online');
    await said('online');
    await said('your change has arrived in Postgres');
    // A write that comes back through Postgres: the new row is theirs to change.
    const { rows } = await until(() => world.sql.query(`UPDATE todos SET description = 'Rye bread'
      WHERE description = 'Bread and butter' RETURNING id`));
    assert.equal(rows.length, 1);
    await said('Groceries: Rye bread');

    const ended = once(child, 'exit');
    type('quit');
    assert.deepEqual(await ended, [0, null]);
  } finally {
    child.kill('SIGKILL');
    fs.rmSync(directory, { recursive: true, force: true });
  }
});

test('fd_69 the example client ends at the end of its input, and what was typed arrives', async () => {
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'hw-example-'));
  const file = path.join(directory, 'client.db');
  const run = (/** @type {string} */ input) => {
    const child = spawn(process.execPath, [EXAMPLE, '--endpoint', world.server.url, '--token', token('ann'), '--file', file]);
    child.stderr.pipe(process.stderr);
    child.stdin.end(input);
    let output = '';
    child.stdout.on('data', (text) => (output += text));
    return once(child, 'exit').then((exit) => ({ exit, output }));
  };
  try {
    assert.deepEqual((await run('')).exit, [0, null]);
    const offline = await run('offline\n');
    assert.deepEqual(offline.exit, [0, null]);
  } finally {
    fs.rmSync(directory, { recursive: true, force: true });
  }
});

/** Asks Postgres until something was found; it has no notification for us. */
async function until(/** @type {() => Promise<import('pg').QueryResult>} */ ask) {
  for (;;) {
    const result = await ask();
    if (result.rowCount) return result;
  }
}
