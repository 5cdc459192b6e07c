/** The subscription object of the original API, over a live query that others may share. */
import { NewRecordBehaviour } from './builder.js';
import type { LiveClient } from './client.js';
import { liveClient } from './default_client.js';
import { LiveError } from './error.js';
import type { LiveQuery } from './live_query.js';
import type { DataRecord } from './registry.js';
import type { DynamicSQLQuery } from './wire.js';

export interface DataSubscriptionOptions {
  newRecordBehaviour?: NewRecordBehaviour;
}

export class DataSubscription<R = DataRecord> {
  isClosed = false;
  /** Called when it was closed. */
  onClose: () => void = () => {};
  /** Resolves with the first result; rejects when the server refuses the query. */
  readonly createOnServerPromise: Promise<void>;
  #failed: (error: LiveError) => void = () => {};
  readonly #live: LiveQuery;
  readonly #stops = new Set<() => void>();

  /**
   * As in the original. `options.client`: another client than the application's. `_cache` is not needed: what was
   * shown, the client keeps.
   */
  constructor(query: DynamicSQLQuery, options: DataSubscriptionOptions & { client?: LiveClient } = {}, _cache?: unknown) {
    const { client = liveClient(), newRecordBehaviour } = options;
    this.#live = client.rows(query, newRecordBehaviour);
    this.createOnServerPromise = new Promise((resolve, reject) => {
      this.#failed = reject;
      const stop = this.#listen(() => {
        const { data, error } = this.#live.state;
        if (data !== null || error !== null) {
          stop();
          return error === null ? resolve() : reject(error);
        }
      });
    });
    // Whoever wants to know asks `createOnServer` or `connectError`.
    this.createOnServerPromise.catch(() => {});
  }

  createOnServer(): Promise<void> {
    return this.createOnServerPromise;
  }

  get isConnected(): boolean {
    return this.#live.state.status === 'live';
  }

  get connectError(): LiveError | null {
    return this.#live.state.error;
  }

  /** `null` until the first result. */
  getRecords(): readonly R[] | null {
    return this.#live.state.data as readonly R[] | null;
  }

  /** Calls with the records whenever they change. Returns what ends that. */
  subscribe(listener: (records: readonly R[]) => void): () => void {
    let last: unknown = null;
    return this.#listen(() => {
      const { data } = this.#live.state;
      // None any more: somebody else has signed in.
      if (data !== last) {
        last = data;
        listener((data ?? []) as readonly R[]);
      }
    });
  }

  close(): void {
    if (!this.isClosed) {
      this.isClosed = true;
      for (const stop of [...this.#stops]) {
        stop();
      }
      this.#failed(new LiveError('closed', 'the subscription was closed'));
      this.onClose();
    }
  }

  /** Listens, and calls once for what is known already. */
  #listen(listener: () => void): () => void {
    const end = this.#live.listen(listener);
    let isOver = false;
    const stop = () => {
      isOver = true;
      this.#stops.delete(stop);
      end();
    };
    this.#stops.add(stop);
    void Promise.resolve().then(() => isOver || listener());
    return stop;
  }
}
