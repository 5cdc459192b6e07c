/**
 * The harness itself works: the SDK against a hand-written server that speaks the trace of the
 * protocol page (14.4), with no Headwater anywhere.
 */

import assert from 'node:assert/strict';
import { once } from 'node:events';
import http from 'node:http';
import { test } from 'node:test';

import { column, Schema, Table } from '@powersync/node';

import { Client } from '../harness/client.js';

const SUBKEYS = {
  K1: '5a1c9c7e-3f0d-4b52-8c54-6a0d8e2b7f10/aaaaaaaa-0000-5000-8000-000000000001',
  K11: '8d3f0b0e-7c57-4a0c-9a52-2f1f0f6a9c01/aaaaaaaa-0000-5000-8000-000000000011',
  K12: '8d3f0b0e-7c57-4a0c-9a52-2f1f0f6a9c01/aaaaaaaa-0000-5000-8000-000000000012',
};

const FIRST = [
  String.raw`{"checkpoint":{"last_op_id":"3","buckets":[{"bucket":"user_lists[\"u1\"]","checksum":1551088854,"count":1,"priority":1,"subscriptions":[{"default":0}]},{"bucket":"list_todos[\"l1\"]","checksum":-501931104,"count":2,"priority":3,"subscriptions":[{"sub":0}]}],"streams":[{"name":"user_lists","is_default":true,"errors":[]},{"name":"list_todos","is_default":false,"errors":[]}]}}`,
  String.raw`{"data":{"bucket":"user_lists[\"u1\"]","after":"0","has_more":false,"data":[{"op_id":"1","op":"PUT","object_type":"lists","object_id":"l1","subkey":"K1","checksum":1551088854,"data":"{\"id\":\"l1\",\"name\":\"Groceries\",\"owner_id\":\"u1\"}"}],"next_after":"1"}}`,
  String.raw`{"partial_checkpoint_complete":{"last_op_id":"3","priority":1}}`,
  String.raw`{"data":{"bucket":"list_todos[\"l1\"]","after":"0","has_more":false,"data":[{"op_id":"2","op":"PUT","object_type":"todos","object_id":"t1","subkey":"K11","checksum":1360255080,"data":"{\"id\":\"t1\",\"list_id\":\"l1\",\"description\":\"Milk\",\"done\":0}"},{"op_id":"3","op":"PUT","object_type":"todos","object_id":"t2","subkey":"K12","checksum":2432781112,"data":"{\"id\":\"t2\",\"list_id\":\"l1\",\"description\":\"Café ☕\",\"done\":0}"}],"next_after":"3"}}`,
  '{"checkpoint_complete":{"last_op_id":"3"}}',
];

const SECOND = [
  String.raw`{"checkpoint_diff":{"last_op_id":"5","write_checkpoint":"1","removed_buckets":[],"updated_buckets":[{"bucket":"list_todos[\"l1\"]","checksum":511528210,"count":4,"priority":3,"subscriptions":[{"sub":0}]}]}}`,
  String.raw`{"data":{"bucket":"list_todos[\"l1\"]","after":"3","has_more":false,"data":[{"op_id":"4","op":"PUT","object_type":"todos","object_id":"t1","subkey":"K11","checksum":979051589,"data":"{\"id\":\"t1\",\"list_id\":\"l1\",\"description\":\"Milk\",\"done\":1}"},{"op_id":"5","op":"REMOVE","object_type":"todos","object_id":"t2","subkey":"K12","checksum":34407725,"data":null}],"next_after":"5"}}`,
  '{"checkpoint_complete":{"last_op_id":"5"}}',
  '{"token_expires_in":3583}',
];

const SCHEMA = new Schema({
  lists: new Table({ name: column.text, owner_id: column.text }),
  todos: new Table({ list_id: column.text, description: column.text, done: column.integer }),
});

/** A server that writes what it is told to the one stream that is open. */
async function scripted() {
  /** @type {any[]} */
  const requests = [];
  /** @type {http.ServerResponse | undefined} */
  let stream;
  const server = http.createServer(async (request, response) => {
    requests.push(JSON.parse((await request.setEncoding('utf8').toArray()).join('')));
    response.writeHead(200, { 'content-type': 'application/x-ndjson' });
    response.flushHeaders();
    stream = response;
    server.emit('stream');
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = /** @type {import('node:net').AddressInfo} */ (server.address());
  return {
    url: `http://127.0.0.1:${port}`,
    requests,
    nextStream: () => once(server, 'stream'),
    say(/** @type {string[]} */ lines) {
      for (const line of lines) {
        const whole = line.replace(/"subkey":"(K\d+)"/g, (_, key) => `"subkey":"${SUBKEYS[/** @type {keyof SUBKEYS} */ (key)]}"`);
        stream?.write(`${whole}\n`);
      }
    },
    hangUp: () => stream?.end(),
    close() {
      server.close();
      server.closeAllConnections();
    },
  };
}

test('the SDK follows the trace of the protocol page and asks on from where it was', async () => {
  const server = await scripted();
  const client = new Client({ schema: SCHEMA, user: 'u1', endpoint: server.url });
  try {
    await client.db.syncStream('list_todos', { list: 'l1' }).subscribe();
    const connected = server.nextStream();
    await Promise.all([client.connect(), connected]);
    assert.deepEqual(server.requests[0].buckets, []);
    assert.deepEqual(server.requests[0].streams.subscriptions, [
      { stream: 'list_todos', parameters: { list: 'l1' }, override_priority: null },
    ]);

    server.say(FIRST);
    await client.synced();
    assert.deepEqual(await client.rows('SELECT * FROM lists'), [{ id: 'l1', name: 'Groceries', owner_id: 'u1' }]);
    assert.deepEqual(await client.rows('SELECT id, description, done FROM todos ORDER BY id'), [
      { id: 't1', description: 'Milk', done: 0 },
      { id: 't2', description: 'Café ☕', done: 0 },
    ]);

    server.say(SECOND);
    await client.until('the second checkpoint is applied', async () => {
      const rows = await client.rows('SELECT id, done FROM todos');
      return rows.length === 1 && rows[0].done === 1;
    });
    const after = [
      { name: 'list_todos["l1"]', position: '5', checksum: 511528210 },
      { name: 'user_lists["u1"]', position: '5', checksum: 1551088854 },
    ];
    assert.deepEqual(await client.buckets(), after);

    const again = server.nextStream();
    server.hangUp();
    await again;
    const held = server.requests[1].buckets.sort((/** @type {any} */ a, /** @type {any} */ b) => (a.name < b.name ? -1 : 1));
    assert.deepEqual(held, after.map(({ name, position }) => ({ name, after: position })));
  } finally {
    await client.close();
    server.close();
  }
});
