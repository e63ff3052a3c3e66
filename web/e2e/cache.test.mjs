// Downloads in a real browser, from another origin that hides what it likes: the text is one model's. The rest of what can
// go wrong with a download is in download.test.mjs.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { after, before, beforeEach, describe, it } from 'node:test';
import * as h from './harness.mjs';
import { hostileServer, shards } from './hostile-server.mjs';

const [{ prompt: PROMPT, greedy_tokens: GREEDY }] = h.expected.prompts;
const COUNT = 12;
const HIDDEN = { 'access-control-expose-headers': undefined };
const model = Object.fromEntries(['config.json', 'tokenizer.json', 'model.safetensors'].map((file) => [file, readFileSync(`${h.ROOT}models/austen-4m/${file}`)]));

/** The same shapes and sizes with other numbers: tokens are called otherwise. */
function renumbered() {
  const tokenizer = model['tokenizer.json'].toString();
  const { vocab } = JSON.parse(tokenizer).model;
  const [one, two] = [' the', ' and'].map((word) => Object.entries(vocab).find(([token]) => token === `Ġ${word.trim()}`));
  assert.ok(one && two && String(one[1]).length === String(two[1]).length);
  const entry = ([token, id]) => new RegExp(`("${token}"\\s*:\\s*)${id}\\b`);
  const swapped = tokenizer.replace(entry(one), `$1${two[1]}`).replace(entry([two[0], two[1]]), `$1${one[1]}`);
  const weights = Buffer.from(model['model.safetensors']);
  const start = 8 + Number(weights.readBigUInt64LE(0));
  for (let at = start + 1; at < weights.length; at += 100) weights[at] ^= 0x80;
  return { ...model, 'tokenizer.json': Buffer.from(swapped), 'model.safetensors': weights };
}

/** Loads from a URL, writes greedily; tokens, or what went wrong. */
const write = async ({ url, prompt, count, options }) => {
  const { Mamba } = await import('/pkg/index.js');
  try {
    const mamba = await Mamba.load(url, { backend: 'cpu', ...options });
    const tokens = [];
    for await (const { token } of mamba.generate(prompt, { temperature: 0, maxTokens: count })) tokens.push(token);
    mamba.close();
    return { tokens };
  } catch ({ code, message }) {
    return { error: `${code}: ${message}` };
  }
};

describe('a model of another origin', { timeout: 900_000 }, () => {
  const other = renumbered();
  let browser, site, page, server, THEIRS;
  const visit = (options = {}) => page.evaluate(write, { url: server.url, prompt: PROMPT, count: COUNT, options });
  before(async () => {
    [browser, site] = [await h.launch(h.NO_WEBGPU), await h.site()];
  });
  after(async () => {
    await browser?.close();
    server?.close();
    site?.close();
  });
  beforeEach(async () => {
    server?.close();
    server = await hostileServer(model);
    page = await (await browser.newContext()).newPage();
    await page.goto(`${site.url}pkg/package.json`);
    if (THEIRS) return;
    server.files = other;
    THEIRS = (await visit({ cache: false })).tokens;
    assert.notDeepEqual(THEIRS, GREEDY.slice(0, COUNT));
    server.files = model;
  });

  for (const [kind, make] of [['one file', (files) => files], ['two shards', shards]]) {
    for (const [how, headers] of [['shown', {}], ['hidden', HIDDEN]]) {
      it(`in ${kind} with validators ${how}: broken off, replaced, and replaced again`, async () => {
        const [old, young] = [make(model), make(other)];
        const last = Object.keys(old).filter((file) => file.endsWith('.safetensors')).at(-1);
        server.files = old;
        server.spoil = (file) => ({ headers, ...(file === last && { breakAfter: old[last].length >> 1, ranges: 'none' }) });
        assert.match((await visit()).error, /^download: .*safetensors/);
        // The next visit finds another model.
        server.files = young;
        server.spoil = () => ({ headers });
        assert.deepEqual((await visit()).tokens, THEIRS);
        // So does the one after it, with a whole copy here; and offline it is used.
        server.files = old;
        assert.deepEqual((await visit()).tokens, GREEDY.slice(0, COUNT));
        server.requests.length = 0;
        server.close();
        assert.deepEqual((await visit()).tokens, GREEDY.slice(0, COUNT));
      });
    }

    it(`in ${kind}, a file answered badly once: the next try goes well`, async () => {
      server.files = make(model);
      for (const file of Object.keys(server.files)) {
        for (const spoil of [{ html: true }, { status: 404 }, { body: server.files[file].subarray(0, -1000) }, { body: make(other)[file] }]) {
          let n = 0;
          server.spoil = (asked, { method }) => (asked === file && method === 'GET' && !n++ ? spoil : null);
          let result = await visit();
          if (result.error) result = await visit();
          assert.deepEqual(result.tokens, GREEDY.slice(0, COUNT), `${file} ${Object.keys(spoil)} ${result.error}`);
          await page.evaluate(async (url) => (await import('/pkg/index.js')).deleteCachedModel(url), server.url);
        }
      }
    });
  }

  it('is resumed over the break of a connection, compressed or not', async () => {
    for (const spoil of [{}, { gzip: true }, { length: 'none' }]) {
      let n = 0;
      server.spoil = (file, { method }) => (file === 'model.safetensors' && method === 'GET' && !n++ ? { ...spoil, breakAfter: 3_000_000 } : spoil);
      assert.deepEqual((await visit({ cache: false })).tokens, GREEDY.slice(0, COUNT));
      assert.ok(n >= 2);
    }
  });
});
