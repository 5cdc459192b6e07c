/**
 * A proxy between a client and the server that knows no protocol, only connections: which it cuts, and
 * does not let through, when a test says so.
 */

import net from 'node:net';

export class TcpProxy {
  /** Whether connections are let through. */
  isOpen = true;
  /** How many connections were let through. */
  connections = 0;
  /** @type {Set<net.Socket>} */
  #sockets = new Set();
  #server;

  constructor(/** @type {net.Server} */ server) {
    this.#server = server;
    this.url = `http://127.0.0.1:${/** @type {net.AddressInfo} */ (server.address()).port}`;
  }

  /** @param {string} target address of the server, `http://host:port` */
  static async start(target) {
    const { hostname, port } = new URL(target);
    const server = net.createServer();
    await new Promise((resolve) => server.listen(0, '127.0.0.1', () => resolve(undefined)));
    const proxy = new TcpProxy(server);
    server.on('connection', (near) => {
      if (!proxy.isOpen) return near.destroy();
      proxy.connections += 1;
      const far = net.connect(Number(port), hostname);
      for (const [one, other] of [[near, far], [far, near]]) {
        proxy.#sockets.add(one);
        one.on('error', () => {});
        one.on('close', () => {
          proxy.#sockets.delete(one);
          other.destroy();
        });
        one.pipe(other);
      }
    });
    return proxy;
  }

  /** Cuts all connections; new ones come through if it is open. */
  cut() {
    for (const socket of this.#sockets) socket.destroy();
  }

  async close() {
    this.isOpen = false;
    this.cut();
    await new Promise((resolve) => this.#server.close(resolve));
  }
}
