"""A service that traces itself with the tracer of EXPORTER and reports to ENDPOINT: a span for each request, one below it."""

import os

from flask import Flask, request

app = Flask(__name__)
exporter, endpoint = os.environ["EXPORTER"], os.environ["ENDPOINT"]


def opentelemetry():
    from opentelemetry import propagate, trace
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor

    if exporter == "otlp_grpc":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

        out = OTLPSpanExporter(endpoint=endpoint, insecure=True)
    else:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        out = OTLPSpanExporter(endpoint=endpoint + "/v1/traces")
    provider = TracerProvider(resource=Resource.create({"service.name": "own"}))
    provider.add_span_processor(SimpleSpanProcessor(out))
    tracer = provider.get_tracer("own")

    def order():
        context = propagate.extract({name.lower(): value for name, value in request.headers})
        with tracer.start_as_current_span("order", context=context, kind=trace.SpanKind.INTERNAL):
            with tracer.start_as_current_span("look up", attributes={"db": "stock", "rows": 3}):
                pass
        return "done"

    return order


def zipkin():
    import requests
    from py_zipkin.encoding import Encoding
    from py_zipkin.util import ZipkinAttrs, generate_random_64bit_string
    from py_zipkin.zipkin import zipkin_span

    encoding = Encoding[exporter.removeprefix("zipkin_").upper()]
    path = "/api/v1/spans" if encoding is Encoding.V1_JSON else "/api/v2/spans"
    form = "application/x-protobuf" if encoding is Encoding.V2_PROTO3 else "application/json"

    def report(body):
        requests.post(endpoint + path, data=body, headers={"content-type": form}).raise_for_status()

    def order():
        caller = ZipkinAttrs(
            trace_id=request.headers["x-b3-traceid"],
            span_id=generate_random_64bit_string(),
            parent_span_id=request.headers["x-b3-spanid"],
            flags="0",
            is_sampled=request.headers["x-b3-sampled"] == "1",
        )
        settings = {"service_name": "own", "encoding": encoding, "transport_handler": report}
        with zipkin_span(span_name="order", zipkin_attrs=caller, **settings):
            with zipkin_span(service_name="own", span_name="look up", binary_annotations={"db": "stock", "rows": "3"}):
                pass
        return "done"

    return order


app.add_url_rule("/order", view_func=(zipkin if exporter.startswith("zipkin") else opentelemetry)(), endpoint="order")

if __name__ == "__main__":
    app.run(port=int(os.environ["PORT"]), threaded=True)
