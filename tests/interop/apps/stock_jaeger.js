// A service of the jaeger-client days: spans and propagation by hand, reports to an agent over UDP.
'use strict';

const http = require('http');
const { initTracer } = require('jaeger-client');
const { FORMAT_HTTP_HEADERS } = require('opentracing');

const tracer = initTracer(
  {
    serviceName: 'stock-app',
    traceId128bit: true,
    sampler: { type: 'const', param: 1 },
    reporter: {
      agentHost: '127.0.0.1',
      agentPort: Number(process.env.AGENT_PORT),
      flushIntervalMs: 100,
    },
  },
  {},
);

http
  .createServer((request, response) => {
    const parent = tracer.extract(FORMAT_HTTP_HEADERS, request.headers);
    const span = tracer.startSpan('look up stock', parent ? { childOf: parent } : {});
    span.setTag('tenant', span.getBaggageItem('tenant') || 'unknown');
    const headers = {};
    tracer.inject(span, FORMAT_HTTP_HEADERS, headers);
    http.get(process.env.PRICES_URL + '/price', { headers }, (answer) => {
      answer.resume();
      answer.on('end', () => {
        span.finish();
        response.end('in stock');
      });
    });
  })
  .listen(Number(process.env.PORT), '127.0.0.1');
