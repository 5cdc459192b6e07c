/**
 * One query that is kept live: its subscription at the server over all sockets, its result, and who
 * listens. Equal queries of a client share one.
 *
 * Invariants:
 * - rows that were shown stay while the connection is away, and when the query has ended; they go only
 *   when the server says so, or when another user signs in;
 * - nobody is shown what another user was, also not by a query that had ended before he came.
 */
import type { Connection } from './connection.js';
import { refusal } from './connection.js';
import { LiveError } from './error.js';
import type { Write } from './layer.js';
import { Result, type ResultOptions } from './result.js';
import type { Row } from './types.js';
import type { Aggregation, ClientMessage, DynamicSQLQuery, ServerMessage } from './wire.js';

/**
 * - `loading`: nothing is known yet.
 * - `live`: what is shown is so.
 * - `reconnecting`: what is shown was so when the connection ended.
 * - `error`: the server refused the query, or ended it (`error` says why).
 */
export type LiveStatus = 'loading' | 'live' | 'reconnecting' | 'error';

export interface LiveState<D> {
  /** `null` until the first result. The same object for as long as nothing changed. */
  readonly data: D | null;
  readonly status: LiveStatus;
  readonly error: LiveError | null;
}

/** What a live query needs of its client. */
export interface Host {
  readonly connection: Connection;
  /** How many users there were before the one that is signed in. */
  users(): number;
  /** Calls what the application gave, whatever that does. */
  call(listener: () => void): void;
  /** Counts everything that happens, so that one can tell what was before what. */
  tick(): number;
  /** By whom the server knows it, `null` for no more. */
  named(query: LiveQuery, before: string | null, now: string | null): void;
  /** Something has changed: `publish` is to be called soon. */
  schedule(query: LiveQuery): void;
  /** Calls after a delay that grows with the failures before it. Returns what ends that. */
  retry(failures: number, call: () => void): () => void;
  /** Nobody listens any more. */
  unheard(query: LiveQuery): void;
  heard(query: LiveQuery): void;
}

/** Refusals of a server that is busy, or copies the table first: it may say yes in a while. */
const LATER: readonly unknown[] = ['HW5307', 'HW5311', 'HW5415'];

/** What is kept live of a query: its rows, how many there are, or groups of them. */
export type LiveKind = 'rows' | 'count' | 'groups';

const SUBSCRIBES = {
  rows: 'CreateDataSubscription',
  count: 'CreateCountSubscription',
  groups: 'CreateAggregateSubscription',
} as const;

/** Groups stand as they came, all of them, whatever the order and the window of their rows is. */
function groupsOf(query: DynamicSQLQuery): DynamicSQLQuery {
  return { ...query, selectedColumns: { tag: 'SelectAll' }, orderByClause: [], limit: null };
}

const LOADING: LiveState<never> = { data: null, status: 'loading', error: null };

export class LiveQuery {
  /** `null` for counts, which have no rows. */
  readonly result: Result | null;
  isClosed = false;
  readonly #host: Host;
  #state: LiveState<readonly Row[] | number> = LOADING;
  /** Whose all of this is, as the host counts users. */
  #user: number;
  readonly #listeners = new Set<() => void>();
  #count: number | null = null;
  #id: string | null = null;
  #generation = 0;
  #status: LiveStatus = 'loading';
  #error: LiveError | null = null;
  #hasData = false;
  #isAsking = false;
  /** Refusals in a row by a server that is busy. */
  #failures = 0;
  #stopRetry: () => void = () => {};
  /** Whether anybody ever listened: a query that is only named costs the server nothing. */
  #isWanted = false;
  /** Where a later subscription may go on from, if the server said. */
  #resume: { subscriptionId: string; lsn: string } | null = null;

  constructor(
    host: Host,
    /** What it asks, as one text. */
    readonly name: string,
    readonly kind: LiveKind,
    readonly query: DynamicSQLQuery,
    options: ResultOptions = {},
    /** What is computed of it, of kind `groups`. */
    readonly groups: Aggregation | null = null,
  ) {
    this.#host = host;
    this.#user = host.users();
    this.result = kind === 'count' ? null : new Result(groups === null ? query : groupsOf(query), options);
  }

  /** What is shown: the same object for as long as nothing changed. */
  get state(): LiveState<readonly Row[] | number> {
    this.#forgetOthers();
    return this.#state;
  }

  /** Calls whenever `state` is another object; the first call begins it all. Returns what ends that. */
  listen(listener: () => void): () => void {
    // Whoever listens twice with one function ends each by itself.
    const own = () => listener();
    this.#listeners.add(own);
    this.#host.heard(this);
    if (!this.#isWanted) {
      this.#isWanted = true;
      if (this.isClosed) {
        this.isClosed = false;
        this.#forgetOthers();
        this.#waits();
      }
      this.open();
    }
    return () => {
      if (this.#listeners.delete(own) && this.#listeners.size === 0) {
        this.#host.unheard(this);
      }
    };
  }

  /** Subscribes at the server, if there is a socket; else the client calls again when there is. */
  open(): void {
    const { connection } = this.#host;
    if (!this.#isWanted) {
      return;
    }
    if (connection.state === 'closed') {
      this.fail(new LiveError('closed', 'the client is closed'));
      return;
    }
    if (connection.state !== 'open') {
      connection.connect();
      return;
    }
    this.#stopRetry();
    this.#generation += 1;
    const generation = this.#generation;
    const askedAt = this.#host.tick();
    const message: ClientMessage = {
      tag: SUBSCRIBES[this.kind],
      query: this.kind === 'rows' ? this.result!.sent : this.query,
      ...this.groups,
    };
    if (this.kind === 'rows') {
      // Appends are applied to the row as the server has it, so they are always right here.
      message.appends = true;
    }
    if (this.#resume !== null) {
      message.resume = this.#resume;
    }
    connection.request(JSON.stringify(message), {
      resend: 'here',
      answered: (answer) => {
        if (generation === this.#generation) {
          this.#opened(answer, askedAt);
        } else {
          this.#endAtServer(answer.subscriptionId);
        }
      },
      failed: (error) => {
        // Where the connection ended, the client calls again.
        if (generation === this.#generation && error.kind !== 'connection') {
          this.fail(error);
        }
      },
    });
  }

  /** Asks again after an error. */
  retry(): void {
    if (this.#status === 'error' && !this.isClosed) {
      this.#waits();
      this.open();
    }
  }

  /** There is no subscription: the server refused it, or ended it, or the client is closed. */
  fail(error: LiveError): void {
    this.#left();
    if (LATER.includes(error.code)) {
      this.#stopRetry = this.#host.retry(this.#failures, () => this.open());
      this.#failures += 1;
      this.#waits();
    } else {
      this.#resume = null;
      this.#become('error', error);
    }
  }

  close(): void {
    if (this.isClosed) {
      return;
    }
    this.isClosed = true;
    this.#isWanted = false;
    this.#resume = null;
    this.#endAtServer(this.#id);
    this.#left();
    // What is shown is not kept up to date any more, and own writes are nobody's to end.
    this.result?.layer.forget();
  }

  /** The socket is no more. */
  lost(): void {
    this.#left();
    if (this.#status !== 'error') {
      this.#waits();
    }
  }

  /** Somebody else has signed in: nothing of what was shown may stay. */
  forget(): void {
    this.#user = this.#host.users();
    this.#left();
    this.#resume = null;
    this.#count = null;
    this.#hasData = false;
    this.result?.forget();
    this.#waits();
  }

  /** A message about this subscription. */
  push(message: ServerMessage): void {
    if (message.tag === 'DataSyncError') {
      this.fail(refusal(message));
    } else if (this.#take(() => this.#changed(message))) {
      this.#reached(message);
      this.#host.schedule(this);
    }
  }

  #changed(message: ServerMessage): void {
    switch (message.tag) {
      case 'DidInsert':
        this.result?.insert(message.record!);
        break;
      case 'DidUpdate':
        this.result?.update(message.id, message.changeSet, message.appendSet);
        break;
      case 'DidDelete':
        this.result?.delete(message.id);
        break;
      case 'DidChangeCount':
        this.#count = message.count!;
        break;
    }
  }

  /** Takes in what the server said. What cannot be shown is an error, and not wanted any more. */
  #take(change: () => void): boolean {
    try {
      change();
      return true;
    } catch (error) {
      this.#endAtServer(this.#id);
      this.fail(error instanceof LiveError ? error : new LiveError('refused', String(error)));
      return false;
    }
  }

  begin(write: Write): void {
    // What an own write does to a group, the server says.
    if (this.kind === 'rows') {
      this.result!.layer.begin(write);
    }
  }

  /** Tells listeners if what they see has changed, and asks for the order where it is not known. */
  publish(): void {
    const data = this.#hasData ? (this.result?.rows() ?? this.#count) : null;
    const state = this.#state;
    if (data !== state.data || this.#status !== state.status || this.#error !== state.error) {
      this.#state = { data, status: this.#status, error: this.#error };
      for (const listener of [...this.#listeners]) {
        this.#host.call(listener);
      }
    }
    this.#askForOrder();
  }

  /** Whoever signed in after this had ended finds nothing: the client lets only those forget that have not. */
  #forgetOthers(): void {
    if (this.#user !== this.#host.users()) {
      this.forget();
      this.#state = LOADING;
    }
  }

  #opened(answer: ServerMessage, askedAt: number): void {
    this.#name(answer.subscriptionId ?? null);
    this.#failures = 0;
    if (this.result === null) {
      this.#count = answer.count ?? 0;
    } else if (answer.resumed !== true && !this.#take(() => this.result!.refresh(answer.result ?? [], askedAt))) {
      return;
    }
    this.#resume = null;
    this.#reached(answer);
    this.#hasData = true;
    this.#become('live', null);
  }

  #reached({ lsn }: ServerMessage): void {
    if (lsn !== undefined && this.#id !== null) {
      this.#resume = { subscriptionId: this.#id, lsn };
    }
  }

  #askForOrder(): void {
    const question = this.#isAsking || this.#id === null ? undefined : this.result?.question();
    if (question === undefined) {
      return;
    }
    this.#isAsking = true;
    const generation = this.#generation;
    const answered = (rows: readonly Row[] | null) => {
      if (generation === this.#generation) {
        this.#isAsking = false;
        if (rows === null) {
          this.result!.giveUp();
        } else {
          this.result!.answer(rows, question.stamp);
        }
        this.#host.schedule(this);
      }
    };
    this.#host.connection.request(
      JSON.stringify({ tag: 'DataSyncQuery', query: question.query }),
      {
        resend: 'here',
        answered: ({ result = [] }) => answered(result),
        // What the server does not order either stands behind the others.
        failed: ({ kind }) => void (kind === 'refused' && answered(null)),
      },
    );
  }

  /** What the server knows of this, and what it was asked, has no meaning any more. */
  #left(): void {
    this.#generation += 1;
    this.#isAsking = false;
    this.#stopRetry();
    this.#name(null);
  }

  #waits(): void {
    this.#become(this.#hasData ? 'reconnecting' : 'loading', null);
  }

  #become(status: LiveStatus, error: LiveError | null): void {
    this.#status = status;
    this.#error = error;
    this.#host.schedule(this);
  }

  #name(id: string | null): void {
    this.#host.named(this, this.#id, id);
    this.#id = id;
  }

  #endAtServer(subscriptionId: string | null | undefined): void {
    if (subscriptionId != null) {
      const ignored = () => {};
      const options = { resend: 'here', answered: ignored, failed: ignored } as const;
      this.#host.connection.request(JSON.stringify({ tag: 'DeleteDataSubscription', subscriptionId }), options);
    }
  }
}
