/** The program of the shared worker: `@headwater/client/live-worker`. */
import { platform } from './platform.js';
import { SharedWorkerHub } from './shared_worker.js';

const whenFree = (lock: string, call: () => void) => void navigator.locks.request(lock, call);
const hub = new SharedWorkerHub(platform.openSocket, whenFree, platform.now);

(globalThis as unknown as { onconnect: (event: MessageEvent) => void }).onconnect = ({ ports: [port] }) => {
  hub.connect(port!);
};
