// OpenTelemetry's remote sampler for Node: asks ENDPOINT for the strategy of SERVICE until a trace is sampled, and says so.
'use strict';

const { ROOT_CONTEXT, SpanKind } = require('@opentelemetry/api');
const { JaegerRemoteSampler } = require('@opentelemetry/sampler-jaeger-remote');
const { AlwaysOffSampler, SamplingDecision } = require('@opentelemetry/sdk-trace-base');

const sampler = new JaegerRemoteSampler({
  endpoint: process.env.ENDPOINT,
  serviceName: process.env.SERVICE,
  initialSampler: new AlwaysOffSampler(),
  poolingInterval: 20,
});
const trace = '0af7651916cd43dd8448eb211c80319c';

function look() {
  const answer = sampler.shouldSample(ROOT_CONTEXT, trace, 'GET', SpanKind.SERVER, {}, []);
  if (answer.decision !== SamplingDecision.RECORD_AND_SAMPLED) return setTimeout(look, 10);
  console.log(`sampled by ${sampler}`);
  process.exit(0);
}
look();
