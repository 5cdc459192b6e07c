/**
 * A real browser without a window, driven over the DevTools protocol: Debian's Chromium, or the one
 * that `HEADWATER_BROWSER` names.
 *
 * Invariant: what a page throws, and what its console calls an error, fails the test file at the end.
 */

import assert from 'node:assert/strict';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';

import { Guarded } from './process.js';

const PLACES = [process.env.HEADWATER_BROWSER, '/usr/bin/chromium', '/usr/bin/google-chrome'];
const LIMIT_MS = 20_000;
/** A page has no notification for "this is so now". */
const ASK_EVERY_MS = 25;

/** The program, if there is one. */
export const browser = PLACES.find((place) => place && fs.existsSync(place));

export class Browser {
  /** @type {string[]} What pages threw or called an error, unless it was expected. */
  complaints = [];
  /** @type {RegExp[]} */
  expected = [];
  #numbers = 0;
  /** @type {Map<number, {resolve: (value: any) => void, reject: (error: Error) => void}>} */
  #open = new Map();
  #process;
  #socket;
  #profile;

  constructor(/** @type {Guarded} */ process, /** @type {WebSocket} */ socket, /** @type {string} */ profile) {
    this.#process = process;
    this.#socket = socket;
    this.#profile = profile;
    socket.addEventListener('message', ({ data }) => this.#heard(JSON.parse(data)));
  }

  static async start() {
    assert.ok(browser, 'no browser is installed');
    const profile = fs.mkdtempSync(path.join(os.tmpdir(), 'hw-browser-'));
    const process = new Guarded(browser, [
      '--headless', '--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking',
      '--disable-component-update', '--disable-sync', '--disable-dev-shm-usage', '--no-proxy-server',
      '--remote-debugging-port=0', `--user-data-dir=${profile}`, 'about:blank',
    ]);
    const says = await process.line(/DevTools listening on /);
    const socket = new WebSocket(says.replace(/.*listening on /, '').trim());
    await new Promise((resolve, reject) => {
      socket.addEventListener('open', resolve);
      socket.addEventListener('error', () => reject(new Error('the browser does not take the connection')));
    });
    return new Browser(process, socket, profile);
  }

  /** Opens a page in a window of this size; `width` below 600 is a phone. */
  async open(/** @type {string} */ url, /** @type {{width: number, height: number}} */ size) {
    const { targetId } = await this.send('Target.createTarget', { url: 'about:blank' });
    const { sessionId } = await this.send('Target.attachToTarget', { targetId, flatten: true });
    const page = new Page(this, sessionId);
    await page.send('Runtime.enable');
    await page.send('Log.enable');
    await page.send('Emulation.setDeviceMetricsOverride', { ...size, deviceScaleFactor: 1, mobile: size.width < 600 });
    await page.send('Page.navigate', { url });
    return page;
  }

  /** One command of the protocol. */
  send(/** @type {string} */ method, params = {}, /** @type {string | undefined} */ sessionId = undefined) {
    this.#numbers += 1;
    const id = this.#numbers;
    this.#socket.send(JSON.stringify({ id, method, params, sessionId }));
    return new Promise((resolve, reject) => this.#open.set(id, { resolve, reject }));
  }

  #heard(/** @type {any} */ message) {
    if (message.id !== undefined) {
      const { resolve, reject } = /** @type {any} */ (this.#open.get(message.id));
      this.#open.delete(message.id);
      return message.error ? reject(new Error(message.error.message)) : resolve(message.result);
    }
    if (message.method === 'Runtime.exceptionThrown') {
      this.#complain(message.params.exceptionDetails.exception?.description ?? message.params.exceptionDetails.text);
    }
    if (message.method === 'Log.entryAdded' && message.params.entry.level === 'error') this.#complain(`${message.params.entry.text} ${message.params.entry.url ?? ''}`);
  }

  #complain(/** @type {string} */ text) {
    if (!this.expected.some((one) => one.test(text))) this.complaints.push(text);
  }

  async close() {
    this.#socket.close();
    await this.#process.signal('SIGKILL');
    await this.#process.ended;
    assert.deepEqual(this.complaints, [], 'pages complained');
    try {
      fs.rmSync(this.#profile, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 });
    } catch {
      // Its other processes end later and may still write: a directory for temporary files that stays
      // is no failure of a page.
    }
  }
}

export class Page {
  constructor(/** @type {Browser} */ of, /** @type {string} */ session) {
    this.browser = of;
    this.session = session;
  }

  send(/** @type {string} */ method, params = {}) {
    return this.browser.send(method, params, this.session);
  }

  /** The value of an expression in the page. */
  async ask(/** @type {string} */ expression) {
    const { result, exceptionDetails } = await this.send('Runtime.evaluate', {
      expression, returnByValue: true, awaitPromise: true, userGesture: true,
    });
    if (exceptionDetails) throw new Error(exceptionDetails.exception?.description ?? exceptionDetails.text);
    return result.value;
  }

  /** Waits until an expression is true. */
  async until(/** @type {string} */ expression) {
    const end = Date.now() + LIMIT_MS;
    while (!(await this.ask(`Boolean(${expression})`))) {
      if (Date.now() > end) assert.fail(`never true: ${expression}\n${await this.ask('document.body?.innerText')}`);
      await new Promise((resolve) => setTimeout(resolve, ASK_EVERY_MS));
    }
  }

  /** Types into a field and sends its form. */
  async submit(/** @type {string} */ selector, /** @type {string} */ text) {
    await this.ask(`document.querySelector(${JSON.stringify(selector)}).focus()`);
    await this.send('Input.insertText', { text });
    await this.ask(`document.querySelector(${JSON.stringify(selector)}).form.requestSubmit()`);
  }

  async click(/** @type {string} */ selector) {
    await this.ask(`document.querySelector(${JSON.stringify(selector)}).click()`);
  }

  /** A picture of the whole page. */
  async picture(/** @type {string} */ file) {
    const { data } = await this.send('Page.captureScreenshot', { captureBeyondViewport: true });
    fs.writeFileSync(file, Buffer.from(data, 'base64'));
  }
}
