/** Queries as they go over the wire, and what conditions mean for a record. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { holds } from '../../dist/live/condition.js';
import { and, ConditionBuilder, eq, lessThan, notEq, or, QueryBuilder, where, whereIn, whereNot } from '../../dist/live/index.js';

const asked = [];
const source = {
  fetchRows: async (query) => {
    asked.push(query);
    return asked.length > 1 ? [] : [{ id: '1' }];
  },
};
const tasks = () => new QueryBuilder('tasks', source);
const literal = (value) => ({ tag: 'LiteralExpression', value });
const infix = (field, op, value) => ({ tag: 'InfixOperatorExpression', left: { tag: 'ColumnExpression', field }, op, right: literal(value) });
const joined = (left, op, right) => ({ tag: 'InfixOperatorExpression', left, op, right });

test('ds_5_a_query_is_the_object_of_the_protocol', () => {
  const { query } = tasks().where('teamId', 'x').orderByDesc('createdAt').limit(50);
  assert.deepEqual(query, {
    table: 'tasks',
    selectedColumns: { tag: 'SelectAll' },
    whereCondition: infix('teamId', 'OpEqual', 'x'),
    orderByClause: [{ orderByColumn: 'createdAt', orderByDirection: 'Desc' }],
    distinctOnColumn: null,
    limit: 50,
    offset: null,
  });
  const selected = tasks().select('id', 'title').select(['title', 'isDone']).distinctOn('title').orderBy('title').offset(2).query;
  assert.deepEqual(selected.selectedColumns, { tag: 'SelectSpecific', contents: ['id', 'title', 'isDone'] });
  assert.deepEqual([selected.distinctOnColumn, selected.offset], ['title', 2]);
  assert.deepEqual(selected.orderByClause, [{ orderByColumn: 'title', orderByDirection: 'Asc' }]);
});

test('ds_19_conditions_are_chained_from_the_left', () => {
  const condition = tasks().where('a', 1).whereLessThan('b', 2).or(where('c', 3).whereNot('d', 4)).query.whereCondition;
  const ab = joined(infix('a', 'OpEqual', 1), 'OpAnd', infix('b', 'OpLessThan', 2));
  assert.deepEqual(condition, joined(ab, 'OpOr', joined(infix('c', 'OpEqual', 3), 'OpAnd', infix('d', 'OpNotEqual', 4))));
  assert.deepEqual(and(eq('a', 1), lessThan('b', 2)), ab);
  assert.deepEqual(and([eq('a', 1), lessThan('b', 2)]), ab);
  assert.throws(() => tasks().or(eq('a', 1)), TypeError);
});

test('an object of equalities has an operand on both sides, however many keys it has', () => {
  assert.deepEqual(tasks().where({ a: 1 }).query.whereCondition, infix('a', 'OpEqual', 1));
  assert.deepEqual(tasks().where({ a: 1, b: undefined }).query.whereCondition, joined(infix('a', 'OpEqual', 1), 'OpAnd', infix('b', 'OpEqual', null)));
  assert.deepEqual(tasks().where({}).query.whereCondition, literal(true));
  assert.deepEqual(tasks().where({ tag: 'red' }).query.whereCondition, infix('tag', 'OpEqual', 'red'), 'a field may be called tag');
  assert.deepEqual(or(), literal(false));
  assert.deepEqual(or(eq('a', 1)), infix('a', 'OpEqual', 1));
  assert.deepEqual(new ConditionBuilder().build(), literal(true));
});

test('text search asks for beginnings, best matches first, and survives signs', () => {
  const { query } = tasks().whereTextSearchStartsWith('search', "  foo  bar's ");
  assert.equal(query.whereCondition.right.functionCall.text, "foo&'bar''s':*");
  assert.deepEqual(query.orderByClause, [{ tag: 'OrderByTSRank', tsvector: 'search', tsquery: "foo&'bar''s':*", orderByDirection: 'Desc' }]);
  assert.equal(tasks().whereTextSearchStartsWith('search', ' ').query.whereCondition.right.functionCall.text, '');
});

test('limits are whole numbers', () => {
  assert.throws(() => tasks().limit('5'), TypeError);
  assert.throws(() => tasks().offset(0.5), TypeError);
  assert.equal(tasks().limit(5).limit(null).query.limit, null);
});

test('fetchOne asks for one row and leaves the builder as it is', async () => {
  const builder = tasks();
  assert.deepEqual(await builder.fetchOne(), { id: '1' });
  assert.equal(await builder.fetchOne(), null);
  assert.equal(asked[0].limit, 1);
  assert.equal(builder.query.limit, null);
  builder.orderBy('n');
  assert.deepEqual(asked[0].orderByClause, [], 'what was asked does not change later');
});

test('ds_16_conditions_have_three_values, and a fourth for what only Postgres knows', () => {
  const row = { n: 1, t: 'b', z: null };
  const cases = [
    [eq('n', 1), true],
    [notEq('z', 1), false],
    [eq('z', null), true],
    [notEq('n', null), true],
    [lessThan('n', 2), true],
    [lessThan('z', 2), false],
    [lessThan('t', 'c'), undefined],
    [eq('missing', 1), undefined],
    [and(eq('n', 2), lessThan('t', 'c')), false],
    [or(eq('n', 1), lessThan('t', 'c')), true],
    [or(eq('n', 2), lessThan('t', 'c')), undefined],
    [and(eq('n', 1), eq('z', 1)), false],
    [whereIn('n', [2, 1]).build(), true],
    [whereIn('n', []).build(), false],
    [whereIn('z', [1, null]).build(), true],
    [whereIn('z', [1]).build(), false],
    [whereIn('t', ['a']).build(), false],
    [whereIn('t', ['B']).build(), undefined],
    [whereNot('t', 'a').build(), true],
    [tasks().whereTextSearchStartsWith('t', 'b').query.whereCondition, undefined],
    [null, true],
  ];
  for (const [condition, expected] of cases) {
    assert.equal(holds(condition, row), expected, JSON.stringify(condition));
  }
});
