/** What `npm pack` makes is what the README tells people to install. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { after, test } from 'node:test';
import { fileURLToPath } from 'node:url';

const HERE = fileURLToPath(new URL('..', import.meta.url));
const place = fs.mkdtempSync(path.join(os.tmpdir(), 'headwater-client-'));
after(() => fs.rmSync(place, { recursive: true, force: true }));

function npm(/** @type {string} */ cwd, /** @type {string[]} */ ...args) {
  return execFileSync('npm', args, { cwd, encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] });
}

function pack() {
  const said = npm(HERE, 'pack', '--json', '--pack-destination', place);
  // npm prints what the scripts say before it.
  return JSON.parse(said.slice(said.indexOf('[\n')))[0];
}

test('fd_68 the packed package has what its exports name, compiled by itself', () => {
  const { name, files } = pack();
  const paths = files.map((file) => file.path);
  assert.equal(name, '@headwater/client');
  for (const path of ['dist/index.js', 'dist/index.d.ts', 'README.md']) {
    assert.ok(paths.includes(path), `${path} in ${paths}`);
  }
  assert.ok(!paths.some((path) => path.startsWith('src/')), paths.join());
});

test('the packed package is installed without building anything', () => {
  const { filename } = pack();
  const app = path.join(place, 'app');
  fs.mkdirSync(app);
  fs.writeFileSync(path.join(app, 'package.json'), '{ "name": "app", "private": true }');
  // PowerSync's SDK is the app's to bring, and nothing else is needed from anywhere.
  npm(app, 'install', '--offline', '--legacy-peer-deps', path.join(place, filename));
  const installed = path.join(app, 'node_modules/@headwater/client');
  assert.ok(fs.existsSync(path.join(installed, 'dist/index.js')));
  const { scripts } = JSON.parse(fs.readFileSync(path.join(installed, 'package.json'), 'utf8'));
  for (const name of ['preinstall', 'install', 'postinstall', 'prepublish', 'preprepare', 'prepare', 'postprepare']) {
    assert.equal(scripts[name], undefined, name);
  }
});
