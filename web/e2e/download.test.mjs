// Downloads and the cache, against a server that cannot be trusted: without a browser, on node's fetch and a cache in memory.
// What arrives must always be one model, byte by byte, and what was refused must not come back.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { after, afterEach, before, beforeEach, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { cachedModels, deleteCachedModel, fill } from '../pkg/download.js';
import { hostileServer, shards, smallModel } from './hostile-server.mjs';

/** As browsers' CacheStorage, as far as it is used. */
class Caches {
  #caches = new Map();
  /** Bytes that there is room for. */
  room = Infinity;
  async open(name) {
    if (!this.#caches.has(name)) this.#caches.set(name, new Map());
    const entries = this.#caches.get(name);
    return {
      match: async (key) => entries.get(key.url ?? key)?.clone(),
      keys: async () => [...entries.keys()].map((url) => ({ url })),
      delete: async (key) => entries.delete(key.url ?? key),
      put: async (url, response) => {
        const bytes = await response.arrayBuffer();
        if (bytes.byteLength > this.room) throw new DOMException('full', 'QuotaExceededError');
        entries.set(url, new Response(bytes));
      },
    };
  }
  async delete(name) {
    return this.#caches.delete(name);
  }
  async entries() {
    return [...this.#caches.values()].flatMap((entries) => [...entries.keys()]);
  }
}

/** As the wasm's Files. */
class Sink {
  files = /** @type {Record<string, Uint8Array[]>} */ ({});
  #last = /** @type {Uint8Array[]} */ ([]);
  clear() {
    this.files = {};
  }
  begin(file) {
    delete this.files[file];
    this.#last = this.files[file] = [];
  }
  append(chunk) {
    this.#last.push(Buffer.from(chunk));
  }
  content() {
    return Object.fromEntries(Object.entries(this.files).map(([file, chunks]) => [file, Buffer.concat(chunks)]));
  }
}

const QUICK = { pause: 1, stall: 20_000 };

/** What a visit gets, as host.js does it: `keep` where the model loads. */
async function visit(url, options = {}, loads = () => true) {
  const sink = new Sink();
  const { keep, forget } = await fill(sink, url, { ...QUICK, ...options });
  if (loads(sink.content())) await keep();
  else {
    await forget();
    throw Object.assign(new Error('no model'), { code: 'unusable-model' });
  }
  return sink.content();
}

const INDEX = 'model.safetensors.index.json';
/** The model, all of it and nothing else; the index is not for the program. */
function same(got, model) {
  const { [INDEX]: _, ...wanted } = model;
  assert.deepEqual(Object.keys(got).sort(), Object.keys(wanted).sort());
  for (const file of Object.keys(wanted)) assert.ok(wanted[file].equals(got[file]), `${file}: ${got[file].length} of ${wanted[file].length} bytes, or others`);
}

const KINDS = { 'one file': (seed, bytes) => smallModel(seed, bytes), 'two shards': (seed, bytes) => shards(smallModel(seed, bytes)) };
const EXTRA = { 'generation_config.json': Buffer.from('{"eos_token_id":[0,14]}'), 'tokenizer_config.json': Buffer.from('{"bos_token":"<s>"}') };

let server;
beforeEach(async () => {
  globalThis.caches = /** @type {any} */ (new Caches());
  server = await hostileServer({});
});
afterEach(() => server.close());

const gets = (name) => server.requests.filter((request) => request.startsWith('GET') && request.includes(name));

for (const [kind, make] of Object.entries(KINDS)) {
  describe(`a model in ${kind}`, () => {
    const [old, young] = [{ ...make(1), ...EXTRA }, { ...make(2), ...EXTRA }];
    const weights = Object.keys(old).filter((file) => file.endsWith('.safetensors'));
    beforeEach(() => (server.files = old));

    it('is fetched once, and asked for again without its bytes', async () => {
      same(await visit(server.url), old);
      for (const file of Object.keys(old)) assert.equal(gets(` ${file}`).filter((request) => request === `GET ${file}`).length, 1, file);
      server.requests.length = 0;
      same(await visit(server.url), old);
      assert.deepEqual(gets(''), []);
      assert.deepEqual(Object.keys(old).filter((file) => !server.requests.includes(`HEAD ${file}`)), []);
      assert.equal((await cachedModels())[0].complete, true);
      // Offline it is used.
      server.close();
      same(await visit(server.url), old);
    });

    it('that was replaced since is found out, validators or none', async () => {
      for (const etag of [undefined, 'weak', 'none']) {
        globalThis.caches = /** @type {any} */ (new Caches());
        server.spoil = () => ({ etag });
        for (const file of Object.keys(old)) {
          if (old[file].equals(young[file])) continue;
          server.files = old;
          same(await visit(server.url), old);
          // This file alone is another: the rest is the same.
          server.files = { ...old, [file]: young[file] };
          same(await visit(server.url), server.files);
        }
      }
    });

    it('that is replaced between two files, or within one, is the old one or the new one', async () => {
      for (const etag of [undefined, 'weak', 'none']) {
        for (const at of Object.keys(old)) {
          globalThis.caches = /** @type {any} */ (new Caches());
          server.files = old;
          let seen = false;
          server.spoil = (file, request) => {
            if (file === at && !seen) {
              // This answer is the old one's, broken off where it is one of the weights; all later ones are the new one's.
              seen = true;
              setImmediate(() => (server.files = young));
              return { etag, ...(weights.includes(file) && { breakAfter: 9000 }) };
            }
            return { etag };
          };
          same(await visit(server.url), young);
          same(await visit(server.url), young);
        }
      }
    });

    it('that goes on changing is given up in words', async () => {
      let n = 0;
      server.spoil = (file) => ({ etag: file === 'config.json' ? `"${n++}"` : undefined });
      await assert.rejects(visit(server.url), ({ code, message }) => code === 'download' && /keeps changing/.test(message));
      assert.deepEqual(await caches.entries(), []);
    });

    // Each file in turn is answered badly once, and then well.
    const ONCE = {
      'a web page': { html: true },
      'a web page that claims to be the file': { html: true, type: 'application/octet-stream' },
      'a 404': { status: 404 },
      'a 403': { status: 403 },
      'a 500': { status: 500 },
      'a 429 with Retry-After': { status: 429, headers: { 'retry-after': '0' } },
      'a cut file': { cut: -20 },
      'a cut file of unknown length': { cut: -20, length: 'none' },
      'an empty file': { cut: 0 },
      'a broken connection': { breakAfter: -10 },
      'a broken connection, of unknown length': { breakAfter: -10, length: 'none' },
      'too long a length': { length: 1000 },
      'too short a length': { length: -10 },
      'no length': { length: 'none' },
      'gzip': { gzip: true },
      'gzip of unknown length': { gzip: true, headers: { 'content-length': undefined } },
      'text/html for a type': { type: 'text/html' },
      'no bytes after some': { stall: 12 },
      'another file of the same kind': 'another',
    };
    for (const [name, spoil] of Object.entries(ONCE)) {
      it(`comes whole after ${name}, whichever file it is`, async () => {
        for (const file of Object.keys(old)) {
          globalThis.caches = /** @type {any} */ (new Caches());
          let n = 0;
          server.spoil = (asked, { method }) => {
            if (asked !== file || method !== 'GET' || n++) return null;
            return spoil === 'another' ? { body: young[file] } : /** @type {any} */ (spoil);
          };
          const well = (got) => Object.entries(got).every(([file, bytes]) => [old[file], young[file]].some((known) => known.equals(bytes)));
          let got;
          for (let tries = 1; !got && tries <= 2; tries++) {
            got = await visit(server.url, { stall: /no bytes/.test(name) ? 500 : 20_000 }, well).catch(({ code, message }) => {
              assert.ok(['download', 'unusable-model'].includes(code), `${file}: ${code} ${message}`);
              if (/page/.test(name)) assert.match(message, new RegExp(`a web page instead of ${file.replaceAll('.', '\\.')}`));
            });
          }
          assert.ok(got && n, file);
          same(got, old);
          same(await visit(server.url), old);
        }
      });
    }

    // Weights are cut off and asked for again, while ranges are answered so or so: how often from the beginning then.
    const RANGES = {
      'as they should be': [{}, 1],
      'a slice at a time': [{ ranges: 'short' }, 1],
      'without Content-Range, as other origins see it': [{ headers: { 'content-range': undefined } }, 1],
      'without validators': [{ etag: 'none' }, 2],
      'with weak validators': [{ etag: 'weak' }, 2],
      'with the whole file': [{ ranges: 'none' }, 1],
      'from zero': [{ ranges: 'from zero' }, 1],
      'from elsewhere': [{ ranges: 'elsewhere' }, 2],
      'with a slice and 200': [{ ranges: 'slice as 200' }, 2],
      'of unknown length': [{ length: 'none' }, 1],
    };
    for (const [name, [spoil, times]] of Object.entries(RANGES)) {
      it(`is resumed where parts are answered ${name}`, async () => {
        for (const file of weights) {
          globalThis.caches = /** @type {any} */ (new Caches());
          server.requests.length = 0;
          let n = 0;
          server.spoil = (asked, { method }) => (asked === file && method === 'GET' && !n++ ? { ...spoil, breakAfter: 15_000 } : spoil);
          same(await visit(server.url), old);
          const sent = gets(` ${file}`);
          const whole = sent.filter((request) => !request.includes('bytes=')).length;
          // Without validators it is looked into once more at the end.
          assert.equal(whole, spoil.etag === 'none' ? times + 1 : times, JSON.stringify(sent));
          assert.ok(sent.length >= 2);
        }
      });
    }

    it('is not asked for again and again where it is refused', async () => {
      for (const status of [400, 401, 403]) {
        for (const file of ['config.json', weights[0]]) {
          globalThis.caches = /** @type {any} */ (new Caches());
          server.spoil = (asked) => (asked === file ? { status } : null);
          server.requests.length = 0;
          await assert.rejects(visit(server.url), ({ code, message }) => code === 'download' && message.includes(String(status)));
          assert.equal(gets(` ${file}`).filter((request) => !request.includes('index')).length, 1);
        }
      }
    });

    it('whose server is busy is waited for, but not for ever', async () => {
      let n = 0;
      server.spoil = (file) => (file === weights[0] && n++ < 3 ? { status: 503 } : null);
      same(await visit(server.url), old);
      globalThis.caches = /** @type {any} */ (new Caches());
      server.spoil = (file) => (file === weights[0] ? { status: 503, headers: { 'retry-after': '86400' } } : null);
      await assert.rejects(visit(server.url), /asks to wait for 86400 s/);
    });

    it('is forgotten where it is none, and comes back when it is one again', async () => {
      server.files = { ...old, 'config.json': Buffer.from('{}') };
      const loads = (got) => got['config.json'].length > 2;
      await assert.rejects(visit(server.url, {}, loads), /no model/);
      assert.deepEqual(await caches.entries(), []);
      server.files = old;
      same(await visit(server.url, {}, loads), old);
    });

    it('without a file that may be missing is whole; with it later it is another', async () => {
      const { 'generation_config.json': settings, ...fewer } = old;
      server.files = fewer;
      same(await visit(server.url), fewer);
      server.requests.length = 0;
      same(await visit(server.url), fewer);
      assert.deepEqual(gets(''), []);
      server.close();
      same(await visit(server.url), fewer);
      server = await hostileServer(fewer);
      same(await visit(server.url), fewer);
      server.files = { ...fewer, 'generation_config.json': settings };
      same(await visit(server.url), old);
    });

    it('comes from hosts that answer all that they do not have with a web page', async () => {
      const { 'generation_config.json': _, ...fewer } = old;
      server.files = fewer;
      server.spoil = (file) => (fewer[file] ? null : { html: true });
      same(await visit(server.url), fewer);
      same(await visit(server.url), fewer);
    });

    it('stays as it was where the network wants a login', async () => {
      same(await visit(server.url), old);
      server.spoil = () => ({ html: true });
      same(await visit(server.url), old);
      server.spoil = () => null;
      server.requests.length = 0;
      same(await visit(server.url), old);
      assert.deepEqual(gets(''), []);
    });

    it('is asked for by GET where HEAD is refused', async () => {
      server.spoil = (_, { method }) => (method === 'HEAD' ? { status: 405 } : null);
      same(await visit(server.url), old);
      server.files = { ...old, ...young };
      same(await visit(server.url), young);
    });

    it('at a commit’s address is never asked for again', async () => {
      const commit = 'c0ffee'.padEnd(40, '0');
      const url = server.url.replace('model/', `me/model/resolve/${commit}/`);
      same(await visit(url), old);
      server.requests.length = 0;
      same(await visit(url), old);
      assert.deepEqual(server.requests, []);
    });

    it('of a server that names its commits comes from one of them, and is resumed without validators', async () => {
      const commits = { a: 'a'.repeat(40), b: 'b'.repeat(40) };
      let head = 'a';
      let broken = 0;
      server.spoil = (file, { url }) => {
        const [, revision] = /resolve\/([^/]+)\//.exec(url);
        const at = revision === 'main' ? commits[head] : revision;
        const content = (at === commits.a ? old : young)[file];
        if (!content) return null;
        const spoil = { body: content, etag: 'none' };
        if (!file.endsWith('.safetensors')) return { ...spoil, headers: { 'x-repo-commit': at } };
        // The model is replaced while its weights come.
        if (!broken++) {
          head = 'b';
          return { ...spoil, breakAfter: 12_000 };
        }
        return spoil;
      };
      const url = server.url.replace('model/', 'me/model/resolve/main/');
      same(await visit(url), old);
      assert.ok(gets('.safetensors').some((request) => /bytes=\d/.test(request)), JSON.stringify(server.requests));
      same(await visit(url), young);
      server.requests.length = 0;
      same(await visit(url), young);
      assert.deepEqual(server.requests, ['HEAD config.json']);
    });

    it('comes where there is no room for it in the cache', async () => {
      globalThis.caches.room = 3000;
      same(await visit(server.url), old);
      assert.deepEqual(await caches.entries(), []);
    });

    it('is fetched anew when that is wanted, and deleted', async () => {
      same(await visit(server.url), old);
      server.requests.length = 0;
      same(await visit(server.url, { refresh: true }), old);
      assert.equal(gets(weights[0]).length, 1);
      assert.equal(await deleteCachedModel(server.url), true);
      assert.deepEqual(await caches.entries(), []);
      // Where the server cannot be reached, the copy stays.
      same(await visit(server.url), old);
      server.close();
      await assert.rejects(visit(server.url, { refresh: true }), ({ code }) => code === 'download');
      same(await visit(server.url), old);
    });

    it('is taken from the network in part where a part was evicted', async () => {
      same(await visit(server.url), old);
      const cache = await caches.open('mamba-wgpu-2');
      for (const { url } of await cache.keys()) if (url.includes('.safetensors?')) await cache.delete(url);
      same(await visit(server.url), old);
      assert.equal((await cachedModels())[0].complete, true);
    });
  });
}

describe('a download that breaks off for good', () => {
  // More than a part of the cache: what has come is there the next time.
  const BYTES = 9 << 20;
  const [old, young] = [smallModel(1, BYTES), smallModel(2, BYTES)];
  const FILE = 'model.safetensors';
  const GONE = { breakAfter: (17 << 20) / 2 };
  const fails = async (spoil) => {
    globalThis.caches = /** @type {any} */ (new Caches());
    server.files = old;
    server.spoil = (file, { method }) => (file !== FILE || method !== 'GET' ? spoil : { ...spoil, ...GONE, ranges: 'none' });
    await assert.rejects(visit(server.url), ({ code, message }) => code === 'download' && /bytes had come/.test(message));
    assert.equal((await cachedModels())[0].complete, false);
    [server.requests.length, server.bytes] = [0, 0];
  };

  it('goes on where it was, with a strong validator', async () => {
    await fails({});
    server.spoil = () => null;
    same(await visit(server.url), old);
    assert.deepEqual(gets(FILE), [`GET ${FILE} bytes=${8 << 20}-`]);
    assert.ok(server.bytes < BYTES);
  });

  it('begins anew where the model was replaced meanwhile', async () => {
    for (const spoil of [{}, { etag: 'weak' }, { etag: 'none' }, { etag: 'none', length: 'none' }]) {
      await fails(/** @type {any} */ (spoil));
      server.files = young;
      server.spoil = () => /** @type {any} */ (spoil);
      same(await visit(server.url), young);
      same(await visit(server.url), young);
    }
  });

  it('begins anew where the weights alone were replaced', async () => {
    await fails({});
    server.files = { ...old, [FILE]: young[FILE] };
    server.spoil = () => null;
    same(await visit(server.url), server.files);
  });

  it('of unknown length is never taken for the end', async () => {
    await fails({ length: 'none' });
    server.spoil = () => null;
    same(await visit(server.url), old);
  });

  it('is not mixed with what another tab fetched meanwhile', async () => {
    await fails({});
    server.files = young;
    server.spoil = () => null;
    const [one, two] = await Promise.all([visit(server.url), visit(server.url)]);
    same(one, young);
    same(two, young);
    same(await visit(server.url), young);
  });

  it('ends at once when it is cancelled', async () => {
    server.files = old;
    server.spoil = (file) => (file === FILE ? { stall: 1 << 20 } : null);
    const stop = new AbortController();
    const onProgress = ({ file, loaded }) => file === FILE && loaded > 1 << 19 && stop.abort();
    await assert.rejects(visit(server.url, { signal: stop.signal, onProgress }), { name: 'AbortError' });
  });
});

describe('sources', () => {
  it('in folders and files: what is taken of them', async () => {
    const model = { ...smallModel(1), ...EXTRA, 'vocab.json': Buffer.from('{}'), 'README.md': Buffer.from('hello') };
    const sink = new Sink();
    await fill(sink, { files: model });
    const { 'vocab.json': vocab, 'README.md': _, ...wanted } = model;
    same(sink.content(), wanted);
    // A vocabulary is of use where there is no tokenizer.json.
    const { 'tokenizer.json': __, ...slow } = { ...wanted, 'vocab.json': vocab };
    const other = new Sink();
    await fill(other, { files: slow });
    same(other.content(), slow);
    server.files = slow;
    same(await visit(server.url), slow);
  });

  it('without weights, and with pickles', async () => {
    const { 'model.safetensors': _, ...rest } = smallModel(1);
    server.files = rest;
    await assert.rejects(visit(server.url), ({ code, message }) => code === 'unusable-model' && /no model\.safetensors there/.test(message));
    assert.deepEqual(await caches.entries(), []);
    server.files = { ...rest, 'pytorch_model.bin': Buffer.from('x') };
    await assert.rejects(visit(server.url), /convert them to safetensors/);
  });

  it('the embedded model, in two shards', async () => {
    const folder = fileURLToPath(new URL('../../models/austen-4m/', import.meta.url));
    const model = Object.fromEntries(['config.json', 'tokenizer.json', 'model.safetensors'].map((file) => [file, readFileSync(folder + file)]));
    server.files = shards(model);
    same(await visit(server.url), server.files);
  });
});
