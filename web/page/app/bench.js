// The bench tab: runs the crate's suite, draws it, gives the report as a file.
import { $, digits, download, make, say } from './dom.js';

const SUITES = {
  ceilings: 'What the device can do at most',
  scan: 'Selective scan',
  matmul: 'Linear layers',
  prefill: 'Reading prompts',
  decode: 'Writing',
};

/** What a row's bar shows: a rate, with smaller units for smaller ones. */
function measure({ tokens_per_s: tokens, tflops, gbps }) {
  if (tokens != null) return { value: tokens, scale: 'tokens', text: `${digits(tokens)} tokens/s` };
  if (gbps != null) return { value: gbps, scale: 'bytes', text: gbps < 0.1 ? `${digits(gbps * 1000)} MB/s` : `${digits(gbps)} GB/s` };
  if (tflops == null) return null;
  return { value: tflops, scale: 'operations', text: tflops < 0.1 ? `${digits(tflops * 1000)} GFLOP/s` : `${digits(tflops)} TFLOP/s` };
}

const label = (row) => [row.name, row.variant, row.l && /prefill|decode/.test(row.suite) ? `${row.l} tokens` : ''].filter(Boolean).join(' · ');
const time = (us) => (us == null ? '' : us < 1e3 ? `${digits(us)} µs` : us < 1e6 ? `${digits(us / 1e3)} ms` : `${digits(us / 1e6)} s`);
/** The times a row is about: of whole models the wall's. */
const spread = (row) => (/prefill|decode|training/.test(row.suite) ? row.wall_us ?? row.gpu_us : row.gpu_us ?? row.wall_us);
const FLAGS = {
  few_samples: 'few samples',
  unsteady: 'unsteady: the device was slower than it can be',
  above_copy: 'above copy: from a cache',
  above_fma: 'above FMA: by matrix units',
};
const flags = (row) => row.flags.map((flag) => FLAGS[flag] ?? flag).join('; ');
const samples = (row) => (spread(row) ? `n ${spread(row).n}, ${time(spread(row).min)} to ${time(spread(row).max)}` : '');
const percent = (share) => (share == null ? '' : `${(share * 100).toFixed(1)}%`);

/** Bars of one kind are comparable; each kind has a scale of its own. */
function chart(rows) {
  const bars = rows.map((row) => ({ row, ...measure(row) })).filter(({ value }) => value > 0);
  const most = {};
  for (const { scale, value } of bars) most[scale] = Math.max(most[scale] ?? 0, value);
  const scales = Object.keys(most);
  const list = make('dl', { className: 'chart' });
  for (const { row, scale, value, text } of bars) {
    const bar = make('span', { className: scales.indexOf(scale) ? 'bar second' : 'bar' });
    bar.style.setProperty('--share', String(value / most[scale]));
    list.append(make('dt', { textContent: label(row) }), make('dd', {}, bar, make('span', { className: 'value', textContent: text, title: samples(row) }), make('span', { className: 'hint', textContent: [samples(row), flags(row)].filter(Boolean).join('; ') })));
  }
  return list;
}

function table(rows) {
  const heads = ['Suite', 'What', 'Variant', 'GPU', 'Wall', 'Samples', 'GB/s', 'of copy', 'TFLOP/s', 'of FMA', 'tokens/s', 'Beware'];
  const body = rows.map((row) => {
    const names = [row.suite, row.name, row.variant].map((textContent) => make('td', { textContent }));
    if (row.skipped) return make('tr', {}, ...names, make('td', { className: 'skipped', colSpan: 9, textContent: `left out: ${row.skipped}` }));
    const number = (x) => (x == null ? '' : digits(x));
    const cells = [time(row.gpu_us?.median), time(row.wall_us?.median), samples(row), number(row.gbps), percent(row.share_of_copy), number(row.tflops), percent(row.share_of_fma), number(row.tokens_per_s), flags(row)];
    return make('tr', {}, ...names, ...cells.map((textContent) => make('td', { textContent })));
  });
  const head = make('tr', {}, ...heads.map((textContent) => make('th', { textContent, scope: 'col' })));
  return make('table', {}, make('thead', {}, head), make('tbody', {}, ...body));
}

export function show(report) {
  const { device, rows } = report;
  const cards = [];
  for (const [suite, title] of Object.entries(SUITES)) {
    const measured = rows.filter((row) => row.suite === suite && measure(row));
    if (measured.length) cards.push(make('div', { className: 'card' }, make('h2', { textContent: title }), chart(measured)));
  }
  const facts = `${device.adapter.name} (${device.backend}), mamba-wgpu ${report.version}, commit ${report.commit.slice(0, 10)}, ${report.date}`;
  const all = make('details', { className: 'card' }, make('summary', { textContent: `All ${rows.length} rows` }), make('div', { className: 'scroll' }, table(rows)));
  $('bench-result').replaceChildren(make('p', { className: 'hint', textContent: facts }), ...cards, all);
  $('bench-result').hidden = false;
}

/**
 * @param {() => Promise<import('../pkg/index.js').Mamba>} device
 * @param {(error: any) => void} failed
 */
export function setUp(device, failed) {
  let stop = null;
  let report = null;
  $('bench-form').addEventListener('submit', async (event) => {
    event.preventDefault();
    if (stop) return;
    const chosen = [...document.querySelectorAll('input[name=suite]:checked')];
    const suites = chosen.map((box) => /** @type {HTMLInputElement} */ (box).value);
    const [run, end, save, bar, now] = ['bench-run', 'bench-stop', 'bench-save', 'bench-bar', 'bench-now'].map((id) => $(id));
    stop = new AbortController();
    run.hidden = save.hidden = true;
    end.hidden = bar.hidden = false;
    end.focus();
    say('Measuring');
    try {
      const mamba = await device();
      report = await mamba.bench({
        suites: /** @type {any} */ (suites),
        sizes: [/** @type {HTMLSelectElement} */ ($('bench-size')).value],
        timeLimit: Number(/** @type {HTMLInputElement} */ ($('bench-seconds')).value),
        signal: stop.signal,
        onProgress: (done, total, row) => {
          /** @type {HTMLProgressElement} */ (bar).value = done / total;
          now.textContent = row;
        },
      });
      show(report);
      save.hidden = false;
      say('Measured');
    } catch (error) {
      failed(error);
    } finally {
      stop = null;
      run.hidden = false;
      end.hidden = bar.hidden = true;
      now.textContent = '';
      run.focus();
    }
  });
  $('bench-stop').addEventListener('click', () => stop?.abort());
  $('bench-save').addEventListener('click', () => {
    download('mamba-wgpu-bench.json', `${JSON.stringify(report, null, 2)}\n`, 'application/json');
  });
}
