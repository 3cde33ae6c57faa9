"""A program that traces itself with Jaeger's client for Python. See reports.md for what it is told and says."""

import os
import time

import opentracing
from jaeger_client import Config

rate, seconds = int(os.environ["RATE"]), int(os.environ["SECONDS"])
settings = Config(
    config={
        # No sampler named: the agent's strategies.
        "sampling_refresh_interval": 0.2,
        "local_agent": {
            "reporting_host": os.environ["AGENT_HOST"],
            "reporting_port": int(os.environ["AGENT_PORT"]),
            "sampling_port": int(os.environ["SAMPLING_PORT"]),
        },
        "reporter_queue_size": 10 * (rate + 100),
        "reporter_batch_size": 50,
        "tags": {"team": "blue"},
    },
    service_name=os.environ["SERVICE"],
    validate=True,
)
tracer = settings.initialize_tracer()
# Before the strategy comes, one trace in a thousand is sampled.
while not all(tracer.start_span("probe").context.flags & 1 for _ in range(5)):
    time.sleep(0.01)
print("strategy", flush=True)


def pair():
    root = tracer.start_span("parent", tags={"n": 1, "f": 0.5, "b": True, "s": "text"})
    references = [opentracing.child_of(root.context), opentracing.follows_from(root.context)]
    child = tracer.start_span("child", references=references)
    child.log_kv({"event": "step", "k": 2})
    child.set_tag("error", True)
    child.finish()
    root.finish()
    return f"{root.context.trace_id:016x}"


trace, spans = pair(), 2
start = time.monotonic()
for tick in range(1, 100 * seconds + 1):
    while spans < 2 + rate * tick // 100:
        pair()
        spans += 2
    time.sleep(max(0, start + tick / 100 - time.monotonic()))
closed = tracer.close()
while not closed.done():
    time.sleep(0.01)
print("trace", trace)
print("spans", spans)
