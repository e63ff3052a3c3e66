// A run's loss and accuracy over its steps, drawn as it goes.
import { digits, make } from './dom.js';

const [WIDTH, HEIGHT] = [600, 200];

export class Curve {
  #svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
  #most = make('span');
  #steps = make('span');
  #lines = {};
  /** @type {[number, number][]} */
  #losses = [];
  /** @type {[number, number][]} */
  #accuracies = [];
  #last = 1;
  #guess = 1;
  #due = false;

  /** @param {HTMLElement} root the figure that it fills */
  constructor(root) {
    this.#svg.setAttribute('viewBox', `0 0 ${WIDTH} ${HEIGHT}`);
    this.#svg.setAttribute('preserveAspectRatio', 'none');
    this.#svg.setAttribute('role', 'img');
    for (const name of ['guess', 'accuracy', 'loss']) {
      const line = this.#svg.appendChild(document.createElementNS(this.#svg.namespaceURI, 'polyline'));
      line.setAttribute('class', name);
      this.#lines[name] = line;
    }
    const key = (name, text) => make('span', { className: `key ${name}`, textContent: text });
    const above = make('div', { className: 'axis' }, this.#most, make('span', { textContent: '100%' }));
    const below = make('div', { className: 'axis' }, make('span', { textContent: '0' }), this.#steps, make('span', { textContent: '0%' }));
    const keys = make('figcaption', {}, key('loss', 'Loss of each step, nats'), key('accuracy', 'Right answers on new sequences'), key('guess', 'Loss of guessing'));
    root.replaceChildren(above, this.#svg, below, keys);
  }

  /** An empty one. @param {{ steps: number, guess: number }} run how many steps it is wide; the loss of who guesses */
  begin({ steps, guess }) {
    [this.#losses, this.#accuracies, this.#last, this.#guess] = [[], [], steps, guess];
    this.#draw();
  }

  loss(step, value) {
    this.#losses.push([step, value]);
    this.#soon();
  }

  accuracy(step, value) {
    this.#accuracies.push([step, value]);
    this.#soon();
  }

  /** However many steps a second there are, once a frame. */
  #soon() {
    if (this.#due) return;
    this.#due = true;
    requestAnimationFrame(() => {
      this.#due = false;
      this.#draw();
    });
  }

  #draw() {
    const most = this.#losses.reduce((largest, [, value]) => Math.max(largest, value), this.#guess) * 1.05;
    const points = (line, top) => line.map(([step, value]) => `${((step / this.#last) * WIDTH).toFixed(1)},${((1 - value / top) * HEIGHT).toFixed(1)}`).join(' ');
    this.#lines.loss.setAttribute('points', points(this.#losses, most));
    this.#lines.accuracy.setAttribute('points', points(this.#accuracies, 1));
    this.#lines.guess.setAttribute('points', points([[0, this.#guess], [this.#last, this.#guess]], most));
    this.#most.textContent = digits(most);
    this.#steps.textContent = `steps 1 to ${this.#last}`;
    const [loss, accuracy] = [this.#losses.at(-1), this.#accuracies.at(-1)];
    const said = [loss && `loss ${digits(loss[1])} at step ${loss[0]} of ${this.#last}`, accuracy && `${Math.round(accuracy[1] * 100)}% right at step ${accuracy[0]}`];
    this.#svg.ariaLabel = `The curve: ${said.filter(Boolean).join(', ') || 'nothing yet'}`;
  }
}
