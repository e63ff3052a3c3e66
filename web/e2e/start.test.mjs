// A program that does not start says so, and why: files that do not come, come as something else, or of another build; what
// is blocked; a browser that cannot read them.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { after, before, beforeEach, describe, it } from 'node:test';
import { promisify } from 'node:util';
import { DIST } from '../serve.mjs';
import * as h from './harness.mjs';

const [{ prompt: PROMPT, greedy_tokens: GREEDY }] = h.expected.prompts;
const file = (name) => readFileSync(`${DIST}${name}`);
const JS = 'text/javascript';

/** Answers by path: `{ status, type, body, headers }`; `*` is for all others. */
const answers = (spoilt) => async (request, response) => {
  const path = new URL(request.url, 'http://x').pathname;
  const name = path.endsWith('/') ? 'index.html' : path.slice(1);
  const spoil = spoilt[`/${name}`] ?? spoilt['*'];
  if (!spoil) return false;
  if (spoil.headers && !spoil.body && !spoil.status) {
    for (const [key, value] of Object.entries(spoil.headers)) response.setHeader(key, value);
    return false;
  }
  const types = { js: JS, wasm: 'application/wasm' };
  response.writeHead(spoil.status ?? 200, { 'content-type': spoil.type ?? types[name.split('.').pop()] ?? 'text/plain', ...spoil.headers });
  response.end(spoil.body ?? (spoil.status ? 'no' : file(name)));
  return true;
};
const PAGE = { type: 'text/html', body: '<!doctype html><title>Welcome</title>' };
const csp = (policy) => ({ headers: { 'content-security-policy': policy } });

/** What goes wrong: what is answered otherwise, and what the notice says. */
const PROGRAM = {
  'its first module is missing': [{ '/app/main.js': { status: 404 } }, /app\/main\.js: the server answered 404/],
  'a module of the page is missing': [{ '/app/dom.js': { status: 404 } }, /app\/dom\.js: the server answered 404/],
  'a module of the package is missing': [{ '/pkg/error.js': { status: 404 } }, /pkg\/error\.js: the server answered 404/],
  'the server fails': [{ '/app/try.js': { status: 500 } }, /app\/try\.js: the server answered 500/],
  'a module has the wrong type': [{ '/app/text.js': { type: 'text/plain' } }, /app\/text\.js: the server sends it as text\/plain/],
  'a web page comes in a module’s place': [{ '/app/tabs.js': PAGE }, /app\/tabs\.js: the server sends it as text\/html/],
  'the browser cannot read a module': [{ '/app/curve.js': { body: 'export let x = = 1;' } }, /cannot read the program: it is too old.*SyntaxError/],
  'a module is of another version': [{ '/app/dom.js': { body: 'export const $ = (id) => document.getElementById(id);' } }, /different versions/],
  'the page is of another version': [
    { '/index.html': { type: 'text/html', body: () => file('index.html').toString().replace('id="composer"', '') } },
    /stopped while it started.*TypeError/,
  ],
  'scripts of this server are blocked': [{ '/index.html': csp("script-src 'sha256-AAAA' 'nonce-x'") }, /has not reported yet/],
  'scripts are blocked altogether': [{ '/index.html': csp("script-src 'none'") }, /has not reported yet/],
  'nothing of its scripts comes': [{ '/start.js': { status: 404 }, '/app/main.js': { status: 404 } }, /has not reported yet/],
};

/** The same of what the worker runs, which the page itself tells. */
const WORKER = {
  'its worker is missing': [{ '/pkg/worker.js': { status: 404 } }, /pkg\/worker\.js: the server answered 404/],
  'a module of the worker is missing': [{ '/pkg/host.js': { status: 404 } }, /pkg\/host\.js: the server answered 404/],
  'the worker has the wrong type': [{ '/pkg/worker.js': { type: 'text/plain' } }, /pkg\/worker\.js: the server sends it as text\/plain/],
  'a web page comes in the worker’s place': [{ '/pkg/worker.js': PAGE }, /pkg\/worker\.js: the server sends it as text\/html/],
  'the browser cannot read the worker': [{ '/pkg/host.js': { body: 'let x = = 1;' } }, /worker could not be started: .*too old.*SyntaxError/],
  'the worker is of another build': [
    { '/pkg/host.js': { body: () => file('pkg/host.js').toString().replace(/const BUILD = '[^']*'/, "const BUILD = 'another'") } },
    /of different builds/,
  ],
  'the worker is of an older build': [
    { '/pkg/host.js': { body: () => file('pkg/host.js').toString().replace('post({ ready: BUILD });', '') } },
    /of different builds.*an older one/,
  ],
  'the page blocks workers': [{ '/index.html': csp("worker-src 'none'") }, /Content-Security-Policy of this page blocks it \(worker-src/],
  'the page embeds only what allows it, and the worker does not': [
    { '/index.html': { headers: { 'cross-origin-embedder-policy': 'require-corp' } } },
    /Cross-Origin-Embedder-Policy/,
  ],
  'the wasm is missing': [{ '/pkg/wasm/mamba_wgpu_bg.wasm': { status: 404 } }, /mamba_wgpu_bg\.wasm: the server answered 404/],
  'a web page comes in the wasm’s place': [{ '/pkg/wasm/mamba_wgpu_bg.wasm': PAGE }, /mamba_wgpu_bg\.wasm: the server sent a web page instead/],
  'the wasm is cut': [{ '/pkg/wasm/mamba_wgpu_bg.wasm': { body: () => file('pkg/wasm/mamba_wgpu_bg.wasm').subarray(0, 100_000) } }, /mamba_wgpu_bg\.wasm: it is damaged/],
  'the wasm is of another build': [
    { '/pkg/wasm/mamba_wgpu.js': { body: () => file('pkg/wasm/mamba_wgpu.js').toString().replace(/__wbg_(\w+)_[0-9a-f]{16}/, '__wbg_$1_0123456789abcdef') } },
    /mamba_wgpu_bg\.wasm: it is of another build/,
  ],
  'the server forbids WebAssembly': [{ '*': csp("script-src 'self'; style-src 'self' 'unsafe-inline'") }, /Content-Security-Policy/],
  'the worker may ask for nothing': [{ '/pkg/worker.js': csp("connect-src 'none'") }, /Content-Security-Policy of this page blocks it \(connect-src/],
};

describe('the program', { timeout: 900_000 }, () => {
  let browser, site;
  // The notices blame what is to blame, with or without a GPU.
  before(async () => {
    [browser, site] = [await h.launch(h.NO_WEBGPU), await h.site()];
  });
  after(async () => {
    await browser?.close();
    site?.close();
  });

  beforeEach(() => {
    site.handle = async () => false;
  });

  /** Opens the page, and gives what a person reads in a notice. */
  async function read(spoilt, selector, { url = site.url, late = false } = {}) {
    const bodies = Object.fromEntries(Object.entries(spoilt).map(([path, spoil]) => [path, { ...spoil, body: spoil.body?.call?.(null) ?? spoil.body }]));
    site.handle = answers(bodies);
    const context = await browser.newContext();
    const page = await context.newPage();
    page.setDefaultTimeout(30_000);
    await page.goto(url);
    if (late) {
      // What the style sheet shows in the end, without the wait for it.
      assert.equal(await page.locator(selector).isVisible(), false);
      await page.evaluate(() => document.getAnimations().forEach((animation) => animation.finish()));
    }
    await page.locator(selector).waitFor({ state: 'visible' });
    const text = await page.locator(selector).innerText();
    const both = (await page.locator('#notice, #not-started').filter({ visible: true }).count()) > 1;
    await context.close();
    return { text, both };
  }

  for (const [name, [spoilt, words]] of Object.entries(PROGRAM)) {
    it(`says so where ${name}`, async () => {
      const { text, both } = await read(spoilt, '#not-started', { late: /not reported/.test(words.source) });
      assert.match(text.replace(/\s+/g, ' '), words);
      assert.doesNotMatch(text, /\bGPU\b|memory/i);
      assert.match(text, /reload|current version/i);
      assert.equal(both, false);
    });
  }

  for (const [name, [spoilt, words]] of Object.entries(WORKER)) {
    it(`says so where ${name}`, async () => {
      const { text, both } = await read(spoilt, '#notice:has-text("did not start")');
      assert.match(text.replace(/\s+/g, ' '), words);
      assert.doesNotMatch(text, /memory|\bGPU\b/i);
      assert.equal(both, false);
    });
  }

  it('says so where it is opened as a file', async () => {
    const { text } = await read({}, '#not-started', { url: `file://${DIST}index.html` });
    assert.match(text, /opened as a file.*Serve its folder/s);
    assert.doesNotMatch(text, /\bGPU\b|memory/i);
  });

  it('says nothing of the kind where all is well, with a wrong type for the wasm, and below a path', async () => {
    const deep = async (request, response) => {
      if (!request.url.startsWith('/a/b/')) return response.writeHead(404).end(), true;
      request.url = request.url.slice(4);
      return false;
    };
    for (const [url, handle] of [
      [site.url, answers({ '/pkg/wasm/mamba_wgpu_bg.wasm': { type: 'application/octet-stream' } })],
      [`${site.url}a/b/`, deep],
    ]) {
      site.handle = handle;
      const context = await browser.newContext();
      const page = await context.newPage();
      await page.goto(url);
      await page.locator('#notice-title, #version').filter({ hasText: /GPU|0\./ }).first().waitFor({ state: 'attached' });
      // Longer than until a silent program is noticed.
      await new Promise((resolve) => setTimeout(resolve, 1500));
      assert.equal(await page.locator('#not-started').count(), 0);
      assert.equal(await page.locator('#notice').filter({ hasText: 'did not start' }).count(), 0);
      await context.close();
    }
  });

  it('as a package rejects with a code, in a worker and on the page’s thread', async () => {
    const page = await (await browser.newContext()).newPage();
    await page.goto(`${site.url}pkg/package.json`);
    const open = (worker) =>
      page.evaluate(async (worker) => {
        const { Mamba } = await import('/pkg/index.js');
        return Mamba.open({ backend: 'cpu', worker }).then(
          (mamba) => (mamba.close(), 'opened'),
          ({ code, message }) => `${code}: ${message}`,
        );
      }, worker);
    site.handle = answers({ '/pkg/wasm/mamba_wgpu_bg.wasm': { status: 404 } });
    for (const worker of [true, false]) assert.match(await open(worker), /^not-started: .*_bg\.wasm: the server answered 404/);
    site.handle = answers({ '/pkg/host.js': { status: 403 } });
    assert.match(await open(true), /^not-started: .*host\.js: the server answered 403/);
    site.handle = async () => false;
    assert.equal(await open(true), 'opened');
    assert.equal(await open(false), 'opened');
  });

  it('runs in node, from files', async () => {
    const script = `
      import { Mamba } from '${DIST}pkg/index.js';
      import { readFileSync } from 'node:fs';
      const names = ['config.json', 'tokenizer.json', 'model.safetensors'];
      const files = Object.fromEntries(names.map((name) => [name, readFileSync('${DIST}models/austen-4m/' + name)]));
      const mamba = await Mamba.load({ files }, { backend: 'cpu' });
      const tokens = [];
      for await (const { token } of mamba.generate(${JSON.stringify(PROMPT)}, { temperature: 0, maxTokens: 4 })) tokens.push(token);
      console.log(JSON.stringify(tokens));
      mamba.close();`;
    const { stdout } = await promisify(execFile)(process.execPath, ['--input-type=module', '--eval', script], { timeout: 120_000 });
    assert.deepEqual(JSON.parse(stdout), GREEDY.slice(0, 4));
  });
});
