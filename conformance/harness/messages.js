/**
 * The DataSync protocol message by message: a bare socket without any SDK, so that what is sent and
 * answered is what `docs/live-queries.md` says, to the letter.
 */

import assert from 'node:assert/strict';

import { token } from './token.js';

/** After this long what does not come is a failure. Not a measure of anything. */
const LIMIT_MS = 60_000;

/** @typedef {Record<string, any>} Message */

export class Messages {
  /** @type {Message[]} What came and was not taken yet. */
  #came = [];
  /** @type {(() => void)[]} */
  #waiting = [];
  #next = 0;
  /** @type {WebSocket} */
  #socket;
  /** @type {Promise<{code: number, reason: string}>} */
  closed;

  constructor(/** @type {WebSocket} */ socket) {
    this.#socket = socket;
    socket.addEventListener('message', ({ data }) => {
      const message = JSON.parse(String(data));
      // A sign of life while an answer takes long.
      if (message.tag !== 'KeepAlive') this.#came.push(message);
      for (const look of this.#waiting.splice(0)) look();
    });
    this.closed = new Promise((resolve) => {
      socket.addEventListener('close', ({ code, reason }) => resolve({ code, reason }));
    });
  }

  /** A user's socket. @param {string} url of the server @param {string} user */
  static async open(url, user) {
    const address = `${url.replace(/^http/, 'ws')}/DataSyncController?access_token=${token(user)}`;
    const socket = new WebSocket(address);
    await new Promise((resolve, reject) => {
      socket.addEventListener('open', resolve);
      socket.addEventListener('error', () => reject(new Error('it was not opened')));
    });
    return new Messages(socket);
  }

  /** Sends a text as it is. */
  text(/** @type {string} */ text) {
    this.#socket.send(text);
  }

  /** Sends a message; its number. @param {Message} message */
  send(message) {
    const requestId = this.#next;
    this.#next += 1;
    this.text(JSON.stringify({ ...message, requestId }));
    return requestId;
  }

  /** Sends a message; the answer, without its number. @param {Message} message @returns {Promise<Message>} */
  async ask(message) {
    const number = this.send(message);
    const { requestId, ...answer } = await this.#take((came) => came.requestId === number);
    return answer;
  }

  /** The next message that answers no request. @returns {Promise<Message>} */
  push() {
    return this.#take((came) => came.requestId === undefined);
  }

  /** What must be refused: code, SQLSTATE and sentence. @param {Message} message */
  async refused(message) {
    const { tag, code, sqlstate, errorMessage } = await this.ask(message);
    assert.equal(tag, 'DataSyncError');
    assert.match(code, /^HW\d{4}$/);
    return { code, sqlstate, errorMessage };
  }

  close() {
    this.#socket.close();
  }

  /** @param {(message: Message) => boolean} which @returns {Promise<Message>} */
  async #take(which) {
    const end = Date.now() + LIMIT_MS;
    for (;;) {
      const at = this.#came.findIndex(which);
      if (at >= 0) return this.#came.splice(at, 1)[0];
      if (Date.now() > end) throw new Error(`it did not come; there are ${JSON.stringify(this.#came)}`);
      await new Promise((resolve) => {
        const timer = setTimeout(resolve, LIMIT_MS);
        this.#waiting.push(() => {
          clearTimeout(timer);
          resolve(undefined);
        });
      });
    }
  }
}

/** @param {string} table @param {Message} [more] */
export const query = (table, more = {}) => ({
  table,
  selectedColumns: { tag: 'SelectAll' },
  whereCondition: null,
  orderByClause: [],
  ...more,
});

/** @param {string[]} contents */
export const select = (...contents) => ({ selectedColumns: { tag: 'SelectSpecific', contents } });

export const field = (/** @type {string} */ name) => ({ tag: 'ColumnExpression', field: name });
export const value = (/** @type {unknown} */ it) => ({ tag: 'LiteralExpression', value: it });
/** @param {Message} left @param {string} op @param {Message} [right] */
export const infix = (left, op, right) => ({ tag: 'InfixOperatorExpression', left, op, right });
/** @param {string} column */
export const order = (column, direction = 'Asc') => ({ orderByColumn: column, orderByDirection: direction });
