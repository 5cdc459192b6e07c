/**
 * What must be there before a program of this folder can run: a Node that is new enough, the
 * packages of `package-lock.json`, and our own packages, compiled.
 *
 * This file runs on any Node from 18 on and needs no package. It installs into `.cache/node` and
 * `node_modules` of the repository and says so; `HEADWATER_OFFLINE=1` forbids it.
 */

import { execFileSync, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const REPOSITORY = fileURLToPath(new URL('..', import.meta.url));
/** better-sqlite3's prebuilt library crashes on older ones. */
const LEAST_NODE = 22;

/**
 * Prepares everything. On a Node that is too old the program is started again on a newer one, and
 * this call does not return.
 * @param {string} program `import.meta.url` of the program that calls
 */
export function prepare(program) {
  const node = ensureNode();
  ensurePackages();
  ensureOwn();
  if (node === process.execPath) return;
  const again = spawnSync(node, [fileURLToPath(program), ...process.argv.slice(2)], { stdio: 'inherit' });
  process.exit(again.status ?? 1);
}

/** This Node, or one from npm where `scripts/setup` puts it too. */
function ensureNode() {
  if (Number(process.versions.node.split('.')[0]) >= LEAST_NODE) return process.execPath;
  const place = path.join(REPOSITORY, '.cache/node');
  const name = `node-${process.platform}-${process.arch}`;
  const node = path.join(place, 'node_modules', name, 'bin/node');
  if (!fs.existsSync(node)) {
    announce(`Node ${LEAST_NODE} from npm into .cache/node (this is ${process.version})`);
    fs.mkdirSync(place, { recursive: true });
    npm(['install', '--silent', '--no-save', '--ignore-scripts', '--prefix', place, `${name}@${LEAST_NODE}`, 'npm@10']);
  }
  return node;
}

/** The packages, if they were not installed since the lock file last changed. */
function ensurePackages() {
  const modules = path.join(REPOSITORY, 'node_modules');
  const stamp = path.join(modules, '.headwater-setup');
  const lock = createHash('sha256').update(fs.readFileSync(path.join(REPOSITORY, 'package-lock.json'))).digest('hex');
  if (fs.existsSync(stamp) && fs.readFileSync(stamp, 'utf8').trim() === lock) return;
  announce('what package-lock.json names');
  npm(['ci', '--silent', '--ignore-scripts', '--prefix', REPOSITORY]);
  fs.writeFileSync(stamp, `${lock}\n`);
}

/** Our own packages, if their sources are newer than what was compiled. The hooks are compiled against the client. */
function ensureOwn() {
  for (const name of ['client', 'react']) {
    const place = path.join(REPOSITORY, 'packages', name);
    const sources = path.join(place, 'src');
    const files = /** @type {string[]} */ (fs.readdirSync(sources, { recursive: true }));
    const newest = Math.max(...files.map((file) => fs.statSync(path.join(sources, file)).mtimeMs));
    const compiled = path.join(place, 'dist/index.js');
    if (fs.existsSync(compiled) && fs.statSync(compiled).mtimeMs > newest) continue;
    npm(['run', '--silent', '--prefix', place, 'build']);
  }
}

function announce(/** @type {string} */ what) {
  if (process.env.HEADWATER_OFFLINE === '1') {
    console.error(`${what} is missing and HEADWATER_OFFLINE=1`);
    process.exit(2);
  }
  console.error(`will install ${what}`);
}

function npm(/** @type {string[]} */ args) {
  execFileSync('npm', args, { stdio: ['ignore', 'inherit', 'inherit'] });
}
