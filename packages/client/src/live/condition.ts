/**
 * Conditions: making them, and telling whether a record fulfils one as far as JavaScript can.
 *
 * Invariant: `holds` never claims what Postgres may see otherwise. Texts compare by collations,
 * numbers may have digits that JavaScript lost, and one point in time has many texts; where that
 * matters the answer is `undefined`, and whoever asks waits for the server.
 */
import { compareValues, isSame } from './order.js';
import type { Row } from './types.js';
import type { ConditionExpression, ConditionOperator } from './wire.js';

export const TRUE: ConditionExpression = { tag: 'LiteralExpression', value: true };

export function column(field: string): ConditionExpression {
  return { tag: 'ColumnExpression', field };
}

export function infix(
  left: ConditionExpression,
  op: ConditionOperator,
  right: ConditionExpression,
): ConditionExpression {
  return { tag: 'InfixOperatorExpression', left, op, right };
}

/** `field op value`; what is undefined is NULL. */
export function compared(field: string, op: ConditionOperator, value: unknown): ConditionExpression {
  return infix(column(field), op, { tag: 'LiteralExpression', value: value ?? null });
}

/** Conditions joined from left to right; none of them at all is true, or false for OR. */
export function joined(op: 'OpAnd' | 'OpOr', conditions: readonly ConditionExpression[]): ConditionExpression {
  const [first, ...rest] = conditions;
  if (first === undefined) {
    return op === 'OpAnd' ? TRUE : { tag: 'LiteralExpression', value: false };
  }
  return rest.reduce((left, right) => infix(left, op, right), first);
}

/** Whether a record fulfils a condition: NULL counts as no, `undefined` is "only Postgres knows". */
export function holds(condition: ConditionExpression | null, row: Row): boolean | undefined {
  const answer = condition === null ? true : truth(condition, row);
  return answer === null ? false : answer;
}

/** SQL's three values, and `undefined` for what is not known here. */
type Truth = boolean | null | undefined;

function truth(condition: ConditionExpression, row: Row): Truth {
  switch (condition.tag) {
    case 'LiteralExpression':
    case 'ColumnExpression': {
      const value = operand(condition, row);
      return typeof value === 'boolean' || value === null ? value : undefined;
    }
    case 'InfixOperatorExpression':
      return infixTruth(condition, row);
    default:
      return undefined;
  }
}

function infixTruth(condition: ConditionExpression & { tag: 'InfixOperatorExpression' }, row: Row): Truth {
  const { left, op, right } = condition;
  if (op === 'OpAnd' || op === 'OpOr') {
    const [one, other] = [truth(left, row), truth(right, row)];
    const decides = op === 'OpOr';
    if (one === decides || other === decides) {
      return decides;
    }
    if (one === undefined || other === undefined) {
      return undefined;
    }
    return one === null || other === null ? null : !decides;
  }
  const value = operand(left, row);
  if (value === undefined) {
    return undefined;
  }
  if (op === 'OpIn') {
    return right.tag === 'ListExpression' ? isOneOf(value, right.values) : undefined;
  }
  const other = operand(right, row);
  if (other === undefined) {
    return undefined;
  }
  if (op === 'OpIs' || op === 'OpIsNot') {
    const same = value === null || other === null ? value === other : isSame(value, other);
    return same === undefined ? undefined : same === (op === 'OpIs');
  }
  // A literal NULL on the right means IS NULL, as the server reads it.
  if (right.tag === 'LiteralExpression' && other === null && (op === 'OpEqual' || op === 'OpNotEqual')) {
    return (value === null) === (op === 'OpEqual');
  }
  if (value === null || other === null) {
    return null;
  }
  if (op === 'OpEqual' || op === 'OpNotEqual') {
    const same = isSame(value, other);
    return same === undefined ? undefined : same === (op === 'OpEqual');
  }
  const order = compareValues(value, other);
  if (order === undefined) {
    return undefined;
  }
  switch (op) {
    case 'OpGreaterThan':
      return order > 0;
    case 'OpGreaterThanOrEqual':
      return order >= 0;
    case 'OpLessThan':
      return order < 0;
    case 'OpLessThanOrEqual':
      return order <= 0;
    default:
      return undefined;
  }
}

function isOneOf(value: unknown, values: readonly unknown[]): Truth {
  // The server reads a NULL in the list as "or is NULL".
  if (value === null) {
    return values.some((one) => (one ?? null) === null) ? true : values.length === 0 ? false : null;
  }
  let answer: Truth = false;
  for (const one of values) {
    if ((one ?? null) === null) {
      continue;
    }
    const same = isSame(value, one);
    if (same === true) {
      return true;
    }
    if (same === undefined) {
      answer = undefined;
    }
  }
  return answer;
}

/** The value of a column or literal; `undefined` where the record does not have it. */
function operand(expression: ConditionExpression, row: Row): unknown {
  switch (expression.tag) {
    case 'ColumnExpression':
      return row[expression.field];
    case 'LiteralExpression':
      return expression.value instanceof Date ? expression.value.toISOString() : expression.value;
    default:
      return undefined;
  }
}
