"""A service of the jaeger-client days: spans and propagation by hand, reports to an agent over UDP."""

import os

import requests
from flask import Flask, request
from jaeger_client import Config
from opentracing.ext import tags
from opentracing.propagation import Format

app = Flask(__name__)
tracer = Config(
    service_name="orders-app",
    config={
        "sampler": {"type": "const", "param": 1},
        "local_agent": {
            "reporting_host": "127.0.0.1",
            "reporting_port": int(os.environ["AGENT_PORT"]),
        },
        "reporter_flush_interval": 0.1,
        "generate_128bit_trace_id": True,
    },
).initialize_tracer()


@app.route("/order")
def order():
    parent = tracer.extract(Format.HTTP_HEADERS, dict(request.headers))
    with tracer.start_span("take order", child_of=parent) as span:
        span.set_baggage_item("tenant", "blue")
        headers = {}
        tracer.inject(span, Format.HTTP_HEADERS, headers)
        span.set_tag(tags.SPAN_KIND, tags.SPAN_KIND_RPC_CLIENT)
        answer = requests.get(os.environ["STOCK_URL"] + "/stock", headers=headers, timeout=30)
        answer.raise_for_status()
        return answer.text


if __name__ == "__main__":
    app.run(port=int(os.environ["PORT"]), threaded=True)
