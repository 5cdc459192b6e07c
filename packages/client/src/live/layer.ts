/**
 * Own writes that a subscription does not show yet, as a layer over the server's rows.
 *
 * In: writes as they are sent, answered and refused, and what became of the server's rows. Out: the
 * row that is shown for a key. Invariants:
 * - a write that is refused leaves no trace;
 * - a write that is answered stays until the server's row has been what the answer said. Answers and
 *   changes of subscriptions arrive in no fixed order, so neither alone may end it: that would show
 *   the old value once more. (Not what the application wrote, but what the answer said: triggers and
 *   types change values.)
 * - writes to one row end in the order in which they were sent, each by a change at or behind the
 *   one that ended its predecessor.
 *
 * A change may never come: the server sends a slow reader only the net change, and a row may leave
 * the result by another's write. So `settle` ends a write that has been answered for a while.
 */
import { isEqual } from './json.js';
import type { Row } from './types.js';

export class Write {
  state: 'sent' | 'answered' | 'refused' = 'sent';
  /** When it was answered, in the client's own count of events. */
  answeredAt = Infinity;

  /** `values`: the record that was created, the fields that were changed; of the answer once it is there. */
  constructor(
    readonly table: string,
    /** The row, as the application named it; as the answer does once it is there. */
    public key: string,
    readonly kind: 'create' | 'update' | 'delete',
    public values: Row = {},
  ) {}

  answer(record: Row | undefined, at: number): void {
    this.state = 'answered';
    this.answeredAt = at;
    if (record === undefined || this.kind === 'delete') {
      return;
    }
    if (this.kind === 'create') {
      this.values = record;
      return;
    }
    const fields = Object.keys(this.values).filter((field) => field in record);
    this.values = Object.fromEntries(fields.map((field) => [field, record[field]]));
  }
}

interface Pending {
  entries: { write: Write; from: number }[];
  /** What the server's row has been since the first of these writes. */
  history: (Row | undefined)[];
  /** The place in the history from which the next write may be ended. */
  cursor: number;
  /** What is shown over which row of the server, if nothing has changed since. */
  shown: { base: Row | undefined; row: Row | undefined } | undefined;
  /** The last row that was shown: one that is equal stays the same object. */
  last: Row | undefined;
}

/** What is remembered of one row while writes to it wait. */
const HISTORY = 64;

export class Layer {
  readonly #pending = new Map<string, Pending>();

  get isEmpty(): boolean {
    return this.#pending.size === 0;
  }

  /** Keys of rows with writes that are not ended. */
  keys(): IterableIterator<string> {
    return this.#pending.keys();
  }

  begin(write: Write): void {
    let pending = this.#pending.get(write.key);
    if (pending === undefined) {
      pending = { entries: [], history: [], cursor: 0, shown: undefined, last: undefined };
      this.#pending.set(write.key, pending);
    }
    pending.entries.push({ write, from: pending.history.length });
    pending.shown = undefined;
  }

  /** A write was answered (`write.answer`); its values are another now, and perhaps it has come already. */
  answered(write: Write): void {
    if (this.#pending.has(write.key)) {
      this.#changed(write.key);
    }
  }

  /** Takes a write away: it was refused, or nothing is to be waited for any more. Says whether it was here still. */
  drop(write: Write): boolean {
    const pending = this.#pending.get(write.key);
    const at = pending?.entries.findIndex((entry) => entry.write === write) ?? -1;
    if (at < 0) {
      return false;
    }
    pending!.entries.splice(at, 1);
    this.#changed(write.key);
    return true;
  }

  forget(): void {
    this.#pending.clear();
  }

  /** The server's row is another, or none. */
  changed(key: string, row: Row | undefined): void {
    const pending = this.#pending.get(key);
    if (pending === undefined) {
      return;
    }
    pending.history.push(row);
    if (pending.history.length > HISTORY) {
      pending.history.shift();
      pending.cursor = Math.max(0, pending.cursor - 1);
      for (const entry of pending.entries) {
        entry.from = Math.max(0, entry.from - 1);
      }
    }
    this.#changed(key);
  }

  /** All rows have come anew, by a question that was asked at `askedAt`: what was answered before is in them. */
  refreshed(askedAt: number): void {
    for (const [key, pending] of this.#pending) {
      pending.entries = pending.entries.filter(({ write }) => write.answeredAt >= askedAt);
      this.#changed(key);
    }
  }

  /** What is shown for the server's row, and whether it is one that only we know. */
  show(key: string, base: Row | undefined): Row | undefined {
    const pending = this.#pending.get(key);
    if (pending === undefined) {
      return base;
    }
    if (pending.shown === undefined || pending.shown.base !== base) {
      let row: Row | undefined = base;
      for (const { write } of pending.entries) {
        row = applied(write, row);
      }
      row = isEqual(row, pending.last) ? pending.last : row;
      pending.last = row;
      pending.shown = { base, row };
    }
    return pending.shown.row;
  }

  #changed(key: string): void {
    const pending = this.#pending.get(key)!;
    pending.shown = undefined;
    for (;;) {
      const [head] = pending.entries;
      if (head === undefined) {
        this.#pending.delete(key);
        return;
      }
      const from = Math.max(head.from, pending.cursor);
      const at = pending.history.findIndex((row, place) => place >= from && isIn(head.write, row));
      if (at < 0) {
        return;
      }
      pending.cursor = at;
      pending.entries.shift();
    }
  }
}

function applied(write: Write, row: Row | undefined): Row | undefined {
  switch (write.kind) {
    case 'create':
      return row ?? write.values;
    case 'update':
      return row && { ...row, ...write.values };
    case 'delete':
      return undefined;
  }
}

/** Whether a row of the server has a write in it. */
function isIn(write: Write, row: Row | undefined): boolean {
  if (write.kind === 'create') {
    // Ids are the client's: nobody else made this row.
    return row !== undefined;
  }
  if (write.state !== 'answered') {
    return false;
  }
  if (write.kind === 'delete') {
    return row === undefined;
  }
  return (
    row !== undefined &&
    Object.entries(write.values).every(([field, value]) => !(field in row) || isEqual(value, row[field]))
  );
}
