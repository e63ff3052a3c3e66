// The worker: host.js behind messages.
import { serve } from './host.js';

const receive = serve((message, transfer = []) => postMessage(message, { transfer }));
onmessage = (event) => void receive(event.data);
