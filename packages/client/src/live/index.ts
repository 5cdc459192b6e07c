/**
 * Live queries: rows that stay as Postgres has them, and writes that are shown at once.
 *
 * Suggested reading order: `builder.ts` and `aggregate.ts` (what is asked), `client.ts` (who asks), `connection.ts` (the
 * socket), `live_query.ts` (one subscription), `result.ts` and `order.ts` (its rows), `layer.ts` (own
 * writes over them), `shared_socket.ts` (several tabs).
 */
export * from './registry.js';
export {
  and,
  ConditionBuilder,
  eq,
  filterWhere,
  greaterThan,
  greaterThanOrEqual,
  lessThan,
  lessThanOrEqual,
  NewRecordBehaviour,
  notEq,
  or,
  QueryBuilder,
  where,
  whereGreaterThan,
  whereGreaterThanOrEqual,
  whereIn,
  whereLessThan,
  whereLessThanOrEqual,
  whereNot,
} from './builder.js';
export type { QuerySource, SubscribeOptions } from './builder.js';
export { AggregateBuilder, GroupBuilder } from './aggregate.js';
export type { LiveAggregate, LiveGroup } from './aggregate.js';
export { LiveClient } from './client.js';
export type { ConnectionStatus, CrudOptions, LiveIdentity, LiveClientOptions, TableOptions } from './client.js';
export type { ConnectionState, LiveEnvironment, LiveSocket } from './connection.js';
export * from './default_client.js';
export { LiveError } from './error.js';
export type { LiveErrorKind } from './error.js';
export type { LiveQuery, LiveState, LiveStatus } from './live_query.js';
export { platform } from './platform.js';
export { DataSubscription } from './subscription.js';
export type { DataSubscriptionOptions } from './subscription.js';
export type { TokenSource } from './token.js';
export { Transaction } from './transaction.js';
export type {
  ConditionExpression,
  ConditionOperator,
  DynamicSQLQuery,
  OrderByClause,
  OrderByDirection,
  SelectedColumns,
  ServerMessage,
} from './wire.js';
