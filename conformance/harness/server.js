/**
 * The real `headwater` binary as the suite sees it: started with an environment, awaited by its
 * readiness probe, stopped gently or killed, started again on the same port and data.
 *
 * Invariant: its log is output. A line of level ERROR or WARN that a test did not allow fails the
 * test file at the end.
 */

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

import { freePort } from './postgres.js';
import { Guarded } from './process.js';
import { SECRET } from './token.js';

export const BINARY =
  process.env.HEADWATER_BIN ?? fileURLToPath(new URL('../../target/debug/headwater', import.meta.url));

/** How often readiness is asked for while a server starts; it has no notification. */
const ASK_EVERY_MS = 25;
const START_LIMIT_MS = 60_000;

export class Server {
  /** @type {RegExp[]} Lines of level WARN and ERROR that this test file expects. */
  allowed = [];
  /** @type {string[]} Lines of processes that have ended. */
  #earlier = [];
  /** @type {Guarded | undefined} */
  #process;
  #environment;
  #directory;

  /**
   * @param {string} databaseUrl
   * @param {number} port
   * @param {{syncConfig: string | null, config?: string}} options texts of `sync.yaml` and `headwater.yaml`;
   *   without the first one policies are synced
   */
  constructor(databaseUrl, port, { syncConfig, config }) {
    this.url = `http://127.0.0.1:${port}`;
    this.#directory = fs.mkdtempSync(path.join(os.tmpdir(), 'hw-server-'));
    this.syncConfigFile = path.join(this.#directory, 'sync.yaml');
    if (syncConfig !== null) fs.writeFileSync(this.syncConfigFile, syncConfig);
    this.#environment = {
      PATH: process.env.PATH,
      HOME: this.#directory,
      DATABASE_URL: databaseUrl,
      HEADWATER_LISTEN: `127.0.0.1:${port}`,
      HEADWATER_DATA_DIR: path.join(this.#directory, 'data'),
      ...(syncConfig === null
        ? { HEADWATER_SYNC_FROM: 'policies' }
        : { HEADWATER_SYNC_CONFIG: this.syncConfigFile }),
      HEADWATER_JWT_SECRET: SECRET,
      HEADWATER_LOG_FORMAT: 'json',
      HEADWATER_LOG: process.env.HEADWATER_LOG ?? 'info',
    };
    if (config !== undefined) {
      const file = path.join(this.#directory, 'headwater.yaml');
      fs.writeFileSync(file, config);
      this.#environment.HEADWATER_CONFIG = file;
    }
  }

  /**
   * A server on a free port, not started yet.
   * @param {string} databaseUrl
   * @param {{syncConfig: string | null, config?: string}} options
   */
  static async create(databaseUrl, options) {
    return new Server(databaseUrl, await freePort(), options);
  }

  /**
   * Runs one command of the binary to its end with this server's environment.
   * @param {string[]} args
   * @returns {string} its standard output
   */
  run(args) {
    try {
      return execFileSync(BINARY, args, { env: this.#environment, encoding: 'utf8', stdio: 'pipe' });
    } catch (error) {
      const { stdout, stderr } = /** @type {{stdout: string, stderr: string}} */ (error);
      throw new Error(`headwater ${args.join(' ')}:\n${stdout}\n${stderr}`);
    }
  }

  /** Starts the process (again) and returns when it is ready. */
  async startAgain() {
    assert.equal(this.#process, undefined, 'the server is running');
    const child = new Guarded(BINARY, ['serve'], { env: this.#environment });
    this.#process = child;
    const limit = AbortSignal.timeout(START_LIMIT_MS);
    for (;;) {
      const ready = await fetch(`${this.url}/probes/readiness`, { signal: limit }).then(
        (answer) => answer.status === 200,
        () => false,
      );
      if (ready) return;
      if (!child.running || limit.aborted) {
        throw new Error(`headwater did not become ready:\n${child.lines.join('\n')}`);
      }
      await new Promise((resolve) => setTimeout(resolve, ASK_EVERY_MS));
    }
  }

  /**
   * Ends the process and returns when it is gone.
   * @param {'SIGTERM' | 'SIGKILL'} signal
   */
  async end(signal) {
    const child = this.#process;
    if (!child) return;
    await child.signal(signal);
    const code = await child.ended;
    this.#process = undefined;
    this.#earlier.push(...child.lines);
    if (signal === 'SIGTERM') assert.equal(code, 0, `headwater ended with ${code}:\n${this.log()}`);
  }

  /** @param {NodeJS.Signals} signal */
  async signal(signal) {
    await this.#process?.signal(signal);
  }

  /** Waits for a line of the log of the running process. @param {RegExp} pattern */
  async logged(pattern) {
    assert.ok(this.#process, 'the server is running');
    return this.#process.line(pattern);
  }

  /** Everything it has logged, over all starts. */
  log() {
    return [...this.#earlier, ...(this.#process?.lines ?? [])].join('\n');
  }

  /** Stops it, removes its data and judges its log. */
  async close() {
    try {
      await this.end('SIGTERM');
    } finally {
      fs.rmSync(this.#directory, { recursive: true, force: true });
    }
    const unlisted = this.log()
      .split('\n')
      .filter((line) => /"level":"(ERROR|WARN)"/.test(line) || /panicked at/.test(line))
      .filter((line) => !this.allowed.some((pattern) => pattern.test(line)));
    assert.equal(unlisted.length, 0, `the server logged what no test allowed:\n${unlisted.join('\n')}\nof:\n${this.log()}`);
  }
}
