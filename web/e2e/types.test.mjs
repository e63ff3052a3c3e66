// The package's types: they are right TypeScript, and the page uses the package as they say.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, writeFileSync } from 'node:fs';
import { it } from 'node:test';
import { ROOT } from './harness.mjs';

const compile = (...args) => spawnSync(process.execPath, [`${ROOT}.tools/web/node_modules/typescript/bin/tsc`, ...args], { encoding: 'utf8' });

it('types: the page', () => {
  const { status, stdout } = compile('-p', `${ROOT}web/jsconfig.json`);
  assert.equal(status, 0, stdout);
});

it('types: the README’s example, and a wrong one', () => {
  const folder = mkdtempSync('/tmp/mamba-web-');
  const check = (code) => {
    writeFileSync(`${folder}/example.mts`, `import { Mamba } from '${ROOT}web/pkg/index.js';\n${code}`);
    return compile('--noEmit', '--strict', '--target', 'es2022', '--module', 'nodenext', '--lib', 'es2022,dom', `${folder}/example.mts`);
  };
  const right = check(`
    const mamba = await Mamba.load('https://example.org/model/', { onProgress: ({ loaded, total }) => console.log(loaded / total) });
    for await (const piece of mamba.generate('Emma', { maxTokens: 4 })) console.log(piece.text.length);
    const file: Uint8Array = await mamba.state.save();
    await mamba.state.load(file);
    const training = await mamba.train({ steps: 20, seed: 1 });
    const done: number = await training.run({ onRecord: ({ step, loss }) => console.log(step + loss) });
    const shares: Float32Array = await training.predict((await training.example({ length: 96 })).tokens);`);
  assert.equal(right.status, 0, right.stdout);
  assert.match(check(`(await Mamba.load('x')).generate('Emma', { maxToken: 4 });`).stdout, /maxToken/);
});
