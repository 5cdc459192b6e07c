/**
 * Applications of IHP: its tables and roles, and pages that have an original client of DataSync in them,
 * unmodified, with what a browser would give them.
 */

import assert from 'node:assert/strict';
import fs from 'node:fs';
import { createRequire } from 'node:module';

import { build } from 'esbuild';

import { Postgres } from './postgres.js';
import { token } from './token.js';
import { World } from './world.js';

/** After this long what does not come true is a failure. Not a measure of anything. */
const LIMIT_MS = 30_000;
/** The globals that each page has of its own. */
const GLOBALS = ['localStorage', 'WebSocket', 'setTimeout', 'clearTimeout', 'console', 'event'];

const require = createRequire(import.meta.url);
const read = (/** @type {string} */ place) => fs.readFileSync(new URL(place, import.meta.url), 'utf8');

export const ANN = 'a0000000-0000-4000-8000-000000000001';
export const BOB = 'b0000000-0000-4000-8000-000000000002';

const SYNC_CONFIG = `
config:
  edition: 3
streams:
  beacon:
    auto_subscribe: true
    query: SELECT * FROM beacon
`;

/**
 * A client's program as text, of what an application imports.
 * @param {string} imports
 * @param {string} directory where they are found from
 * @param {Record<string, string>} [alias]
 */
export async function program(imports, directory, alias = {}) {
  const { outputFiles } = await build({
    stdin: { contents: imports, resolveDir: directory },
    alias,
    bundle: true,
    external: ['react'],
    format: 'cjs',
    write: false,
    logLevel: 'silent',
  });
  return outputFiles[0].text;
}

/**
 * A socket that lets a page finish what one message made it do before the next comes, as browsers do.
 * Node gives all messages of one piece of data at once.
 */
class BrowserSocket extends WebSocket {
  #last = Promise.resolve();

  #next(/** @type {() => void} */ step) {
    this.#last = this.#last.then(() => new Promise((resolve) => setImmediate(() => {
      resolve(undefined);
      step();
    })));
  }

  set onmessage(/** @type {any} */ listener) {
    super.onmessage = (event) => this.#next(() => listener(event));
  }

  set onclose(/** @type {any} */ listener) {
    super.onclose = (event) => this.#next(() => listener(event));
  }
}

/** A page with a client of its own. What the client exports is in `ihp`. */
export class Page {
  /** @type {any} */
  ihp;
  /** @type {unknown[][]} What the client called an error. */
  complaints = [];
  /** @type {WebSocket[]} */
  #sockets = [];
  /** @type {Map<string, string>} */
  #stored = new Map();
  /** @type {() => void} */
  #refuse = () => {};
  /** When a socket of it was not let in for the first time. */
  refused = new Promise((resolve) => (this.#refuse = () => resolve(undefined)));
  /** @type {Set<NodeJS.Timeout>} */
  #timers = new Set();
  #isClosed = false;

  /** @param {string} code @param {string | null} jwt */
  constructor(code, jwt) {
    const page = this;
    const stored = this.#stored;
    if (jwt !== null) this.signIn(jwt);
    /** @type {Record<string, unknown>} */
    const globals = {
      localStorage: {
        getItem: (/** @type {string} */ key) => stored.get(key) ?? null,
        setItem: (/** @type {string} */ key, /** @type {string} */ value) => void stored.set(key, value),
      },
      WebSocket: class extends BrowserSocket {
        constructor(/** @type {string} */ url) {
          super(url);
          page.#sockets.push(this);
          this.addEventListener('error', page.#refuse);
        }
      },
      setTimeout: (/** @type {() => void} */ then, /** @type {number} */ ms) => {
        if (page.#isClosed) return undefined;
        const timer = setTimeout(() => {
          page.#timers.delete(timer);
          then();
        }, ms);
        page.#timers.add(timer);
        return timer;
      },
      clearTimeout: (/** @type {NodeJS.Timeout} */ timer) => clearTimeout(timer),
      console: { log: () => {}, error: (/** @type {unknown[]} */ ...what) => void page.complaints.push(what) },
    };
    const module = { exports: {} };
    new Function('module', 'exports', 'require', ...GLOBALS, code)(module, module.exports, require, ...GLOBALS.map((name) => globals[name]));
    this.ihp = module.exports;
  }

  /** Stores a token where the client looks for it when it connects. */
  signIn(/** @type {string} */ jwt) {
    this.#stored.set('ihp_jwt', jwt);
  }

  /** How many sockets it has opened. */
  get sockets() {
    return this.#sockets.length;
  }

  /** Cuts its connection. */
  cut() {
    this.#sockets.at(-1)?.close();
  }

  close() {
    this.#isClosed = true;
    for (const timer of this.#timers) clearTimeout(timer);
    for (const socket of this.#sockets) {
      socket.onmessage = () => {};
      socket.onclose = () => {};
      socket.close();
    }
  }
}

/** What a query of a page shows, watched. */
export class Shown {
  /** @type {any[] | null} */
  rows = null;
  /** @type {any[][]} Everything that was shown. */
  history = [];
  /** @type {Set<() => void>} */
  #waiting = new Set();

  constructor(/** @type {any} */ builder) {
    this.stop = builder.subscribe((/** @type {any[] | null} */ rows) => {
      this.rows = rows;
      if (rows !== null) this.history.push(rows);
      for (const look of [...this.#waiting]) look();
    });
  }

  /** Waits until a condition of what is shown holds. @param {string} what @param {(rows: any[]) => boolean} condition */
  until(what, condition) {
    return /** @type {Promise<any[]>} */ (new Promise((resolve, reject) => {
      const look = () => {
        if (this.rows === null || !condition(this.rows)) return;
        clearTimeout(timer);
        this.#waiting.delete(look);
        resolve(this.rows);
      };
      const timer = setTimeout(() => {
        this.#waiting.delete(look);
        reject(new Error(`never: ${what}: ${JSON.stringify(this.rows)}`));
      }, LIMIT_MS);
      this.#waiting.add(look);
      look();
    }));
  }

  /** Waits until the rows have these titles, in this order. @param {string[]} titles */
  titles(titles) {
    return this.until(`titles ${titles}`, (rows) => JSON.stringify(rows.map(({ title }) => title)) === JSON.stringify(titles));
  }
}

/** A database of an IHP application and a server on it, in a cluster of their own: what its roles are called counts for all of a cluster. */
export class IhpWorld {
  /** @type {Page[]} */
  #pages = [];
  #cluster;

  /** @param {World} world @param {Postgres} cluster */
  constructor(world, cluster) {
    this.world = world;
    this.sql = world.sql;
    this.server = world.server;
    this.#cluster = cluster;
  }

  /** @param {{before?: string, config?: string}} [options] */
  static async start({ before = '', config = 'datasync:\n  enabled: true\n' } = {}) {
    const cluster = await Postgres.start();
    try {
      const users = `INSERT INTO users VALUES ('${ANN}', 'ann@example.com', ''), ('${BOB}', 'bob@example.com', '');`;
      const world = await World.start({
        tables: read('../worlds/ihp.sql'), access: users, before, syncConfig: SYNC_CONFIG, config, cluster: cluster.url,
      });
      return new IhpWorld(world, cluster);
    } catch (error) {
      await cluster.stop();
      throw error;
    }
  }

  /** A page that has this program, of this user; closed with the world. @param {string} code @param {string | null} user */
  page(code, user) {
    const page = new Page(code, user === null ? null : token(user));
    this.#pages.push(page);
    return page;
  }

  /**
   * What Postgres itself answers to somebody, as IHP asks it.
   * @param {string} user @param {string} query
   */
  async as(user, query) {
    const { sql } = this;
    try {
      await sql.query('BEGIN');
      await sql.query(`SELECT set_config('role', 'ihp_authenticated', true), set_config('rls.ihp_user_id', $1, true)`, [user]);
      return (await sql.query(query)).rows;
    } finally {
      await sql.query('ROLLBACK');
    }
  }

  async close() {
    for (const page of this.#pages) page.close();
    try {
      await this.world.close();
    } finally {
      await this.#cluster.stop();
    }
    assert.deepEqual(this.#pages.flatMap(({ complaints }) => complaints), [], 'a client complained');
  }
}
