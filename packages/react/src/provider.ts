/** Which client hooks use: that of the nearest provider, else the application's. */
import { createContext, createElement, useContext, type ReactNode } from 'react';
import { liveClient, type LiveClient } from '@headwater/client/live';

const Context = createContext<LiveClient | null>(null);

export function HeadwaterProvider({ client, children }: { client: LiveClient; children?: ReactNode }): ReactNode {
  return createElement(Context.Provider, { value: client }, children);
}

export function useLiveClient(): LiveClient {
  return useContext(Context) ?? liveClient();
}
