/**
 * A client: one connection, the live queries on it, writes, and who is signed in.
 *
 * Invariants:
 * - a write is shown in every live query of its table before `createRecord` and the others return,
 *   and its trace goes when the server refuses it (`layer.ts`);
 * - nothing that one user was shown is shown to the next.
 */
import { QueryBuilder, copyOf, isRecordId, NewRecordBehaviour, type QuerySource, type SubscribeOptions } from './builder.js';
import { Connection, retryDelay, type ConnectionState, type LiveEnvironment, type RequestOptions } from './connection.js';
import { platform, uuid } from './platform.js';
import { LiveError } from './error.js';
import { jsonForms } from './json.js';
import { Write } from './layer.js';
import { LiveQuery, type Host, type LiveKind } from './live_query.js';
import { claimsOf, storedToken, type TokenSource } from './token.js';
import type { Result } from './result.js';
import { Transaction } from './transaction.js';
import type { IHPRecord, NewRecord, TableName } from './registry.js';
import { keyOf, keyOfRecord, type Field, type Patch, type RecordId, type Row } from './types.js';
import type { Aggregation, ClientMessage, DynamicSQLQuery, ServerMessage } from './wire.js';

export interface LiveClientOptions {
  /** Headwater's address, for example `https://live.example.com`. Default: that of the page. */
  host?: string;
  /** The path of the socket there. */
  path?: string;
  /** A token for the signed-in user. Default: what the page stored as `ihp_jwt`. */
  token?: TokenSource;
  /** Tables whose key is not `id`, or whose ids the database makes. */
  tables?: Readonly<Record<string, TableOptions>>;
  /** The table of users, whose key is the token's subject. Default: `users`. */
  usersTable?: string;
  /** Where somebody signs in, for `loginWithRedirect` and `ensureIsUser`. */
  loginUrl?: string;
  /** How long a query that nobody listens to is kept, milliseconds. Default 1000. */
  keepMs?: number;
  /** How long an own write that was answered is shown at most before its change has come, milliseconds. Default 3000. */
  settleMs?: number;
  /** Sockets, clock and timers. Default: those of the platform. */
  environment?: LiveEnvironment;
}

export interface TableOptions {
  /** The fields of the key. Default: `id`. */
  key?: readonly string[];
  /** Who makes ids of new records. Default: this client, UUIDs. */
  ids?: 'client' | 'database';
}

export interface CrudOptions {
  /** The transaction in which it happens. */
  transactionId?: string | null;
}

/** Who is signed in. */
export interface LiveIdentity {
  /** The token's subject; `null` when nobody is signed in, `undefined` while that is not known. */
  userId: string | null | undefined;
}

/** How the connection is. */
export interface ConnectionStatus {
  state: ConnectionState;
  /** Why there is none, after a failure. */
  error: Error | null;
}

/** A timer that is set further ahead fires at once. */
const LONGEST_TIMER_MS = 2 ** 31 - 1;
/** How long a query that was named is kept for whoever will listen to it. */
const UNHEARD_MS = 5000;
/** A token is renewed this long before its end, or in the last fifth of what is left of it. */
const RENEW_AHEAD_MS = 60_000;

export class LiveClient implements QuerySource {
  readonly connection: Connection;
  identity: LiveIdentity = { userId: undefined };
  status: ConnectionStatus = { state: 'idle', error: null };
  readonly #options: LiveClientOptions;
  readonly #environment: LiveEnvironment;
  /** Live queries by what they ask, for those who ask the same. */
  readonly #queries = new Map<string, LiveQuery>();
  /** Those that are not ended. */
  readonly #active = new Set<LiveQuery>();
  readonly #byName = new Map<string, LiveQuery>();
  readonly #writes = new Set<Write>();
  readonly #listeners = new Set<() => void>();
  readonly #dirty = new Set<LiveQuery>();
  readonly #ends = new Map<LiveQuery, () => void>();
  #ticks = 0;
  #isScheduled = false;
  #token: string | null = null;
  /** Askings for a token: how many there were, and the newest that was answered. */
  #asked = 0;
  #answered = 0;
  #isWithoutToken = false;
  /** Counts users, so that what is of one can tell. */
  #users = 0;
  /** Whose token the socket has, or the one that is being opened. */
  #socketUser: string | null | undefined;
  #stopRenewal: () => void = () => {};
  readonly #stopOnline: () => void;
  readonly #host: Host;

  constructor(options: LiveClientOptions = {}) {
    if (options.host !== undefined && !/^https?:\/\/.*[^/]$/.test(options.host)) {
      throw new TypeError('host begins with http:// or https:// and does not end in a slash');
    }
    this.#options = options;
    this.#environment = options.environment ?? platform;
    this.connection = new Connection(this.#environment, {
      address: () => this.#address(),
      opened: () => this.#opened(),
      lost: () => this.#lost(),
      pushed: (message) => this.#pushed(message),
      changed: (state, error) => {
        this.status = { state, error };
        this.#tell();
      },
    });
    this.#host = {
      connection: this.connection,
      users: () => this.#users,
      call: (listener) => this.#call(listener),
      tick: () => this.#tick(),
      named: (query, before, now) => {
        if (before !== null) {
          this.#byName.delete(before);
        }
        if (now !== null) {
          this.#byName.set(now, query);
        }
      },
      schedule: (query) => this.#schedule(query),
      retry: (failures, call) => this.#environment.setTimer(call, retryDelay(this.#environment, failures)),
      heard: (query) => {
        this.#activate(query);
        this.#keep(query);
      },
      unheard: (query) => this.#keep(query, options.keepMs ?? 1000),
    };
    this.#stopOnline = this.#environment.whenOnline?.(() => this.connection.networkIsBack()) ?? (() => {});
  }

  /** Starts a query. */
  query<T extends TableName>(table: T): QueryBuilder<T>;
  query<T extends TableName, F extends Field<T>>(table: T, columns: readonly F[]): QueryBuilder<T, Pick<IHPRecord<T>, F>>;
  query<T extends TableName>(table: T, columns?: readonly Field<T>[]): unknown {
    const builder = new QueryBuilder(table, this);
    return columns === undefined ? builder : builder.select(...columns);
  }

  /**
   * The live query of these rows, shared by all who ask for the same. It ends a moment after the last
   * listener has gone, or when nobody comes.
   */
  rows(query: DynamicSQLQuery, behaviour: NewRecordBehaviour = NewRecordBehaviour.APPEND_NEW_RECORD): LiveQuery {
    const prepend = behaviour === NewRecordBehaviour.PREPEND_NEW_RECORD;
    return this.#shared('rows', query, prepend);
  }

  /** The live groups of a query's rows. */
  groups(query: DynamicSQLQuery, groups: Aggregation): LiveQuery {
    return this.#shared('groups', query, false, groups);
  }

  /** The live number of rows. */
  count(query: DynamicSQLQuery): LiveQuery {
    return this.#shared('count', query, false);
  }

  async fetchRows(query: DynamicSQLQuery, { transactionId }: CrudOptions = {}): Promise<unknown[]> {
    const message: ClientMessage = { tag: 'DataSyncQuery', query, ...inTransaction(transactionId) };
    const answer = await this.request(message, transactionId ? 'here' : 'again');
    return answer.result ?? [];
  }

  async fetchGroups(query: DynamicSQLQuery, groups: Aggregation, { transactionId }: CrudOptions = {}): Promise<unknown[]> {
    const message: ClientMessage = { tag: 'DataSyncAggregateQuery', query, ...groups, ...inTransaction(transactionId) };
    const answer = await this.request(message, transactionId ? 'here' : 'again');
    return answer.result ?? [];
  }

  observeRows(query: DynamicSQLQuery, listener: (rows: readonly unknown[]) => void, options: SubscribeOptions): () => void {
    return observe(this.rows(query, options.newRecordBehaviour), listener, options);
  }

  observeGroups(
    query: DynamicSQLQuery,
    groups: Aggregation,
    listener: (groups: readonly unknown[]) => void,
    options: SubscribeOptions,
  ): () => void {
    return observe(this.groups(query, groups), listener, options);
  }

  /** Inserts a record, shown at once. Resolves with the record as Postgres has it. */
  async createRecord<T extends TableName>(table: T, record: NewRecord<T>, options: CrudOptions = {}): Promise<IHPRecord<T>> {
    checkTable(table);
    const [values] = this.#newRecords(table, [record]);
    const message = { tag: 'CreateRecordMessage', table, record: values };
    const answer = await this.#write(message, options, this.#creations(table, [values!]), ({ record }) => [record]);
    return answer.record as IHPRecord<T>;
  }

  /** Inserts records, all or none. */
  async createRecords<T extends TableName>(table: T, records: readonly NewRecord<T>[], options: CrudOptions = {}): Promise<IHPRecord<T>[]> {
    checkTable(table);
    if (!Array.isArray(records)) {
      throw new TypeError('records are an array');
    }
    const values = this.#newRecords(table, records);
    const message = { tag: 'CreateRecordsMessage', table, records: values };
    const answer = await this.#write(message, options, this.#creations(table, values), ({ records }) => records ?? []);
    return answer.records as IHPRecord<T>[];
  }

  /** Changes fields of a record, shown at once. */
  async updateRecord<T extends TableName>(table: T, id: RecordId, patch: Patch<T>, options: CrudOptions = {}): Promise<IHPRecord<T>> {
    checkTable(table);
    checkIds([id]);
    checkRecord(patch);
    const message = { tag: 'UpdateRecordMessage', table, id, patch };
    const writes = [new Write(table, keyOf(id), 'update', jsonForms(patch))];
    const answer = await this.#write(message, options, writes, ({ record }) => [record]);
    return answer.record as IHPRecord<T>;
  }

  /** Changes fields of several records. Resolves with those that were there to be changed. */
  async updateRecords<T extends TableName>(table: T, ids: readonly RecordId[], patch: Patch<T>, options: CrudOptions = {}): Promise<IHPRecord<T>[]> {
    checkTable(table);
    checkIds(ids);
    checkRecord(patch);
    const message = { tag: 'UpdateRecordsMessage', table, ids, patch };
    const writes = ids.map((id) => new Write(table, keyOf(id), 'update', jsonForms(patch)));
    const answer = await this.#write(message, options, writes, ({ records = [] }) => {
      const byKey = new Map(records.map((record) => [keyOfRecord(record, this.#keyOf(table)), record]));
      return writes.map(({ key }) => byKey.get(key));
    });
    return answer.records as IHPRecord<T>[];
  }

  /** Deletes a record, gone at once. It is no error if there is none. */
  async deleteRecord<T extends TableName>(table: T, id: RecordId, options: CrudOptions = {}): Promise<void> {
    checkTable(table);
    checkIds([id]);
    const write = new Write(table, keyOf(id), 'delete');
    await this.#write({ tag: 'DeleteRecordMessage', table, id }, options, [write]);
  }

  async deleteRecords<T extends TableName>(table: T, ids: readonly RecordId[], options: CrudOptions = {}): Promise<void> {
    checkTable(table);
    checkIds(ids);
    const writes = ids.map((id) => new Write(table, keyOf(id), 'delete'));
    await this.#write({ tag: 'DeleteRecordsMessage', table, ids }, options, writes);
  }

  /**
   * Runs `body` in a transaction: committed when it resolves, rolled back when it throws. What it
   * writes is shown when it has been committed, not before.
   */
  async withTransaction<V>(body: (transaction: Transaction) => Promise<V>): Promise<V> {
    const transaction = new Transaction(this);
    await transaction.start();
    let value: V;
    try {
      value = await body(transaction);
    } catch (error) {
      // What went wrong first is what matters.
      await transaction.rollback().catch(() => {});
      throw error;
    }
    await transaction.commit();
    return value;
  }

  /** Sends a message of the protocol and resolves with its answer. */
  request(message: ClientMessage, resend: RequestOptions['resend'] = 'once'): Promise<ServerMessage> {
    return new Promise((answered, failed) => {
      // The connection numbers messages.
      const text = JSON.stringify({ ...message, requestId: undefined });
      this.connection.request(text, { resend, answered, failed });
    });
  }

  /** Calls when `identity` or `status` has changed. Returns what ends that. */
  listen(listener: () => void): () => void {
    const own = () => listener();
    this.#listeners.add(own);
    return () => void this.#listeners.delete(own);
  }

  /**
   * Asks for the token again: to be called when somebody has signed in or out. The same user goes on
   * without a gap; for another one everything is read anew.
   */
  async refreshToken(): Promise<void> {
    const before = this.identity.userId;
    const token = await this.#askToken();
    if (this.connection.state !== 'open' || token === null || this.identity.userId !== before) {
      this.connection.reconnect();
      return;
    }
    const { socketNumber } = this.connection;
    try {
      await this.request({ tag: 'LoginWithJWT', jwt: token }, 'here');
      this.#renewInTime();
    } catch {
      if (socketNumber === this.connection.socketNumber) {
        this.connection.reconnect();
      }
    }
  }

  /** Who is signed in, once that is known. */
  async whoami(): Promise<string | null> {
    if (this.identity.userId === undefined) {
      await this.#askToken();
    }
    return this.identity.userId ?? null;
  }

  /** The newest token, for requests over HTTP. */
  async token(): Promise<string | null> {
    return this.#askToken();
  }

  /** Ends everything: live queries stop with an error, requests fail. */
  close(): void {
    this.#stopOnline();
    this.#stopRenewal();
    for (const stop of this.#ends.values()) {
      stop();
    }
    for (const query of this.#active) {
      // What was refused before is over already, and was told.
      if (query.state.status !== 'error') {
        query.fail(new LiveError('closed', 'the client was closed'));
      }
    }
    this.connection.close();
    this.#flush();
  }

  /** Headwater's address. */
  get host(): string {
    return this.#options.host ?? pageHost();
  }

  /** The address of the socket, without a token. */
  get socketUrl(): string {
    return `${this.host.replace(/^http/, 'ws')}${this.#options.path ?? '/DataSyncController'}`;
  }

  /** Where somebody signs in. */
  get loginUrl(): string {
    return this.#options.loginUrl ?? '/';
  }

  /** The query of the signed-in user's own row; `null` when nobody is signed in, or that is not known yet. */
  get currentUser(): QueryBuilder<string> | null {
    const { userId } = this.identity;
    const { usersTable = 'users' } = this.#options;
    const [key] = this.#keyOf(usersTable);
    return userId == null ? null : new QueryBuilder<string>(usersTable, this).where(key!, userId).limit(1);
  }

  async #address(): Promise<string> {
    await this.#askToken();
    // Not what was answered here: somebody may have asked since.
    const token = this.#token;
    this.#socketUser = this.identity.userId;
    return token === null ? this.socketUrl : `${this.socketUrl}?access_token=${encodeURIComponent(token)}`;
  }

  /** The newest token. Whoever it shows to be another user is not given anything of the last one. */
  async #askToken(): Promise<string | null> {
    this.#asked += 1;
    const number = this.#asked;
    const token = await this.#givenToken();
    if (number < this.#answered) {
      // Somebody asked later and was answered sooner.
      return this.#token;
    }
    this.#answered = number;
    const userId = token === null ? null : (claimsOf(token).sub ?? null);
    const before = this.identity.userId;
    this.#token = token;
    if (userId !== before) {
      this.identity = { userId };
      if (before !== undefined) {
        this.#users += 1;
        this.#writes.clear();
        for (const query of this.#active) {
          query.forget();
        }
        this.connection.discard(new LiveError('closed', 'somebody else has signed in'));
        this.#flush();
      }
      this.#tell();
    }
    return token;
  }

  /**
   * What the application gives. Whatever waits for a connection goes on waiting when it gives none, as it does
   * without a network, which is the usual reason: so that is told, once for each time in a row.
   */
  async #givenToken(): Promise<string | null> {
    try {
      const token: unknown = await (this.#options.token ?? storedToken)();
      if (token !== null && (typeof token !== 'string' || token === '')) {
        const given = token === '' ? 'an empty string' : typeof token;
        throw new TypeError(`the token function gave ${given}: a token is a string, and null says that nobody is signed in`);
      }
      this.#isWithoutToken = false;
      return token;
    } catch (error) {
      if (!this.#isWithoutToken) {
        this.#isWithoutToken = true;
        console.error('Headwater asked for a token and got none; it will ask again:', error);
      }
      throw error;
    }
  }

  #opened(): void {
    if (this.#socketUser !== this.identity.userId) {
      this.connection.reconnect();
      return;
    }
    this.#renewInTime();
    for (const query of this.#active) {
      query.open();
    }
  }

  #lost(): void {
    this.#stopRenewal();
    for (const query of this.#active) {
      query.lost();
    }
  }

  #renewInTime(): void {
    this.#stopRenewal();
    const { exp } = claimsOf(this.#token);
    if (exp === undefined) {
      return;
    }
    const left = exp * 1000 - this.#environment.now();
    const ahead = Math.min(RENEW_AHEAD_MS, left / 5);
    const wait = Math.min(LONGEST_TIMER_MS, Math.max(1000, left - ahead));
    // Where no token is to be had the old one ends the connection, and the next attempt asks again.
    this.#stopRenewal = this.#environment.setTimer(() => void this.refreshToken().catch(() => {}), wait);
  }

  #pushed(message: ServerMessage): void {
    if (message.subscriptionId !== undefined) {
      this.#byName.get(message.subscriptionId)?.push(message);
    } else if (message.tag === 'FailedToDecodeMessageError') {
      console.error(`Headwater could not read a message: ${message.errorMessage}`);
    }
  }

  #shared(kind: LiveKind, query: DynamicSQLQuery, prepend: boolean, groups: Aggregation | null = null): LiveQuery {
    const name = JSON.stringify([kind, prepend, query, groups]);
    let live = this.#queries.get(name);
    if (live === undefined) {
      const options = groups === null ? { prepend, key: this.#keyOf(query.table) } : { key: groups.groupBy, isGrouped: true };
      live = new LiveQuery(this.#host, name, kind, copyOf(query), options, groups);
      this.#activate(live);
      // Whoever asked may never listen: a render that React throws away.
      this.#keep(live, Math.max(UNHEARD_MS, this.#options.keepMs ?? 0));
    }
    return live;
  }

  /** Begins a query, or begins it again: it was named, not listened to for a long time, and now is. */
  #activate(query: LiveQuery): void {
    if (this.#active.has(query)) {
      return;
    }
    this.#active.add(query);
    if (!this.#queries.has(query.name)) {
      this.#queries.set(query.name, query);
    }
    for (const write of this.#writes) {
      if (write.table === query.query.table) {
        query.begin(write);
      }
    }
  }

  /** Keeps a query, or ends it after a while. */
  #keep(query: LiveQuery, milliseconds?: number): void {
    this.#ends.get(query)?.();
    this.#ends.delete(query);
    if (milliseconds === undefined) {
      return;
    }
    const end = () => {
      this.#ends.delete(query);
      this.#active.delete(query);
      if (this.#queries.get(query.name) === query) {
        this.#queries.delete(query.name);
      }
      query.close();
    };
    this.#ends.set(query, this.#environment.setTimer(end, milliseconds));
  }

  #newRecords(table: string, records: readonly object[]): Record<string, unknown>[] {
    const makesIds = this.#options.tables?.[table]?.ids !== 'database' && this.#keyOf(table).join() === 'id';
    return records.map((record) => {
      checkRecord(record);
      const values = { ...record } as Record<string, unknown>;
      if (makesIds) {
        values.id ??= uuid();
      }
      return values;
    });
  }

  #creations(table: string, records: readonly Record<string, unknown>[]): Write[] | null {
    const writes: Write[] = [];
    for (const record of records) {
      const key = keyOfRecord(record, this.#keyOf(table));
      if (key === undefined) {
        // Nobody knows yet which rows these will be.
        return null;
      }
      writes.push(new Write(table, key, 'create', jsonForms(record)));
    }
    return writes;
  }

  #keyOf(table: string): readonly string[] {
    return this.#options.tables?.[table]?.key ?? ['id'];
  }

  /** Sends a write and shows it. `records`: those of the answer, for each of `writes`. */
  #write(
    message: ClientMessage,
    { transactionId }: CrudOptions,
    given: Write[] | null,
    records?: (answer: ServerMessage) => readonly (Row | undefined)[],
  ): Promise<ServerMessage> {
    const writes = transactionId ? [] : (given ?? []);
    // Before anything is shown: what JSON cannot hold is never sent.
    const text = JSON.stringify({ ...message, ...inTransaction(transactionId) });
    for (const write of writes) {
      this.#writes.add(write);
      this.#each(write, (query) => query.begin(write));
    }
    this.#flush();
    return new Promise((resolve, reject) => {
      this.connection.request(text, {
        resend: transactionId ? 'here' : 'once',
        answered: (answer) => {
          const at = this.#tick();
          const all = records?.(answer);
          writes.forEach((write, place) => {
            if (all !== undefined && all[place] === undefined) {
              this.#end(write);
              return;
            }
            this.#answer(write, all?.[place], at);
          });
          this.#flush();
          this.#settleLater(writes);
          resolve(answer);
        },
        failed: (error) => {
          for (const write of writes) {
            write.state = 'refused';
            this.#end(write);
          }
          this.#flush();
          reject(error);
        },
      });
    });
  }

  #answer(write: Write, record: Row | undefined, at: number): void {
    const { table, key: written } = write;
    const key = record && keyOfRecord(record, this.#keyOf(table));
    write.answer(record, at);
    this.#each(write, ({ result }) => result?.layer.answered(write));
    if (key === undefined || key === written) {
      return;
    }
    // The database has another form of the key, or a trigger makes it. What else was written to the row goes along.
    for (const one of this.#writes) {
      if (one.table === table && one.key === written) {
        const showing: Result[] = [];
        this.#each(one, ({ result }) => void (result!.layer.drop(one) && showing.push(result!)));
        one.key = key;
        showing.forEach((result) => result.adopt(one));
      }
    }
  }

  #settleLater(writes: readonly Write[]): void {
    if (writes.length > 0) {
      this.#environment.setTimer(() => {
        for (const write of writes) {
          this.#end(write);
        }
        this.#flush();
      }, this.#options.settleMs ?? 3000);
    }
  }

  /** A write is not shown any more but by the server's rows. */
  #end(write: Write): void {
    if (this.#writes.delete(write)) {
      this.#each(write, (query) => query.result?.layer.drop(write));
    }
  }

  #each(write: Write, call: (query: LiveQuery) => void): void {
    for (const query of this.#active) {
      if (query.query.table === write.table && query.kind === 'rows') {
        call(query);
        this.#dirty.add(query);
      }
    }
  }

  #schedule(query: LiveQuery): void {
    this.#dirty.add(query);
    if (!this.#isScheduled) {
      this.#isScheduled = true;
      // Changes of one transaction are messages of their own; they are shown together where they came together.
      this.#environment.setTimer(() => this.#flush(), 0);
    }
  }

  #flush(): void {
    this.#isScheduled = false;
    const dirty = [...this.#dirty];
    this.#dirty.clear();
    for (const query of dirty) {
      query.publish();
    }
  }

  #tell(): void {
    for (const listener of [...this.#listeners]) {
      this.#call(listener);
    }
  }

  /**
   * Calls what the application gave. What that throws is for the platform to tell, as of any timer; it
   * stops nothing here, where others wait to be called and to be answered.
   */
  #call(listener: () => void): void {
    try {
      listener();
    } catch (error) {
      this.#environment.setTimer(() => {
        throw error;
      }, 0);
    }
  }

  #tick(): number {
    this.#ticks += 1;
    return this.#ticks;
  }
}

/** Calls with what a live query has, now and whenever that changes. Returns what ends that. */
function observe(live: LiveQuery, listener: (rows: readonly unknown[]) => void, options: SubscribeOptions): () => void {
  let [last, told]: [unknown, unknown] = [null, null];
  const tell = () => {
    const { data, error } = live.state;
    if (error !== null && error !== told) {
      (options.onError ?? console.error)(error);
    }
    told = error;
    // None any more: somebody else has signed in.
    if (data !== last) {
      last = data;
      listener((data ?? []) as readonly unknown[]);
    }
  };
  const stop = live.listen(tell);
  let isOver = false;
  // Never within this call: its caller does not have the function that ends it yet.
  void Promise.resolve().then(() => isOver || tell());
  return () => {
    isOver = true;
    stop();
  };
}

function inTransaction(transactionId: string | null | undefined): { transactionId?: string } {
  return transactionId ? { transactionId } : {};
}

function pageHost(): string {
  if (typeof location === 'undefined') {
    throw new LiveError('closed', 'there is no page to take the host from: give one, initHeadwater({ host })');
  }
  return location.origin;
}

function checkTable(table: unknown): void {
  if (typeof table !== 'string') {
    throw new TypeError('a table is named by a text');
  }
}

function checkIds(ids: unknown): void {
  if (!Array.isArray(ids) || !ids.every(isRecordId)) {
    throw new TypeError('an id is a text, a number, or an array of those');
  }
}

function checkRecord(record: unknown): void {
  if (typeof record !== 'object' || record === null || Array.isArray(record)) {
    throw new TypeError('a record is an object');
  }
}
