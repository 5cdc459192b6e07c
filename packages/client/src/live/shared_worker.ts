/**
 * The worker's side of sockets that several tabs share.
 *
 * In: what pages say, what the server says. Out: one stream of requests under numbers of its own, and
 * to each page what is its. Invariants:
 * - a page receives answers to its requests and pushes of its subscriptions, nothing of others;
 * - a page hears every few seconds that the server lives, as long as that speaks to any of them: it speaks
 *   to one socket, and says nothing for the sake of those who wait for something else;
 * - when a page is gone its subscriptions and its open transactions are ended at the server;
 * - a socket that ends, ends for all pages, which come back by themselves.
 */
import type { LiveSocket } from './connection.js';
import type { FromPage, Port, ToPage } from './shared_socket.js';
import type { ClientMessage, ServerMessage } from './wire.js';

interface Page {
  port: Port;
  /** `waits`: for the socket to open. */
  state: 'waits' | 'open' | 'gone';
  /** Names of what ends with it at the server. */
  subscriptions: Set<string>;
  transactions: Set<string>;
  /** When it was told something. */
  toldAt: number;
}

interface Asked {
  page: Page;
  requestId: unknown;
  message: ClientMessage;
}

/** How often a server that owes an answer says that it lives. */
const KEEP_ALIVE_MS = 3000;
const KEEP_ALIVE: ToPage = { kind: 'message', text: '{"tag":"KeepAlive"}' };

export class SharedWorkerHub {
  readonly #open: (url: string) => LiveSocket;
  /** Calls once nobody holds the lock. */
  readonly #whenFree: (lock: string, call: () => void) => void;
  readonly #now: () => number;
  readonly #pages = new Set<Page>();
  readonly #asked = new Map<number, Asked>();
  readonly #owners = new Map<string, Page>();
  #socket: LiveSocket | null = null;
  #isOpen = false;
  #nextId = 0;

  constructor(open: (url: string) => LiveSocket, whenFree: (lock: string, call: () => void) => void, now: () => number) {
    this.#open = open;
    this.#whenFree = whenFree;
    this.#now = now;
  }

  /** A page has come. */
  connect(port: Port): void {
    const page: Page = { port, state: 'waits', subscriptions: new Set(), transactions: new Set(), toldAt: 0 };
    port.onmessage = ({ data }: { data: FromPage }) => this.#said(page, data);
  }

  #said(page: Page, message: FromPage): void {
    if (page.state === 'gone') {
      return;
    }
    switch (message.kind) {
      case 'open':
        this.#pages.add(page);
        if (message.lock !== null) {
          this.#whenFree(message.lock, () => this.#gone(page));
        }
        if (this.#isOpen) {
          this.#welcome(page);
        } else {
          this.#socket ??= this.#connect(message.url);
        }
        break;
      case 'send':
        if (page.state === 'open') {
          this.#ask(page, JSON.parse(message.text) as ClientMessage);
        }
        break;
      case 'close':
        this.#gone(page);
        break;
    }
  }

  #connect(url: string): LiveSocket {
    const socket = this.#open(url);
    socket.onopen = () => {
      this.#isOpen = true;
      for (const page of this.#pages) {
        this.#welcome(page);
      }
    };
    socket.onmessage = ({ data }) => this.#heard(data as string);
    socket.onclose = ({ code, reason }) => this.#lost(code, reason);
    return socket;
  }

  #welcome(page: Page): void {
    page.state = 'open';
    this.#tell(page, { kind: 'open' });
  }

  #ask(page: Page | null, message: ClientMessage): void {
    const id = this.#nextId;
    this.#nextId += 1;
    if (page !== null) {
      this.#asked.set(id, { page, requestId: message.requestId, message });
    }
    this.#socket?.send(JSON.stringify({ ...message, requestId: id }));
  }

  #heard(text: string): void {
    const message = JSON.parse(text) as ServerMessage;
    const asked = message.requestId === undefined ? undefined : this.#asked.get(message.requestId);
    if (asked !== undefined) {
      this.#asked.delete(message.requestId!);
      this.#note(asked, message);
      this.#tell(asked.page, { kind: 'message', text: JSON.stringify({ ...message, requestId: asked.requestId }) });
    } else if (message.requestId === undefined) {
      const owner = message.subscriptionId === undefined ? undefined : this.#owners.get(message.subscriptionId);
      // Keep-alives are for whoever waits for an answer.
      const pages = message.subscriptionId === undefined ? [...this.#pages] : owner ? [owner] : [];
      for (const page of pages) {
        this.#tell(page, { kind: 'message', text });
      }
    }
    for (const page of this.#pages) {
      if (this.#now() >= page.toldAt + KEEP_ALIVE_MS) {
        this.#tell(page, KEEP_ALIVE);
      }
    }
  }

  /** Remembers what belongs to a page; ends at once what comes when it has gone. */
  #note({ page, message: asked }: Asked, { tag, subscriptionId, transactionId }: ServerMessage): void {
    const isGone = page.state === 'gone';
    if (/^DidCreate\w+Subscription$/.test(tag) && subscriptionId !== undefined) {
      if (isGone) {
        this.#ask(null, { tag: 'DeleteDataSubscription', subscriptionId });
      } else {
        page.subscriptions.add(subscriptionId);
        this.#owners.set(subscriptionId, page);
      }
    } else if (tag === 'DidDeleteDataSubscription' && subscriptionId !== undefined) {
      page.subscriptions.delete(subscriptionId);
      this.#owners.delete(subscriptionId);
    } else if (tag === 'DidStartTransaction' && transactionId !== undefined) {
      if (isGone) {
        this.#ask(null, { tag: 'RollbackTransaction', id: transactionId });
      } else {
        page.transactions.add(transactionId);
      }
    } else if (asked.tag === 'CommitTransaction' || asked.tag === 'RollbackTransaction') {
      page.transactions.delete(asked.id as string);
    }
  }

  #gone(page: Page): void {
    if (page.state === 'gone') {
      return;
    }
    page.state = 'gone';
    page.port.onmessage = null;
    page.port.close();
    this.#pages.delete(page);
    for (const subscriptionId of page.subscriptions) {
      this.#owners.delete(subscriptionId);
      this.#ask(null, { tag: 'DeleteDataSubscription', subscriptionId });
    }
    for (const id of page.transactions) {
      this.#ask(null, { tag: 'RollbackTransaction', id });
    }
    if (this.#pages.size === 0 && this.#socket !== null) {
      const socket = this.#socket;
      socket.onopen = socket.onmessage = socket.onclose = null;
      socket.close();
      this.#forget();
    }
  }

  #lost(code: number, reason: string): void {
    const pages = [...this.#pages];
    this.#pages.clear();
    this.#forget();
    for (const page of pages) {
      page.state = 'gone';
      this.#tell(page, { kind: 'close', code, reason });
      page.port.onmessage = null;
    }
  }

  #forget(): void {
    this.#socket = null;
    this.#isOpen = false;
    this.#asked.clear();
    this.#owners.clear();
  }

  #tell(page: Page, message: ToPage): void {
    page.toldAt = this.#now();
    page.port.postMessage(message);
  }
}
