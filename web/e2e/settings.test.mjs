// The files beside the weights, in the package: where texts end, defaults of sampling, special tokens, vocab.json and merges.txt.
import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync } from 'node:fs';
import { after, before, describe, it } from 'node:test';
import * as h from './harness.mjs';

const MODEL = `${h.ROOT}/models/austen-4m`;
const json = (value) => [...Buffer.from(JSON.stringify(value))];
const read = (file) => JSON.parse(readFileSync(`${MODEL}/${file}`, 'utf8'));

describe('the files beside the weights', { timeout: 900_000 }, () => {
  let browser, site, page;
  before(async () => {
    [browser, site] = [await h.launch(), await h.site()];
    page = await h.visit(await browser.newContext(), `${site.url}pkg/package.json`);
  });
  after(async () => {
    await browser?.close();
    site?.close();
  });

  /** In the page: a model of the demo's weights and these files beside them, as bytes; what comes of it, and a state's code. */
  const run = ([base, files, state]) =>
    (async () => {
      const { Mamba } = await import('/pkg/index.js');
      const bytes = Object.fromEntries(Object.entries(files).map(([file, content]) => [file, new Uint8Array(content)]));
      bytes['model.safetensors'] = new Uint8Array(await (await fetch(`${base}models/austen-4m/model.safetensors`)).arrayBuffer());
      const mamba = await Mamba.load({ files: bytes }, { backend: 'cpu' });
      const text = 'Emma was';
      const [special, plain] = [await mamba.encode(text), await mamba.encode(text, { addSpecialTokens: false })];
      const tokens = [];
      const pieces = mamba.generate(text, { temperature: 0, maxTokens: 60 });
      let piece;
      while (!(piece = await pieces.next()).done) if (piece.value.token !== null) tokens.push(piece.value.token);
      const all = [...(await mamba.tokens())];
      const code = await mamba.state.load(new Uint8Array(state)).then(() => 'none', (error) => error.code);
      const { generationConfig, defaults } = mamba.info;
      mamba.close();
      return { special: [...special], plain: [...plain], tokens, all, end: piece.value.finishReason, generationConfig, defaults, code };
    })();

  it('end texts, set defaults and stand around texts', async () => {
    const state = `${mkdtempSync('/tmp/mamba-web-')}/s`;
    await h.native('generate', 'Emma was', '--max-tokens', '1', '--backend', 'cpu', '--state-out', state);
    const config = json(read('config.json'));
    const tokenizer = read('tokenizer.json');
    const bytes = [...readFileSync(state)];
    const before = await page.evaluate(run, [site.url, { 'config.json': config, 'tokenizer.json': json(tokenizer) }, bytes]);
    assert.deepEqual([before.special, before.plain, before.code], [[3016, 344], [3016, 344], 'none']);
    assert.deepEqual([before.generationConfig, before.defaults.temperature], [{}, 0.8]);
    const end = before.tokens.indexOf(14);
    assert.ok(end > 0 && end < before.tokens.length - 1, 'the test needs a period within the text');

    const text = { Sequence: { id: 'A', type_id: 0 } };
    const special = { SpecialToken: { id: '<|endoftext|>', type_id: 0 } };
    tokenizer.post_processor = {
      type: 'TemplateProcessing',
      single: [special, text],
      pair: [text],
      special_tokens: { '<|endoftext|>': { id: '<|endoftext|>', ids: [0], tokens: ['<|endoftext|>'] } },
    };
    const { vocab } = tokenizer.model;
    [vocab.e, vocab.t] = [vocab.t, vocab.e];
    const generation = json({ eos_token_id: [0, 14], temperature: 0.5, do_sample: true });
    const files = { 'config.json': config, 'tokenizer.json': json(tokenizer), 'generation_config.json': generation };
    const other = await page.evaluate(run, [site.url, files, bytes]);
    assert.deepEqual([other.special[0], other.special.slice(1)], [0, other.plain]);
    assert.deepEqual(other.all.slice(0, other.special.length), other.special);
    assert.ok(!other.tokens.includes(14) && !other.tokens.includes(0));
    assert.deepEqual([other.generationConfig.eos_token_id, other.defaults.temperature], [[0, 14], 0.5]);
    assert.equal(other.code, 'other-models-state', 'a state of another tokenizer');
  });

  it('may be vocab.json and merges.txt', async () => {
    const { vocab, merges } = read('tokenizer.json').model;
    const lines = merges.map((merge) => (typeof merge === 'string' ? merge : merge.join(' '))).join('\n');
    const files = {
      'config.json': json(read('config.json')),
      'vocab.json': json(vocab),
      'merges.txt': [...Buffer.from(`#version: 0.2\n${lines}\n`)],
      'tokenizer_config.json': json({ tokenizer_class: 'GPT2Tokenizer', add_bos_token: true }),
    };
    const { special, plain, end } = await page.evaluate(run, [site.url, files, [0]]);
    assert.deepEqual([special, plain], [[0, 3016, 344], [3016, 344]]);
    assert.ok(['length', 'eos'].includes(end));
  });
});
