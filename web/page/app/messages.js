// What went wrong, in plain words, and the ways on from there.

/** @typedef {'cpu' | 'gpu' | 'again' | 'reload' | 'files' | 'baseline'} Way */

/** @type {Record<string, { title: string, text: string, ways: Way[], bad?: boolean }>} */
const MESSAGES = {
  'no-webgpu': {
    title: 'This browser offers no WebGPU here',
    text: 'WebGPU comes with current Chrome, Edge, Safari and Firefox; where it is there and switched off, the browser’s settings say so. Without it, the model still runs on the CPU, more slowly.',
    ways: ['cpu'],
  },
  'no-gpu': {
    title: 'No GPU to be had',
    text: 'The browser has WebGPU but gives no adapter: hardware acceleration may be off, or the driver may be on its list of faulty ones. The model still runs on the CPU.',
    ways: ['cpu', 'again'],
  },
  'device-refused': {
    title: 'The GPU refused to start',
    text: 'Another program may hold it. Try again with the plainest settings, or run on the CPU.',
    ways: ['baseline', 'cpu'],
  },
  'needs-gpu': {
    title: 'This needs a GPU',
    text: 'The page runs on this computer’s processor, which writes, but does not train, measure or check.',
    ways: ['gpu'],
  },
  'device-lost': {
    title: 'The GPU went away',
    text: 'Its driver was reset, updated or timed out, or the machine slept. Your text is still here: load the model again (it is in the cache) and continue.',
    ways: ['again', 'baseline', 'cpu'],
  },
  'out-of-memory': {
    title: 'The GPU’s memory is full',
    text: 'Close other tabs that use the GPU, choose a smaller model, or run this one on the CPU.',
    ways: ['again', 'cpu'],
    bad: true,
  },
  'too-large': {
    title: 'This model is too large for this GPU',
    text: 'It has a part that is larger than what the GPU lets a program use at once. Choose a smaller model, or run this one on the CPU.',
    ways: ['cpu'],
    bad: true,
  },
  'page-memory': {
    title: 'This model is too large for a browser page',
    text: 'A page may hold 4 GiB. Choose a smaller model, or run it with the native program, which has no such limit.',
    ways: ['files'],
    bad: true,
  },
  download: {
    title: 'The download failed',
    text: 'Trying again goes on from what has arrived, where the server shows that it is still the same. If the server does not let other pages read its files, download them and drop them here.',
    ways: ['again', 'files'],
  },
  'damaged-file': {
    title: 'A file of this model is damaged',
    text: 'Download it again, or choose another copy.',
    ways: ['again', 'files'],
    bad: true,
  },
  'unusable-model': {
    title: 'These files are no model that runs here',
    text: 'Mamba and Falcon-Mamba models run, from config.json, tokenizer.json and safetensors.',
    ways: ['again', 'files'],
    bad: true,
  },
  'bad-tokenizer': {
    title: 'The tokenizer cannot be read',
    text: 'Take the tokenizer.json that was published with the model.',
    ways: ['again', 'files'],
    bad: true,
  },
  'no-tokenizer': {
    title: 'The model came without a tokenizer.json',
    text: 'Without it, text cannot be turned into tokens. Put that file beside the weights and load all of them.',
    ways: ['again', 'files'],
  },
  'not-a-state': { title: 'This is no saved state', text: 'Choose a .mamba-state file that this page or the native program saved.', ways: [], bad: true },
  'damaged-state': { title: 'This state file is damaged', text: 'Bytes are missing or have changed. Your text is as it was.', ways: [], bad: true },
  'newer-state': { title: 'This state file is newer than this page', text: 'Reload the page to get its latest version.', ways: ['reload'] },
  'other-models-state': { title: 'This state is another model’s', text: 'A state only means something to the model that made it. Load that model first.', ways: [], bad: true },
  options: { title: 'That cannot be done', text: 'Change it and try again.', ways: [] },
  diverged: {
    title: 'The training went astray',
    text: 'What the model computes is no number any more: most likely the learning rate is too high. Start anew with a lower one.',
    ways: [],
  },
  'not-started': { title: 'The program did not start', text: '', ways: ['again', 'reload'], bad: true },
  'memory-full': { title: 'The page’s memory is full', text: 'Your text is still here: load the model again, or a smaller one.', ways: ['again', 'reload'], bad: true },
  crashed: { title: 'The program stopped', text: 'This is a fault of this page’s program. Your text is still here: load the model again.', ways: ['again', 'reload'], bad: true },
};
const FAULT = { title: 'Something went wrong', text: 'This is a fault of this page or of the GPU’s driver. Loading again often helps.', ways: /** @type {Way[]} */ (['again', 'baseline', 'cpu']), bad: true };

/**
 * @param {{ code?: string, message?: string }} error
 * @param {import('../pkg/index.js').Device} [device] what is in use
 */
export function explain(error, device) {
  const found = MESSAGES[error.code ?? ''] ?? FAULT;
  const { passedOver } = device ?? {};
  if (error.code === 'needs-gpu' && passedOver) {
    return { ...found, text: `${found.text} The reason: ${whyCpu(passedOver)}.`, ways: passedOver.code === 'no-webgpu' ? [] : found.ways };
  }
  if (error.code === 'no-webgpu' && !globalThis.isSecureContext) {
    return { ...found, text: 'Browsers give WebGPU only to pages from https or localhost. Open this page that way; until then, the model runs on the CPU.' };
  }
  if (error.code === 'not-started') {
    const way = 'Reload without the browser’s cache (Ctrl+Shift+R); if that does not help, the server that this page comes from needs mending';
    return { ...found, text: `A part of it did not come as it should: ${error.message}. ${way}.` };
  }
  return found;
}

const WHY_CPU = {
  'no-webgpu': 'this browser offers no WebGPU here',
  'no-gpu': 'this browser gives the page no GPU',
  'software-gpu': 'the GPU that this browser gives the page is one in software, which is slower',
  'device-refused': 'the GPU refused to start',
};

/** Why the page runs on the CPU by itself, as the second half of a sentence. */
export function whyCpu({ code }) {
  const insecure = code === 'no-webgpu' && !globalThis.isSecureContext;
  return insecure ? 'browsers give WebGPU only to pages from https or localhost' : WHY_CPU[code];
}

/** @type {Record<Way, string>} */
export const WAYS = {
  cpu: 'Run on the CPU',
  gpu: 'Try the GPU',
  again: 'Try again',
  reload: 'Reload the page',
  files: 'Choose files',
  baseline: 'Plainest settings',
};
