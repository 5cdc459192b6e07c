/** What applications take in with live queries: few bytes, no dependency, types that check. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import vm from 'node:vm';
import { gzipSync } from 'node:zlib';
import { build } from 'esbuild';

const PACKAGE = fileURLToPath(new URL('../..', import.meta.url));
const LIMIT_BYTES = 15_000;

async function bundled(contents) {
  const { outputFiles } = await build({
    stdin: { contents, resolveDir: PACKAGE },
    bundle: true,
    minify: true,
    format: 'esm',
    target: 'es2022',
    write: false,
    logLevel: 'error',
  });
  return outputFiles[0].text;
}

test('issue_6_4_live_queries_are_under_15_kb_compressed', async () => {
  const everything = gzipSync(await bundled(`export * from './dist/live/index.js'`)).length;
  assert.ok(everything < LIMIT_BYTES, `${everything} bytes`);
  const query = gzipSync(await bundled(`export { query, initHeadwater } from './dist/live/index.js'`)).length;
  assert.ok(query < everything, `${query} of ${everything} bytes: what is not used is left out`);
});

test('issue_6_4_it_needs_nothing_of_a_browser_but_sockets_and_timers', async () => {
  // As in React Native: no window, document, localStorage, events of the network, channels, workers, and no `crypto`.
  const sent = [];
  class Socket {
    constructor(url) {
      sent.push(new URL(url).pathname);
      setTimeout(() => this.onopen?.({}));
    }
    send(text) {
      const { tag, requestId, query } = JSON.parse(text);
      sent.push(`${tag} ${query?.table ?? ''}`.trim());
      const answer = tag === 'CreateDataSubscription' ? { tag: 'DidCreateDataSubscription', subscriptionId: 's', result: [{ id: '1' }] } : { tag: 'DidCreateRecord', record: { id: '2' } };
      setTimeout(() => this.onmessage?.({ data: JSON.stringify({ ...answer, requestId }) }));
    }
    close() {}
  }
  const shown = [];
  const app = await bundled(`
    import { createRecord, initHeadwater, liveClient, query } from './dist/live/index.js';
    initHeadwater({ host: 'http://server' });
    query('tasks').subscribe((rows) => show(rows.map(({ id }) => id).join()));
    globalThis.made = createRecord('tasks', { title: 'a' }).then(({ id }) => { liveClient().close(); return id; });
  `);
  // Nothing is left out by Metro, so that no file that is imported may have what Hermes cannot read.
  assert.ok(!(await bundled(`import * as live from './dist/live/index.js'; show(live)`)).includes('import.meta'));
  const world = vm.createContext({ WebSocket: Socket, setTimeout, clearTimeout, show: (ids) => shown.push(ids) });
  vm.runInContext(app, world);
  assert.equal(await world.made, '2');
  assert.deepEqual(sent, ['/DataSyncController', 'CreateDataSubscription tasks', 'CreateRecordMessage']);
  assert.ok(shown[0].startsWith('1'), String(shown));
});

test('what is imported and not used leaves nothing', async () => {
  assert.equal((await bundled(`import './dist/live/index.js'`)).trim(), '');
});

test('the connector and live queries know nothing of each other, and neither of other packages', async () => {
  assert.ok(!(await bundled(`export * from './dist/live/index.js'`)).includes('powersync'));
  const { dependencies } = JSON.parse(fs.readFileSync(path.join(PACKAGE, 'package.json'), 'utf8'));
  assert.equal(dependencies, undefined);
});

/** Compiles a file as an application would, by what the package exports. */
function compile(source) {
  const place = fs.mkdtempSync(path.join(os.tmpdir(), 'headwater-types-'));
  try {
    fs.mkdirSync(path.join(place, 'node_modules/@headwater'), { recursive: true });
    fs.symlinkSync(PACKAGE, path.join(place, 'node_modules/@headwater/client'));
    fs.writeFileSync(path.join(place, 'app.ts'), source);
    const options = ['--strict', '--noEmit', '--module', 'nodenext', '--target', 'es2022', '--lib', 'es2023,dom'];
    const tsc = fileURLToPath(import.meta.resolve('typescript/lib/tsc.js'));
    execFileSync(process.execPath, [tsc, ...options, 'app.ts'], { cwd: place, encoding: 'utf8' });
    return '';
  } catch (error) {
    return error.stdout;
  } finally {
    fs.rmSync(place, { recursive: true, force: true });
  }
}

test('ds_19_without_generated_types_every_name_goes', () => {
  const errors = compile(`
    import { query, createRecord, where, and, eq } from '@headwater/client/live';
    const rows: Promise<{ id: string }[]> = query('anything').where('some', 1).where({ other: null }).orderBy('field').fetch();
    query('anything').where(where('a', 1).or(and(eq('b', 2)))).subscribe((rows) => rows[0]?.anything);
    createRecord('anything', { whatever: new Date() });
    export { rows };
  `);
  assert.equal(errors, '');
});

test('ds_20_with_generated_types_tables_fields_and_values_are_checked', () => {
  const errors = compile(`
    import { query, createRecord, updateRecord, type UUID } from '@headwater/client/live';
    declare module '@headwater/client/live' {
      interface Task { id: UUID; title: string; n: number; doneAt: string | null; }
      interface NewTask { id?: UUID; title: string; n?: number; doneAt?: string | null; }
      interface TableRegistry { tasks: Task; }
      interface NewRecordRegistry { tasks: NewTask; }
    }
    async function app() {
      const tasks = await query('tasks').where('n', 1).whereIn('title', ['a']).whereGreaterThan('doneAt', new Date()).orderByDesc('title').fetch();
      const n: number = tasks[0]!.n;
      const [one] = await query('tasks').select('title').fetch();
      const title: string | undefined = one?.title;
      const first: { title: string } | null = await query('tasks').fetchOne();
      const groups = await query('tasks').groupBy('title').aggregate({ tasks: 'count', sum: { sum: 'n' }, last: { max: 'doneAt' } }).fetch();
      const group: { title: string; tasks: number; sum: number | null; last: string | null } | undefined = groups[0];
      const all = await query('tasks').where('n', 1).aggregate({ mean: { avg: 'n' } }).fetch();
      const mean: number | null | undefined = all[0]?.mean;
      // @ts-expect-error no such field
      query('tasks').groupBy('titel');
      // @ts-expect-error no such field
      query('tasks').aggregate({ sum: { sum: 'm' } });
      // @ts-expect-error no such function
      query('tasks').aggregate({ sum: { median: 'n' } });
      // @ts-expect-error it is not computed
      all[0]?.sum;
      const made = await createRecord('tasks', { title: 'a', doneAt: new Date() });
      await updateRecord('tasks', made.id, { n: 2, doneAt: null });
      // @ts-expect-error no such table
      query('task');
      // @ts-expect-error no such field
      query('tasks').where('titel', 'a');
      // @ts-expect-error not a number
      query('tasks').where('n', 'one');
      // @ts-expect-error it was not selected
      one?.n;
      // @ts-expect-error the title is missing
      await createRecord('tasks', { n: 1 });
      // @ts-expect-error not a number
      await updateRecord('tasks', made.id, { n: 'two' });
      return [n, title, first, group, mean];
    }
    export { app };
  `);
  assert.equal(errors, '');
});
