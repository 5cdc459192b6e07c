/**
 * Random row level security: tables of which each policy reads only those before it, policies of the shapes that
 * docs/policies.md says can be synced, rows full of NULLs, and what happens to all of these.
 *
 * In: random numbers. Out: statements. What a state of it shows is nobody's business here: Postgres is asked.
 */

/** @typedef {import('./random.js').Random} Random */

export const ROLE = 'headwater_authenticated';

const uuid = (/** @type {string} */ first) => `${first}0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11`;

/** Who asks, by what their tokens claim. Dee has no right to anything but what is everybody's, Eve is of another role. */
export const PRINCIPALS = {
  ann: { sub: uuid('a'), email: 'ann@x', org: 1, plan: 'pro', admin: true, app: { plan: 'pro', tags: ['eu', 'admin'] } },
  bob: { sub: uuid('b'), email: 'bob@x', org: '2', plan: null, admin: 'off', app: { plan: 'free', tags: { us: 1 } }, role: ROLE },
  cy: { sub: uuid('c'), email: null, plan: 'free', app: { tags: [null, 1, 'us'] } },
  dee: { sub: uuid('d') },
  eve: { sub: uuid('a'), email: 'ann@x', org: 1, plan: 'pro', admin: true, role: 'service' },
};

/** Functions that policies call. */
const HELPERS = [
  'CREATE SCHEMA auth',
  `GRANT USAGE ON SCHEMA auth TO ${ROLE}`,
  `CREATE FUNCTION auth.uid() RETURNS uuid STABLE LANGUAGE sql
     AS $$ SELECT nullif(current_setting('request.jwt.claim.sub', true), '')::uuid $$`,
  `CREATE FUNCTION auth.jwt() RETURNS jsonb STABLE LANGUAGE sql
     AS $$ SELECT nullif(current_setting('request.jwt.claims', true), '')::jsonb $$`,
  `CREATE FUNCTION claim(name text) RETURNS text STABLE LANGUAGE sql
     RETURN current_setting('request.jwt.claims', true)::json ->> name`,
  `CREATE FUNCTION is_mine(person uuid) RETURNS boolean STABLE STRICT LANGUAGE sql AS $$ SELECT $1 = auth.uid() $$`,
  `CREATE FUNCTION has_tag(tag text) RETURNS boolean STABLE LANGUAGE plpgsql
     AS $$ BEGIN RETURN (auth.jwt() -> 'app' -> 'tags') ? tag; END $$`,
  `CREATE FUNCTION my_teams() RETURNS SETOF int4 STABLE SECURITY DEFINER SET search_path = public LANGUAGE sql
     AS $$ SELECT team FROM members WHERE members.person = auth.uid() $$`,
  `CREATE FUNCTION in_team(wanted int4) RETURNS boolean STABLE SECURITY DEFINER SET search_path = public LANGUAGE plpgsql
     AS $$ BEGIN RETURN EXISTS (SELECT FROM members m WHERE m.team = wanted AND m.person = auth.uid()); END $$`,
];

/** What columns may be: their type, how the client keeps it, how the oracle has it in that form, and values. */
export const COLUMNS = {
  id: { type: 'int4', kept: 'text', as: 'id::text' },
  person: { type: 'uuid', kept: 'text', as: 'person::text', values: ['a', 'b', 'c', 'e'].map((first) => `'${uuid(first)}'`) },
  author: { type: 'text', kept: 'text', values: [`'ann@x'`, `'bob@x'`, `''`, `'${uuid('b')}'`, `'${uuid('c')}'`] },
  team: { type: 'int4', kept: 'integer', values: ['1', '2', '3', '4'] },
  above: { type: 'int4', kept: 'integer', values: ['1', '2', '3', '4'] },
  org: { type: 'int8', kept: 'integer', values: ['1', '2', '9000000000'] },
  plan: { type: 'text', kept: 'text', values: [`'pro'`, `'free'`, `''`, `'é'`] },
  tag: { type: 'text', kept: 'text', values: [`'eu'`, `'us'`, `'admin'`] },
  open: { type: 'boolean', kept: 'integer', as: 'open::int', values: ['true', 'false'] },
  level: { type: 'int2', kept: 'integer', values: ['0', '1', '2', '3'] },
  kind: { type: 'kind', kept: 'text', as: 'kind::text', values: [`'draft'`, `'open'`, `'closed'`] },
  parent: { type: 'int4', kept: 'integer', values: Array.from({ length: 25 }, (_, id) => String(id)) },
  people: {
    type: 'uuid[]', kept: 'text', as: 'to_json(people)::text',
    values: [`'{}'`, `'{${uuid('a')}}'`, `'{${uuid('b')},NULL,${uuid('c')}}'`],
  },
  labels: { type: 'text[]', kept: 'text', as: 'to_json(labels)::text', values: [`'{}'`, `'{pro,eu}'`, `'{NULL,free}'`] },
};

/** @typedef {keyof typeof COLUMNS} Column */

/**
 * What a policy may be made of: the column that it needs (none: it is of the token alone), and the condition, of a
 * table that is called so. A table that it reads is named in braces and must come before the policy's own.
 * @type {[Column | null, string][]}
 */
const CONDITIONS = [
  ['person', 'person = auth.uid()'],
  ['person', 'person = (SELECT auth.uid())'],
  ['person', 'is_mine(person)'],
  ['person', '$t.person::text = claim(\'sub\')'],
  ['person', 'person IN (SELECT o.person FROM {members} o WHERE o.team IN (SELECT m.team FROM members m WHERE m.person = auth.uid()))'],
  ['person', 'person IN (SELECT o.person FROM {members} o WHERE o.team IN (SELECT my_teams()))'],
  ['person', `EXISTS (SELECT FROM {staff} s WHERE s.person = $t.person AND s.org = (auth.jwt() ->> 'org')::bigint)`],
  ['person', 'person IS NULL'],
  ['author', `author = (auth.jwt() ->> 'email')`],
  ['author', `author = claim('email')`],
  ['author', `author = current_setting('request.jwt.claim.sub', true)`],
  ['team', 'team IN (SELECT m.team FROM {members} m WHERE m.person = auth.uid())'],
  ['team', 'EXISTS (SELECT FROM {members} m WHERE m.team = $t.team AND m.person = (SELECT auth.uid()))'],
  ['team', `EXISTS (SELECT 1 FROM {members} m WHERE m.team = $t.team AND m.person = auth.uid() AND m.plan = 'pro' LIMIT 1)`],
  ['team', 'team IN (SELECT my_teams())'],
  ['team', 'team = ANY (ARRAY(SELECT my_teams()))'],
  ['team', 'in_team(team)'],
  ['team', 'team IN (SELECT c.id FROM {teams} c WHERE c.above IN (SELECT m.team FROM {members} m WHERE m.person = auth.uid()))'],
  ['team', 'EXISTS (SELECT FROM {teams} JOIN {staff} ON staff.org = teams.org WHERE teams.id = $t.team AND staff.person = auth.uid())'],
  ['team', 'team IN (SELECT id FROM {teams} WHERE teams.open)'],
  ['org', `org = (auth.jwt() ->> 'org')::bigint`],
  ['org', 'org = (SELECT s.org FROM {staff} s WHERE s.person = auth.uid())'],
  ['plan', `plan = (auth.jwt() -> 'app' ->> 'plan')`],
  ['plan', '(SELECT s.plan FROM {staff} s WHERE s.person = auth.uid()) = plan'],
  ['plan', `plan IN ('pro', 'é')`],
  ['plan', 'plan IS NOT NULL'],
  ['tag', `(auth.jwt() -> 'app' -> 'tags') ? tag`],
  ['tag', 'has_tag(tag)'],
  ['people', 'auth.uid() = ANY (people)'],
  ['labels', `claim('plan') = ANY (labels)`],
  ['labels', `'eu' = ANY (labels)`],
  ['open', 'open'],
  ['open', 'open IS NOT TRUE'],
  ['level', 'level >= 2'],
  ['level', 'level IN (0, 2)'],
  ['kind', `kind <> 'closed'`],
  ['kind', `kind IS DISTINCT FROM 'open'`],
  ['parent', 'parent IN (SELECT p.id FROM {data} p)'],
  ['parent', 'EXISTS (SELECT FROM {data} p WHERE p.id = $t.parent AND p.person = auth.uid())'],
  ['parent', 'EXISTS (SELECT FROM {data} p JOIN {members} m ON m.team = p.team WHERE p.id = $t.parent AND m.person = auth.uid())'],
  [null, `has_tag('admin')`],
  [null, `claim('plan') = 'pro'`],
  [null, `(auth.jwt() ->> 'admin')::boolean`],
  [null, `EXISTS (SELECT FROM {staff} s WHERE s.person = auth.uid() AND s.plan = 'pro')`],
];

/** The same of what cannot be synced; seldom, so that there is something to compare. @type {[Column, string][]} */
const REFUSED = [
  ['plan', `lower(plan) = 'pro'`],
  ['person', 'person <> auth.uid()'],
  ['team', 'NOT EXISTS (SELECT FROM {members} m WHERE m.team = $t.team AND m.person = auth.uid())'],
];

const ROWS = 25;
const DATA = 4;

/**
 * A table.
 * @typedef {object} Secured
 * @property {string} name
 * @property {Column[]} columns
 * @property {string} key
 * @property {string} id what its rows have as `id` on clients
 * @property {string[]} policies their names
 * @property {boolean} enabled whether row security is on
 * @property {'all' | 'some' | 'none'} granted which columns the role may read
 */

/** Tables, policies and rows, and their state behind each change. */
export class Policies {
  /** @type {Secured[]} In the order in which policies may read them. */
  tables = [];
  /** How many conditions of policies were made. */
  made = 0;

  /** @param {Random} random */
  constructor(random) {
    this.random = random;
    this.#table('members', ['team', 'person', 'plan'], 'team, person', `team || '/' || person`);
    this.#table('staff', ['person', 'plan', 'org'], 'person', 'person::text');
    this.#table('teams', ['id', 'org', 'above', 'open'], 'id', 'id::text');
    for (let n = 0; n < DATA; n += 1) {
      const some = /** @type {Column[]} */ (Object.keys(COLUMNS)).filter((column) => column !== 'id' && column !== 'above' && this.#chance(60));
      this.#table(`data${n}`, ['id', ...new Set(/** @type {Column[]} */ (['person', 'team', ...some]))], 'id', 'id::text');
    }
  }

  /** The statements that make it all, once there is the role. */
  begin() {
    const { tables } = this;
    const made = tables.flatMap((table) => [
      `CREATE TABLE ${table.name} (${table.columns.map((name) => `${name} ${COLUMNS[name].type}`).join(', ')}, PRIMARY KEY (${table.key}))`,
      `GRANT SELECT ON ${table.name} TO ${ROLE}`,
      ...Array.from({ length: ROWS }, () => this.#insert(table)),
    ]);
    // Nobody is admitted to the one, and everybody to the other, which is therefore not synced.
    const shut = this.#pick(tables.slice(3));
    const plain = this.#pick(tables.slice(3).filter((table) => table !== shut));
    const policies = tables.flatMap((table) => {
      if (table === plain) return [];
      table.enabled = true;
      const count = table === shut ? 0 : 1 + this.random.below(3);
      return [`ALTER TABLE ${table.name} ENABLE ROW LEVEL SECURITY`, ...Array.from({ length: count }, () => this.#create(table))];
    });
    const kind = `CREATE TYPE kind AS ENUM ('draft', 'open', 'closed')`;
    return [kind, ...made, ...HELPERS, ...policies].join(';\n');
  }

  /** Something that happens: its statements, and whether policies, flags or grants are among them. */
  change() {
    const count = 1 + this.random.below(3);
    const statements = Array.from({ length: count }, () => this.#ofRows());
    const ofRights = this.#chance(40);
    if (ofRights) statements.splice(this.random.below(count + 1), 0, this.#ofRights());
    return { statements, ofRights };
  }

  #ofRows() {
    const table = this.#chance(40) ? this.tables[0] : this.#pick(this.tables);
    const some = () => `ctid = (SELECT ctid FROM ${table.name} OFFSET ${this.random.below(ROWS)} LIMIT 1)`;
    const keys = table.key.split(', ');
    const column = this.#pick(table.columns.filter((name) => !keys.includes(name)));
    const lot = this.random.below(20);
    if (lot < 6) return this.#insert(table);
    if (lot < 12) return `UPDATE ${table.name} SET ${column} = ${this.#value(column)} WHERE ${some()}`;
    if (lot < 14) return `UPDATE ${table.name} SET ${column} = ${this.#value(column)} WHERE ${column} = ${this.#value(column)}`;
    if (lot < 18) return `DELETE FROM ${table.name} WHERE ${some()}`;
    if (lot < 19 && table.key === 'id') return `UPDATE ${table.name} SET id = (SELECT max(id) + 1 FROM ${table.name}) WHERE ${some()}`;
    // Emptied rarely, else there would never be much in it.
    return this.#chance(30) ? `TRUNCATE ${table.name}` : `SAVEPOINT s; DELETE FROM ${table.name}; ROLLBACK TO SAVEPOINT s`;
  }

  #ofRights() {
    const table = this.#pick(this.tables);
    const { policies } = table;
    const lot = this.random.below(20);
    if (!table.enabled || (lot < 2 && table.granted === 'all')) {
      table.enabled = !table.enabled;
      return `ALTER TABLE ${table.name} ${table.enabled ? 'ENABLE' : 'DISABLE'} ROW LEVEL SECURITY`;
    }
    if (table.granted !== 'all') {
      table.granted = 'all';
      return `GRANT SELECT ON ${table.name} TO ${ROLE}`;
    }
    if (lot < 4) {
      table.granted = lot < 3 ? 'none' : 'some';
      const some = lot < 3 ? '' : `; GRANT SELECT (${table.key}) ON ${table.name} TO ${ROLE}`;
      return `REVOKE SELECT ON ${table.name} FROM ${ROLE}${some}`;
    }
    if (lot < 9 && policies.length > 0) {
      const [name] = policies.splice(this.random.below(policies.length), 1);
      return `DROP POLICY ${name} ON ${table.name}`;
    }
    if (lot < 14 && policies.length > 0) {
      const name = this.#pick(policies);
      this.made += 1;
      return `ALTER POLICY ${name} ON ${table.name} USING (${this.condition(table, 2)})`;
    }
    return this.#create(table);
  }

  /** @param {Secured} table */
  #create(table) {
    const name = `p${this.made}`;
    const kind = table.policies.length > 0 && this.#chance(20) ? ' AS RESTRICTIVE' : '';
    const command = this.#pick(['', ' FOR SELECT', ' FOR ALL']);
    const to = this.#pick(['', '', ` TO ${ROLE}`]);
    table.policies.push(name);
    this.made += 1;
    return `CREATE POLICY ${name} ON ${table.name}${kind}${command}${to} USING (${this.condition(table, 2)})`;
  }

  /** @param {Secured} table @param {number} depth @returns {string} */
  condition(table, depth) {
    const part = () => this.condition(table, depth - 1);
    if (depth > 0 && this.#chance(40)) {
      switch (this.random.below(8)) {
        case 0: return table.columns.includes('open') ? `CASE WHEN open THEN ${part()} ELSE ${part()} END` : `(${part()} OR ${part()})`;
        case 1: case 2: case 3: return `(${part()} OR ${part()})`;
        default: return `(${part()} AND ${part()})`;
      }
    }
    const before = this.tables.slice(0, this.tables.indexOf(table));
    const data = before.filter(({ name }) => name.startsWith('data'));
    const reads = (/** @type {string} */ condition) => [...condition.matchAll(/\{(\w+)\}/g)].map(([, name]) => name);
    const isThere = (/** @type {string} */ name) => (name === 'data' ? data.length > 0 : before.some((of) => of.name === name));
    const fits = (data.length > 0 && this.#chance(2) ? REFUSED : CONDITIONS).filter(([column, condition]) => (column === null || table.columns.includes(column)) && reads(condition).every(isThere));
    // The column first, so that the many ways to be a member are not all there is.
    if (fits.length === 0) return this.condition(table, depth);
    const column = this.#pick([...new Set(fits.map(([of]) => of))]);
    const condition = this.#pick(fits.filter(([of]) => of === column))[1];
    const filled = condition.replaceAll('{data}', data.length > 0 ? this.#pick(data).name : '');
    return filled.replaceAll(/\{(\w+)\}/g, '$1').replaceAll('$t', table.name);
  }

  /** @param {Secured} table */
  #insert(table) {
    return `INSERT INTO ${table.name} VALUES (${table.columns.map((column) => this.#value(column, table)).join(', ')}) ON CONFLICT DO NOTHING`;
  }

  /** @param {Column} column @param {Secured} [table] whose row is made: no NULL in its key */
  #value(column, table) {
    if (column === 'id') return String(this.random.below(table?.name === 'teams' ? 5 : 2 * ROWS));
    if (!table?.key.split(', ').includes(column) && this.#chance(20)) return 'NULL';
    return this.#pick(/** @type {{values: string[]}} */ (COLUMNS[column]).values);
  }

  /** @param {string} name @param {Column[]} columns @param {string} key @param {string} id */
  #table(name, columns, key, id) {
    this.tables.push({ name, columns, key, id, policies: [], enabled: false, granted: 'all' });
  }

  /** @param {number} percent */
  #chance(percent) {
    return this.random.below(100) < percent;
  }

  /** @template T @param {readonly T[]} choices @returns {T} */
  #pick(choices) {
    return this.random.pick(choices);
  }
}
