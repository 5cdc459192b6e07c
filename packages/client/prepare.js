/**
 * Compiles the package into `dist`, whoever asks: `npm ci` in the root of the repository, `npm pack`
 * in this folder, `npm install` of this folder from an app. What the compiler needs is named by the
 * root's lock file, and is installed there if it is not yet; nothing is installed into the app.
 */
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const here = fileURLToPath(new URL('.', import.meta.url));
const root = path.join(here, '../..');

function compiler() {
  try {
    import.meta.resolve('@powersync/common');
    return createRequire(import.meta.url).resolve('typescript/bin/tsc');
  } catch {
    return null;
  }
}

if (compiler() === null) {
  if (!fs.existsSync(path.join(root, 'package-lock.json'))) {
    console.error('@headwater/client is compiled inside of its repository: clone it whole, or take the packed .tgz');
    process.exit(1);
  }
  console.error('@headwater/client: installing its compiler into the repository');
  // Another package's npm is running this one, with settings of its own.
  const foreign = ([name]) => !/^npm_(config_(local_|global_)?prefix|config_global|config_workspace|package_|lifecycle_)/.test(name);
  const env = Object.fromEntries(Object.entries(process.env).filter(foreign));
  execFileSync('npm', ['ci', '--ignore-scripts', '--no-audit', '--no-fund'], {
    cwd: root,
    env,
    stdio: ['ignore', 'inherit', 'inherit'],
  });
}
execFileSync(process.execPath, [compiler(), '-p', here], { stdio: 'inherit' });
