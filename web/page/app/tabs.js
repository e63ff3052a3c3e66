// Tabs by the ARIA pattern: arrows move, the address keeps the place.
import { $ } from './dom.js';

const NAMES = ['write', 'explain', 'train', 'bench', 'device'];

export function setUpTabs() {
  const select = (name, focus) => {
    for (const other of NAMES) {
      const tab = $(`tab-${other}`);
      tab.setAttribute('aria-selected', String(other === name));
      tab.tabIndex = other === name ? 0 : -1;
      $(other).hidden = other !== name;
    }
    if (focus) {
      $(`tab-${name}`).focus();
      history.replaceState(null, '', `#${name}`);
    }
  };
  NAMES.forEach((name, i) => {
    const tab = $(`tab-${name}`);
    tab.addEventListener('click', () => select(name, true));
    tab.addEventListener('keydown', ({ key }) => {
      const to = { ArrowRight: i + 1, ArrowLeft: i + NAMES.length - 1, Home: 0, End: NAMES.length - 1 }[key];
      if (to !== undefined) select(NAMES[to % NAMES.length], true);
    });
  });
  const here = location.hash.slice(1);
  if (NAMES.includes(here)) select(here, false);
}
