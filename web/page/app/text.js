// The text, a span a token, with a point that the user moves.
import { $, make } from './dom.js';

export class TextView {
  /** @type {{ id: number, text: string, prompt: boolean }[]} */
  tokens = [];
  #root = $('text');
  #empty = this.#root.children[0];
  /** @type {HTMLInputElement} */
  #slider = $('point');
  #point = 0;
  #locked = true;
  #changed;

  /** @param {() => void} changed called whenever length, point or lock have changed */
  constructor(changed) {
    this.#changed = changed;
    this.#slider.addEventListener('input', () => this.setPoint(Number(this.#slider.value)));
    this.#root.addEventListener('click', (event) => {
      const span = /** @type {HTMLElement} */ (event.target).closest('span');
      if (span && !this.#locked && !getSelection()?.toString()) this.setPoint([...this.#root.children].indexOf(span) + 1);
    });
  }

  get length() {
    return this.tokens.length;
  }
  get point() {
    return this.#point;
  }
  get ids() {
    return this.tokens.map(({ id }) => id);
  }
  get text() {
    return this.tokens.map(({ text }) => text).join('');
  }

  set(tokens) {
    this.tokens = [];
    this.#root.replaceChildren(this.#empty);
    for (const { id, text, prompt } of tokens) this.#append(id, text, prompt);
    this.setPoint(this.length);
  }

  /** Adds a piece that was generated; one without a token belongs to the one before. */
  add({ token, text }) {
    if (token === null) {
      const last = this.tokens.at(-1);
      if (last) {
        last.text += text;
        this.#root.lastElementChild?.append(text);
      }
      return;
    }
    const nearEnd = this.#root.scrollHeight - this.#root.scrollTop - this.#root.clientHeight < 80;
    this.#append(token, text, false).classList.add('fresh');
    this.#point = this.length;
    this.#slider.max = String(this.length);
    this.#slider.value = String(this.length);
    $('point-value').textContent = `${this.length} of ${this.length}`;
    if (nearEnd) this.#root.scrollTop = this.#root.scrollHeight;
  }

  #append(id, text, prompt) {
    if (!this.tokens.length) this.#root.replaceChildren();
    this.tokens.push({ id, text, prompt });
    const span = make('span', { textContent: text, className: prompt ? 'prompt' : '' });
    span.dataset.token = String(id);
    this.#root.append(span);
    return span;
  }

  truncate(length) {
    this.tokens.length = length;
    while (this.#root.children.length > length) this.#root.lastElementChild?.remove();
    this.setPoint(length);
  }

  /** Keeps the point where it is while the model is at work. */
  lock(locked) {
    this.#locked = locked;
    this.setPoint(this.#point);
  }

  setPoint(point) {
    this.#point = Math.max(Math.min(point, this.length), Math.min(1, this.length));
    const end = this.#point === this.length;
    this.#slider.disabled = this.#locked || this.length < 2;
    this.#slider.max = String(Math.max(1, this.length));
    this.#slider.value = String(this.#point);
    [...this.#root.querySelectorAll('span')].forEach((span, i) => {
      span.classList.toggle('beyond', i >= this.#point);
      span.classList.toggle('here', !end && i === this.#point - 1);
    });
    $('point-value').textContent = this.length ? `${this.#point} of ${this.length}` : '–';
    const before = this.tokens.slice(Math.max(0, this.#point - 12), this.#point).map(({ text }) => text).join('');
    // The end is what matters, and a phone's line is short.
    $('point-context').textContent = this.length && !end ? `… ${before.trim().slice(-36)} |` : '';
    this.#changed();
  }
}
