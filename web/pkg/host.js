// What does the work: owns the wasm instance, a device and a model, and answers messages. In a worker, or on the caller's
// own thread.
//
// In:  { id, method, args }, { cancel: id }
// Out: { ready: BUILD } first, then { id, progress: [...] }, { id, piece }, and at the end { id, result } or
//      { id, error: { code, message } }
import { Backend, Cancel, Files, trainingDefaults, version } from './wasm/mamba_wgpu.js';
import { fill } from './download.js';
import { MambaError } from './error.js';
import { isFull, start } from './start.js';

/** Which build this file is of: web/build.sh writes it here and into index.js. */
const BUILD = '__BUILD__';
/** What a model's files can be blamed for. */
const MODELS = ['damaged-file', 'unusable-model', 'bad-tokenizer'];

/** @param {(message: object, transfer?: Transferable[]) => void} post */
export function serve(post) {
  const host = new Host();
  post({ ready: BUILD });
  const cancels = new Map();
  return async (message) => {
    if (message.cancel) return cancels.get(message.cancel)?.();
    const { id, method, args } = message;
    const stop = new AbortController();
    cancels.set(id, () => stop.abort());
    const call = {
      signal: stop.signal,
      progress: (...progress) => post({ id, progress }),
      piece: (piece) => post({ id, piece }),
    };
    try {
      const result = await host[method](call, ...args);
      const transfer = ArrayBuffer.isView(result) ? [result.buffer] : [];
      post({ id, result }, transfer);
    } catch (error) {
      post({ id, error: describe(error) });
    } finally {
      cancels.delete(id);
    }
  };
}

/** What can be sent of an error. */
function describe(error) {
  if (error instanceof WebAssembly.RuntimeError || (error instanceof RangeError && /memory|allocation/i.test(error.message))) {
    const full = isFull();
    const reason = full ? `the page's memory is full: ${full}` : 'a fault of this program';
    return { code: full ? 'memory-full' : 'crashed', message: `${reason} (${error.message})` };
  }
  if (error?.name === 'AbortError') return { code: 'cancelled', message: 'cancelled' };
  return { code: error?.code ?? 'fault', message: error?.message ?? String(error) };
}

/** Lets messages in: what runs on the CPU would else never hear of a cancellation. */
const breathe = () =>
  new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      // An open port keeps node from ending.
      port1.close();
      resolve(undefined);
    };
    port2.postMessage(null);
  });
/** Milliseconds after which it is time to. */
const BREATH = 30;

const BACKENDS = ['auto', 'webgpu', 'cpu'];
/** Errors after which `auto` takes the CPU. */
const NO_DEVICE = ['no-webgpu', 'no-gpu', 'software-gpu', 'device-refused'];

/** Milliseconds of training between looks at what came of it. */
const GLANCE = 60;

class Host {
  #backend;
  #model;
  /** Models in training, by number, each with the end of the last call to it. */
  #trainings = new Map();
  #begun = 0;

  async open(_, { backend, baseline, lowPower }) {
    await start(BUILD);
    if (!BACKENDS.includes(backend)) throw new MambaError('options', `backend ${JSON.stringify(backend)}: one of ${BACKENDS.join(', ')}`);
    let info = null;
    let passedOver = null;
    if (backend !== 'cpu') {
      try {
        info = await adapterInfo(lowPower);
        const software = inSoftware(info);
        if (software && backend === 'auto') throw new MambaError('software-gpu', `${adapterName(info)} is a GPU in software, slower than the CPU`);
        this.#backend = await Backend.gpu(JSON.stringify({ baseline, lowPower }));
        const gpu = this.#backend.device();
        gpu.adapter.name ||= adapterName(info);
        return { version: version(), gpu, software, passedOver };
      } catch (error) {
        if (backend !== 'auto' || !NO_DEVICE.includes(error.code)) throw error;
        passedOver = describe(error);
      }
    }
    this.#backend = Backend.cpu();
    return { version: version(), gpu: null, software: false, passedOver };
  }

  async load(call, source, { cache, refresh, ...options }) {
    this.#model?.free();
    this.#model = null;
    const files = new Files();
    const { name, keep, forget } = await fill(files, source, { cache, refresh, onProgress: call.progress, signal: call.signal });
    try {
      const upload = (loaded, total) => call.progress({ stage: 'upload', loaded, total });
      this.#model = await this.#backend.load(files, name, JSON.stringify(options), upload);
    } catch (error) {
      // What is no model must not come back the next time.
      if (MODELS.includes(error.code) && (await forget())) {
        error.message += ' (what this browser had kept of the model is removed: load again to download it anew)';
      }
      throw error;
    }
    await keep();
    return this.#model.info();
  }

  #loaded() {
    if (!this.#model) throw new MambaError('no-model', 'no model is loaded');
    return this.#model;
  }

  async generate(call, prompt, append, { addSpecialTokens = true, ...options }) {
    const model = this.#loaded();
    // What is added to a text has nothing before it.
    const special = addSpecialTokens && !append;
    const tokens = typeof prompt === 'string' ? model.encode(prompt, special) : Uint32Array.from(prompt);
    if (!append) model.clear();
    model.push(tokens);
    const cancel = new Cancel();
    const stop = () => cancel.cancel();
    call.signal.addEventListener('abort', stop);
    const generation = model.generate(JSON.stringify(options), cancel);
    try {
      const start = performance.now();
      await generation.prefill((done, total) => call.progress(done, total));
      let firstTokenMs = null;
      let breath = performance.now();
      for (let piece; (piece = await generation.next()); ) {
        const now = performance.now();
        firstTokenMs ??= now - start;
        call.piece(piece);
        if (now - breath > BREATH) {
          await breathe();
          breath = performance.now();
        }
      }
      return { ...generation.outcome(), firstTokenMs, totalMs: performance.now() - start };
    } finally {
      call.signal.removeEventListener('abort', stop);
      generation.free();
      cancel.free();
    }
  }

  encode(_, text, special) {
    return this.#loaded().encode(text, special);
  }
  decode(_, tokens) {
    return this.#loaded().decode(tokens);
  }
  pieces(_, tokens) {
    return this.#loaded().pieces(tokens);
  }
  tokens() {
    return this.#loaded().tokens();
  }
  push(_, tokens) {
    this.#loaded().push(tokens);
  }
  explain(call, text, { addSpecialTokens = true, ...options }) {
    const model = this.#loaded();
    const tokens = typeof text === 'string' ? model.encode(text, addSpecialTokens) : Uint32Array.from(text);
    return model.explain(tokens, JSON.stringify(options), call.progress);
  }
  logits(_, tokens) {
    return this.#loaded().logits(tokens);
  }
  clear() {
    this.#loaded().clear();
  }
  rewind(_, length) {
    return this.#loaded().rewind(length);
  }
  saveState() {
    return this.#loaded().saveState();
  }
  loadState(_, name, bytes) {
    this.#loaded().loadState(name, bytes);
  }

  /** The state at a point before the end; the text itself stays as it is. */
  async fork(_, length) {
    const model = this.#loaded();
    const here = await model.saveState();
    try {
      await model.rewind(length);
      return await model.saveState();
    } finally {
      model.loadState('the text', here);
    }
  }

  trainDefaults() {
    return trainingDefaults();
  }

  train(_, options) {
    const training = this.#backend.train(JSON.stringify(options));
    const id = ++this.#begun;
    this.#trainings.set(id, { training, last: Promise.resolve() });
    return { id, info: training.info() };
  }

  /** One call at a time to a model in training: `work` has its turn after those before it. */
  #turn(id, work) {
    const entry = this.#trainings.get(id);
    if (!entry) throw new MambaError('closed', 'this training has been closed');
    const turn = entry.last.then(() => work(entry.training));
    entry.last = turn.catch(() => {});
    return turn;
  }

  /** Trains for so many steps, or up to the last one; the steps done. Between a few steps and the next, others have their turn. */
  async trainRun(call, id, steps) {
    let [done, together] = [0, 1];
    while (done < steps && !call.signal.aborted) {
      const begin = performance.now();
      const records = await this.#turn(id, (training) => training.steps(Math.min(together, steps - done)));
      if (!records.length) break;
      call.progress(records);
      done += records.length;
      // As many as fit between two looks, so that a slow device can be stopped at once and a fast one is not kept waiting.
      const each = (performance.now() - begin) / records.length;
      together = Math.max(1, Math.min(2 * together, Math.round(GLANCE / each)));
    }
    return done;
  }

  trainEvaluate(_, id, length, sequences) {
    return this.#turn(id, (training) => training.evaluate(length, sequences));
  }
  trainExample(_, id, length, number) {
    return this.#turn(id, (training) => training.example(length, number));
  }
  trainPredict(_, id, tokens) {
    return this.#turn(id, (training) => training.predict(tokens));
  }
  async trainClose(_, id) {
    const entry = this.#trainings.get(id);
    this.#trainings.delete(id);
    await entry?.last;
    entry?.training.free();
  }

  memory() {
    return this.#backend.memoryBytes();
  }

  async selfTest(call) {
    const report = await this.#backend.selfTest((done, total) => call.progress(done, total));
    // The values to compare with are those of the demo's model.
    const golden = this.#model?.isDemo() ? { difference: (await this.#model.checkAgainstGolden()) ?? null } : null;
    return { ...report, golden };
  }

  async bench(call, options) {
    const cancel = new Cancel();
    call.signal.addEventListener('abort', () => watch.cancel());
    // The run takes one handle, this one stays to cancel it by.
    const watch = cancel.share();
    const date = new Date().toISOString().replace(/\.\d+Z$/, 'Z');
    const report = await this.#backend.bench(JSON.stringify({ date, ...options }), cancel, call.progress);
    const adapter = report.device.adapter;
    adapter.name ||= adapterName(await adapterInfo());
    return report;
  }
}

/** What the browser tells of the adapter that it would give; null if it gives none. */
async function adapterInfo(lowPower = false) {
  const { gpu } = globalThis.navigator ?? {};
  if (!gpu) throw new MambaError('no-webgpu', 'this browser offers no WebGPU here');
  const adapter = await gpu.requestAdapter({ powerPreference: lowPower ? 'low-power' : 'high-performance' });
  return adapter && adapter.info;
}

/** Whether it is a program that stands in for a GPU. Older browsers do not say so, but name it. */
function inSoftware(info) {
  const names = [info?.vendor, info?.architecture, info?.device, info?.description].join(' ');
  return info?.isFallbackAdapter === true || /swiftshader|llvmpipe|lavapipe|softpipe|basic render|\bwarp\b/i.test(names);
}

/** Some browsers describe an adapter in words, others by vendor and architecture alone, others not at all. */
function adapterName(info) {
  const words = [info?.description, [info?.vendor, info?.architecture].filter(Boolean).join(' ')];
  return words.find(Boolean) ?? 'a GPU that the browser does not name';
}
