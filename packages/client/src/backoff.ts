/**
 * When to try again: delays that double from one failure to the next and start over after a
 * success. The count outlives a single `uploadData` call, because the SDK calls again and again.
 */
export interface BackoffOptions {
  /** Delay after the first failure, milliseconds. */
  firstMs: number;
  /** Longest delay, milliseconds. */
  longestMs: number;
}

export class Backoff {
  #failures = 0;
  readonly #options: BackoffOptions;

  constructor(options: BackoffOptions) {
    this.#options = options;
  }

  /** Forgets the failures so far. */
  succeeded(): void {
    this.#failures = 0;
  }

  /**
   * The delay before the next attempt, milliseconds. Between half and all of the doubled delay, so
   * that the clients of a server that went down do not come back in the same moment.
   */
  failed(): number {
    const { firstMs, longestMs } = this.#options;
    const delay = Math.min(longestMs, firstMs * 2 ** this.#failures);
    this.#failures += 1;
    return delay * (0.5 + Math.random() / 2);
  }
}

/** Waits, but no longer than until `stop` says so; it is asked four times a second. */
export async function pause(milliseconds: number, stop: () => boolean): Promise<void> {
  const until = Date.now() + milliseconds;
  while (!stop()) {
    const left = until - Date.now();
    if (left <= 0) {
      return;
    }
    await new Promise((resolve) => setTimeout(resolve, Math.min(left, 250)));
  }
}
