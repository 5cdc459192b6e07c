/**
 * Live queries as the suite sees them: a world with the tables of `worlds/live.sql`, clients of our
 * SDK, and waiting for what they show.
 */

import fs from 'node:fs';

import { LiveClient } from '@headwater/client/live';

import { TcpProxy } from './tcp_proxy.js';
import { token } from './token.js';
import { World } from './world.js';

/** After this long what does not come true is a failure. Not a measure of anything. */
const LIMIT_MS = 60_000;

const read = (/** @type {string} */ place) => fs.readFileSync(new URL(place, import.meta.url), 'utf8');

const SYNC_CONFIG = `
config:
  edition: 3
streams:
  beacon:
    auto_subscribe: true
    query: SELECT * FROM beacon
`;

export class LiveWorld {
  /** @type {LiveClient[]} */
  #clients = [];
  /** @type {TcpProxy[]} */
  #proxies = [];

  constructor(/** @type {World} */ world) {
    this.world = world;
    this.sql = world.sql;
    this.server = world.server;
  }

  /** @param {{before?: string, config?: string}} [options] */
  static async start({ before = '', config = 'datasync:\n  enabled: true\n' } = {}) {
    const tables = read('../worlds/live.sql');
    const access = read('../worlds/live_access.sql');
    return new LiveWorld(await World.start({ tables, access, before, syncConfig: SYNC_CONFIG, config }));
  }

  /**
   * A client of this user; closed with the world.
   * @param {string | null} user
   * @param {import('@headwater/client/live').LiveClientOptions} [options]
   */
  client(user, options = {}) {
    const give = () => (user === null ? null : token(user));
    const client = new LiveClient({ host: this.server.url, token: give, ...options });
    this.#clients.push(client);
    return client;
  }

  /** A proxy in front of the server; closed with the world. */
  async proxy() {
    const proxy = await TcpProxy.start(this.server.url);
    this.#proxies.push(proxy);
    return proxy;
  }

  /**
   * What Postgres itself answers to somebody.
   * @param {string} user @param {string} query
   */
  async as(user, query) {
    const { sql } = this;
    try {
      await sql.query('BEGIN');
      await sql.query('SET LOCAL ROLE headwater_authenticated');
      await sql.query(`SELECT set_config('request.jwt.claim.sub', $1, true)`, [user]);
      await sql.query(`SET LOCAL TIME ZONE 'UTC'`);
      return (await sql.query(query)).rows;
    } finally {
      await sql.query('ROLLBACK');
    }
  }

  async close() {
    for (const client of this.#clients) client.close();
    for (const proxy of this.#proxies) await proxy.close();
    await this.world.close();
  }
}

/** What a live query shows, watched. */
export class Watched {
  /** @type {(() => void)[]} */
  #waiting = [];

  /**
   * @param {LiveClient} client
   * @param {import('@headwater/client/live').QueryBuilder<any, any> | import('@headwater/client/live').AggregateBuilder<any>} builder
   */
  constructor(client, builder, kind = 'rows') {
    this.live =
      'groups' in builder
        ? client.groups(builder.query, builder.groups)
        : kind === 'rows'
          ? client.rows(builder.query)
          : client.count(builder.query);
    /** @type {any[]} Everything that was shown. */
    this.history = [];
    this.stop = this.live.listen(() => {
      this.history.push(this.live.state.data);
      for (const look of [...this.#waiting]) look();
    });
  }

  get data() {
    return /** @type {any} */ (this.live.state.data);
  }

  /** Waits until a condition of what is shown holds. @param {string} what @param {(data: any) => boolean} condition */
  until(what, condition) {
    return new Promise((resolve, reject) => {
      const look = () => {
        const { data, error } = this.live.state;
        if (error !== null) end(() => reject(error));
        else if (data !== null && condition(data)) end(() => resolve(data));
      };
      const end = (/** @type {() => void} */ then) => {
        clearTimeout(timer);
        this.#waiting = this.#waiting.filter((one) => one !== look);
        then();
      };
      const timer = setTimeout(() => {
        end(() => reject(new Error(`never: ${what}; ${this.live.state.status}: ${JSON.stringify(this.live.state.data)}`)));
      }, LIMIT_MS);
      this.#waiting.push(look);
      look();
    });
  }

  /** Waits until the rows are these values of a field, in this order. @param {string} field @param {unknown[]} expected */
  async shows(field, expected) {
    const text = JSON.stringify(expected);
    await this.until(`${field}: ${text}`, (rows) => JSON.stringify(rows.map((/** @type {any} */ row) => row[field])) === text);
  }
}
