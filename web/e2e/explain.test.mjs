// The explain tab: the same numbers as the native program's, drawn, by pointer and by keyboard.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { after, before, describe, it } from 'node:test';
import * as h from './harness.mjs';

// As a module whatever Node takes a .js file for.
const view = readFileSync(`${h.ROOT}/src/explain/view.js`).toString('base64');
const { half, unpack } = await import(`data:text/javascript;base64,${view}`);

const TEXT = 'Emma Woodhouse, handsome, clever, and rich';

describe('explain', { timeout: 900_000 }, () => {
  let browser, site, page, native;
  before(async () => {
    [browser, site] = [await h.launch(), await h.site()];
    page = await h.visit(await browser.newContext({ viewport: { width: 1280, height: 900 } }), `${site.url}#explain`);
    native = JSON.parse(await h.native('explain', '--text', TEXT, '--channel', '7', '--backend', 'cpu', '--json'));
  });
  after(async () => {
    await browser?.close();
    site?.close();
  });

  it('half-precision numbers are read', () => {
    for (const [bits, value] of [[0, 0], [0x3c00, 1], [0xc000, -2], [0x3555, 0.333251953125], [1, 2 ** -24], [0x83ff, -1023 * 2 ** -24], [0x7bff, 65504], [0xfc00, -Infinity]]) {
      assert.equal(half(bits), value);
    }
    assert.ok(Number.isNaN(half(0x7e00)));
    // 1, -0.5, 1 by rows, of scale 4.
    const data = Buffer.from([0x00, 0x3c, 0x00, 0xb8, 0x00, 0x3c]).toString('base64');
    assert.deepEqual(unpack({ scale: 4, data }, 2).map((row) => [...row]), [[4], [-2, 4]]);
  });

  it('gives the native program’s numbers', async () => {
    await h.deviceReady(page);
    const packed = await page.evaluate(async (text) => {
      const { Mamba } = await import('/pkg/index.js');
      const mamba = await Mamba.load('models/austen-4m/', { backend: 'webgpu' });
      const calls = [];
      const packed = await mamba.explain(text, { channels: [7], onProgress: (...call) => calls.push(call) });
      const refused = await mamba.explain(text, { maxTokens: 3 }).catch(({ code, message }) => `${code}: ${message}`);
      mamba.close();
      return { ...packed, calls, refused };
    }, TEXT);
    assert.deepEqual(packed.pieces, native.pieces);
    assert.deepEqual(packed.calls, Array.from({ length: 8 }, (_, i) => [i + 1, 8]));
    assert.match(packed.refused, /^options: .*at most 3/);
    const l = native.tokens.length;
    const lower = (map) => Array.from({ length: l }, (_, i) => map.slice(i * l, i * l + i + 1)).flat();
    packed.layers.forEach((layer, k) => {
      const other = native.layers[k];
      for (const key of ['delta', 'forget', 'state_norm']) assert.ok(h.farthest(layer[key], other[key]) < 1e-3, key);
      const [mine, theirs] = [[layer.attention, layer.magnitude, layer.channels[0].attention], [other.attention, other.magnitude, other.channels[0].attention]];
      mine.forEach((map, m) => {
        const values = unpack(map, l).flatMap((row) => [...row]);
        const allowed = 2e-3 * map.scale;
        assert.ok(h.farthest(values, lower(theirs[m])) < allowed, `layer ${k} map ${m}`);
        // The comparison can fail.
        assert.ok(h.farthest(values.with(2, values[2] + 2 * allowed), lower(theirs[m])) > allowed);
      });
      assert.ok(layer.channels[0].reproduction_error < 1e-3);
    });
  });

  it('shows them, with pointer and keys', async () => {
    await page.fill('#explain-text', TEXT);
    await page.click('#explain-run');
    await page.locator('#explain-result canvas').waitFor();
    const spans = page.locator('#explain-result .strip span');
    assert.deepEqual(await spans.allTextContents(), native.pieces);
    const readout = () => page.locator('#explain-result .readout').innerText();
    // Pictures are drawn, not blank: many colours.
    const colours = () =>
      page.locator('#explain-result canvas').evaluate((canvas) => new Set(new Uint32Array(canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data.buffer)).size);
    assert.ok((await colours()) > 50);
    await spans.nth(4).hover();
    assert.match(await readout(), /Reads\s+4 /);
    await page.mouse.move(5, 5);
    assert.match(await readout(), new RegExp(`Reads\\s+${native.pieces.length - 1} `), 'back to the chosen one');
    await spans.nth(3).click();
    await page.focus('#explain-result canvas');
    await page.keyboard.press('ArrowDown');
    await page.keyboard.press('Home');
    await page.keyboard.press('ArrowRight');
    assert.match(await readout(), /Reads\s+4 [\s\S]*Read\s+1 /);
    const shown = Number(/\|alpha\(i, j\)\|\s+(\S+?),/.exec(await readout())[1]);
    const expected = native.layers[0].magnitude[4 * native.tokens.length + 1];
    assert.ok(Math.abs(shown / expected - 1) < 0.01, `${shown} ${expected}`);
    await page.focus('#explain-result input[type=range]');
    await page.keyboard.press('End');
    assert.match(await page.locator('#explain-result output').innerText(), /^7 /);
    // A channel of its own, which has signs.
    await page.fill('#explain-result input[type=number]', '7');
    await page.click('#explain-result button');
    await page.locator('#explain-result figcaption').filter({ hasText: 'give the scan' }).waitFor();
    assert.equal(await page.locator('#explain-result select').first().inputValue(), '7');
    await page.selectOption('#explain-result select >> nth=1', 'reads');
    assert.deepEqual(page.errors, []);
  });

  it('fits a phone, dark and light', async () => {
    for (const colorScheme of ['light', 'dark']) {
      await page.setViewportSize({ width: 390, height: 844 });
      await page.emulateMedia({ colorScheme });
      await page.waitForTimeout(100);
      assert.ok((await page.evaluate(() => document.documentElement.scrollWidth - innerWidth)) <= 0);
      if (process.env.SHOTS) await page.screenshot({ path: `${process.env.SHOTS}/explain-390-${colorScheme}.png`, fullPage: true });
    }
  });
});
