/**
 * A client of the sample data, to try Headwater with: the official PowerSync Node SDK with a local
 * SQLite file. `conformance/client --endpoint http://127.0.0.1:8080 --token …` starts it.
 *
 * It prints the user's lists whenever they change in the local database, writes what is typed, online
 * or offline, and says when that has arrived in Postgres. `help` lists the words it knows; the end of
 * the input ends it.
 */

import fs from 'node:fs';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

import { prepare } from './prepare.js';

/** How long the end of the input waits for what was written to arrive. */
const LAST_WRITES_MS = 5000;

const USAGE = 'usage: conformance/client --endpoint URL --token TOKEN [--file DATABASE]';

const HELP = `  add TEXT     a new todo in your first list
  done N       ticks todo N off, or on again
  drop N       deletes todo N
  offline      cuts the connection; what you write waits
  online       connects again
  quit`;

prepare(import.meta.url);
const { column, PowerSyncDatabase, Schema, Table } = await import('@powersync/node');
const { HeadwaterConnector } = await import('@headwater/client');

const { endpoint, token, file } = options();
const { sub } = JSON.parse(Buffer.from(token.split('.')[1] ?? '', 'base64url').toString() || '{}');

const db = new PowerSyncDatabase({
  schema: new Schema({
    lists: new Table({ owner_id: column.text, name: column.text, is_public: column.integer }),
    todos: new Table({ list_id: column.text, description: column.text, completed: column.integer }),
  }),
  database: { dbFilename: path.basename(file), dbLocation: path.dirname(file) },
  logger: { log: () => {} },
});
let refused = 0;
const headwater = new HeadwaterConnector({
  endpoint,
  token: () => token,
  onRejected: ({ message }) => {
    refused += 1;
    say(`Postgres refused a write: ${message}`);
  },
});
/** Headwater's connector, which also says what became of the queue. */
const connector = {
  fetchCredentials: headwater.fetchCredentials,
  uploadData: async (/** @type {import('@powersync/node').PowerSyncDatabase} */ database) => {
    const before = await waiting();
    refused = 0;
    try {
      await headwater.uploadData(database);
    } finally {
      const arrived = before - refused - (await waiting());
      if (arrived > 0) say(`${arrived === 1 ? 'your change has' : `${arrived} changes have`} arrived in Postgres`);
    }
  },
};

const TODOS = `
  SELECT todos.id, lists.name AS list, lists.owner_id = ? AS mine, todos.description, todos.completed
  FROM lists JOIN todos ON todos.list_id = lists.id
  ORDER BY mine DESC, lists.name, lists.id, todos.description, todos.id`;

/** @type {{id: string, list: string, mine: number, description: string, completed: number}[]} */
let shown = [];

say(`local database: ${file}`);
await connect();
db.watch(TODOS, [sub], { onResult: (result) => show(result.array) });
let state = '';
db.registerListener({ statusChanged: tellState });
tellState();

for await (const line of createInterface({ input: process.stdin })) {
  const [word, ...rest] = line.trim().split(' ');
  const todo = shown[Number(rest[0]) - 1];
  try {
    if (word === 'quit') await quit();
    else if (word === 'add' && rest.length > 0) await add(rest.join(' '));
    else if (word === 'done' && todo) await db.execute('UPDATE todos SET completed = ? WHERE id = ?', [todo.completed ? 0 : 1, todo.id]);
    else if (word === 'drop' && todo) await db.execute('DELETE FROM todos WHERE id = ?', [todo.id]);
    else if (word === 'offline') await db.disconnect();
    else if (word === 'online') await connect();
    else if (word === 'help') console.log(HELP);
    else if (word === 'add') say('add what? For example: add Bread and butter');
    else if (word === 'done' || word === 'drop') say(`which todo? ${word} and its number`);
    else if (word !== '') say(`"${word}" is no word of mine; help lists them`);
  } catch (error) {
    say(/** @type {Error} */ (error).message);
  }
}
// Nobody types any more. What was written last gets a moment to arrive.
const until = Date.now() + LAST_WRITES_MS;
while (!isOffline() && Date.now() < until && (await waiting()) > 0) {
  await new Promise((resolve) => setTimeout(resolve, 50));
}
const left = await waiting();
if (left > 0) say(`${left} of your changes wait in ${file} until the next start`);
await quit();

/** Transactions that are not in Postgres yet. */
async function waiting() {
  const { count } = await db.get('SELECT count(DISTINCT tx_id) AS count FROM ps_crud');
  return count;
}

function isOffline() {
  const { connected, connecting } = db.currentStatus;
  return !connected && !connecting;
}

async function quit() {
  await db.close();
  process.exit(0);
}

function options() {
  try {
    const { values } = parseArgs({
      options: { endpoint: { type: 'string' }, token: { type: 'string' }, file: { type: 'string' } },
    });
    if (values.endpoint && values.token) {
      const fallback = fileURLToPath(new URL('../.cache/client/client.db', import.meta.url));
      const place = path.resolve(values.file ?? fallback);
      fs.mkdirSync(path.dirname(place), { recursive: true });
      return { endpoint: values.endpoint, token: values.token, file: place };
    }
  } catch (error) {
    console.error(/** @type {Error} */ (error).message);
  }
  console.error(USAGE);
  process.exit(2);
}

async function connect() {
  await db.connect(connector, { retryDelayMs: 1000, crudUploadThrottleMs: 10 });
}

async function add(/** @type {string} */ description) {
  const list = await db.getOptional('SELECT id FROM lists WHERE owner_id = ? ORDER BY name LIMIT 1', [sub]);
  if (!list) throw new Error('you have no list yet');
  await db.execute('INSERT INTO todos (id, list_id, description, completed) VALUES (uuid(), ?, ?, 0)', [
    list.id,
    description,
  ]);
}

/** Prints all rows at first, then only those that changed. */
function show(/** @type {any[]} */ rows) {
  const before = new Map(shown.map((row) => [row.id, JSON.stringify(row)]));
  const now = new Set(rows.map(({ id }) => id));
  const first = shown.length === 0;
  const gone = shown.filter(({ id }) => !now.has(id));
  shown = rows;
  for (const { list, description } of gone) say(`- ${list}: ${description}`);
  rows.forEach((row, place) => {
    if (before.get(row.id) === JSON.stringify(row)) return;
    const mark = row.completed ? '[x]' : '[ ]';
    say(`${String(place + 1).padStart(3)} ${mark} ${row.list}: ${row.description}`);
  });
  if (first && rows.length > 0) say(`${rows.length} todos; type "help", or change one with psql`);
}

function tellState() {
  const { connected, connecting, downloadError } = db.currentStatus;
  const now = connected ? 'online' : connecting ? 'connecting' : downloadError ? `offline: ${downloadError.message}` : 'offline';
  if (now !== state) say(now);
  state = now;
}

function say(/** @type {string} */ text) {
  console.log(`${new Date().toISOString().slice(11, 23)}  ${text}`);
}
