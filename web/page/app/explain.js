// The explain tab: asks the model what it sees in a text, and shows it as `mamba-wgpu explain --html` does.
import { show } from '../explain/view.js';
import { $, say } from './dom.js';

/**
 * @param {{ ready: () => Promise<boolean>, mamba: () => import('../pkg/index.js').Mamba | null, text: () => string, failed: (error: any) => void }} page
 */
export function setUp({ ready, mamba, text, failed }) {
  const [run, bar] = [/** @type {HTMLButtonElement} */ ($('explain-run')), /** @type {HTMLProgressElement} */ ($('explain-bar'))];
  const input = /** @type {HTMLTextAreaElement} */ ($('explain-text'));
  const onProgress = (done, total) => (bar.value = done / total);
  $('explain-take').addEventListener('click', () => {
    if (text()) input.value = text();
    input.focus();
  });
  $('explain-form').addEventListener('submit', async (event) => {
    event.preventDefault();
    if (run.disabled) return;
    run.disabled = true;
    bar.value = 0;
    bar.hidden = false;
    say('Explaining');
    try {
      if (!(await ready())) return;
      const [model, wanted] = [/** @type {import('../pkg/index.js').Mamba} */ (mamba()), input.value];
      const explanation = await model.explain(wanted, { onProgress });
      $('explain-result').hidden = false;
      // Another layer's channel of the same text, from the model that is loaded then.
      const channel = (layer, n) => model.explain(wanted, { layers: [layer], channels: [n] });
      show($('explain-result'), explanation, { channel });
      say(`Explained ${explanation.pieces.length} tokens`);
    } catch (error) {
      failed(error);
    } finally {
      run.disabled = false;
      bar.hidden = true;
    }
  });
}
