/** A WebSocket server for texts, as far as the tests need one. Source: RFC 6455. */
import { createHash } from 'node:crypto';
import { createServer } from 'node:http';

/**
 * @param {(socket: {url: string, send: (...texts: string[]) => void, cut: () => void, close: (code: number) => void, onend: () => void}, text: string | null) => void} heard
 *   called with each message, and once without one when a socket has opened
 */
export async function startSocketServer(heard) {
  const sockets = new Set();
  const server = createServer();
  server.on('upgrade', (request, stream) => {
    const accept = createHash('sha1').update(`${request.headers['sec-websocket-key']}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`).digest('base64');
    stream.write(`HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ${accept}\r\n\r\n`);
    sockets.add(stream);
    stream.on('error', () => {});
    const socket = {
      url: request.url,
      // All in one write, so that they arrive in one chunk.
      send: (...texts) => stream.write(Buffer.concat(texts.map((text) => frame(1, Buffer.from(text))))),
      cut: () => stream.destroy(),
      onend: () => {},
      close: (code) => stream.write(frame(8, Buffer.from([code >> 8, code & 255]))),
    };
    stream.on('close', () => socket.onend());
    let buffer = Buffer.alloc(0);
    stream.on('data', (chunk) => {
      buffer = Buffer.concat([buffer, chunk]);
      for (let read = parse(buffer); read; read = parse(buffer)) {
        buffer = buffer.subarray(read.size);
        if (read.opcode === 1) heard(socket, read.payload.toString());
        if (read.opcode === 8) stream.end(frame(8, read.payload));
      }
    });
    heard(socket, null);
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    host: `http://127.0.0.1:${server.address().port}`,
    close: () => {
      for (const stream of sockets) stream.destroy();
      return new Promise((resolve) => server.close(resolve));
    },
  };
}

function frame(opcode, payload) {
  const { length } = payload;
  const head = length < 126 ? [length] : length < 65536 ? [126, length >> 8, length & 255] : [127, 0, 0, 0, 0, ...[24, 16, 8, 0].map((shift) => (length >> shift) & 255)];
  return Buffer.concat([Buffer.from([0x80 | opcode, ...head]), payload]);
}

function parse(buffer) {
  if (buffer.length < 2) return undefined;
  let length = buffer[1] & 127;
  let at = 2;
  if (length === 126) [length, at] = [buffer.length < 4 ? Infinity : buffer.readUInt16BE(2), 4];
  else if (length === 127) [length, at] = [buffer.length < 10 ? Infinity : Number(buffer.readBigUInt64BE(2)), 10];
  if (buffer.length < at + 4 + length) return undefined;
  const mask = buffer.subarray(at, at + 4);
  const payload = Buffer.from(buffer.subarray(at + 4, at + 4 + length));
  payload.forEach((byte, place) => (payload[place] = byte ^ mask[place % 4]));
  return { opcode: buffer[0] & 15, payload, size: at + 4 + length };
}
