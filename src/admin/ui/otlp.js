// OTLP JSON to what the waterfall draws: spans with plain values, a tree, times in nanoseconds from the trace's start.

const KINDS = ['internal', 'internal', 'server', 'client', 'producer', 'consumer'];

/**
 * Reads `{ resourceSpans }`. Spans: `{ id, parentId, name, kind, service, start, duration, attributes (Map), resource
 * (Map), events, links, error, status, children, depth, size }`; `roots` are spans without a parent here.
 */
export function readTrace(data) {
  const spans = [];
  const seen = new Set();
  for (const group of data.resourceSpans ?? []) {
    const resource = attributes(group.resource?.attributes);
    const service = String(resource.get('service.name') ?? 'unknown');
    resource.delete('service.name');
    for (const scope of group.scopeSpans ?? []) {
      for (const raw of scope.spans ?? []) spans.push(readSpan(raw, service, resource));
    }
  }
  let first = null;
  for (const span of spans) if (first === null || span.from < first) first = span.from;
  let end = 0;
  for (const span of spans) {
    span.start = Number(span.from - first);
    end = Math.max(end, span.start + span.duration);
  }
  spans.sort((a, b) => a.start - b.start || b.duration - a.duration);
  const byId = new Map();
  for (const span of spans) {
    // Two spans may share an id (a client and a server of older Zipkin kin): both are shown, the first is the parent.
    span.key = seen.has(span.id) ? `${span.id}-${span.kind}` : span.id;
    seen.add(span.id);
    if (!byId.has(span.id)) byId.set(span.id, span);
  }
  const roots = [];
  for (const span of spans) {
    const parent = byId.get(span.parentId);
    if (parent && parent !== span && !isBelow(parent, span)) {
      span.parent = parent;
      parent.children.push(span);
    } else {
      span.orphan = Boolean(span.parentId);
      roots.push(span);
    }
  }
  const ordered = [];
  const stack = roots.map((span) => [span, 0]).reverse();
  while (stack.length > 0) {
    const [span, depth] = stack.pop();
    span.depth = depth;
    ordered.push(span);
    for (let i = span.children.length - 1; i >= 0; i -= 1) stack.push([span.children[i], depth + 1]);
  }
  for (let i = ordered.length - 1; i >= 0; i -= 1) {
    const span = ordered[i];
    span.size = 1 + span.children.reduce((sum, child) => sum + child.size, 0);
    span.errorsBelow = span.children.reduce((sum, child) => sum + child.errorsBelow + (child.error ? 1 : 0), 0);
  }
  const services = new Map();
  for (const span of spans) services.set(span.service, (services.get(span.service) ?? 0) + 1);
  return {
    spans: ordered,
    roots,
    root: roots.find((span) => !span.orphan) ?? roots[0],
    startMillis: first === null ? 0 : Number(first / 1000000n),
    duration: end,
    errors: spans.filter((span) => span.error).length,
    depth: ordered.reduce((depth, span) => Math.max(depth, span.depth + 1), 0),
    services,
    byKey: new Map(ordered.map((span) => [span.key, span])),
  };
}

/** True when `span` lies on the way up from `parent`: a cycle that broken clients produce. */
function isBelow(parent, span) {
  for (let up = parent; up; up = up.parent) if (up === span) return true;
  return false;
}

function readSpan(raw, service, resource) {
  const from = big(raw.startTimeUnixNano);
  const until = big(raw.endTimeUnixNano);
  return {
    id: raw.spanId ?? '',
    traceId: raw.traceId ?? '',
    parentId: raw.parentSpanId ?? '',
    name: raw.name || '(no name)',
    kind: KINDS[raw.kind] ?? 'internal',
    service,
    resource,
    from,
    start: 0,
    duration: Math.max(0, Number(until - from)),
    attributes: attributes(raw.attributes),
    events: (raw.events ?? []).map((event) => ({
      at: Number(big(event.timeUnixNano) - from),
      name: event.name ?? '',
      attributes: attributes(event.attributes),
    })),
    links: (raw.links ?? []).map((link) => ({
      traceId: link.traceId ?? '',
      spanId: link.spanId ?? '',
      attributes: attributes(link.attributes),
    })),
    error: raw.status?.code === 2,
    message: raw.status?.message ?? '',
    traceState: raw.traceState ?? '',
    children: [],
    parent: null,
    orphan: false,
    depth: 0,
    size: 1,
    errorsBelow: 0,
  };
}

function attributes(list) {
  return new Map((list ?? []).map(({ key, value }) => [key, plain(value)]));
}

function plain(value) {
  if (!value) return '';
  if ('stringValue' in value) return value.stringValue;
  if ('boolValue' in value) return value.boolValue;
  if ('intValue' in value) {
    const number = Number(value.intValue);
    return Number.isSafeInteger(number) ? number : String(value.intValue);
  }
  if ('doubleValue' in value) return Number(value.doubleValue);
  if ('arrayValue' in value) return (value.arrayValue.values ?? []).map(plain).join(', ');
  if ('bytesValue' in value) return `base64 ${value.bytesValue}`;
  return JSON.stringify(value);
}

function big(text) {
  try {
    return BigInt(text ?? 0);
  } catch {
    return 0n;
  }
}
