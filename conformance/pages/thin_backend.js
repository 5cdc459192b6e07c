/** A small application with the hooks of Thin Backend, for `tests/thin_backend.test.js`. What it is told stands in its address. */

import { createElement as h } from 'react';
import { createRoot } from 'react-dom/client';

import { initThinBackend, query } from 'thin-backend';
import { ThinBackend, useCurrentUserId, useIsConnected, useQuery, useQuerySingleResult } from 'thin-backend-react';

const options = new URLSearchParams(location.search);
localStorage.setItem('ihp_jwt', options.get('token'));
localStorage.setItem('ihp_user_id', options.get('user'));
initThinBackend({ host: options.get('host') });

function Tasks() {
  const tasks = useQuery(query('tasks').orderBy('createdAt'));
  if (tasks === null) return h('p', { id: 'loading' }, 'loading');
  return h('ul', { id: 'tasks' }, tasks.map(({ id, title }) => h('li', { key: id }, title)));
}

function Project() {
  const project = useQuerySingleResult(query('projects').where('userId', useCurrentUserId()));
  return h('p', { id: 'newest' }, project?.name ?? 'none');
}

function State() {
  return h('p', { id: 'state' }, useIsConnected() ? 'online' : 'offline');
}

createRoot(document.querySelector('#root')).render(h(ThinBackend, null, h(Tasks), h(Project), h(State)));
