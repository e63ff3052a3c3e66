// Draws what a model sees in a text (docs/explain.md): the text coloured by a number a token, a map of the hidden attention, and
// lines over time. One piece for the page that `mamba-wgpu explain` writes, which holds a copy, and for the browser's page.

/**
 * What pack.rs makes.
 * @typedef {{ scale: number, data: string }} PackedMap
 * @typedef {{ delta: number[], forget: number[], state_norm: number[], attention: PackedMap }} Lines
 * @typedef {Lines & { channel: number, reproduction_error: number | null }} Channel
 * @typedef {{ kind: 'channel' | 'head', count: number, width: number, d_state: number }} Units
 * @typedef {Lines & { layer: number, units: Units, magnitude: PackedMap, channels: Channel[] }} Layer
 * @typedef {{ source: string, pieces: string[], n_layer: number, layers: Layer[] }} Packed
 */

const LINES = /** @type {const} */ ([
  ['delta', 'delta', 'Step size: how far a token opens the gate'],
  ['forget', 'exp(delta A)', 'What a token leaves of the state before it'],
  ['state_norm', '‖h‖', 'Size of the state after each token'],
]);

/** The value of 16 bits as IEEE 754's binary16. */
export function half(bits) {
  const [sign, exponent, fraction] = [bits & 0x8000 ? -1 : 1, (bits >> 10) & 31, bits & 1023];
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -24 * fraction);
}

/** A map's rows, each from its first column to the diagonal. @param {PackedMap} map */
export function unpack({ scale, data }, l) {
  const bytes = atob(data);
  const at = (k) => scale * half(bytes.charCodeAt(2 * k) | (bytes.charCodeAt(2 * k + 1) << 8));
  return Array.from({ length: l }, (_, i) => Float32Array.from({ length: i + 1 }, (_, j) => at((i * (i + 1)) / 2 + j)));
}

const make = (tag, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
};
const number = (x) => (x == null || Number.isNaN(x) ? 'not a number' : x === 0 ? '0' : Math.abs(x) >= 0.01 && Math.abs(x) < 1e4 ? x.toPrecision(3) : x.toExponential(2));
/** A token in a line of its own. */
const quoted = (piece) => `“${piece.replace(/\n/g, '⏎').replace(/\t/g, '⇥') || '…'}”`;
const largest = (values) => values.reduce((most, x) => (Math.abs(x) > most ? Math.abs(x) : most), 0);

/** Colours of none, of the most, and of the most below zero. */
const THEMES = {
  light: { none: [255, 255, 255], most: [6, 78, 72], below: [180, 50, 8], ink: '#5b6675', mark: '#1c2430' },
  dark: { none: [25, 32, 42], most: [94, 234, 212], below: [251, 146, 60], ink: '#9aa6b5', mark: '#ffffff' },
};
const dark = () => matchMedia('(prefers-color-scheme: dark)');
const theme = () => (dark().matches ? THEMES.dark : THEMES.light);
/** t from -1 to 1. The root, so that small values are seen beside a few large ones. */
function colour(t, { none, most, below }) {
  const share = Math.min(1, Math.sqrt(Math.abs(t)));
  const end = t < 0 ? below : most;
  return none.map((x, c) => x + (end[c] - x) * share);
}

/**
 * Shows it in an element, in place of what that holds.
 * @param {HTMLElement} root
 * @param {Packed} data
 * @param {{ channel?: (layer: number, channel: number) => Promise<Packed> }} [options] channel: computes a channel or head that is not there
 */
export function show(root, data, { channel: compute } = {}) {
  const l = data.pieces.length;
  let [layer, kind, tint] = [data.layers[0], 'magnitude', 'delta'];
  /** The pair that is shown: i reads j; and the one to go back to when the pointer leaves. */
  let [i, j] = [l - 1, Math.max(0, l - 2)];
  let pinned = [i, j];
  /** @type {Float32Array[]} */
  let rows = [];
  let most = 0;

  // ---- the controls
  const slider = make('input', { type: 'range', min: '0', max: String(data.layers.length - 1), value: '0', disabled: data.layers.length < 2 });
  const sliderValue = make('output', { className: 'number' });
  const maps = make('select');
  const tints = make('select', {}, ...LINES.map(([key, name]) => new Option(name, key)), new Option('what the chosen token reads', 'reads'));
  const byRow = make('input', { type: 'checkbox' });
  const controls = make(
    'div',
    { className: 'controls' },
    make('label', { className: 'grow' }, make('span', { textContent: 'Layer ' }), sliderValue, slider),
    make('label', {}, 'Map', maps),
    make('label', {}, 'Colour of the text', tints),
    make('label', { className: 'check' }, byRow, 'Each row by its own largest'),
  );

  // ---- the text
  const spans = data.pieces.map((piece, t) => {
    const span = make('span', { textContent: piece });
    span.dataset.token = String(t);
    return span;
  });
  const strip = make('div', { className: 'strip', tabIndex: 0, role: 'group', ariaLabel: 'The text. Left and right choose a token.' }, ...spans);

  // ---- the map
  const canvas = /** @type {HTMLCanvasElement} */ (make('canvas', { tabIndex: 0 }));
  canvas.setAttribute('role', 'img');
  const caption = make('figcaption');
  const figure = make('figure', {}, canvas, caption);

  // ---- the numbers
  const readout = make('dl', { className: 'readout' });
  readout.setAttribute('aria-live', 'polite');
  const charts = LINES.map(([key, name, title]) => {
    const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
    svg.setAttribute('viewBox', '0 0 300 60');
    svg.setAttribute('preserveAspectRatio', 'none');
    svg.setAttribute('role', 'img');
    const [line, mark] = ['polyline', 'line'].map((tag) => svg.appendChild(document.createElementNS(svg.namespaceURI, tag)));
    const range = make('span', { className: 'number' });
    const point = (event) => Math.max(0, Math.min(l - 1, Math.floor(((event.clientX - svg.getBoundingClientRect().left) / svg.getBoundingClientRect().width) * l)));
    svg.addEventListener('pointermove', (event) => choose(point(event), j));
    svg.addEventListener('pointerdown', (event) => pin(point(event), j));
    svg.addEventListener('pointerleave', back);
    return { key, svg, line, mark, range, whole: make('div', { className: 'line', title }, make('div', {}, make('b', { textContent: name }), range), svg) };
  });
  const side = make('div', { className: 'side' }, readout, ...charts.map(({ whole }) => whole));

  // ---- a channel or head that is not there yet
  const wanted = /** @type {HTMLInputElement} */ (make('input', { type: 'number', min: '0', value: '0', required: true }));
  const [limits, add] = [make('span'), make('button', { type: 'submit' })];
  const note = make('span', { className: 'note' });
  const more = make('form', { className: 'controls' }, make('label', {}, limits, wanted), add, note);
  more.addEventListener('submit', async (event) => {
    event.preventDefault();
    if (!compute) return;
    const [at, n] = [layer, Number(wanted.value)];
    add.disabled = true;
    note.textContent = '';
    try {
      if (!at.channels.some(({ channel }) => channel === n)) at.channels.push(...(await compute(at.layer, n)).layers[0].channels);
      if (layer === at) setKind(String(n));
    } catch (error) {
      note.textContent = /** @type {Error} */ (error).message;
    } finally {
      add.disabled = false;
    }
  });

  const lines = () => layer.channels.find(({ channel }) => String(channel) === kind) ?? layer;
  const signed = () => kind !== 'magnitude';

  /** The maps that this layer has, and the chosen one. */
  function setKind(chosen) {
    const unit = layer.units.kind;
    const channels = layer.channels.map(({ channel }) => new Option(`${unit} ${channel}`, String(channel)));
    maps.replaceChildren(new Option(`mean size over ${unit}s`, 'magnitude'), new Option(`mean over ${unit}s`, 'attention'), ...channels);
    kind = [...maps.options].some(({ value }) => value === chosen) ? chosen : 'magnitude';
    maps.value = kind;
    rows = unpack(kind === 'magnitude' ? layer.magnitude : lines().attention, l);
    most = rows.reduce((m, row) => Math.max(m, largest(row)), 0);
    const error = /** @type {Channel} */ (lines()).reproduction_error;
    const check = error == null ? '' : ` Applied to the scan's inputs, its rows give the scan's own output within ${number(error)} of its largest.`;
    caption.textContent = `Row i, column j: how much of token j's input the output at token i holds.${check}`;
    canvas.ariaLabel = `Map of the hidden attention, layer ${layer.layer}, ${maps.selectedOptions[0]?.text}. Arrows move: up and down the reading token, left and right the token read.`;
    for (const { key, line, range } of charts) {
      const values = lines()[key];
      const [low, high] = [key === 'state_norm' ? 0 : Math.min(...values), Math.max(...values)];
      const y = (x) => 57 - (54 * (x - low)) / (high - low || 1);
      line.setAttribute('points', values.map((x, t) => `${((t + 0.5) / l) * 300},${y(x)}`).join(' '));
      range.textContent = `${number(low)} to ${number(high)}`;
    }
    draw();
  }

  function setLayer(k) {
    layer = data.layers[k];
    slider.value = String(k);
    sliderValue.textContent = `${layer.layer} of 0 to ${data.n_layer - 1}`;
    slider.setAttribute('aria-valuetext', `layer ${layer.layer}`);
    const { kind: unit, count } = layer.units;
    wanted.max = String(count - 1);
    limits.textContent = `${unit === 'head' ? 'Head' : 'Channel'}, 0 to ${count - 1}`;
    add.textContent = `Show this ${unit}`;
    setKind(kind);
  }

  // ---- drawing
  let size = 0;
  let [left, top, bottom] = [0, 0, 0];
  let picture = /** @type {HTMLCanvasElement | null} */ (null);

  /** The map without marks, a pixel a pair. */
  function paint() {
    picture ??= /** @type {HTMLCanvasElement} */ (make('canvas', { width: l, height: l }));
    const context = /** @type {CanvasRenderingContext2D} */ (picture.getContext('2d'));
    const image = context.createImageData(l, l);
    const colours = theme();
    rows.forEach((row, y) => {
      const scale = byRow.checked ? largest(row) : most;
      row.forEach((value, x) => image.data.set([...colour(scale ? value / scale : 0, colours), 255], 4 * (y * l + x)));
    });
    context.putImageData(image, 0, 0);
  }

  function frame() {
    const width = figure.clientWidth;
    if (!width || !picture) return;
    [left, top, bottom] = width > 420 ? [76, 4, 70] : [4, 4, 4];
    size = Math.min(width - left - 4, 720);
    const [w, h] = [left + size + 4, top + size + bottom];
    const ratio = devicePixelRatio || 1;
    [canvas.width, canvas.height] = [Math.round(w * ratio), Math.round(h * ratio)];
    [canvas.style.width, canvas.style.height] = [`${w}px`, `${h}px`];
    const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext('2d'));
    const { ink, mark } = theme();
    context.scale(ratio, ratio);
    context.imageSmoothingEnabled = false;
    context.drawImage(picture, left, top, size, size);
    const cell = size / l;
    context.strokeStyle = ink;
    context.globalAlpha = 0.4;
    context.strokeRect(left, top, size, size);
    context.globalAlpha = 1;
    // The chosen pair: its row as far as the diagonal, its column from there on.
    context.strokeStyle = mark;
    context.strokeRect(left, top + i * cell, (i + 1) * cell, Math.max(cell, 1));
    context.strokeRect(left + j * cell, top + j * cell, Math.max(cell, 1), (l - j) * cell);
    context.font = '11px system-ui, sans-serif';
    context.fillStyle = ink;
    if (left > 10) labels(context, cell, mark, ink);
    legend(context, ink);
  }

  /** Tokens beside their rows and columns, as many as there is room for, and the chosen ones. */
  function labels(context, cell, mark, ink) {
    const short = (t) => data.pieces[t].trim().replace(/\n/g, '⏎').slice(0, 11);
    const place = (chosen, draw) => {
      const middle = (t) => (t + 0.5) * cell;
      let free = -Infinity;
      for (let t = 0; t < l; t++) {
        if (t !== chosen && (middle(t) < free || Math.abs(middle(t) - middle(chosen)) < 13)) continue;
        context.fillStyle = t === chosen ? mark : ink;
        draw(short(t), middle(t));
        free = middle(t) + 13;
      }
    };
    context.textBaseline = 'middle';
    context.textAlign = 'right';
    place(i, (text, y) => context.fillText(text, left - 6, top + y, left - 8));
    place(j, (text, x) => {
      context.save();
      context.translate(left + x, top + size + 6);
      context.rotate(-Math.PI / 2);
      context.fillText(text, 0, 0, bottom - 8);
      context.restore();
    });
    context.textAlign = 'left';
  }

  /** In the half that the map leaves free. */
  function legend(context, ink) {
    const [width, y] = [Math.min(180, size * 0.4), top + 14];
    const x = left + size - width - 12;
    for (let k = 0; k < width; k++) {
      const t = signed() ? (2 * k) / width - 1 : k / width;
      context.fillStyle = `rgb(${colour(t, theme()).map(Math.round).join(' ')})`;
      context.fillRect(x + k, y, 1, 10);
    }
    context.fillStyle = ink;
    context.textBaseline = 'top';
    context.textAlign = 'left';
    const high = byRow.checked ? 'row’s largest' : number(most);
    context.fillText(signed() ? (byRow.checked ? '−' : `−${high}`) : '0', x, y + 14);
    context.textAlign = 'right';
    context.fillText(high, x + width, y + 14);
    context.textAlign = 'left';
  }

  function tintText() {
    const values = tint === 'reads' ? [...rows[i]] : lines()[tint];
    const high = largest(values);
    // Forget factors and the like lie close together: from the least on.
    const low = tint === 'reads' ? 0 : Math.min(...values);
    const { most: strong, below } = theme();
    spans.forEach((span, t) => {
      const value = values[t] ?? 0;
      const share = high > low ? (Math.abs(value) - low) / (high - low) : 0;
      const tinted = tint === 'reads' ? Math.sqrt(Math.max(0, share)) : share;
      span.style.backgroundColor = `rgb(${(value < 0 ? below : strong).join(' ')} / ${(0.5 * tinted).toFixed(3)})`;
      span.classList.toggle('reads', t === i);
      span.classList.toggle('read', t === j);
    });
  }

  function tell() {
    const at = lines();
    const sum = rows[i].reduce((total, x) => total + Math.abs(x), 0);
    const share = sum ? `, ${((100 * Math.abs(rows[i][j])) / sum).toFixed(1)}% of its row` : '';
    const entry = (term, text) => [make('dt', { textContent: term }), make('dd', { textContent: text })];
    readout.replaceChildren(
      ...entry('Reads', `${i} ${quoted(data.pieces[i])}`),
      ...entry('Read', `${j} ${quoted(data.pieces[j])}`),
      ...entry(kind === 'magnitude' ? '|alpha(i, j)|' : 'alpha(i, j)', number(rows[i][j]) + share),
      ...entry('delta', `${number(at.delta[i])} at i, ${number(at.delta[j])} at j`),
      ...entry('exp(delta A)', `${number(at.forget[i])} at i, ${number(at.forget[j])} at j`),
      ...entry('‖h‖', `${number(at.state_norm[i])} at i, ${number(at.state_norm[j])} at j`),
    );
    for (const { mark } of charts) {
      const x = String(((i + 0.5) / l) * 300);
      for (const [name, value] of [['x1', x], ['x2', x], ['y1', '0'], ['y2', '60']]) mark.setAttribute(name, value);
    }
  }

  function draw() {
    paint();
    choose(i, j);
  }

  /** Shows a pair; what comes after the reading token cannot be read. */
  function choose(reading, read) {
    i = Math.max(0, Math.min(l - 1, reading));
    j = Math.max(0, Math.min(i, read));
    frame();
    tintText();
    tell();
  }
  function pin(reading, read) {
    choose(reading, read);
    pinned = [i, j];
  }
  function back() {
    choose(pinned[0], pinned[1]);
  }

  // ---- wiring
  slider.addEventListener('input', () => setLayer(Number(slider.value)));
  maps.addEventListener('change', () => setKind(maps.value));
  tints.addEventListener('change', () => {
    tint = tints.value;
    tintText();
  });
  byRow.addEventListener('change', draw);
  const token = (event) => Number(/** @type {HTMLElement} */ (event.target).dataset.token ?? NaN);
  strip.addEventListener('pointerover', (event) => Number.isNaN(token(event)) || choose(token(event), j));
  strip.addEventListener('pointerdown', (event) => Number.isNaN(token(event)) || pin(token(event), j));
  strip.addEventListener('pointerleave', back);
  const pair = (event) => {
    const { left: x, top: y } = canvas.getBoundingClientRect();
    return [Math.floor(((event.clientY - y - top) / size) * l), Math.floor(((event.clientX - x - left) / size) * l)];
  };
  canvas.addEventListener('pointermove', (event) => choose(pair(event)[0], pair(event)[1]));
  canvas.addEventListener('pointerdown', (event) => pin(pair(event)[0], pair(event)[1]));
  canvas.addEventListener('pointerleave', back);
  const keys = (moves) => (event) => {
    const to = moves[event.key]?.();
    if (!to) return;
    event.preventDefault();
    pin(to[0], to[1]);
  };
  canvas.addEventListener('keydown', keys({ ArrowUp: () => [i - 1, j], ArrowDown: () => [i + 1, j], ArrowLeft: () => [i, j - 1], ArrowRight: () => [i, j + 1], Home: () => [i, 0], End: () => [i, i] }));
  strip.addEventListener('keydown', keys({ ArrowLeft: () => [i - 1, j], ArrowRight: () => [i + 1, j], Home: () => [0, j], End: () => [l - 1, j] }));
  dark().addEventListener('change', draw);
  new ResizeObserver(frame).observe(figure);

  root.classList.add('explain');
  root.replaceChildren(controls, strip, make('div', { className: 'map' }, figure, side), ...(compute ? [more] : []));
  setLayer(0);
}
