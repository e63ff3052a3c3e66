// What a trained model says: a sequence that the user changes, symbol by symbol.
import { $, make } from './dom.js';

/** How tokens are shown: letters, and the last of the vocabulary, which asks. */
export const symbol = (token, vocabSize) => (token === vocabSize - 1 ? '★' : String.fromCharCode(65 + token));

/**
 * What the last token asks for, if it is a ★: the letter behind every one before it. Null if there is none, or not one alone.
 * @param {number[]} tokens
 */
export function wanted(tokens, special) {
  if (tokens.at(-1) !== special) return null;
  const answers = new Set(tokens.slice(1).filter((_, i) => tokens[i] === special));
  const [answer] = answers;
  return answers.size === 1 && answer !== special ? answer : null;
}

const percent = (share) => `${(100 * share).toFixed(1)}%`;

export class Try {
  /** @type {import('../pkg/index.js').Training | null} */
  #training = null;
  /** @type {number[]} */
  #tokens = [];
  #chosen = 0;
  #failed;
  /** A look at the model that is under way, and whether another one is due behind it. */
  #looking = false;
  #again = false;
  #sequence = $('try-sequence');
  #length = /** @type {HTMLSelectElement} */ ($('try-length'));
  #test = /** @type {HTMLButtonElement} */ ($('try-test'));

  /** @param {(error: any) => void} failed */
  constructor(failed) {
    this.#failed = failed;
    $('try-another').addEventListener('click', () => this.#take());
    this.#length.addEventListener('change', () => this.#take());
    this.#test.addEventListener('click', () => this.#judge());
    this.#sequence.addEventListener('click', ({ target }) => {
      const at = [...this.#sequence.children].indexOf(/** @type {Element} */ (target));
      if (at >= 0) this.#choose(at);
    });
    this.#sequence.addEventListener('keydown', (event) => this.#key(event));
  }

  get #special() {
    return (this.#training?.info.vocabSize ?? 1) - 1;
  }

  /** Shows a model, or with null nothing. */
  async show(training) {
    const other = training !== this.#training;
    this.#training = training;
    $('try').hidden = !training;
    if (!training) return;
    if (!other) return this.#look();
    const symbols = Array.from({ length: training.info.vocabSize }, (_, token) => token);
    $('try-symbols').replaceChildren(
      ...symbols.map((token) => make('button', { type: 'button', className: 'small', textContent: symbol(token, symbols.length), onclick: () => this.#set(token) })),
    );
    const { length } = training.info;
    this.#length.replaceChildren(...[1, 4, 16].map((times) => new Option(times > 1 ? `${length * times}, ${times} times as many` : `${length}, as in training`, String(length * times))));
    await this.#take();
  }

  /** A sequence that the model has not seen. */
  async #take() {
    const training = this.#training;
    if (!training) return;
    $('try-accuracy').textContent = '';
    try {
      const number = Math.floor(Math.random() * 2 ** 32);
      const { tokens } = await training.example({ length: Number(this.#length.value), number });
      this.#tokens = tokens;
      this.#chosen = Math.min(tokens.indexOf(this.#special) + 1, tokens.length - 1);
      this.#draw();
      await this.#look();
    } catch (error) {
      this.#failed(error);
    }
  }

  #draw() {
    const { length } = this.#tokens;
    this.#sequence.replaceChildren(...this.#tokens.map(() => make('button', { type: 'button', tabIndex: -1 })));
    this.#tokens.forEach((_, at) => this.#show(at));
    this.#sequence.ariaLabel = `A sequence of ${length} symbols. Left and right choose one, a letter or * changes it.`;
    this.#choose(this.#chosen, false);
  }

  #show(at) {
    const cell = /** @type {HTMLButtonElement} */ (this.#sequence.children[at]);
    const [token, special] = [this.#tokens[at], this.#special];
    const answer = wanted(this.#tokens, special) !== null && at === this.#tokens.indexOf(special) + 1;
    cell.textContent = symbol(token, special + 1);
    cell.className = token === special ? 'special' : answer ? 'answer' : '';
    cell.ariaLabel = `${at + 1} of ${this.#tokens.length}: ${token === special ? 'star' : cell.textContent}`;
  }

  #choose(at, focus = true) {
    for (const i of [this.#chosen, at]) {
      const cell = /** @type {HTMLButtonElement | undefined} */ (this.#sequence.children[i]);
      if (!cell) continue;
      cell.tabIndex = i === at ? 0 : -1;
      cell.setAttribute('aria-pressed', String(i === at));
    }
    this.#chosen = at;
    if (focus) /** @type {HTMLElement} */ (this.#sequence.children[at]).focus();
  }

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const last = this.#tokens.length - 1;
    const to = { ArrowLeft: this.#chosen - 1, ArrowRight: this.#chosen + 1, Home: 0, End: last }[event.key];
    const token = event.key === '*' ? this.#special : event.key.length === 1 ? event.key.toUpperCase().charCodeAt(0) - 65 : -1;
    if (to !== undefined) this.#choose(Math.max(0, Math.min(last, to)));
    else if (token >= 0 && token <= this.#special && (event.key === '*' || token < this.#special)) this.#set(token);
    else return;
    event.preventDefault();
  }

  #set(token) {
    this.#tokens[this.#chosen] = token;
    // The symbol that is wanted may be another one now.
    this.#tokens.forEach((_, at) => this.#show(at));
    void this.#look();
  }

  /** Asks the model about the sequence as it is; changes meanwhile are looked at afterwards, all at once. */
  async #look() {
    this.#again = true;
    if (this.#looking) return;
    this.#looking = true;
    try {
      while (this.#again && this.#training) {
        this.#again = false;
        const [training, tokens] = [this.#training, [...this.#tokens]];
        const shares = await training.predict(tokens);
        if (training === this.#training && !this.#again) this.#answer(tokens, [...shares]);
      }
    } catch (error) {
      this.#failed(error);
    } finally {
      this.#looking = false;
    }
  }

  #answer(tokens, shares) {
    const name = (token) => symbol(token, shares.length);
    const [said, right] = [shares.indexOf(Math.max(...shares)), wanted(tokens, this.#special)];
    $('try-answer').classList.toggle('wrong', right !== null && said !== right);
    const verdict = right === null ? 'Nothing is asked: that takes a ★ at the end, and before it one letter that follows a ★.' : said === right ? 'Right.' : `Wrong: ${name(right)} followed the first ★.`;
    $('try-answer').textContent = `The model says ${name(said)} (${percent(shares[said])}). ${verdict}`;
    const rows = shares.flatMap((share, token) => {
      const bar = make('span', { className: token === right ? 'bar' : 'bar second' });
      bar.style.setProperty('--share', String(share));
      const label = make('dt', { textContent: token === right ? `${name(token)}, wanted` : name(token) });
      return [label, make('dd', {}, bar, make('span', { className: 'value', textContent: percent(share) }))];
    });
    $('try-chart').replaceChildren(...rows);
  }

  async #judge() {
    const [training, length] = [this.#training, Number(this.#length.value)];
    if (!training || this.#test.disabled) return;
    this.#test.disabled = true;
    $('try-accuracy').textContent = 'Asking …';
    try {
      const { correct, sequences } = await training.evaluate({ length });
      $('try-accuracy').textContent = `${correct} of ${sequences} right at ${length} symbols`;
    } catch (error) {
      $('try-accuracy').textContent = '';
      this.#failed(error);
    } finally {
      this.#test.disabled = false;
    }
  }
}
