/**
 * Child processes that never outlive the tests.
 *
 * In: a command. Out: its process id, its output, its end. Invariant: when the process that asked
 * for the child is gone, in whatever way, the child is killed: a shell in between notices that its
 * standard input has ended.
 */

import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';

/**
 * The shell in between. Descriptor 3 tells the child's id; descriptor 0 ends with the starter.
 * Background jobs of a shell have no standard input of their own, hence descriptor 4.
 */
const GUARD = `
exec 4<&0
"$@" </dev/null 3>&- 4<&- &
child=$!
echo "$child" >&3
( exec 3>&- >/dev/null 2>&1; cat <&4; kill -9 "$child" ) &
watch=$!
exec 3>&- 4<&-
wait "$child"
code=$?
kill "$watch" 2>/dev/null
exit "$code"
`;

/** A running child. */
export class Guarded {
  /** @type {string[]} Everything it wrote, both streams, line by line. */
  lines = [];
  /** @type {Promise<number>} Its exit code; above 128 for a signal. */
  ended;
  /** @type {boolean} */
  running = true;
  #shell;
  #pid;
  #listeners = new Set();

  /**
   * @param {string} command
   * @param {string[]} args
   * @param {{env?: NodeJS.ProcessEnv, uid?: number, gid?: number, cwd?: string}} [options]
   */
  constructor(command, args, options = {}) {
    this.#shell = spawn('/bin/sh', ['-c', GUARD, 'guard', command, ...args], {
      ...options,
      stdio: ['pipe', 'pipe', 'pipe', 'pipe'],
    });
    this.#shell.stdin.on('error', () => {});
    this.ended = new Promise((resolve, reject) => {
      this.#shell.on('error', reject);
      this.#shell.on('exit', (code, signal) => {
        this.running = false;
        this.#shell.stdin.end();
        resolve(code ?? (signal === 'SIGKILL' ? 137 : 143));
      });
    });
    this.#pid = new Promise((resolve, reject) => {
      createInterface({ input: this.#shell.stdio[3] }).once('line', (line) => resolve(Number(line)));
      this.#shell.on('error', reject);
    });
    this.#pid.catch(() => {});
    for (const stream of [this.#shell.stdout, this.#shell.stderr]) {
      createInterface({ input: stream }).on('line', (line) => {
        this.lines.push(line);
        for (const listener of this.#listeners) listener(line);
      });
    }
  }

  /**
   * Sends a signal to the child itself.
   * @param {NodeJS.Signals} signal
   */
  async signal(signal) {
    const pid = await this.#pid;
    if (!this.running) return;
    try {
      process.kill(pid, signal);
    } catch (error) {
      if (/** @type {NodeJS.ErrnoException} */ (error).code !== 'ESRCH') throw error;
    }
  }

  /**
   * The first line, past or future, that matches.
   * @param {RegExp} pattern
   * @returns {Promise<string>}
   */
  line(pattern) {
    const said = this.lines.find((line) => pattern.test(line));
    if (said !== undefined) return Promise.resolve(said);
    return new Promise((resolve, reject) => {
      const listener = (/** @type {string} */ line) => {
        if (pattern.test(line)) {
          this.#listeners.delete(listener);
          resolve(line);
        }
      };
      this.#listeners.add(listener);
      this.ended.then(() => {
        this.#listeners.delete(listener);
        reject(new Error(`ended before it said ${pattern}:\n${this.lines.join('\n')}`));
      });
    });
  }
}
