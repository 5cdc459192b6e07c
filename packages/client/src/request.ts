/**
 * One upload request and its answer. The format is Headwater's page `docs/uploads.md`.
 */
import type { CrudEntry } from '@powersync/common';
import type { QueuedTransaction } from './queue.js';

/** Why Headwater rejected a transaction. Its message is safe to show. */
export interface Rejection {
  message: string;
  /** Postgres's code for the condition, for example `23505`. */
  sqlstate?: string;
  /** The `clientId` of the entry that was refused. */
  op_id?: number;
  table?: string;
  column?: string;
  constraint?: string;
}

/** A local transaction that was rejected and has left the queue, or is about to. */
export interface RejectedWrite extends Rejection {
  transactionId: number;
  /** What the transaction wrote. */
  entries: CrudEntry[];
}

/** An upload that did not get an answer it can work with. The queue keeps everything. */
export class UploadError extends Error {
  override readonly name = 'UploadError';
  /** HTTP status; absent when there was no answer at all. */
  readonly status: number | undefined;
  /**
   * Headwater's code, for example `HW5301`; absent when the answer was not Headwater's, and for
   * what passes by itself.
   */
  readonly code: string | undefined;

  constructor(message: string, details: { status?: number; code?: string; cause?: unknown } = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.status = details.status;
    this.code = details.code;
  }
}

/** The verdict over one transaction. */
export type Verdict =
  | { verdict: 'applied' }
  | { verdict: 'rejected'; error: Rejection }
  | { verdict: 'retry'; message: string; code?: string };

export interface Sender {
  fetch: typeof fetch;
  /** Where uploads go. */
  url: string;
  timeoutMs: number;
}

/** Sends a batch. Throws `UploadError` for anything but verdicts over exactly this batch. */
export async function send(
  sender: Sender,
  token: string,
  clientId: string,
  batch: QueuedTransaction[],
): Promise<Verdict[]> {
  const transactions = batch.map((transaction) => transaction.json).join(',');
  const body = `{"client_id":${JSON.stringify(clientId)},"transactions":[${transactions}]}`;
  const { status, text } = await post(sender, token, body);
  const answer = parse(text);
  if (status !== 200) {
    const error = isObject(answer) && isObject(answer.error) ? answer.error : {};
    const description = typeof error.description === 'string' ? error.description : `HTTP ${status}`;
    throw new UploadError(`upload refused: ${description}`, {
      status,
      ...(typeof error.code === 'string' ? { code: error.code } : {}),
    });
  }
  const verdicts = isObject(answer) && Array.isArray(answer.transactions) ? answer.transactions : [];
  // An answer to something else, perhaps of a proxy, must not empty the queue.
  if (
    verdicts.length !== batch.length ||
    verdicts.some((verdict, index) => !isObject(verdict) || verdict.id !== batch[index]!.id)
  ) {
    throw new UploadError('upload answered by something that is not Headwater', { status });
  }
  return verdicts.map((verdict) => read(verdict, status));
}

function read(wire: Record<string, unknown>, status: number): Verdict {
  const error = isObject(wire.error) ? wire.error : {};
  const message = typeof error.message === 'string' ? error.message : 'no reason was given';
  switch (wire.verdict) {
    case 'applied':
      return { verdict: 'applied' };
    case 'rejected':
      return { verdict: 'rejected', error: { ...error, message } };
    case 'retry':
      return typeof error.code === 'string'
        ? { verdict: 'retry', message, code: error.code }
        : { verdict: 'retry', message };
    default:
      throw new UploadError('upload answered with an unknown verdict', { status });
  }
}

async function post(
  sender: Sender,
  token: string,
  body: string,
): Promise<{ status: number; text: string }> {
  const aborter = new AbortController();
  const timer = setTimeout(() => aborter.abort(), sender.timeoutMs);
  try {
    const response = await sender.fetch(sender.url, {
      method: 'POST',
      headers: { 'content-type': 'application/json', authorization: `Bearer ${token}` },
      body,
      signal: aborter.signal,
    });
    return { status: response.status, text: await response.text() };
  } catch (cause) {
    throw new UploadError('upload failed: the server could not be reached', { cause });
  } finally {
    clearTimeout(timer);
  }
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
