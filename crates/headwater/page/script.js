// The page's own small client of the sync service: it reads POST /sync/stream as lines of JSON,
// keeps each bucket's rows by the rules of the protocol, shows what a whole checkpoint says, and
// sends what a person types to POST /api/v1/upload. Nothing is stored; a reload starts anew.
'use strict';

const $ = (id) => document.getElementById(id);
const RETRY_MS = 1000;
const MASK = 0xffffffff;

// ---- The local copy -------------------------------------------------------------------------

// Bucket: { rows: Map key -> {type, id, op, data, checksum}, put, discarded, last }. Both sums
// are of checksums, modulo 2^32: of the rows that are there and of every operation that went.
const buckets = new Map();
// Table -> Map id -> row, as of the newest complete checkpoint.
const tables = new Map();
// "type id" pairs whose shown row may differ from the buckets.
const dirty = new Map();
let checkpoint = null;

function bucket(name) {
  if (!buckets.has(name)) buckets.set(name, { rows: new Map(), put: 0, discarded: 0, last: 0 });
  return buckets.get(name);
}

function touch(row) {
  dirty.set(JSON.stringify([row.type, row.id]), [row.type, row.id]);
}

function discard(b, key) {
  const old = b.rows.get(key);
  if (!old) return;
  b.rows.delete(key);
  b.put = (b.put - old.checksum) & MASK;
  b.discarded = (b.discarded + old.checksum) & MASK;
  touch(old);
}

function apply(b, o) {
  const key = JSON.stringify([o.object_type, o.object_id, o.subkey]);
  b.last = Number(o.op_id);
  if (o.op === 'PUT') {
    discard(b, key);
    const row = { type: o.object_type, id: o.object_id, op: b.last, data: o.data, checksum: o.checksum };
    b.rows.set(key, row);
    b.put = (b.put + o.checksum) & MASK;
    touch(row);
  } else if (o.op === 'REMOVE') {
    discard(b, key);
    b.discarded = (b.discarded + o.checksum) & MASK;
  } else if (o.op === 'MOVE') {
    b.discarded = (b.discarded + o.checksum) & MASK;
  } else if (o.op === 'CLEAR') {
    for (const row of b.rows.values()) touch(row);
    b.rows.clear();
    b.put = 0;
    b.discarded = o.checksum & MASK;
  }
}

function drop(name) {
  const b = buckets.get(name);
  if (!b) return;
  for (const row of b.rows.values()) touch(row);
  buckets.delete(name);
}

// A whole checkpoint has arrived: check every bucket, then show it. Returns the buckets that do
// not add up; they are dropped and will be downloaded again.
function complete() {
  const broken = [];
  for (const [name, expected] of checkpoint.buckets) {
    const b = bucket(name);
    if (((b.put + b.discarded) & MASK) !== (expected.checksum & MASK)) broken.push(name);
    else b.last = Math.max(b.last, Number(checkpoint.last_op_id));
  }
  if (broken.length) {
    broken.forEach(drop);
    return broken;
  }
  const newest = new Map();
  for (const b of buckets.values()) {
    for (const row of b.rows.values()) {
      const key = JSON.stringify([row.type, row.id]);
      if (dirty.has(key) && !(newest.get(key)?.op > row.op)) newest.set(key, row);
    }
  }
  for (const [key, [type, id]] of dirty) {
    if (!tables.has(type)) tables.set(type, new Map());
    const row = newest.get(key);
    const shown = tables.get(type);
    const before = shown.get(id);
    if (row) shown.set(id, { id, ...JSON.parse(row.data) });
    else shown.delete(id);
    if (row || before) note(row ? (before ? 'changed' : 'added') : 'removed', type, id);
  }
  dirty.clear();
  render();
  return broken;
}

function line(message) {
  if (message.checkpoint) {
    const known = new Map(message.checkpoint.buckets.map((b) => [b.bucket, b]));
    for (const name of [...buckets.keys()]) if (!known.has(name)) drop(name);
    checkpoint = { last_op_id: message.checkpoint.last_op_id, buckets: known };
  } else if (message.checkpoint_diff) {
    const diff = message.checkpoint_diff;
    checkpoint.last_op_id = diff.last_op_id;
    for (const name of diff.removed_buckets) { checkpoint.buckets.delete(name); drop(name); }
    for (const b of diff.updated_buckets) checkpoint.buckets.set(b.bucket, b);
  } else if (message.data) {
    const b = bucket(message.data.bucket);
    for (const operation of message.data.data) apply(b, operation);
  } else if (message.checkpoint_complete) {
    const broken = complete();
    if (broken.length) throw new Error('checksums differ');
    stream('live');
  } else if (message.token_expires_in !== undefined && message.token_expires_in <= 30) {
    token = null;
    throw new Error('the token expires');
  }
}

// ---- The connection -------------------------------------------------------------------------

let token = null;
let sub = '';
let pasted = false;

async function credentials() {
  if (token) return;
  const answer = await fetch('/admin/api/dev-token', { cache: 'no-store' });
  if (!answer.ok) {
    $('sign-in').hidden = false;
    stream('needs a token');
    await new Promise((done) => { signedIn = done; });
    return;
  }
  ({ token, sub } = await answer.json());
}
let signedIn = () => {};

$('sign-in').addEventListener('submit', (event) => {
  event.preventDefault();
  token = $('token').value.trim();
  try {
    const part = token.split('.')[1].replace(/-/g, '+').replace(/_/g, '/');
    sub = String(JSON.parse(atob(part)).sub);
  } catch { sub = ''; }
  $('token').value = '';
  $('sign-in').hidden = true;
  pasted = true;
  signedIn();
});

async function connect() {
  await credentials();
  const request = {
    buckets: [...buckets].map(([name, b]) => ({ name, after: String(b.last) })),
    include_checksum: true,
    raw_data: true,
    client_id: clientId,
    streams: { include_defaults: true, subscriptions: [] },
  };
  const answer = await fetch('/sync/stream', {
    method: 'POST',
    headers: {
      'content-type': 'application/json',
      accept: 'application/x-ndjson',
      authorization: `Bearer ${token}`,
    },
    body: JSON.stringify(request),
  });
  if (answer.status === 401) token = null;
  if (!answer.ok) throw new Error(`${answer.status} ${await reason(answer)}`);
  checkpoint = null;
  stream('catching up');
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split('\n');
    rest = lines.pop();
    try {
      for (const text of lines) if (text) line(JSON.parse(text));
    } catch (error) {
      reader.cancel().catch(() => {});
      throw error;
    }
  }
}

async function reason(answer) {
  try {
    const body = await answer.json();
    return body.error.description;
  } catch {
    return answer.statusText;
  }
}

// Random identity of this page load, as every client has one.
const clientId = [...crypto.getRandomValues(new Uint8Array(16))]
  .map((byte) => byte.toString(16).padStart(2, '0')).join('')
  .replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5');

async function forever() {
  for (;;) {
    try {
      await connect();
      stream('reconnecting');
    } catch (error) {
      stream(`reconnecting (${error.message})`);
    }
    await new Promise((done) => setTimeout(done, RETRY_MS));
  }
}

// ---- Writing --------------------------------------------------------------------------------

let transaction = 0;
let operation = 0;

async function write(op, type, id, data) {
  transaction += 1;
  operation += 1;
  const body = {
    client_id: clientId,
    transactions: [{ id: transaction, operations: [{ op_id: operation, op, type, id, data }] }],
  };
  try {
    const answer = await fetch('/api/v1/upload', {
      method: 'POST',
      headers: { 'content-type': 'application/json', authorization: `Bearer ${token}` },
      body: JSON.stringify(body),
    });
    if (!answer.ok) return say(`Not written: ${await reason(answer)}`);
    const { verdict, error } = (await answer.json()).transactions[0];
    say(verdict === 'applied' ? 'Written.' : `Not written: ${error?.message ?? verdict}`);
    // A refused change is taken back on the screen; an applied one comes through the stream.
    if (verdict !== 'applied') render();
  } catch (error) {
    say(`Not written: ${error.message}`);
  }
}

function uuid() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  return [...bytes].map((byte) => byte.toString(16).padStart(2, '0')).join('')
    .replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5');
}

$('new-list').addEventListener('submit', (event) => {
  event.preventDefault();
  const name = $('list-name').value.trim();
  if (!name) return;
  $('list-name').value = '';
  write('PUT', 'lists', uuid(), { name, owner_id: sub });
});

// ---- Showing --------------------------------------------------------------------------------

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function say(text) { $('message').textContent = text; }
function stream(text) { $('stream').textContent = text; }

const changes = [];
let loaded = false;
function note(what, type, id) {
  if (!loaded) return;
  changes.unshift(`${new Date().toLocaleTimeString()}: ${what} ${type} ${id}`);
  changes.length = Math.min(changes.length, 50);
}

const rowsOf = (type) => [...(tables.get(type)?.values() ?? [])];
const byText = (key) => (a, b) => String(a[key] ?? '').localeCompare(String(b[key] ?? '')) || (a.id < b.id ? -1 : 1);
const MOST_LISTS = 60;

function render() {
  loaded = true;
  const active = document.activeElement?.dataset?.focus;
  const typed = new Map([...document.querySelectorAll('#lists input[type=text]')].map((i) => [i.dataset.focus, i.value]));
  const lists = rowsOf('lists').sort((a, b) => (b.owner_id === sub) - (a.owner_id === sub) || byText('name')(a, b));
  const todos = new Map();
  for (const todo of rowsOf('todos')) {
    if (!todos.has(todo.list_id)) todos.set(todo.list_id, []);
    todos.get(todo.list_id).push(todo);
  }
  $('lists').replaceChildren(...lists.slice(0, MOST_LISTS).map((list) => card(list, (todos.get(list.id) ?? []).sort(byText('description')))));
  for (const input of document.querySelectorAll('#lists [data-focus]')) {
    if (typed.has(input.dataset.focus)) input.value = typed.get(input.dataset.focus);
    if (input.dataset.focus === active) input.focus();
  }
  $('empty').hidden = lists.length > 0;
  $('empty').textContent = 'No lists have been synced yet.';
  $('changes').replaceChildren(...changes.map((text) => element('li', { textContent: text })));
  const counts = [...tables].filter(([, rows]) => rows.size).sort();
  $('tables').replaceChildren(...counts.map(([name, rows]) =>
    element('tr', {}, element('td', { textContent: name }), element('td', { textContent: rows.size }))));
  $('rows').textContent = counts.reduce((sum, [, rows]) => sum + rows.size, 0);
}

function focusable(name, properties) {
  const made = element(name, properties);
  made.dataset.focus = properties.id;
  return made;
}

function card(list, todos) {
  const mine = list.owner_id === sub;
  const article = element('article', {}, element('header', {}, element('h3', { textContent: list.name })),
    element('ul', {}, ...todos.map((todo) => item(todo, mine))));
  if (!mine) {
    article.append(element('p', { textContent: `Shared by ${list.owner_id}; only its owner can change it.` }));
    return article;
  }
  const remove = element('button', { className: 'quiet', type: 'button', textContent: 'Delete', ariaLabel: `Delete the list ${list.name}` });
  remove.addEventListener('click', () => write('DELETE', 'lists', list.id));
  article.querySelector('header').append(remove);
  const field = focusable('input', { id: `todo-${list.id}`, type: 'text', required: true, maxLength: 200, autocomplete: 'off' });
  const form = element('form', {},
    element('label', { htmlFor: field.id, textContent: 'New todo' }), field, element('button', { textContent: 'Add' }));
  form.addEventListener('submit', (event) => {
    event.preventDefault();
    const description = field.value.trim();
    if (!description) return;
    field.value = '';
    write('PUT', 'todos', uuid(), { list_id: list.id, description, completed: 0, created_by: sub });
  });
  article.append(form);
  return article;
}

function item(todo, mine) {
  const done = Boolean(todo.completed);
  const box = focusable('input', { type: 'checkbox', id: `done-${todo.id}`, checked: done, disabled: !mine });
  box.addEventListener('change', () => write('PATCH', 'todos', todo.id, { completed: box.checked ? 1 : 0 }));
  const line = element('li', { className: done ? 'todo done' : 'todo' },
    box, element('label', { htmlFor: box.id, textContent: todo.description }));
  if (mine) {
    const remove = element('button', { className: 'quiet', type: 'button', textContent: 'Delete', ariaLabel: `Delete ${todo.description}` });
    remove.addEventListener('click', () => write('DELETE', 'todos', todo.id));
    line.append(remove);
  }
  return line;
}

// ---- Figures --------------------------------------------------------------------------------

function bytes(count) {
  const units = ['B', 'kB', 'MB', 'GB', 'TB'];
  let unit = 0;
  while (count >= 1024 && unit < 4) { count /= 1024; unit += 1; }
  return `${count < 10 && unit ? count.toFixed(1) : Math.round(count)} ${units[unit]}`;
}

async function figures() {
  try {
    const answer = await fetch('/admin/api/status', { cache: 'no-store' });
    if (!answer.ok) throw new Error(await reason(answer));
    const status = await answer.json();
    const copying = status.copies.map((copy) => `${copy.table}: ${copy.rows} rows`).join(', ');
    $('server').textContent = [status.state, status.trouble, copying].filter(Boolean).join(': ');
    const seconds = status.source.lag_seconds;
    $('lag').textContent = status.source.lag_bytes === null ? 'not known'
      : `${bytes(status.source.lag_bytes)}${seconds === null ? '' : `, ${seconds < 1 ? `${Math.round(seconds * 1000)} ms` : `${Math.round(seconds)} s`}`}`;
    $('clients').textContent = status.clients.streams;
  } catch (error) {
    $('server').textContent = pasted ? 'figures are for the same machine only' : `no answer (${error.message})`;
  }
  setTimeout(figures, 1000);
}

figures();
forever();
