/**
 * Random numbers from a seed, and random transactions made of them.
 */

/** A generator that gives the same sequence for the same seed (mulberry32). */
export class Random {
  #state;

  /** @param {number} seed */
  constructor(seed) {
    this.#state = seed >>> 0;
  }

  /** A whole number from 0 to `below` - 1. @param {number} below */
  below(below) {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let t = this.#state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return Math.floor((((t ^ (t >>> 14)) >>> 0) / 0x100000000) * below);
  }

  /** @template T @param {readonly T[]} choices @returns {T} */
  pick(choices) {
    return choices[this.below(choices.length)];
  }
}

const TEXTS = ['Milk', 'Café ☕', '"quoted" \\ back', "it''s", '😀', 'line\nbreak', 'x'.repeat(300)];

/** Ids are few, so that statements hit rows that earlier ones made. */
const LISTS = 12;
const TODOS = 150;
const MEMBERS = 30;
const NOTES = 40;

/** Every kind of statement, as often as it is named. */
const STATEMENTS = [
  'insertTodo', 'insertTodo', 'insertTodo', 'insertTodo', 'updateTodo', 'updateTodo', 'updateTodo',
  'moveTodo', 'moveTodo', 'deleteTodo', 'renameTodo', 'moveMany', 'insertList', 'insertList', 'giveList',
  'deleteList', 'insertMember', 'insertMember', 'deleteMember', 'insertNote', 'updateNote', 'deleteNote',
  'savepoint',
];

/**
 * One transaction's statements over the tables of `worlds/lists.sql`; now and then it is rolled back.
 * @param {Random} random
 * @param {readonly string[]} users
 */
export function transaction(random, users) {
  const id = (/** @type {string} */ kind, /** @type {number} */ count) => `'${kind}${random.below(count)}'`;
  const list = () => id('l', LISTS);
  const todo = () => id('t', TODOS);
  const note = () => id('n', NOTES);
  const user = () => `'${random.pick(users)}'`;
  const text = () => `'${random.pick(TEXTS)}'`;
  const number = () => String(random.pick([0, 1, -7, 9007199254740991, 'NULL']));
  const score = () => String(random.pick([0.5, -2.25, 1e-7, 1e21, 3, 'NULL']));
  const statements = {
    insertTodo: () =>
      `INSERT INTO todos VALUES (${todo()}, ${list()}, ${text()}, ${random.below(2) === 0}, ${number()})
       ON CONFLICT (id) DO UPDATE SET title = excluded.title, done = excluded.done`,
    updateTodo: () => `UPDATE todos SET title = ${text()}, n = ${number()} WHERE id = ${todo()}`,
    moveTodo: () => `UPDATE todos SET list_id = ${list()} WHERE id = ${todo()}`,
    deleteTodo: () => `DELETE FROM todos WHERE id = ${todo()}`,
    renameTodo: () => {
      const to = todo();
      return `DELETE FROM todos WHERE id = ${to}; UPDATE todos SET id = ${to} WHERE id = ${todo()}`;
    },
    moveMany: () => `UPDATE todos SET list_id = ${list()} WHERE list_id = ${list()}`,
    insertList: () =>
      `INSERT INTO lists VALUES (${list()}, ${user()}, ${text()}) ON CONFLICT (id) DO UPDATE SET name = excluded.name`,
    giveList: () => `UPDATE lists SET owner_id = ${user()} WHERE id = ${list()}`,
    deleteList: () => `DELETE FROM lists WHERE id = ${list()}`,
    insertMember: () =>
      `INSERT INTO list_members VALUES (${id('m', MEMBERS)}, ${list()}, ${user()})
       ON CONFLICT (id) DO UPDATE SET list_id = excluded.list_id, user_id = excluded.user_id`,
    deleteMember: () => `DELETE FROM list_members WHERE id = ${id('m', MEMBERS)}`,
    insertNote: () =>
      `INSERT INTO notes VALUES (${note()}, ${user()}, ${text()}, ${score()}) ON CONFLICT (id) DO NOTHING`,
    updateNote: () => `UPDATE notes SET owner_id = ${user()}, score = ${score()} WHERE id = ${note()}`,
    deleteNote: () => `DELETE FROM notes WHERE id = ${note()}`,
    savepoint: () => `SAVEPOINT s; DELETE FROM todos WHERE id < ${todo()}; UPDATE lists SET owner_id = ${user()};
      ROLLBACK TO SAVEPOINT s`,
  };
  const count = 1 + random.below(4) + (random.below(20) === 0 ? 30 : 0);
  const body = Array.from({ length: count }, () => statements[/** @type {keyof typeof statements} */ (random.pick(STATEMENTS))]());
  // The table is emptied rarely, else there would never be much in it.
  if (random.below(400) === 0) body.push('TRUNCATE todos');
  return `BEGIN; ${body.join('; ')}; ${random.below(15) === 0 ? 'ROLLBACK' : 'COMMIT'}`;
}
