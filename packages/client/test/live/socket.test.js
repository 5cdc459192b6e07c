/** The client over real sockets, with Node's own WebSocket. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { LiveClient } from '../../dist/live/index.js';
import { startSocketServer } from './socket_server.js';

test('several messages in one chunk are all heard, over one socket and the next', async () => {
  let opened = 0;
  const server = await startSocketServer((socket, text) => {
    if (text === null) {
      opened += 1;
      assert.equal(socket.url, '/DataSyncController?access_token=a%20token');
      return;
    }
    const { tag, requestId } = JSON.parse(text);
    if (tag !== 'CreateDataSubscription') return;
    const subscriptionId = `s${opened}`;
    const insert = (id) => JSON.stringify({ tag: 'DidInsert', subscriptionId, record: { id, from: opened } });
    socket.send(JSON.stringify({ tag: 'DidCreateDataSubscription', requestId, subscriptionId, result: [] }), insert('a'), insert('b'));
    if (opened === 1) socket.send(insert('c')), setImmediate(socket.cut);
  });
  const client = new LiveClient({ host: server.host, token: () => 'a token' });
  try {
    const rows = await new Promise((resolve) => {
      client.query('t').subscribe((rows) => {
        if (rows.length === 2 && rows[0].from === 2) resolve(rows);
      });
    });
    assert.deepEqual(rows.map(({ id }) => id), ['a', 'b']);
    assert.equal(opened, 2);
  } finally {
    client.close();
    await server.close();
  }
});

test('a server that closes is come back to; one that is not there is an error, not a hang', async () => {
  let opened = 0;
  const server = await startSocketServer((socket, text) => {
    if (text === null) {
      opened += 1;
      if (opened === 1) socket.close(4401);
      return;
    }
    const { requestId } = JSON.parse(text);
    socket.send(JSON.stringify({ tag: 'DataSyncResult', requestId, result: [{ id: opened }] }));
  });
  const client = new LiveClient({ host: server.host, token: () => null });
  try {
    assert.deepEqual(await client.query('t').fetch(), [{ id: 2 }]);
    const failed = new Promise((resolve) => client.listen(() => client.status.error && resolve(client.status.error)));
    await server.close();
    assert.equal((await failed).kind, 'connection');
    assert.equal(client.status.state, 'waiting');
  } finally {
    client.close();
  }
});
