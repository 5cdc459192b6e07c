/** A small application with our hooks, for `tests/live_page.test.js`. What it is told stands in its address. */

import { createElement as h, Suspense } from 'react';
import { createRoot } from 'react-dom/client';

import { createRecord, initHeadwater, liveClient, query, updateRecord } from '@headwater/client/live';
import { sharedEnvironment } from '@headwater/client/live-shared';
import { useCount, useCurrentUser, useIsConnected, useIsLoggedIn, useQuery, useSuspenseQuery } from '@headwater/react';

const options = new URLSearchParams(location.search);
const place = `token of ${options.get('tab')}`;

initHeadwater({
  host: options.get('host'),
  token: () => sessionStorage.getItem(place) ?? options.get('token'),
  ...(options.has('shared') ? { environment: sharedEnvironment() } : {}),
});

function Tasks() {
  const tasks = useQuery(query('tasks').orderBy('title'));
  if (tasks === null) return h('p', { id: 'loading' }, 'loading');
  return h('ul', { id: 'tasks' }, tasks.map(({ id, title }) => h('li', { key: id }, title)));
}

function Newest() {
  const [newest] = useSuspenseQuery(query('tasks').orderByDesc('createdAt').limit(1));
  return h('p', { id: 'newest' }, newest?.title ?? 'none');
}

function App() {
  const [me, isLoggedIn, isConnected, count] = [useCurrentUser(), useIsLoggedIn(), useIsConnected(), useCount(query('tasks'))];
  return h('main', null,
    h('p', { id: 'who' }, me?.name ?? String(isLoggedIn)),
    h('p', { id: 'state' }, isConnected ? 'online' : 'offline'),
    h('p', { id: 'count' }, String(count)),
    h(Tasks),
    h(Suspense, { fallback: h('p', { id: 'newest' }, 'suspended') }, h(Newest)),
  );
}

globalThis.app = {
  createRecord,
  updateRecord,
  signIn: (token) => {
    sessionStorage.setItem(place, token);
    return liveClient().refreshToken();
  },
};
createRoot(document.querySelector('#root')).render(h(App));
