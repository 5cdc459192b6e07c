/** The program of the shared worker: `@headwater/client/live-worker`. */
import { platform } from './platform.js';
import { SharedWorkerHub } from './shared_worker.js';

const hub = new SharedWorkerHub(platform.openSocket, (lock, call) => {
  void navigator.locks.request(lock, call);
});

(globalThis as unknown as { onconnect: (event: MessageEvent) => void }).onconnect = ({ ports: [port] }) => {
  hub.connect(port!);
};
