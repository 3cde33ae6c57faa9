// The list of traces: a form whose content is the address, a chart of durations over time, rows with small bars.

import { ago, clock, colour, count, duration, h, plural, s } from './dom.js';

export const keys = [
  ['j ArrowDown', 'Next trace', () => step(1)],
  ['k ArrowUp', 'Previous trace', () => step(-1)],
  ['Enter', 'Open the trace', () => false],
];

const LIMITS = ['20', '50', '100', '200', '500'];
const SORTS = { newest: 'Newest', longest: 'Longest', spans: 'Most spans', errors: 'Most errors' };
const FIELDS = ['service', 'operation', 'tags', 'minDuration', 'maxDuration', 'error', 'limit', 'sort'];

/** The address of the last search, for the way back from a trace. */
export let last = '#/search';

let state = null;

/** Draws the view for an address. */
export async function show(main, page, where) {
  document.title = 'Traces · Pillion';
  last = location.hash || '#/search';
  const params = Object.fromEntries(FIELDS.map((name) => [name, where.params.get(name) ?? '']));
  if (!state || !main.contains(state.form)) state = build(main, page);
  state.params = params;
  state.tag = null;
  state.known = null;
  for (const name of FIELDS) {
    const field = state.form.elements[name];
    if (!field) continue;
    if (field.type === 'checkbox') field.checked = params[name] === 'true';
    else if (name === 'service' || name === 'operation') continue;
    else field.value = params[name] || defaultOf(name);
  }
  await Promise.all([load(page, where), loadServices(page, where)]);
}

/** Looks for news. */
export async function refresh(_main, page, where) {
  if (state) await Promise.all([load(page, where), loadServices(page, where)]);
}

function defaultOf(name) {
  return { limit: '50', sort: 'newest' }[name] ?? '';
}

function build(main, page) {
  const field = (label, control, hint) => h('label', { class: 'field' }, h('span', null, label), control, hint && h('small', null, hint));
  const form = h('form', { class: 'panel form', 'aria-label': 'Search for traces', onsubmit: (event) => submit(event, page), onchange: (event) => changed(event, page) },
    field('Service', h('select', { name: 'service', 'data-find': true })),
    field('Operation', h('select', { name: 'operation' })),
    field('Tags', h('input', { name: 'tags', type: 'text', placeholder: 'http.route=/cart', autocomplete: 'off', spellcheck: 'false' }),
      'key=value, or a key alone; several are all required'),
    h('div', { class: 'pair', title: 'Of the whole trace, or of the operation when one is chosen' },
      field('At least', h('input', { name: 'minDuration', type: 'text', placeholder: '100ms', autocomplete: 'off', spellcheck: 'false', size: '6' })),
      field('At most', h('input', { name: 'maxDuration', type: 'text', placeholder: '2s', autocomplete: 'off', spellcheck: 'false', size: '6' }))),
    h('label', { class: 'check' }, h('input', { name: 'error', type: 'checkbox' }), h('span', null, 'Only with errors')),
    h('div', { class: 'pair' },
      field('Limit', h('select', { name: 'limit' }, LIMITS.map((limit) => h('option', { value: limit }, limit)))),
      field('Sort', h('select', { name: 'sort' }, Object.entries(SORTS).map(([value, text]) => h('option', { value }, text))))),
    h('div', { class: 'actions' },
      h('button', { class: 'primary' }, 'Find traces'),
      h('button', { type: 'button', class: 'ghost', onclick: () => page.go('#/search') }, 'Clear')));
  const results = h('section', { class: 'results', 'aria-label': 'Traces', 'aria-live': 'off' });
  main.replaceChildren(h('div', { class: 'split' },
    h('details', { class: 'side', open: !matchMedia('(max-width: 760px)').matches }, h('summary', null, 'Search'), form), results));
  return { form, results, params: {}, tag: null, servicesTag: null, services: [], known: null };
}

function submit(event, page) {
  event.preventDefault();
  page.go(hashOf(event.currentTarget));
}

function changed(event, page) {
  if (event.target.name === 'service') event.currentTarget.elements.operation.value = '';
  // Text is taken on Enter; choices at once.
  if (event.target.type !== 'text') page.go(hashOf(event.currentTarget));
}

function hashOf(form) {
  const params = new URLSearchParams();
  for (const name of FIELDS) {
    const field = form.elements[name];
    const value = field.type === 'checkbox' ? (field.checked ? 'true' : '') : field.value.trim();
    if (value && value !== defaultOf(name)) params.set(name, value);
  }
  const query = params.toString();
  return query ? `#/search?${query}` : '#/search';
}

function queryOf(params) {
  const query = new URLSearchParams();
  for (const name of ['service', 'operation', 'minDuration', 'maxDuration', 'error']) {
    if (params[name]) query.set(name, params[name]);
  }
  query.set('limit', params.limit || defaultOf('limit'));
  const tags = readTags(params.tags);
  for (const [key] of tags.filter(([, value]) => value === null)) query.append('has', key);
  const valued = tags.filter(([, value]) => value !== null);
  if (valued.length > 0) query.set('tags', JSON.stringify(Object.fromEntries(valued)));
  return query.toString();
}

/** `a=1 b="two words" c` to pairs; a key alone has the value null. */
export function readTags(text) {
  const pairs = [];
  for (const [, key, quoted, bare] of (text ?? '').matchAll(/([^\s=]+)(?:="([^"]*)"|=(\S*))?/g)) {
    pairs.push([key, quoted ?? bare ?? null]);
  }
  return pairs;
}

async function loadServices(page, where) {
  const { data, tag, unchanged } = await page.json('view/services', state.servicesTag);
  if (!where.alive()) return;
  if (!unchanged) {
    state.services = data.services;
    state.servicesTag = tag;
  }
  const { service, operation } = state.form.elements;
  const chosen = state.services.find(({ name }) => name === state.params.service);
  options(service, 'Any service', state.services.map(({ name }) => name), state.params.service);
  options(operation, service.value ? 'Any operation' : 'Choose a service first', chosen?.operations ?? [], state.params.operation);
  operation.disabled = !service.value;
}

function options(select, any, names, value) {
  if (document.activeElement === select && select.dataset.names === names.join('\n')) return;
  const all = value && !names.includes(value) ? [value, ...names] : names;
  select.dataset.names = names.join('\n');
  select.replaceChildren(h('option', { value: '' }, any), ...all.map((name) => h('option', { value: name }, name)));
  select.value = value;
}

async function load(page, where) {
  const { data, tag, unchanged } = await page.json(`view/summaries?${queryOf(state.params)}`, state.tag);
  if (!where.alive() || unchanged) return;
  state.tag = tag;
  page.held(data.held);
  draw(data, page);
}

function draw(data, page) {
  const traces = sorted(data.traces, state.params.sort);
  const before = state.known;
  state.known = new Set(traces.map(({ traceId }) => traceId));
  const focused = document.activeElement?.closest?.('[data-trace]')?.dataset.trace;
  if (traces.length === 0) {
    state.results.replaceChildren(data.held.traces === 0 ? welcome() : nothing(page));
    return;
  }
  // One runaway must not flatten all others: a full bar means the 95th percentile or more.
  const durations = traces.map(({ durationNanos }) => durationNanos).sort((a, b) => a - b);
  const longest = Math.max(durations[Math.floor((durations.length - 1) * 0.95)], 1);
  const withErrors = traces.filter(({ errors }) => errors > 0).length;
  const list = h('ol', { class: 'traces' }, traces.map((trace) => row(trace, longest, before && !before.has(trace.traceId))));
  state.results.replaceChildren(
    h('div', { class: 'bar' },
      h('h1', null, plural(traces.length, 'trace'), traces.length < data.held.traces && h('span', { class: 'muted' }, ` of ${count(data.held.traces)} held`)),
      withErrors > 0 && h('span', { class: 'badge bad' }, `${count(withErrors)} with errors`)),
    chart(traces), list);
  if (focused) list.querySelector(`[data-trace="${CSS.escape(focused)}"]`)?.focus();
}

function sorted(traces, sort) {
  const by = {
    longest: (a, b) => b.durationNanos - a.durationNanos,
    spans: (a, b) => b.spans - a.spans,
    errors: (a, b) => b.errors - a.errors,
  }[sort] ?? (() => 0);
  return [...traces].sort((a, b) => by(a, b) || b.startMicros - a.startMicros);
}

function row(trace, longest, fresh) {
  const start = trace.startMicros / 1000;
  const share = Math.min(Math.max(trace.durationNanos / longest, 0.01), 1);
  const title = [trace.service, trace.operation, trace.path].filter(Boolean).join(' ');
  return h('li', { class: fresh ? 'fresh' : '' },
    h('a', { class: 'trace', href: `#/trace/${trace.traceId}`, 'data-trace': trace.traceId },
      h('span', { class: 'what' },
        h('span', { class: 'service', style: { '--tint': colour(trace.service) } }, trace.service || 'unknown'),
        h('span', { class: 'operation', title }, trace.operation || '(no name)', trace.path && trace.path !== trace.operation.replace(/^\S+ /, '') && h('span', { class: 'muted' }, ` ${trace.path}`)),
        trace.status && h('span', { class: `code${trace.status >= 500 ? ' bad' : trace.status >= 400 ? ' warn' : ''}` }, trace.status)),
      h('span', { class: 'when', title: `${clock(start)}\n${trace.traceId}` }, ago(start)),
      h('span', { class: 'parts' },
        trace.errors > 0 && h('span', { class: 'badge bad' }, plural(trace.errors, 'error')),
        trace.orphans > 0 && h('span', { class: 'badge', title: 'Spans whose parent is not here (yet)' }, `${count(trace.orphans)} without parent`),
        trace.refused > 0 && h('span', { class: 'badge warn', title: 'The trace is too large to be kept whole' }, `${count(trace.refused)} not kept`),
        h('span', { class: 'muted nowrap' }, plural(trace.spans, 'span')),
        trace.services.slice(0, 8).map((service) => h('span', { class: `chip${service.errors > 0 ? ' bad' : ''}`, style: { '--tint': colour(service.name) } }, h('span', null, service.name), h('b', null, count(service.spans)))),
        trace.services.length > 8 && h('span', { class: 'muted' }, `and ${trace.services.length - 8} more`)),
      h('span', { class: 'length' },
        h('span', { class: 'meter', 'aria-hidden': 'true' }, h('span', { class: trace.errors > 0 ? 'bad' : '', style: { width: `${share * 100}%` } })),
        h('span', { class: 'number' }, duration(trace.durationNanos)))));
}

/** Durations (logarithmic) over start times; each dot opens its trace. Rows say the same, so readers skip it. */
function chart(traces) {
  const width = 1000;
  const height = 88;
  const times = traces.map(({ startMicros }) => startMicros);
  const logs = traces.map(({ durationNanos }) => Math.log10(Math.max(durationNanos, 1000)));
  const [t0, t1] = [Math.min(...times), Math.max(...times)];
  const [d0, d1] = [Math.floor(Math.min(...logs)), Math.max(Math.ceil(Math.max(...logs)), Math.floor(Math.min(...logs)) + 1)];
  const x = (time) => (t1 === t0 ? 0.5 : (time - t0) / (t1 - t0));
  const y = (log) => height - 8 - ((log - d0) / (d1 - d0)) * (height - 16);
  const lines = [];
  for (let log = d0; log <= d1; log += 1) lines.push(log);
  const figure = h('figure', { class: 'panel chart', 'aria-hidden': 'true' },
    s('svg', { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: 'none', focusable: 'false' },
      lines.map((log) => s('line', { x1: 0, x2: width, y1: y(log), y2: y(log), class: 'grid' }))),
    lines.map((log) => h('span', { class: 'tick', style: { top: `${(y(log) / height) * 100}%` } }, duration(10 ** log).replace(/\.0+ /, ' '))),
    traces.map((trace, i) => h('a', {
      class: `dot${trace.errors > 0 ? ' bad' : ''}`, href: `#/trace/${trace.traceId}`, tabindex: '-1',
      title: `${trace.service} ${trace.operation}\n${duration(trace.durationNanos)}, ${plural(trace.spans, 'span')}`,
      style: { left: `calc(64px + (100% - 78px) * ${x(times[i]).toFixed(4)})`, top: `${(y(logs[i]) / height) * 100}%`, '--size': `${Math.min(7 + Math.sqrt(trace.spans), 18)}px` },
    })));
  return h('div', null, figure, t1 > t0 && h('div', { class: 'axis muted small', 'aria-hidden': 'true' },
    h('span', null, clock(t0 / 1000)), h('span', null, 'duration over start time'), h('span', null, clock(t1 / 1000))));
}

function nothing(page) {
  return h('div', { class: 'empty' },
    h('h1', null, 'No trace matches'),
    h('p', null, 'There are traces, but none meets all conditions. Durations are written as 250ms or 1.5s, tags as key=value.'),
    h('p', null, h('button', { class: 'primary', onclick: () => page.go('#/search') }, 'Show all traces')));
}

function welcome() {
  const command = (text) => h('pre', null, h('code', null, text));
  return h('div', { class: 'empty' },
    h('h1', null, 'No traces yet'),
    h('p', null, 'Recent traces appear here as soon as a request goes through Pillion. Nothing needs to be installed besides.'),
    h('ol', { class: 'steps' },
      h('li', null, 'Put Pillion in front of a program that listens on port 3000:', command('pillion run --app 127.0.0.1:3000')),
      h('li', null, 'Send a request through it:', command('curl http://127.0.0.1:15606/')),
      h('li', null, 'Its trace shows up here within a second, while “Live” is on.')),
    h('p', { class: 'muted' }, 'To see calls between programs, start them under ', h('code', null, 'pillion exec -- PROGRAM'),
      ', or try ', h('code', null, 'pillion demo'), '. Other sidecars and OpenTelemetry programs can send their spans here too, by OTLP over HTTP:'),
    command(`OTEL_EXPORTER_OTLP_ENDPOINT=${location.origin}`),
    h('p', { class: 'muted' }, 'No trace although requests went through? See whether they are sampled under ', h('a', { href: 'sampling' }, 'sampling'), '.'));
}

function step(by) {
  const rows = [...document.querySelectorAll('[data-trace]')];
  const at = rows.indexOf(document.activeElement);
  const next = rows[at < 0 ? (by > 0 ? 0 : rows.length - 1) : at + by];
  if (next) next.focus();
}
