/**
 * A transaction: several requests that happen together or not at all. It belongs to the socket on
 * which it was started and ends with it.
 */
import { QueryBuilder, type QuerySource } from './builder.js';
import type { LiveClient } from './client.js';
import { LiveError } from './error.js';
import type { IHPRecord, NewRecord, TableName } from './registry.js';
import type { Patch, RecordId } from './types.js';
import type { Aggregation, DynamicSQLQuery } from './wire.js';

export class Transaction implements QuerySource {
  transactionId: string | null = null;
  readonly #client: LiveClient;
  #socketNumber = 0;

  constructor(client: LiveClient) {
    this.#client = client;
  }

  async start(): Promise<void> {
    const answer = await this.#client.request({ tag: 'StartTransaction' });
    this.#socketNumber = this.#client.connection.socketNumber;
    this.transactionId = answer.transactionId!;
  }

  async commit(): Promise<void> {
    await this.#end('CommitTransaction');
  }

  async rollback(): Promise<void> {
    await this.#end('RollbackTransaction');
  }

  query<T extends TableName>(table: T): QueryBuilder<T> {
    const builder = new QueryBuilder(table, this);
    builder.transactionId = this.getIdOrFail();
    return builder;
  }

  createRecord<T extends TableName>(table: T, record: NewRecord<T>): Promise<IHPRecord<T>> {
    return this.#in((options) => this.#client.createRecord(table, record, options));
  }

  createRecords<T extends TableName>(table: T, records: readonly NewRecord<T>[]): Promise<IHPRecord<T>[]> {
    return this.#in((options) => this.#client.createRecords(table, records, options));
  }

  updateRecord<T extends TableName>(table: T, id: RecordId, patch: Patch<T>): Promise<IHPRecord<T>> {
    return this.#in((options) => this.#client.updateRecord(table, id, patch, options));
  }

  updateRecords<T extends TableName>(table: T, ids: readonly RecordId[], patch: Patch<T>): Promise<IHPRecord<T>[]> {
    return this.#in((options) => this.#client.updateRecords(table, ids, patch, options));
  }

  deleteRecord(table: TableName, id: RecordId): Promise<void> {
    return this.#in((options) => this.#client.deleteRecord(table, id, options));
  }

  deleteRecords(table: TableName, ids: readonly RecordId[]): Promise<void> {
    return this.#in((options) => this.#client.deleteRecords(table, ids, options));
  }

  fetchRows(query: DynamicSQLQuery): Promise<unknown[]> {
    return this.#in((options) => this.#client.fetchRows(query, options));
  }

  fetchGroups(query: DynamicSQLQuery, groups: Aggregation): Promise<unknown[]> {
    return this.#in((options) => this.#client.fetchGroups(query, groups, options));
  }

  observeGroups(): () => void {
    return this.observeRows();
  }

  observeRows(): () => void {
    throw new TypeError('a subscription cannot be part of a transaction');
  }

  /** Its id at the server. Fails before it was started, after its end, and when its socket is no more. */
  getIdOrFail(): string {
    if (this.transactionId !== null && this.#socketNumber !== this.#client.connection.socketNumber) {
      this.transactionId = null;
      throw new LiveError('connection', 'the connection of the transaction has ended, and with it the transaction');
    }
    if (this.transactionId === null) {
      throw new LiveError('closed', 'the transaction is not open');
    }
    return this.transactionId;
  }

  buildOptions(): { transactionId: string } {
    return { transactionId: this.getIdOrFail() };
  }

  async #in<V>(call: (options: { transactionId: string }) => Promise<V>): Promise<V> {
    return call(this.buildOptions());
  }

  async #end(tag: string): Promise<void> {
    const id = this.getIdOrFail();
    this.transactionId = null;
    await this.#client.request({ tag, id }, 'here');
  }
}
