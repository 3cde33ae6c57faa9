// The service graph: who calls whom, in columns from callers to callees, with own layout; the same as a table below.

import { colour, count, duration, h, plural, s } from './dom.js';
import { layout, NODE } from './layout.js';

export const keys = [];

let state = null;

/** Draws the view for an address. */
export async function show(main, page, where) {
  document.title = 'Services · Pillion';
  if (!state || !main.contains(state.body)) {
    state = { tag: null, body: h('section', { class: 'graph', 'aria-label': 'Service graph' }) };
    main.replaceChildren(state.body);
  }
  await load(page, where);
}

/** Looks for news. */
export async function refresh(_main, page, where) {
  if (state) await load(page, where);
}

async function load(page, where) {
  const { data, tag, unchanged } = await page.json('view/graph', state.tag);
  if (!where.alive() || unchanged) return;
  state.tag = tag;
  page.held(data.held);
  if (data.nodes.length === 0) {
    state.body.replaceChildren(h('div', { class: 'empty' }, h('h1', null, 'No services yet'),
      h('p', null, 'Services and the calls between them appear here with the first traces. ', h('a', { href: '#/search' }, 'How to get one'), '.')));
    return;
  }
  const focused = document.activeElement?.closest?.('[data-node]')?.dataset.node;
  const scrolled = state.body.querySelector('.canvas');
  const [left, top] = [scrolled?.scrollLeft ?? 0, scrolled?.scrollTop ?? 0];
  state.body.replaceChildren(
    h('div', { class: 'bar' },
      h('h1', null, plural(data.nodes.filter((node) => !node.outside).length, 'service')),
      h('span', { class: 'muted' }, `from ${plural(data.traces, 'recent trace')}`),
      h('span', { class: 'push' }),
      h('span', { class: 'muted small' }, 'Numbers on arrows are calls; red ones failed. Dashed: sent no spans.')),
    h('div', { class: 'panel canvas', tabindex: '0', role: 'group', 'aria-label': 'Graph; the table below says the same' }, picture(data)),
    calls(data));
  const canvas = state.body.querySelector('.canvas');
  canvas.scrollTo(left, top);
  if (focused) canvas.querySelector(`[data-node="${CSS.escape(focused)}"]`)?.focus();
}

function picture(data) {
  const { nodes, edges, width, height } = layout(data.nodes, data.edges);
  const most = Math.max(...data.edges.map(({ calls: n }) => n), 1);
  const svg = s('svg', { class: 'services', viewBox: `0 0 ${width} ${height}`, width, height, style: { '--natural': `${width}px` } },
    s('defs', null, ['arrow', 'arrow-bad'].map((id) => s('marker', { id, viewBox: '0 0 8 8', refX: 7, refY: 4, markerWidth: 8, markerHeight: 8, markerUnits: 'userSpaceOnUse', orient: 'auto-start-reverse' }, s('path', { d: 'M0.5 1 7 4 0.5 7z', class: id })))),
    edges.map((edge) => arrow(edge, most)),
    edges.map(caption),
    nodes.map((node) => box(node, edges)));
  return svg;
}

function arrow(edge, most) {
  const bad = edge.errors > 0;
  const weight = 1.2 + 2.3 * (Math.log1p(edge.calls) / Math.log1p(most));
  return s('path', { d: edge.path, class: `edge${bad ? ' bad' : ''}`, style: { '--share': `${Math.round(35 + 65 * (edge.errors / edge.calls))}%` }, 'data-from': edge.parent, 'data-to': edge.child, 'stroke-width': weight.toFixed(2), 'marker-end': `url(#${bad ? 'arrow-bad' : 'arrow'})` }, s('title', null, sentence(edge)));
}

function caption(edge) {
  return s('text', { x: edge.label.x, y: edge.label.y, class: 'calls', 'text-anchor': 'middle', 'data-from': edge.parent, 'data-to': edge.child },
    count(edge.calls), edge.errors > 0 && s('tspan', { class: 'bad', dx: 6 }, `${count(edge.errors)} failed`), s('title', null, sentence(edge)));
}

function sentence(edge) {
  return `${edge.parent} → ${edge.child}: ${plural(edge.calls, 'call')}, ${count(edge.errors)} failed, median ${duration(edge.p50Nanos)}, 95 % within ${duration(edge.p95Nanos)}${ways(edge) && `; linked by ${ways(edge)}`}`;
}

function box(node, edges) {
  const fails = node.errors > 0;
  const second = node.outside ? 'sent no spans'
    : node.calls > 0 ? `${count(node.calls)} req · p95 ${duration(node.p95Nanos)}` : plural(node.spans, 'span');
  const group = s('g', { class: `node${node.outside ? ' outside' : ''}${fails ? ' bad' : ''}`, transform: `translate(${node.x} ${node.y})` },
    s('rect', { width: NODE.width, height: NODE.height, rx: 6 }),
    !node.outside && s('rect', { class: 'tint', width: 4, height: NODE.height - 12, x: 6, y: 6, rx: 2, style: { fill: colour(node.name) } }),
    s('text', { x: 18, y: 21, class: 'title' }, cut(node.name, 22)),
    s('text', { x: 18, y: 38, class: 'sub' }, second, fails && s('tspan', { class: 'bad' }, ` · ${count(node.errors)} failed`)),
    s('title', null, `${node.name}\n${plural(node.spans, 'span')}, ${plural(node.calls, 'request')} served, ${count(node.errors)} failed`));
  const near = new Set([node.name, ...edges.filter((e) => e.parent === node.name || e.child === node.name).flatMap((e) => [e.parent, e.child])]);
  const light = (on) => () => {
    const svg = group.ownerSVGElement;
    svg.classList.toggle('choosing', on);
    for (const part of svg.querySelectorAll('[data-from]')) part.classList.toggle('near', on && (part.dataset.from === node.name || part.dataset.to === node.name));
    for (const part of svg.querySelectorAll('[data-node]')) part.classList.toggle('near', on && near.has(part.dataset.node));
  };
  const listen = { onmouseenter: light(true), onmouseleave: light(false), onfocus: light(true), onblur: light(false) };
  if (node.outside) return s('g', { 'data-node': node.name, ...listen }, group);
  return s('a', { href: `#/search?service=${encodeURIComponent(node.name)}`, 'data-node': node.name, 'aria-label': `${node.name}: show its traces`, ...listen }, group);
}

/** How an edge's calls got their parents, the most frequent way first. */
function ways(edge) {
  const sorted = Object.entries(edge.linked ?? {}).sort((a, b) => b[1] - a[1]);
  return sorted.map(([way, n]) => `${way} (${count(n)})`).join(', ');
}

function cut(text, length) {
  return text.length > length ? `${text.slice(0, length - 1)}…` : text;
}

function calls(data) {
  if (data.edges.length === 0) return h('p', { class: 'muted' }, 'No calls between services so far.');
  const sorted = [...data.edges].sort((a, b) => b.calls - a.calls);
  const head = ['Caller', 'Callee', 'Calls', 'Failed', 'Median', '95 %', 'Linked by'];
  const link = (name) => (data.nodes.find((node) => node.name === name)?.outside ? name : h('a', { href: `#/search?service=${encodeURIComponent(name)}` }, name));
  return h('div', { class: 'scroll' }, h('table', { class: 'panel list' },
    h('caption', { class: 'sr' }, 'Calls between services'),
    h('thead', null, h('tr', null, head.map((text, i) => h('th', { scope: 'col', class: i > 1 && i < 6 ? 'right' : '' }, text)))),
    h('tbody', null, sorted.map((edge) => h('tr', null, h('td', null, link(edge.parent)), h('td', null, link(edge.child)),
      h('td', { class: 'right' }, count(edge.calls)), h('td', { class: `right${edge.errors > 0 ? ' bad' : ' muted'}` }, count(edge.errors)),
      h('td', { class: 'right' }, duration(edge.p50Nanos)), h('td', { class: 'right' }, duration(edge.p95Nanos)), h('td', { class: 'muted' }, ways(edge)))))));
}
