// What unfolds under a span: the story in plain words, then attributes, events, links and the resource.

import { copy, duration, h, plural } from './dom.js';
import { linking, origin, phases, reason, sampling } from './words.js';

/** Builds the details of one span of the trace with this id. */
export function details(span, traceId) {
  return h('div', { class: 'details' },
    h('div', { class: 'line' },
      h('strong', null, span.name), h('span', { class: 'muted' }, `${span.kind} span of ${span.service}`),
      h('span', { class: 'muted' }, `${span.start === 0 ? 'starts the trace' : `starts at ${duration(span.start)}`}, takes ${duration(span.duration)}`),
      h('span', { class: 'push' }),
      h('button', { class: 'copy mono', title: 'Copy the span id', onclick: () => copy(span.id, 'Span id') }, span.id),
      h('button', { class: 'ghost', onclick: () => copy(`${location.origin}${location.pathname}#/trace/${traceId}?span=${encodeURIComponent(span.key)}`, 'Link') }, 'Copy link')),
    story(span),
    times(span),
    h('div', { class: 'tables' },
      table('Attributes', span.attributes, 'No attributes.'),
      span.events.length > 0 && events(span),
      span.links.length > 0 && links(span),
      resource(span)));
}

function story(span) {
  const parts = [];
  if (span.error) parts.push(['Failed', 'bad', [failure(span)]]);
  const linked = linking(span);
  if (linked) parts.push([`Link: ${linked.label}`, linked.tone, linked.sentences]);
  const sampled = sampling(span);
  if (sampled.length > 0) parts.push(['Sampling', 'quiet', sampled]);
  else if (span.orphan) parts.push(['Sampling', 'quiet', ['The caller had decided that this trace is recorded.']]);
  const answered = origin(span);
  if (answered) parts.push(['Answer', 'quiet', [answered]]);
  if (span.orphan) parts.push(['Parent', 'quiet', [`The parent span ${span.parentId} is not here: reported elsewhere, not yet, or not at all.`]]);
  if (parts.length === 0) return null;
  return h('dl', { class: 'story' }, parts.map(([title, tone, sentences]) => [h('dt', { class: tone }, title), h('dd', null, sentences.join(' '))]));
}

function times(span) {
  const parts = phases(span);
  const whole = parts.reduce((sum, { nanos }) => sum + nanos, 0);
  if (whole === 0) return null;
  const reused = span.attributes.get('pillion.connection.reused');
  return h('div', { class: 'times' },
    h('div', { class: 'strip', 'aria-hidden': 'true' }, parts.map(({ nanos }, i) => h('span', { style: { 'flex-grow': String(Math.max(nanos / whole, 0.002)), '--tint': `var(--c${(i * 5 + 1) % 12})` } }))),
    h('ul', null, parts.map(({ name, nanos }, i) => h('li', { style: { '--tint': `var(--c${(i * 5 + 1) % 12})` } }, name, ' ', h('b', null, duration(nanos)))),
      reused !== undefined && h('li', { class: 'plain muted' }, reused ? 'on a connection that was open' : 'on a new connection')));
}

function failure(span) {
  const status = span.attributes.get('http.response.status_code');
  const type = span.attributes.get('error.type');
  const parts = [];
  if (span.message) parts.push(span.message);
  if (status !== undefined) parts.push(`The response had status ${status}.`);
  if (type !== undefined && String(type) !== String(status)) parts.push(`Error type: ${type}.`);
  return parts.length > 0 ? parts.join(' ') : 'The span ended with an error; nothing says which.';
}

function table(title, entries, none) {
  const sorted = [...entries].sort(([a], [b]) => (a < b ? -1 : 1));
  return h('section', null, h('h3', null, title), sorted.length === 0 ? h('p', { class: 'muted' }, none) : rows(sorted));
}

function rows(entries) {
  return h('table', { class: 'attributes' }, h('tbody', null, entries.map(([key, value]) => h('tr', null,
    h('th', { scope: 'row' }, key), h('td', { class: typeof value === 'string' ? '' : 'literal' }, String(value))))));
}

function events(span) {
  return h('section', null, h('h3', null, plural(span.events.length, 'event')),
    h('ol', { class: 'events' }, span.events.map((event) => h('li', null,
      h('span', { class: 'mono muted' }, `${event.at < 0 ? '−' : '+'}${duration(Math.abs(event.at))}`), ' ', h('strong', null, event.name || 'event'),
      event.attributes.size > 0 && rows([...event.attributes])))));
}

function links(span) {
  return h('section', null, h('h3', null, plural(span.links.length, 'link')),
    h('ol', { class: 'events' }, span.links.map((link) => h('li', null,
      h('a', { class: 'mono', href: `#/trace/${link.traceId}?span=${encodeURIComponent(link.spanId)}` }, `trace ${link.traceId.slice(0, 8)}…${link.traceId.slice(-8)} span ${link.spanId}`),
      reason(link) && h('span', { class: 'muted' }, ` ${reason(link)}`),
      rows([...link.attributes].filter(([key]) => key !== 'pillion.link.reason'))))));
}

function resource(span) {
  const all = [['service.name', span.service], ...span.resource];
  if (span.traceState) all.push(['tracestate', span.traceState]);
  return h('section', null, h('details', { open: matchMedia('(min-width: 1000px)').matches }, h('summary', null, h('h3', null, `Resource (${all.length})`)), rows(all)));
}
