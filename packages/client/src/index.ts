/**
 * Connects PowerSync's JavaScript SDKs to Headwater.
 *
 * Suggested reading order: `connector.ts` (what the SDK calls), `queue.ts` (what is sent),
 * `request.ts` (how it is sent), `backoff.ts` (when it is sent again).
 */
export { HeadwaterConnector } from './connector.js';
export type { HeadwaterConnectorOptions } from './connector.js';
export { UploadError } from './request.js';
export type { RejectedWrite, Rejection } from './request.js';
