// node web/e2e/shots.mjs FOLDER: pictures of the page idle, loading, writing, benching, explaining, training, at two widths, light and
// dark.
// For people to look at; README's picture is one of them.
import { readFileSync } from 'node:fs';
import * as h from './harness.mjs';

const folder = process.argv[2];
if (!folder) throw new Error('usage: node web/e2e/shots.mjs FOLDER');
const browser = await h.launch();
const site = await h.site();

/** Weights that come slowly, so that loading can be seen. */
const slowly = async (request, response) => {
  if (!request.url.endsWith('.safetensors')) return false;
  const bytes = readFileSync(`${h.ROOT}/models/austen-4m/model.safetensors`);
  response.writeHead(200, { 'content-length': bytes.length });
  response.write(bytes.subarray(0, bytes.length * 0.62));
  await new Promise((resolve) => setTimeout(resolve, 1500));
  response.end(bytes.subarray(bytes.length * 0.62));
  return true;
};

for (const [width, height] of [[1280, 900], [390, 844]]) {
  for (const colorScheme of /** @type {const} */ (['light', 'dark'])) {
    const context = await browser.newContext({ viewport: { width, height }, colorScheme });
    const page = await h.visit(context, site.url);
    const shot = (name) => page.screenshot({ path: `${folder}/${name}-${width}-${colorScheme}.png` });
    await h.deviceReady(page);
    await shot('idle');
    site.handle = slowly;
    await page.click('#load-demo');
    await page.locator('#loading-bytes').filter({ hasText: /[4-7]\.\d MiB of/ }).waitFor();
    await page.locator('#loading').scrollIntoViewIfNeeded();
    await shot('loading');
    site.handle = async () => false;
    await page.locator('#model-name').filter({ hasText: 'Austen' }).waitFor();
    await h.sampling(page, { temperature: 0.8, topP: 0.9, seed: 11, maxTokens: 400 });
    await page.evaluate(() => document.querySelectorAll('details').forEach((details) => (details.open = false)));
    await page.click('#go');
    await page.waitForFunction(() => document.querySelectorAll('#text span:not(.prompt)').length >= 70);
    await page.evaluate(() => scrollTo(0, 0));
    await shot('writing');
    await page.keyboard.press('Escape');
    await h.written(page);
    await page.evaluate(() => document.activeElement.blur());
    await h.goTo(page, 48);
    await page.locator('#point-card').scrollIntoViewIfNeeded();
    await shot('point');
    await page.click('#tab-bench');
    await page.fill('#bench-seconds', '3');
    await page.uncheck('input[value=matmul]');
    await page.click('#bench-run');
    await page.waitForFunction(() => document.getElementById('bench-bar').value > 0);
    await shot('benching');
    await page.locator('#bench-save').waitFor();
    await shot('benched');
    await page.click('#tab-explain');
    await page.click('#explain-run');
    await page.locator('#explain-result canvas').waitFor();
    await page.locator('#explain-result').scrollIntoViewIfNeeded();
    await shot('explained');
    await page.click('#tab-train');
    // STEPS=150 for a model that has learnt it.
    await page.fill('#train-steps', process.env.STEPS ?? '10');
    await page.click('#train-run');
    await page.waitForFunction(() => document.getElementById('train-loss').textContent !== '–');
    await shot('training');
    page.setDefaultTimeout(600_000);
    await page.waitForFunction(() => document.getElementById('try-answer').textContent);
    await page.evaluate(() => document.activeElement.blur());
    await page.screenshot({ path: `${folder}/trained-${width}-${colorScheme}.png`, fullPage: true });
    await context.close();
  }
}
await browser.close();

const without = await h.launch(h.NO_WEBGPU);
const page = await h.visit(await without.newContext({ viewport: { width: 1280, height: 900 } }), site.url, null);
await h.deviceReady(page);
await page.screenshot({ path: `${folder}/no-webgpu.png` });
await without.close();
site.close();
