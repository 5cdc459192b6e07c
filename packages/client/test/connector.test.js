import assert from 'node:assert/strict';
import { afterEach, test } from 'node:test';
import { HeadwaterConnector, UploadError } from '../dist/index.js';
import { StubDatabase, applied, startServer } from './stub.js';

const PUT = '{"op":"PUT","type":"lists","id":"a","data":{"name":"x"}}';
let server;

afterEach(() => server?.close());

/** A connector for the server that retries without making a test wait. */
function connector(options = {}) {
  return new HeadwaterConnector({
    endpoint: server.endpoint,
    token: () => 't1',
    firstRetryMs: 1,
    longestRetryMs: 2,
    ...options,
  });
}

test('a local transaction is sent whole and leaves the queue once it is applied', async () => {
  server = await startServer(applied);
  const database = new StubDatabase();
  database.write(7, PUT, '{"op":"DELETE","type":"lists","id":"b","old":{"name":"y"},"metadata":"m"}');
  await connector().uploadData(database);
  assert.equal(server.requests.length, 1);
  const { body, path, token } = server.requests[0];
  assert.deepEqual([path, token], ['/api/v1/upload', 'Bearer t1']);
  assert.deepEqual(body, {
    client_id: 'client "one"',
    transactions: [
      {
        id: 7,
        operations: [
          { op_id: 1, op: 'PUT', type: 'lists', id: 'a', data: { name: 'x' } },
          { op_id: 2, op: 'DELETE', type: 'lists', id: 'b', old: { name: 'y' }, metadata: 'm' },
        ],
      },
    ],
  });
  assert.deepEqual(database.queue, []);
});

test('integers above 2^53 and the spelling of numbers reach the wire as the queue has them', async () => {
  server = await startServer(applied);
  const database = new StubDatabase();
  const put = '{"op":"PUT","type":"t","id":"a","data":{"n":9007199254740993,"f":5.0}}';
  database.write(1, put);
  await connector().uploadData(database);
  assert.ok(server.requests[0].text.includes('"n":9007199254740993,"f":5.0'));
});

test('an SDK without that table is served from its parsed entries', async () => {
  server = await startServer(applied);
  const database = new StubDatabase();
  database.hasQueueTable = false;
  database.write(undefined, PUT);
  await connector().uploadData(database);
  const [transaction] = server.requests[0].body.transactions;
  assert.equal(transaction.id, 1, 'without a transaction id the first entry gives the number');
  assert.deepEqual(transaction.operations[0].data, { name: 'x' });
});

test('many transactions travel in order and in batches', async () => {
  server = await startServer(applied);
  const database = new StubDatabase();
  for (let id = 1; id <= 25; id += 1) {
    database.write(id, PUT);
  }
  await connector({ batchSize: 10 }).uploadData(database);
  const ids = server.requests.map(({ body }) => body.transactions.map(({ id }) => id));
  assert.deepEqual(ids.map((batch) => batch.length), [10, 10, 5]);
  assert.deepEqual(ids.flat(), Array.from({ length: 25 }, (_, index) => index + 1));
});

test('F-49: a rejected transaction is told and leaves the queue, and later ones follow', async () => {
  const rejection = { message: 'taken', sqlstate: '23505', constraint: 'one_slug', op_id: 2 };
  server = await startServer(({ body }) => body.transactions.map(({ id }) => (id === 2 ? rejection : 'applied')));
  const database = new StubDatabase();
  database.write(1, PUT);
  database.write(2, PUT);
  database.write(3, PUT);
  const told = [];
  await connector({ onRejected: (write) => told.push({ ...write, left: database.queue.length }) }).uploadData(database);
  assert.equal(told.length, 1);
  assert.deepEqual(
    [told[0].transactionId, told[0].message, told[0].constraint, told[0].entries[0].table, told[0].left],
    [2, 'taken', 'one_slug', 'lists', 3],
  );
  assert.deepEqual(database.queue, []);
});

test('a rejection that could not be told stays in the queue', async () => {
  server = await startServer(() => [{ message: 'taken' }]);
  const database = new StubDatabase();
  database.write(1, PUT);
  const failing = connector({ onRejected: () => Promise.reject(new Error('disk full')) });
  await assert.rejects(failing.uploadData(database), /disk full/);
  assert.equal(database.queue.length, 1);
});

test('F-50: an endpoint that fails for a while is tried again without a new local write', async () => {
  server = await startServer((request, count) => {
    if (count <= 3) {
      return 'hang up';
    }
    return count <= 6 ? { status: 503, body: '<html>bad gateway</html>' } : applied(request);
  });
  const database = new StubDatabase();
  database.write(1, PUT);
  await connector().uploadData(database);
  assert.equal(server.requests.length, 7);
  assert.deepEqual(database.queue, []);
});

test('a failure that outlasts the patience is thrown, and the next call goes on', async () => {
  let well = false;
  server = await startServer((request) => (well ? applied(request) : { status: 500 }));
  const database = new StubDatabase();
  database.write(1, PUT);
  const patient = connector({ patienceMs: 0 });
  await assert.rejects(patient.uploadData(database), (error) => {
    return error instanceof UploadError && error.status === 500;
  });
  assert.equal(database.queue.length, 1);
  well = true;
  await patient.uploadData(database);
  assert.deepEqual(database.queue, []);
});

test('a verdict to retry keeps that transaction and all behind it', async () => {
  let calls = 0;
  server = await startServer(({ body }) => {
    calls += 1;
    return calls === 1 ? ['applied', 'retry', 'retry'] : body.transactions.map(() => 'applied');
  });
  const database = new StubDatabase();
  [1, 2, 3].forEach((id) => database.write(id, PUT));
  await connector().uploadData(database);
  assert.deepEqual(server.requests[1].body.transactions.map(({ id }) => id), [2, 3]);
  assert.deepEqual(database.queue, []);
});

test('a refused token is replaced once and at once', async () => {
  const expired = { status: 401, body: { error: { code: 'HW4103', description: 'JWT has expired' } } };
  server = await startServer((request) => (request.token === 'Bearer new' ? applied(request) : expired));
  const tokens = ['old', 'new'];
  const database = new StubDatabase();
  database.write(1, PUT);
  await connector({ token: async () => tokens.shift() }).uploadData(database);
  assert.deepEqual(server.requests.map(({ token }) => token), ['Bearer old', 'Bearer new']);

  database.write(2, PUT);
  const refused = connector({ token: () => 'never' });
  await assert.rejects(refused.uploadData(database), (error) => {
    return error.status === 401 && error.code === 'HW4103' && /JWT has expired/.test(error.message);
  });
  assert.equal(database.queue.length, 1);
});

test('a request that is too large is sent in parts', async () => {
  server = await startServer((request) => {
    return request.body.transactions.length > 2
      ? { status: 413, body: { error: { code: 'HW5004', description: 'too large' } } }
      : applied(request);
  });
  const database = new StubDatabase();
  [1, 2, 3, 4, 5].forEach((id) => database.write(id, PUT));
  await connector().uploadData(database);
  assert.deepEqual(database.queue, []);
});

test('an answer that is not about this batch never empties the queue', async () => {
  const answers = [
    { status: 200, body: '<html>sign in to the hotel</html>' },
    { status: 200, body: { transactions: [] } },
    { status: 200, body: { transactions: [{ id: 99, verdict: 'applied' }] } },
    { status: 200, body: { transactions: [{ id: 1, verdict: 'maybe' }] } },
  ];
  for (const answer of answers) {
    server = await startServer(() => answer);
    const database = new StubDatabase();
    database.write(1, PUT);
    await assert.rejects(connector({ patienceMs: 0 }).uploadData(database), UploadError);
    assert.equal(database.queue.length, 1);
    await server.close();
  }
});

test('waiting ends when the database is closed or disconnected', async () => {
  for (const change of [{ closed: true }, { currentStatus: { connected: false, connecting: false } }]) {
    const database = new StubDatabase();
    server = await startServer(() => {
      Object.assign(database, change);
      return { status: 500 };
    });
    database.write(1, PUT);
    const slow = connector({ firstRetryMs: 3_600_000, longestRetryMs: 3_600_000, patienceMs: 1e9 });
    await assert.rejects(slow.uploadData(database), UploadError);
    await server.close();
  }
});

test('credentials are fresh each time, and absent when nobody is signed in', async () => {
  server = await startServer(applied);
  const tokens = ['a', 'b', null];
  const fresh = connector({ endpoint: `${server.endpoint}//`, token: () => tokens.shift() });
  assert.deepEqual(await fresh.fetchCredentials(), { endpoint: server.endpoint, token: 'a' });
  assert.deepEqual(await fresh.fetchCredentials(), { endpoint: server.endpoint, token: 'b' });
  assert.equal(await fresh.fetchCredentials(), null);
});
