/** A small application with the original hooks, for `tests/original_page.test.js`. What it is told stands in its address. */

import { createElement as h } from 'react';
import { createRoot } from 'react-dom/client';

import { createRecord, deleteRecord, initIHPBackend, query, updateRecord } from 'ihp-datasync';
import { useCount, useIsConnected, useQuery, useQuerySingleResult } from 'ihp-datasync/react';

const options = new URLSearchParams(location.search);
localStorage.setItem('ihp_jwt', options.get('token'));
initIHPBackend({ host: options.get('host') });

function Tasks() {
  const tasks = useQuery(query('tasks').orderBy('title'));
  if (tasks === null) return h('p', { id: 'loading' }, 'loading');
  return h('ul', { id: 'tasks' }, tasks.map(({ id, title }) => h('li', { key: id }, title)));
}

function Newest() {
  const newest = useQuerySingleResult(query('tasks').orderByDesc('createdAt'));
  return h('p', { id: 'newest' }, newest?.title ?? 'none');
}

function State() {
  const [isConnected, count] = [useIsConnected(), useCount(query('tasks').where('isCompleted', false))];
  return h('p', { id: 'state' }, `${isConnected ? 'online' : 'offline'} ${count}`);
}

globalThis.app = { createRecord, deleteRecord, updateRecord, query };
createRoot(document.querySelector('#root')).render(h('main', null, h(Tasks), h(Newest), h(State)));
