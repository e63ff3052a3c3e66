// A server with a log, a browser, and a page whose errors are failures.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { DIST, serve } from '../serve.mjs';

export const ROOT = fileURLToPath(new URL('../../', import.meta.url));
const { chromium } = createRequire(join(ROOT, '.tools/web/'))('playwright-core');
const BROWSERS = [process.env.CHROMIUM, '/usr/bin/chromium', '/usr/bin/google-chrome'];

const PLAIN = ['--no-sandbox', '--disable-background-networking', '--no-first-run'];
export const WEBGPU = ['--enable-unsafe-webgpu', '--use-webgpu-adapter=swiftshader'];
/** Where its flag is off, this Chromium has navigator.gpu and gives no adapter. */
export const NO_WEBGPU = [];

export function launch(flags = WEBGPU) {
  const executablePath = BROWSERS.find((path) => path && existsSync(path));
  assert.ok(executablePath, 'no Chromium: scripts/setup-tests.sh installs it, CHROMIUM names another');
  return chromium.launch({ executablePath, args: [...PLAIN, ...flags] });
}

/** The built page, with a log of requests and a hook for the test that wants to spoil an answer. */
export async function site() {
  const site = { requests: /** @type {string[]} */ ([]), handle: async (_request, _response) => false, url: '', close: () => {} };
  const { server, url } = await serve(DIST, {
    handle: (request, response) => {
      site.requests.push(`${request.method} ${request.url}${request.headers.range ? ` ${request.headers.range}` : ''}`);
      return site.handle(request, response);
    },
  });
  Object.assign(site, { url, close: () => (server.closeAllConnections(), server.close()) });
  return site;
}

/**
 * A page that has loaded, and runs on WebGPU: SwiftShader's, which has to be asked for. `backend` null leaves it to the page.
 * What it reports as an error is in `page.errors`.
 */
export async function visit(context, url, backend = 'webgpu') {
  const page = await context.newPage();
  page.setDefaultTimeout(120_000);
  page.errors = [];
  page.on('pageerror', (error) => page.errors.push(String(error)));
  // That a model has no file which it may have is no error, though browsers note every 404.
  const optional = (message) => /404/.test(message.text()) && /\/models\/.*\.(json|txt)$/.test(message.location().url);
  page.on('console', (message) => message.type() === 'error' && !optional(message) && page.errors.push(message.text()));
  const address = new URL(url);
  if (backend) address.searchParams.set('backend', backend);
  await page.goto(address.href);
  return page;
}

/** Waits until the page has its device. */
export const deviceReady = (page) => page.waitForFunction(() => document.getElementById('version').textContent);

export async function loadDemo(page) {
  await deviceReady(page);
  if (await page.locator('#model-name').filter({ hasText: 'Austen' }).count()) return;
  await page.click('#load-demo');
  await page.locator('#model-name').filter({ hasText: 'Austen' }).waitFor();
}

/** Sets the sampling controls. */
export async function sampling(page, values) {
  await page.evaluate((all) => {
    for (const [id, value] of Object.entries(all)) {
      const input = document.getElementById(id);
      if (input.closest('details')) input.closest('details').open = true;
      input.value = value;
      input.dispatchEvent(new Event('input', { bubbles: true }));
    }
  }, values);
}

export const GREEDY = { temperature: 0, topP: 1, maxTokens: 64 };

/** Writes, and waits for the end. */
export async function write(page, prompt, button = '#go') {
  if (prompt !== undefined) await page.fill('#prompt', prompt);
  await page.click(button);
  await page.waitForFunction(() => !document.getElementById('stop').hidden);
  await written(page);
}

export const written = (page) => page.waitForFunction(() => document.getElementById('stop').hidden);

/** The tokens shown: of the prompt, and generated. */
export const tokens = (page) =>
  page.evaluate(() => {
    const all = [...document.querySelectorAll('#text span')];
    const ids = (spans) => spans.map((span) => Number(span.dataset.token));
    return { prompt: ids(all.filter((s) => s.classList.contains('prompt'))), all: ids(all) };
  });

export const expected = JSON.parse(readFileSync(join(ROOT, 'tests/data/austen-4m/expected.json'), 'utf8'));
export const golden = (name) => join(ROOT, 'tests/golden/checkpoints', name);

/** Moves the point by keyboard, as a person would. */
export async function goTo(page, token) {
  await page.locator('#point').evaluate((slider, value) => {
    slider.value = value;
    slider.dispatchEvent(new Event('input', { bubbles: true }));
  }, token);
}

const BINARY = process.env.MAMBA_WGPU ?? join(process.env.CARGO_TARGET_DIR ?? join(ROOT, 'target'), 'debug/mamba-wgpu');

/** The native program: what it prints. */
export async function native(...args) {
  assert.ok(existsSync(BINARY), `${BINARY} is not built: cargo build`);
  const { stdout } = await promisify(execFile)(BINARY, args, { maxBuffer: 1 << 26, env: { ...process.env, NODEVICE_SELECT: '1' } });
  return stdout;
}

/** Clicks, and gives the bytes of the file that the page hands out. */
export async function downloaded(page, selector) {
  const [file] = await Promise.all([page.waitForEvent('download'), page.click(selector)]);
  return readFileSync(await file.path());
}

export const farthest = (a, b) => {
  assert.equal(a.length, b.length);
  const far = a.reduce((most, x, i) => Math.max(most, Number.isFinite(x) ? Math.abs(x - b[i]) : Infinity), 0);
  return far;
};
