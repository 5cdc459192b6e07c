/**
 * One socket at a time to the server: requests and their answers, pushes, coming back.
 *
 * In: messages to send, what sockets and timers do. Out: answers, pushes, and the state. Invariants:
 * - every request is settled: answered, sent again on the next socket (reading, twice at most), or
 *   told that it is lost. Nothing waits for an answer that cannot come;
 * - a socket from which nothing comes is given up, also when nobody waits for an answer;
 * - a socket that was given up has no say any more: its late events change nothing;
 * - an answer is handed on before the next message of the socket is looked at, so that no push of a
 *   subscription overtakes the answer that names it.
 *
 * Sockets, clock, timers and chance come from a `LiveEnvironment`.
 */
import { LiveError } from './error.js';
import type { ServerMessage } from './wire.js';

/** What a connection needs of a WebSocket. */
export interface LiveSocket {
  send(text: string): void;
  close(code?: number, reason?: string): void;
  onopen: (() => void) | null;
  onmessage: ((event: { data: unknown }) => void) | null;
  onclose: ((event: { code: number; reason: string }) => void) | null;
  onerror: ((event: unknown) => void) | null;
}

export interface LiveEnvironment {
  openSocket(url: string): LiveSocket;
  /** Milliseconds since 1970. */
  now(): number;
  /** Calls later, or not any more once what it returns was called. */
  setTimer(call: () => void, milliseconds: number): () => void;
  /** At least 0, less than 1. */
  random(): number;
  /** Calls when there is a network again, where the platform tells. Returns what ends that. */
  whenOnline?(call: () => void): () => void;
}

export type ConnectionState = 'idle' | 'connecting' | 'open' | 'waiting' | 'closed';

export interface ConnectionHandlers {
  /** Where to connect; asked for each attempt, so that each has a fresh token. */
  address(): Promise<string>;
  /** A socket is open. What is requested in here is sent before what waited. */
  opened(): void;
  /** A socket that was open is no more. */
  lost(): void;
  /** A message that answers no request. */
  pushed(message: ServerMessage): void;
  changed(state: ConnectionState, error: Error | null): void;
}

export interface RequestOptions {
  /**
   * - `again`: reads; sent again when the socket ends before the answer.
   * - `once`: writes; what becomes of them is then not known. Waits for a socket if there is none.
   * - `here`: belongs to the socket that is open now.
   */
  resend: 'again' | 'once' | 'here';
  answered(message: ServerMessage): void;
  failed(error: LiveError): void;
}

interface Request extends RequestOptions {
  text: string;
  tries: number;
}

/** Delay after a first failure; doubles from there. */
const FIRST_RETRY_MS = 500;
const LONGEST_RETRY_MS = 30_000;
/** A server that owes an answer says something every three seconds. */
const SILENCE_MS = 10_000;
/** One that owes none, every fifteen. What leads nowhere any more looks like one that has nothing to say. */
const QUIET_MS = 35_000;
/** After a change of the network it has to be as quick as it should. */
const SOON_MS = 20_000;
const OPEN_LIMIT_MS = 15_000;
/** Reads are sent this often before they are told that they are lost: one of them may be what ends sockets. */
const MOST_TRIES = 3;
/** The token has expired: a fresh one is to be had at once. */
const TOKEN_EXPIRED = 4401;

export class Connection {
  state: ConnectionState = 'idle';
  /** Counts sockets, so that what belongs to one can tell. */
  socketNumber = 0;
  readonly #environment: LiveEnvironment;
  readonly #handlers: ConnectionHandlers;
  #socket: LiveSocket | null = null;
  #nextId = 0;
  readonly #sent = new Map<number, Request>();
  #waiting: Request[] = [];
  #failures = 0;
  #stopTimer: () => void = () => {};
  #stopWatch: () => void = () => {};

  constructor(environment: LiveEnvironment, handlers: ConnectionHandlers) {
    this.#environment = environment;
    this.#handlers = handlers;
  }

  /**
   * Sends a request, now or once there is a socket; connects if that was not begun. `text`: a message as
   * JSON, so that whoever asks learns what JSON cannot hold before anything is begun.
   */
  request(text: string, options: RequestOptions): void {
    const request: Request = { ...options, text, tries: 0 };
    if (this.state === 'closed') {
      request.failed(new LiveError('closed', 'the client is closed'));
    } else if (this.state === 'open') {
      this.#send(request);
    } else if (options.resend === 'here') {
      request.failed(lostError());
    } else {
      this.#waiting.push(request);
      this.connect();
    }
  }

  /** Begins to connect, the first time; with `now`, when it waits to try again, tries at once. */
  connect(when: 'now' | 'in time' = 'in time'): void {
    if ((this.state === 'idle' && when === 'in time') || (this.state === 'waiting' && when === 'now')) {
      this.#stopTimer();
      void this.#open();
    }
  }

  /** There is a network again, perhaps another one. */
  networkIsBack(): void {
    if (this.state === 'open' && this.#sent.size === 0) {
      this.#watch(SOON_MS);
    } else {
      this.connect('now');
    }
  }

  /** Comes back with a new socket, at once. Does nothing before the first one was wanted. */
  reconnect(): void {
    if (this.state === 'open' || this.state === 'connecting') {
      this.#giveUp(null, 0);
    } else {
      this.connect('now');
    }
  }

  /**
   * Ends what was begun in another user's name: a socket is given up, and what waits for one fails. What
   * was sent and not answered would else be sent again on the next.
   */
  discard(error: LiveError): void {
    if (this.#socket !== null) {
      this.#giveUp(null, 0);
    }
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const request of waiting) {
      request.failed(error);
    }
  }

  /** Ends everything. */
  close(): void {
    if (this.state === 'closed') {
      return;
    }
    this.#release();
    this.#set('closed', null);
    const error = new LiveError('closed', 'the client was closed');
    for (const request of [...this.#sent.values(), ...this.#waiting]) {
      request.failed(error);
    }
    this.#sent.clear();
    this.#waiting = [];
  }

  async #open(): Promise<void> {
    this.socketNumber += 1;
    const number = this.socketNumber;
    const isOver = () => number !== this.socketNumber || this.state !== 'connecting';
    this.#set('connecting', null);
    let address: string;
    try {
      address = await this.#handlers.address();
    } catch (error) {
      if (!isOver()) {
        this.#giveUp(error instanceof Error ? error : new Error(String(error)));
      }
      return;
    }
    if (isOver()) {
      return;
    }
    try {
      this.#listen(this.#environment.openSocket(address));
    } catch (error) {
      this.#giveUp(error as Error);
    }
  }

  #listen(socket: LiveSocket): void {
    this.#socket = socket;
    this.#stopTimer = this.#environment.setTimer(() => {
      this.#giveUp(new LiveError('connection', 'the server did not take the connection in time'));
    }, OPEN_LIMIT_MS);
    socket.onopen = () => this.#opened();
    socket.onmessage = ({ data }) => this.#heard(data);
    // Behind an error comes the end; Node's sockets do not tell it when the server refuses the upgrade.
    socket.onerror = () => this.#giveUp(new LiveError('connection', 'the connection failed, or the server refused it'));
    socket.onclose = ({ code, reason }) => {
      const why = `the connection ended${code ? ` (${code}${reason ? `: ${reason}` : ''})` : ''}`;
      this.#giveUp(new LiveError('connection', why), code === TOKEN_EXPIRED && this.#failures === 0 ? 0 : undefined);
    };
  }

  #opened(): void {
    this.#stopTimer();
    this.#watch();
    this.#set('open', null);
    this.#handlers.opened();
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const request of waiting) {
      // A handler may have ended this socket.
      if (this.state === 'open') {
        this.#send(request);
      } else {
        this.#waiting.push(request);
      }
    }
  }

  #send(request: Request): void {
    const requestId = this.#nextId;
    this.#nextId += 1;
    request.tries += 1;
    this.#sent.set(requestId, request);
    if (this.#sent.size === 1) {
      this.#watch();
    }
    this.#socket!.send(`{"requestId":${requestId},${request.text.slice(1)}`);
  }

  /** Gives up the socket if nothing comes for so long. */
  #watch(limit = this.#sent.size > 0 ? SILENCE_MS : QUIET_MS): void {
    this.#stopWatch();
    this.#stopWatch = this.#environment.setTimer(() => {
      this.#giveUp(new LiveError('connection', 'the server does not answer'));
    }, limit);
  }

  #heard(data: unknown): void {
    const socket = this.#socket;
    let message: ServerMessage;
    try {
      message = JSON.parse(data as string) as ServerMessage;
    } catch {
      this.#giveUp(new LiveError('connection', 'the server sent what is not JSON'));
      return;
    }
    this.#failures = 0;
    const request = message.requestId === undefined ? undefined : this.#sent.get(message.requestId);
    if (request === undefined) {
      this.#handlers.pushed(message);
    } else {
      this.#sent.delete(message.requestId!);
      if (message.tag === 'DataSyncError') {
        request.failed(refusal(message));
      } else {
        request.answered(message);
      }
    }
    // A handler may have ended this socket.
    if (this.#socket === socket) {
      this.#watch();
    }
  }

  /** The socket is no more; `delay` before the next attempt, by the failures so far unless given. */
  #giveUp(error: Error | null, delay?: number): void {
    const wasOpen = this.state === 'open';
    this.#release();
    const after = delay ?? retryDelay(this.#environment, this.#failures);
    this.#failures += 1;
    const sent = [...this.#sent.values()];
    this.#sent.clear();
    const again = sent.filter(({ resend, tries }) => resend === 'again' && tries < MOST_TRIES);
    this.#waiting = [...again, ...this.#waiting];
    this.#set('waiting', error);
    this.#stopTimer = this.#environment.setTimer(() => this.connect('now'), after);
    if (wasOpen) {
      this.#handlers.lost();
    }
    for (const request of sent) {
      if (!again.includes(request)) {
        request.failed(lostError());
      }
    }
  }

  /** Lets go of the socket and of all timers. */
  #release(): void {
    this.#stopTimer();
    this.#stopWatch();
    const socket = this.#socket;
    this.#socket = null;
    this.socketNumber += 1;
    if (socket !== null) {
      socket.onopen = socket.onmessage = socket.onclose = null;
      // A socket that is closed before it opened says so, which is nobody's concern.
      socket.onerror = () => {};
      socket.close();
    }
  }

  #set(state: ConnectionState, error: Error | null): void {
    this.state = state;
    this.#handlers.changed(state, error);
  }
}

/** Between half and all of a delay that doubles with each failure, so that clients do not come back in the same moment. */
export function retryDelay(environment: LiveEnvironment, failures: number): number {
  const most = Math.min(LONGEST_RETRY_MS, FIRST_RETRY_MS * 2 ** failures);
  return most * (0.5 + environment.random() / 2);
}

export function refusal(message: ServerMessage): LiveError {
  const { errorMessage = 'the server refused the request', code, sqlstate } = message;
  return new LiveError('refused', errorMessage, { code, sqlstate });
}

function lostError(): LiveError {
  return new LiveError('connection', 'the connection ended before the answer');
}
