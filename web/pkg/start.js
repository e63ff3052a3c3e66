// Starts the wasm, or says in words why it does not.
import init, { version } from './wasm/mamba_wgpu.js';
import { MambaError } from './error.js';

const URL_ = new URL('./wasm/mamba_wgpu_bg.wasm', import.meta.url);
/** Bytes in use, of the 4 GiB that there can be, from which on the memory counts as full. */
const FULL = 3.75 * 2 ** 30;
/** A page of wasm's memory: 64 KiB. */
const SOME = 256;

const notStarted = (why) => new MambaError('not-started', `${URL_.href}: ${why}`);
const OTHER_BUILD = 'it is of another build than its JavaScript: reload without the browser\'s cache, and serve all files of one build';

/** @type {WebAssembly.Memory | undefined} */
let memory;

/** Why the memory is full, if it is. */
export function isFull() {
  const bytes = memory?.buffer.byteLength ?? 0;
  const words = `${(bytes / 2 ** 30).toFixed(1)} GiB in use`;
  if (bytes > FULL) return words;
  try {
    // Only asked where the instance is given up.
    memory?.grow(SOME);
    return '';
  } catch {
    return `${words}, and the system gives no more`;
  }
}

/** @param {string} build of the JavaScript: the commit and a hash, or nothing of the kind where it was not built */
export async function start(build) {
  const blocked = watch();
  try {
    ({ memory } = await init({ module_or_path: await program(blocked) }));
  } catch (error) {
    throw error instanceof MambaError ? error : explained(error, blocked.why());
  } finally {
    blocked.end();
  }
  const [commit] = /^[0-9a-f]{40}/.exec(build) ?? [];
  if (commit && !version().includes(commit)) throw notStarted(OTHER_BUILD);
}

/** Watches for what a Content-Security-Policy blocks, here or in the worker that this is. */
function watch() {
  let why = '';
  const note = ({ effectiveDirective }) => (why = `the Content-Security-Policy of this page blocks it (${effectiveDirective})`);
  globalThis.addEventListener?.('securitypolicyviolation', note);
  return { why: () => why, end: () => globalThis.removeEventListener?.('securitypolicyviolation', note) };
}

/** The wasm: an answer where it can be compiled while it comes, else its bytes. */
async function program(blocked) {
  if (URL_.protocol === 'file:' && globalThis.process?.versions?.node) {
    const fs = 'node:fs/promises';
    return (await import(/* webpackIgnore: true */ /* @vite-ignore */ fs)).readFile(URL_);
  }
  let response;
  try {
    response = await fetch(URL_);
  } catch (error) {
    // What blocks it is told a little later than that it failed.
    await new Promise((resolve) => setTimeout(resolve, 100));
    throw notStarted(blocked.why() || `it does not come: ${error.message}`);
  }
  if (!response.ok) throw notStarted(`the server answered ${response.status} ${response.statusText}`.trim());
  const type = response.headers.get('content-type') ?? '';
  if (/^application\/wasm\b/i.test(type)) return response;
  const bytes = new Uint8Array(await response.arrayBuffer());
  if (bytes[0] === 0 && new TextDecoder().decode(bytes.subarray(1, 4)) === 'asm') return bytes;
  const what = /^\s*</.test(new TextDecoder().decode(bytes.subarray(0, 64))) ? 'a web page' : 'something else';
  throw notStarted(`the server sent ${what} instead (as ${type || 'nothing by name'})`);
}

function explained(error, blocked) {
  const { message } = error;
  if (blocked) return notStarted(blocked);
  if (/content.?security|unsafe-eval/i.test(message)) {
    return notStarted(`the Content-Security-Policy of this page forbids WebAssembly: script-src needs 'wasm-unsafe-eval' (${message})`);
  }
  if (error instanceof RangeError || /memory/i.test(message)) return new MambaError('memory-full', `there is no memory left to start in (${message})`);
  if (error instanceof WebAssembly.CompileError) {
    return notStarted(`it is damaged, or this browser is too old for it: it needs WebAssembly with 128-bit vectors (${message})`);
  }
  return notStarted(`${OTHER_BUILD} (${message})`);
}
