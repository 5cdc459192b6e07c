/**
 * Places among ordered rows: never a wrong one, whatever the order of the database is.
 *
 * The reference knows what the client cannot: the order of a collation, of an enum, of digits that
 * JavaScript lost.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { compareValues, isSame, placeOf } from '../../dist/live/order.js';
import { kinds, sorter } from './reference.js';

test('ds_19_a_place_that_is_given_is_one_of_the_right_ones', () => {
  const kind = fc.constantFrom(...Object.keys(kinds));
  const columns = fc.array(fc.record({ kind, direction: fc.constantFrom('Asc', 'Desc') }), { minLength: 1, maxLength: 3 });
  let [given, known] = [0, 0];
  const property = fc.property(
    columns.chain((columns) => {
      const row = fc.record(Object.fromEntries(columns.map(({ kind }, at) => [`c${at}`, kinds[kind].values])));
      return fc.record({ columns: fc.constant(columns), rows: fc.array(row, { maxLength: 12 }), row });
    }),
    ({ columns, rows, row }) => {
      const compare = sorter(columns);
      const clauses = columns.map(({ direction }, at) => ({ orderByColumn: `c${at}`, orderByDirection: direction }));
      const strip = (one) => Object.fromEntries(Object.entries(one).map(([field, value]) => [field, value?.shown ?? value]));
      const sorted = [...rows].sort(compare);
      const place = placeOf(strip(row), sorted.map(strip), clauses);
      given += 1;
      if (place === undefined) return;
      known += 1;
      sorted.splice(place, 0, row);
      for (let at = 1; at < sorted.length; at += 1) {
        assert.ok(compare(sorted[at - 1], sorted[at]) <= 0, `place ${place} in ${JSON.stringify(sorted)}`);
      }
    },
  );
  fc.assert(property, { numRuns: 3000 });
  assert.ok(known > given / 4, `only ${known} of ${given} places were told`);
});

test('numbers, points in time and uuids are compared, texts are not', () => {
  const cases = [
    [1, 2, -1],
    [2, 2, 0],
    [0.5, 0.5, undefined],
    [2 ** 53, 2 ** 53, undefined],
    [true, false, 1],
    ['a', 'a', 0],
    ['a', 'b', undefined],
    ['9', '10', undefined],
    ['NaN', 1, undefined],
    ['2024-01-02', '2024-01-03', -1],
    ['2024-01-02T03:04:05.1+00:00', '2024-01-02T03:04:05.12+00:00', -1],
    ['2024-01-02T03:04:05+00:00', '2024-01-02T03:04:05.1+00:00', undefined],
    ['2024-01-02T03:04:05Z', '2024-01-02T03:04:06Z', undefined],
    ['0c6e0000-0000-4000-8000-000000000001', 'ac6e0000-0000-4000-8000-000000000001', -1],
  ];
  for (const [a, b, expected] of cases) {
    assert.equal(compareValues(a, b), expected, `${a} and ${b}`);
  }
});

test('texts are told apart only where no other type may see them as one', () => {
  const cases = [
    ['todo', 'done', false],
    ['todo', 'Todo', undefined],
    ['1.0', '1', undefined],
    ['2024-01-02T00:00:00Z', '2024-01-02T00:00:00+00:00', undefined],
    ['0C6E0000-0000-4000-8000-000000000001', '0c6e0000-0000-4000-8000-000000000001', true],
    ['0c6e0000-0000-4000-8000-000000000001', '0c6e0000-0000-4000-8000-000000000002', false],
    ['fe80::0', 'fe80::', undefined],
    ['aa:bb:cc:00:00:01', 'AABB.CC00.0001', undefined],
    ['résumé', 'Resume', undefined],
    ['a', 'a  ', undefined],
    ['Straße', 'Strasse', undefined],
    ['cafe', 'face', false],
    [1, '1', undefined],
  ];
  for (const [a, b, expected] of cases) {
    assert.equal(isSame(a, b), expected, `${a} and ${b}`);
  }
});
