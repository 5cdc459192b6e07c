/** What a client reads in its own token. It verifies nothing: the server does. */

export interface TokenClaims {
  sub?: string;
  /** When it expires, seconds since 1970. */
  exp?: number;
}

/** Asked for a token at every connection and before the last one expires; `null` when nobody is signed in. */
export type TokenSource = () => Promise<string | null> | string | null;

/** The place in which the original client keeps its token. */
export const STORED_TOKEN = 'ihp_jwt';

/** The token that a page has stored; none outside of pages. */
export function storedToken(): string | null {
  return typeof localStorage === 'undefined' ? null : localStorage.getItem(STORED_TOKEN);
}

export function claimsOf(token: string | null): TokenClaims {
  try {
    const part = token!.split('.')[1]!.replace(/-/g, '+').replace(/_/g, '/');
    const bytes = Array.from(atob(part), (char) => `%${char.charCodeAt(0).toString(16).padStart(2, '0')}`);
    return JSON.parse(decodeURIComponent(bytes.join(''))) as TokenClaims;
  } catch {
    return {};
  }
}
