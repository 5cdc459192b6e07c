/**
 * A private Postgres for a run of the suite.
 *
 * In: the binaries of the system, or those that `scripts/setup` fetched. Out: a cluster with logical
 * replication on a free port of the loopback address. Invariant: no cluster of the user is touched,
 * and nothing is left behind.
 */

import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

import pg from 'pg';

import { Guarded } from './process.js';

const REPOSITORY = fileURLToPath(new URL('../../', import.meta.url));

/** Small, quick, with room for the slots of every test file that runs at a time. */
const SETTINGS = {
  wal_level: 'logical',
  // Without a limit every server warns that its slot can fill the disk.
  max_slot_wal_keep_size: '20GB',
  max_replication_slots: '50',
  max_wal_senders: '50',
  max_connections: '200',
  shared_buffers: '64MB',
  fsync: 'off',
  full_page_writes: 'off',
  listen_addresses: '127.0.0.1',
  timezone: 'UTC',
};

/** @returns {string} The directory with `initdb` and `postgres`. */
export function binaries() {
  const wanted = process.env.HEADWATER_TEST_MAJOR;
  const majors = wanted ? [wanted] : ['18', '17', '16', '15', '14'];
  const places = [
    ...majors.map((major) => `/usr/lib/postgresql/${major}/bin`),
    ...(wanted ? [] : (process.env.PATH ?? '').split(path.delimiter)),
    ...majors.map((major) => path.join(REPOSITORY, '.cache/postgres', major, 'bin')),
  ];
  const found = places.find((place) => fs.existsSync(path.join(place, 'initdb')));
  if (!found) throw new Error('no Postgres 14 to 18 on this machine: run scripts/setup');
  return fs.realpathSync(found);
}

/** @returns {{uid: number, gid: number} | undefined} Who runs it when we are root: Postgres refuses to. */
function account() {
  if (process.getuid?.() !== 0) return undefined;
  const users = fs.readFileSync('/etc/passwd', 'utf8').split('\n').map((line) => line.split(':'));
  const user = users.find(([name]) => name === 'postgres') ?? users.find(([name]) => name === 'nobody');
  return user ? { uid: Number(user[2]), gid: Number(user[3]) } : { uid: 65534, gid: 65534 };
}

/** Whether everybody may walk to a directory. */
function everybodyReaches(/** @type {string} */ place) {
  for (let at = place; at !== path.dirname(at); at = path.dirname(at)) {
    if ((fs.statSync(at).mode & 0o001) === 0) return false;
  }
  return true;
}

/** @returns {Promise<number>} A port of the loopback address that was free a moment ago. */
export function freePort() {
  return new Promise((resolve, reject) => {
    const probe = net.createServer();
    probe.on('error', reject);
    probe.listen(0, '127.0.0.1', () => {
      const { port } = /** @type {net.AddressInfo} */ (probe.address());
      probe.close(() => resolve(port));
    });
  });
}

/** A running cluster. */
export class Postgres {
  /**
   * @param {Guarded} process
   * @param {string} directory
   * @param {number} port
   */
  constructor(process, directory, port) {
    this.process = process;
    this.directory = directory;
    this.port = port;
    /** A URL of its superuser, without the database. */
    this.url = `postgres://postgres@127.0.0.1:${port}`;
  }

  /** Makes and starts a cluster. */
  static async start() {
    const who = account();
    // The user's own short path: a socket's path may have 107 bytes.
    const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'hw-conformance-'));
    if (who) fs.chownSync(directory, who.uid, who.gid);
    let bin = binaries();
    if (who && !everybodyReaches(bin)) {
      const copy = path.join(directory, 'binaries');
      fs.cpSync(path.dirname(bin), copy, { recursive: true, verbatimSymlinks: true });
      execFileSync('chmod', ['-R', 'go+rX', copy]);
      bin = path.join(copy, 'bin');
    }
    const data = path.join(directory, 'data');
    const env = { PATH: process.env.PATH, LC_ALL: 'C' };
    const options = { env, cwd: directory, ...who };
    execFileSync(
      path.join(bin, 'initdb'),
      ['-D', data, '-U', 'postgres', '-A', 'trust', '-E', 'UTF8', '--no-locale', '--no-sync'],
      { ...options, stdio: 'pipe' },
    );
    const port = await freePort();
    const settings = Object.entries(SETTINGS).flatMap(([name, value]) => ['-c', `${name}=${value}`]);
    const server = new Guarded(
      path.join(bin, 'postgres'),
      ['-D', data, '-p', String(port), '-k', directory, ...settings],
      options,
    );
    await server.line(/database system is ready to accept connections/);
    return new Postgres(server, directory, port);
  }

  /** Ends it and removes its data. */
  async stop() {
    await this.process.signal('SIGQUIT');
    await this.process.ended;
    fs.rmSync(this.directory, { recursive: true, force: true });
  }
}

/**
 * A session as superuser. Whole numbers of eight bytes arrive as numbers.
 * @param {string} url
 */
export async function connect(url) {
  const client = new pg.Client({ connectionString: url });
  client.setTypeParser(20, Number);
  client.on('error', () => {});
  await client.connect();
  return client;
}
