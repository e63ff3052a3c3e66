// Where nothing is said: hardware, or else the CPU, which is faster than a GPU in software; and how the other is had.
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import * as h from './harness.mjs';

const [{ prompt: PROMPT, tokens: TOKENS, greedy_tokens: GREEDY }] = h.expected.prompts;
const text = (page, id) => page.locator(`#${id}`).innerText();

describe('the choice of the backend', { timeout: 600_000 }, () => {
  let browser, site;
  before(async () => ([browser, site] = [await h.launch(), await h.site()]));
  after(async () => {
    await browser?.close();
    site?.close();
  });

  it('WebGPU in software: the page runs on the processor, says so, and offers the GPU', async () => {
    const page = await h.visit(await browser.newContext({ viewport: { width: 390, height: 844 } }), site.url, null);
    await h.deviceReady(page);
    assert.match(await text(page, 'where'), /^Running on this computer’s processor: .* in software, which is slower$/);
    assert.equal(await text(page, 'elsewhere'), 'Try the GPU (in software)');
    assert.equal(await page.locator('#notice').isVisible(), false);
    assert.ok((await page.evaluate(() => document.documentElement.scrollWidth - innerWidth)) <= 0);
    await h.loadDemo(page);
    assert.match(await text(page, 'model-facts'), /on the CPU$/);
    await h.sampling(page, { ...h.GREEDY, maxTokens: 12 });
    await h.write(page, PROMPT);
    assert.deepEqual((await h.tokens(page)).all, [...TOKENS, ...GREEDY.slice(0, 12)]);

    // What needs a GPU says why there is none, and offers it too.
    await page.click('#tab-device');
    assert.match(await text(page, 'device-hint'), /in software/);
    await page.click('#selftest');
    await page.locator('#notice-title').filter({ hasText: 'This needs a GPU' }).waitFor();
    assert.match(await text(page, 'notice-text'), /in software/);
    assert.deepEqual(await page.locator('#notice-actions button').allInnerTexts(), ['Try the GPU', 'Dismiss']);
    await page.click('#notice-actions button:has-text("Dismiss")');
    await page.click('#tab-write');

    // The text comes along to the GPU; the address keeps the choice.
    await page.click('#elsewhere');
    await page.locator('#where').filter({ hasText: 'on a GPU in software' }).waitFor();
    await page.waitForFunction(() => !document.getElementById('continue').disabled);
    assert.match(page.url(), /\?backend=webgpu/);
    assert.doesNotMatch(await text(page, 'model-facts'), /CPU/);
    await h.sampling(page, { maxTokens: 4 });
    await h.write(page, undefined, '#continue');
    assert.deepEqual((await h.tokens(page)).all, [...TOKENS, ...GREEDY.slice(0, 16)]);
    await page.click('#tab-device');
    assert.match(await text(page, 'device-name'), /swiftshader/i);

    // And back.
    assert.equal(await text(page, 'elsewhere'), 'Use the processor');
    await page.click('#elsewhere');
    await page.locator('#where').filter({ hasText: 'on this computer’s processor' }).waitFor();
    await page.reload();
    await h.deviceReady(page);
    assert.match(await text(page, 'where'), /in this page, on this computer’s processor$/);
    assert.equal(await text(page, 'elsewhere'), 'Try the GPU');
  });

  it('the package takes hardware alone by itself, and says what it passed over', async () => {
    const page = await h.visit(await browser.newContext(), `${site.url}pkg/package.json`);
    const opened = await page.evaluate(async () => {
      const { Mamba } = await import('/pkg/index.js');
      const open = async (options) => {
        try {
          const mamba = await Mamba.open({ worker: false, ...options });
          mamba.close();
          const { gpu, software, passedOver } = mamba.device;
          return [Boolean(gpu), software, passedOver?.code ?? null];
        } catch ({ code, message }) {
          return `${code}: ${message}`;
        }
      };
      // Another adapter, as far as a page can tell.
      const named = (info) => Object.defineProperty(GPUAdapter.prototype, 'info', { configurable: true, get: () => ({ device: '', description: '', ...info }) });
      const outcomes = { auto: await open(), webgpu: await open({ backend: 'webgpu' }), cpu: await open({ backend: 'cpu' }), wrong: await open({ backend: 'gpu' }) };
      named({ vendor: 'nvidia', architecture: 'hopper', isFallbackAdapter: false });
      outcomes.hardware = await open();
      named({ vendor: 'google', architecture: 'swiftshader' });
      outcomes.old = await open();
      named({ vendor: 'microsoft', architecture: '', description: 'Microsoft Basic Render Driver', isFallbackAdapter: false });
      outcomes.warp = await open();
      GPUAdapter.prototype.requestDevice = () => Promise.reject(new Error('no device today'));
      named({ vendor: 'nvidia', architecture: 'hopper', isFallbackAdapter: false });
      outcomes.refused = await open();
      outcomes.insisted = await open({ backend: 'webgpu' });
      return outcomes;
    });
    const { wrong, insisted, ...rest } = opened;
    assert.deepEqual(rest, {
      auto: [false, false, 'software-gpu'],
      webgpu: [true, true, null],
      cpu: [false, false, null],
      hardware: [true, false, null],
      old: [false, false, 'software-gpu'],
      warp: [false, false, 'software-gpu'],
      refused: [false, false, 'device-refused'],
    });
    assert.match(wrong, /^options: backend "gpu": one of auto, webgpu, cpu/);
    assert.match(insisted, /^device-refused: .*no device today/);
  });
});
