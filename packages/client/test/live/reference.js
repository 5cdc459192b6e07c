/**
 * Postgres as far as order goes: types whose values JavaScript sees, but not their order.
 *
 * A value is itself, or `{shown, rank}` where what is shown does not tell the rank.
 */
import fc from 'fast-check';

const UUIDS = ['0c6e0000-0000-4000-8000-000000000001', '9c6e0000-0000-4000-8000-000000000001', 'ac6e0000-0000-4000-8000-000000000001'];
/** In an order that no comparison of their letters gives. */
const TEXTS = ['zebra', 'Äpfel', 'apple', 'B', 'a', '10', '9', ' x', '2024-01-02'].map((shown, rank) => ({ shown, rank }));
const MOODS = ['open', 'doing', 'done', 'dropped'].map((shown, rank) => ({ shown, rank }));
const MOMENTS = ['2023-12-31T23:59:59.9+00:00', '2024-01-02T03:04:05+00:00', '2024-01-02T03:04:05.1+00:00', '2024-01-02T03:04:05.12+00:00', '2024-01-02T03:04:06+00:00'];
/** Numerics that are one number in JavaScript. */
const NUMERICS = [0.1, 0.1, 0.5, 9007199254740992, 9007199254740992].map((shown, rank) => ({ shown, rank }));

const orNull = (values) => fc.oneof({ weight: 6, arbitrary: fc.constantFrom(...values) }, { weight: 1, arbitrary: fc.constant(null) });

export const kinds = {
  integer: { values: orNull([-1, 0, 1, 2, 3, 10]) },
  boolean: { values: orNull([false, true]) },
  text: { values: orNull(TEXTS) },
  mood: { values: orNull(MOODS) },
  moment: { values: orNull(MOMENTS) },
  uuid: { values: orNull(UUIDS) },
  numeric: { values: orNull(NUMERICS) },
};

function rank(kind, value) {
  if (value === null) return Infinity;
  if (typeof value === 'object') return value.rank;
  if (kind === 'moment') return MOMENTS.indexOf(value);
  if (kind === 'uuid') return UUIDS.indexOf(value);
  return Number(value);
}

/** Compares rows with columns `c0`, `c1`, … as an ORDER BY of these columns would. */
export function sorter(columns) {
  return (a, b) => {
    for (const [at, { kind, direction }] of columns.entries()) {
      const [one, other] = [rank(kind, a[`c${at}`]), rank(kind, b[`c${at}`])];
      if (one !== other) return (one < other ? -1 : 1) * (direction === 'Desc' ? -1 : 1);
    }
    return 0;
  };
}
