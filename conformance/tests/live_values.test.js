/**
 * What our SDK believes about values without asking: whether a record fulfils a condition, and which of
 * two values is the greater. Postgres is asked the same about every type, and must never disagree.
 */

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';

import { and, eq, greaterThan, greaterThanOrEqual, lessThan, lessThanOrEqual, notEq, or, whereIn } from '@headwater/client/live';

import { holds } from '../../packages/client/dist/live/condition.js';
import { compareValues } from '../../packages/client/dist/live/order.js';
import { LiveWorld } from '../harness/live.js';
import { Random } from '../harness/random.js';

/** Types, values of them, and other texts that Postgres reads as one of these values. @type {Record<string, [string, unknown[], unknown[]]>} */
const COLUMNS = {
  i: ['int4', [-1, 0, 1, 10, 2147483647], ['1', ' 10 ', '+1']],
  b: ['int8', [0, 9007199254740991, '9007199254740992', '9007199254740993', -5], ['9007199254740993']],
  d: ['numeric', ['0.1', '0.10', '0.10000000000000000001', '12', '1e3', 'NaN'], [0.1, 12, '12.000', '1000', 'nan']],
  f: ['float8', [0.1, 1.5, -2, 'Infinity', 'NaN'], ['1.50', 'inf', '-2.0']],
  o: ['bool', [true, false], ['t', 'yes', 'off']],
  t: ['text', ['a', 'A', 'b', 'ä', ' a', 'a ', '10', '9', '', 'a-b', 'ab', '2024-01-02', 'today'], []],
  c: ['text COLLATE "C"', ['a', 'A', 'b', 'Z', '10', '9'], []],
  l: ['text COLLATE "en-x-icu"', ['a', 'A', 'b', 'ä', 'z', 'Z', '10', '9', '-b', "o'b", 'ob'], []],
  n: ['text COLLATE loose', ['a', 'A', 'ä', 'résumé', 'Resume', 'b'], ['RÉSUMÉ', 'B']],
  p: ['char(4)', ['a', 'ab', 'b'], ['a', 'a  ', 'AB']],
  u: ['uuid', ['0c6e0000-0000-4000-8000-000000000001', '9c6e0000-0000-4000-8000-000000000001', 'fc6e0000-0000-4000-8000-000000000001'], ['0C6E0000-0000-4000-8000-000000000001', '{fc6e0000-0000-4000-8000-000000000001}', '9c6e0000000040008000000000000001']],
  e: ['mood', ['open', 'doing', 'done', 'dropped'], []],
  y: ['date', ['2024-01-02', '2024-02-01', '1999-12-31', '10000-01-01', 'infinity', '0044-03-15 BC'], ['2024-1-2', 'Jan 2 2024']],
  m: ['timestamptz', ['2024-01-02T03:04:05Z', '2024-01-02T03:04:05.1Z', '2024-01-02T03:04:05.12Z', '2024-01-02T03:04:05.123456Z', '2023-12-31T00:00:00Z', '-infinity'], ['2024-01-02T03:04:05.100Z', '2024-01-02T05:04:05.12+02:00']],
  s: ['timestamp', ['2024-01-02T03:04:05', '2024-01-02T03:04:05.5', '2024-01-02T03:04:06', '2025-01-01T00:00:00'], ['2024-01-02 03:04:05.500']],
  v: ['interval', ['1 day', '24 hours', '1 mon', '30 days', '-1 day'], ['P1D', '720:00:00']],
  r: ['inet', ['10.0.0.1', '::1', 'fe80::1', '10.0.0.0/8'], ['FE80:0::1', '0:0::1', 'fe80:0:0:0:0:0:0:1']],
  w: ['macaddr', ['08:00:2b:01:02:03', 'aa:bb:cc:00:00:01'], ['08-00-2b-01-02-03', 'AABB.CC00.0001']],
  x: ['bytea', ['\\x00ff', '\\xab', '\\x'], ['\\xAB']],
  g: ['int4range', ['[1,5)', '(,3)', 'empty'], ['[1,4]', 'EMPTY']],
};
const ROWS = 60;

/** @type {LiveWorld} */
let world;
const seed = Number(process.env.CONFORMANCE_SEED ?? Math.floor(Math.random() * 2 ** 31));
const random = new Random(seed);

before(async () => {
  const columns = Object.entries(COLUMNS).map(([name, [type]]) => `${name} ${type}`);
  world = await LiveWorld.start({
    before: `
      CREATE COLLATION loose (provider = icu, locale = 'und-u-ks-level1', deterministic = false);
      CREATE TABLE kinds (id int4 PRIMARY KEY, ${columns.join(', ')});
      ALTER TABLE kinds ENABLE ROW LEVEL SECURITY;
      CREATE POLICY all_kinds ON kinds USING (true);
      GRANT SELECT ON kinds TO headwater_authenticated`,
  });
  for (let id = 0; id < ROWS; id += 1) {
    const values = Object.values(COLUMNS).map(([, values]) => (random.below(8) === 0 ? null : random.pick(values)));
    const places = values.map((_, at) => `$${at + 2}`);
    await world.sql.query(`INSERT INTO kinds VALUES ($1, ${places.join(', ')})`, [id, ...values]);
  }
});
after(() => world.close());

function condition() {
  const [field, [, values, spellings]] = random.pick(Object.entries(COLUMNS));
  const value = () => (random.below(10) === 0 ? null : random.pick([...values, ...spellings]));
  const compare = random.pick([eq, eq, notEq, lessThan, lessThanOrEqual, greaterThan, greaterThanOrEqual]);
  return random.below(4) === 0 ? whereIn(field, [value(), value(), value()]).build() : compare(field, value());
}

test(`ds_16_a_condition_that_the_client_decides_is_decided_as_postgres_does (seed ${seed})`, async () => {
  const ann = world.client('ann');
  const rows = await ann.query('kinds').fetch();
  assert.equal(rows.length, ROWS);
  let [known, unknown] = [0, 0];
  for (let turn = 0; turn < 400; turn += 1) {
    const [one, other] = [condition(), condition()];
    const asked = random.pick([one, one, and(one, other), or(one, other)]);
    const found = new Set((await ann.query('kinds').select('id').where(asked).fetch()).map(({ id }) => id));
    for (const row of rows) {
      const believed = holds(asked, row);
      if (believed === undefined) unknown += 1;
      else {
        known += 1;
        assert.equal(believed, found.has(row.id), `${JSON.stringify(asked)} of ${JSON.stringify(row)}`);
      }
    }
  }
  assert.ok(known > unknown / 2, `${known} known, ${unknown} unknown`);
});

test(`an order that the client believes is that of postgres (seed ${seed})`, async () => {
  const ann = world.client('ann');
  for (const [field, [type]] of Object.entries(COLUMNS)) {
    const rows = (await ann.query('kinds').where(notEq(field, null)).orderBy(field).fetch()).map((row) => row[field]);
    let known = 0;
    rows.forEach((one, at) => {
      for (const other of rows.slice(at + 1)) {
        const order = compareValues(one, other);
        known += order === undefined ? 0 : 1;
        assert.ok(order === undefined || order <= 0, `${type}: ${JSON.stringify(one)} stands before ${JSON.stringify(other)}`);
      }
    });
    if (['int4', 'bool', 'uuid'].includes(type)) assert.equal(known, (rows.length * (rows.length - 1)) / 2, type);
  }
});
