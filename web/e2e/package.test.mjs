// The package, as a program uses it, and what happens where something is missing or goes away.
import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import { after, before, beforeEach, describe, it } from 'node:test';
import * as h from './harness.mjs';

const [{ prompt: PROMPT, tokens: TOKENS, greedy_tokens: GREEDY }] = h.expected.prompts;

/** Runs in a page or a worker: loads the demo, writes greedily, gives the tokens. */
const writeGreedily = async ({ base, prompt, count, options }) => {
  const { Mamba } = await import(`${base}pkg/index.js`);
  const mamba = await Mamba.load(`${base}models/austen-4m/`, { cache: false, backend: 'webgpu', ...options });
  const tokens = [];
  for await (const { token } of mamba.generate(prompt, { temperature: 0, maxTokens: count })) tokens.push(token);
  mamba.close();
  return { tokens, onGpu: mamba.info.onGpu, binding: mamba.device.gpu?.limits.max_storage_buffer_binding_size };
};

describe('the package', { timeout: 900_000 }, () => {
  let browser, site, page;
  before(async () => {
    [browser, site] = [await h.launch(), await h.site()];
    page = await h.visit(await browser.newContext(), `${site.url}pkg/package.json`);
  });
  after(async () => {
    await browser?.close();
    site?.close();
  });
  beforeEach(() => {
    site.handle = async () => false;
  });

  for (const name of ['original', 'falcon-untied']) {
    it(`gives the native program's logits: ${name}`, async () => {
      const { sequences } = JSON.parse(readFileSync(`${h.golden(name)}/expected.json`, 'utf8'));
      const { tokens, last_logits: reference } = sequences[0];
      const files = Object.fromEntries(['config.json', 'model.safetensors'].map((file) => [file, [...readFileSync(`${h.golden(name)}/${file}`)]]));
      const logits = await page.evaluate(
        async ([bytes, ids]) => {
          const { Mamba } = await import('/pkg/index.js');
          const files = Object.fromEntries(Object.entries(bytes).map(([file, content]) => [file, new Uint8Array(content)]));
          const mamba = await Mamba.load({ name: 'golden', files }, { backend: 'webgpu' });
          const logits = await mamba.logits(ids);
          mamba.close();
          return [...logits];
        },
        [files, tokens],
      );
      const native = JSON.parse(await h.native('logits', '--json', '--model', h.golden(name), '--tokens', tokens.join(',')));
      const [toNative, toReference] = [h.farthest(logits, native.last_logits), h.farthest(logits, reference)];
      console.log(`${name}: ${logits.length} logits after ${tokens.length} tokens; farthest from native ${toNative.toExponential(2)}, from transformers ${toReference.toExponential(2)}`);
      assert.ok(toNative < 1e-3 && toReference < 1e-3);
      // The comparison can fail: it sees a logit that is off, and one that is no number.
      assert.ok(h.farthest(logits.with(3, logits[3] + 2e-3), native.last_logits) > 1e-3);
      assert.equal(h.farthest(logits.with(3, NaN), native.last_logits), Infinity);
    });
  }

  const arguments_ = (count, options) => ({ base: site.url, prompt: PROMPT, count, options });

  it('writes with WebGPU’s default limits and no features', async () => {
    const { tokens, binding } = await page.evaluate(writeGreedily, arguments_(16, { baseline: true }));
    assert.equal(binding, 128 << 20);
    assert.deepEqual(tokens, GREEDY.slice(0, 16));
  });

  it('writes on the page’s own thread, and on a worker’s', async () => {
    assert.deepEqual((await page.evaluate(writeGreedily, arguments_(8, { worker: false }))).tokens, GREEDY.slice(0, 8));
    const source = `onmessage = async ({ data }) => postMessage(await (${writeGreedily})(data));`;
    const inWorker = await page.evaluate(
      ([script, message]) =>
        new Promise((resolve, reject) => {
          const worker = new Worker(URL.createObjectURL(new Blob([script], { type: 'text/javascript' })), { type: 'module' });
          worker.onmessage = ({ data }) => resolve(data);
          worker.onerror = (event) => reject(new Error(event.message));
          worker.postMessage(message);
        }),
      [source, arguments_(8, {})],
    );
    assert.deepEqual(inWorker.tokens, GREEDY.slice(0, 8));
  });

  it('sees a model whose weights are a little off', async () => {
    site.handle = async (request, response) => {
      if (!request.url.endsWith('model.safetensors')) return false;
      const bytes = readFileSync(`${h.ROOT}/models/austen-4m/model.safetensors`);
      // The sign of every 50th f16 of the last megabyte.
      for (let at = bytes.length - 1; at > bytes.length - (1 << 20); at -= 100) bytes[at] ^= 0x80;
      response.writeHead(200, { 'content-length': bytes.length }).end(bytes);
      return true;
    };
    const { tokens } = await page.evaluate(writeGreedily, arguments_(32, {}));
    assert.notDeepEqual(tokens, GREEDY.slice(0, 32));
  });

  it('exchanges states with the native program', async () => {
    const folder = mkdtempSync('/tmp/mamba-web-');
    const [there, back] = [`${folder}/there.mamba-state`, `${folder}/back.mamba-state`];
    const generate = (...args) => h.native('generate', '--json', '--temperature', '0', '--backend', 'cpu', ...args);
    const first = JSON.parse(await generate(PROMPT, '--max-tokens', '10', '--state-out', there));
    assert.deepEqual(first.tokens, GREEDY.slice(0, 10));
    const { tokens, state, error } = await page.evaluate(
      async ([base, bytes]) => {
        const { Mamba } = await import('/pkg/index.js');
        const mamba = await Mamba.load(`${base}models/austen-4m/`, { backend: 'webgpu' });
        await mamba.state.load(new Uint8Array(bytes));
        const tokens = [];
        for await (const { token } of mamba.generate('', { append: true, temperature: 0, maxTokens: 10 })) tokens.push(token);
        const state = [...(await mamba.state.save())];
        bytes[bytes.length - 50] ^= 1;
        const error = await mamba.state.load(new Uint8Array(bytes), 'mine').catch(({ code, message }) => ({ code, message }));
        mamba.close();
        return { tokens, state, error };
      },
      [site.url, [...readFileSync(there)]],
    );
    assert.deepEqual(tokens, GREEDY.slice(10, 20));
    assert.equal(error.code, 'damaged-state');
    assert.match(error.message, /^mine: damaged/);
    writeFileSync(back, Buffer.from(state));
    assert.deepEqual(JSON.parse(await generate('--max-tokens', '10', '--state-in', back)).tokens, GREEDY.slice(20, 30));
  });

  it('refuses another model’s state, and bad options, with codes', async () => {
    const folder = mkdtempSync('/tmp/mamba-web-');
    await h.native('generate', 'x', '--max-tokens', '1', '--backend', 'cpu', '--state-out', `${folder}/s`);
    const files = Object.fromEntries(['config.json', 'model.safetensors'].map((file) => [file, [...readFileSync(`${h.golden('f16')}/${file}`)]]));
    const codes = await page.evaluate(
      async ([bytes, state, base]) => {
        const { Mamba } = await import('/pkg/index.js');
        const code = (promise) => promise.then(() => 'none', ({ code, message }) => `${code}: ${message}`);
        const mamba = await Mamba.open({ backend: 'cpu' });
        const codes = [await code(mamba.tokens()), await code(mamba.loadModel(`${base}none/`, { cache: false }))];
        await mamba.loadModel({ files: Object.fromEntries(Object.entries(bytes).map(([file, content]) => [file, new Uint8Array(content)])) });
        codes.push(await code(mamba.state.load(new Uint8Array(state))), await code(mamba.encode('x')), await code(mamba.logits([1 << 30])));
        mamba.close();
        codes.push(await code(mamba.tokens()));
        return codes;
      },
      [files, [...readFileSync(`${folder}/s`)], site.url],
    );
    const words = [/^no-model/, /^unusable-model: .*none\/config\.json/, /^other-models-state: .*another model/, /^no-tokenizer/, /^options: .*out of range/, /^closed/];
    words.forEach((pattern, i) => assert.match(codes[i], pattern));
  });
});

describe('without', { timeout: 900_000 }, () => {
  let site;
  before(async () => (site = await h.site()));
  after(() => site?.close());

  it('WebGPU’s flag, the page says so, and writes on the CPU', async () => {
    const browser = await h.launch(h.NO_WEBGPU);
    try {
      // Nobody has to be asked for the CPU where there is no GPU; one that is asked for and not there is.
      const page = await h.visit(await browser.newContext(), site.url, null);
      await page.locator('#where').filter({ hasText: 'processor: this browser gives the page no GPU' }).waitFor();
      assert.equal(await page.locator('#notice').isVisible(), false);
      await page.click('#elsewhere');
      await page.locator('#notice-title').filter({ hasText: 'No GPU to be had' }).waitFor();
      await page.click('#notice-actions button:has-text("CPU")');
      await page.locator('#model-name').filter({ hasText: 'Austen' }).waitFor();
      await h.sampling(page, h.GREEDY);
      await h.write(page, PROMPT);
      assert.deepEqual((await h.tokens(page)).all, [...TOKENS, ...GREEDY]);
      // The CPU gives way to messages: it can be stopped too.
      await h.sampling(page, { maxTokens: 100_000 });
      await page.click('#go');
      await page.waitForFunction(() => document.querySelectorAll('#text span:not(.prompt)').length >= 5);
      await page.keyboard.press('Escape');
      await h.written(page);
    } finally {
      await browser.close();
    }
  });

  it('any WebGPU, the page says so', async () => {
    const browser = await h.launch();
    try {
      const page = await (await browser.newContext()).newPage();
      // The worker's navigator is out of reach, so it goes with its script's first line.
      await page.route('**/pkg/worker.js', async (route) => {
        const script = await (await route.fetch()).text();
        await route.fulfill({ contentType: 'text/javascript', body: `delete WorkerNavigator.prototype.gpu;\n${script}` });
      });
      await page.goto(site.url);
      await page.locator('#where').filter({ hasText: 'processor: this browser offers no WebGPU' }).waitFor();
      assert.deepEqual([await page.locator('#notice').isVisible(), await page.locator('#elsewhere').isVisible()], [false, false]);
      await page.goto(`${site.url}?backend=webgpu`);
      await page.locator('#notice-title').filter({ hasText: 'no WebGPU' }).waitFor();
      assert.equal(await page.locator('#notice-actions button:has-text("CPU")').isVisible(), true);
    } finally {
      await browser.close();
    }
  });

  it('its GPU process, the page keeps the text and goes on after loading again', async () => {
    const browser = await h.launch();
    try {
      const context = await browser.newContext();
      const page = await h.visit(context, site.url);
      await h.loadDemo(page);
      await h.sampling(page, { ...h.GREEDY, maxTokens: 2000 });
      await page.fill('#prompt', PROMPT);
      await page.click('#go');
      await page.waitForFunction(() => document.querySelectorAll('#text span:not(.prompt)').length >= 10);
      await (await browser.newBrowserCDPSession()).send('Browser.crashGpuProcess');
      await page.locator('#notice-title').filter({ hasText: 'GPU went away' }).waitFor();
      const kept = (await h.tokens(page)).all;
      assert.ok(kept.length >= TOKENS.length + 10);
      await page.click('#notice-actions button:has-text("Try again")');
      await page.locator('#model-name').filter({ hasText: 'Austen' }).waitFor();
      await h.sampling(page, { maxTokens: 10 });
      await h.write(page, undefined, '#continue');
      const all = (await h.tokens(page)).all;
      assert.equal(all.length, kept.length + 10);
      const same = Math.min(all.length, TOKENS.length + GREEDY.length);
      assert.deepEqual(all.slice(0, same), [...TOKENS, ...GREEDY].slice(0, same));
    } finally {
      await browser.close();
    }
  });
});
