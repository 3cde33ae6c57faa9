// One trace: an overview that zooms, and a tree of rows with bars. Everything a person unfolds survives a refresh.

import { clock, colour, copy, count, duration, h, plural, s } from './dom.js';
import { details } from './detail.js';
import { readTrace } from './otlp.js';
import { last } from './search.js';
import { linking } from './words.js';

export const keys = [
  ['j ArrowDown', 'Next span', () => step(1)],
  ['k ArrowUp', 'Previous span', () => step(-1)],
  ['ArrowRight', 'Unfold, or go to the first child', (event) => inward(event)],
  ['ArrowLeft', 'Fold, or go to the parent', (event) => outward(event)],
  ['Enter', 'Span details', (event) => (event.target.closest('a, button, summary') ? false : toggleDetails())],
  ['e', 'Next error', () => nextError()],
  ['n', 'Next span that is found', () => nextFound()],
  ['z', 'Zoom to the span', () => zoomToSpan()],
  ['0', 'Whole trace', () => zoomTo(0, view.trace.duration)],
  ['c', 'Fold all', () => foldAll(true)],
  ['x', 'Unfold all', () => foldAll(false)],
  ['u', 'Back to the list', (_event, page) => page.go(last)],
];

/** Rows drawn at first; a button draws the rest. */
const ROWS = 1500;
/** How long after its last span a trace is looked at again. */
const YOUNG = 60_000;

let view = null;

/** Draws the view for an address. */
export async function show(main, page, where) {
  document.title = 'Trace · Pillion';
  if (view?.id !== where.argument || !main.contains(view.body)) {
    view = { id: where.argument, trace: null, tag: null, folded: new Set(), open: new Set(), zoom: null, focus: null, found: null, rows: ROWS, body: null };
  }
  await load(main, page, where);
  const span = where.params.get('span');
  if (span && view.trace?.byKey.has(span)) reveal(span, true);
}

/** Spans of a young trace still arrive. */
export async function refresh(main, page, where) {
  if (!view?.trace || Date.now() - view.trace.startMillis - view.trace.duration / 1e6 < YOUNG) await load(main, page, where);
}

async function load(main, page, where) {
  let answer;
  try {
    answer = await page.json(`api/v3/traces/${encodeURIComponent(where.argument)}`);
  } catch (error) {
    if (error instanceof TypeError || view.trace) throw error;
    if (where.alive()) main.replaceChildren(gone(where.argument, error.message));
    return;
  }
  if (!where.alive()) return;
  const trace = readTrace(answer.data.result ?? {});
  if (trace.spans.length === 0) throw new Error('the trace has no spans');
  if (view.trace && view.trace.spans.length === trace.spans.length) return;
  const whole = !view.zoom || (view.trace && view.zoom[0] === 0 && view.zoom[1] === view.trace.duration);
  view.trace = trace;
  if (whole) view.zoom = [0, Math.max(trace.duration, 1)];
  if (!trace.byKey.has(view.focus)) view.focus = trace.spans[0].key;
  document.title = `${trace.root.service} ${trace.root.name} · Pillion`;
  build(main, where.argument);
}

function gone(id, message) {
  return h('div', { class: 'empty', role: 'alert' },
    h('h1', null, 'This trace is not here'),
    h('p', null, `Pillion answered: ${message}. Recent traces are kept in memory only; older ones make room, and a restart forgets all.`),
    h('p', { class: 'mono muted' }, id),
    h('p', null, h('a', { class: 'button', href: last }, 'Back to the list')));
}

function build(main, id) {
  const { trace } = view;
  const fact = (name, value, tone) => h('div', null, h('dt', null, name), h('dd', { class: tone }, value));
  const fullId = trace.spans[0].traceId;
  const head = h('header', { class: 'head' },
    h('div', { class: 'title' },
      h('a', { class: 'back', href: last, 'aria-label': 'Back to the list' }, '←'),
      h('h1', null, h('span', { class: 'service', style: { '--tint': colour(trace.root.service) } }, trace.root.service), ' ', trace.root.name),
      trace.errors > 0 && h('span', { class: 'badge bad' }, plural(trace.errors, 'error'))),
    h('div', { class: 'tools' },
      h('label', { class: 'sr', for: 'find' }, 'Find in this trace'),
      h('input', { id: 'find', type: 'search', placeholder: 'Find in this trace', 'data-find': true, autocomplete: 'off', spellcheck: 'false', value: view.query ?? '', oninput: (event) => find(event.target.value), onkeydown: (event) => event.key === 'Enter' && nextFound() }),
      h('span', { class: 'muted small found', id: 'found', role: 'status' }),
      h('button', { class: 'ghost', onclick: () => foldAll(true), title: 'Fold all (c)' }, 'Fold'),
      h('button', { class: 'ghost', onclick: () => foldAll(false), title: 'Unfold all (x)' }, 'Unfold'),
      h('a', { class: 'button ghost', href: `view/download/jaeger/${id}.json`, download: true, title: 'For upload into Jaeger’s page' }, 'Jaeger JSON'),
      h('a', { class: 'button ghost', href: `view/download/otlp/${id}.json`, download: true, title: 'OpenTelemetry protocol' }, 'OTLP JSON')),
    h('dl', { class: 'facts' },
      fact('Start', clock(trace.startMillis)), fact('Duration', duration(trace.duration)), fact('Services', count(trace.services.size)),
      fact('Spans', count(trace.spans.length)), fact('Depth', count(trace.depth)), fact('Errors', count(trace.errors), trace.errors > 0 ? 'bad' : ''),
      h('div', { class: 'wide' }, h('dt', null, 'Trace id'), h('dd', null, h('button', { class: 'copy mono', title: 'Copy', onclick: () => copy(fullId, 'Trace id') }, fullId)))));
  view.map = s('svg', { class: 'map', viewBox: '0 0 1000 64', preserveAspectRatio: 'none', role: 'img', 'aria-label': 'Overview of the trace. Drag to zoom, double-click for the whole trace.' });
  view.window = h('div', { class: 'window' });
  const overview = h('div', { class: 'overview' }, view.map, view.window);
  drag(overview);
  view.ruler = h('div', { class: 'ruler' });
  view.body = h('div', { class: 'rows', role: 'treegrid', 'aria-label': 'Spans', 'aria-rowcount': trace.spans.length, onclick: clicked });
  const legend = h('ul', { class: 'legend', 'aria-label': 'Services' }, [...trace.services].map(([name, spans]) => h('li', { class: 'chip', style: { '--tint': colour(name) }, title: name }, h('span', null, name), h('b', null, count(spans)))));
  main.replaceChildren(h('article', { class: 'waterfall' }, head, legend, overview,
    h('div', { class: 'columns' }, h('span', null, 'Service and operation'), view.ruler), view.body));
  drawMap();
  draw();
  if (view.query) find(view.query);
}

function drawMap() {
  const { trace } = view;
  const step = Math.max(1, Math.ceil(trace.spans.length / 800));
  const spans = trace.spans.filter((_span, i) => i % step === 0);
  const height = 60 / spans.length;
  const bars = spans.map((span, i) => s('rect', {
    x: (span.start / Math.max(trace.duration, 1)) * 1000, width: Math.max((span.duration / Math.max(trace.duration, 1)) * 1000, 2),
    y: 2 + i * height, height: Math.max(Math.min(height * 0.8, 6), 0.7), style: { fill: span.error ? 'var(--bad)' : colour(span.service) },
  }));
  view.map.replaceChildren(...bars);
}

function draw() {
  const { trace, zoom } = view;
  const [from, until] = zoom;
  const whole = Math.max(trace.duration, 1);
  view.window.style.left = `${(from / whole) * 100}%`;
  view.window.style.width = `${((until - from) / whole) * 100}%`;
  view.window.hidden = from === 0 && until >= whole;
  const ticks = [0, 0.25, 0.5, 0.75, 1].map((part) => h('span', { style: { left: `${part * 100}%` }, class: part === 1 ? 'last' : '' }, from === 0 && part === 0 ? '0' : duration(from + (until - from) * part)));
  view.ruler.replaceChildren(...ticks, !view.window.hidden && h('button', { class: 'ghost reset', onclick: () => zoomTo(0, whole), title: 'Whole trace (0)' }, 'Whole trace') || '');
  const rows = [];
  let hidden = 0;
  let below = Infinity;
  for (const span of trace.spans) {
    if (span.depth > below) continue;
    below = view.folded.has(span.key) ? span.depth : Infinity;
    if (rows.length >= view.rows) {
      hidden += 1;
      continue;
    }
    rows.push(row(span));
    if (view.open.has(span.key)) rows.push(h('div', { class: 'detail', role: 'row', 'data-detail': span.key, style: { '--tint': colour(span.service) } }, h('div', { role: 'gridcell' }, details(span, view.id))));
  }
  if (hidden > 0) rows.push(h('button', { class: 'ghost more', onclick: () => { view.rows = Infinity; draw(); } }, `Show ${plural(hidden, 'more span')}`));
  const hadFocus = view.body.contains(document.activeElement);
  view.body.replaceChildren(...rows);
  if (hadFocus) rowOf(view.focus)?.focus({ preventScroll: true });
}

function row(span) {
  const folds = span.children.length > 0;
  const folded = view.folded.has(span.key);
  const link = linking(span);
  const classes = ['row', span.error && 'error', view.open.has(span.key) && 'open', view.found && (view.found.has(span.key) ? 'hit' : 'miss')];
  const label = `${span.service} ${span.name}, ${duration(span.duration)}${span.error ? ', failed' : ''}`;
  return h('div', {
    class: classes.filter(Boolean).join(' '), role: 'row', 'data-key': span.key, 'aria-level': span.depth + 1, 'aria-label': label,
    'aria-expanded': folds ? String(!folded) : null, tabindex: span.key === view.focus ? '0' : '-1',
    style: { '--tint': colour(span.service), '--depth': Math.min(span.depth, 24) },
  },
  h('div', { class: 'name', role: 'gridcell', title: `${span.service}: ${span.name}` },
    folds ? h('button', { class: 'fold', tabindex: '-1', 'data-fold': span.key, 'aria-label': folded ? 'Unfold' : 'Fold' }, folded ? `+${span.size - 1}` : '−') : h('span', { class: 'leaf' }),
    span.error && h('span', { class: 'mark bad', title: 'Failed', 'aria-label': 'Failed' }, '!'),
    h('span', { class: 'service' }, span.service), h('span', { class: 'operation' }, span.name),
    folded && span.errorsBelow > 0 && h('span', { class: 'badge bad' }, `${plural(span.errorsBelow, 'error')} inside`),
    link && h('span', { class: `mark link ${link.tone}`, title: `Link: ${link.label}` }, link.tone === 'good' ? `⤷ ${link.short}` : link.short),
    span.orphan && h('span', { class: 'mark link quiet', title: 'Its parent span is not here: reported elsewhere, not yet, or not at all' }, 'parent missing')),
  track(span));
}

function track(span) {
  const [from, until] = view.zoom;
  const place = (at) => ((at - from) / (until - from)) * 100;
  const [left, right] = [place(span.start), place(span.start + span.duration)];
  if (right < 0 || left > 100) {
    return h('div', { class: 'track', role: 'gridcell' }, h('span', { class: `beyond ${left > 100 ? 'right' : 'left'}` }, left > 100 ? '›' : '‹'));
  }
  const [shownLeft, shownRight] = [Math.max(left, 0), Math.min(right, 100)];
  const width = Math.max(shownRight - shownLeft, 0);
  // The text stands where there is room: after the bar, before it, or in it.
  const text = shownRight < 84 ? { left: `calc(${shownRight}% + 6px)` } : shownLeft > 16 ? { right: `calc(${100 - shownLeft}% + 6px)` } : { right: '6px' };
  return h('div', { class: 'track', role: 'gridcell' },
    h('span', { class: `bar ${span.kind}`, style: { left: `${shownLeft}%`, width: `max(${width}%, 2px)` } }),
    span.events.slice(0, 50).map((event) => {
      const at = place(span.start + event.at);
      return at >= 0 && at <= 100 && h('span', { class: 'event', style: { left: `${at}%` }, title: `${event.name}, ${duration(Math.max(event.at, 0))} after the start` });
    }),
    h('span', { class: `number${shownRight >= 84 && shownLeft <= 16 ? ' inside' : ''}`, style: text }, duration(span.duration)));
}

function drag(overview) {
  const at = (event) => {
    const box = overview.getBoundingClientRect();
    return Math.min(Math.max((event.clientX - box.left) / box.width, 0), 1) * view.trace.duration;
  };
  overview.addEventListener('pointerdown', (event) => {
    const begin = at(event);
    let moved = false;
    overview.setPointerCapture(event.pointerId);
    const move = (next) => {
      const here = at(next);
      if (Math.abs(here - begin) < view.trace.duration / 200) return;
      moved = true;
      zoomTo(Math.min(begin, here), Math.max(begin, here));
    };
    const end = () => {
      overview.removeEventListener('pointermove', move);
      if (!moved) zoomTo(0, view.trace.duration);
    };
    overview.addEventListener('pointermove', move);
    overview.addEventListener('pointerup', end, { once: true });
  });
}

function zoomTo(from, until) {
  view.zoom = until - from >= 1 ? [from, until] : [from, from + 1];
  draw();
}

function zoomToSpan() {
  const span = view.trace.byKey.get(view.focus);
  const margin = Math.max(span.duration * 0.05, 500);
  zoomTo(Math.max(span.start - margin, 0), Math.min(span.start + span.duration + margin, Math.max(view.trace.duration, 1)));
}

function clicked(event) {
  const fold = event.target.closest('[data-fold]');
  const target = event.target.closest('[data-key]');
  if (!target || getSelection().toString()) return;
  focus(target.dataset.key);
  if (fold) toggleFold(fold.dataset.fold);
  else toggleDetails();
}

function toggleFold(key) {
  if (!view.folded.delete(key)) view.folded.add(key);
  draw();
}

function toggleDetails() {
  const opened = !view.open.delete(view.focus);
  if (opened) view.open.add(view.focus);
  draw();
  const where = opened ? `#/trace/${view.id}?span=${encodeURIComponent(view.focus)}` : `#/trace/${view.id}`;
  history.replaceState(null, '', where);
}

function foldAll(fold) {
  view.folded = new Set(fold ? view.trace.spans.filter((span) => span.children.length > 0 && span.depth > 0).map((span) => span.key) : []);
  draw();
}

function rowOf(key) {
  return view.body.querySelector(`[data-key="${CSS.escape(key)}"]`);
}

function focus(key) {
  const old = rowOf(view.focus);
  if (old) old.tabIndex = -1;
  view.focus = key;
  const next = rowOf(key);
  if (!next) return;
  next.tabIndex = 0;
  next.focus({ preventScroll: true });
  next.scrollIntoView({ block: 'nearest' });
}

function step(by) {
  const rows = [...view.body.querySelectorAll('[data-key]')];
  const at = rows.indexOf(rowOf(view.focus));
  const inside = view.body.contains(document.activeElement);
  const next = rows[inside ? at + by : Math.max(at, 0)];
  if (next) focus(next.dataset.key);
}

function inward(event) {
  if (event.target.closest('summary')) return false;
  const span = view.trace.byKey.get(view.focus);
  if (view.folded.has(span.key)) toggleFold(span.key);
  else if (span.children.length > 0) focus(span.children[0].key);
  return true;
}

function outward(event) {
  if (event.target.closest('summary')) return false;
  const span = view.trace.byKey.get(view.focus);
  if (span.children.length > 0 && !view.folded.has(span.key)) toggleFold(span.key);
  else if (span.parent) focus(span.parent.key);
  return true;
}

/** Unfolds the way to a span and goes there. */
function reveal(key, open) {
  for (let up = view.trace.byKey.get(key)?.parent; up; up = up.parent) view.folded.delete(up.key);
  if (open) view.open.add(key);
  if (view.trace.spans.findIndex((span) => span.key === key) >= view.rows) view.rows = Infinity;
  draw();
  focus(key);
}

function nextAmong(matches) {
  const { spans } = view.trace;
  const at = spans.findIndex((span) => span.key === view.focus);
  const ordered = [...spans.slice(at + 1), ...spans.slice(0, at + 1)];
  const next = ordered.find(matches);
  if (next) reveal(next.key, false);
}

function nextError() {
  nextAmong((span) => span.error);
}

function nextFound() {
  if (view.found) nextAmong((span) => view.found.has(span.key));
}

function find(text) {
  view.query = text;
  const wanted = text.trim().toLowerCase();
  view.found = wanted ? new Set(view.trace.spans.filter((span) => holds(span, wanted)).map((span) => span.key)) : null;
  document.getElementById('found').textContent = view.found ? plural(view.found.size, 'span') : '';
  draw();
}

function holds(span, wanted) {
  const texts = [span.service, span.name, span.kind, span.message, span.id];
  for (const [key, value] of span.attributes) texts.push(`${key}=${value}`);
  for (const event of span.events) texts.push(event.name);
  return texts.some((text) => text.toLowerCase().includes(wanted));
}
