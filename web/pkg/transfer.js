// One file over HTTP. Nothing that a server says is believed that can be checked: ranges, lengths, types, and that it is
// still the same file.
import { Contents } from './contents.js';
import { MambaError } from './error.js';
import { PART } from './store.js';

/** How often in a row, without a byte more, before a download is given up. */
const ATTEMPTS = 4;
/** Milliseconds without a byte after which a connection is given up. */
const STALL = 30_000;
/** Milliseconds before the second attempt; twice as long before each one after it. */
const PAUSE = 500;
/** Milliseconds that a server may ask to be waited for. */
const PATIENCE = 60_000;

/** Bytes that tell a web page from a model's files. */
const SNIFF = 16;

/** A file on the server is no longer the one that was fetched: what has been fetched of the folder is of no use. */
export class Changed extends Error {}
/** A connection that broke off, or an answer that another attempt may better. */
class Broken extends Error {}
/** Something else in a file's place. */
export class Impostor extends MambaError {}

/**
 * What files are fetched for.
 *
 * @typedef {{ store: import('./store.js').Store, signal?: AbortSignal, pause?: number, stall?: number,
 *   progress: { loaded: number, total: number, cached: number }, tell(stage: string, file: string, retry?: number): void }} Job
 */

const missing = (status) => status === 404 || status === 410;
const passes = (status) => status === 408 || status === 425 || status === 429 || status >= 500;
const seconds = (ms) => `${Math.ceil(ms / 1000)} s`;

/** @param {Response} response */
function refusal(response) {
  const { status, statusText } = response;
  const answer = `the server answered ${status} ${statusText}`.trim();
  if (!passes(status)) {
    const private_ = status === 401 || status === 403 ? ': the model may be private, or ask for its terms to be accepted first' : '';
    return new MambaError('download', `${response.url}: ${answer}${private_}`);
  }
  const after = response.headers.get('retry-after') ?? '';
  const ms = /^\d+$/.test(after) ? 1000 * Number(after) : Date.parse(after) - Date.now();
  if (ms > PATIENCE) return new MambaError('download', `${response.url}: ${answer}, and asks to wait for ${seconds(ms)}`);
  return Object.assign(new Broken(answer), { after: ms > 0 ? ms : 0 });
}

/**
 * An answer that has begun to come, and the clock that ends it where nothing more does. Those of 4xx and 5xx that are no
 * answer are errors.
 *
 * @param {Job} job
 * @param {string} url
 * @param {RequestInit} [options]
 */
async function ask({ signal, stall = STALL }, url, options) {
  const stop = new AbortController();
  const cancel = () => stop.abort(signal?.reason);
  signal?.throwIfAborted();
  signal?.addEventListener('abort', cancel, { once: true });
  let timer;
  const alive = () => {
    clearTimeout(timer);
    timer = setTimeout(() => stop.abort(new Broken(`nothing came for ${seconds(stall)}`)), stall);
  };
  const end = () => {
    clearTimeout(timer);
    signal?.removeEventListener('abort', cancel);
    // What is not read is not sent any more.
    stop.abort();
  };
  try {
    alive();
    const response = await fetch(url, { cache: 'no-store', ...options, signal: stop.signal });
    if (!response.ok && !missing(response.status) && response.status !== 416) throw refusal(response);
    return { response, chunks: () => chunks(response, stop.signal, alive), end };
  } catch (error) {
    const why = signal?.aborted ? signal.reason : stop.signal.aborted ? stop.signal.reason : error;
    end();
    if (why === error && error instanceof TypeError) throw new Broken('no connection, or the server does not let other pages read it (CORS)');
    throw why;
  }
}

async function* chunks(response, signal, alive) {
  const reader = response.body?.getReader();
  try {
    for (let chunk; reader && !(chunk = await reader.read()).done; ) {
      alive();
      yield /** @type {Uint8Array} */ (chunk.value);
    }
  } catch (error) {
    // Some browsers give their own error in place of the signal's reason.
    throw signal.aborted ? signal.reason : new Broken(error instanceof Error ? error.message : String(error));
  } finally {
    reader?.cancel().catch(() => {});
  }
}

/** @returns {{ start: number, end: number, total: number | null } | null} */
function rangeOf(response) {
  const found = /^bytes (\d+)-(\d+)\/(\d+|\*)$/.exec(response.headers.get('content-range') ?? '');
  return found && { start: Number(found[1]), end: Number(found[2]), total: found[3] === '*' ? null : Number(found[3]) };
}

/** By what an answer identifies its file. A compressed one announces another length than the file's. */
function identify(response, range) {
  const { headers } = response;
  const length = headers.has('content-encoding') ? null : Number(headers.get('content-length')) || null;
  const size = range ? range.total : response.status === 206 ? null : length;
  return { etag: headers.get('etag'), modified: headers.get('last-modified'), size };
}

const strong = (etag) => Boolean(etag) && !etag.startsWith('W/');
const bare = (etag) => etag.replace(/^W\//, '');
const differ = (a, b) => a !== null && b !== null && a !== b;

/** True: the same file by its validators; false: another; null: they do not say. */
function sameFile(was, now) {
  if (differ(was.size, now.size)) return false;
  if (was.etag && now.etag) return bare(was.etag) === bare(now.etag);
  return differ(was.modified, now.modified) ? false : null;
}

/** The commit that a Hugging Face server answers from: by a header, or by where it led to. */
export const commitOf = ({ headers, url }) =>
  /^[0-9a-f]{40}$/.exec(headers.get('x-repo-commit') ?? '')?.[0] ?? /\/resolve-cache\/.*?\/([0-9a-f]{40})\//.exec(url)?.[1] ?? null;

/** Cuts what comes into parts, and stores them. */
class Parts {
  #store;
  #file;
  /** @type {Uint8Array | null} */
  #buffer = null;
  #filled = 0;

  constructor(store, file) {
    [this.#store, this.#file] = [store, file];
  }
  async add(chunk) {
    for (let at = 0; at < chunk.length && this.#store.cache; ) {
      this.#buffer ??= new Uint8Array(PART);
      const n = Math.min(PART - this.#filled, chunk.length - at);
      this.#buffer.set(chunk.subarray(at, at + n), this.#filled);
      this.#filled += n;
      at += n;
      if (this.#filled === PART) await this.flush();
    }
  }
  async flush() {
    if (this.#buffer && this.#filled) await this.#store.put(this.#file, this.#buffer.subarray(0, this.#filled));
    this.#filled = 0;
  }
}

/** @param {number} ms @param {AbortSignal} [signal] */
const wait = (ms, signal) =>
  new Promise((resolve, reject) => {
    const cancel = () => {
      clearTimeout(timer);
      reject(signal?.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener('abort', cancel);
      resolve(undefined);
    }, ms);
    signal?.addEventListener('abort', cancel, { once: true });
  });

/**
 * One file: what is stored of it, then the rest from the network. False if the server has no such file.
 *
 * @param {Job} job
 * @param {string} file
 * @param {string} url
 * @param {{ begin(bytes: number): void, take(chunk: Uint8Array): void, pinned?: boolean, answered?(response: Response): void }} to
 *   `begin` may come again: then all that was taken is void. `pinned`: what is at this address never changes.
 */
export async function fetchFile(job, file, url, { begin, take, pinned = false, answered }) {
  const { store, signal, progress } = job;
  const entry = store.entry(file);
  entry.pinned ||= pinned;
  let contents = new Contents(file);
  let parts = new Parts(store, file);
  let received = 0;
  const add = (chunk, stage, type) => {
    contents.feed(chunk);
    const sniffs = stage === 'download' && received < SNIFF && received + chunk.length >= SNIFF;
    if (sniffs) refuseImpostor(contents, type, file, url);
    take(chunk);
    received += chunk.length;
    progress.loaded += chunk.length;
    progress.total = Math.max(progress.total, progress.loaded);
    job.tell(stage, file);
  };

  // From the cache.
  if (!entry.done && !pinned && !strong(entry.etag)) entry.parts = 0;
  if (entry.parts || entry.done) {
    begin(entry.bytes);
    const stored = entry.parts;
    for (let i = 0; i < stored; i++) {
      signal?.throwIfAborted();
      const part = await store.part(file, i);
      if (part?.length !== (entry.done ? Math.min(PART, entry.bytes - received) : PART)) {
        // Evicted: from here on by the network.
        [entry.parts, entry.done] = [i, false];
        break;
      }
      progress.cached += part.length;
      add(part, 'cache');
    }
    if (entry.done && received === entry.bytes) return true;
    entry.done = false;
  }

  // From the network, at several goes.
  let [attempt, farthest, ranges] = [1, received, true];
  const restart = (identity) => {
    progress.loaded -= received;
    progress.cached = Math.min(progress.cached, progress.loaded);
    received = 0;
    [contents, parts] = [new Contents(file), new Parts(store, file)];
    Object.assign(entry, identity, { parts: 0, bytes: identity.size ?? 0, print: null });
    progress.total = Math.max(progress.total, progress.loaded + entry.bytes);
    begin(entry.bytes);
  };
  const finish = async () => {
    entry.bytes = received;
    if (!entry.etag) entry.print = contents.print();
    await parts.flush();
    entry.done = true;
    await store.save();
    return true;
  };
  for (;;) {
    const resumes = received > 0 && ranges && (pinned || strong(entry.etag));
    let answer;
    try {
      answer = await ask(job, url, resumes ? { headers: { Range: `bytes=${received}-` } } : {});
      const { response } = answer;
      if (missing(response.status)) {
        if (received) throw new Changed(`${url} is gone`);
        delete store.manifest.files[file];
        return false;
      }
      answered?.(response);
      const range = rangeOf(response);
      const now = identify(response, range);
      const start = whereItStarts(response, range, resumes ? received : 0, entry, now, pinned);
      if (!pinned && sameFile(entry, now) === false) throw new Changed(`${url} is another file by now`);
      if (start === null || (start > 0 && !resumes)) {
        ranges = false;
        throw new Broken('the answer is a part of the file that was not asked for');
      }
      if (start === 0) restart(now);
      // Where an answer is compressed, places in it are not places in the file.
      if (response.headers.has('content-encoding')) ranges = false;
      const type = response.headers.get('content-type');
      const begins = received;
      for await (const chunk of answer.chunks()) {
        add(chunk, 'download', type);
        await parts.add(chunk);
        if (received > farthest + PART) [farthest, attempt] = [received, 1];
      }
      refuseImpostor(contents, type, file, url);
      if (isWhole(contents, received, entry, range)) return await finish();
      // Where the file itself says that there is more, the announced length was none.
      if (contents.need !== null && received >= (entry.size ?? Infinity)) entry.size = null;
      // A server that answers in slices is asked for the next.
      if (resumes && range && received === range.end + 1 && received > begins) continue;
      const of = contents.need ?? range?.total ?? entry.size;
      throw new Broken(received === of ? 'it is no JSON: cut short, or damaged' : `it ended after ${received} bytes${of ? ` of ${of}` : ''}`);
    } catch (error) {
      if (signal?.aborted) throw signal.reason;
      if (!(error instanceof Broken)) throw error;
      // Some break off where all has come.
      if (received && contents.whole(received)) return await finish();
      if (attempt === ATTEMPTS) {
        const so_far = received ? ` (${received} bytes had come)` : '';
        throw new MambaError('download', `${url}: ${error.message}${so_far}`);
      }
      // Another origin may refuse requests for parts, which then fail without an answer.
      if (!answer && attempt === ATTEMPTS - 1) ranges = false;
      job.tell('retry', file, attempt);
      await wait(Math.max(/** @type {any} */ (error).after ?? 0, (job.pause ?? PAUSE) * 2 ** (attempt - 1)), signal);
      attempt++;
    } finally {
      answer?.end();
    }
  }
}

/** Where an answer's bytes belong: at 0, at `wanted`, or null if it is neither or the answer contradicts itself. */
function whereItStarts(response, range, wanted, entry, now, pinned) {
  if (response.status === 416) return null;
  const whole = range && range.start === 0 && (range.total === null || range.end + 1 === range.total);
  if (response.status !== 206) return !range || whole ? 0 : null;
  if (whole) return 0;
  if (!wanted) return null;
  // A validator that does not come along with the part does not vouch for it.
  if (!pinned && !(strong(now.etag) && now.etag === entry.etag)) return null;
  if (range) return range.start === wanted && range.end >= wanted ? wanted : null;
  // Another origin's Content-Range is often hidden; its length is not.
  return entry.size !== null && Number(response.headers.get('content-length')) === entry.size - wanted ? wanted : null;
}

function refuseImpostor(contents, type, file, url) {
  const what = contents.impostor(type);
  if (what) throw new Impostor('download', `${url}: the server sent ${what} instead of ${file}`);
}

/** Whether all has come: by what the file says itself, else by the length announced, if one was. */
function isWhole(contents, received, entry, range) {
  const expected = range?.total ?? entry.size;
  if (received === expected && contents.need === null && contents.endsWell()) return true;
  const whole = contents.whole(received);
  return whole ?? (received > 0 && (expected === null || received >= expected));
}

/**
 * Whether a file on the server is still the one that was fetched; null if there is no telling.
 *
 * @param {Job} job
 * @param {string} file
 * @param {string} url
 */
export async function unchanged(job, file, url) {
  const entry = job.store.entry(file);
  for (const method of ['HEAD', 'GET']) {
    let answer;
    try {
      answer = await ask(job, url, { method });
      const { response } = answer;
      if (missing(response.status) || response.status === 416) continue;
      const same = sameFile(entry, identify(response, rangeOf(response)));
      const type = response.headers.get('content-type') ?? '';
      // A web page in its place, as of a network that wants a login first, is no other model.
      if (same || (same === false && !/^text\/html/i.test(type))) return same;
      if (method === 'HEAD') continue;
      const contents = new Contents(file);
      for await (const chunk of answer.chunks()) {
        contents.feed(chunk);
        if (!contents.wants()) break;
      }
      if (contents.impostor(type)) return null;
      return same ?? (entry.print === null ? null : contents.print() === entry.print);
    } catch {
      // A server may refuse HEAD alone.
    } finally {
      answer?.end();
    }
  }
  return null;
}

/** Whether the server has a file, after all, that it said it had not. A web page in its place is none. */
export async function appeared(job, url) {
  return probe(job, url, (response) => response.ok && !/^text\/html/i.test(response.headers.get('content-type') ?? ''));
}

/** Whether the server answers with a web page where it has nothing. */
export async function answersAnything(job, folder) {
  return probe(job, `${folder}no-such-file.json`, (response) => response.ok);
}

/** What is to be learnt from an answer's head; null without one. */
export async function probe(job, url, look) {
  let answer;
  try {
    answer = await ask(job, url, { method: 'HEAD' });
    return look(answer.response);
  } catch {
    return null;
  } finally {
    answer?.end();
  }
}

/** Tries again what answered null. */
export async function insist(job, work) {
  for (let attempt = 1; ; attempt++) {
    const found = await work();
    job.signal?.throwIfAborted();
    if (found !== null || attempt === ATTEMPTS) return found;
    await wait((job.pause ?? PAUSE) * 2 ** (attempt - 1), job.signal);
  }
}
