/**
 * The original client of IHP DataSync, from its public source, where that is on this machine:
 * `HEADWATER_IHP_DATASYNC` names the folder `ihp-datasync/data/DataSync` of a checkout of IHP. Nothing of
 * it is in this repository, and nothing of it is changed: esbuild reads its TypeScript as it stands.
 */

import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import process from 'node:process';

import { program } from './ihp.js';

/** The folder, if one is given. */
export const ORIGINAL = process.env.HEADWATER_IHP_DATASYNC;

/** What an application imports, and where that is. */
export function originalModules() {
  assert.ok(ORIGINAL, 'HEADWATER_IHP_DATASYNC names no folder');
  const file = (/** @type {string} */ name) => {
    const place = path.resolve(ORIGINAL, 'src', name);
    assert.ok(fs.existsSync(place), `${place} is missing: HEADWATER_IHP_DATASYNC must be ihp-datasync/data/DataSync of IHP`);
    return place;
  };
  return { 'ihp-datasync': file('index.ts'), 'ihp-datasync/react': file('react.ts') };
}

/** Its program, with all that it exports. */
export function originalProgram() {
  const imports = `export * from 'ihp-datasync'; export * from 'ihp-datasync/react';`;
  return program(imports, import.meta.dirname, originalModules());
}
