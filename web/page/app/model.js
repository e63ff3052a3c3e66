// The model card: which model, how it gets here, what is kept in the browser.
import { cachedModels, deleteCachedModel } from '../pkg/index.js';
import { $, bytes, digits, make, say } from './dom.js';

export const DEMO = new URL('../models/austen-4m/', import.meta.url).href;
const DEMO_NAME = 'Austen and Shakespeare';

const isDemo = (source) => source === DEMO;
const shortName = (url) => (isDemo(url) ? 'Demo model' : url.replace(/^https?:\/\/(huggingface\.co\/)?/, '').replace(/\/(resolve\/main\/)?$/, ''));

const STAGES = { download: 'Downloading', cache: 'From this browser’s cache:', read: 'Reading', upload: 'Making the weights ready', retry: 'The download broke off, trying again:' };

/** Shows a load's progress while it lasts. */
export class LoadingCard {
  #note = '';
  start(cancel) {
    this.#note = '';
    this.show({ stage: 'download', loaded: 0, total: 0 });
    $('loading').hidden = false;
    $('loading-cancel').onclick = cancel;
    say('Loading the model');
  }
  /** @param {import('../pkg/index.js').LoadProgress} progress */
  show({ stage, file, loaded, total, cached, retry }) {
    const bar = /** @type {HTMLProgressElement} */ ($('loading-bar'));
    $('loading-what').textContent = [STAGES[stage], stage === 'upload' ? '' : file].filter(Boolean).join(' ');
    $('loading-bytes').textContent = total ? `${bytes(loaded)} of ${bytes(total)}` : '';
    if (total) bar.value = loaded / total;
    else bar.removeAttribute('value');
    if (stage === 'retry') this.#note = `attempt ${(retry ?? 0) + 1}`;
    else if (cached) this.#note = `${bytes(cached)} were in the cache`;
    $('loading-note').textContent = this.#note;
  }
  end() {
    $('loading').hidden = true;
  }
}

/** @param {import('../pkg/index.js').ModelInfo | null} info */
export function showModel(info, source) {
  const count = (n) => (n >= 1e9 ? `${(n / 1e9).toFixed(2)} billion` : `${digits(n / 1e6)} million`);
  $('model-name').textContent = !info ? 'None loaded' : isDemo(source) ? DEMO_NAME : info.source;
  $('model-facts').textContent = info
    ? `${info.arch === 'mamba' ? 'Mamba' : 'Falcon-Mamba'}, ${info.nLayer} layers × ${info.dModel}, ${count(info.parameters)} parameters, ${bytes(info.weightBytes)}; state ${bytes(info.stateBytes)}${info.onGpu ? '' : '; on the CPU'}`
    : 'The demo is 9 MiB and stays in this browser. Write loads it by itself.';
  $('load-demo').hidden = Boolean(info) && isDemo(source);
  for (const warning of info?.warnings ?? []) console.warn(warning);
}

/**
 * @param {(url: string) => void} load
 * @param {(error: any) => void} failed
 */
export async function showCache(load, failed) {
  const models = await cachedModels().catch(() => []);
  $('cache').hidden = !models.length;
  $('cache-list').replaceChildren(
    ...models.map(({ url, bytes: size, complete }) => {
      const name = shortName(url);
      const use = make('button', { type: 'button', className: 'small', textContent: complete ? 'Load' : 'Resume', ariaLabel: `Load ${name}`, onclick: () => load(url) });
      const remove = make('button', { type: 'button', className: 'small', textContent: 'Delete', ariaLabel: `Delete ${name} from the cache` });
      remove.onclick = async () => {
        try {
          await deleteCachedModel(url);
          say(`${name} is deleted from the cache`);
        } catch (error) {
          failed(error);
        }
        await showCache(load, failed);
        $('load-demo').focus();
      };
      return make('li', {}, make('span', { textContent: `${name}, ${bytes(size)}${complete ? '' : ', in part'}` }), make('span', { className: 'row' }, use, remove));
    }),
  );
}

/** Files of a drop, those of folders included. */
export async function droppedFiles(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return [...transfer.files];
  const read = async (entry) => {
    if (entry.isFile) return [await new Promise((resolve, reject) => entry.file(resolve, reject))];
    const reader = entry.createReader();
    const found = [];
    // A reader gives a folder piece by piece.
    for (let some; (some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject))).length; ) found.push(...some);
    return (await Promise.all(found.filter(({ isFile }) => isFile).map(read))).flat();
  };
  return (await Promise.all(entries.map(read))).flat();
}
