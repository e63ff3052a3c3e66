// From a URL or from the user's files to bytes in wasm memory, chunk by chunk; URLs by way of the browser's cache.
//
// A model is one folder, and the text must be one model's: old files and new ones never meet. Every file is known by its
// validators and its size, or by its bytes where a server shows neither; at the end, those that came first are asked for
// again, and a change anywhere starts the folder anew. transfer.js fetches one file, store.js keeps them.
import { MambaError } from './error.js';
import { Store } from './store.js';
import { answersAnything, appeared, Changed, commitOf, fetchFile, Impostor, insist, probe, unchanged } from './transfer.js';

export { cachedModels } from './store.js';

/** What is taken of a folder beside the weights. All but the first may be missing. */
const FILES = [
  'config.json',
  'generation_config.json',
  'tokenizer.json',
  'tokenizer_config.json',
  'vocab.json',
  'merges.txt',
  'special_tokens_map.json',
  'added_tokens.json',
];
/** Of those, what says the same as a tokenizer.json, and is asked for where there is none. */
const INSTEAD = ['vocab.json', 'merges.txt', 'added_tokens.json'];
const WEIGHTS = 'model.safetensors';
const INDEX = 'model.safetensors.index.json';

/** How often a folder is begun anew before it is said that it keeps changing. */
const ROUNDS = 3;
/** Milliseconds that a copy waits for the server to say whether it is still the same. */
const LIMIT = 3000;

/** @typedef {{ clear(): void, begin(name: string, bytes: number): void, append(chunk: Uint8Array): void }} Sink */
/** @typedef {{ cache?: boolean, refresh?: boolean, onProgress?: Function, signal?: AbortSignal, pause?: number, stall?: number }} Options */

/**
 * Fills a sink. Gives the model's name for messages, and two functions: `keep`, to be called once the model has been made of
 * these files, and `forget`, which removes what is stored of it (false where there was nothing).
 *
 * @param {Sink} files
 * @param {string | File[] | { name?: string, files: Record<string, Blob | ArrayBuffer | Uint8Array> }} source
 * @param {Options} [options]
 */
export function fill(files, source, options = {}) {
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

/** Deletes a model from the cache; false if it was not there. */
export async function deleteCachedModel(url) {
  return (await Store.open(folderUrl(url))).forget();
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

/** @param {Sink} files @param {[string, any][]} list @param {string} name @param {Options} options */
async function fillFromFiles(files, list, name, { onProgress, signal }) {
  const all = new Map(list.map(([file, content]) => [file, content instanceof Blob ? content : new Blob([content])]));
  const shards = all.has(INDEX) ? shardsOf(await all.get(INDEX).text(), name) : null;
  const weights = pickWeights([...all.keys()], shards, name);
  const wanted = [...FILES.filter((file) => all.has(file) && !(INSTEAD.includes(file) && all.has('tokenizer.json'))), ...weights];
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
  return { name, keep: async () => {}, forget: async () => false };
}

/**
 * @param {Sink} files
 * @param {string} folder
 * @param {Options} options
 */
async function fillFromUrl(files, folder, { cache = true, refresh = false, onProgress, ...rest }) {
  const store = await Store.open(folder, cache);
  const progress = { loaded: 0, total: 0, cached: 0 };
  const tell = (stage, file, retry) => onProgress?.({ stage, file, ...progress, retry });
  const job = { store, progress, tell, folder, files, ...rest };
  if (refresh) {
    // Where the server cannot be reached, the copy stays.
    if (!(await insist(job, () => probe(job, `${folder}config.json`, ({ ok }) => ok)))) throw unreachable(`${folder}config.json`);
    await store.forget();
  }
  for (let round = 1; ; round++) {
    try {
      await (store.manifest.complete ? takeCopy(job) : takeFolder(job));
      break;
    } catch (error) {
      if (error instanceof MambaError && error.code === 'unusable-model') await store.forget();
      if (!(error instanceof Changed)) throw error;
      await store.forget();
      if (round === ROUNDS) throw new MambaError('download', `${folder}: the model on the server keeps changing while it is fetched (${error.message})`);
      files.clear();
      Object.assign(progress, { loaded: 0, total: 0, cached: 0 });
    }
  }
  const name = decodeURIComponent(folder.replace(/\/(resolve\/[^/]+\/)?$/, '').split('/').pop() || folder);
  return { name, keep: () => store.keep(), forget: () => store.forget() };
}

const unreachable = (url) => new MambaError('download', `${url}: the server cannot be asked whether it is still the same model`);

/** The commit at whose address a folder is, if it is one of Hugging Face's: what is there never changes. */
const pinnedTo = (folder) => /\/resolve\/([0-9a-f]{40})\/$/.exec(folder ?? '')?.[1];

/** Whether files are on the server as they were fetched, and others still missing. Null: there is no telling. */
async function asBefore(job, known, missing) {
  const answers = await Promise.all([
    ...known.map((file) => unchanged(job, file, `${job.folder}${file}`)),
    ...missing.map(async (file) => !(await appeared(job, `${job.folder}${file}`))),
  ]);
  return answers.includes(false) ? false : answers.includes(null) ? null : true;
}

/** Whether the folder is still at the commit that its files came from; null without one. */
async function atCommit(job) {
  const commit = pinnedTo(job.store.manifest.base);
  const now = commit && (await probe(job, `${job.folder}config.json`, commitOf));
  return now ? now === commit : null;
}

/** The server is asked, whatever it takes, whether all that was fetched is still there, and of the commit that the rest is of. */
async function prove(job, known, missing) {
  const { base, files } = job.store.manifest;
  const there = { ...job, folder: base ?? job.folder };
  const verdict = await insist(job, () => asBefore(there, known.filter((file) => !files[file].pinned), missing));
  if (verdict === false) throw new Changed('another by the time that the last file had come');
  if (verdict === null) throw unreachable(job.folder);
}

/** A model that has been loaded before: as it is stored, unless the server says in time that it has another by now. */
async function takeCopy(job) {
  const { store, folder, progress } = job;
  const { files, missing } = store.manifest;
  const known = Object.keys(files);
  const limit = new AbortController();
  const timer = setTimeout(() => limit.abort(), LIMIT);
  const ask = async () => {
    if (pinnedTo(folder) || globalThis.navigator?.onLine === false) return null;
    const timed = { ...job, signal: limit.signal };
    return (await atCommit(timed)) || asBefore(timed, known, missing);
  };
  try {
    const asked = ask();
    progress.total = known.reduce((sum, file) => sum + files[file].bytes, 0);
    for (const file of known) await take(job, file);
    if ((await asked) === false) throw new Changed('another than the copy in the browser');
  } finally {
    clearTimeout(timer);
    limit.abort();
  }
  // Something had been evicted, and has come anew.
  if (progress.cached < progress.loaded) await prove(job, known, missing);
}

/** A model that is not here, or not yet whole. */
async function takeFolder(job) {
  const { store, folder } = job;
  const { manifest } = store;
  // What is stored of a download that broke off, if it can be known again and the server still has it.
  for (const [file, { etag, pinned }] of Object.entries(manifest.files)) if (!etag && !pinned) delete manifest.files[file];
  const stored = Object.keys(manifest.files);
  if (stored.length && !pinnedTo(folder)) {
    const same = (await atCommit(job)) ?? (await asBefore(job, stored.filter((file) => !manifest.files[file].pinned), []));
    if (same === false) throw new Changed('another than the part that is here');
  }

  const missing = await takeSmall(job, FILES.filter((file) => !INSTEAD.includes(file)));
  if (missing.includes(FILES[0])) throw new MambaError('unusable-model', `${folder}${FILES[0]}: there is no such file (404)`);
  if (missing.includes('tokenizer.json')) missing.push(...(await takeSmall(job, INSTEAD)));
  await takeWeights(job);
  manifest.missing = missing;
  await prove(job, Object.keys(manifest.files), missing);
}

/** A file of the folder straight to the sink; false if there is none. */
function take(job, file) {
  const { files, store, folder } = job;
  if (file === INDEX) return takeBytes(job, file);
  const base = store.manifest.base ?? folder;
  let [size, begun] = [0, false];
  const begin = (bytes) => ([size, begun] = [bytes, false]);
  const append = (chunk) => {
    if (!begun) files.begin(file, size);
    begun = true;
    files.append(chunk);
  };
  return fetchFile(job, file, `${base}${file}`, { begin, take: append, pinned: Boolean(pinnedTo(base)) });
}

/** A file's bytes, null if there is none. */
async function takeBytes(job, file) {
  const { store, folder } = job;
  /** @type {Uint8Array[]} */
  let chunks = [];
  const answered = (response) => {
    const commit = commitOf(response);
    if (!commit || !/\/resolve\/[^/]+\/$/.test(folder)) return;
    // The rest comes from the commit's own address.
    const base = folder.replace(/[^/]+\/$/, `${commit}/`);
    if ((store.manifest.base ??= base) !== base) throw new Changed('at another commit by now');
    store.entry(file).pinned = true;
  };
  const sink = { begin: () => (chunks = []), take: (chunk) => chunks.push(chunk), pinned: Boolean(pinnedTo(folder)), answered };
  const got = await fetchFile(job, file, `${folder}${file}`, sink);
  return got && new Uint8Array(await new Blob(/** @type {BlobPart[]} */ (chunks)).arrayBuffer());
}

/** Small files, all at once, to the sink. Those that are missing. */
async function takeSmall(job, names) {
  const { files, store, folder } = job;
  const results = await Promise.allSettled(
    names.map(async (file) => {
      try {
        return await takeBytes(job, file);
      } catch (error) {
        // Some servers have a web page for whatever they do not have.
        const optional = file !== FILES[0] && file !== 'tokenizer.json';
        if (!optional || !(error instanceof Impostor) || !(await answersAnything(job, folder))) throw error;
        delete store.manifest.files[file];
        return null;
      }
    }),
  );
  const failures = results.flatMap((result) => (result.status === 'rejected' ? [result.reason] : []));
  if (failures.length) throw failures.find((error) => error instanceof Changed) ?? failures[0];
  return names.filter((file, i) => {
    const bytes = /** @type {PromiseFulfilledResult<Uint8Array | null>} */ (results[i]).value;
    if (!bytes) return true;
    files.begin(file, bytes.length);
    files.append(bytes);
    return false;
  });
}

/** The weights: one file, or the shards that an index names. */
async function takeWeights(job) {
  const { folder, store } = job;
  let page = /** @type {Impostor | null} */ (null);
  const whole = await take(job, WEIGHTS).catch((error) => {
    if (!(error instanceof Impostor)) throw error;
    // As above: there may be shards.
    page = error;
    delete store.manifest.files[WEIGHTS];
    return false;
  });
  if (whole) return;
  const index = await takeBytes(job, INDEX).catch((error) => {
    throw page ?? error;
  });
  if (!index) throw page ?? noWeights(folder, await probe(job, `${folder}pytorch_model.bin`, ({ ok }) => ok));
  for (const shard of shardsOf(new TextDecoder().decode(index), folder)) {
    if (await take(job, shard)) continue;
    throw new MambaError('download', `${folder}${shard}: there is no such file (404), and ${INDEX} names it`);
  }
}
