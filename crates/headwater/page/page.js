// What the page shows, and what a person does on it.
'use strict';

const MOST_LISTS = 60;
const MOST_CHANGES = 50;
const TOAST_MS = 8000;

const $ = (id) => document.getElementById(id);

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function button(text, label, click, className = 'quiet') {
  const made = element('button', { type: 'button', className, textContent: text, ariaLabel: label });
  made.addEventListener('click', click);
  return made;
}

const text = (value) => String(value ?? '');
const by = (key) => (a, b) => text(a[key]).localeCompare(text(b[key])) || (a.id < b.id ? -1 : 1);
const mine = (list) => list.owner_id === user;

// ---- Who one is, and whether one is connected -----------------------------------------------

const STATES = {
  connecting: 'Connecting…',
  'catching up': 'Catching up…',
  live: 'Live',
  away: 'Not connected',
  offline: 'Offline, as you wished',
};

function showState() {
  const { state, why } = connection;
  const waits = waiting().length;
  const kept = waits === 0 ? '' : `${waits === 1 ? '1 change waits' : `${waits} changes wait`} to be sent`;
  const says = [why ? `${STATES[state]}: ${why}; trying again` : STATES[state], kept].filter(Boolean).join('. ');
  if ($('stream').textContent !== says) $('stream').textContent = says;
  $('state').dataset.state = state;
  $('switch').textContent = wanted ? 'Go offline' : 'Go online';
}

$('switch').addEventListener('click', () => goOnline(!wanted));

function showSession() {
  const { sub, users, psql } = session;
  $('me').textContent = sub;
  $('who').hidden = false;
  document.title = `${sub} on Headwater`;
  $('try').hidden = !psql;
  if (!psql) return;
  $('psql').textContent = `${psql} -c 'UPDATE todos SET completed = NOT completed'`;
  $('others').replaceChildren(...users.filter((user) => user !== sub).flatMap((user, at) => [
    at ? ' or ' : '', element('a', { href: `/?as=${encodeURIComponent(user)}`, target: `as-${user}`, textContent: user }),
  ]));
}

$('copy').addEventListener('click', async () => {
  try {
    await navigator.clipboard.writeText($('psql').textContent);
    toast('Copied.');
  } catch {
    getSelection().selectAllChildren($('psql'));
  }
});

// Elsewhere than on the machine of the server a person brings the token.
told.signIn = () => new Promise((done) => {
  $('sign-in').hidden = false;
  $('sign-in').onsubmit = (event) => {
    event.preventDefault();
    const token = $('token').value.trim();
    let sub = '';
    try {
      sub = text(JSON.parse(atob(token.split('.')[1].replace(/-/g, '+').replace(/_/g, '/'))).sub);
    } catch { /* The server says what is wrong with it. */ }
    $('token').value = '';
    $('sign-in').hidden = true;
    done({ token, sub, users: [], psql: null });
  };
});

// ---- What happened --------------------------------------------------------------------------

let hide = null;

// Says something for a moment; `undo` takes it back.
function toast(says, undo = null) {
  $('message').textContent = says;
  $('undo').hidden = !undo;
  $('undo').onclick = () => { undo(); $('toast').hidden = true; };
  $('toast').hidden = false;
  clearTimeout(hide);
  hide = setTimeout(() => { $('toast').hidden = true; }, TOAST_MS);
}

told.refused = (message) => toast(`Postgres refused this: ${message}`);

// A row by the name that a person knows it by.
function named(type, row) {
  if (type === 'todos') {
    const list = rows('lists').find(({ id }) => id === row.list_id);
    return `${row.description}${list ? ` (${list.name})` : ''}`;
  }
  const name = row.name ?? row.title ?? row.description;
  return `${name ?? 'a row'} (${type})`;
}

const changes = [];
told.noted = (type, before, row) => {
  let what = row ? 'added' : 'removed';
  if (before && row) {
    const columns = Object.keys(row).filter((column) => row[column] !== before[column]);
    if (columns.length === 0) return;
    if (type === 'todos' && columns.includes('completed')) what = row.completed ? 'done' : 'open again';
    else what = `${columns.join(', ')} changed`;
  }
  changes.unshift({ at: new Date(), what: `${named(type, row ?? before)}: ${what}` });
  changes.length = Math.min(changes.length, MOST_CHANGES);
};

// ---- Lists ----------------------------------------------------------------------------------

$('new-list').addEventListener('submit', (event) => {
  event.preventDefault();
  const name = $('list-name').value.trim();
  if (!name) return;
  $('list-name').value = '';
  write({ op: 'PUT', type: 'lists', id: uuid(), data: { name, owner_id: user } });
});

// What writes a row again as it is.
function again(type, { id, waits, ...row }) {
  const data = Object.fromEntries(Object.entries(row).filter(([, value]) => value !== null));
  return { op: 'PUT', type, id, data };
}

function card(list, todos) {
  const own = mine(list);
  const article = element('article', { className: list.waits ? 'waits' : '' },
    element('h3', { textContent: own ? list.name : `${list.owner_id}’s ${list.name}` }),
    element('ul', {}, ...todos.map((todo) => item(todo, own))));
  if (!own) return article;
  const field = element('input', {
    id: `todo-${list.id}`, type: 'text', required: true, maxLength: 200, autocomplete: 'off', placeholder: 'A new todo',
    ariaLabel: `A new todo in ${list.name}`,
  });
  field.dataset.focus = field.id;
  const form = element('form', {}, field, element('button', { textContent: 'Add' }));
  form.addEventListener('submit', (event) => {
    event.preventDefault();
    const description = field.value.trim();
    if (!description) return;
    field.value = '';
    write({ op: 'PUT', type: 'todos', id: uuid(), data: { list_id: list.id, description, completed: 0, created_by: user } });
  });
  const remove = button('Delete list', `Delete the list ${list.name}`, () => {
    write({ op: 'DELETE', type: 'lists', id: list.id });
    toast(`“${list.name}” is deleted.`, () => write(again('lists', list), ...todos.map((todo) => again('todos', todo))));
  });
  article.append(form, remove);
  return article;
}

function item(todo, own) {
  const done = Boolean(todo.completed);
  const box = element('input', { type: 'checkbox', id: `done-${todo.id}`, checked: done, disabled: !own });
  box.dataset.focus = box.id;
  box.addEventListener('change', () =>
    write({ op: 'PATCH', type: 'todos', id: todo.id, data: { completed: box.checked ? 1 : 0 } }));
  const state = [done ? 'done' : '', todo.waits ? 'waits' : ''].join(' ').trim();
  const line = element('li', { className: state },
    element('label', { htmlFor: box.id }, box, element('span', { textContent: todo.description })));
  if (own) {
    line.append(button('×', `Delete ${todo.description}`, () => {
      write({ op: 'DELETE', type: 'todos', id: todo.id });
      toast(`“${todo.description}” is deleted.`, () => write(again('todos', todo)));
    }));
  }
  return line;
}

function showLists() {
  const lists = rows('lists').sort(by('name'));
  const todos = Map.groupBy(rows('todos').sort(by('description')), (todo) => todo.list_id);
  const cards = (some) => some.slice(0, MOST_LISTS).map((list) => card(list, todos.get(list.id) ?? []));
  const own = lists.filter(mine);
  const others = lists.filter((list) => !mine(list));
  $('mine').replaceChildren(...cards(own));
  $('shared').replaceChildren(...cards(others));
  $('shared-title').hidden = others.length === 0;
  // Without the sample there is nothing that a list could be written to.
  $('new-list').hidden = !(loaded && (tables.has('lists') || session?.psql));
  $('empty').hidden = own.length > 0;
  if (loaded) $('empty').textContent = tables.has('lists') ? 'You have no list yet.' : 'No lists are synced to you.';
}

function showFigures() {
  const counts = [...tables].filter(([, some]) => some.size).sort();
  $('tables').replaceChildren(...counts.map(([name, some]) =>
    element('tr', {}, element('td', { textContent: name }), element('td', { textContent: some.size }))));
  $('rows').textContent = counts.reduce((sum, [, some]) => sum + some.size, 0);
  $('no-changes').hidden = changes.length > 0;
  $('changes').replaceChildren(...changes.map(({ at, what }) =>
    element('li', {}, element('time', { textContent: at.toLocaleTimeString() }), ` ${what}`)));
}

// Everything is made anew; what somebody is typing, and where, stays.
function show() {
  const active = document.activeElement?.dataset?.focus;
  const typed = new Map([...document.querySelectorAll('.cards input[type=text]')].map((i) => [i.id, i.value]));
  showState();
  showLists();
  showFigures();
  for (const input of document.querySelectorAll('.cards [data-focus]')) {
    if (typed.has(input.id)) input.value = typed.get(input.id);
    if (input.id === active) input.focus();
  }
}

let shown = null;
let frame = 0;
told.changed = () => {
  if (session && session !== shown) {
    const first = !shown;
    shown = session;
    showSession();
    if (first) restore();
  }
  // Many changes at once are one picture. Not in a frame: a window in the background has none.
  frame ||= setTimeout(() => { frame = 0; show(); });
};

// ---- The server -----------------------------------------------------------------------------

function bytes(count) {
  const units = ['B', 'kB', 'MB', 'GB', 'TB'];
  let unit = 0;
  while (count >= 1024 && unit < 4) { count /= 1024; unit += 1; }
  return `${count < 10 && unit ? count.toFixed(1) : Math.round(count)} ${units[unit]}`;
}

function behind({ lag_bytes, lag_seconds }) {
  const seconds = lag_seconds < 1 ? `${Math.round(lag_seconds * 1000)} ms` : `${Math.round(lag_seconds)} s`;
  const parts = [lag_bytes === null ? '' : bytes(lag_bytes), lag_seconds === null ? '' : seconds];
  return parts.filter(Boolean).join(', ') || 'not known';
}

async function figures() {
  try {
    const answer = await fetch('/admin/api/status', { cache: 'no-store' });
    if (!answer.ok) throw new Error(await reason(answer));
    const { state, trouble, copies, source, clients } = await answer.json();
    const copying = copies.map((copy) => `${copy.table}: ${copy.rows} rows`).join(', ');
    $('server').textContent = [state, trouble, copying].filter(Boolean).join(': ');
    $('lag').textContent = behind(source);
    $('clients').textContent = clients.streams;
  } catch (error) {
    $('server').textContent = plain(error);
    $('lag').textContent = 'not known';
    $('clients').textContent = 'not known';
  }
  setTimeout(figures, 1000);
}

figures();
follow();
