// The device tab: what the browser gives, and whether it computes rightly.
import { hasWebGPU } from '../pkg/index.js';
import { $, bytes, make, say } from './dom.js';
import { whyCpu } from './messages.js';

const yes = (flag) => (flag ? 'yes' : 'no');

/**
 * Says under the title what the page runs on, and offers what else it could.
 * @param {import('../pkg/index.js').Device} device
 * @param {(backend: 'webgpu' | 'cpu') => void} runOn
 */
export function where({ gpu, software, passedOver }, runOn) {
  const at = gpu ? (software ? 'on a GPU in software, which is slow' : 'on your GPU') : 'on this computer’s processor';
  $('where').textContent = passedOver ? `Running on this computer’s processor: ${whyCpu(passedOver)}` : `A Mamba language model that runs in this page, ${at}`;
  const button = $('elsewhere');
  const other = !hasWebGPU() || passedOver?.code === 'no-webgpu' ? '' : passedOver?.code === 'software-gpu' ? 'Try the GPU (in software)' : 'Try the GPU';
  button.textContent = !gpu ? other : software ? 'Use the processor' : '';
  button.hidden = !button.textContent;
  button.onclick = () => runOn(gpu ? 'cpu' : 'webgpu');
}

/** @param {import('../pkg/index.js').Mamba} mamba */
export async function show(mamba) {
  const { gpu, version, passedOver } = mamba.device;
  $('version').textContent = `mamba-wgpu ${version.replace(/\((.{10}).*\)/, '($1)')}`;
  if (!gpu) {
    $('device-name').textContent = 'The CPU, on one thread';
    const why = passedOver ? `, because ${whyCpu(passedOver)}` : '';
    $('device-hint').textContent = `The same kernels as plain Rust, in WebAssembly${why}. There is nothing to test against or to measure.`;
    $('device-facts').replaceChildren();
    return;
  }
  const { adapter, limits, features } = gpu;
  $('device-name').textContent = adapter.name;
  $('device-hint').textContent = 'What the kernels need beyond WebGPU’s defaults: nothing. Larger bindings spare them work, timestamps make measurements finer.';
  const memory = await mamba.memory();
  const facts = {
    Reached: 'through WebGPU',
    'Largest binding': bytes(limits.max_storage_buffer_binding_size),
    'Largest buffer': bytes(limits.max_buffer_size),
    'Workgroup memory': bytes(limits.max_compute_workgroup_storage_size),
    'Invocations a workgroup': limits.max_compute_invocations_per_workgroup,
    'Storage buffers a shader': limits.max_storage_buffers_per_shader_stage,
    'Half precision (f16)': yes(adapter.shader_f16),
    Subgroups: yes(adapter.subgroups),
    Timestamps: yes(adapter.timestamp_query),
    'Features in use': features.join(', ') || 'none',
    'Held on the device': memory ? `${bytes(memory[0])} (at most ${bytes(memory[1])})` : '–',
  };
  $('device-facts').replaceChildren(
    ...Object.entries(facts).map(([name, value]) => make('div', {}, make('dt', { textContent: name }), make('dd', { textContent: String(value) }))),
  );
}

function check(name, failure, note) {
  const item = make('li', { className: failure ? 'bad' : '', textContent: name });
  if (failure) item.append(make('small', { textContent: note ? `${failure} (${note})` : failure }));
  return item;
}

/**
 * @param {() => Promise<import('../pkg/index.js').Mamba>} device
 * @param {(error: any) => void} failed
 */
export function setUp(device, failed) {
  $('selftest').addEventListener('click', async () => {
    const button = /** @type {HTMLButtonElement} */ ($('selftest'));
    const bar = /** @type {HTMLProgressElement} */ ($('selftest-bar'));
    button.disabled = true;
    bar.hidden = false;
    bar.value = 0;
    $('selftest-summary').textContent = 'Checking …';
    $('selftest-list').replaceChildren();
    try {
      const mamba = await device();
      const { outcomes, golden } = await mamba.selfTest({ onProgress: (done, total) => (bar.value = done / total) });
      const items = outcomes.map(({ name, failure, switched_off: off }) => check(name, failure, off && `${off} is switched off`));
      if (golden) items.push(check('demo model against PyTorch', golden.difference));
      $('selftest-list').replaceChildren(...items);
      const bad = outcomes.filter(({ failure }) => failure).length + (golden?.difference ? 1 : 0);
      $('selftest-summary').textContent = bad ? `${bad} of ${items.length} checks failed` : `All ${items.length} checks passed`;
      say($('selftest-summary').textContent ?? '');
      await show(mamba);
    } catch (error) {
      $('selftest-summary').textContent = '';
      failed(error);
    } finally {
      button.disabled = false;
      bar.hidden = true;
    }
  });
}
