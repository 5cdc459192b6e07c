/**
 * The SDK's upload queue as text for the wire.
 *
 * The SDK parses the entries of its queue into JavaScript values, in which integers above 2^53
 * lose digits. The queue itself (table `ps_crud`) has them as JSON text; that text is sent.
 */
import type { CommonPowerSyncDatabase, CrudEntry, CrudTransaction } from '@powersync/common';

/** A transaction of the queue, ready to be sent. */
export interface QueuedTransaction {
  /** The number under which the server remembers it. */
  readonly id: number;
  /** `{"id":…,"operations":[…]}`. */
  readonly json: string;
  readonly entries: CrudEntry[];
  /** Removes it, and all before it, from the queue. */
  complete(): Promise<void>;
}

/** Limits of one batch. A first transaction is taken whatever its size. */
export interface BatchLimits {
  transactions: number;
  characters: number;
}

/** The oldest transactions of the queue, in order; empty when there are none. */
export async function nextBatch(
  database: CommonPowerSyncDatabase,
  limits: BatchLimits,
): Promise<QueuedTransaction[]> {
  const batch: QueuedTransaction[] = [];
  let characters = 0;
  const transactions = iterator(database);
  while (batch.length < limits.transactions) {
    const transaction = await transactions();
    if (transaction == null) {
      break;
    }
    const queued = await prepare(database, transaction);
    characters += queued.json.length;
    if (batch.length > 0 && characters > limits.characters) {
      break;
    }
    batch.push(queued);
  }
  return batch;
}

/** The next transaction at each call. React Native may have no async iterators: then just one. */
function iterator(
  database: CommonPowerSyncDatabase,
): () => Promise<CrudTransaction | null | undefined> {
  const symbol = Symbol.asyncIterator as symbol | undefined;
  if (symbol !== undefined && typeof database.getCrudTransactions === 'function') {
    const all = database.getCrudTransactions()[Symbol.asyncIterator]();
    return async () => (await all.next()).value;
  }
  let given = false;
  return async () => {
    if (given) {
      return null;
    }
    given = true;
    return database.getNextCrudTransaction();
  };
}

async function prepare(
  database: CommonPowerSyncDatabase,
  transaction: CrudTransaction,
): Promise<QueuedTransaction> {
  const entries = transaction.crud;
  const first = entries[0];
  if (first === undefined) {
    throw new Error('the SDK gave a transaction without entries');
  }
  const id = transaction.transactionId ?? first.clientId;
  const texts = (await storedTexts(database, entries)) ?? entries.map((entry) => JSON.stringify(entry));
  return {
    id,
    json: `{"id":${id},"operations":[${texts.join(',')}]}`,
    entries,
    complete: () => transaction.complete(),
  };
}

/** The entries as the queue stores them; `null` if this SDK keeps its queue in another way. */
async function storedTexts(
  database: CommonPowerSyncDatabase,
  entries: CrudEntry[],
): Promise<string[] | null> {
  const first = entries[0]!.clientId;
  const last = entries[entries.length - 1]!.clientId;
  let rows: { id: number; data: string }[];
  try {
    rows = await database.getAll('SELECT id, data FROM ps_crud WHERE id BETWEEN ? AND ? ORDER BY id', [
      first,
      last,
    ]);
  } catch {
    return null;
  }
  const matches =
    rows.length === entries.length &&
    rows.every(
      (row, index) =>
        Number(row.id) === entries[index]!.clientId &&
        typeof row.data === 'string' &&
        row.data.startsWith('{"'),
    );
  return matches ? rows.map((row) => `{"op_id":${row.id},${row.data.slice(1)}`) : null;
}
