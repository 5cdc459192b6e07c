/**
 * Runs the suite: `npm test`, `npm test -- tests/live.test.js`,
 * `npm test -- --test-name-pattern=priority`.
 *
 * In: the arguments, `HEADWATER_BIN` (default: the debug build), `CONFORMANCE_FULL=1` for the long
 * forms, `HEADWATER_TEST_MAJOR` for another Postgres. Out: the output of Node's test runner, and its
 * exit code. One Postgres serves the whole run; every test file has a database and a server.
 *
 * This file itself runs on any Node from 18 on and needs no package: it first sees to both.
 */

import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const HERE = fileURLToPath(new URL('.', import.meta.url));
const REPOSITORY = path.dirname(path.resolve(HERE));
/** better-sqlite3's prebuilt library crashes on older ones. */
const LEAST_NODE = 22;
/** A file of tests that takes longer than this hangs. */
const LIMIT_MS = 240_000;

/** The Node that runs the tests: this one, or one from npm beside those of `scripts/setup`. */
function ensureNode() {
  if (Number(process.versions.node.split('.')[0]) >= LEAST_NODE) return process.execPath;
  const place = path.join(REPOSITORY, '.cache/node');
  const name = `node-${process.platform}-${process.arch}`;
  const node = path.join(place, 'node_modules', name, 'bin/node');
  if (!fs.existsSync(node)) {
    forbidOffline(`Node ${LEAST_NODE}`);
    console.error(`conformance: will install Node ${LEAST_NODE} from npm into .cache/node (this is ${process.version})`);
    fs.mkdirSync(place, { recursive: true });
    npm(['install', '--silent', '--no-save', '--ignore-scripts', '--prefix', place, `${name}@${LEAST_NODE}`, 'npm@10']);
  }
  return node;
}

/** Installs what `package-lock.json` names, if that was not done since the lock last changed. */
function ensurePackages() {
  const modules = path.join(REPOSITORY, 'node_modules');
  const stamp = path.join(modules, '.headwater-setup');
  const lock = createHash('sha256').update(fs.readFileSync(path.join(REPOSITORY, 'package-lock.json'))).digest('hex');
  if (fs.existsSync(stamp) && fs.readFileSync(stamp, 'utf8').trim() === lock) return;
  forbidOffline('what package-lock.json names');
  console.error('conformance: will install the packages that package-lock.json names');
  npm(['ci', '--silent', '--ignore-scripts', '--prefix', REPOSITORY]);
  fs.writeFileSync(stamp, `${lock}\n`);
}

/** Compiles our own client package, which the suite uses as an application would, when it changed. */
function ensureClient() {
  const client = path.join(REPOSITORY, 'packages/client');
  const newest = (/** @type {string} */ folder) =>
    Math.max(0, ...fs.readdirSync(folder).map((name) => fs.statSync(path.join(folder, name)).mtimeMs));
  const dist = path.join(client, 'dist/index.js');
  if (fs.existsSync(dist) && fs.statSync(dist).mtimeMs > newest(path.join(client, 'src'))) return;
  npm(['run', '--silent', '--prefix', client, 'build']);
}

function forbidOffline(/** @type {string} */ what) {
  if (process.env.HEADWATER_OFFLINE !== '1') return;
  console.error(`conformance: ${what} is missing and HEADWATER_OFFLINE=1`);
  process.exit(2);
}

function npm(/** @type {string[]} */ args) {
  execFileSync('npm', args, { stdio: ['ignore', 'inherit', 'inherit'] });
}

const node = ensureNode();
ensurePackages();
ensureClient();
if (node !== process.execPath) {
  // Debian's Node trusts the system's certificates; the one from npm is not used to fetch anything.
  const again = spawnSync(node, [fileURLToPath(import.meta.url), ...process.argv.slice(2)], { stdio: 'inherit' });
  process.exit(again.status ?? 1);
}

const { Postgres } = await import('./harness/postgres.js');
const given = process.argv.slice(2);
const flags = given.filter((argument) => argument.startsWith('-'));
const named = given.filter((argument) => !argument.startsWith('-'));
const files =
  named.length > 0
    ? named.map((name) => path.resolve(name))
    : fs.globSync('tests/*.test.js', { cwd: HERE }).sort().map((name) => path.join(HERE, name));

const cluster = await Postgres.start();
let code = 1;
try {
  const runner = spawn(
    process.execPath,
    [
      '--test',
      '--test-reporter=spec',
      '--test-concurrency=2',
      `--test-timeout=${LIMIT_MS * (process.env.CONFORMANCE_FULL ? 20 : 1)}`,
      ...flags,
      ...files,
    ],
    { stdio: 'inherit', cwd: HERE, env: { ...process.env, CONFORMANCE_POSTGRES: cluster.url, NO_PROXY: '127.0.0.1' } },
  );
  for (const signal of /** @type {const} */ (['SIGINT', 'SIGTERM'])) process.on(signal, () => runner.kill(signal));
  code = await new Promise((resolve) => runner.on('exit', (status) => resolve(status ?? 1)));
} finally {
  await cluster.stop();
}
process.exit(code);
