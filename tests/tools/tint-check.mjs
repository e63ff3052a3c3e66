// node tint-check.mjs PATH/TO/webgpu/index.js < JOBS > ANSWERS
//
// Compiles WGSL with Tint, through Dawn's null backend (npm `webgpu`): no browser and no GPU are needed.
// JOBS is a JSON array of {text, options: {features: [string], entryPoint, constants: {name: value}}}; ANSWERS one of
// null (accepted) and messages. Each shader becomes a compute pipeline on a device with WebGPU's default limits and
// the features it names, no others: so a shader that needs more than it says is refused.
import fs from 'node:fs';
import { pathToFileURL } from 'node:url';

const { create, globals } = await import(pathToFileURL(process.argv[2]).href);
Object.assign(globalThis, globals);
const jobs = JSON.parse(fs.readFileSync(0, 'utf8'));

const gpu = create(['backend=null']);
const devices = new Map();
async function deviceWith(features) {
  const key = features.join(' ');
  if (!devices.has(key)) {
    const adapter = await gpu.requestAdapter();
    if (!adapter) throw new Error('Dawn gives no null adapter');
    devices.set(key, await adapter.requestDevice({ requiredFeatures: features }));
  }
  return devices.get(key);
}

async function check({ text, options: { features, entryPoint, constants } }) {
  const device = await deviceWith(features);
  device.pushErrorScope('validation');
  const module = device.createShaderModule({ code: text });
  const { messages } = await module.getCompilationInfo();
  const moduleError = await device.popErrorScope();
  const errors = messages.filter((m) => m.type === 'error').map((m) => `${m.lineNum}:${m.linePos}: ${m.message}`);
  if (errors.length) return errors.join('\n');
  if (moduleError) return moduleError.message;
  try {
    await device.createComputePipelineAsync({ layout: 'auto', compute: { module, entryPoint, constants } });
  } catch (error) {
    return error.message;
  }
  return null;
}

const answers = [];
for (const job of jobs) answers.push(await check(job));
fs.writeSync(1, JSON.stringify(answers));
process.exit(0); // Dawn's threads would keep Node waiting.
