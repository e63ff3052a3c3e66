// The train tab: trains the package's small model step by step, shows how it goes, and lets the user try what came of it.
import { Curve } from './curve.js';
import { $, digits, say } from './dom.js';
import { Try } from './try.js';

/** How often a run looks at how the model does. */
const LOOKS = 10;

const input = (id) => /** @type {HTMLInputElement} */ ($(id));

/** The form's inputs and what they are for. */
const FIELDS = /** @type {const} */ ([['train-steps', 'steps'], ['train-rate', 'learningRate'], ['train-seed', 'seed']]);

/** What a run is if nothing is changed. @param {import('../pkg/index.js').Mamba} mamba */
export async function showDefaults(mamba) {
  const defaults = await mamba.trainDefaults();
  for (const [id, option] of FIELDS) input(id).value ||= String(defaults[option]);
}

/** What is filled in. */
const options = () => Object.fromEntries(FIELDS.flatMap(([id, option]) => (input(id).value ? [[option, Number(input(id).value)]] : [])));

/**
 * @param {() => Promise<import('../pkg/index.js').Mamba>} device
 * @param {(error: any) => void} failed
 */
export function setUp(device, failed) {
  const [run, stop, more, note] = ['train-run', 'train-stop', 'train-continue', 'train-note'].map((id) => $(id));
  const curve = new Curve($('train-curve'));
  const trial = new Try(broken);
  /** @type {import('../pkg/index.js').Training | null} */
  let training = null;
  /** @type {AbortController | null} */
  let going = null;
  let step = 0;

  /** Says what happened. The model is gone where its device is, and of no use where its numbers are none. */
  function broken(error) {
    const gone = ['device-lost', 'crashed', 'closed'].includes(error.code);
    if (gone || error.code === 'diverged') {
      void training?.close().catch(() => {});
      training = null;
      void trial.show(null);
    }
    note.textContent = gone ? 'What was trained went with its device: start anew.' : /^(no|needs)-/.test(error.code) ? 'Training needs a GPU.' : '';
    // Closed is what the page itself has done, having said why.
    if (error.code !== 'closed') failed(error);
  }

  function record({ step: at, loss }) {
    step = at;
    curve.loss(at, loss);
    $('train-step').textContent = `${at} of ${training?.info.steps}`;
    $('train-loss').textContent = digits(loss);
  }

  async function look(on) {
    const { accuracy, correct, sequences } = await on.evaluate();
    curve.accuracy(step, accuracy);
    $('train-accuracy').textContent = `${correct} of ${sequences}`;
  }

  /** Trains until the last step, or until it is stopped. */
  async function train(on, signal) {
    const { steps } = on.info;
    const every = Math.max(1, Math.round(steps / LOOKS));
    while (step < steps && !signal.aborted) {
      if (step % every === 0) await look(on);
      const [from, begin] = [step, performance.now()];
      await on.run({
        steps: Math.min(every - (step % every), steps - step),
        signal,
        onRecord: (one) => {
          record(one);
          note.textContent = '';
          $('train-speed').textContent = `${digits(((step - from) * 1000) / (performance.now() - begin))} steps/s`;
        },
      });
    }
    if (!signal.aborted) await look(on);
  }

  /** A new model, from the form's numbers. */
  async function create() {
    // One whose device is gone is closed already.
    await training?.close().catch(() => {});
    training = null;
    const mamba = await device();
    training = await mamba.train(options());
    step = 0;
    curve.begin({ steps: training.info.steps, guess: Math.log(training.info.vocabSize - 1) });
    for (const stat of ['step', 'loss', 'accuracy', 'speed']) $(`train-${stat}`).textContent = '–';
  }

  async function go(anew) {
    if (going) return;
    going = new AbortController();
    const { signal } = going;
    run.hidden = more.hidden = true;
    stop.hidden = false;
    stop.focus();
    note.textContent = 'Making the GPU ready …';
    say('Training');
    try {
      await trial.show(null);
      if (anew) await create();
      $('train-course').hidden = false;
      await train(training, signal);
      say(`${signal.aborted ? 'Stopped' : 'Trained'}: step ${step}, loss ${$('train-loss').textContent}, ${$('train-accuracy').textContent} right`);
    } catch (error) {
      broken(error);
    } finally {
      going = null;
      run.hidden = false;
      run.textContent = 'Start anew';
      stop.hidden = true;
      more.hidden = !training || step >= training.info.steps;
      (more.hidden ? run : more).focus();
      if (/ready/.test(note.textContent ?? '')) note.textContent = '';
    }
    await trial.show(training);
  }

  $('train-form').addEventListener('submit', (event) => {
    event.preventDefault();
    void go(true);
  });
  more.addEventListener('click', () => go(false));
  stop.addEventListener('click', () => going?.abort());
  addEventListener('keydown', ({ key }) => {
    if (key === 'Escape' && !$('train').hidden) going?.abort();
  });
}
