/**
 * Sockets of several tabs as one: what a page puts in place of its WebSocket. The other side is a
 * shared worker (`shared_worker.ts`), which tells the tabs' requests and subscriptions apart.
 *
 * Where there are no shared workers (Node, some phones) pages have sockets of their own. This is a module to
 * import by itself, `@headwater/client/live-shared`: Hermes, the engine of React Native, reads no program with
 * `import.meta` in it.
 */
import type { LiveEnvironment, LiveSocket } from './connection.js';
import { platform } from './platform.js';

/** What a page says to the worker. */
export type FromPage =
  | { kind: 'open'; url: string; lock: string | null }
  | { kind: 'send'; text: string }
  | { kind: 'close' };

/** What the worker says to a page. */
export type ToPage = { kind: 'open' } | { kind: 'message'; text: string } | { kind: 'close'; code: number; reason: string };

/** The part of a `MessagePort` that is used. */
export interface Port {
  postMessage(message: unknown): void;
  // eslint-disable-next-line @typescript-eslint/no-explicit-any
  onmessage: ((event: any) => void) | null;
  close(): void;
}

/**
 * The platform, but with one socket for all tabs of this origin that show the same user:
 * `initHeadwater({ environment: sharedEnvironment() })`.
 *
 * - `start`: starts the worker under a name, in case the bundler does not find it by itself.
 */
export function sharedEnvironment(start: (name: string) => { port: Port } = startWorker): LiveEnvironment {
  if (typeof SharedWorker === 'undefined') {
    return platform;
  }
  return { ...platform, openSocket: (url) => new SharedSocket(url, start(workerName(url)).port) };
}

function startWorker(name: string): { port: Port } {
  return new SharedWorker(new URL('./worker.js', import.meta.url), { type: 'module', name });
}

/** One worker for one user at one server: what is in the token but its times and its signature. */
function workerName(url: string): string {
  const [address = '', token = ''] = url.split('?access_token=');
  let user = '';
  try {
    const part = decodeURIComponent(token).split('.')[1] ?? '';
    const { iat: _iat, exp: _exp, nbf: _nbf, ...who } = JSON.parse(
      atob(part.replace(/-/g, '+').replace(/_/g, '/')),
    ) as Record<string, unknown>;
    user = JSON.stringify(who);
  } catch {
    // Whoever has no token, or one that cannot be read, shares with those who have the same.
    user = token;
  }
  return `headwater ${address} ${user}`;
}

let pages = 0;

export class SharedSocket implements LiveSocket {
  onopen: (() => void) | null = null;
  onmessage: ((event: { data: unknown }) => void) | null = null;
  onclose: ((event: { code: number; reason: string }) => void) | null = null;
  onerror: ((event: unknown) => void) | null = null;
  readonly #port: Port;
  #release: () => void = () => {};

  constructor(url: string, port: Port) {
    this.#port = port;
    port.onmessage = ({ data }: { data: ToPage }) => this.#heard(data);
    this.#hold((lock) => this.#say({ kind: 'open', url, lock }));
  }

  send(text: string): void {
    this.#say({ kind: 'send', text });
  }

  close(): void {
    this.#say({ kind: 'close' });
    this.#end();
  }

  #heard(message: ToPage): void {
    switch (message.kind) {
      case 'open':
        this.onopen?.();
        break;
      case 'message':
        this.onmessage?.({ data: message.text });
        break;
      case 'close':
        this.#end();
        this.onclose?.(message);
        break;
    }
  }

  /**
   * Holds a lock for as long as the page lives. A port does not say that its page is gone; the worker
   * gets the lock then.
   */
  #hold(then: (lock: string | null) => void): void {
    const { locks } = (globalThis as { navigator?: { locks?: LockManager } }).navigator ?? {};
    if (locks === undefined) {
      globalThis.addEventListener?.('pagehide', () => this.close());
      then(null);
      return;
    }
    pages += 1;
    const name = `headwater page ${Date.now()} ${Math.random()} ${pages}`;
    const held = locks.request(name, () => {
      then(name);
      return new Promise<void>((resolve) => (this.#release = resolve));
    });
    // A page that may not have locks has a socket all the same.
    held.catch(() => then(null));
  }

  #end(): void {
    this.#release();
    this.#port.onmessage = null;
    this.#port.close();
  }

  #say(message: FromPage): void {
    this.#port.postMessage(message);
  }
}
