/**
 * Groups of a query's rows, and what is computed of each: counts, sums, means, least and greatest values.
 *
 * The server computes; nothing here does. A group is told by the values that its rows share.
 */
import type { QuerySource, SubscribeOptions } from './builder.js';
import type { IHPRecord } from './registry.js';
import type { Field } from './types.js';
import type { Aggregation, DynamicSQLQuery } from './wire.js';

/** One aggregate: `'count'` of rows, or a function of the values of a field, in which NULL counts for nothing. */
export type LiveAggregate<T extends string> =
  | 'count'
  | { count: Field<T> }
  | { sum: Field<T> }
  | { avg: Field<T> }
  | { min: Field<T> }
  | { max: Field<T> };

/** What it is: a number, or of the type of its field. Of no value at all it is `null`. */
type Computed<T extends string, A> = A extends 'count' | { count: unknown }
  ? number
  : A extends { sum: infer F } | { avg: infer F } | { min: infer F } | { max: infer F }
    ? F extends keyof IHPRecord<T>
      ? IHPRecord<T>[F] | null
      : never
    : never;

/** A group as it is given. */
export type LiveGroup<T extends string, F extends Field<T>, A extends Readonly<Record<string, LiveAggregate<T>>>> = Pick<
  IHPRecord<T>,
  F
> & { [N in keyof A]: Computed<T, A[N]> };

/** Rows that were grouped; `aggregate` says what is to be known of each group. */
export class GroupBuilder<T extends string, F extends Field<T> = never> {
  readonly #query: DynamicSQLQuery;
  readonly #fields: readonly F[];
  readonly #source: () => QuerySource;

  constructor(query: DynamicSQLQuery, fields: readonly F[], source: () => QuerySource) {
    this.#query = query;
    this.#fields = fields;
    this.#source = source;
  }

  /** What is computed of each group, by the names that it is to have. */
  aggregate<const A extends Readonly<Record<string, LiveAggregate<T>>>>(aggregates: A): AggregateBuilder<LiveGroup<T, F, A>> {
    const wire: Record<string, { tag: string; field?: string }> = {};
    for (const [name, aggregate] of Object.entries<LiveAggregate<T>>(aggregates)) {
      const [[word, field] = [], ...more] = typeof aggregate === 'string' ? [[aggregate]] : Object.entries(aggregate);
      if (word === undefined || more.length > 0) {
        throw new TypeError("an aggregate is 'count', or one function of one field: { sum: 'price' }");
      }
      wire[name] = { tag: word[0]!.toUpperCase() + word.slice(1), ...(field === undefined ? {} : { field }) };
    }
    return new AggregateBuilder(this.#query, { groupBy: this.#fields, aggregates: wire }, this.#source);
  }
}

/** What is asked of groups. It does not change any more. */
export class AggregateBuilder<R> {
  /** Carries the type of the groups; never set. */
  declare readonly record: R;
  readonly #source: () => QuerySource;

  constructor(
    readonly query: DynamicSQLQuery,
    readonly groups: Aggregation,
    source: () => QuerySource,
  ) {
    this.#source = source;
  }

  /** The groups as they are now, in no order. Without `groupBy` it is one. */
  fetch(): Promise<R[]> {
    return this.#source().fetchGroups(this.query, this.groups) as Promise<R[]>;
  }

  /** Calls with the groups, now and whenever they change. Returns what ends that. */
  subscribe(listener: (groups: readonly R[]) => void, options: SubscribeOptions = {}): () => void {
    return this.#source().observeGroups(this.query, this.groups, listener as (groups: readonly unknown[]) => void, options);
  }
}
