// From a URL or from the user's files to bytes in wasm memory, chunk by chunk; URLs by way of the browser's cache.
//
// A model is one folder. In the cache it is a manifest and parts of PART bytes a file: what has arrived of a download that
// broke off is there the next time, and is resumed by a range request.
import { MambaError } from './error.js';

const CACHE = 'mamba-wgpu-1';
const PART = 8 << 20;
const ATTEMPTS = 4;
const WEIGHTS = 'model.safetensors';
const INDEX = 'model.safetensors.index.json';
/** What a folder may have beside the weights, and what is asked for only where there is no tokenizer.json. */
const OPTIONAL = ['tokenizer.json', 'generation_config.json', 'tokenizer_config.json'];
const WITHOUT_TOKENIZER = ['vocab.json', 'merges.txt', 'added_tokens.json', 'special_tokens_map.json'];

/** @typedef {{ begin(name: string, bytes: number): void, append(chunk: Uint8Array): void }} Sink */

/**
 * Fills a sink. Gives the model's name for messages, and what forgets a cached copy (false where there was none).
 *
 * @param {Sink} files
 * @param {string | File[] | { name?: string, files: Record<string, Blob | ArrayBuffer | Uint8Array> }} source
 */
export function fill(files, source, options) {
  if (typeof source === 'string') return fillFromUrl(files, folderUrl(source), options);
  const list = Array.isArray(source) ? source.map((file) => [file.name, file]) : Object.entries(source.files);
  return fillFromFiles(files, list, Array.isArray(source) ? folderName(source) : (source.name ?? 'memory'), options);
}

/** A folder's URL: as given, or where Hugging Face keeps the files of the page that was given. */
export function folderUrl(text) {
  const url = new URL(text);
  const [, owner, name, kind, ...rest] = url.pathname.split('/');
  if (url.hostname === 'huggingface.co' && owner && name && (!kind || kind === 'tree')) {
    return `${url.origin}/${owner}/${name}/resolve/${rest.filter(Boolean).join('/') || 'main'}/`;
  }
  url.hash = '';
  url.search = '';
  // A file of the folder stands for the folder.
  url.pathname = url.pathname.replace(/\/[^/]*\.(json|safetensors)$/, '/').replace(/\/?$/, '/');
  return url.href;
}

const folderName = (list) => list[0]?.webkitRelativePath?.split('/')[0] || 'files';

const pickle = (name) => /\.(bin|pt|pth|ckpt)$/.test(name);
const noWeights = (where, pickles) =>
  new MambaError(
    'unusable-model',
    `${where}: no ${WEIGHTS} ${pickles ? 'but Python pickles, which cannot be read here: convert them to safetensors' : 'there'}`,
  );

/** The weights among names, by the rules of the crate's Checkpoint::open. */
function pickWeights(names, shards, where) {
  if (names.includes(WEIGHTS)) return [WEIGHTS];
  if (shards) {
    const missing = shards.find((name) => !names.includes(name));
    if (missing) throw new MambaError('unusable-model', `${where}: ${INDEX} names ${missing}, which is not there`);
    return shards;
  }
  const others = names.filter((name) => name.endsWith('.safetensors'));
  if (others.length > 1) throw new MambaError('unusable-model', `${where}: ${others.length} .safetensors files and no ${INDEX}`);
  if (!others.length) throw noWeights(where, names.some(pickle));
  return others;
}

/** The shards that an index names. */
function shardsOf(json, where) {
  let map;
  try {
    map = JSON.parse(json).weight_map;
  } catch {
    map = null;
  }
  const shards = [...new Set(Object.values(map ?? {}))].sort();
  if (!shards.length || shards.some((name) => typeof name !== 'string' || /[/\\:]/.test(name))) {
    throw new MambaError('unusable-model', `${where}: ${INDEX} is no list of shards`);
  }
  return shards;
}

async function fillFromFiles(files, list, name, { onProgress, signal }) {
  const all = new Map(list.map(([file, content]) => [file, content instanceof Blob ? content : new Blob([content])]));
  const shards = all.has(INDEX) ? shardsOf(await all.get(INDEX).text(), name) : null;
  const weights = pickWeights([...all.keys()], shards, name);
  const wanted = [...['config.json', ...OPTIONAL, ...WITHOUT_TOKENIZER].filter((file) => all.has(file)), ...weights];
  const total = wanted.reduce((sum, file) => sum + all.get(file).size, 0);
  let loaded = 0;
  for (const file of wanted) {
    files.begin(file, all.get(file).size);
    const reader = all.get(file).stream().getReader();
    for (let chunk; !(chunk = await reader.read()).done; ) {
      signal?.throwIfAborted();
      files.append(chunk.value);
      loaded += chunk.value.length;
      onProgress?.({ stage: 'read', file, loaded, total });
    }
  }
  return { name, forget: async () => false };
}

/** What is stored of a model; without a cache, or where the browser keeps none, nothing ever is. */
class Store {
  static async open(folder, wanted) {
    let cache = null;
    try {
      // Absent outside secure contexts, refused in some private windows.
      cache = wanted ? await globalThis.caches?.open(CACHE) : null;
    } catch {}
    const store = new Store(cache, folder);
    const manifest = await cache?.match(store.#key('manifest'));
    store.manifest = (await manifest?.json().catch(() => null)) ?? { folder, complete: false, files: {} };
    return store;
  }

  constructor(cache, folder) {
    this.cache = cache;
    this.folder = folder;
  }

  #key(what, file = '') {
    return `${this.folder}${file}?mamba-wgpu=${what}`;
  }

  /** A file's stored part, or null. */
  async part(file, i) {
    const part = await this.cache?.match(this.#key(i, file));
    return part ? new Uint8Array(await part.arrayBuffer()) : null;
  }

  /** Stores a part. Where there is no room, the model goes on without. */
  async put(file, i, bytes) {
    if (!this.cache) return;
    try {
      await this.cache.put(this.#key(i, file), new Response(bytes));
      this.manifest.files[file].parts = i + 1;
      await this.#save();
    } catch {
      await this.forget();
      this.cache = null;
    }
  }

  async #save() {
    await this.cache?.put(this.#key('manifest'), Response.json(this.manifest));
  }

  async complete() {
    this.manifest.complete = true;
    await this.#save();
  }

  async forget() {
    if (!this.cache) return false;
    for (const [file, { parts }] of Object.entries(this.manifest.files)) {
      for (let i = 0; i < parts; i++) await this.cache.delete(this.#key(i, file));
    }
    this.manifest = { folder: this.folder, complete: false, files: {} };
    return this.cache.delete(this.#key('manifest'));
  }
}

/** The models in the cache, whole or in part. */
export async function cachedModels() {
  const cache = await globalThis.caches?.open(CACHE).catch(() => null);
  const keys = (await cache?.keys()) ?? [];
  const manifests = await Promise.all(
    keys.filter(({ url }) => url.endsWith('?mamba-wgpu=manifest')).map(async (key) => (await cache.match(key)).json()),
  );
  return manifests.map(({ folder, complete, files }) => {
    const sizes = Object.values(files).map(({ bytes, parts }) => Math.min(bytes, parts * PART));
    return { url: folder, complete, bytes: sizes.reduce((a, b) => a + b, 0) };
  });
}

/** Deletes a model from the cache; false if it was not there. */
export async function deleteCachedModel(url) {
  return (await Store.open(folderUrl(url), true)).forget();
}

async function fillFromUrl(files, folder, { cache, onProgress, signal }) {
  const store = await Store.open(folder, cache);
  const progress = { loaded: 0, total: 0, cached: 0 };
  const transfer = { files, store, onProgress, signal, progress, folder };
  const name = decodeURIComponent(folder.replace(/\/(resolve\/main\/)?$/, '').split('/').pop() || folder);
  if (store.manifest.complete) {
    const known = Object.keys(store.manifest.files);
    progress.total = known.reduce((sum, file) => sum + store.manifest.files[file].bytes, 0);
    for (const file of known) await fetchFile(transfer, file);
    return { name, forget: () => store.forget() };
  }
  await fetchFile(transfer, 'config.json');
  for (const file of OPTIONAL) await fetchFile(transfer, file, { optional: true });
  if (!store.manifest.files['tokenizer.json']) {
    for (const file of WITHOUT_TOKENIZER) await fetchFile(transfer, file, { optional: true });
  }
  if (!(await fetchFile(transfer, WEIGHTS, { optional: true }))) {
    const index = await get(`${folder}${INDEX}`, { signal });
    if (index.status === 404) {
      const pickles = await get(`${folder}pytorch_model.bin`, { method: 'HEAD', signal }).catch(() => null);
      throw noWeights(folder, pickles?.ok);
    }
    for (const shard of shardsOf(await index.text(), folder)) await fetchFile(transfer, shard);
  }
  await store.complete();
  return { name, forget: () => store.forget() };
}

/** fetch, whose failures say what and why in words. */
async function get(url, options) {
  let response;
  try {
    response = await fetch(url, options);
  } catch (error) {
    if (options.signal?.aborted) throw error;
    const why = 'no connection, or the server does not let other pages read it (CORS)';
    throw new MambaError('download', `${url}: ${why}`);
  }
  if (!response.ok && response.status !== 404) {
    throw new MambaError('download', `${url}: the server answered ${response.status} ${response.statusText}`.trim());
  }
  return response;
}

const wait = (ms, signal) =>
  new Promise((resolve, reject) => {
    setTimeout(resolve, ms);
    signal?.addEventListener('abort', () => reject(signal.reason), { once: true });
  });

/** One file: the parts that are stored, then the rest from the network. False if it is optional and not there. */
async function fetchFile({ files, store, onProgress, signal, progress, folder }, file, { optional = false } = {}) {
  const url = `${folder}${file}`;
  const before = progress.loaded;
  const entry = (store.manifest.files[file] ??= { bytes: 0, parts: 0, etag: null });
  const tell = (stage, retry) => onProgress?.({ stage, file, ...progress, retry });
  let received = 0;
  /** Bytes since the last whole part. */
  let tail = [];
  let tailBytes = 0;
  const take = (chunk, stage) => {
    files.append(chunk);
    received += chunk.length;
    progress.loaded = before + received;
    progress.total = Math.max(progress.total, progress.loaded);
    tell(stage);
  };

  // From the cache.
  if (entry.parts) {
    files.begin(file, entry.bytes);
    for (let i = 0; i < entry.parts && received < entry.bytes; i++) {
      signal?.throwIfAborted();
      const part = await store.part(file, i);
      if (part?.length !== Math.min(PART, entry.bytes - received)) {
        entry.parts = i; // evicted: from here on by the network
        break;
      }
      progress.cached += part.length;
      take(part, 'cache');
    }
    if (received === entry.bytes) return true;
  }

  // From the network, at several goes.
  const keep = async (last) => {
    if (!tailBytes || (!last && tailBytes < PART)) return;
    const bytes = new Uint8Array(await new Blob(tail).arrayBuffer());
    let at = 0;
    for (; bytes.length - at >= PART || (last && at < bytes.length); at += PART) {
      await store.put(file, entry.parts, bytes.subarray(at, at + PART));
      if (!store.cache) break;
    }
    tail = [bytes.subarray(at)];
    tailBytes = Math.max(0, bytes.length - at);
  };
  for (let attempt = 1; ; attempt++) {
    try {
      const headers = received ? { Range: `bytes=${received}-`, ...(entry.etag && { 'If-Range': entry.etag }) } : {};
      const response = await get(url, { headers, signal, cache: 'no-store' });
      if (response.status === 404) {
        delete store.manifest.files[file];
        if (optional) return false;
        throw new MambaError('unusable-model', `${url}: there is no such file (404)`);
      }
      if (response.status !== 206) {
        // A server without ranges, or another file by now: from the begin.
        [received, tail, tailBytes, entry.parts] = [0, [], 0, 0];
        progress.loaded = before;
        const length = Number(response.headers.get('content-length')) || 0;
        entry.bytes = length;
        entry.etag = response.headers.get('etag');
        progress.total = Math.max(progress.total, before + length);
        files.begin(file, length);
      }
      const reader = response.body.getReader();
      for (let chunk; !(chunk = await reader.read()).done; ) {
        take(chunk.value, 'download');
        if (store.cache) {
          tail.push(chunk.value);
          tailBytes += chunk.value.length;
          await keep(false);
        }
      }
      entry.bytes = received; // a compressed answer announces another length
      await keep(true);
      return true;
    } catch (error) {
      if (signal?.aborted || error.code === 'unusable-model' || error.code === 'page-memory') throw error;
      if (attempt === ATTEMPTS) {
        if (error.code === 'download') throw error;
        throw new MambaError('download', `${url}: the download broke off after ${received} bytes (${error.message})`);
      }
      tell('retry', attempt);
      await wait(250 * 2 ** attempt, signal);
    }
  }
}
