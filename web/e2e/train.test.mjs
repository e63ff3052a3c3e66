// The train tab, and the package's training: the native program's losses, a model that learns, and one that does not.
import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync } from 'node:fs';
import { after, before, describe, it } from 'node:test';
import * as h from './harness.mjs';

const text = (page, id) => page.locator(`#${id}`).innerText();
/** The curve's points. */
const points = (page, line) => page.locator(`#train-curve polyline.${line}`).evaluate((polyline) => (polyline.getAttribute('points') || '').split(' ').filter(Boolean).map((pair) => pair.split(',').map(Number)));
const idle = (page) => page.waitForFunction(() => document.getElementById('train-stop').hidden && !document.getElementById('try').hidden && document.getElementById('try-answer').textContent);

async function start(page, { steps, rate = 0.008, seed = 0 }) {
  for (const [id, value] of Object.entries({ 'train-steps': steps, 'train-rate': rate, 'train-seed': seed })) await page.fill(`#${id}`, String(value));
  await page.click('#train-run');
}
/** Waits until a run of so many steps has done some of them. */
const reached = (page, step, of) => page.waitForFunction(([step, of]) => document.getElementById('train-step').textContent.endsWith(`of ${of}`) && parseInt(document.getElementById('train-step').textContent) >= step, [step, of]);

describe('training', { timeout: 900_000 }, () => {
  let browser, site, page;
  before(async () => {
    [browser, site] = [await h.launch(), await h.site()];
    page = await h.visit(await browser.newContext({ viewport: { width: 1280, height: 900 } }), `${site.url}#train`);
    // A step of a software GPU on a busy machine takes seconds.
    page.setDefaultTimeout(240_000);
    await h.deviceReady(page);
  });
  after(async () => {
    await browser?.close();
    site?.close();
  });

  it('by the package has the native program’s losses, twice the same', async () => {
    const folder = mkdtempSync('/tmp/mamba-web-');
    await h.native('train', '--task', 'induction-heads', '--preset', 'tiny', '--steps', '4', '--seed', '5', '--log-every', '1', '--out', folder);
    const log = readFileSync(`${folder}/log.jsonl`, 'utf8').trim().split('\n').map((line) => JSON.parse(line));
    const native = log.filter(({ loss }) => loss != null).map(({ loss }) => loss);
    assert.equal(native.length, 4);
    const { runs, info, defaults, example, shares, before, codes, records } = await page.evaluate(async () => {
      const { Mamba } = await import('/pkg/index.js');
      const mamba = await Mamba.open({ backend: 'webgpu' });
      const code = (promise) => promise.then(() => 'none', ({ code, message }) => `${code}: ${message}`);
      const runs = [];
      const records = [];
      let training, before;
      // The first in two parts, the second in one.
      for (const parts of [[1, 99], [4]]) {
        training = await mamba.train({ steps: 4, seed: 5 });
        before ??= [...(await training.predict([0, 7, 3, 1, 7]))];
        const losses = [];
        const done = [];
        for (const steps of parts) done.push(await training.run({ steps, onRecord: (record) => (losses.push(record.loss), records.push(record)) }));
        runs.push({ losses, done, more: await training.run() });
      }
      const example = await training.example({ length: 40, number: 3 });
      // Not one after the other: each has its turn.
      const [shares, judged] = await Promise.all([training.predict(example.tokens), training.evaluate({ length: 40, sequences: 4 })]);
      const codes = [
        await code(training.predict([9])),
        await code(training.predict([])),
        await code(training.evaluate({ length: 2 })),
        await code(mamba.train({ steps: 0 })),
        await code(mamba.train({ step: 1 })),
        `${judged.sequences} ${judged.correct / 4 === judged.accuracy} ${judged.loss > 0}`,
      ];
      const { info } = training;
      await training.close();
      codes.push(await code(training.predict([1])));
      const defaults = await mamba.trainDefaults();
      mamba.close();
      return { runs, info, defaults, example, shares: [...shares], before, codes, records };
    });
    assert.deepEqual(runs[0].losses, runs[1].losses);
    assert.deepEqual(runs.map(({ done, more }) => [done, more]), [[[1, 3], 0], [[4], 0]]);
    assert.deepEqual(records.slice(0, 4).map(({ step }) => step), [1, 2, 3, 4]);
    assert.ok(records.every(({ gradientNorm, learningRate }) => gradientNorm > 0 && learningRate > 0));
    const far = h.farthest(runs[0].losses, native);
    console.log(`4 losses (${runs[0].losses}; ${native}), farthest from the native program's ${far.toExponential(2)}`);
    assert.ok(far < 1e-3);
    // The comparison can fail.
    assert.ok(h.farthest(runs[0].losses.with(3, runs[0].losses[3] + 2e-3), native) > 1e-3);
    assert.deepEqual([info.steps, info.seed, info.length, info.vocabSize, info.nLayer, info.dModel], [4, 5, 24, 8, 2, 32]);
    assert.deepEqual({ ...info, steps: 300, seed: 0 }, defaults);
    assert.equal(example.tokens.length, 40);
    const stars = example.tokens.flatMap((token, i) => (token === 7 ? [i] : []));
    assert.deepEqual([stars.length, stars[1], example.tokens[stars[0] + 1]], [2, 39, example.answer]);
    for (const distribution of [before, shares]) {
      assert.equal(distribution.length, 8);
      assert.ok(Math.abs(distribution.reduce((sum, share) => sum + share, 0) - 1) < 1e-5);
    }
    const words = [/^options: .*out of range/, /^options: no tokens/, /^options: .*occurrences/, /^options: steps 0/, /^options: bad options: .*step/, /^4 true true$/, /^closed/];
    words.forEach((pattern, i) => assert.match(codes[i], pattern));
  });

  it('shows the loss falling, and lets the model be tried', async () => {
    assert.deepEqual(await Promise.all(['steps', 'rate', 'seed'].map((name) => page.inputValue(`#train-${name}`))), ['300', '0.008', '0']);
    await start(page, { steps: 16, rate: 0.02 });
    await reached(page, 1, 16);
    // The page answers while it trains.
    const slowest = await page.evaluate(async () => {
      let slowest = 0;
      for (let i = 0; i < 50; i++) {
        const sent = performance.now();
        await new Promise((resolve) => setTimeout(resolve, 10));
        slowest = Math.max(slowest, performance.now() - sent - 10);
      }
      return slowest;
    });
    console.log(`slowest answer of the page while it trains: ${slowest.toFixed(1)} ms`);
    await idle(page);
    assert.equal(await text(page, 'train-step'), '16 of 16');
    const losses = (await points(page, 'loss')).map(([, y]) => y);
    assert.equal(losses.length, 16);
    // Downwards is down in a picture: y grows.
    const mean = (values) => values.reduce((sum, y) => sum + y, 0) / values.length;
    assert.ok(mean(losses.slice(-4)) > mean(losses.slice(0, 4)) + 3, `${losses}`);
    assert.equal((await points(page, 'accuracy')).length, 9);
    assert.match(await text(page, 'train-accuracy'), /^\d+ of 32$/);
    assert.match(await text(page, 'train-speed'), /steps\/s/);
    assert.equal(await page.locator('#train-continue').isVisible(), false);
    assert.match(await page.locator('#train-curve svg').getAttribute('aria-label'), /loss .* at step 16 of 16/);
    assert.match(await page.locator('#status').textContent(), /^Trained: step 16/);

    // By keyboard: another letter is wanted, and the model is asked again.
    const cells = page.locator('#try-sequence button');
    assert.equal(await cells.count(), 24);
    const symbols = await cells.allTextContents();
    const first = symbols.indexOf('★');
    assert.deepEqual([symbols.lastIndexOf('★'), first < 22], [23, true]);
    await cells.nth(first + 1).focus();
    const other = symbols[first + 1] === 'A' ? 'b' : 'a';
    await page.keyboard.press(other);
    await page.locator('#try-chart dt').filter({ hasText: `${other.toUpperCase()}, wanted` }).waitFor();
    assert.equal(await page.locator('#try-chart dd').count(), 8);
    assert.match(await text(page, 'try-answer'), /^The model says .* \(\d+\.\d%\)\. (Right\.|Wrong: [AB] followed)/);
    await page.keyboard.press('End');
    await page.keyboard.press('c');
    await page.locator('#try-answer').filter({ hasText: 'Nothing is asked' }).waitFor();
    // And by pointer.
    await page.click('#try-symbols button:has-text("★")');
    await page.locator('#try-answer').filter({ hasText: /Right|Wrong/ }).waitFor();
    await page.selectOption('#try-length', '96');
    await page.waitForFunction(() => document.querySelectorAll('#try-sequence button').length === 96);
    await page.click('#try-test');
    await page.locator('#try-accuracy').filter({ hasText: /^\d+ of 32 right at 96 symbols$/ }).waitFor();
    assert.deepEqual(page.errors, []);
  });

  it('stops at once, goes on, and starts anew', async () => {
    await start(page, { steps: 5000, seed: 1 });
    await reached(page, 3, 5000);
    const begin = Date.now();
    await page.keyboard.press('Escape');
    await idle(page);
    const took = Date.now() - begin;
    const stopped = parseInt(await text(page, 'train-step'));
    assert.ok(stopped < 1000 && took < 20_000, `step ${stopped}, ${took} ms`);
    assert.equal((await points(page, 'loss')).length, stopped);
    const seed1 = (await points(page, 'loss')).slice(0, 3);
    await page.click('#train-continue');
    await reached(page, stopped + 1, 5000);
    await page.click('#train-stop');
    await idle(page);
    assert.ok((await points(page, 'loss')).length > stopped);
    await start(page, { steps: 3, seed: 2 });
    await reached(page, 3, 3);
    await idle(page);
    assert.equal((await points(page, 'loss')).length, 3);
    assert.notDeepEqual((await points(page, 'loss')).map(([, y]) => y), seed1.map(([, y]) => y));
  });

  it('says when it goes astray, and where', async () => {
    await start(page, { steps: 40, rate: 1e9 });
    await page.locator('#notice-title').filter({ hasText: 'astray' }).waitFor();
    assert.match(await page.locator('#notice-code').textContent(), /^diverged: step 2: the activation of `layers\.0 delta` is not finite/);
    await page.waitForFunction(() => document.getElementById('train-stop').hidden);
    assert.deepEqual([await page.locator('#train-continue').isVisible(), await page.locator('#try').isVisible()], [false, false]);
    // A look at a model finds it too, where no step does.
    const code = await page.evaluate(async () => {
      const { Mamba } = await import('/pkg/index.js');
      const mamba = await Mamba.open({ backend: 'webgpu' });
      const training = await mamba.train({ learningRate: 1e9 });
      await training.run({ steps: 1 });
      const code = await training.predict([1, 2, 3]).catch(({ code }) => code);
      mamba.close();
      return code;
    });
    assert.equal(code, 'diverged');
    page.errors.length = 0;
    await page.click('#notice-actions button:has-text("Dismiss")');
  });

  it('fits a phone, dark and light', async () => {
    for (const [width, height] of [[390, 844], [1280, 900]]) {
      for (const colorScheme of ['light', 'dark']) {
        await page.setViewportSize({ width, height });
        await page.emulateMedia({ colorScheme });
        await page.waitForTimeout(100);
        assert.ok((await page.evaluate(() => document.documentElement.scrollWidth - innerWidth)) <= 0);
        if (process.env.SHOTS) await page.screenshot({ path: `${process.env.SHOTS}/train-${width}-${colorScheme}.png`, fullPage: true });
      }
    }
  });

  it('is over when the GPU goes away, which is said, and can begin again', async () => {
    await start(page, { steps: 5000 });
    await reached(page, 2, 5000);
    await (await browser.newBrowserCDPSession()).send('Browser.crashGpuProcess');
    await page.locator('#notice-title').filter({ hasText: 'GPU went away' }).waitFor();
    await page.locator('#train-note').filter({ hasText: 'start anew' }).waitFor();
    assert.deepEqual([await page.locator('#train-continue').isVisible(), await page.locator('#try').isVisible()], [false, false]);
    await start(page, { steps: 2 });
    await reached(page, 2, 2);
  });
});

it('training without a GPU: the page says so', { timeout: 120_000 }, async () => {
  const [browser, site] = [await h.launch(h.NO_WEBGPU), await h.site()];
  try {
    const page = await h.visit(await browser.newContext(), `${site.url}#train`, null);
    await h.deviceReady(page);
    await page.click('#train-run');
    await page.locator('#notice-title').filter({ hasText: 'This needs a GPU' }).waitFor();
    assert.match(await page.locator('#notice-text').innerText(), /does not train[\s\S]*gives the page no GPU/);
    await page.locator('#train-note').filter({ hasText: 'Training needs a GPU' }).waitFor();
    assert.equal(await page.locator('#train-run').isVisible(), true);
  } finally {
    await browser.close();
    site.close();
  }
});
