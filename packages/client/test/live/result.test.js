/** Results: what a server says of a query, in the order and the window that the query asks for. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { Write } from '../../dist/live/layer.js';
import { Result } from '../../dist/live/result.js';
import { kinds, sorter } from './reference.js';

const shown = (row) => Object.fromEntries(Object.entries(row).map(([field, value]) => [field, value?.shown ?? value]));

/** A query over a table, as a server keeps it: changes are sent in order, questions see what is committed. */
class Server {
  rows = new Map();
  events = [];

  constructor(columns, limit) {
    this.compare = sorter(columns);
    this.limit = limit;
    this.query = {
      table: 't',
      selectedColumns: { tag: 'SelectAll' },
      whereCondition: null,
      orderByClause: columns.map(({ direction }, at) => ({ orderByColumn: `c${at}`, orderByDirection: direction })),
      distinctOnColumn: null,
      limit,
      offset: null,
    };
    this.before = [];
  }

  get window() {
    const all = [...this.rows.values()].sort((a, b) => this.compare(a, b) || (a.id < b.id ? -1 : 1));
    return all.slice(0, this.limit ?? all.length);
  }

  commit(id, row) {
    if (row === undefined) this.rows.delete(id);
    else this.rows.set(id, { id, ...row });
    const [before, now] = [new Map(this.before.map((one) => [one.id, one])), this.window];
    for (const one of this.before) {
      if (!now.some((other) => other.id === one.id)) this.events.push(['delete', one.id]);
    }
    for (const one of now) {
      if (!before.has(one.id)) this.events.push(['insert', shown(one)]);
      else if (before.get(one.id) !== one) {
        const { id: _, ...changeSet } = shown(one);
        this.events.push(['update', one.id, changeSet]);
      }
    }
    this.before = now;
  }

  deliver(result) {
    const event = this.events.shift();
    if (event) result[event[0]](...event.slice(1));
  }
}

const kind = fc.constantFrom(...Object.keys(kinds));
const scenario = fc
  .array(fc.record({ kind, direction: fc.constantFrom('Asc', 'Desc') }), { minLength: 1, maxLength: 2 })
  .chain((columns) => {
    const row = fc.record(Object.fromEntries(columns.map(({ kind }, at) => [`c${at}`, kinds[kind].values])));
    const id = fc.constantFrom(...'abcdefgh');
    const step = fc.oneof(
      { weight: 4, arbitrary: fc.record({ id, row: fc.option(row, { nil: undefined, freq: 4 }) }) },
      { weight: 4, arbitrary: fc.constant('deliver') },
      { weight: 1, arbitrary: fc.constant('ask') },
      { weight: 1, arbitrary: fc.constant('answer') },
    );
    return fc.record({
      columns: fc.constant(columns),
      first: fc.array(row, { maxLength: 5 }),
      limit: fc.constantFrom(null, 1, 3),
      steps: fc.array(step, { maxLength: 40 }),
    });
  });

test('ds_10_5_a_result_ends_with_the_rows_of_the_server_in_an_order_of_the_server', () => {
  const property = fc.property(scenario, ({ columns, first, limit, steps }) => {
    const server = new Server(columns, limit);
    first.forEach((row, at) => server.commit('abcdefgh'[at], row));
    server.events = [];
    const result = new Result(server.query);
    result.refresh(server.window.map(shown), 0);
    let asked;
    const ask = () => {
      const question = result.question();
      if (question && !asked) asked = { stamp: question.stamp, rows: server.window.map(shown) };
    };
    const answer = () => {
      if (asked) result.answer(asked.rows, asked.stamp);
      asked = undefined;
    };
    for (const step of steps) {
      if (step === 'deliver') server.deliver(result);
      else if (step === 'ask') ask();
      else if (step === 'answer') answer();
      else server.commit(step.id, step.row);
      const rows = result.rows();
      assert.equal(result.rows(), rows, 'nothing happened, so the array is the same');
      assert.ok(limit === null || rows.length <= limit);
    }
    while (server.events.length > 0) server.deliver(result);
    for (let turn = 0; asked || result.question(); turn += 1) {
      assert.ok(turn < 4, 'the server is asked for ever');
      answer();
      ask();
    }
    const byId = new Map(server.window.map((row) => [row.id, row]));
    const rows = result.rows();
    assert.deepEqual(new Set(rows.map(({ id }) => id)), new Set(byId.keys()));
    for (const row of rows) assert.deepEqual(row, shown(byId.get(row.id)));
    for (let at = 1; at < rows.length; at += 1) {
      const [one, other] = [byId.get(rows[at - 1].id), byId.get(rows[at].id)];
      assert.ok(server.compare(one, other) <= 0, `${JSON.stringify(one)} before ${JSON.stringify(other)}`);
    }
  });
  fc.assert(property, { numRuns: 4000 });
});

const query = (more = {}) => ({
  table: 't',
  selectedColumns: { tag: 'SelectAll' },
  whereCondition: null,
  orderByClause: [],
  distinctOnColumn: null,
  limit: null,
  offset: null,
  ...more,
});
const by = (field, direction = 'Asc') => [{ orderByColumn: field, orderByDirection: direction }];
const ids = (result) => result.rows().map(({ id }) => id).join('');

test('a text that nobody can place is shown once the server has said where', () => {
  const result = new Result(query({ orderByClause: by('title') }));
  result.refresh([{ id: 'a', title: 'Apfel' }, { id: 'z', title: 'Zebra' }], 0);
  result.insert({ id: 'o', title: 'Öl' });
  assert.equal(ids(result), 'az');
  const { query: asked, stamp } = result.question();
  assert.deepEqual(asked.selectedColumns, { tag: 'SelectSpecific', contents: ['id', 'title'] });
  result.answer([{ id: 'a', title: 'Apfel' }, { id: 'o', title: 'Öl' }, { id: 'z', title: 'Zebra' }], stamp);
  assert.equal(ids(result), 'aoz');
  // Equals of what is there need no question.
  result.insert({ id: 'p', title: 'Öl' });
  assert.equal(ids(result), 'aopz');
  assert.equal(result.question(), undefined);
});

test('without an order records that come go behind the others, or before them', () => {
  for (const [prepend, expected] of [[false, 'abc'], [true, 'cab']]) {
    const result = new Result(query(), { prepend });
    result.refresh([{ id: 'a' }, { id: 'b' }], 0);
    result.insert({ id: 'c' });
    assert.equal(ids(result), expected);
  }
});

test('a record that came already is not shown twice', () => {
  const result = new Result(query());
  result.refresh([{ id: 'a', n: 1 }], 0);
  result.insert({ id: 'a', n: 2 });
  assert.deepEqual(result.rows(), [{ id: 'a', n: 2 }]);
});

test('objects and the array stay the same where nothing changed', () => {
  const result = new Result(query());
  result.refresh([{ id: 'a', tags: ['x'] }, { id: 'b', tags: [] }], 0);
  const before = result.rows();
  result.update('a', undefined, undefined);
  result.update('a', { tags: ['x'] });
  result.refresh([{ id: 'a', tags: ['x'] }, { id: 'b', tags: [] }], 1);
  assert.equal(result.rows(), before);
  result.update('b', { tags: ['y'] });
  assert.notEqual(result.rows(), before);
  assert.equal(result.rows()[0], before[0]);
});

test('fields that are only needed here are asked for and not shown', () => {
  const selected = { tag: 'SelectSpecific', contents: ['title'] };
  const result = new Result(query({ selectedColumns: selected, orderByClause: by('createdAt', 'Desc') }));
  assert.deepEqual(result.sent.selectedColumns.contents, ['title', 'id', 'createdAt']);
  result.refresh([{ id: 'a', title: 'x', createdAt: '2024-01-02' }], 0);
  result.insert({ id: 'b', title: 'y', createdAt: '2024-01-03' });
  assert.deepEqual(result.rows(), [{ title: 'y' }, { title: 'x' }]);
});

test('appended texts go behind the version that the server sent, not behind own writes', () => {
  const result = new Result(query());
  result.refresh([{ id: 'a', text: 'one' }], 0);
  const write = new Write('t', 'a', 'update', { text: 'one two' });
  result.layer.begin(write);
  assert.deepEqual(result.rows(), [{ id: 'a', text: 'one two' }]);
  result.update('a', undefined, { text: ' two' });
  write.answer({ id: 'a', text: 'one two' }, 1);
  result.layer.answered(write);
  assert.deepEqual(result.rows(), [{ id: 'a', text: 'one two' }]);
  assert.ok(result.layer.isEmpty);
});

test('keys may be of several fields, or numbers', () => {
  const result = new Result(query(), { key: ['team', 'user'] });
  result.refresh([{ team: 1, user: 'a', n: 1 }], 0);
  result.update([1, 'a'], { n: 2 });
  assert.deepEqual(result.rows(), [{ team: 1, user: 'a', n: 2 }]);
  const numbered = new Result(query());
  numbered.refresh([{ id: 7, n: 1 }], 0);
  numbered.delete('7');
  assert.deepEqual(numbered.rows(), []);
});

const isOpen = {
  tag: 'InfixOperatorExpression',
  left: { tag: 'ColumnExpression', field: 'state' },
  op: 'OpEqual',
  right: { tag: 'LiteralExpression', value: 'open' },
};

test('an own write takes a row out of the result, or into it, where the condition is understood', () => {
  const result = new Result(query({ whereCondition: isOpen, orderByClause: by('n') }));
  result.refresh([{ id: 'a', state: 'open', n: 1 }, { id: 'b', state: 'open', n: 3 }], 0);
  result.layer.begin(new Write('t', 'a', 'update', { state: 'done' }));
  result.layer.begin(new Write('t', 'c', 'create', { id: 'c', state: 'open', n: 2 }));
  result.layer.begin(new Write('t', 'd', 'create', { id: 'd', state: 'done', n: 2 }));
  assert.equal(ids(result), 'cb');
  result.layer.begin(new Write('t', 'b', 'update', { n: 1 }));
  assert.equal(ids(result), 'bc');
});

test('an own record whose place the server will decide counts as the newest until then', () => {
  const result = new Result(query({ orderByClause: by('createdAt', 'Desc'), limit: 2 }));
  result.refresh([{ id: 'a', createdAt: '2024-01-03' }, { id: 'b', createdAt: '2024-01-02' }], 0);
  const write = new Write('t', 'c', 'create', { id: 'c' });
  result.layer.begin(write);
  assert.equal(ids(result), 'ca');
  write.answer({ id: 'c', createdAt: '2024-01-04' }, 1);
  result.layer.answered(write);
  assert.equal(ids(result), 'ca');
  result.delete('b');
  result.insert({ id: 'c', createdAt: '2024-01-04' });
  assert.equal(ids(result), 'ca');
  assert.ok(result.layer.isEmpty);
});

test('a record of ours that somebody took away at once goes with the message that says so', () => {
  const result = new Result(query());
  result.refresh([], 0);
  const [create, update] = [new Write('t', 'a', 'create', { id: 'a' }), new Write('t', 'a', 'update', { n: 2 })];
  for (const write of [create, update]) {
    result.layer.begin(write);
    write.answer({ id: 'a', n: 2 }, 1);
    result.layer.answered(write);
  }
  assert.deepEqual(result.rows(), [{ id: 'a', n: 2 }]);
  // It came and went between two messages of the server.
  result.delete('a');
  assert.deepEqual(result.rows(), []);
  assert.ok(result.layer.isEmpty);
});

test('a record that goes says nothing of one that is made under its key later', () => {
  const result = new Result(query());
  result.refresh([], 0);
  const writes = ['create', 'delete', 'create'].map((kind) => new Write('t', 'a', kind, kind === 'create' ? { id: 'a' } : {}));
  writes.forEach((write) => result.layer.begin(write));
  result.delete('a');
  assert.equal(ids(result), 'a');
  writes.forEach((write) => {
    write.answer({ id: 'a' }, 1);
    result.layer.answered(write);
  });
  assert.equal(ids(result), 'a');
  result.insert({ id: 'a' });
  assert.equal(ids(result), 'a');
  assert.ok(result.layer.isEmpty);
});

test('a row that is again what it was when nobody could place it is shown', () => {
  for (const answered of [[{ id: 'm', title: 'm' }, { id: 'x', title: 'z' }], [{ id: 'm', title: 'm' }]]) {
    const result = new Result(query({ orderByClause: by('title') }));
    result.refresh([{ id: 'm', title: 'm' }], 0);
    result.insert({ id: 'x', title: 'a' });
    // Asked at a moment when it was another, or not there.
    result.answer(answered, result.question().stamp);
    assert.equal(ids(result), 'm');
    // Both changes at once change nothing.
    result.update('x', {});
    assert.ok(result.question(), 'the place is asked for again');
    result.answer([{ id: 'x', title: 'a' }, { id: 'm', title: 'm' }], result.question().stamp);
    assert.equal(ids(result), 'xm');
  }
});

test('an own record whose place nobody knows does not vanish between its change and the order', () => {
  const result = new Result(query({ orderByClause: by('title') }));
  result.refresh([{ id: 'a', title: 'Apfel' }, { id: 'z', title: 'Zebra' }], 0);
  result.layer.begin(new Write('t', 'o', 'create', { id: 'o', title: 'Öl' }));
  assert.equal(ids(result), 'azo');
  result.insert({ id: 'o', title: 'Öl' });
  assert.equal(ids(result), 'azo');
  const rows = [{ id: 'a', title: 'Apfel' }, { id: 'o', title: 'Öl' }, { id: 'z', title: 'Zebra' }];
  result.answer(rows, result.question().stamp);
  assert.equal(ids(result), 'aoz');
});
