/** Hooks for who is signed in, and whether there is a connection. */
import { useEffect, useCallback, useSyncExternalStore, type ReactNode } from 'react';
import type { LiveClient, CurrentUser } from '@headwater/client/live';
import { useLiveClient } from './provider.js';
import { useLiveState } from './query.js';

function useClientValue<V>(client: LiveClient, read: () => V, atServer: V): V {
  const subscribe = useCallback((changed: () => void) => client.listen(changed), [client]);
  return useSyncExternalStore(subscribe, read, () => atServer);
}

/** The token's subject: `null` when nobody is signed in, `undefined` while that is not known. */
function useUserId(client: LiveClient): string | null | undefined {
  const userId = useClientValue(client, () => client.identity.userId, undefined);
  useEffect(() => {
    // A token that cannot be had is tried again with the connection, which nobody else may want.
    client.whoami().catch(() => client.connection.connect());
  }, [client]);
  return userId;
}

/** Whether there is a connection now. */
export function useIsConnected(): boolean {
  const client = useLiveClient();
  return useClientValue(client, () => client.status.state === 'open', false);
}

/** Whether somebody is signed in, `null` while that is not known. */
export function useIsLoggedIn(): boolean | null {
  const userId = useUserId(useLiveClient());
  return userId === undefined ? null : userId !== null;
}

/** The signed-in user's own row, live; `null` while it loads, and when nobody is signed in. */
export function useCurrentUser(): CurrentUser | null {
  const client = useLiveClient();
  const userId = useUserId(client);
  const query = userId == null ? null : client.currentUser;
  const { data } = useLiveState<readonly CurrentUser[]>(query === null ? null : client.rows(query.query));
  return data?.[0] ?? null;
}

export interface ThinBackendProps {
  /** Whether whoever is not signed in is sent to where that is done. */
  requireLogin?: boolean;
  children?: ReactNode;
}

/** Renders its children once it is known who is signed in; with `requireLogin` only for somebody who is. */
export function ThinBackend({ requireLogin = false, children }: ThinBackendProps): ReactNode {
  const client = useLiveClient();
  const userId = useUserId(client);
  const isSentAway = requireLogin && userId === null;
  useEffect(() => {
    if (isSentAway) {
      location.assign(client.loginUrl);
    }
  }, [client, isSentAway]);
  return userId === undefined || isSentAway ? null : children;
}
