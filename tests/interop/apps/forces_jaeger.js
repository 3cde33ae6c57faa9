// Forces a trace as Jaeger's client for Node does where it has to ask for credits first. Told AGENT_HOST and SAMPLING_PORT;
// says "forced" once it may, or "refused" when the third answer brought no credit.
'use strict';

const { initTracer } = require('jaeger-client');
const opentracing = require('opentracing');

const env = process.env;
let answers = 0;
const end = (word) => {
  console.log(word);
  process.exit(0);
};
const tracer = initTracer(
  {
    serviceName: 'forces',
    sampler: { type: 'const', param: 0 },
    throttler: {
      host: env.AGENT_HOST,
      port: Number(env.SAMPLING_PORT),
      initialDelayMs: 100,
      refreshIntervalMs: 100,
      onCreditsUpdate: () => {
        answers += 1;
        if (attempt()) end('forced');
        if (answers === 3) end('refused');
      },
    },
  },
  {},
);

function attempt() {
  const asked = tracer.extract(opentracing.FORMAT_TEXT_MAP, { 'jaeger-debug-id': 'ticket-7' });
  return tracer.startSpan('checkout', { childOf: asked }).context().isDebug();
}

if (attempt()) end('forced without asking');
