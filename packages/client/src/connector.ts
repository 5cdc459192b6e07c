/**
 * What the SDK calls: credentials for the sync stream, and uploads of the queue.
 *
 * Invariant: a transaction leaves the queue only after Headwater said that it was applied, or that
 * it was rejected and `onRejected` was told. Everything else throws, and the SDK calls again.
 */
import type {
  CommonPowerSyncDatabase,
  PowerSyncBackendConnector,
  PowerSyncCredentials,
} from '@powersync/common';
import { Backoff, pause } from './backoff.js';
import { nextBatch, type QueuedTransaction } from './queue.js';
import { send, UploadError, type RejectedWrite, type Verdict } from './request.js';

export interface HeadwaterConnectorOptions {
  /** Headwater's address, for example `https://sync.example.com`. */
  endpoint: string;
  /** A token for the signed-in user, fresh at every call; `null` when nobody is signed in. */
  token: () => Promise<string | null> | string | null;
  /**
   * Told of every transaction that Headwater rejected, before it leaves the queue. After a crash
   * it may be told again. Without it rejections are logged. All of them can also be read, and
   * synced, from `headwater.rejected_writes`.
   */
  onRejected?: (write: RejectedWrite) => void | Promise<void>;
  /** Transactions in one request at most. Default 100. */
  batchSize?: number;
  /** Delay after a first failure, milliseconds; doubles from there. Default 250. */
  firstRetryMs?: number;
  /** Longest delay between attempts, milliseconds. Default 30000. */
  longestRetryMs?: number;
  /**
   * How long one call retries before it throws, milliseconds, so that the app sees `uploadError`.
   * The SDK then calls again, and the delays go on growing. Default 5000.
   */
  patienceMs?: number;
  /**
   * How long one request may take, milliseconds. Default 90000: the server may need a minute for
   * one transaction.
   */
  timeoutMs?: number;
  /** Another `fetch`. */
  fetch?: typeof fetch;
}

/** Characters of one request, about; the server reads 16 MB by default. */
const BATCH_CHARACTERS = 1_000_000;
/** Transactions in one request, as the server allows. */
const MAX_BATCH_SIZE = 1000;

export class HeadwaterConnector implements PowerSyncBackendConnector {
  readonly #options: HeadwaterConnectorOptions;
  readonly #endpoint: string;
  readonly #backoff: Backoff;
  /** The newest token, so that not every upload asks for one. Cleared when it was refused. */
  #token: string | null = null;

  constructor(options: HeadwaterConnectorOptions) {
    this.#options = options;
    // The SDK refuses an endpoint that ends in a slash.
    this.#endpoint = options.endpoint.replace(/\/+$/, '');
    this.#backoff = new Backoff({
      firstMs: options.firstRetryMs ?? 250,
      longestMs: options.longestRetryMs ?? 30_000,
    });
  }

  /** A fresh token each time; `null` when nobody is signed in. */
  fetchCredentials = async (): Promise<PowerSyncCredentials | null> => {
    this.#token = await this.#options.token();
    return this.#token === null ? null : { endpoint: this.#endpoint, token: this.#token };
  };

  /** Uploads the queue until it is empty. Throws when the server cannot be reached for a while. */
  uploadData = async (database: CommonPowerSyncDatabase): Promise<void> => {
    const giveUpAt = Date.now() + (this.#options.patienceMs ?? 5_000);
    let size = Math.min(this.#options.batchSize ?? 100, MAX_BATCH_SIZE);
    let renewed = false;
    for (;;) {
      try {
        const batch = await nextBatch(database, { transactions: size, characters: BATCH_CHARACTERS });
        if (batch.length === 0) {
          return;
        }
        await this.#upload(database, batch);
        this.#backoff.succeeded();
        renewed = false;
      } catch (error) {
        if (!(error instanceof UploadError)) {
          throw error;
        }
        if (error.status === 401) {
          this.#token = null;
          if (!renewed) {
            // The token has expired: once, and at once, with a new one.
            renewed = true;
            continue;
          }
        }
        if (error.status === 413 && size > 1) {
          size = Math.ceil(size / 2);
          continue;
        }
        const delay = this.#backoff.failed();
        if (isFinal(error) || Date.now() + delay > giveUpAt) {
          // The SDK calls again in a few seconds; the rest of the delay is waited for here.
          await pause(Math.min(delay, Math.max(0, giveUpAt - Date.now())), () => isOver(database));
          throw error;
        }
        await pause(delay, () => isOver(database));
        if (isOver(database)) {
          throw error;
        }
      }
    }
  };

  async #upload(database: CommonPowerSyncDatabase, batch: QueuedTransaction[]): Promise<void> {
    const sender = {
      fetch: this.#options.fetch ?? globalThis.fetch.bind(globalThis),
      url: `${this.#endpoint}/api/v1/upload`,
      timeoutMs: this.#options.timeoutMs ?? 90_000,
    };
    const token = this.#token ?? (this.#token = await this.#options.token());
    if (token === null) {
      throw new UploadError('upload waits: nobody is signed in');
    }
    const verdicts = await send(sender, token, await database.getClientId(), batch);
    await this.#settle(batch, verdicts);
  }

  /** Takes what was decided off the queue, up to the first transaction to retry. */
  async #settle(batch: QueuedTransaction[], verdicts: Verdict[]): Promise<void> {
    let decided: QueuedTransaction | undefined;
    let retry: { message: string; code?: string } | undefined;
    for (const [index, transaction] of batch.entries()) {
      const verdict = verdicts[index]!;
      if (verdict.verdict === 'retry') {
        retry = verdict;
        break;
      }
      if (verdict.verdict === 'rejected') {
        const { id: transactionId, entries } = transaction;
        await this.#rejected({ ...verdict.error, transactionId, entries });
      }
      decided = transaction;
    }
    // Completing one completes all before it.
    await decided?.complete();
    if (decided !== undefined) {
      this.#backoff.succeeded();
    }
    if (retry !== undefined) {
      const code = retry.code === undefined ? {} : { code: retry.code };
      throw new UploadError(`upload postponed: ${retry.message}`, { status: 200, ...code });
    }
  }

  async #rejected(write: RejectedWrite): Promise<void> {
    if (this.#options.onRejected !== undefined) {
      await this.#options.onRejected(write);
      return;
    }
    console.warn(`Headwater rejected local transaction ${write.transactionId}: ${write.message}`);
  }
}

/** Whether trying again at once is pointless: somebody has to change something first. */
function isFinal(error: UploadError): boolean {
  const { status } = error;
  return status !== undefined && status >= 400 && status < 500 && status !== 408 && status !== 429;
}

/**
 * Whether to stop waiting: the app closed the database or disconnected, or the sync stream is down
 * too. In the last case the SDK calls again when the stream is back.
 */
function isOver(database: CommonPowerSyncDatabase): boolean {
  const { connected, connecting } = database.currentStatus;
  return database.closed || !(connected || connecting);
}
