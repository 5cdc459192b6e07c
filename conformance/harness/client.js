/**
 * The official Node SDK, unmodified, with what a test needs around it: a database file that can be
 * opened again, a short retry delay, its log, and waiting for conditions instead of sleeping.
 *
 * Invariant: a client that ever saw a checksum mismatch fails its test when it is closed, even if
 * it mended itself by downloading again.
 */

import assert from 'node:assert/strict';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';

import { LogLevels } from '@powersync/common';
import { PowerSyncDatabase } from '@powersync/node';

import { token } from './token.js';

/** After this long a condition that does not come true is a failure. Not a measure of anything. */
export const LIMIT_MS = 60_000;

/** Delays of the SDK, which are there to spare servers, cut short. */
const CONNECT = { retryDelayMs: 20, crudUploadThrottleMs: 5 };

/** Tables of the SDK itself whose changes conditions may depend on. */
const INTERNAL_TABLES = ['ps_buckets', 'ps_crud', 'ps_kv', 'ps_sync_state', 'ps_stream_subscriptions'];

/**
 * @typedef {object} ClientOptions
 * @property {import('@powersync/common').Schema} schema
 * @property {string} user the token's subject
 * @property {string} endpoint where to connect
 * @property {Record<string, unknown>} [claims] further claims of the token
 * @property {import('@powersync/node').PowerSyncBackendConnector} [connector] default: reads only
 * @property {string} [directory] of an earlier client whose database is opened again
 */

export class Client {
  /** @type {import('@powersync/common').LogRecord[]} */
  records = [];
  /** How many times the SDK asked for credentials. */
  credentialsFetched = 0;
  /** @type {string[]} */
  #tables;
  #closed = false;
  #keepFiles = false;

  /** @param {ClientOptions} options */
  constructor(options) {
    this.options = options;
    this.user = options.user;
    this.directory = options.directory ?? fs.mkdtempSync(path.join(os.tmpdir(), 'hw-client-'));
    this.#tables = [
      ...options.schema.tables.map((table) => table.name),
      ...options.schema.rawTables.map((table) => table.name),
      ...INTERNAL_TABLES,
    ];
    this.db = new PowerSyncDatabase({
      schema: options.schema,
      // Databases of one file name share one lock within a process: each needs a name of its own.
      database: { dbFilename: `${path.basename(this.directory)}.db`, dbLocation: this.directory, readWorkerCount: 1 },
      logger: { log: (record) => void this.records.push(record) },
    });
  }

  /** What the SDK calls: counted credentials, and uploads if the test gave a connector for them. */
  get connector() {
    const inner = this.options.connector;
    return {
      fetchCredentials: async () => {
        this.credentialsFetched += 1;
        if (inner) return inner.fetchCredentials();
        const { endpoint, user, claims } = this.options;
        return { endpoint, token: token(user, { claims }) };
      },
      uploadData: async (/** @type {import('@powersync/node').AbstractPowerSyncDatabase} */ db) => {
        if (!inner) throw new Error('this client does not write');
        await inner.uploadData(db);
      },
    };
  }

  /**
   * Starts syncing; does not wait for data.
   * @param {import('@powersync/common').SyncOptions} [options]
   */
  async connect(options = {}) {
    // The SDK would try for ever, and the process would not end.
    assert.ok(!this.#closed, 'a closed client connects');
    await this.db.connect(this.connector, { ...CONNECT, ...options });
  }

  /** All rows of a local query. @param {string} sql @param {any[]} [parameters] */
  rows(sql, parameters = []) {
    return this.db.getAll(sql, parameters);
  }

  /**
   * Waits until `condition` holds; asked again whenever a table or the status of the SDK changes.
   * @template T
   * @param {string} what for the failure's text
   * @param {() => T | Promise<T>} condition
   * @returns {Promise<T>} the first truthy answer
   */
  until(what, condition) {
    return new Promise((resolve, reject) => {
      let [asking, again, done] = [false, false, false];
      const stops = [
        this.db.onChangeWithCallback({ onChange: () => ask() }, { tables: this.#tables, throttleMs: 1 }),
        this.db.registerListener({ statusChanged: () => void ask() }),
      ];
      const end = () => {
        done = true;
        clearTimeout(timer);
        for (const stop of stops) stop();
      };
      const timer = setTimeout(() => {
        end();
        reject(new Error(`${this.user} waited in vain until ${what}\n${this.describe()}`));
      }, LIMIT_MS);
      const ask = async () => {
        if (asking) {
          again = true;
          return;
        }
        asking = true;
        try {
          do {
            again = false;
            const answer = await condition();
            if (done) return;
            if (answer) {
              end();
              resolve(answer);
            }
          } while (again);
        } catch (error) {
          end();
          reject(error);
        } finally {
          asking = false;
        }
      };
      void ask();
    });
  }

  /** Waits until the beacon (see `world.js`) has reached `n`. @param {number} n */
  async reached(n) {
    await this.until(`the beacon is at ${n}`, async () => {
      const row = await this.db.getOptional('SELECT n FROM beacon');
      return row !== null && row.n >= n;
    });
  }

  /** Waits until everything has been downloaded once. */
  async synced() {
    await this.until('the first sync is complete', () => this.db.currentStatus.hasSynced);
  }

  /**
   * Subscribes to a stream and waits until its rows are there.
   * @param {string} stream
   * @param {Record<string, any>} [parameters]
   * @param {import('@powersync/common').SyncStreamSubscribeOptions} [options]
   */
  async subscribed(stream, parameters, options) {
    const subscription = await this.db.syncStream(stream, parameters).subscribe(options);
    await this.until(
      `stream ${stream} ${JSON.stringify(parameters)} is there`,
      () => this.db.currentStatus.forStream(subscription)?.subscription.hasSynced,
    );
    return subscription;
  }

  /** Waits until nothing is left to upload and the last own write has come back. */
  async settled() {
    await this.until('every own write has come back', async () => {
      const [{ waiting }] = await this.rows('SELECT count(*) AS waiting FROM ps_crud');
      return waiting === 0 && (await this.#targetReached());
    });
  }

  /** Protocol 8.6: the target is the highest number while writes wait, else a write checkpoint. */
  async #targetReached() {
    const rows = await this.rows('SELECT key, value FROM ps_kv');
    const kv = Object.fromEntries(rows.map(({ key, value }) => [key, BigInt(/^\d+$/.test(value) ? value : 0)]));
    const target = kv.target_checkpoint_request_id ?? 0n;
    return target <= (kv.last_applied_checkpoint_request_id ?? 0n);
  }

  /** The buckets it holds with position and checksum over everything it has received of them. */
  async buckets() {
    const rows = await this.rows(
      `SELECT name, last_op, (add_checksum + op_checksum) & 0xffffffff AS checksum FROM ps_buckets
       WHERE pending_delete = 0 AND name <> '$local' ORDER BY name`,
    );
    return rows.map(({ name, last_op, checksum }) => ({ name, position: String(last_op), checksum }));
  }

  /** Status and log, for a failure's text. */
  describe() {
    const log = this.records.map(({ level, message, error }) => `  ${level} ${message} ${error ?? ''}`);
    const { currentStatus: status } = this.db;
    const streams = (status.syncStreams ?? []).map(({ subscription }) => `  ${JSON.stringify(subscription)}`);
    return [`status: ${status.getMessage()}`, ...streams, 'log of the SDK:', ...log].join('\n');
  }

  /** Whether the SDK has logged a message like this. @param {RegExp} pattern */
  logged(pattern) {
    return this.records.some(({ message, error }) => pattern.test(`${message} ${error ?? ''}`));
  }

  /** Closes the database and opens its file again, as an app that was started anew. */
  async reopened(/** @type {Partial<ClientOptions>} */ changes = {}) {
    const { directory } = await this.released();
    return new Client({ ...this.options, ...changes, directory });
  }

  /** Closes the database and leaves its files to somebody else. */
  async released() {
    this.#keepFiles = true;
    await this.close();
    return { directory: this.directory };
  }

  /** Closes it; the second call does nothing. */
  async close() {
    if (this.#closed) return;
    this.#closed = true;
    await this.db.close();
    if (!this.#keepFiles) fs.rmSync(this.directory, { recursive: true, force: true });
    const mismatches = this.records.filter(
      ({ level, message }) => level >= LogLevels.info && /checksum/i.test(message),
    );
    assert.deepEqual(mismatches, [], 'checksum failures that the SDK reported');
  }
}
