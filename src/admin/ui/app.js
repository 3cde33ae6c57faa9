// The page's frame: routes in the address, live refresh, theme, keyboard. Each view is a module with `show` and `keys`.

import { bytes, colour, count, h, toast } from './dom.js';
import * as graph from './graph.js';
import * as search from './search.js';
import * as trace from './trace.js';

const VIEWS = { search, graph, trace };
const PERIOD = 2000;

const main = document.getElementById('main');
const liveButton = document.getElementById('live');
const dialog = document.getElementById('shortcuts');

/** What the views share: the address, the live switch, fetching. */
const page = {
  live: recall('pillion.live') !== 'off',
  /** Fetches JSON; rejects with a readable message. `unchanged` when the tag is the one given. */
  async json(path, tag) {
    const response = await fetch(path, { cache: 'no-cache', headers: { accept: 'application/json' } });
    if (!response.ok) throw new Error(await reason(response));
    const etag = response.headers.get('etag');
    if (tag && tag === etag) return { unchanged: true, tag };
    return { data: await response.json(), tag: etag };
  },
  /** Goes to another address, `replace` without a step in the history. */
  go(hash, replace = false) {
    if (replace) {
      history.replaceState(null, '', hash);
      render();
    } else {
      location.hash = hash;
    }
  },
  held(held) {
    const element = document.getElementById('held');
    const lost = held.droppedQueueFull + held.droppedThinned + held.droppedTraceTooLarge;
    element.textContent = `${count(held.traces)} traces · ${bytes(held.bytes)} of ${bytes(held.maxBytes)}`;
    element.title = `${count(held.spans)} spans held; ${count(held.evictedTraces)} older traces made room; `
      + `${count(lost)} spans not kept`;
  },
};

let current = null;
let turn = 0;

async function reason(response) {
  const text = (await response.text()).trim();
  try {
    const body = JSON.parse(text);
    return body.error?.message ?? body.errors?.[0]?.msg ?? text;
  } catch {
    return text || `the server answered ${response.status}`;
  }
}

function address() {
  const [path, query = ''] = location.hash.replace(/^#/, '').split('?');
  const [, name = 'search', argument = ''] = path.split('/');
  return { name: VIEWS[name] ? name : 'search', argument: decodeURIComponent(argument), params: new URLSearchParams(query) };
}

async function render() {
  if (location.hash === '#main') return;
  const where = address();
  const mine = ++turn;
  const fresh = current?.name !== where.name || current?.argument !== where.argument;
  current = { ...where, view: VIEWS[where.name], alive: () => mine === turn };
  for (const link of document.querySelectorAll('[data-nav]')) {
    const here = link.dataset.nav === where.name;
    if (here) link.setAttribute('aria-current', 'page');
    else link.removeAttribute('aria-current');
  }
  if (fresh) {
    main.replaceChildren();
    window.scrollTo(0, 0);
  }
  await attempt(() => current.view.show(main, page, current));
}

async function attempt(work) {
  const mine = current;
  try {
    await work();
    document.body.classList.remove('offline');
  } catch (error) {
    if (!mine.alive()) return;
    const offline = error instanceof TypeError && error.message.includes('fetch');
    document.body.classList.toggle('offline', offline);
    if (main.childElementCount === 0) {
      main.append(h('div', { class: 'empty', role: 'alert' },
        h('h1', null, 'This could not be loaded'),
        h('p', null, offline ? 'The sidecar does not answer. It may have stopped.' : error.message)));
    } else if (!offline) {
      toast(error.message);
    }
  }
}

async function tick() {
  if (page.live && !document.hidden && current?.view.refresh) {
    await attempt(() => current.view.refresh(main, page, current));
  }
  setTimeout(tick, PERIOD);
}

function setLive(on) {
  page.live = on;
  liveButton.setAttribute('aria-pressed', String(on));
  keep('pillion.live', on ? 'on' : 'off');
}

function switchTheme() {
  const root = document.documentElement;
  const dark = root.dataset.theme
    ? root.dataset.theme === 'dark'
    : matchMedia('(prefers-color-scheme: dark)').matches;
  root.dataset.theme = dark ? 'light' : 'dark';
  keep('pillion.theme', root.dataset.theme);
}

function recall(key) {
  try {
    return localStorage.getItem(key);
  } catch {
    return null;
  }
}

function keep(key, value) {
  try {
    localStorage.setItem(key, value);
  } catch {
    // Storage may be forbidden; the choice then lasts as long as the page.
  }
}

const EVERYWHERE = [
  ['?', 'This list', () => help()],
  ['g', 'Service graph', () => page.go('#/graph')],
  ['s', 'Search for traces', () => page.go('#/search')],
  ['/', 'Search field', () => (document.querySelector('[data-find]') ?? document.getElementById('jump-id')).focus()],
  ['i', 'Open a trace by id', () => document.getElementById('jump-id').focus()],
  ['l', 'Live on or off', () => setLive(!page.live)],
  ['t', 'Light or dark', switchTheme],
];

const ARROWS = { ArrowUp: '↑', ArrowDown: '↓', ArrowLeft: '←', ArrowRight: '→' };

function help() {
  const section = (title, keys) => h('section', null,
    h('h3', null, title),
    h('dl', null, keys.map(([key, what]) => [h('dt', null, key.split(' ').map((name) => [h('kbd', null, ARROWS[name] ?? name), ' '])), h('dd', null, what)])));
  document.getElementById('shortcuts-body').replaceChildren(
    section('Everywhere', EVERYWHERE),
    section('Traces', search.keys),
    section('One trace', trace.keys),
  );
  dialog.showModal();
}

function pressed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || dialog.open) return;
  const typing = event.target.closest?.('input, select, textarea');
  if (typing) {
    if (event.key !== 'Escape') return;
    if (typing.type === 'search' && typing.value) {
      typing.value = '';
      typing.dispatchEvent(new Event('input'));
    }
    typing.blur();
    return;
  }
  const keys = [...(current?.view.keys ?? []), ...EVERYWHERE];
  const row = keys.find(([key]) => key.split(' ').includes(event.key));
  if (!row) return;
  if (row[2](event, page) !== false) event.preventDefault();
}

document.addEventListener('keydown', pressed);
document.getElementById('help').addEventListener('click', help);
document.getElementById('theme').addEventListener('click', switchTheme);
document.getElementById('skip').addEventListener('click', (event) => {
  event.preventDefault();
  main.focus();
});
liveButton.addEventListener('click', () => setLive(!page.live));
document.getElementById('jump').addEventListener('submit', (event) => {
  event.preventDefault();
  const input = document.getElementById('jump-id');
  const id = input.value.trim().toLowerCase();
  if (/^[0-9a-f]{1,32}$/.test(id)) {
    page.go(`#/trace/${id}`);
    input.value = '';
    input.blur();
  } else if (id) {
    toast('A trace id has 1 to 32 hexadecimal digits');
  }
});
window.addEventListener('hashchange', render);
setLive(page.live);
// Colours are given out in the order of names, so that a service has the same one on every view and after a reload.
page.json('view/services').then(({ data }) => {
  data.services.forEach(({ name }) => colour(name));
  page.held(data.held);
}, () => {}).then(() => {
  render();
  setTimeout(tick, PERIOD);
});
