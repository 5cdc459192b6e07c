/**
 * A client in a process of its own, which a test kills: `node victim.js directory endpoint token`.
 * It connects, never uploads, and never ends by itself.
 */

import { Client } from './client.js';
import { SCHEMA } from './schema.js';

const [directory, endpoint, token] = process.argv.slice(2);
const client = new Client({
  schema: SCHEMA,
  user: 'ann',
  endpoint,
  directory,
  connector: {
    fetchCredentials: async () => ({ endpoint, token }),
    uploadData: () => new Promise(() => {}),
  },
});
await client.connect();
