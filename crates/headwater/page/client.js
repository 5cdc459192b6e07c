// The page's own small client of the sync service. It reads POST /sync/stream as lines of JSON and
// keeps each bucket's rows by the rules of the protocol; it keeps what a person writes in a queue
// that outlives a reload of the page, sends it to POST /api/v1/upload when it can, and shows it
// until the stream has brought it back. Tables are what Postgres says; `rows` adds the queue.
'use strict';

const RETRY_MS = 1000;
// The server says something every 20 s: a connection that is silent for longer leads nowhere.
const SILENT_MS = 45000;
const MOST_SENT = 100;
const MASK = 0xffffffff;

// Random identity of this page load, as every client has one.
const clientId = uuid();

// What the page is told; page.js sets them.
const told = { changed() {}, noted() {}, refused() {}, signIn() {} };

// ---- The local copy -------------------------------------------------------------------------

// Bucket: { rows: Map key -> {type, id, op, data, checksum}, put, discarded, last }. Both sums
// are of checksums, modulo 2^32: of the rows that are there and of every operation that went.
const buckets = new Map();
// Table -> Map id -> row, as of the newest complete checkpoint.
const tables = new Map();
// "type id" pairs whose shown row may differ from the buckets.
const dirty = new Map();
let checkpoint = null;
let loaded = false;

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
    const shown = tables.get(type);
    const before = shown.get(id);
    const found = newest.get(key);
    const row = found && { id, ...JSON.parse(found.data) };
    if (row) shown.set(id, row);
    else shown.delete(id);
    if (loaded && (row || before)) told.noted(type, before, row);
  }
  dirty.clear();
  loaded = true;
  // What has come back is in the tables now.
  writes = writes.filter((write) => !(write.until <= checkpoint.writes));
  return broken;
}

function line(message) {
  if (message.checkpoint) {
    const known = new Map(message.checkpoint.buckets.map((b) => [b.bucket, b]));
    for (const name of [...buckets.keys()]) if (!known.has(name)) drop(name);
    const { last_op_id, write_checkpoint } = message.checkpoint;
    checkpoint = { last_op_id, writes: Number(write_checkpoint ?? 0), buckets: known };
  } else if (message.checkpoint_diff) {
    const diff = message.checkpoint_diff;
    checkpoint.last_op_id = diff.last_op_id;
    checkpoint.writes = Number(diff.write_checkpoint ?? checkpoint.writes);
    for (const name of diff.removed_buckets) { checkpoint.buckets.delete(name); drop(name); }
    for (const b of diff.updated_buckets) checkpoint.buckets.set(b.bucket, b);
  } else if (message.data) {
    const b = bucket(message.data.bucket);
    for (const operation of message.data.data) apply(b, operation);
  } else if (message.checkpoint_complete) {
    if (complete().length) throw new Error('checksums differ');
    turn('live');
  } else if (message.token_expires_in !== undefined && message.token_expires_in <= 30) {
    session = null;
    throw new Error('the token expires');
  }
}

// ---- The connection -------------------------------------------------------------------------

// `connecting`, `catching up`, `live`, `away` (with why), `offline` (as the person wished).
const connection = { state: 'connecting', why: '' };
let wanted = true;
let session = null; // { token, sub, users, psql }
let user = ''; // its sub, which outlives it
let abort = new AbortController();
let wake = () => {};

function turn(state, why = '') {
  Object.assign(connection, { state, why });
  told.changed();
}

function pause(ms) {
  return new Promise((done) => {
    wake = done;
    if (ms) setTimeout(done, ms);
  });
}

// Cuts the connection, or lets it come back, as the person wishes.
function goOnline(online) {
  wanted = online;
  if (online) wake();
  else abort.abort();
}

async function credentials() {
  if (session) return;
  const as = new URLSearchParams(location.search).get('as');
  const query = as ? `?sub=${encodeURIComponent(as)}` : '';
  const answer = await fetch(`/admin/api/dev-token${query}`, { cache: 'no-store' });
  session = answer.ok ? await answer.json() : await told.signIn();
  user = session.sub;
}

function authorised(headers) {
  return { ...headers, authorization: `Bearer ${session.token}` };
}

async function follow() {
  for (;;) {
    if (!wanted) {
      turn('offline');
      await pause();
    }
    try {
      turn('connecting');
      await stream();
      turn('away', 'the server ended the stream');
    } catch (error) {
      if (wanted) turn('away', plain(error));
    }
    if (wanted) await pause(RETRY_MS);
  }
}

async function stream() {
  await credentials();
  const cut = new AbortController();
  abort = cut;
  let heard = Date.now();
  const watch = setInterval(() => Date.now() - heard > SILENT_MS && cut.abort(), RETRY_MS);
  try {
    const answer = await fetch('/sync/stream', {
      method: 'POST',
      signal: cut.signal,
      headers: authorised({ 'content-type': 'application/json', accept: 'application/x-ndjson' }),
      body: JSON.stringify({
        buckets: [...buckets].map(([name, b]) => ({ name, after: String(b.last) })),
        include_checksum: true,
        raw_data: true,
        client_id: clientId,
        streams: { include_defaults: true, subscriptions: [] },
      }),
    });
    if (answer.status === 401) session = null;
    if (!answer.ok) throw new Error(await reason(answer));
    checkpoint = null;
    turn('catching up');
    send();
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = '';
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      heard = Date.now();
      const lines = (rest + value).split('\n');
      rest = lines.pop();
      for (const text of lines) if (text) line(JSON.parse(text));
    }
  } finally {
    clearInterval(watch);
    cut.abort();
  }
}

// Browsers word a server that is away each in their own way.
function plain(error) {
  return error instanceof TypeError || error.name === 'AbortError' ? 'the server does not answer' : error.message;
}

async function reason(answer) {
  try {
    return (await answer.json()).error.description;
  } catch {
    return `the server answers ${answer.status}`;
  }
}

// ---- Writing --------------------------------------------------------------------------------

// What is not in the tables yet, oldest first: { id, operations, answered, until }. `answered`:
// Postgres has it. `until`: the write checkpoint at which the stream has brought it back.
let writes = [];
let numbered = 0;
let sending = false;

const store = () => `headwater.${user}`;

// Takes up what an earlier load of this page could not send. All operations may be applied twice.
function restore() {
  for (const operations of JSON.parse(sessionStorage.getItem(store()) ?? '[]')) enqueue(operations);
  send();
}

function enqueue(operations) {
  const numberedOnes = operations.map((operation) => ({ ...operation, op_id: ++numbered }));
  writes.push({ id: ++numbered, operations: numberedOnes });
}

function keep() {
  const open = writes.filter((write) => !write.answered).map((write) => write.operations);
  sessionStorage.setItem(store(), JSON.stringify(open));
}

// One transaction: operations { op, type, id, data }.
function write(...operations) {
  enqueue(operations);
  keep();
  told.changed();
  send();
}

// Writes that Postgres has not answered.
function waiting() {
  return writes.filter((write) => !write.answered);
}

async function send() {
  if (sending || !session) return;
  sending = true;
  try {
    while (wanted && writes.some((write) => write.until === undefined)) {
      const open = waiting().slice(0, MOST_SENT);
      if (open.length) await upload(open);
      else await whenBack();
    }
  } catch {
    // The stream says that the server is away. A `retry` is one more reason to come again.
    setTimeout(send, RETRY_MS);
  } finally {
    sending = false;
    told.changed();
  }
}

async function upload(open) {
  const answer = await fetch('/api/v1/upload', {
    method: 'POST',
    headers: authorised({ 'content-type': 'application/json' }),
    body: JSON.stringify({
      client_id: clientId,
      transactions: open.map(({ id, operations }) => ({ id, operations })),
    }),
  });
  if (!answer.ok) throw new Error(await reason(answer));
  let retry = false;
  for (const { id, verdict, error } of (await answer.json()).transactions) {
    const of = writes.find((write) => write.id === Number(id));
    if (verdict === 'applied') of.answered = true;
    else if (verdict === 'retry') retry = true;
    else {
      writes.splice(writes.indexOf(of), 1);
      told.refused(error.message);
    }
  }
  keep();
  if (retry) throw new Error('later');
}

async function whenBack() {
  const answer = await fetch(`/write-checkpoint2.json?client_id=${clientId}`, { headers: authorised({}) });
  if (!answer.ok) throw new Error(await reason(answer));
  const until = Number((await answer.json()).data.write_checkpoint);
  for (const write of writes) if (write.answered) write.until ??= until;
}

// The rows of a table as this person sees them: Postgres's, with what is not there yet.
function rows(type) {
  const shown = new Map(tables.get(type));
  for (const { answered, operations } of writes) {
    for (const { op, id, data } of operations.filter((operation) => operation.type === type)) {
      if (op === 'DELETE') shown.delete(id);
      else if (op === 'PUT' || shown.has(id)) shown.set(id, { ...shown.get(id), ...data, id, waits: !answered });
    }
  }
  return [...shown.values()];
}

function uuid() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  return [...bytes].map((byte) => byte.toString(16).padStart(2, '0')).join('')
    .replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5');
}
