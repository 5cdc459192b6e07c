/**
 * Runs the suite: `npm test`, `npm test -- tests/live.test.js`,
 * `npm test -- --test-name-pattern=priority`.
 *
 * In: the arguments, `HEADWATER_BIN` (default: the debug build), `CONFORMANCE_FULL=1` for the long
 * forms, `HEADWATER_TEST_MAJOR` for another Postgres, `HEADWATER_IHP_DATASYNC` for the original client.
 * Out: the output of Node's test runner, and its exit code. One Postgres serves the whole run; every test file has a database and a server.
 */

import { spawn } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

import { prepare } from './prepare.js';

const HERE = fileURLToPath(new URL('.', import.meta.url));
const { CONFORMANCE_FULL, HEADWATER_SOAK, HEADWATER_SEEDS } = process.env;
/** A file of tests that takes longer than this hangs. */
const LIMIT_MS = CONFORMANCE_FULL === '1' || HEADWATER_SOAK === '1' || HEADWATER_SEEDS ? 4_800_000 : 240_000;

prepare(import.meta.url);

const { Postgres } = await import('./harness/postgres.js');
const given = process.argv.slice(2);
const flags = given.filter((argument) => argument.startsWith('-'));
const named = given.filter((argument) => !argument.startsWith('-'));
const all = fs.readdirSync(path.join(HERE, 'tests')).filter((name) => name.endsWith('.test.js'));
const isOfOriginal = (/** @type {string} */ name) => name.startsWith('original');
const here = all.filter((name) => process.env.HEADWATER_IHP_DATASYNC || !isOfOriginal(name));
const files = named.length > 0 ? named : here.sort().map((name) => path.join('tests', name));
if (here.length < all.length && named.length === 0) {
  const left = all.filter(isOfOriginal).join(', ');
  console.error(`not in this run: ${left}: HEADWATER_IHP_DATASYNC names no folder with the original client`);
}

const cluster = await Postgres.start();
let code = 1;
try {
  const options = ['--test', '--test-reporter=spec', '--test-concurrency=2', `--test-timeout=${LIMIT_MS}`];
  const runner = spawn(process.execPath, [...options, ...flags, ...files], {
    stdio: 'inherit',
    cwd: HERE,
    env: { ...process.env, CONFORMANCE_POSTGRES: cluster.url, NO_PROXY: '127.0.0.1' },
  });
  for (const signal of /** @type {const} */ (['SIGINT', 'SIGTERM'])) process.on(signal, () => runner.kill(signal));
  code = await new Promise((resolve) => runner.on('exit', (status) => resolve(status ?? 1)));
} finally {
  await cluster.stop();
}
process.exit(code);
