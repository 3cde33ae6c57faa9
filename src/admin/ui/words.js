// How a span was linked and sampled, in plain words. Pure functions from attributes to sentences.

const METHODS = {
  forwarded: 'The program passed on a header of the inbound request.',
  exclusive: 'Exactly one inbound request was in flight when this call left.',
  thread: 'The thread that sent this call was serving that inbound request.',
  lineage: 'The event that was handled when this call was sent belonged to that inbound request.',
  runtime: 'The language runtime told which request the running task belongs to.',
  shim: 'The start-up shim carried the request’s identity to this call.',
  pacing: 'The call came out while only that inbound request was allowed to make progress.',
  value: 'A value from that inbound request came back in this call.',
  contradicted: 'Two kinds of evidence pointed at different requests, so neither was believed.',
  ended: 'The request that caused this call had ended before it left.',
  none: 'Nothing tied this call to an inbound request.',
};

const CONFIDENCE = {
  exact: { label: 'certain', tone: 'good', text: 'The parent is certain.' },
  high: { label: 'very likely', tone: 'good', text: 'The parent is very likely: right in at least 999 of 1,000 cases.' },
  low: { label: 'a guess', tone: 'warn', text: 'The parent is likely, and not certain.' },
  none: { label: 'not linked', tone: 'quiet', text: 'No parent is asserted: a wrong one would be worse than none.' },
};

/** How the span got its parent: `{ label, tone, sentences }`, or null when Pillion says nothing about it. */
export function linking(span) {
  const method = span.attributes.get('pillion.link.method');
  const confidence = span.attributes.get('pillion.link.confidence');
  if (method === undefined && confidence === undefined) return null;
  const sure = CONFIDENCE[confidence] ?? { label: String(confidence ?? 'unknown'), tone: 'quiet', text: '' };
  const sentences = [METHODS[method] ?? `Linked by the method “${method}”.`];
  const candidates = Number(span.attributes.get('pillion.link.candidates'));
  if (candidates === 0) sentences.push('No inbound request was in flight.');
  else if (candidates > 1 && confidence === 'none') sentences.push(`${candidates} inbound requests came into question.`);
  else if (candidates > 1) sentences.push(`${candidates} requests were in flight.`);
  if (sure.text) sentences.push(sure.text);
  const p = Number(span.attributes.get('pillion.link.p') ?? NaN);
  if (Number.isFinite(p)) sentences.push(`Such parents are right in ${chance(p)} of the cases.`);
  if (confidence === 'none' && span.links.length > 0) {
    sentences.push(span.links.length === 1
      ? 'The request it may belong to is listed under links.'
      : 'Requests it may belong to are listed under links.');
  }
  return { label: sure.label, tone: sure.tone, method: String(method ?? ''), short: short(method, confidence, p), sentences };
}

/** Method and confidence in few words, for a place beside the span's name. */
function short(method, confidence, p) {
  if (confidence === 'none') return method === 'none' || method === undefined ? 'not linked' : `not linked: ${method}`;
  return `${method ?? 'linked'} · ${Number.isFinite(p) ? chance(p) : confidence}`;
}

// Never rounded up to certainty.
function chance(p) {
  return `${(Math.floor(p * 1e4 + 1e-6) / 1e2).toFixed(2).replace(/0$/, '')} %`;
}

/** Why the trace was recorded, as its local root tells: sentences, empty when it tells nothing. */
export function sampling(span) {
  const type = span.attributes.get('sampler.type');
  const param = span.attributes.get('sampler.param');
  const debug = span.attributes.get('jaeger-debug-id');
  const sentences = [];
  if (debug !== undefined) sentences.push(`Forced: the caller sent jaeger-debug-id “${debug}”.`);
  if (type !== undefined) sentences.push(sampler(String(type), param));
  else if (debug === undefined) sentences.push(...decided(span));
  for (const [key, value] of span.attributes) {
    if (key.startsWith('pillion.sampling.') && key !== DECIDED) sentences.push(`${key.slice(17).replaceAll(/[._]/g, ' ')}: ${value}.`);
  }
  return sentences;
}

const DECIDED = 'pillion.sampling.decided_by';

function decided(span) {
  switch (span.attributes.get(DECIDED)) {
    case 'parent':
      return [span.orphan ? 'Recorded because the caller had decided so.' : 'Recorded with its parent: a trace is decided once.'];
    case 'caller':
      return [span.attributes.get('pillion.link.method') === 'none'
        ? 'Recorded because every request it may belong to is.' : 'Recorded because the caller asked for it.'];
    default:
      return [];
  }
}

function sampler(type, param) {
  const number = Number(param);
  switch (type) {
    case 'const':
      return 'Recorded because the constant sampler records every trace.';
    case 'probabilistic':
      return `Recorded by chance: the sampler keeps ${percent(number)} of the traces that start here.`;
    case 'ratelimiting':
      return `Recorded within the limit of ${number} ${number === 1 ? 'trace' : 'traces'} a second.`;
    case 'lowerbound':
      return `Recorded by the guaranteed minimum for this operation; chance alone (${percent(number)}) said no.`;
    default:
      return `Recorded by the sampler “${type}”${param === undefined ? '' : ` with parameter ${param}`}.`;
  }
}

function percent(share) {
  if (!Number.isFinite(share)) return 'an unknown share';
  return `${Number((share * 100).toPrecision(3))} %`;
}

const ORIGINS = {
  pillion: 'Pillion itself answered; the request got no answer from the other side.',
  upstream: 'The other side answered.',
};

/** Who answered, when Pillion says so. */
export function origin(span) {
  return ORIGINS[span.attributes.get('pillion.response.origin')] ?? null;
}

const PHASES = [
  ['pillion.time.resolve_us', 'name look-up'],
  ['pillion.time.connect_us', 'connect'],
  ['pillion.time.tls_us', 'TLS'],
  ['pillion.time.send_us', 'until sent'],
  ['pillion.time.first_byte_us', 'waiting for the first byte'],
  ['pillion.time.body_us', 'response body'],
];

/** Where a client span's time went: `[{ name, nanos }]`, empty when Pillion did not measure it. Sending includes connecting. */
export function phases(span) {
  const known = PHASES.map(([key, name]) => ({ name, nanos: Number(span.attributes.get(key) ?? NaN) * 1000 }))
    .filter(({ nanos }) => Number.isFinite(nanos));
  const connecting = known.filter(({ name }) => ['name look-up', 'connect', 'TLS'].includes(name)).reduce((sum, { nanos }) => sum + nanos, 0);
  return known.map((phase) => (phase.name === 'until sent' ? { name: 'sending', nanos: Math.max(phase.nanos - connecting, 0) } : phase));
}

const REASONS = {
  candidate: 'may be the request that caused this call',
  restarted_at_trust_boundary: 'the caller’s trace; Pillion started a new one at the trust boundary',
};

/** Why a link is there, when Pillion made it. */
export function reason(link) {
  const given = link.attributes.get('pillion.link.reason');
  return given === undefined ? null : REASONS[given] ?? String(given);
}
