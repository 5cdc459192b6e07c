/**
 * An HTTP proxy between client and server that knows the lines of the sync stream.
 *
 * In: requests of the SDK. Out: the same to the server, and its answers back; each line of a stream
 * is shown to the test first, which may hold it, pass it, or cut the connection there. Every
 * exchange is recorded. Invariant: a line that was passed on has reached the client's socket in
 * full before the next one is asked for. (A client may still drop what it has not read when the
 * connection is cut then.)
 *
 * Streams are asked for without compression and as NDJSON, so that lines can be told apart.
 */

import { EventEmitter, once } from 'node:events';
import http from 'node:http';

import { LIMIT_MS } from './client.js';

/**
 * @typedef {object} Exchange
 * @property {number} number counted from 0 over all exchanges
 * @property {string} method
 * @property {string} path
 * @property {any} body parsed JSON of the request, if it had any
 * @property {number | undefined} status of the answer
 * @property {string[]} lines those passed on to the client
 * @property {boolean} open
 * @property {() => void} cut destroys the connection in both directions
 */

/**
 * What to do with a line: `undefined` passes it, `'end'` ends the answer properly before it, so that
 * the client surely gets all lines up to there, `'cut'` cuts the connection before it, a number
 * cuts after as many of its bytes.
 * @typedef {undefined | 'end' | 'cut' | number} LineVerdict
 */

/**
 * What to do with a request: `undefined` passes it, `'drop answer'` lets the server do its work and
 * then cuts, an object is answered at once.
 * @typedef {undefined | 'drop answer' | {status: number, body: string}} RequestVerdict
 */

const isStream = (/** @type {string} */ path) => path.startsWith('/sync/stream');

export class LineProxy {
  /** @type {Exchange[]} */
  exchanges = [];
  /** @type {(line: string, index: number, exchange: Exchange) => LineVerdict | Promise<LineVerdict>} */
  onLine = () => undefined;
  /** @type {(exchange: Exchange) => RequestVerdict | Promise<RequestVerdict>} */
  onRequest = () => undefined;
  #target;
  #server;
  #events = new EventEmitter();

  /** @param {string} target for example `http://127.0.0.1:8080` */
  constructor(target) {
    this.#target = new URL(target);
    this.#events.setMaxListeners(0);
    this.#server = http.createServer((request, response) => {
      this.#exchange(request, response).catch(() => response.destroy());
    });
  }

  /** @param {string} target */
  static async start(target) {
    const proxy = new LineProxy(target);
    proxy.#server.listen(0, '127.0.0.1');
    await once(proxy.#server, 'listening');
    const { port } = /** @type {import('node:net').AddressInfo} */ (proxy.#server.address());
    proxy.url = `http://127.0.0.1:${port}`;
    return proxy;
  }

  /** The streams so far, in order. */
  get streams() {
    return this.exchanges.filter(({ path }) => isStream(path));
  }

  /**
   * Waits until `condition` holds; asked again at every request, line and end.
   * @template T
   * @param {string} what
   * @param {() => T} condition
   * @returns {Promise<T>}
   */
  until(what, condition) {
    return new Promise((resolve, reject) => {
      const end = () => {
        clearTimeout(timer);
        this.#events.off('moved', ask);
      };
      const timer = setTimeout(() => {
        end();
        const seen = this.streams.map(({ lines, status }) => `${status}: ${lines.map((l) => l.slice(0, 300)).join('\n  ')}`);
        reject(new Error(`the proxy waited in vain until ${what}\n${seen.join('\n')}`));
      }, LIMIT_MS);
      const ask = () => {
        const answer = condition();
        if (!answer) return;
        end();
        resolve(answer);
      };
      this.#events.on('moved', ask);
      ask();
    });
  }

  /** Cuts every open stream. */
  cutAll() {
    for (const exchange of this.streams) exchange.cut();
  }

  async close() {
    this.#server.close();
    this.#server.closeAllConnections();
    for (const exchange of this.exchanges) exchange.cut();
  }

  async #exchange(/** @type {http.IncomingMessage} */ request, /** @type {http.ServerResponse} */ response) {
    const text = (await request.setEncoding('utf8').toArray()).join('');
    let upstream = /** @type {http.ClientRequest | undefined} */ (undefined);
    const exchange = {
      number: this.exchanges.length,
      method: request.method ?? '',
      path: request.url ?? '',
      body: text === '' ? undefined : JSON.parse(text),
      status: /** @type {number | undefined} */ (undefined),
      lines: /** @type {string[]} */ ([]),
      open: true,
      cut: () => {
        upstream?.destroy();
        response.destroy();
      },
    };
    this.exchanges.push(exchange);
    response.on('close', () => {
      exchange.open = false;
      upstream?.destroy();
      this.#events.emit('moved');
    });
    const verdict = await this.onRequest(exchange);
    this.#events.emit('moved');
    if (typeof verdict === 'object') {
      exchange.status = verdict.status;
      response.writeHead(verdict.status, { 'content-type': 'application/json' }).end(verdict.body);
      return;
    }
    const headers = { ...request.headers, 'accept-encoding': 'identity', connection: 'close' };
    delete headers['transfer-encoding'];
    if (isStream(exchange.path)) headers.accept = 'application/x-ndjson';
    if (text !== '') headers['content-length'] = String(Buffer.byteLength(text));
    upstream = http.request({
      host: this.#target.hostname,
      port: this.#target.port,
      method: exchange.method,
      path: exchange.path,
      headers,
    });
    upstream.on('error', () => response.destroy());
    upstream.end(text);
    const [answer] = await once(upstream, 'response');
    exchange.status = answer.statusCode;
    answer.on('error', () => response.destroy());
    if (verdict === 'drop answer') {
      await answer.toArray();
      exchange.cut();
      return;
    }
    const passed = { ...answer.headers };
    delete passed['transfer-encoding'];
    delete passed.connection;
    response.writeHead(answer.statusCode ?? 502, passed);
    response.flushHeaders();
    if (isStream(exchange.path) && answer.statusCode === 200) {
      await this.#lines(answer, response, exchange);
      upstream.destroy();
    } else {
      for await (const chunk of answer) response.write(chunk);
    }
    response.end();
  }

  async #lines(
    /** @type {http.IncomingMessage} */ answer,
    /** @type {http.ServerResponse} */ response,
    /** @type {Exchange} */ exchange,
  ) {
    let rest = Buffer.alloc(0);
    for await (const chunk of answer) {
      rest = Buffer.concat([rest, chunk]);
      for (let at = rest.indexOf(10); at >= 0; at = rest.indexOf(10)) {
        const bytes = rest.subarray(0, at + 1);
        rest = rest.subarray(at + 1);
        const line = bytes.toString('utf8').trimEnd();
        const verdict = await this.onLine(line, exchange.lines.length, exchange);
        if (!exchange.open) return;
        if (verdict === 'end') return;
        if (verdict !== undefined) {
          if (typeof verdict === 'number') await write(response, bytes.subarray(0, verdict));
          exchange.cut();
          return;
        }
        await write(response, bytes);
        exchange.lines.push(line);
        this.#events.emit('moved');
      }
    }
  }
}

/** Resolves when the bytes were handed to the system (or the connection is gone). */
function write(/** @type {http.ServerResponse} */ response, /** @type {Buffer} */ bytes) {
  return new Promise((resolve) => response.write(bytes, resolve));
}

/** The kind of a line: its only key. @param {string} line */
export const kind = (line) => Object.keys(JSON.parse(line))[0];
