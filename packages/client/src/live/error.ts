/** What went wrong, for programs (`kind`, `code`, `sqlstate`) and for people (`message`). */

/**
 * - `refused`: the server answered no: a policy, a constraint, a query that it cannot run.
 * - `connection`: the connection ended before the answer. Whether a write happened is not known; if
 *   it did, subscriptions will show it.
 * - `closed`: the client, the subscription or the transaction is over.
 */
export type LiveErrorKind = 'refused' | 'connection' | 'closed';

export class LiveError extends Error {
  override readonly name = 'LiveError';
  readonly kind: LiveErrorKind;
  /** Headwater's code for it, `HW…`. */
  readonly code: string | undefined;
  /** Postgres's code for it, five characters. */
  readonly sqlstate: string | undefined;

  constructor(kind: LiveErrorKind, message: string, more: { code?: string | undefined; sqlstate?: string | undefined } = {}) {
    super(message);
    this.kind = kind;
    this.code = more.code;
    this.sqlstate = more.sqlstate;
  }
}
