/** What `npm pack` makes is what the README tells people to install. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';

const HERE = fileURLToPath(new URL('..', import.meta.url));

test('fd_68 the packed package has what its exports name, compiled by itself', () => {
  const packed = execFileSync('npm', ['pack', '--dry-run', '--json'], { cwd: HERE, encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] });
  // npm prints what the scripts say before it.
  const [{ name, files }] = JSON.parse(packed.slice(packed.indexOf('[\n')));
  const paths = files.map((file) => file.path);
  assert.equal(name, '@headwater/client');
  for (const path of ['dist/index.js', 'dist/index.d.ts', 'README.md']) {
    assert.ok(paths.includes(path), `${path} in ${paths}`);
  }
  assert.ok(!paths.some((path) => path.startsWith('src/')), paths.join());
});
