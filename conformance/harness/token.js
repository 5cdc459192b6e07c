/**
 * Tokens as an application's back end would issue them: HS256, signed here with Node's own crypto,
 * so that the server's issuer and verifier are not tested against each other alone.
 */

import { createHmac } from 'node:crypto';

/** What the server under test is configured with. */
export const SECRET = 'a secret of the conformance suite, long enough';

const encode = (/** @type {unknown} */ value) => Buffer.from(JSON.stringify(value)).toString('base64url');

/**
 * @param {string} sub whom it is for
 * @param {{ttl?: number, claims?: Record<string, unknown>, secret?: string}} [options] `ttl` in
 *   seconds, may be negative for a token that has expired
 */
export function token(sub, { ttl = 3600, claims = {}, secret = SECRET } = {}) {
  const now = Math.floor(Date.now() / 1000);
  const issued = ttl < 0 ? now + ttl - 60 : now;
  const text = `${encode({ alg: 'HS256', typ: 'JWT' })}.${encode({ sub, iat: issued, exp: now + ttl, ...claims })}`;
  return `${text}.${createHmac('sha256', secret).update(text).digest('base64url')}`;
}
