/**
 * A server of the DataSync protocol in memory, the sockets to it, and the time in which all of that
 * happens: nothing moves unless a test says so.
 *
 * What a test may choose: what happens to each message (`fate`), who answers it (`intercept`), how many
 * messages arrive in one task (`burst`), whether a socket still leads to the server (`isHalfOpen` of it).
 */
import { holds } from '../../dist/live/condition.js';

/** The server says something this often. */
const STILL_HERE_MS = 15_000;

export class World {
  now = 1_700_000_000_000;
  /** @type {Map<string, Map<string, any>>} */
  tables = new Map();
  /** Sockets that were opened, newest last. */
  sockets = [];
  /** Everything that was said: `> tag` by clients, `< tag` by the server. */
  log = [];
  /** Decides about the nth message in either direction: `pass`, `cut` before it arrives. */
  fate = () => 'pass';
  /** Messages of the server that arrive in one task, without microtasks in between. */
  burst = 1;
  /** Answers a message in place of the server; `undefined` leaves it to the server. */
  intercept = () => undefined;
  /** Whether sockets open. */
  isUp = true;
  #timers = new Set();
  #queue = [];
  #messages = 0;
  #ids = 0;

  get environment() {
    return {
      openSocket: (url) => this.#open(url),
      now: () => this.now,
      random: () => 0.5,
      setTimer: (call, milliseconds) => {
        const timer = { at: this.now + milliseconds, call };
        this.#timers.add(timer);
        return () => void this.#timers.delete(timer);
      },
    };
  }

  get socket() {
    return this.sockets.at(-1);
  }

  table(name) {
    let table = this.tables.get(name);
    if (!table) this.tables.set(name, (table = new Map()));
    return table;
  }

  rows(name) {
    return [...this.table(name).values()];
  }

  /** Lets everything happen that is under way, and what timers bring within so many milliseconds. */
  async run(milliseconds = 0) {
    const end = this.now + milliseconds;
    for (;;) {
      await new Promise((resolve) => setImmediate(resolve));
      if (this.#queue.length > 0) {
        const first = this.#queue.shift();
        first();
        // Further messages of the server in the same task.
        for (let more = 1; more < this.burst && this.#queue[0]?.isMessage; more += 1) this.#queue.shift()();
        continue;
      }
      const next = [...this.#timers].sort((a, b) => a.at - b.at)[0];
      if (next === undefined || next.at > end) break;
      this.#timers.delete(next);
      this.now = next.at;
      next.call();
    }
    this.now = end;
  }

  /** Changes rows as somebody else would, in one transaction. */
  commit(changes) {
    const before = new Map([...this.tables].map(([name, rows]) => [name, new Map(rows)]));
    for (const [name, id, row] of changes) {
      if (row === null) this.table(name).delete(id);
      else this.table(name).set(id, { id, ...row });
    }
    this.#tell(before, changes);
  }

  /** Ends the newest socket. */
  cut(code = 1006, reason = '') {
    this.socket.end(code, reason);
  }

  /** Serves a socket that is a real one: what is said to it is sent at once. */
  attach(send) {
    const socket = { readyState: 1, subscriptions: new Map(), transactions: new Map(), sends: (message) => send(JSON.stringify(message)) };
    this.sockets.push(socket);
    const timer = setInterval(() => socket.sends({ tag: 'KeepAlive' }), STILL_HERE_MS);
    return {
      receive: (text) => this.#receive(socket, JSON.parse(text)),
      end: () => {
        clearInterval(timer);
        socket.readyState = 3;
      },
    };
  }

  #open(url) {
    const socket = {
      url,
      readyState: 0,
      subscriptions: new Map(),
      transactions: new Map(),
      isHalfOpen: false,
      sends: (message) => {
        if (message.tag !== 'KeepAlive') this.log.push(`< ${message.tag}`);
        const text = JSON.stringify(message);
        const arrive = () => {
          if (socket.readyState !== 1 || socket.isHalfOpen) return;
          this.#messages += 1;
          if (this.fate(this.#messages, message) === 'cut') socket.end(1006);
          else socket.onmessage?.({ data: text });
        };
        arrive.isMessage = true;
        this.#queue.push(arrive);
      },
      send: (text) => {
        if (socket.readyState !== 1) throw new Error('the socket is not open');
        const message = JSON.parse(text);
        this.log.push(`> ${message.tag}`);
        this.#queue.push(() => {
          if (socket.readyState !== 1 || socket.isHalfOpen) return;
          this.#messages += 1;
          if (this.fate(this.#messages, message) === 'cut') socket.end(1006);
          else this.#receive(socket, message);
        });
      },
      close: () => void (socket.readyState = 3),
      end: (code, reason = '') => {
        if (socket.readyState === 3) return;
        socket.readyState = 3;
        this.#queue.push(() => socket.onclose?.({ code, reason }));
      },
      onopen: null,
      onmessage: null,
      onclose: null,
      onerror: null,
    };
    this.sockets.push(socket);
    this.#queue.push(() => {
      if (socket.readyState !== 0) return;
      if (!this.isUp) {
        // Node tells no end behind the error, browsers do.
        socket.onerror?.({});
        return this.sockets.length % 2 === 0 ? undefined : socket.end(1006);
      }
      socket.readyState = 1;
      socket.onopen?.();
      const stillHere = () => {
        if (socket.readyState !== 1) return;
        socket.sends({ tag: 'KeepAlive' });
        this.environment.setTimer(stillHere, STILL_HERE_MS);
      };
      this.environment.setTimer(stillHere, STILL_HERE_MS);
    });
    return socket;
  }

  #receive(socket, message) {
    const { requestId, tag } = message;
    const answer = (more) => socket.sends({ requestId, ...more });
    const refuse = (errorMessage) => answer({ tag: 'DataSyncError', errorMessage, code: 'HW0000' });
    const said = this.intercept(message, socket);
    if (said === 'nothing') return;
    if (said !== undefined) return answer(said);
    switch (tag) {
      case 'DataSyncQuery':
        return answer({ tag: 'DataSyncResult', result: this.#query(message.query) });
      case 'DataSyncAggregateQuery':
        return answer({ tag: 'DataSyncResult', result: this.#grouped(message) });
      case 'CreateDataSubscription':
      case 'CreateAggregateSubscription':
      case 'CreateCountSubscription': {
        const isCount = tag === 'CreateCountSubscription';
        const { query, groupBy } = message;
        const subscriptionId = `s${(this.#ids += 1)}`;
        const ask = () => (groupBy ? this.#grouped(message) : this.#query(query));
        const idOf = (row) => (groupBy ? groupBy.map((field) => row[field]) : row.id);
        const result = ask();
        socket.subscriptions.set(subscriptionId, { query, isCount, isGrouped: groupBy !== undefined, ask, idOf, last: result });
        const more = isCount ? { count: result.length } : { result };
        return answer({ tag: `Did${tag}`, subscriptionId, ...more });
      }
      case 'DeleteDataSubscription':
        if (!socket.subscriptions.delete(message.subscriptionId)) return refuse('no such subscription');
        return answer({ tag: 'DidDeleteDataSubscription', subscriptionId: message.subscriptionId });
      case 'StartTransaction': {
        const transactionId = `x${(this.#ids += 1)}`;
        socket.transactions.set(transactionId, []);
        return answer({ tag: 'DidStartTransaction', transactionId });
      }
      case 'CommitTransaction':
      case 'RollbackTransaction': {
        const changes = socket.transactions.get(message.id);
        if (!changes) return refuse(`No transaction with id ${message.id}`);
        socket.transactions.delete(message.id);
        answer({ tag: tag.replace(/^/, 'Did'), transactionId: message.id });
        if (tag === 'CommitTransaction') this.commit(changes);
        return;
      }
      case 'LoginWithJWT':
        return answer({ tag: 'LoginSuccessful', userId: '', jwt: message.jwt });
      default:
        return this.#write(socket, message, answer, refuse);
    }
  }

  #write(socket, message, answer, refuse) {
    const { tag, table } = message;
    const several = tag.endsWith('RecordsMessage');
    const ids = several ? message.ids : [message.id];
    const records = several ? message.records : [message.record];
    const changes = [];
    const stored = [];
    if (tag.startsWith('Create')) {
      for (const record of records) {
        if (this.table(table).has(record.id)) return refuse('duplicate key');
        if (record.bad) return refuse('refused by a policy');
        const row = { ...record, made: 'by the server' };
        stored.push(row);
        changes.push([table, record.id, row]);
      }
    } else {
      for (const id of ids) {
        const row = this.table(table).get(id);
        if (tag.startsWith('Delete')) {
          if (row) changes.push([table, id, null]);
          continue;
        }
        if (message.patch.bad) return refuse('refused by a policy');
        if (!row) {
          if (several) continue;
          return refuse('Could not apply the update to the given record.');
        }
        const next = { ...row, ...message.patch };
        stored.push(next);
        changes.push([table, id, next]);
      }
    }
    const verb = tag.replace('Message', '');
    const more = tag.startsWith('Delete') ? {} : several ? { records: stored } : { record: stored[0] };
    const transaction = message.transactionId && socket.transactions.get(message.transactionId);
    if (message.transactionId && !transaction) return refuse(`No transaction with id ${message.transactionId}`);
    answer({ tag: `Did${verb}`, ...more });
    if (transaction) transaction.push(...changes);
    else this.commit(changes);
  }

  #query({ table, whereCondition, orderByClause, limit, selectedColumns }) {
    const rows = this.rows(table).filter((row) => holds(whereCondition, row) === true);
    for (const { orderByColumn: field, orderByDirection } of [...orderByClause].reverse()) {
      rows.sort((a, b) => (a[field] < b[field] ? -1 : a[field] > b[field] ? 1 : 0) * (orderByDirection === 'Desc' ? -1 : 1));
    }
    const window = rows.slice(0, limit ?? rows.length);
    if (selectedColumns.tag === 'SelectAll') return window;
    return window.map((row) => Object.fromEntries(selectedColumns.contents.map((field) => [field, row[field]])));
  }

  /** Groups of rows with their aggregates; NULL counts for nothing. */
  #grouped({ query, groupBy, aggregates }) {
    const groups = new Map(groupBy.length === 0 ? [['[]', []]] : []);
    for (const row of this.#query({ ...query, selectedColumns: { tag: 'SelectAll' } })) {
      const key = JSON.stringify(groupBy.map((field) => row[field] ?? null));
      groups.set(key, [...(groups.get(key) ?? []), row]);
    }
    const compute = ({ tag, field }, rows) => {
      if (field === undefined) return rows.length;
      const values = rows.map((row) => row[field] ?? null).filter((value) => value !== null);
      const sum = values.reduce((a, b) => a + b, 0);
      if (tag === 'Count') return values.length;
      if (values.length === 0) return null;
      return { Sum: sum, Avg: sum / values.length, Min: Math.min(...values), Max: Math.max(...values) }[tag];
    };
    return [...groups].map(([key, rows]) => ({
      ...Object.fromEntries(JSON.parse(key).map((value, at) => [groupBy[at], value])),
      ...Object.fromEntries(Object.entries(aggregates).map(([name, of]) => [name, compute(of, rows)])),
    }));
  }

  /** Sends what a commit changed in each subscription. */
  #tell(before, changes) {
    for (const socket of this.sockets.filter(({ readyState }) => readyState === 1)) {
      for (const [subscriptionId, subscription] of socket.subscriptions) {
        const { query, isCount, isGrouped, ask, idOf, last } = subscription;
        if (!changes.some(([table]) => table === query.table)) continue;
        const now = ask();
        subscription.last = now;
        const isSame = (one, other) => JSON.stringify(idOf(one)) === JSON.stringify(idOf(other));
        if (isCount) {
          if (now.length !== last.length) socket.sends({ tag: 'DidChangeCount', subscriptionId, count: now.length });
          continue;
        }
        for (const old of last) {
          if (!now.some((row) => isSame(row, old))) socket.sends({ tag: 'DidDelete', subscriptionId, id: idOf(old) });
        }
        for (const row of now) {
          const old = last.find((known) => isSame(known, row));
          if (!old) {
            socket.sends({ tag: 'DidInsert', subscriptionId, record: row });
            continue;
          }
          const changed = Object.entries(row).filter(([field, value]) => old[field] !== value);
          if (isGrouped ? changed.length > 0 : changes.some(([, id]) => id === row.id)) {
            const changeSet = changed.length > 0 ? { changeSet: Object.fromEntries(changed) } : {};
            socket.sends({ tag: 'DidUpdate', subscriptionId, id: idOf(row), ...changeSet });
          }
        }
      }
    }
  }
}
