// Texts that were forked: each is a state file in memory while another is shown.
import { $, make } from './dom.js';

export class Branches {
  /** @type {{ name: string, data: Uint8Array | null, tokens: { id: number, text: string, prompt: boolean }[] }[]} */
  #all = [];
  #now = 0;
  #open;

  /** @param {(index: number) => void} open */
  constructor(open) {
    this.#open = open;
    this.reset();
  }

  reset() {
    this.#all = [{ name: 'Text 1', data: null, tokens: [] }];
    this.#now = 0;
    this.#show();
  }

  get now() {
    return this.#now;
  }

  /** Keeps the text shown, before another takes its place. */
  keep(data, tokens) {
    Object.assign(this.#all[this.#now], { data, tokens });
  }

  add(at, data, tokens) {
    const name = `Text ${this.#all.length + 1}, from ${at}`;
    this.#all.push({ name, data, tokens });
    return this.#all.length - 1;
  }

  get(index) {
    return this.#all[index];
  }

  switchTo(index) {
    this.#now = index;
    this.#show();
  }

  lock(locked) {
    for (const button of $('branches').children) /** @type {HTMLButtonElement} */ (button).disabled = locked;
  }

  #show() {
    const row = $('branches');
    row.hidden = this.#all.length < 2;
    row.replaceChildren(
      ...this.#all.map(({ name }, i) => {
        const button = make('button', { type: 'button', className: 'small', textContent: name, onclick: () => i !== this.#now && this.#open(i) });
        button.setAttribute('aria-pressed', String(i === this.#now));
        return button;
      }),
    );
  }
}
