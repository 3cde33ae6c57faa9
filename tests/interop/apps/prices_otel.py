"""A service with the OpenTelemetry SDK: context from traceparent, spans over OTLP."""

import os

from flask import Flask, request
from opentelemetry import propagate, trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

app = Flask(__name__)
provider = TracerProvider(resource=Resource.create({"service.name": "prices-app"}))
provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(endpoint=os.environ["OTLP_URL"])))
tracer = provider.get_tracer("prices")


@app.route("/price")
def price():
    context = propagate.extract({name.lower(): value for name, value in request.headers})
    with tracer.start_as_current_span("find price", context=context, kind=trace.SpanKind.INTERNAL):
        return "42"


if __name__ == "__main__":
    app.run(port=int(os.environ["PORT"]), threaded=True)
