/**
 * Building queries and conditions. A builder changes itself and returns itself, as in the original
 * API; the query object it makes is plain data.
 *
 * Nothing here talks to a server: `fetch`, `fetchOne` and `subscribe` ask whoever the builder was
 * made by.
 */
import { GroupBuilder, type LiveAggregate, type AggregateBuilder, type LiveGroup } from './aggregate.js';
import { column, compared, infix, joined, TRUE } from './condition.js';
import type { LiveError } from './error.js';
import type { IHPRecord } from './registry.js';
import type { Field, RecordId, Writable } from './types.js';
import type { Aggregation, ConditionExpression, ConditionOperator, DynamicSQLQuery } from './wire.js';

type Value<T extends string, F> = F extends keyof IHPRecord<T> ? Writable<IHPRecord<T>[F]> | null | undefined : never;
type Equalities<T extends string> = { [F in Field<T>]?: Value<T, F> };

/** Conditions that start or continue a chain of ANDs. */
export abstract class Conditions<T extends string> {
  protected abstract condition: ConditionExpression | null;

  where<F extends Field<T>>(field: F, value: Value<T, F>): this;
  where(conditions: ConditionBuilder<T> | ConditionExpression | Equalities<T>): this;
  where(first: string | ConditionBuilder<T> | ConditionExpression | Equalities<T>, value?: unknown): this {
    return this.also(typeof first === 'string' ? compared(first, 'OpEqual', value) : toCondition(first));
  }

  filterWhere<F extends Field<T>>(field: F, value: Value<T, F>): this;
  filterWhere(conditions: ConditionBuilder<T> | ConditionExpression | Equalities<T>): this;
  filterWhere(first: unknown, value?: unknown): this {
    return this.where(first as never, value as never);
  }

  whereNot<F extends Field<T>>(field: F, value: Value<T, F>): this {
    return this.also(compared(field, 'OpNotEqual', value));
  }

  whereLessThan<F extends Field<T>>(field: F, value: Value<T, F>): this {
    return this.also(compared(field, 'OpLessThan', value));
  }

  whereLessThanOrEqual<F extends Field<T>>(field: F, value: Value<T, F>): this {
    return this.also(compared(field, 'OpLessThanOrEqual', value));
  }

  whereGreaterThan<F extends Field<T>>(field: F, value: Value<T, F>): this {
    return this.also(compared(field, 'OpGreaterThan', value));
  }

  whereGreaterThanOrEqual<F extends Field<T>>(field: F, value: Value<T, F>): this {
    return this.also(compared(field, 'OpGreaterThanOrEqual', value));
  }

  whereIn<F extends Field<T>>(field: F, values: readonly Value<T, F>[]): this {
    return this.also(isIn(field, values));
  }

  /** Either what stands so far, or this. */
  or(other: ConditionBuilder<T> | ConditionExpression): this {
    return this.combine('OpOr', other);
  }

  and(other: ConditionBuilder<T> | ConditionExpression): this {
    return this.combine('OpAnd', other);
  }

  private combine(op: 'OpAnd' | 'OpOr', other: ConditionBuilder<T> | ConditionExpression): this {
    if (this.condition === null) {
      throw new TypeError(`${op === 'OpOr' ? 'or' : 'and'}() has no condition before it`);
    }
    this.condition = infix(this.condition, op, toCondition(other));
    return this;
  }

  protected also(condition: ConditionExpression): this {
    this.condition = this.condition === null ? condition : infix(this.condition, 'OpAnd', condition);
    return this;
  }
}

export class ConditionBuilder<T extends string = string> extends Conditions<T> {
  protected condition: ConditionExpression | null = null;

  /** The expression; a builder without conditions is true. */
  build(): ConditionExpression {
    return this.condition ?? TRUE;
  }
}

/** What answers builders: a client, or a transaction of one. */
export interface QuerySource {
  fetchRows(query: DynamicSQLQuery): Promise<unknown[]>;
  observeRows(
    query: DynamicSQLQuery,
    listener: (rows: readonly unknown[]) => void,
    options: SubscribeOptions,
  ): () => void;
  fetchGroups(query: DynamicSQLQuery, groups: Aggregation): Promise<unknown[]>;
  observeGroups(
    query: DynamicSQLQuery,
    groups: Aggregation,
    listener: (groups: readonly unknown[]) => void,
    options: SubscribeOptions,
  ): () => void;
}

export interface SubscribeOptions {
  /** Told when the server refuses the query, now or later. Without it errors go to `console.error`. */
  onError?: (error: LiveError) => void;
  /** Where records that come go if the query has no order. Default: behind the others. */
  newRecordBehaviour?: NewRecordBehaviour;
}

export const NewRecordBehaviour = { APPEND_NEW_RECORD: 0, PREPEND_NEW_RECORD: 1 } as const;
export type NewRecordBehaviour = (typeof NewRecordBehaviour)[keyof typeof NewRecordBehaviour];

export class QueryBuilder<T extends string, R = IHPRecord<T>> extends Conditions<T> {
  readonly query: DynamicSQLQuery;
  /** Set on queries of a transaction. */
  transactionId: string | null = null;
  /** Carries the type of the records; never set. */
  declare readonly record: R;
  readonly #source: QuerySource | (() => QuerySource);

  constructor(table: T, source: QuerySource | (() => QuerySource)) {
    super();
    if (typeof table !== 'string') {
      throw new TypeError('the table of a query is its name');
    }
    this.#source = source;
    this.query = {
      table,
      selectedColumns: { tag: 'SelectAll' },
      whereCondition: null,
      orderByClause: [],
      distinctOnColumn: null,
      limit: null,
      offset: null,
    };
  }

  protected get condition(): ConditionExpression | null {
    return this.query.whereCondition;
  }

  protected set condition(condition: ConditionExpression | null) {
    this.query.whereCondition = condition;
  }

  /** Only these fields; called again, these too. */
  select<F extends Field<T>>(...fields: F[] | [readonly F[]]): QueryBuilder<T, Pick<IHPRecord<T>, F>> {
    const { selectedColumns: before } = this.query;
    const contents = before.tag === 'SelectAll' ? [] : before.contents;
    const more = fields.flat() as string[];
    this.query.selectedColumns = { tag: 'SelectSpecific', contents: [...new Set([...contents, ...more])] };
    return this as unknown as QueryBuilder<T, Pick<IHPRecord<T>, F>>;
  }

  orderBy(field: Field<T>): this {
    return this.orderByAsc(field);
  }

  orderByAsc(field: Field<T>): this {
    this.query.orderByClause.push({ orderByColumn: field, orderByDirection: 'Asc' });
    return this;
  }

  orderByDesc(field: Field<T>): this {
    this.query.orderByClause.push({ orderByColumn: field, orderByDirection: 'Desc' });
    return this;
  }

  /**
   * Full text search in a `tsvector`: words that are there, the last one as a beginning. Best matches
   * come first.
   */
  whereTextSearchStartsWith(field: Field<T>, text: string): this {
    const words = text.trim().split(/\s+/).filter(Boolean).map(searchWord);
    const tsquery = words.length > 0 ? `${words.join('&')}:*` : '';
    this.query.orderByClause.push({ tag: 'OrderByTSRank', tsvector: field, tsquery, orderByDirection: 'Desc' });
    const functionCall = { tag: 'ToTSQuery', text: tsquery } as const;
    return this.also(infix(column(field), 'OpTSMatch', { tag: 'CallExpression', functionCall }));
  }

  /** One row for each value of a field, which must be the first of the order. */
  distinctOn(field: Field<T>): this {
    this.query.distinctOnColumn = field;
    return this;
  }

  limit(limit: number | null): this {
    this.query.limit = wholeNumber('limit', limit);
    return this;
  }

  offset(offset: number | null): this {
    this.query.offset = wholeNumber('offset', offset);
    return this;
  }

  /** Groups of the rows: those that are equal in all of these fields. `aggregate` says what of them. */
  groupBy<F extends Field<T>>(...fields: F[]): GroupBuilder<T, F> {
    return new GroupBuilder<T, F>(copyOf(this.query), fields, () => this.source);
  }

  /** What is computed of all rows, as one group. */
  aggregate<const A extends Readonly<Record<string, LiveAggregate<T>>>>(aggregates: A): AggregateBuilder<LiveGroup<T, never, A>> {
    return this.groupBy<never>().aggregate(aggregates);
  }

  /** The rows as they are now. */
  fetch(): Promise<R[]> {
    return this.source.fetchRows(copyOf(this.query)) as Promise<R[]>;
  }

  /** The first row, `null` if there is none. */
  async fetchOne(): Promise<R | null> {
    const rows = await this.source.fetchRows({ ...copyOf(this.query), limit: 1 });
    return (rows[0] as R | undefined) ?? null;
  }

  /** Calls with the rows, now and whenever they change. Returns what ends that. */
  subscribe(listener: (rows: readonly R[]) => void, options: SubscribeOptions = {}): () => void {
    return this.source.observeRows(copyOf(this.query), listener as (rows: readonly unknown[]) => void, options);
  }

  private get source(): QuerySource {
    return typeof this.#source === 'function' ? this.#source() : this.#source;
  }
}

/** A builder goes on changing after it was used. */
export function copyOf(query: DynamicSQLQuery): DynamicSQLQuery {
  return { ...query, orderByClause: [...query.orderByClause] };
}

function wholeNumber(name: string, value: number | null): number | null {
  if (value !== null && !Number.isInteger(value)) {
    throw new TypeError(`${name} is a whole number or null`);
  }
  return value;
}

/** A word of `to_tsquery`: quoted where it has signs that mean something there. */
function searchWord(word: string): string {
  return /^[\p{L}\p{N}_-]+$/u.test(word) ? word : `'${word.replace(/\\/g, '\\\\').replace(/'/g, "''")}'`;
}

function isIn(field: string, values: readonly unknown[]): ConditionExpression {
  const list = values.map((value) => value ?? null);
  return infix(column(field), 'OpIn', { tag: 'ListExpression', values: list });
}

function toCondition(given: object): ConditionExpression {
  if (given instanceof ConditionBuilder) {
    return given.build();
  }
  if ('tag' in given && typeof given.tag === 'string' && given.tag.endsWith('Expression')) {
    return given as ConditionExpression;
  }
  const equalities = Object.entries(given).map(([field, value]) => compared(field, 'OpEqual', value));
  return joined('OpAnd', equalities);
}

type AnyCondition = ConditionExpression | ConditionBuilder<never> | ConditionBuilder;

const comparison =
  (op: ConditionOperator) =>
  (field: string, value: unknown): ConditionExpression =>
    compared(field, op, value);

/** Expressions. */
export const eq = comparison('OpEqual');
export const notEq = comparison('OpNotEqual');
export const lessThan = comparison('OpLessThan');
export const lessThanOrEqual = comparison('OpLessThanOrEqual');
export const greaterThan = comparison('OpGreaterThan');
export const greaterThanOrEqual = comparison('OpGreaterThanOrEqual');

/** All of these; without any, true. */
export function and(...conditions: (AnyCondition | readonly AnyCondition[])[]): ConditionExpression {
  return joined('OpAnd', conditions.flat().map(toCondition));
}

/** Any of these; without any, false. */
export function or(...conditions: (AnyCondition | readonly AnyCondition[])[]): ConditionExpression {
  return joined('OpOr', conditions.flat().map(toCondition));
}

/** Start a `ConditionBuilder`. Here the table is not known, so neither are its fields. */
export function where(field: string, value: unknown): ConditionBuilder;
export function where(conditions: ConditionBuilder | ConditionExpression | Record<string, unknown>): ConditionBuilder;
export function where(first: unknown, value?: unknown): ConditionBuilder {
  return new ConditionBuilder().where(first as never, value as never);
}
export const filterWhere: typeof where = where;
export const whereNot = (field: string, value: unknown): ConditionBuilder => new ConditionBuilder().whereNot(field, value as never);
export const whereLessThan = (field: string, value: unknown): ConditionBuilder =>
  new ConditionBuilder().whereLessThan(field, value as never);
export const whereLessThanOrEqual = (field: string, value: unknown): ConditionBuilder =>
  new ConditionBuilder().whereLessThanOrEqual(field, value as never);
export const whereGreaterThan = (field: string, value: unknown): ConditionBuilder =>
  new ConditionBuilder().whereGreaterThan(field, value as never);
export const whereGreaterThanOrEqual = (field: string, value: unknown): ConditionBuilder =>
  new ConditionBuilder().whereGreaterThanOrEqual(field, value as never);
export const whereIn = (field: string, values: readonly unknown[]): ConditionBuilder =>
  new ConditionBuilder().whereIn(field, values as never);

/** An id is a text, a number, or an array of those. */
export function isRecordId(id: unknown): id is RecordId {
  const isPart = (part: unknown) => typeof part === 'string' || typeof part === 'number';
  return isPart(id) || (Array.isArray(id) && id.length > 0 && id.every(isPart));
}
