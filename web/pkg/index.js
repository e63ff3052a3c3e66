// Mamba for JavaScript. The work is done by host.js, in a worker of its own where there is a page to keep smooth; this
// file only sends messages to it. Types and comments for users: index.d.ts.
import { whyNot } from './diagnose.js';
import { MambaError } from './error.js';

export { MambaError };
export { cachedModels, deleteCachedModel } from './download.js';

/** Whether this browser offers WebGPU here at all. An adapter may still be missing. */
export const hasWebGPU = () => Boolean(globalThis.navigator?.gpu);

/** Which build this file is of: web/build.sh writes it here and into host.js. */
const BUILD = '__BUILD__';
/** Milliseconds after which a worker that has not said a word is looked into. */
const PATIENCE = 10_000;

/** Watches for what a page's Content-Security-Policy blocks. */
function watch() {
  let why = '';
  const note = ({ effectiveDirective, blockedURI }) => {
    why = `the Content-Security-Policy of this page blocks it (${effectiveDirective}, ${blockedURI})`;
  };
  globalThis.document?.addEventListener('securitypolicyviolation', note);
  return { why: () => why, end: () => globalThis.document?.removeEventListener('securitypolicyviolation', note) };
}

/** Why the browser cannot read what the worker runs: it does not say so of workers. */
const unreadable = () =>
  import('./host.js').then(
    () => '',
    (error) => `this browser is too old for it, or a file is damaged (${error})`,
  );

/** One connection to a host: calls with answers, progress and pieces on the way, and cancellation. */
class Connection {
  #calls = new Map();
  #next = 1;
  #send = (/** @type {object} */ _message, /** @type {Transferable[]} */ _transfer = []) => {};
  #end = () => {};
  #failure;
  #ready = false;

  /** @param {boolean} worker */
  static async open(worker) {
    const connection = new Connection();
    if (worker) connection.#openWorker();
    else await connection.#openHere();
    return connection;
  }

  #openWorker() {
    const blocked = watch();
    const url = new URL('./worker.js', import.meta.url);
    const notStarted = (why) => this.#fail(new MambaError('not-started', `the worker could not be started: ${why}`));
    /** @type {Worker} */
    let thread;
    try {
      thread = new Worker(new URL('./worker.js', import.meta.url), { type: 'module', name: 'mamba-wgpu' });
    } catch (error) {
      blocked.end();
      notStarted(blocked.why() ?? error.message);
      return;
    }
    // Where a file of it does not come at all, no error says so.
    const timer = setTimeout(async () => {
      const why = await whyNot(url);
      if (why && !this.#ready) notStarted(why);
    }, PATIENCE);
    thread.onmessage = ({ data }) => {
      clearTimeout(timer);
      blocked.end();
      this.#receive(data);
    };
    thread.onerror = async (event) => {
      event.preventDefault?.();
      clearTimeout(timer);
      blocked.end();
      if (!this.#ready) {
        const said = event.message && `${event.message}${event.filename ? ` (${event.filename}:${event.lineno})` : ''}`;
        notStarted(blocked.why() || said || (await whyNot(url)) || (await unreadable()) || 'the browser does not say why');
      } else {
        const full = /memory|allocation/i.test(event.message ?? '');
        this.#fail(new MambaError(full ? 'memory-full' : 'crashed', event.message || 'the worker ended'));
      }
    };
    this.#send = (message, transfer = []) => thread.postMessage(message, transfer);
    this.#end = () => {
      clearTimeout(timer);
      blocked.end();
      thread.terminate();
    };
  }

  async #openHere() {
    let serve;
    try {
      ({ serve } = await import('./host.js'));
    } catch (error) {
      const why = (await whyNot(new URL('./host.js', import.meta.url))) ?? error.message;
      throw new MambaError('not-started', `the program could not be loaded: ${why}`);
    }
    const receive = serve((message) => this.#receive(message));
    this.#send = (message) => void receive(message);
  }

  /**
   * @param {string} method
   * @param {unknown[]} args
   * @param {{ onProgress?: Function, onPiece?: Function, signal?: AbortSignal, transfer?: Transferable[] }} [options]
   */
  call(method, args = [], { onProgress, onPiece, signal, transfer } = {}) {
    if (this.#failure) return Promise.reject(this.#failure);
    const id = this.#next++;
    const cancel = () => this.#send({ cancel: id });
    return new Promise((resolve, reject) => {
      const settle = (f) => (value) => {
        signal?.removeEventListener('abort', cancel);
        this.#calls.delete(id);
        f(value);
      };
      this.#calls.set(id, { resolve: settle(resolve), reject: settle(reject), onProgress, onPiece });
      this.#send({ id, method, args }, transfer);
      if (signal?.aborted) cancel();
      else signal?.addEventListener('abort', cancel, { once: true });
    });
  }

  #receive(message) {
    // The first message says which build speaks; one of before there was such a message says nothing.
    if (!this.#ready && message.ready !== BUILD) {
      const others = `index.js is of build ${BUILD}, host.js of ${message.ready ?? 'an older one'}`;
      this.#fail(new MambaError('not-started', `the files of this package are of different builds (${others}): reload without the browser's cache, and serve all files of one build`));
    }
    this.#ready = true;
    const call = this.#calls.get(message.id);
    if (!call) return;
    if ('progress' in message) call.onProgress?.(...message.progress);
    else if ('piece' in message) call.onPiece?.(message.piece);
    else if ('error' in message) {
      const error = new MambaError(message.error.code, message.error.message);
      // A panic or a full memory leaves the wasm instance in no known state.
      if (error.code === 'crashed' || error.code === 'memory-full') this.#fail(error);
      call.reject(error);
    } else call.resolve(message.result);
  }

  #fail(error) {
    this.#failure ??= error;
    for (const call of [...this.#calls.values()]) call.reject(error);
  }

  close() {
    this.#fail(new MambaError('closed', 'it has been closed'));
    this.#end();
  }
}

/** The text's state. */
class State {
  #connection;
  constructor(connection) {
    this.#connection = connection;
  }
  save() {
    return this.#connection.call('saveState');
  }
  async load(data, name = 'state') {
    const bytes = data instanceof Blob ? new Uint8Array(await data.arrayBuffer()) : new Uint8Array(data);
    await this.#connection.call('loadState', [name, bytes]);
  }
  undo(length) {
    return this.#connection.call('rewind', [length]);
  }
  fork(length) {
    return this.#connection.call('fork', [length]);
  }
  clear() {
    return this.#connection.call('clear');
  }
}

/** A small model in training. */
export class Training {
  #connection;
  #id;

  /** Use Mamba's train. */
  constructor(connection, { id, info }) {
    this.#connection = connection;
    this.#id = id;
    this.info = info;
  }

  run({ steps = this.info.steps, onRecord, signal } = {}) {
    const onProgress = (records) => records.forEach((record) => onRecord?.(record));
    return this.#connection.call('trainRun', [this.#id, steps], { onProgress, signal });
  }
  evaluate({ length = this.info.length, sequences = 32 } = {}) {
    return this.#connection.call('trainEvaluate', [this.#id, length, sequences]);
  }
  example({ length = this.info.length, number = 0 } = {}) {
    return this.#connection.call('trainExample', [this.#id, length, number]);
  }
  predict(tokens) {
    return this.#connection.call('trainPredict', [this.#id, Uint32Array.from(tokens)]);
  }
  close() {
    return this.#connection.call('trainClose', [this.#id]);
  }
}

export class Mamba {
  #connection;

  /** Use Mamba.open or Mamba.load. */
  constructor(connection, device) {
    this.#connection = connection;
    this.device = device;
    this.info = null;
    this.state = new State(connection);
  }

  static async open(options = {}) {
    const { worker = typeof document !== 'undefined', backend = 'auto', baseline = false, lowPower = false } = options;
    const connection = await Connection.open(worker);
    try {
      return new Mamba(connection, await connection.call('open', [{ backend, baseline, lowPower }]));
    } catch (error) {
      connection.close();
      throw error;
    }
  }

  static async load(source, options = {}) {
    const mamba = await Mamba.open(options);
    try {
      await mamba.loadModel(source, options);
      return mamba;
    } catch (error) {
      mamba.close();
      throw error;
    }
  }

  async loadModel(source, options = {}) {
    const { cache = true, refresh = false, weights = 'auto', chunk = 512, scan = 'fused', onProgress, signal } = options;
    const base = typeof source === 'string' ? new URL(source, globalThis.document?.baseURI ?? globalThis.location?.href).href : source;
    this.info = null;
    this.info = await this.#connection.call('load', [base, { cache, refresh, weights, chunk, scan }], { onProgress, signal });
    return this.info;
  }

  async *generate(prompt, options = {}) {
    const { onProgress, signal, append = false, ...rest } = options;
    const stop = new AbortController();
    signal?.addEventListener('abort', () => stop.abort(), { once: true });
    if (signal?.aborted) stop.abort();
    const queue = [];
    let wake = () => {};
    let failure = null;
    let ended = false;
    const done = this.#connection
      .call('generate', [prompt, append, { seed: Math.floor(Math.random() * 2 ** 32), ...rest }], {
        onProgress,
        signal: stop.signal,
        onPiece: (piece) => {
          queue.push(piece);
          wake();
        },
      })
      .catch((error) => {
        failure = error;
      })
      .finally(() => {
        ended = true;
        wake();
      });
    try {
      for (;;) {
        while (queue.length) yield queue.shift();
        if (ended) break;
        await new Promise((resolve) => (wake = () => resolve(undefined)));
      }
      if (failure) throw failure;
      return await done;
    } finally {
      // Also where the reader left its loop: the text is the model's again once the host has ended.
      stop.abort();
      await done;
    }
  }

  encode(text, { addSpecialTokens = true } = {}) {
    return this.#connection.call('encode', [text, addSpecialTokens]);
  }
  decode(tokens) {
    return this.#connection.call('decode', [Uint32Array.from(tokens)]);
  }
  pieces(tokens) {
    return this.#connection.call('pieces', [Uint32Array.from(tokens)]);
  }
  tokens() {
    return this.#connection.call('tokens');
  }
  push(tokens) {
    return this.#connection.call('push', [Uint32Array.from(tokens)]);
  }
  logits(tokens) {
    return this.#connection.call('logits', [Uint32Array.from(tokens)]);
  }
  explain(text, { onProgress, ...options } = {}) {
    return this.#connection.call('explain', [text, options], { onProgress });
  }
  trainDefaults() {
    return this.#connection.call('trainDefaults');
  }
  async train(options = {}) {
    return new Training(this.#connection, await this.#connection.call('train', [options]));
  }
  memory() {
    return this.#connection.call('memory');
  }
  selfTest({ onProgress } = {}) {
    return this.#connection.call('selfTest', [], { onProgress });
  }
  bench({ onProgress, signal, ...options } = {}) {
    return this.#connection.call('bench', [options], { onProgress, signal });
  }
  close() {
    this.#connection.close();
  }
}
