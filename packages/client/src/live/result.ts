/**
 * The rows of one subscription: what the server said, in order, under a layer of own writes.
 *
 * In: a first result, changes, answers to questions about the order. Out: the rows to show, the same
 * array and the same objects as before where nothing changed.
 *
 * How the order is made (`order.ts` says what can be proved): a first result stands as the server
 * gave it. A row that comes or whose order changes goes where it provably belongs. Where that cannot
 * be told, `question` is what to ask the server, and until the answer a row that came is not shown,
 * one that was there stays where it stood. Only own writes are shown at once, then where they would
 * go if a value that the server has yet to make were the newest. Without an order rows that come go
 * behind the others, or before them.
 *
 * A window (`limit`) is the server's affair: it sends what leaves and what comes. Here it is only cut,
 * so that it is never too long between the two.
 */
import { holds } from './condition.js';
import { LiveError } from './error.js';
import { isEqual } from './json.js';
import { Layer, type Write } from './layer.js';
import { areEquals, isSurelyEqual, orderFields, placeOf } from './order.js';
import { keyOf, keyOfRecord, type Row } from './types.js';
import type { DynamicSQLQuery } from './wire.js';

export interface Question {
  query: DynamicSQLQuery;
  stamp: number;
}

export interface ResultOptions {
  /** Where rows that come go if there is no order. */
  prepend?: boolean;
  /** The fields of the table's key. */
  key?: readonly string[];
  /** Whether rows are groups, by these fields: their ids are arrays, also of one value, which may be NULL. */
  isGrouped?: boolean;
}

export class Result {
  readonly layer = new Layer();
  /** What is to be sent: also the fields that are needed here, though nobody selected them. */
  readonly sent: DynamicSQLQuery;
  readonly #prepend: boolean;
  readonly #key: readonly string[];
  readonly #isGrouped: boolean;
  readonly #hidden: string[];
  #rows = new Map<string, Row>();
  /** Keys in the order in which they are shown. Those in `#unplaced` may be missing. */
  #order: string[] = [];
  /** Rows whose place is not known, with the moment since when; 0 where no answer is needed any more. */
  readonly #unplaced = new Map<string, number>();
  #stamp = 0;
  readonly #shown = new WeakMap<Row, Row>();
  #last: readonly Row[] = [];

  constructor(query: DynamicSQLQuery, { prepend = false, key = ['id'], isGrouped = false }: ResultOptions = {}) {
    this.#prepend = prepend;
    this.#key = key;
    this.#isGrouped = isGrouped;
    const { selectedColumns: selected } = query;
    const needed = [...key, ...(orderFields(query.orderByClause) ?? [])];
    this.#hidden = selected.tag === 'SelectAll' ? [] : needed.filter((field) => !selected.contents.includes(field));
    this.sent =
      selected.tag === 'SelectAll'
        ? query
        : { ...query, selectedColumns: { tag: 'SelectSpecific', contents: [...selected.contents, ...this.#hidden] } };
  }

  /** All rows anew, by a question that was asked at `askedAt`. Throws if the key is not one. */
  refresh(records: readonly Row[], askedAt: number): void {
    const before = this.#rows;
    const rows = new Map<string, Row>();
    for (const record of records) {
      const key = this.#keyOf(record);
      const known = before.get(key);
      if (rows.has(key)) {
        throw this.#noKey(`one ${this.#key.join()} together`);
      }
      rows.set(key, known !== undefined && isEqual(known, record) ? known : record);
    }
    this.#rows = rows;
    this.#order = [...rows.keys()];
    this.#unplaced.clear();
    for (const key of [...this.layer.keys()]) {
      this.layer.changed(key, this.#rows.get(key));
    }
    this.layer.refreshed(askedAt);
  }

  /** Nothing is known any more, of anybody's writes either. */
  forget(): void {
    this.#rows = new Map();
    this.#order = [];
    this.#unplaced.clear();
    this.layer.forget();
  }

  /** Throws if the record has no key. */
  insert(record: Row): void {
    const key = this.#keyOf(record);
    if (this.#rows.has(key)) {
      this.#replace(key, record, record);
      return;
    }
    // An own row that is shown already stays the same object, and where it is until its place is known.
    const own = this.layer.show(key, undefined);
    const row = own !== undefined && isEqual(own, record) ? own : record;
    const stands = own === undefined ? -1 : this.#provisional(record);
    this.#rows.set(key, row);
    this.#place(key, row, stands);
    this.layer.changed(key, row);
  }

  update(id: unknown, changeSet: Row = {}, appendSet: Readonly<Record<string, string>> = {}): void {
    const key = keyOf(id);
    const row = this.#rows.get(key);
    if (row === undefined) {
      return;
    }
    const said: Record<string, unknown> = { ...changeSet };
    for (const [field, suffix] of Object.entries(appendSet)) {
      // The server appends to the version that it sent last, which is the one without own writes.
      said[field] = `${row[field] as string}${suffix}`;
    }
    this.#replace(key, { ...row, ...said }, said);
  }

  delete(id: unknown): void {
    const key = keyOf(id);
    if (this.#rows.delete(key)) {
      this.#takeOut(key);
      this.#unplaced.delete(key);
    } else {
      // It came and went between two messages. What it was nobody knows; own writes to it were in it.
      this.layer.changed(key, {});
    }
    this.layer.changed(key, undefined);
  }

  /** Takes over a write from the key that the application wrote to the one that the answer has. */
  adopt(write: Write): void {
    this.layer.begin(write);
    // The change may have come before the answer.
    this.layer.changed(write.key, this.#rows.get(write.key));
  }

  /** What the server has to be asked, if anything. */
  question(): Question | undefined {
    if (![...this.#unplaced.values()].some((since) => since > 0)) {
      return undefined;
    }
    const contents = [...new Set([...this.#key, ...(orderFields(this.sent.orderByClause) ?? [])])];
    return { query: { ...this.sent, selectedColumns: { tag: 'SelectSpecific', contents } }, stamp: this.#stamp };
  }

  /**
   * The answer to a question: the rows in the server's order, at some later moment.
   *
   * A row is put between those that stand around it in the answer, if they are what they were then.
   * What the question came too early for stays open, and is asked again.
   */
  answer(records: readonly Row[], stamp: number): void {
    const places = new Map(records.map((record, place) => [this.#keyOf(record), place]));
    const waiting = [...this.#unplaced].filter(([, since]) => since <= stamp).map(([key]) => key);
    waiting.sort((a, b) => (places.get(a) ?? Infinity) - (places.get(b) ?? Infinity));
    for (const key of waiting) {
      const at = places.get(key);
      if (at === undefined || !this.#isAsIn(records[at]!)) {
        // It has gone or changed since, and the message that says so is on its way.
        this.#unplaced.set(key, 0);
        continue;
      }
      const place = this.#between(records, at);
      if (place !== undefined) {
        this.#settleAt(place, key);
      }
    }
  }

  /** The server does not say. What has no place goes behind the rest. */
  giveUp(): void {
    for (const key of [...this.#unplaced.keys()]) {
      this.#settleAt(this.#order.length, key);
    }
  }

  #settleAt(place: number, key: string): void {
    const next = this.#order.slice(place).find((other) => other !== key);
    this.#unplaced.delete(key);
    this.#takeOut(key);
    this.#order.splice(next === undefined ? this.#order.length : this.#order.indexOf(next), 0, key);
  }

  /** The place of the row at `at` in an answer, if it follows from the others in it. */
  #between(records: readonly Row[], at: number): number | undefined {
    const placed = (record: Row) => this.#isAsIn(record) && !this.#unplaced.has(this.#keyOf(record));
    const before = records.slice(0, at).findLast(placed);
    const behind = records.slice(at + 1).find(placed);
    const low = before === undefined ? 0 : this.#endOfEquals(before, 1);
    const high = behind === undefined ? this.#order.length : this.#endOfEquals(behind, -1);
    // What has come or changed since then stands in between and must be compared.
    const keys = this.#order.slice(low, Math.max(low, high)).filter((key) => !this.#unplaced.has(key));
    const place = placeOf(records[at]!, keys.map((key) => this.#rows.get(key)!), this.sent.orderByClause);
    if (keys.length === 0 || place === undefined) {
      return keys.length === 0 ? low : undefined;
    }
    return place === keys.length ? this.#order.indexOf(keys.at(-1)!) + 1 : this.#order.indexOf(keys[place]!);
  }

  /** Whether a row is here as it was in an answer. */
  #isAsIn(record: Row): boolean {
    const row = this.#rows.get(this.#keyOf(record));
    return row !== undefined && Object.keys(record).every((field) => isEqual(row[field], record[field]));
  }

  /** Where the rows around this one end that are surely its equals: they stand here in another order than there. */
  #endOfEquals(record: Row, step: 1 | -1): number {
    let end = this.#order.indexOf(this.#keyOf(record));
    for (let at = end + step; at >= 0 && at < this.#order.length; at += step) {
      const key = this.#order[at]!;
      if (this.#unplaced.has(key)) {
        continue;
      }
      if (!areEquals(record, this.#rows.get(key)!, this.sent.orderByClause)) {
        break;
      }
      end = at;
    }
    return step > 0 ? end + 1 : end;
  }

  /** The rows to show. */
  rows(): readonly Row[] {
    const rows = this.layer.isEmpty ? this.#order.map((key) => this.#rows.get(key)!) : this.#withOwn();
    const { limit } = this.sent;
    const cut = limit === null ? rows : rows.slice(0, limit);
    const shown = this.#hidden.length === 0 ? cut : cut.map((row) => this.#withoutHidden(row));
    if (shown.length !== this.#last.length || shown.some((row, at) => row !== this.#last[at])) {
      this.#last = shown;
    }
    return this.#last;
  }

  #withOwn(): Row[] {
    const { whereCondition, orderByClause } = this.sent;
    const rows: Row[] = [];
    const moved = new Set<Row>();
    for (const key of this.#order) {
      const base = this.#rows.get(key)!;
      const row = this.layer.show(key, base);
      // An own write may take a row out of the result; whether one that is not understood here does, the server says.
      if (row === undefined || (row !== base && holds(whereCondition, row) === false)) {
        continue;
      }
      if (row !== base && !this.#hasSameOrder(base, row)) {
        moved.add(row);
      }
      rows.push(row);
    }
    const standing = rows.filter((row) => !moved.has(row));
    for (const row of moved) {
      const place = placeOf(row, standing, orderByClause);
      if (place !== undefined) {
        rows.splice(rows.indexOf(row), 1);
        const next = standing[place];
        rows.splice(next === undefined ? rows.length : rows.indexOf(next), 0, row);
      }
    }
    for (const key of this.layer.keys()) {
      const row = this.#rows.has(key) ? undefined : this.layer.show(key, undefined);
      if (row !== undefined && this.#shows(row)) {
        rows.splice(this.#provisional(row, rows), 0, row);
      }
    }
    return rows;
  }

  /** Whether a row that only we know is shown: it is surely in the result, and the window can be told. */
  #shows(row: Row): boolean {
    const { whereCondition, offset, distinctOnColumn } = this.sent;
    return (offset ?? 0) === 0 && distinctOnColumn === null && holds(whereCondition, row) === true;
  }

  /** Whether two versions of a row stand at one place in the order. What an order by rank depends on, no field says. */
  #hasSameOrder(one: Row, other: Row): boolean {
    const fields = orderFields(this.sent.orderByClause);
    return fields !== undefined && fields.every((field) => isEqual(one[field], other[field]));
  }

  #provisional(row: Row, rows: readonly Row[] = this.#order.map((key) => this.#rows.get(key)!)): number {
    const { orderByClause: clauses } = this.sent;
    if (clauses.length === 0) {
      return this.#prepend ? 0 : rows.length;
    }
    const place = placeOf(row, rows, clauses);
    if (place !== undefined) {
      return place;
    }
    const made = clauses.find((clause) => 'orderByColumn' in clause && row[clause.orderByColumn] === undefined);
    return made?.orderByDirection === 'Desc' ? 0 : rows.length;
  }

  /** `said`: what the server said anew. */
  #replace(key: string, record: Row, said: Row): void {
    const before = this.#rows.get(key)!;
    const row = [before, this.layer.show(key, before)].find((known) => isEqual(known, record)) ?? record;
    this.#rows.set(key, row);
    // A number that is said anew and looks the same may be another one.
    const isAnother = orderFields(this.sent.orderByClause)?.some((field) => field in said && !isSurelyEqual(before[field], said[field]));
    // A row that an answer had otherwise, or not at all, waits for this message, also if it changes nothing.
    if ((isAnother ?? row !== before) || this.#unplaced.get(key) === 0) {
      this.#place(key, row, this.#takeOut(key));
    }
    this.layer.changed(key, row);
  }

  #keyOf(record: Row): string {
    const key = this.#isGrouped ? keyOf(this.#key.map((field) => record[field])) : keyOfRecord(record, this.#key);
    if (key === undefined) {
      throw this.#noKey(`no field ${this.#key.find((field) => record[field] == null)}`);
    }
    return key;
  }

  #noKey(what: string): LiveError {
    const { table } = this.sent;
    return new LiveError('refused', `records of ${table} have ${what}: name the key of ${table} in \`tables\``);
  }

  /** Takes a key out of the order; where it stood, below 0 if it did not. */
  #takeOut(key: string): number {
    const place = this.#order.indexOf(key);
    if (place >= 0) {
      this.#order.splice(place, 1);
    }
    return place;
  }

  /** Puts a key that is not in the order where it belongs; where it `stands` (not at all below 0) if that is not known. */
  #place(key: string, row: Row, stands: number): void {
    const { orderByClause: clauses } = this.sent;
    this.#unplaced.delete(key);
    if (clauses.length === 0) {
      this.#order.splice(this.#prepend ? 0 : this.#order.length, 0, key);
      return;
    }
    // Rows without a place of their own say nothing about the order.
    const placed = this.#unplaced.size === 0 ? this.#order : this.#order.filter((other) => !this.#unplaced.has(other));
    const place = placeOf(row, { length: placed.length, at: (at) => this.#rows.get(placed[at]!) }, clauses);
    if (place === undefined) {
      this.#stamp += 1;
      this.#unplaced.set(key, this.#stamp);
      if (stands >= 0) {
        this.#order.splice(stands, 0, key);
      }
      return;
    }
    const next = placed[place];
    const index = placed === this.#order ? place : next === undefined ? this.#order.length : this.#order.indexOf(next);
    this.#order.splice(index, 0, key);
  }

  #withoutHidden(row: Row): Row {
    let shown = this.#shown.get(row);
    if (shown === undefined) {
      const copy: Record<string, unknown> = { ...row };
      for (const field of this.#hidden) {
        delete copy[field];
      }
      shown = copy;
      this.#shown.set(row, shown);
    }
    return shown;
  }
}
