/**
 * The client of an application that has one: free functions use it. It is made when it is first
 * used, for the host of the page, unless `initHeadwater` was called before.
 */
import { QueryBuilder } from './builder.js';
import { LiveClient, type CrudOptions, type LiveClientOptions } from './client.js';
import { STORED_TOKEN } from './token.js';
import type { Transaction } from './transaction.js';
import type { IHPRecord, NewRecord, TableName } from './registry.js';
import type { Field, Patch, RecordId } from './types.js';
import type { ClientMessage, ServerMessage } from './wire.js';

let current: LiveClient | null = null;

/** Makes the application's client. One that was made before is closed. */
export function initHeadwater(options: LiveClientOptions = {}): LiveClient {
  const client = new LiveClient(options);
  const before = current;
  // Whoever is told of the end finds the new one.
  current = client;
  before?.close();
  return client;
}

/** The application's client. */
export function liveClient(): LiveClient {
  return (current ??= new LiveClient());
}

/** As in the original API: `host` begins with `http://` or `https://` and has no slash at its end. */
export function initIHPBackend({ host }: { host: string }): void {
  initHeadwater({ host });
}

/** The address of a path at the server. */
export function ihpBackendUrl(path: string): string {
  return `${liveClient().host}${path}`;
}

/** `fetch` at the server, as the signed-in user. */
export async function fetchAuthenticated(path: string, init: RequestInit = {}): Promise<Response> {
  const client = liveClient();
  const token = await client.token();
  const headers = new Headers(init.headers);
  if (token === null) {
    return fetch(`${client.host}${path}`, { credentials: 'include', ...init });
  }
  headers.set('authorization', `Bearer ${token}`);
  return fetch(`${client.host}${path}`, { ...init, headers });
}

const controller = {
  /** Sends a message, for example one of the application's own, and resolves with the answer. */
  sendMessage: (payload: ClientMessage): Promise<ServerMessage> => liveClient().request(payload),
};

/** What the original calls its connection, as far as applications use it. */
export const DataSyncController = {
  getInstance: () => controller,
  getWSUrl: () => liveClient().socketUrl,
  get ihpBackendHost(): string {
    return liveClient().host;
  },
  set ihpBackendHost(host: string) {
    initIHPBackend({ host });
  },
};

export function query<T extends TableName>(table: T): QueryBuilder<T>;
export function query<T extends TableName, F extends Field<T>>(
  table: T,
  columns: readonly F[],
): QueryBuilder<T, Pick<IHPRecord<T>, F>>;
export function query<T extends TableName>(table: T, columns?: readonly Field<T>[]): unknown {
  // Queries are often made while modules load, before the application has said where its server is.
  const builder = new QueryBuilder(table, liveClient);
  return columns === undefined ? builder : builder.select(...columns);
}

export function createRecord<T extends TableName>(table: T, record: NewRecord<T>, options?: CrudOptions): Promise<IHPRecord<T>> {
  return liveClient().createRecord(table, record, options);
}

export function createRecords<T extends TableName>(
  table: T,
  records: readonly NewRecord<T>[],
  options?: CrudOptions,
): Promise<IHPRecord<T>[]> {
  return liveClient().createRecords(table, records, options);
}

export function updateRecord<T extends TableName>(
  table: T,
  id: RecordId,
  patch: Patch<T>,
  options?: CrudOptions,
): Promise<IHPRecord<T>> {
  return liveClient().updateRecord(table, id, patch, options);
}

export function updateRecords<T extends TableName>(
  table: T,
  ids: readonly RecordId[],
  patch: Patch<T>,
  options?: CrudOptions,
): Promise<IHPRecord<T>[]> {
  return liveClient().updateRecords(table, ids, patch, options);
}

export function deleteRecord<T extends TableName>(table: T, id: RecordId, options?: CrudOptions): Promise<void> {
  return liveClient().deleteRecord(table, id, options);
}

export function deleteRecords<T extends TableName>(table: T, ids: readonly RecordId[], options?: CrudOptions): Promise<void> {
  return liveClient().deleteRecords(table, ids, options);
}

export function withTransaction<V>(body: (transaction: Transaction) => Promise<V>): Promise<V> {
  return liveClient().withTransaction(body);
}

/** The id of the signed-in user, `null` when nobody is. */
export function getCurrentUserId(): Promise<string | null> {
  return liveClient().whoami();
}

/** The type of users: that of the table `users`, where generated types have it. */
export type CurrentUser = IHPRecord<'users'>;

/** The signed-in user's own row, `null` when nobody is signed in. */
export async function getCurrentUser(): Promise<CurrentUser | null> {
  await liveClient().whoami();
  return ((await liveClient().currentUser?.fetchOne()) ?? null) as CurrentUser | null;
}

/** Finds out who is signed in. */
export async function initAuth(): Promise<void> {
  await liveClient().whoami();
}

/** The original's name for `initIHPBackend` and `initAuth`. */
export async function initThinBackend({ host }: { host: string }): Promise<void> {
  initIHPBackend({ host });
  await initAuth();
}

/** Sends the page to where somebody signs in (`loginUrl`). */
export async function loginWithRedirect(): Promise<void> {
  location.assign(liveClient().loginUrl);
}

/** Sends whoever is not signed in to where that is done. */
export async function ensureIsUser(): Promise<void> {
  if ((await getCurrentUserId()) === null) {
    await loginWithRedirect();
  }
}

export interface LogoutOptions {
  /** Where the page goes then. */
  redirect?: string;
}

/** Forgets the page's token; what the former user was shown goes. */
export async function logout({ redirect }: LogoutOptions = {}): Promise<void> {
  if (typeof localStorage !== 'undefined') {
    localStorage.removeItem(STORED_TOKEN);
  }
  await liveClient().refreshToken();
  if (redirect !== undefined) {
    location.assign(redirect);
  }
}
