// A program that traces itself with Jaeger's client for Node. See reports.md for what it is told and says.
'use strict';

const { initTracer } = require('jaeger-client');
const opentracing = require('opentracing');

const env = process.env;
const [rate, seconds] = [Number(env.RATE), Number(env.SECONDS)];
const settings = {
  serviceName: env.SERVICE,
  sampler: {
    type: 'remote',
    param: 0,
    host: env.AGENT_HOST,
    port: Number(env.SAMPLING_PORT),
    refreshIntervalMs: 200,
  },
  reporter: {
    agentHost: env.AGENT_HOST,
    agentPort: Number(env.AGENT_PORT),
    flushIntervalMs: 500,
  },
};
const tracer = initTracer(settings, { tags: { team: 'blue' } });

function pair() {
  const root = tracer.startSpan('parent', { tags: { n: 1, f: 0.5, b: true, s: 'text' } });
  const references = [opentracing.childOf(root.context()), opentracing.followsFrom(root.context())];
  const child = tracer.startSpan('child', { references });
  child.log({ event: 'step', k: 2 });
  child.setTag('error', true);
  child.finish();
  root.finish();
  return root.context().traceIdStr;
}

function run() {
  console.log('strategy');
  const trace = pair();
  let spans = 2;
  const start = Date.now();
  let tick = 0;
  const beat = () => {
    const most = spans + 100;
    for (; tick < 100 * seconds && start + 10 * tick <= Date.now(); tick++) {
      for (; spans < 2 + Math.floor((rate * (tick + 1)) / 100); spans += 2) {
        if (spans >= most) return setImmediate(beat);
        pair();
      }
    }
    if (tick < 100 * seconds) return setTimeout(beat, 5);
    setTimeout(end, 50);
  };
  // The client holds the span that found no place in a datagram until that datagram is on its way, and forgets the spans
  // that it holds when it is closed: what is late is made up for in small steps, and closing waits.
  const end = () => {
    tracer.close(() => {
      console.log('trace', trace);
      console.log('spans', spans);
      // The client does not wait for the datagram before its last.
      setTimeout(() => process.exit(0), 200);
    });
  };
  beat();
}

function probe() {
  if (tracer.startSpan('probe').context().isSampled()) return run();
  setTimeout(probe, 10);
}
probe();
