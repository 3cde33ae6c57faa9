// How a span was linked and sampled, in plain words. Pure functions from attributes to sentences.

const METHODS = {
  forwarded: 'The program passed on a header that Pillion saw or stamped on the inbound request.',
  exclusive: 'Exactly one inbound request was in flight when this call left.',
  thread: 'The thread that sent this call had last read that inbound request.',
  lineage: 'The connection that sent this call was opened for that inbound request.',
  runtime: 'The language runtime told which request the running task belongs to.',
  shim: 'The start-up shim carried the request’s identity to this call.',
  pacing: 'The call came out while only that inbound request was allowed to make progress.',
  value: 'A value from that inbound request came back in this call.',
  none: 'Nothing tied this call to an inbound request.',
};

const CONFIDENCE = {
  exact: { label: 'certain', tone: 'good', text: 'The parent is certain.' },
  high: { label: 'very likely', tone: 'good', text: 'The parent is very likely, not proven.' },
  low: { label: 'a guess', tone: 'warn', text: 'The parent is a guess.' },
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
  else if (candidates === 1 && method !== 'exclusive') sentences.push('One inbound request came into question.');
  else if (candidates > 1) sentences.push(`${candidates} inbound requests came into question.`);
  if (sure.text) sentences.push(sure.text);
  if (confidence === 'none' && span.links.length > 0) {
    sentences.push(span.links.length === 1
      ? 'The request it may belong to is listed under links.'
      : 'Requests it may belong to are listed under links.');
  }
  return { label: sure.label, tone: sure.tone, method: String(method ?? ''), sentences };
}

/** Why the trace was recorded, as its local root tells: sentences, empty when it tells nothing. */
export function sampling(span) {
  const type = span.attributes.get('sampler.type');
  const param = span.attributes.get('sampler.param');
  const debug = span.attributes.get('jaeger-debug-id');
  const sentences = [];
  if (debug !== undefined) sentences.push(`Forced: the caller sent jaeger-debug-id “${debug}”.`);
  if (type !== undefined) sentences.push(sampler(String(type), param));
  for (const [key, value] of span.attributes) {
    if (key.startsWith('pillion.sampling.')) sentences.push(`${key.slice(17).replaceAll(/[._]/g, ' ')}: ${value}.`);
  }
  return sentences;
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
