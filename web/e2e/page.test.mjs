// The page, as a person uses it: in Chromium, on SwiftShader's WebGPU.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { after, before, beforeEach, describe, it } from 'node:test';
import * as h from './harness.mjs';

const PROMPT = h.expected.prompts[0].prompt;

/** Deletes the one cached copy, and waits until it is gone: a page that is reloaded before would still find it. */
async function deleted(page) {
  const button = page.locator('#cache-list button:has-text("Delete")');
  await button.click();
  await button.waitFor({ state: 'detached' });
}

/** What the server calls the weights' version, for answers of a test's own. */
const etag = async ({ url }) => (await fetch(`${url}models/austen-4m/model.safetensors`, { method: 'HEAD' })).headers.get('etag');

describe('the page', { timeout: 900_000 }, () => {
  let browser, context, site, page;
  before(async () => {
    [browser, site] = [await h.launch(), await h.site()];
    context = await browser.newContext({ viewport: { width: 1280, height: 900 } });
  });
  after(async () => {
    await browser?.close();
    site?.close();
  });
  beforeEach(() => {
    site.handle = async () => false;
  });

  it('loads, asks only its own server, and reports no error', async () => {
    const hosts = new Set();
    context.on('request', (request) => hosts.add(new URL(request.url()).protocol + new URL(request.url()).host));
    page = await h.visit(context, site.url);
    await h.deviceReady(page);
    assert.equal(await page.title(), 'mamba-wgpu');
    assert.equal(await page.locator('#notice').isVisible(), false, await page.locator('#notice').innerText());
    await page.click('#tab-device');
    assert.match(await page.locator('#device-name').innerText(), /swiftshader/i);
    assert.match(await page.locator('#device-facts').innerText(), /Largest binding\s+\d+/);
    await page.click('#tab-write');
    assert.deepEqual([...hosts].filter((host) => host.startsWith('http:')), [`http:${new URL(site.url).host}`]);
    assert.deepEqual(page.errors, []);
  });

  it('shows progress in bytes while the model comes', async () => {
    // In pieces, so that there is something to see.
    site.handle = async (request, response) => {
      if (request.method !== 'GET' || !request.url.endsWith('.safetensors')) return false;
      const bytes = readFileSync(`${h.ROOT}/models/austen-4m/model.safetensors`);
      response.writeHead(200, { 'content-length': bytes.length, etag: await etag(site) });
      for (let at = 0; at < bytes.length; at += 1 << 20) {
        response.write(bytes.subarray(at, at + (1 << 20)));
        await new Promise((resolve) => setTimeout(resolve, 60));
      }
      response.end();
      return true;
    };
    await page.evaluate(() => {
      window.seen = [];
      const bytes = document.getElementById('loading-bytes');
      const note = () => window.seen.push([document.getElementById('loading-what').textContent, bytes.textContent]);
      new MutationObserver(note).observe(bytes, { childList: true, characterData: true, subtree: true });
    });
    await h.loadDemo(page);
    const seen = await page.evaluate(() => window.seen);
    const downloads = [...new Set(seen.filter(([what]) => /Downloading model/.test(what)).map(([, bytes]) => bytes))];
    assert.ok(downloads.length >= 4, JSON.stringify(seen));
    assert.ok(downloads.every((text) => /^[\d.]+ \w+ of [\d.]+ MiB$/.test(text)), JSON.stringify(downloads));
    assert.ok(seen.some(([what]) => /weights ready/.test(what)), 'the upload too');
    assert.equal(await page.locator('#loading').isVisible(), false);
  });

  it('writes the greedy tokens that transformers writes, 32 a prompt', async () => {
    assert.equal(h.expected.prompts.length, 3);
    await h.sampling(page, { ...h.GREEDY, maxTokens: 32 });
    for (const { prompt, tokens, greedy_tokens: greedy, greedy_text: text } of h.expected.prompts) {
      await h.write(page, prompt);
      const shown = await h.tokens(page);
      assert.deepEqual(shown.prompt, tokens, prompt);
      assert.deepEqual(shown.all.slice(tokens.length), greedy.slice(0, 32), prompt);
      const written = await page.locator('#text').evaluate((element) => element.textContent);
      assert.ok(text.startsWith(written) && written.length > prompt.length + 32, written);
    }
    assert.match(await page.locator('#stats').innerText(), /tok\/s[\s\S]* m?s\b[\s\S]*32[\s\S]*its length/);
    assert.deepEqual(page.errors, []);
  });

  it('stops in the middle, and continues', async () => {
    await h.sampling(page, { maxTokens: 2000 });
    await page.fill('#prompt', PROMPT);
    await page.click('#go');
    await page.waitForFunction(() => document.querySelectorAll('#text span:not(.prompt)').length >= 5);
    await page.click('#stop');
    await h.written(page);
    const stopped = (await h.tokens(page)).all;
    assert.ok(stopped.length < 500, `${stopped.length} tokens`);
    await new Promise((resolve) => setTimeout(resolve, 500));
    assert.equal((await h.tokens(page)).all.length, stopped.length, 'nothing comes after the stop');
    assert.match(await page.locator('#stat-end').innerText(), /you/);
    const { tokens, greedy_tokens: greedy } = h.expected.prompts[0];
    await h.sampling(page, { maxTokens: 8 });
    await h.write(page, undefined, '#continue');
    const whole = (await h.tokens(page)).all;
    assert.equal(whole.length, stopped.length + 8);
    const same = Math.min(whole.length, tokens.length + greedy.length);
    assert.deepEqual(whole.slice(0, same), [...tokens, ...greedy].slice(0, same));
  });

  it('stays responsive while it writes: the main thread answers within 100 ms', async () => {
    await h.sampling(page, { maxTokens: 2000 });
    // The machine may be busy with other things: the best of three runs counts.
    const runs = [];
    for (let i = 0; i < 3 && !(Math.max(...(runs.at(-1) ?? [Infinity])) < 100); i++) {
      await page.fill('#prompt', PROMPT);
      await page.click('#go');
      await page.waitForFunction(() => document.querySelectorAll('#text span:not(.prompt)').length >= 2);
      runs.push(
        await page.evaluate(async () => {
          const pings = [];
          while (pings.length < 150) {
            const sent = performance.now();
            await new Promise((resolve) => {
              const { port1, port2 } = new MessageChannel();
              port1.onmessage = resolve;
              port2.postMessage(null);
            });
            pings.push(performance.now() - sent);
            await new Promise((resolve) => setTimeout(resolve, 10));
          }
          if (document.getElementById('stop').hidden) throw new Error('it had stopped writing');
          return pings;
        }),
      );
      await page.keyboard.press('Escape');
      await h.written(page);
    }
    const pings = runs.at(-1).sort((a, b) => a - b);
    console.log(`pings: median ${pings[75].toFixed(2)} ms, slowest ${pings.at(-1).toFixed(1)} ms of ${pings.length}, run ${runs.length}`);
    assert.ok(pings.at(-1) < 100, `the slowest of ${pings.length} pings took ${pings.at(-1)} ms`);
  });

  it('saves a state; after a reload it goes on as if nothing had been', async () => {
    const { tokens, greedy_tokens: greedy } = h.expected.prompts[1];
    const whole = [...tokens, ...greedy.slice(0, 32)];
    await h.sampling(page, { ...h.GREEDY, maxTokens: 14 });
    await h.write(page, h.expected.prompts[1].prompt);
    const state = await h.downloaded(page, '#save');
    assert.ok(state.length > 100_000 && state.length < 500_000, `${state.length} bytes`);

    await page.reload();
    await page.locator('#model-name').filter({ hasText: 'Austen' }).waitFor();
    await h.sampling(page, { ...h.GREEDY, maxTokens: 18 });
    await page.setInputFiles('#load-state', { name: 'a.mamba-state', mimeType: '', buffer: state });
    await page.waitForFunction((n) => document.querySelectorAll('#text span').length === n, tokens.length + 14);
    await h.write(page, undefined, '#continue');
    assert.deepEqual((await h.tokens(page)).all, whole);

    // A damaged file, another model's and something else are refused by name, and the text is as it was.
    const damaged = Buffer.from(state);
    damaged[damaged.length >> 1] ^= 1;
    const other = Buffer.from(await h.native('--version'));
    for (const [name, buffer, title] of [
      ['bad.mamba-state', damaged, /damaged/],
      ['text.mamba-state', other, /no saved state/],
    ]) {
      await page.setInputFiles('#load-state', { name, mimeType: '', buffer });
      await page.locator('#notice-title').filter({ hasText: title }).waitFor();
      assert.ok((await page.locator('#notice-code').textContent()).includes(name));
      await page.click('#notice-actions button:has-text("Dismiss")');
    }
    assert.deepEqual((await h.tokens(page)).all, whole);
  });

  it('goes back to a token, and forks', async () => {
    const { tokens, greedy_tokens: greedy } = h.expected.prompts[1];
    const whole = [...tokens, ...greedy.slice(0, 32)];
    const at = tokens.length + 16;
    await h.goTo(page, at);
    await page.click('#fork');
    await page.waitForFunction((n) => document.querySelectorAll('#text span').length === n, at);
    assert.deepEqual((await h.tokens(page)).all, whole.slice(0, at));
    await h.sampling(page, { temperature: 1.5, seed: 3, maxTokens: 8 });
    await h.write(page, undefined, '#continue');
    const fork = (await h.tokens(page)).all;
    assert.notDeepEqual(fork.slice(at), whole.slice(at, at + 8));
    // Back to the first text, which goes on where it was.
    await page.click('#branches button >> nth=0');
    await page.waitForFunction((n) => document.querySelectorAll('#text span').length === n, whole.length);
    await h.goTo(page, at);
    await page.click('#undo');
    await page.waitForFunction((n) => document.querySelectorAll('#text span').length === n, at);
    await h.sampling(page, { ...h.GREEDY, maxTokens: 12 });
    await h.write(page, undefined, '#continue');
    assert.deepEqual((await h.tokens(page)).all, whole.slice(0, at + 12));
    // Other words from there: they are read, and written on from.
    await h.sampling(page, { maxTokens: 4 });
    await h.write(page, 'Emma', '#add');
    const added = (await h.tokens(page)).all;
    assert.deepEqual(added.slice(0, at + 12), whole.slice(0, at + 12));
    assert.match(await page.locator('#text').evaluate((element) => element.textContent), /\S\s+Emma/);
    await page.click('#branches button >> nth=1');
    await page.waitForFunction((n) => document.querySelectorAll('#text span').length === n, fork.length);
    assert.deepEqual((await h.tokens(page)).all, fork);
  });

  it('takes the weights from the cache on the second visit, and deletes them when told to', async () => {
    site.requests.length = 0;
    const second = await h.visit(context, site.url);
    await second.locator('#model-name').filter({ hasText: 'Austen' }).waitFor();
    // The server is asked whether it still has the same, and for nothing else.
    const weights = () => site.requests.filter((request) => request.startsWith('GET') && request.includes('/models/'));
    assert.deepEqual(weights(), [], site.requests.join('\n'));
    assert.ok(site.requests.some((request) => /^HEAD .*model\.safetensors/.test(request)));
    await deleted(second);
    await second.reload();
    await h.loadDemo(second);
    assert.ok(weights().some((request) => request.includes('model.safetensors')), 'the test can fail');
    await second.close();
  });

  it('finds a copy in the cache that is damaged, and gets another', async () => {
    const second = await h.visit(context, site.url);
    await second.locator('#model-name').filter({ hasText: 'Austen' }).waitFor();
    await second.evaluate(async () => {
      const cache = await caches.open('mamba-wgpu-2');
      const key = (await cache.keys()).find(({ url }) => /safetensors\?mamba-wgpu=\w+-0$/.test(url));
      const bytes = new Uint8Array(await (await cache.match(key)).arrayBuffer());
      bytes.fill(0xff, 0, 16);
      await cache.put(key, new Response(bytes));
    });
    await second.reload();
    await second.locator('#notice-title').filter({ hasText: 'damaged' }).waitFor();
    assert.match(await second.locator('#notice-code').textContent(), /model\.safetensors.*removed/s);
    await second.click('#notice-actions button:has-text("Try again")');
    await second.locator('#model-name').filter({ hasText: 'Austen' }).waitFor();
    await second.close();
  });

  it('names the file that is corrupt', async () => {
    const folder = `${h.ROOT}/models/austen-4m`;
    const read = (name) => readFileSync(`${folder}/${name}`);
    const weights = read('model.safetensors');
    const files = (content) => [
      { name: 'config.json', mimeType: '', buffer: read('config.json') },
      { name: 'tokenizer.json', mimeType: '', buffer: read('tokenizer.json') },
      { name: 'weights.safetensors', mimeType: '', buffer: content },
    ];
    await page.setInputFiles('#files', files(weights.subarray(0, weights.length - 1000)));
    await page.locator('#notice-title').filter({ hasText: 'damaged' }).waitFor();
    assert.match(await page.locator('#notice-code').textContent(), /weights\.safetensors: damaged safetensors file/);
    const nan = Buffer.from(weights);
    nan.fill(0xff, nan.length - 2);
    await page.setInputFiles('#files', files(nan));
    await page.locator('#notice-code').filter({ hasText: 'NaN' }).waitFor({ state: 'attached' });
    assert.match(await page.locator('#notice-code').textContent(), /weights\.safetensors: tensor `.+` holds NaN/);
    // The whole file, dropped instead.
    await page.setInputFiles('#files', files(weights));
    await page.locator('#model-name').filter({ hasText: 'files' }).waitFor();
    assert.equal(await page.locator('#notice').isVisible(), false);
    // Nothing of a model at all.
    await page.setInputFiles('#files', [{ name: 'pytorch_model.bin', mimeType: '', buffer: Buffer.from('x') }]);
    await page.locator('#notice-code').filter({ hasText: 'convert' }).waitFor({ state: 'attached' });
  });

  it('resumes a download that broke off', async () => {
    const second = await h.visit(context, site.url);
    await second.locator('#model-name').filter({ hasText: 'Austen' }).waitFor();
    await deleted(second);
    await second.reload();
    await h.deviceReady(second);
    let breaks = 0;
    site.requests.length = 0;
    site.handle = async (request, response) => {
      if (request.method !== 'GET' || !request.url.endsWith('model.safetensors') || breaks++ > 0) return false;
      const bytes = readFileSync(`${h.ROOT}/models/austen-4m/model.safetensors`);
      response.writeHead(200, { 'content-length': bytes.length, etag: await etag(site) });
      response.write(bytes.subarray(0, 3_000_000));
      await new Promise((resolve) => setTimeout(resolve, 300));
      response.destroy();
      return true;
    };
    await second.click('#load-demo');
    await second.locator('#model-name').filter({ hasText: 'Austen' }).waitFor();
    const weights = site.requests.filter((request) => /^GET .*model\.safetensors/.test(request));
    assert.equal(weights.length, 2, JSON.stringify(weights));
    assert.match(weights[1], /bytes=[1-9]\d+-$/);

    // A server that is gone: said in words, and a way on.
    await deleted(second);
    site.handle = async (request, response) => request.url.includes('/models/') && (response.destroy(), true);
    await second.click('#load-demo', { force: true }).catch(() => {});
    await second.reload();
    await h.deviceReady(second);
    await second.click('#load-demo');
    await second.locator('#notice-title').filter({ hasText: 'download failed' }).waitFor();
    site.handle = async () => false;
    await second.click('#notice-actions button:has-text("Try again")');
    await second.locator('#model-name').filter({ hasText: 'Austen' }).waitFor();
    await second.close();
  });

  it('measures, and reports in the native schema', async () => {
    await page.click('#tab-bench');
    await page.uncheck('input[value=matmul]');
    await page.fill('#bench-seconds', '5');
    await page.click('#bench-run');
    await page.locator('#bench-save').waitFor();
    const report = JSON.parse(String(await h.downloaded(page, '#bench-save')));
    assert.ok(report.rows.some((row) => row.suite === 'scan' && row.wall_us?.median > 0), 'a scan was measured');
    assert.match(report.date, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/);
    assert.ok((await page.locator('#bench-result .bar').count()) >= 2);
    const { mkdtempSync } = await import('node:fs');
    const path = `${mkdtempSync('/tmp/mamba-web-')}/native.json`;
    await h.native('bench', 'scan', '--time-limit', '2', '--json', path);
    const native = JSON.parse(readFileSync(path, 'utf8'));
    const keys = (value) => Object.keys(value).sort();
    assert.deepEqual(keys(report), keys(native));
    assert.deepEqual(keys(report.rows[0]), keys(native.rows[0]));
    assert.deepEqual(keys(report.device), keys(native.device));
    assert.deepEqual(keys(report.device.adapter), keys(native.device.adapter));
    assert.deepEqual(report.rows.map(({ suite, name, variant }) => [suite, name, variant]), native.rows.map(({ suite, name, variant }) => [suite, name, variant]));
    await page.click('#tab-write');
  });

  it('tests every kernel, and the demo model', async () => {
    await h.loadDemo(page);
    await page.click('#tab-device');
    await page.click('#selftest');
    await page.locator('#selftest-summary').filter({ hasText: 'checks' }).waitFor({ timeout: 180_000 });
    const list = await page.locator('#selftest-list').innerText();
    assert.match(await page.locator('#selftest-summary').innerText(), /^All \d+ checks passed$/, list);
    assert.match(list, /scan_fused[\s\S]*demo model against PyTorch/);
    await page.click('#tab-write');
  });

  it('can be used by keyboard alone, with the focus in sight', async () => {
    const second = await h.visit(context, site.url);
    await second.locator('#model-name').filter({ hasText: 'Austen' }).waitFor();
    await h.sampling(second, h.GREEDY);
    const seen = new Set();
    for (let i = 0; i < 40; i++) {
      await second.keyboard.press('Tab');
      const focus = await second.evaluate(() => {
        const { id, tagName } = document.activeElement;
        const target = document.activeElement.closest('.button') ?? document.activeElement;
        const { outlineStyle, outlineWidth } = getComputedStyle(target);
        return { id: id || tagName, visible: outlineStyle !== 'none' && parseFloat(outlineWidth) >= 2 };
      });
      if (focus.id === 'BODY') break;
      seen.add(focus.id);
      assert.ok(focus.visible, `no outline on #${focus.id}`);
    }
    for (const id of ['prompt', 'go', 'temperature', 'maxTokens', 'load-state', 'tab-write']) assert.ok(seen.has(id), `#${id} cannot be reached: ${[...seen]}`);
    await second.focus('#prompt');
    await second.keyboard.press('Control+Enter');
    await second.waitForFunction(() => document.querySelectorAll('#text span:not(.prompt)').length >= 3);
    await second.keyboard.press('Escape');
    await h.written(second);
    assert.match(await second.locator('#status').textContent(), /^Done: \d+ tokens$/);
    await second.focus('#point');
    await second.keyboard.press('Home');
    await second.focus('#undo');
    await second.keyboard.press('Enter');
    await second.waitForFunction(() => document.querySelectorAll('#text span').length === 1);
    await second.focus('#tab-write');
    await second.keyboard.press('ArrowRight');
    assert.equal(await second.locator('#explain').isVisible(), true);
    await second.close();
  });

  it('fits 390 and 1280 pixels, dark and light', async () => {
    for (const [width, height] of [[1280, 900], [390, 844]]) {
      for (const colorScheme of ['light', 'dark']) {
        await page.setViewportSize({ width, height });
        await page.emulateMedia({ colorScheme });
        for (const tab of ['write', 'explain', 'train', 'bench', 'device']) {
          await page.click(`#tab-${tab}`);
          const overflow = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
          assert.ok(overflow <= 0, `${tab} at ${width} overflows by ${overflow} px`);
        }
      }
    }
    await page.click('#tab-write');
  });
});
