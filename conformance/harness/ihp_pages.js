/** Pages of an IHP application in a real browser, built as its bundler builds them and served as it serves them. */

import http from 'node:http';
import { fileURLToPath } from 'node:url';

import { build } from 'esbuild';

import { Browser } from './browser.js';
import { token } from './token.js';

const SIZE = { width: 800, height: 600 };
const HTML = '<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,"><div id="root"></div><script type="module" src="/page.js"></script>';

export class IhpPages {
  #browser;
  #server;
  /** Names of this server, one for each user: what a page stores belongs to its origin. */
  #names = ['127.0.0.1', 'localhost'];

  /** @param {Browser} browser @param {http.Server} server */
  constructor(browser, server) {
    this.#browser = browser;
    this.#server = server;
  }

  /** @param {string} page a file of `pages/` @param {Record<string, string>} [alias] where what it imports lies */
  static async start(page, alias = {}) {
    const { outputFiles } = await build({
      entryPoints: [fileURLToPath(new URL(`../pages/${page}`, import.meta.url))],
      alias,
      // Sources that lie elsewhere find what the application has: it has one React.
      nodePaths: [fileURLToPath(new URL('../../node_modules', import.meta.url))],
      bundle: true,
      format: 'esm',
      outdir: '/',
      write: false,
      define: { 'process.env.NODE_ENV': '"development"' },
      logLevel: 'error',
    });
    const server = http.createServer((request, response) => {
      const isProgram = request.url === '/page.js';
      response.setHeader('content-type', isProgram ? 'text/javascript' : 'text/html');
      response.end(isProgram ? outputFiles[0].text : HTML);
    });
    await new Promise((resolve) => server.listen(0, '127.0.0.1', () => resolve(undefined)));
    const browser = await Browser.start();
    // What a socket that is cut, or not let in, says of itself.
    browser.expected.push(/WebSocket|ERR_CONNECTION/, /Download the React DevTools/);
    return new IhpPages(browser, server);
  }

  /** The page of another user than those before, two at most, at this host. @param {string} user @param {string} host */
  async open(user, host) {
    const { port } = /** @type {import('node:net').AddressInfo} */ (this.#server.address());
    const page = await this.#browser.open(`http://${this.#names.shift()}:${port}/?host=${encodeURIComponent(host)}&token=${token(user)}&user=${user}`, SIZE);
    await page.until(`document.querySelector('#tasks')`);
    return page;
  }

  async close() {
    this.#server.close();
    this.#server.closeAllConnections();
    await this.#browser.close();
  }
}

const LIST = `[...document.querySelectorAll('#tasks li')].map((one) => one.textContent).join()`;

/** That the page's list is this. */
export const shows = (/** @type {string} */ expected) => `${LIST} === ${JSON.stringify(expected)}`;

/** That an element's text is this. */
export const says = (/** @type {string} */ id, /** @type {string} */ expected) => `document.querySelector('#${id}')?.textContent === ${JSON.stringify(expected)}`;
