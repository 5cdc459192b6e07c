/**
 * Messages of the DataSync protocol, as far as this client sends and reads them. Everything that a
 * server of ours says beyond the original is optional here: a plain answer is always enough.
 */
import type { Row } from './types.js';

export type ConditionOperator =
  | 'OpEqual'
  | 'OpNotEqual'
  | 'OpGreaterThan'
  | 'OpGreaterThanOrEqual'
  | 'OpLessThan'
  | 'OpLessThanOrEqual'
  | 'OpAnd'
  | 'OpOr'
  | 'OpIs'
  | 'OpIsNot'
  | 'OpTSMatch'
  | 'OpIn';

export type ConditionExpression =
  | { tag: 'ColumnExpression'; field: string }
  | { tag: 'LiteralExpression'; value: unknown }
  | { tag: 'ListExpression'; values: readonly unknown[] }
  | { tag: 'CallExpression'; functionCall: { tag: 'ToTSQuery'; text: string } }
  | {
      tag: 'InfixOperatorExpression';
      left: ConditionExpression;
      op: ConditionOperator;
      right: ConditionExpression;
    };

export type SelectedColumns = { tag: 'SelectAll' } | { tag: 'SelectSpecific'; contents: string[] };

export type OrderByDirection = 'Asc' | 'Desc';

export type OrderByClause =
  | { orderByColumn: string; orderByDirection: OrderByDirection }
  | { tag: 'OrderByTSRank'; tsvector: string; tsquery: string; orderByDirection: OrderByDirection };

export interface DynamicSQLQuery {
  table: string;
  selectedColumns: SelectedColumns;
  whereCondition: ConditionExpression | null;
  orderByClause: OrderByClause[];
  distinctOnColumn: string | null;
  limit: number | null;
  offset: number | null;
}

/** What is computed of the rows of a query: of each group of them, or of all. */
export interface Aggregation {
  groupBy: readonly string[];
  aggregates: Readonly<Record<string, { tag: string; field?: string }>>;
}

/** A message to the server; the connection gives it its number. */
export interface ClientMessage {
  tag: string;
  transactionId?: string;
  [field: string]: unknown;
}

/** A message from the server. Which fields there are depends on the tag. */
export interface ServerMessage {
  tag: string;
  requestId?: number;
  errorMessage?: string;
  code?: string;
  sqlstate?: string;
  subscriptionId?: string;
  transactionId?: string;
  result?: Row[];
  record?: Row;
  records?: Row[];
  count?: number;
  id?: unknown;
  changeSet?: Row;
  appendSet?: Readonly<Record<string, string>>;
  userId?: string;
  jwt?: string;
  /** The position up to which a subscription is complete with this message, where the server tells it. */
  lsn?: string;
  /** Whether a subscription goes on from the position that was asked for, without a result. */
  resumed?: boolean;
}
