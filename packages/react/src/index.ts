/**
 * React hooks for live queries.
 *
 * Suggested reading order: `query.ts` (rows, counts and groups), `identity.ts` (who is signed in),
 * `provider.ts` (whose client it is).
 */
export { ThinBackend, useCurrentUser, useIsConnected, useIsLoggedIn, type ThinBackendProps } from './identity.js';
export { HeadwaterProvider, useLiveClient } from './provider.js';
export {
  useAggregate,
  useCount,
  useQuery,
  useQuerySingleResult,
  useQueryState,
  useSuspenseQuery,
  type DataSubscriptionOptions,
  type QueryState,
} from './query.js';
