// The page: ties the controls to the package, which does the work in a worker.
import { Mamba, cachedModels } from '../pkg/index.js';
import * as bench from './bench.js';
import { Branches } from './branches.js';
import * as device from './device.js';
import * as explaining from './explain.js';
import { $, digits, download, duration, make, say } from './dom.js';
import { explain, WAYS } from './messages.js';
import { DEMO, droppedFiles, LoadingCard, showCache, showModel } from './model.js';
import { setUpTabs } from './tabs.js';
import { TextView } from './text.js';
import * as training from './train.js';

/** @type {Promise<Mamba> | null} */
let opening = null;
/** @type {Mamba | null} */
let mamba = null;
const asked = new URLSearchParams(location.search).get('backend');
/** Where to run: what the address asks for, or what is fast. @type {import('../pkg/index.js').OpenOptions} */
let settings = asked === 'webgpu' || asked === 'cpu' ? { backend: asked } : {};
/** What is loaded, or was last tried. */
let source = /** @type {import('../pkg/index.js').Source} */ (DEMO);
/** What ends what is going on: loading or writing. */
let loading = /** @type {AbortController | null} */ (null);
let writing = /** @type {AbortController | null} */ (null);
/** Set while a short operation on the state runs. */
let busy = false;

const card = new LoadingCard();
const view = new TextView(update);
const branches = new Branches(openBranch);
const input = (id) => /** @type {HTMLInputElement} */ ($(id));

const HINT = $('hint').textContent ?? '';

// ---- what can be pressed

function update() {
  const idle = !loading && !writing && !busy;
  const has = view.length > 0;
  const enable = (id, on) => (/** @type {HTMLButtonElement} */ ($(id)).disabled = !on);
  $('go').hidden = Boolean(writing);
  $('stop').hidden = !writing;
  enable('go', idle);
  $('go').textContent = loading ? 'Loading …' : 'Write';
  enable('continue', idle && has);
  enable('add', idle && has);
  enable('undo', idle && has && view.point < view.length);
  enable('fork', idle && has);
  enable('save', idle && has);
  enable('load-demo', idle);
  enable('load-state', idle);
  enable('elsewhere', idle);
  branches.lock(!idle);
}

// ---- notices

function failed(error) {
  if (error.code === 'cancelled' || error.name === 'AbortError') return;
  console.error(error);
  const { title, text, ways, bad } = explain(error, mamba?.device);
  $('notice').classList.toggle('bad', Boolean(bad));
  $('notice-title').textContent = title;
  $('notice-text').textContent = text;
  $('notice-code').textContent = `${error.code ?? 'fault'}: ${error.message}`;
  const actions = ways.map((way) => make('button', { type: 'button', textContent: WAYS[way], onclick: () => takeWay(way) }));
  actions.push(make('button', { type: 'button', textContent: 'Dismiss', onclick: () => ($('notice').hidden = true) }));
  $('notice-actions').replaceChildren(...actions);
  $('notice').hidden = false;
  if (['device-lost', 'crashed', 'memory-full', 'not-started', 'closed'].includes(error.code)) dropDevice();
}

/** A device that is gone takes its model with it; the text stays, to be read again by the next. */
function dropDevice() {
  mamba?.close();
  mamba = opening = null;
  showModel(null, source);
}

async function takeWay(way) {
  $('notice').hidden = true;
  if (way === 'reload') return location.reload();
  if (way === 'files') {
    /** @type {HTMLDetailsElement} */ ($('other-models')).open = true;
    return $('files').focus();
  }
  if (way === 'gpu') return runOn('webgpu');
  if (way === 'cpu') return runOn('cpu', true);
  if (way === 'baseline') settings = { ...settings, baseline: true };
  if (way !== 'again') dropDevice();
  await load(source);
}

/**
 * From the processor to the GPU, or back: the model and the text come along, and the address keeps the choice.
 * @param {'webgpu' | 'cpu'} backend
 */
async function runOn(backend, withModel = Boolean(mamba?.info)) {
  if (loading || writing || busy) return;
  settings = { backend };
  const url = new URL(location.href);
  url.searchParams.set('backend', backend);
  history.replaceState(null, '', url);
  dropDevice();
  if (withModel) await load(source);
  else await open().catch(failed);
}

// ---- device and model

/** The device, opened when first needed. */
function open() {
  if (opening) return opening;
  const promise = Mamba.open(settings).then((opened) => {
    mamba = opened;
    device.where(opened.device, runOn);
    void device.show(opened);
    void training.showDefaults(opened);
    return opened;
  });
  promise.catch(() => (opening = null));
  return (opening = promise);
}

/** Loads a model; the text is read again if it is the same one. True if that went well. */
async function load(from) {
  if (loading || writing) return false;
  const same = from === source;
  source = from;
  loading = new AbortController();
  update();
  card.start(() => loading?.abort());
  try {
    const on = await open();
    const info = await on.loadModel(from, { onProgress: (progress) => card.show(progress), signal: loading.signal });
    if (same && view.length) await on.push(view.ids);
    else startOver();
    showModel(info, from);
    if (!same || !view.length) takeDefaults(info);
    $('notice').hidden = true;
    say(`Loaded ${$('model-name').textContent}`);
    void device.show(on);
    return true;
  } catch (error) {
    showModel(null, from);
    failed(error);
    return false;
  } finally {
    loading = null;
    card.end();
    update();
    void showCache(load, failed);
  }
}

const ready = async () => Boolean(mamba?.info) || load(source);

function startOver() {
  view.set([]);
  branches.reset();
  for (const stat of ['speed', 'first', 'tokens', 'end']) $(`stat-${stat}`).textContent = '–';
}

// ---- writing

const numbers = ['temperature', 'topP', 'topK', 'minP', 'repetitionPenalty', 'maxTokens'];

/** A model that says how it wants to be drawn from sets the fields. */
function takeDefaults({ generationConfig, defaults }) {
  if (!['do_sample', 'temperature', 'top_p', 'top_k', 'min_p', 'repetition_penalty', 'max_new_tokens'].some((key) => key in generationConfig)) return;
  for (const id of numbers) {
    input(id).value = String(defaults[id]);
    input(id).dispatchEvent(new Event('input'));
  }
}

function sampling() {
  const options = Object.fromEntries(numbers.map((id) => [id, Number(input(id).value)]));
  const seed = input('seed').value;
  return { ...options, ignoreEos: input('ignoreEos').checked, ...(seed !== '' && { seed: Number(seed) }) };
}

function showStats({ first, tokens, since, end }) {
  $('stat-first').textContent = first == null ? '–' : duration(first);
  $('stat-tokens').textContent = String(tokens);
  const seconds = (performance.now() - since) / 1000;
  $('stat-speed').textContent = tokens > 1 && seconds > 0 ? `${digits((tokens - 1) / seconds)} tok/s` : '–';
  const ends = { length: 'its length', eos: 'the model', stop: 'a stop string', cancelled: 'you' };
  $('stat-end').textContent = end ? (ends[end] ?? end) : '–';
}

/** @param {'new' | 'continue' | 'add'} how what becomes of the text in the box, and of the text that is there */
async function write(how) {
  const append = how !== 'new';
  const form = /** @type {HTMLFormElement} */ ($('sampling'));
  if (writing || loading || busy || !form.reportValidity() || !(await ready()) || !mamba) return;
  const { point } = view;
  writing = new AbortController();
  view.lock(true);
  update();
  $('stop').focus();
  say('Writing');
  const on = mamba;
  const start = performance.now();
  const stats = { first: /** @type {number | null} */ (null), tokens: 0, since: start, end: '' };
  try {
    if (!append) startOver();
    else if (point < view.length) {
      await on.state.undo(point);
      view.truncate(point);
    }
    /** @type {number[]} */
    let prompt = [];
    if (how !== 'continue') {
      let words = input('prompt').value;
      if (append && /\S$/.test(view.text) && /^[\p{L}\p{N}]/u.test(words)) words = ` ${words}`;
      prompt = [...(await on.encode(words, { addSpecialTokens: !append }))];
      if (!prompt.length) throw Object.assign(new Error('the box is empty: the model needs at least one character'), { code: 'options' });
      const pieces = await on.pieces(prompt);
      view.set([...view.tokens, ...prompt.map((id, i) => ({ id, text: pieces[i], prompt: true }))]);
    }
    const pieces = on.generate(prompt, {
      ...sampling(),
      append,
      signal: writing.signal,
      onProgress: (done, total) => ($('hint').textContent = done < total ? `Reading the prompt: ${done} of ${total}` : HINT),
    });
    let piece;
    while (!(piece = await pieces.next()).done) {
      view.add(piece.value);
      if (piece.value.token === null) continue;
      if (!stats.tokens++) {
        stats.first = performance.now() - start;
        stats.since = performance.now();
      }
      showStats(stats);
    }
    stats.end = piece.value.finishReason ?? '';
    showStats(stats);
    say(`Done: ${stats.tokens} tokens`);
  } catch (error) {
    failed(error);
  } finally {
    writing = null;
    view.lock(false);
    view.setPoint(view.length);
    update();
    $({ new: 'go', continue: 'continue', add: 'add' }[how]).focus();
    void (mamba && device.show(mamba));
  }
}

// ---- the state

/** Something short with the state; nothing else meanwhile. */
async function withState(work) {
  if (busy || writing || loading || !(await ready()) || !mamba) return;
  busy = true;
  view.lock(true);
  update();
  try {
    await work(mamba.state, mamba);
  } catch (error) {
    failed(error);
  } finally {
    busy = false;
    view.lock(false);
    update();
  }
}

const stateHere = (state) => (view.point < view.length ? state.fork(view.point) : state.save());

const save = () =>
  withState(async (state) => {
    const data = await stateHere(state);
    const name = mamba?.info?.source ?? 'mamba';
    download(`${name}-${view.point}-tokens.mamba-state`, data, 'application/octet-stream');
    say(`Saved at token ${view.point}`);
  });

const undo = () =>
  withState(async (state) => {
    await state.undo(view.point);
    view.truncate(view.point);
    say(`Back to token ${view.length}`);
  });

const fork = () =>
  withState(async (state) => {
    const at = view.point;
    const data = await stateHere(state);
    branches.keep(await state.save(), view.tokens);
    const index = branches.add(at, data, view.tokens.slice(0, at));
    await state.load(data, 'the fork');
    branches.switchTo(index);
    view.set(branches.get(index).tokens);
    say(`A new text from token ${at}: continue it, or go back to the other`);
  });

function openBranch(index) {
  return withState(async (state) => {
    branches.keep(await state.save(), view.tokens);
    const { data, tokens, name } = branches.get(index);
    await state.load(data, name);
    branches.switchTo(index);
    view.set(tokens);
    say(name);
  });
}

const loadState = (file) =>
  withState(async (state, on) => {
    await state.load(file, file.name);
    const tokens = [...(await on.tokens())];
    const pieces = await on.pieces(tokens);
    startOver();
    view.set(tokens.map((id, i) => ({ id, text: pieces[i], prompt: false })));
    say(`Loaded ${tokens.length} tokens`);
  });

// ---- wiring

function takeFiles(files) {
  const list = [...files];
  const state = list.find(({ name }) => name.endsWith('.mamba-state'));
  if (state) return loadState(state);
  if (list.length) return load(list);
}

function setUpInputs() {
  $('composer').addEventListener('submit', (event) => {
    event.preventDefault();
    void write('new');
  });
  $('prompt').addEventListener('keydown', (event) => {
    if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) void write('new');
  });
  addEventListener('keydown', (event) => {
    if (event.key === 'Escape') writing?.abort();
  });
  $('stop').addEventListener('click', () => writing?.abort());
  $('continue').addEventListener('click', () => write('continue'));
  $('add').addEventListener('click', () => write('add'));
  $('undo').addEventListener('click', undo);
  $('fork').addEventListener('click', fork);
  $('save').addEventListener('click', save);
  $('load-demo').addEventListener('click', () => load(DEMO));
  $('url-form').addEventListener('submit', (event) => {
    event.preventDefault();
    const text = input('url').value.trim();
    if (text) void load(new URL(/^[a-z]+:|^\.*\//i.test(text) ? text : `https://${text}`, document.baseURI).href);
  });
  for (const id of ['files', 'folder', 'load-state']) {
    input(id).addEventListener('change', () => {
      // A copy, since emptying the input (so that the same file can be chosen again) empties its list.
      const files = [...(input(id).files ?? [])];
      input(id).value = '';
      void (id === 'load-state' ? files[0] && loadState(files[0]) : takeFiles(files));
    });
  }
  // Not every browser can pick folders; dropping one works in all.
  if (!('webkitdirectory' in input('folder'))) /** @type {HTMLElement} */ (input('folder').parentElement).hidden = true;
  for (const id of ['temperature', 'topP']) {
    const show = () => ($(`${id}-value`).textContent = Number(input(id).value).toFixed(2));
    input(id).addEventListener('input', show);
    show();
  }
  $('sampling').addEventListener('submit', (event) => event.preventDefault());
  let depth = 0;
  const dragging = (change) => ($('dropping').hidden = (depth = Math.max(0, depth + change)) === 0);
  addEventListener('dragenter', (event) => event.dataTransfer?.types.includes('Files') && dragging(1));
  addEventListener('dragleave', () => dragging(-1));
  addEventListener('dragover', (event) => event.preventDefault());
  addEventListener('drop', async (event) => {
    event.preventDefault();
    dragging(-depth);
    if (event.dataTransfer) await takeFiles(await droppedFiles(event.dataTransfer));
  });
}

async function start() {
  setUpTabs();
  setUpInputs();
  bench.setUp(open, failed);
  explaining.setUp({ ready, mamba: () => mamba, text: () => view.text, failed });
  training.setUp(open, failed);
  device.setUp(open, failed);
  showModel(null, source);
  update();
  void showCache(load, failed);
  // For start.js: from here on, what goes wrong is said here.
  $('not-started').remove();
  try {
    await open();
    // What is here already costs no download.
    const cached = await cachedModels().catch(() => []);
    if (cached.some(({ url, complete }) => url === DEMO && complete)) await load(DEMO);
  } catch (error) {
    failed(error);
  }
}

void start();
