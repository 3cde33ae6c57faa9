"""A program with SkyWalking's agent: one entry span with a local and an exit span below, then some seconds of heartbeats."""

import os
import time

from skywalking import agent, config

config.init(
    agent_collector_backend_services=os.environ["OAP"],
    agent_protocol=os.environ["PROTOCOL"],
    agent_name="sw-app",
    agent_instance_name="one",
    agent_collector_heartbeat_period=1,
    agent_logging_level="INFO",
    # Over HTTP the agent reports no meters.
    agent_meter_reporter_active=os.environ["PROTOCOL"] == "grpc",
    agent_profile_active=os.environ["PROTOCOL"] == "grpc",
)
agent.start()

from skywalking import Component, Layer  # noqa: E402
from skywalking.trace.carrier import Carrier  # noqa: E402
from skywalking.trace.context import get_context  # noqa: E402

carrier = Carrier()
for item in carrier:
    if item.key == "sw8":
        item.val = os.environ["SW8"]
context = get_context()
with context.new_entry_span(op="/orders", carrier=carrier) as entry:
    entry.layer, entry.component = Layer.Http, Component.Flask
    with context.new_local_span(op="work"):
        pass
    with context.new_exit_span(op="/stock", peer="stock:8080") as exit_span:
        exit_span.layer, exit_span.component = Layer.Http, Component.Requests
time.sleep(4)
print("done", flush=True)
# Its threads have no end of their own.
os._exit(0)
