/**
 * Sync from random policies: after every change of rows, memberships, policies, flags and grants the SDK of each
 * user holds what Postgres shows that user, and what is refused for sync is refused by its name.
 *
 * `HEADWATER_SEED=n` repeats one seed, `HEADWATER_SEEDS=n` runs so many, from `HEADWATER_FIRST_SEED` on.
 */

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { column, Schema, Table } from '@powersync/node';

import { LIMIT_MS } from '../harness/client.js';
import { COLUMNS, Policies, PRINCIPALS, ROLE } from '../harness/policies.js';
import { Random } from '../harness/random.js';
import { World } from '../harness/world.js';

const { HEADWATER_SEED, HEADWATER_SEEDS, HEADWATER_FIRST_SEED, HEADWATER_SOAK } = process.env;
const FIRST = Number(HEADWATER_SEED ?? HEADWATER_FIRST_SEED ?? 0);
const COUNT = HEADWATER_SEED ? 1 : Number(HEADWATER_SEEDS ?? (HEADWATER_SOAK === '1' ? 100 : 2));
const CHANGES = 12;
const NAMES = /** @type {Name[]} */ (Object.keys(PRINCIPALS));

/** Claims that tokens have beside those of their principal: rows that a policy shows them once it counts. */
const SIGNALS = Object.fromEntries(Array.from({ length: CHANGES }, (_, n) => [`s${n + 1}`, `s${n + 1}`]));

const TOKEN = 'a token of the operator, for the suite';
/** Few rows may combine to much: the limits have tests of their own. */
const CONFIG = `
api_token: ${TOKEN}
uploads:
  role: ${ROLE}
limits:
  buckets_per_client: 100000
  parameter_results: 100000
`;

/** How often the status is asked for while tables are copied; it has no notification. */
const ASK_EVERY_MS = 25;

/** Over all seeds. */
const total = { made: 0, rows: 0, refused: /** @type {Set<string>} */ (new Set()) };

/**
 * @typedef {import('../harness/policies.js').Secured} Secured
 * @typedef {keyof typeof PRINCIPALS} Name
 * @typedef {{schema: string, table: string, stream: string[], not_synced: string[], policies: {name: string, permissive: boolean}[]}} Verdict
 */

/** A database of a seed, its server, and a client for each principal. */
class Run {
  /** @type {Map<Name, import('../harness/client.js').Client>} */
  clients = new Map();
  /** What happened, for a failure's text. @type {string[]} */
  history = [];
  /** How what is now is synced. @type {Verdict[]} */
  verdicts = [];
  #changes = 0;

  /** @param {Random} random @param {Policies} policies @param {World} world */
  constructor(random, policies, world) {
    this.random = random;
    this.policies = policies;
    this.world = world;
    world.server.allowed.push(/"code":"HW1026"/);
    const kept = (/** @type {Secured} */ table) =>
      table.columns.filter((name) => name !== 'id').map((name) => [name, column[COLUMNS[name].kept]]);
    this.schema = new Schema({
      beacon: new Table({ n: column.integer }),
      signals: new Table({ none: column.text }),
      ...Object.fromEntries(policies.tables.map((table) => [table.name, new Table(Object.fromEntries(kept(table)))])),
    });
  }

  /** @param {number} seed */
  static async start(seed) {
    const random = new Random(seed);
    const policies = new Policies(random);
    const world = await World.start({
      tables: `CREATE TABLE beacon (id text PRIMARY KEY, n int8 NOT NULL); CREATE TABLE signals (id text PRIMARY KEY);
        INSERT INTO signals VALUES ${Object.keys(SIGNALS).map((signal) => `('${signal}')`).join(', ')}`,
      access: `ALTER TABLE beacon ENABLE ROW LEVEL SECURITY; ALTER TABLE signals ENABLE ROW LEVEL SECURITY;
        GRANT SELECT ON beacon, signals TO ${ROLE}; CREATE POLICY everybody ON beacon USING (true);
        ${policies.begin()};
        CREATE POLICY nobody ON signals USING (id = claim('none'))`,
      syncConfig: null,
      config: CONFIG,
    });
    return new Run(random, policies, world);
  }

  /** Somebody comes, with nothing. @param {Name} name */
  async comes(name) {
    await this.clients.get(name)?.close();
    const claims = { ...PRINCIPALS[name], ...SIGNALS };
    const client = this.world.client(claims.sub, { claims, schema: this.schema });
    this.clients.set(name, client);
    await client.connect();
    await client.synced();
  }

  /** Something happens; returns when clients hold all that came of it. */
  async change() {
    const { statements, ofRights } = this.policies.change();
    this.#changes += 1;
    const signal = `s${this.#changes}`;
    // What is served is of one state of the catalog: who sees the row is served by this one or a later one. The policy
    // adds a way to a bucket, so that nothing is taken because of it.
    if (ofRights) statements.push(`CREATE POLICY ${signal} ON signals USING (id = claim('${signal}'))`);
    this.history.push(statements.join('; '));
    await this.world.commit(statements.join('; '));
    if (ofRights) {
      await this.#eachOfRole((client) => client.until(`${signal} is there`, async () => {
        return (await client.rows('SELECT id FROM signals WHERE id = ?', [signal])).length > 0;
      }));
      await this.readRights();
    }
    await this.world.barrier(...this.#ofRole());
  }

  /** Asks how policies are synced, and waits until all of them are. */
  async readRights() {
    this.verdicts = (await this.#told('policies')).tables;
    await this.#allServed();
  }

  /** Compares what each client holds of each table with what Postgres shows its user. */
  async compare() {
    for (const table of this.policies.tables) {
      const verdict = /** @type {Verdict} */ (this.verdicts.find((of) => of.table === table.name));
      this.#assertNamed(verdict);
      for (const [name, client] of this.clients) {
        const expected = await this.#shown(name, table, verdict);
        const held = await client.rows(`SELECT * FROM ${table.name}`);
        const what = `${table.name} of ${name}\n${this.history.join(';\n')}\n${JSON.stringify(verdict, null, 1)}`;
        assert.deepEqual(sorted(held), expected, what);
        total.rows += expected.length;
      }
    }
  }

  /** What the operator is told. @param {'policies' | 'status'} what */
  async #told(what) {
    const answer = await fetch(`${this.world.server.url}/admin/api/${what}`, { headers: { authorization: `Bearer ${TOKEN}` } });
    assert.equal(answer.status, 200);
    return /** @type {Promise<any>} */ (answer.json());
  }

  /** Waits for streams whose names are new: they are withheld, behind the others, until their tables have been copied. */
  async #allServed() {
    const limit = AbortSignal.timeout(LIMIT_MS);
    for (;;) {
      const { sync, trouble } = await this.#told('status');
      if (sync.withheld.length === 0 && sync.waiting_version === null) return;
      assert.ok(!limit.aborted, `${JSON.stringify(sync)} ${trouble}`);
      await new Promise((resolve) => setTimeout(resolve, ASK_EVERY_MS));
    }
  }

  /** What is refused is in the log. @param {Verdict} verdict */
  #assertNamed({ table, not_synced }) {
    const said = this.world.server.log().split('\n').filter((line) => line.includes('"HW1026"'));
    const messages = new Set(said.map((line) => JSON.parse(line).message));
    for (const text of not_synced) assert.ok(messages.has(`public.${table}: ${text}`), `the log does not say of ${table}: ${text}`);
    for (const text of not_synced.filter((text) => !isByGrant(text))) total.refused.add(`${this.world.database} ${table} ${text.split(' is not synced')[0]}`);
  }

  /**
   * The rows of a table that somebody should hold: what Postgres shows, were it not for the policies that are refused.
   * @param {Name} name @param {Secured} table @param {Verdict} verdict
   */
  async #shown(name, table, { not_synced, policies }) {
    const refused = not_synced.filter((text) => !isFailure(text)).map((text) => /^policy (\S+): /.exec(text)?.[1]);
    // The whole table, by itself or by a restrictive policy.
    const isWhole = refused.some((policy) => !policies.some((of) => of.permissive && of.name === policy));
    if (!table.enabled || isWhole || name === 'eve') return [];
    const { sql } = this.world;
    const claims = PRINCIPALS[name];
    const columns = table.columns.filter((of) => of !== 'id').map((of) => `, ${COLUMNS[of].as ?? of} AS ${of}`);
    try {
      const results = /** @type {any} */ (await sql.query(`BEGIN;
        ${refused.map((policy) => `DROP POLICY ${policy} ON ${table.name};`).join(' ')}
        SELECT set_config('request.jwt.claims', ${sql.escapeLiteral(JSON.stringify(claims))}, true),
          set_config('request.jwt.claim.sub', '${claims.sub}', true), set_config('role', '${ROLE}', true);
        SELECT ${table.id} AS id${columns.join('')} FROM ${table.name}`));
      return sorted(results.at(-1).rows);
    } catch (error) {
      // Who may not read the table, or one that its policies read, is shown nothing.
      if (/** @type {{code?: string}} */ (error).code !== '42501') throw error;
      return [];
    } finally {
      await sql.query('ROLLBACK');
    }
  }

  #ofRole() {
    return [...this.clients].filter(([name]) => name !== 'eve').map(([, client]) => client);
  }

  /** @param {(client: import('../harness/client.js').Client) => Promise<unknown>} waits */
  async #eachOfRole(waits) {
    await Promise.all(this.#ofRole().map(waits));
  }
}

/** Whether a right is missing, and no policy is the reason. */
const isByGrant = (/** @type {string} */ text) => /every SELECT of it fails in Postgres|may read some columns of \S+ only/.test(text);

/** Whether Postgres shows nothing either; where some columns are granted that is not known. */
const isFailure = (/** @type {string} */ text) => isByGrant(text) && !text.includes('some columns');

const sorted = (/** @type {any[]} */ rows) => rows.map((row) => ({ ...row })).sort((a, b) => (a.id < b.id ? -1 : 1));

for (let seed = FIRST; seed < FIRST + COUNT; seed += 1) {
  test(`every user holds what random policies show (HEADWATER_SEED=${seed})`, async () => {
    const run = await Run.start(seed);
    try {
      await run.readRights();
      await Promise.all(NAMES.map((name) => run.comes(name)));
      await run.compare();
      for (let n = 0; n < CHANGES; n += 1) {
        await run.change();
        if (n % 4 === 2) await run.comes(run.random.pick(NAMES));
        await run.compare();
      }
      total.made += run.policies.made;
    } finally {
      await run.world.close();
    }
  });
}

// Of one seed alone it says little.
if (COUNT > 1) {
  test('there was something to compare, and little was refused', (context) => {
    const { rows, made, refused } = total;
    const share = refused.size / made;
    context.diagnostic(`${rows} rows of ${COUNT} seeds compared, ${refused.size} of ${made} policies refused`);
    assert.ok(rows > COUNT * CHANGES * 30, `${rows} rows`);
    assert.ok(made > COUNT * 8 && share < 0.2, `${refused.size} of ${made} policies are refused:\n${[...refused].join('\n')}`);
  });
}
