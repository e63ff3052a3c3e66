// What is kept of models in the browser's cache. A model is a manifest and, for each file, parts of PART bytes. The manifest
// says of every file by what it is known on its server, and whether the whole has been loaded as a model once (`complete`).

const CACHE = 'mamba-wgpu-2';
/** Of versions whose manifests do not say which model a file belongs to. */
const FORMER = ['mamba-wgpu-1'];
export const PART = 8 << 20;

/**
 * A file: what identifies it on its server, what is stored of it, and whether all of it came.
 *
 * @typedef {{ etag: string | null, modified: string | null, size: number | null, print: number | null, pinned: boolean,
 *   bytes: number, parts: number, done: boolean }} Entry
 * @typedef {{ folder: string, id: string, base: string | null, complete: boolean, files: Record<string, Entry>,
 *   missing: string[] }} Manifest
 */

/** @returns {Promise<Cache | null>} null outside secure contexts, and in private windows that refuse it */
async function openCache() {
  try {
    return (await globalThis.caches?.open(CACHE)) ?? null;
  } catch {
    return null;
  }
}

/** What is stored of one model; without a cache, or where the browser keeps none, nothing ever is. */
export class Store {
  static async open(folder, wanted = true) {
    const store = new Store(wanted ? await openCache() : null, folder);
    if (store.cache) for (const name of FORMER) await globalThis.caches.delete(name).catch(() => false);
    const manifest = await store.cache?.match(store.#key('manifest'));
    store.manifest = (await manifest?.json().catch(() => null)) ?? store.#nothing();
    return store;
  }

  constructor(cache, folder) {
    this.cache = cache;
    this.folder = folder;
    this.manifest = this.#nothing();
  }

  /** @returns {Manifest} */
  #nothing() {
    // Parts carry the id, so that those of a download that was given up, or of another tab's, are never taken for this one's.
    const id = Math.random().toString(36).slice(2);
    return { folder: this.folder, id, base: null, complete: false, files: {}, missing: [] };
  }

  #key(what, file = '') {
    return `${this.folder}${file}?mamba-wgpu=${what}`;
  }

  /** @returns {Entry} */
  entry(file) {
    const nothing = { etag: null, modified: null, size: null, print: null, pinned: false, bytes: 0, parts: 0, done: false };
    return (this.manifest.files[file] ??= nothing);
  }

  /** A file's stored part, or null. */
  async part(file, i) {
    const part = await this.cache?.match(this.#key(`${this.manifest.id}-${i}`, file));
    return part ? new Uint8Array(await part.arrayBuffer()) : null;
  }

  /** Stores a file's next part. Where there is no room, the model goes on without. */
  async put(file, bytes) {
    const entry = this.entry(file);
    await this.#write(async (cache) => {
      await cache.put(this.#key(`${this.manifest.id}-${entry.parts}`, file), new Response(bytes));
      entry.parts++;
    });
  }

  /** Writes down what the manifest says by now. */
  save() {
    return this.#write(async () => {});
  }

  async #write(work) {
    if (!this.cache) return;
    try {
      await work(this.cache);
      await this.cache.put(this.#key('manifest'), Response.json(this.manifest));
    } catch {
      // What the manifest says of the files is still of use while they come.
      await this.#sweep().catch(() => 0);
      this.cache = null;
    }
  }

  /** The model has been loaded: the next visit may take it as it is. */
  async keep() {
    this.manifest.complete = true;
    await this.save();
  }

  /** Deletes everything that is stored of this folder. True if there was anything. */
  async forget() {
    this.manifest = this.#nothing();
    return (await this.#sweep()) > 0;
  }

  async #sweep() {
    const ours = (url) => url.startsWith(this.folder) && /^[^/]*\?mamba-wgpu=/.test(url.slice(this.folder.length));
    const keys = ((await this.cache?.keys()) ?? []).filter(({ url }) => ours(url));
    for (const key of keys) await this.cache.delete(key);
    return keys.length;
  }
}

/** The models in the cache, whole or in part. */
export async function cachedModels() {
  const cache = await openCache();
  const keys = (await cache?.keys()) ?? [];
  const manifests = await Promise.all(
    keys.filter(({ url }) => url.endsWith('?mamba-wgpu=manifest')).map(async (key) => (await cache?.match(key))?.json()),
  );
  return manifests.filter(Boolean).map(({ folder, complete, files }) => {
    const sizes = Object.values(files).map(({ bytes, parts, done }) => (done ? bytes : parts * PART));
    return { url: folder, complete, bytes: sizes.reduce((a, b) => a + b, 0) };
  });
}
