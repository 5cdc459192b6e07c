/**
 * Hooks for rows, counts and groups. Components that ask for the same share one subscription, and a component
 * renders again only when what it shows has changed.
 *
 * A hook takes a builder that may be made anew at every render: what counts is what it asks for.
 */
import { useCallback, useSyncExternalStore } from 'react';
import type {
  AggregateBuilder,
  DataSubscriptionOptions,
  LiveError,
  LiveQuery,
  LiveState,
  LiveStatus,
  QueryBuilder,
} from '@headwater/client/live';
import { useLiveClient } from './provider.js';

export type { DataSubscriptionOptions };

export interface QueryState<R> {
  /** `null` until the first result. Stays while the connection is away. */
  data: readonly R[] | null;
  status: LiveStatus;
  /** Why the server refused the query, or ended it. */
  error: LiveError | null;
}

// A query without a table: hooks run at every render, also when there is nothing to ask.
const NOTHING: LiveState<never> = { data: null, status: 'loading', error: null };

/** The state of a live query, from one moment for all who render. `atServer`: what a page begins with. */
export function useLiveState<D>(live: LiveQuery | null, atServer: () => LiveState<D> = () => NOTHING): LiveState<D> {
  const subscribe = useCallback((changed: () => void) => live?.listen(changed) ?? (() => {}), [live]);
  const read = () => (live === null ? NOTHING : live.state) as LiveState<D>;
  return useSyncExternalStore(subscribe, read, atServer);
}

function useLive<R>(builder: QueryBuilder<string, R> | AnyBuilder, options: DataSubscriptionOptions): LiveQuery {
  return useLiveClient().rows(builder.query, options.newRecordBehaviour);
}

// Builders of tables are not builders of any table: what they take differs. What they give is all that counts here.
// eslint-disable-next-line @typescript-eslint/no-explicit-any
type AnyBuilder = QueryBuilder<any, any>;
type RecordOf<B extends AnyBuilder> = B['record'];

/** Rows, state and error; throws nothing. */
export function useQueryState<B extends AnyBuilder>(builder: B, options: DataSubscriptionOptions = {}): QueryState<RecordOf<B>> {
  return useLiveState<readonly RecordOf<B>[]>(useLive(builder, options));
}

/** The rows, `null` while they load. Throws, for an error boundary, if the server refuses the query. */
export function useQuery<B extends AnyBuilder>(builder: B, options: DataSubscriptionOptions = {}): readonly RecordOf<B>[] | null {
  return orThrow(useQueryState(builder, options)).data;
}

/** The first row: `undefined` while it loads, `null` if there is none. */
export function useQuerySingleResult<B extends AnyBuilder>(builder: B): RecordOf<B> | null | undefined {
  const client = useLiveClient();
  const state = useLiveState<readonly RecordOf<B>[]>(client.rows({ ...builder.query, limit: 1 }));
  const { data } = orThrow(state);
  return data === null ? undefined : (data[0] ?? null);
}

/** How many rows there are, `null` while that is not known. Throws as `useQuery` does. */
export function useCount(builder: AnyBuilder): number | null {
  return orThrow(useLiveState<number>(useLiveClient().count(builder.query))).data;
}

/**
 * The groups of a query's rows, `null` while they load; without `groupBy` it is one. Throws as `useQuery` does.
 */
export function useAggregate<R>(builder: AggregateBuilder<R>): readonly R[] | null {
  return orThrow(useLiveState<readonly R[]>(useLiveClient().groups(builder.query, builder.groups))).data;
}

/**
 * The rows; suspends until they are there. Throws as `useQuery` does, and on a server, which loads
 * nothing: React leaves what is in the boundary to the page then.
 */
export function useSuspenseQuery<B extends AnyBuilder>(builder: B, options: DataSubscriptionOptions = {}): readonly RecordOf<B>[] {
  const live = useLive(builder, options);
  let isOnServer = false;
  const state = useLiveState<readonly RecordOf<B>[]>(live, () => {
    // Asked by servers, and by pages that take over what a server made.
    isOnServer = typeof document === 'undefined';
    return live.state as LiveState<readonly RecordOf<B>[]>;
  });
  const { data } = orThrow(state);
  if (data === null) {
    throw isOnServer ? new Error(NOT_HERE) : firstResult(live);
  }
  return data;
}

const NOT_HERE = 'useSuspenseQuery loads nothing on a server: the page loads it, and shows the fallback of <Suspense> until then';

const waiting = new WeakMap<LiveQuery, Promise<void>>();

/** Resolves when there is something to show. One promise per query: React asks again at every render. */
function firstResult(live: LiveQuery): Promise<void> {
  let promise = waiting.get(live);
  if (promise === undefined) {
    promise = new Promise((resolve) => {
      const look = () => {
        if (live.state.data !== null || live.state.error !== null) {
          waiting.delete(live);
          resolve();
          stop();
        }
      };
      const stop = live.listen(look);
      look();
    });
    waiting.set(live, promise);
  }
  return promise;
}

function orThrow<D>(state: LiveState<D>): LiveState<D> {
  // What was shown is not taken away from whoever may still read it by an error of the connection; a
  // refusal is another matter.
  if (state.error !== null) {
    throw state.error;
  }
  return state;
}
