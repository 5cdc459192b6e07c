/** A Headwater and an SDK's database that a test controls. */
import { createServer } from 'node:http';

/**
 * A server that answers each upload with what `answer` returns: verdict words for its
 * transactions, or `{status, body}`.
 */
export async function startServer(answer) {
  const requests = [];
  const server = createServer((request, response) => {
    let text = '';
    request.on('data', (chunk) => (text += chunk));
    request.on('end', () => {
      const body = JSON.parse(text);
      const seen = { text, body, path: request.url, token: request.headers.authorization };
      requests.push(seen);
      const said = answer(seen, requests.length);
      if (said === 'hang up') {
        request.socket.destroy();
        return;
      }
      const { status, body: sent } = Array.isArray(said)
        ? { status: 200, body: { transactions: body.transactions.map((t, i) => verdict(t.id, said[i])) } }
        : said;
      response.writeHead(status, { 'content-type': 'application/json' });
      response.end(typeof sent === 'string' ? sent : JSON.stringify(sent ?? {}));
    });
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    requests,
    endpoint: `http://127.0.0.1:${server.address().port}`,
    close: () => new Promise((resolve) => server.close(resolve)),
  };
}

function verdict(id, word) {
  if (typeof word === 'object') {
    return { id, verdict: 'rejected', error: word };
  }
  return word === 'retry' ? { id, verdict: 'retry', error: { message: 'locked' } } : { id, verdict: word };
}

export const applied = (request) => request.body.transactions.map(() => 'applied');

/** The part of the SDK's database that the connector uses. `queue`: raw `ps_crud` rows. */
export class StubDatabase {
  closed = false;
  currentStatus = { connected: true, connecting: false };
  hasQueueTable = true;

  constructor(queue = []) {
    this.queue = queue;
  }

  /** Adds a local transaction; each operation is the JSON text of its queue entry. */
  write(transactionId, ...operations) {
    for (const data of operations) {
      const id = (this.queue.at(-1)?.id ?? this.last ?? 0) + 1;
      this.last = id;
      this.queue.push({ id, tx_id: transactionId, data });
    }
  }

  async getClientId() {
    return 'client "one"';
  }

  async getAll(sql, [first, last]) {
    if (!this.hasQueueTable) {
      throw new Error('no such table: ps_crud');
    }
    return this.queue.filter((row) => row.id >= first && row.id <= last);
  }

  async getNextCrudTransaction() {
    return (await this.getCrudTransactions()[Symbol.asyncIterator]().next()).value;
  }

  getCrudTransactions() {
    return {
      [Symbol.asyncIterator]: () => {
        let after = -1;
        return {
          next: async () => {
            const first = this.queue.find((row) => row.id > after);
            if (first === undefined) {
              return { done: true, value: null };
            }
            const rows = this.queue.filter((row) => row.id > after && row.tx_id === first.tx_id);
            const last = rows.at(-1).id;
            after = last;
            const value = {
              crud: rows.map(entry),
              transactionId: first.tx_id,
              complete: async () => {
                this.queue = this.queue.filter((row) => row.id > last);
              },
            };
            return { done: false, value };
          },
        };
      },
    };
  }
}

function entry(row) {
  const { op, type, id, data, old, metadata } = JSON.parse(row.data);
  return {
    clientId: row.id,
    transactionId: row.tx_id,
    op,
    table: type,
    id,
    opData: data,
    toJSON: () => ({ op_id: row.id, op, type, id, tx_id: row.tx_id, data, old, metadata }),
  };
}
