/** What browsers, Node and React Native have in common. */
import type { LiveEnvironment, LiveSocket } from './connection.js';

export const platform: LiveEnvironment = {
  openSocket: (url) => new WebSocket(url) as LiveSocket,
  now: () => Date.now(),
  setTimer(call, milliseconds) {
    const timer = setTimeout(call, milliseconds);
    return () => clearTimeout(timer);
  },
  random: () => Math.random(),
  whenOnline(call) {
    // Node and React Native have no such event.
    globalThis.addEventListener?.('online', call);
    return () => globalThis.removeEventListener?.('online', call);
  },
};

/** A random UUID. React Native and pages without TLS have no `randomUUID`. */
export function uuid(): string {
  const { crypto } = globalThis as { crypto?: Partial<Crypto> };
  if (typeof crypto?.randomUUID === 'function') {
    return crypto.randomUUID();
  }
  const bytes = new Uint8Array(16);
  if (typeof crypto?.getRandomValues === 'function') {
    crypto.getRandomValues(bytes);
  } else {
    bytes.forEach((_, at) => (bytes[at] = Math.floor(Math.random() * 256)));
  }
  bytes[6] = (bytes[6]! & 0x0f) | 0x40;
  bytes[8] = (bytes[8]! & 0x3f) | 0x80;
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5');
}
