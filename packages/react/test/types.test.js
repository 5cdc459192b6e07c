/** Hooks know the types of the tables that they read. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';

const PACKAGE = fileURLToPath(new URL('..', import.meta.url));

/** Compiles a file as an application beside us would. */
function compile(source) {
  const place = fs.mkdtempSync(path.join(PACKAGE, '.types-'));
  try {
    fs.writeFileSync(path.join(place, 'app.tsx'), source);
    const options = ['--strict', '--noEmit', '--jsx', 'react-jsx', '--module', 'nodenext', '--target', 'es2022', '--lib', 'es2023,dom'];
    const tsc = fileURLToPath(import.meta.resolve('typescript/lib/tsc.js'));
    execFileSync(process.execPath, [tsc, ...options, 'app.tsx'], { cwd: place, encoding: 'utf8' });
    return '';
  } catch (error) {
    return error.stdout;
  } finally {
    fs.rmSync(place, { recursive: true, force: true });
  }
}

test('ds_20_rows_of_hooks_have_the_generated_types', () => {
  const errors = compile(`
    import { query, type UUID } from '@headwater/client/live';
    import { HeadwaterProvider, ThinBackend, useAggregate, useCount, useCurrentUser, useQuery, useQuerySingleResult, useQueryState, useSuspenseQuery } from '@headwater/react';
    import { LiveClient } from '@headwater/client/live';
    declare module '@headwater/client/live' {
      interface Task { id: UUID; title: string; n: number }
      interface User { id: UUID; name: string }
      interface TableRegistry { tasks: Task; users: User }
    }
    export function Tasks() {
      const tasks = useQuery(query('tasks').where('n', 1).orderBy('title'));
      const titles = useSuspenseQuery(query('tasks').select('title'));
      const one = useQuerySingleResult(query('tasks'));
      const { data, error } = useQueryState(query('tasks'));
      const count: number | null = useCount(query('tasks'));
      const groups = useAggregate(query('tasks').groupBy('title').aggregate({ sum: { sum: 'n' } }));
      const sum: number | null | undefined = groups?.[0]?.sum;
      const user = useCurrentUser();
      const name: string | undefined = user?.name;
      const n: number | undefined = one?.n;
      // @ts-expect-error it was not selected
      titles[0]?.n;
      // @ts-expect-error no such field
      tasks?.[0]?.titel;
      return <ul>{tasks?.map((task) => <li key={task.id}>{task.title}{n}{name}{count}{data?.length}{sum}{error?.message}</li>)}</ul>;
    }
    export const App = () => (
      <HeadwaterProvider client={new LiveClient({ host: 'http://live.test' })}>
        <ThinBackend requireLogin><Tasks /></ThinBackend>
      </HeadwaterProvider>
    );
  `);
  assert.equal(errors, '');
});
