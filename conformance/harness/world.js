/**
 * What most tests stand on: a database with the tables of `worlds/lists.sql`, a server on it with
 * `worlds/lists.yaml`, clients, and the barrier.
 *
 * The barrier: a row of its own, the beacon, is counted up in Postgres; a client that sees the new
 * number has applied everything that was committed before, because checkpoints follow the order
 * of the source's transactions. Nothing in this suite sleeps.
 */

import fs from 'node:fs';

import { Client } from './client.js';
import { LineProxy } from './line_proxy.js';
import { connect } from './postgres.js';
import { SCHEMA } from './schema.js';
import { Server } from './server.js';

const read = (/** @type {string} */ place) => fs.readFileSync(new URL(place, import.meta.url), 'utf8');
const SAMPLE = '../../crates/headwater/sample';

/** The sync configuration that worlds have unless they say otherwise. */
export const LISTS_YAML = read('../worlds/lists.yaml');

/** The sample of `headwater dev` instead of the suite's own tables; without rows, and no barrier. */
export const SAMPLE_WORLD = {
  tables: read(`${SAMPLE}/schema.sql`),
  access: read(`${SAMPLE}/policies.sql`),
  syncConfig: read(`${SAMPLE}/sync.yaml`),
};

let databases = 0;

export class World {
  /** @type {Client[]} */
  clients = [];
  /** @type {LineProxy[]} */
  proxies = [];

  /**
   * @param {string} database
   * @param {import('pg').Client} sql
   * @param {Server} server
   */
  constructor(database, sql, server) {
    this.database = database;
    this.sql = sql;
    this.server = server;
  }

  /**
   * @param {object} [options]
   * @param {string} [options.tables] SQL that makes the tables
   * @param {string} [options.access] SQL that runs once `headwater setup` has made its role
   * @param {string} [options.before] further SQL that runs before the server starts
   * @param {string | null} [options.syncConfig] `null`: policies are synced
   * @param {string} [options.config] text of `headwater.yaml`
   * @param {string} [options.cluster] URL of another cluster than the run's
   */
  static async start({
    tables = read('../worlds/lists.sql'),
    access = read('../worlds/lists_access.sql'),
    before = '',
    syncConfig = LISTS_YAML,
    config,
    cluster = process.env.CONFORMANCE_POSTGRES,
  } = {}) {
    if (!cluster) throw new Error('run the suite with `npm test`, which starts a Postgres for it');
    databases += 1;
    const name = `c_${process.pid}_${databases}`;
    const url = `${cluster}/${name}`;
    const admin = await connect(`${cluster}/postgres`);
    try {
      // Files run side by side, and both roles and templates belong to the whole cluster.
      await admin.query('SELECT pg_advisory_lock(1)');
      await admin.query(`CREATE DATABASE ${name}`);
      const sql = await connect(url);
      const server = await Server.create(url, { syncConfig, config });
      const world = new World(url, sql, server);
      // The suite's streams take parameters that clients choose, and the server says so at each start.
      server.allowed.push(/"code":"HW1215"/);
      try {
        await sql.query(tables);
        server.run(['setup', '--yes']);
        await sql.query(access);
        await sql.query(before);
        await admin.query('SELECT pg_advisory_unlock(1)');
        await server.startAgain();
        return world;
      } catch (error) {
        // What did not start must not keep the run from ending.
        server.allowed.push(/./);
        await world.close().catch(() => {});
        throw error;
      }
    } finally {
      await admin.end();
    }
  }

  /**
   * A client of this user; closed with the world.
   * @param {string} user
   * @param {Partial<import('./client.js').ClientOptions>} [options]
   */
  client(user, options = {}) {
    return this.adopt(new Client({ schema: SCHEMA, endpoint: this.server.url, user, ...options }));
  }

  /** Closes this client too at the end. @param {Client} client */
  adopt(client) {
    this.clients.push(client);
    return client;
  }

  /** A proxy in front of the server; closed with the world. */
  async proxy() {
    const proxy = await LineProxy.start(this.server.url);
    this.proxies.push(proxy);
    return proxy;
  }

  /**
   * Runs statements as one transaction.
   * @param {string} statements
   */
  async commit(statements) {
    await this.sql.query(`BEGIN; ${statements}; COMMIT`);
  }

  /** All rows of a query in Postgres. @param {string} query @param {unknown[]} [parameters] */
  async ask(query, parameters = []) {
    return (await this.sql.query(query, parameters)).rows;
  }

  /** Counts the beacon up and waits until these clients see it. @param {Client[]} clients */
  async barrier(...clients) {
    const { rows } = await this.sql.query(
      `INSERT INTO beacon VALUES ('beacon', 1) ON CONFLICT (id) DO UPDATE SET n = beacon.n + 1 RETURNING n`,
    );
    await Promise.all(clients.map((client) => client.reached(rows[0].n)));
  }

  /** Closes clients, proxies and server, in this order; all of them, even if one fails. */
  async close() {
    const steps = [
      ...this.clients.map((client) => () => client.close()),
      ...this.proxies.map((proxy) => () => proxy.close()),
      () => this.server.close(),
      () => this.sql.end(),
    ];
    /** @type {unknown[]} */
    const failures = [];
    for (const step of steps) {
      await step().catch((failure) => failures.push(failure));
    }
    if (failures.length > 0) throw failures[0];
  }
}
