//! Headers and messages exchanged with the real agents of Datadog, AWS X-Ray and SkyWalking for Python.

use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;

use http::HeaderMap;
use http::HeaderName;
use serde_json::Value;
use serde_json::json;

use pillion::codec::datadog;
use pillion::codec::skywalking;
use pillion::model::SamplingState;
use pillion::model::SpanContext;
use pillion::model::SpanId;
use pillion::model::TraceId;
use pillion::propagation::Config;
use pillion::propagation::Propagator;

use crate::support::jaeger::tools;
use crate::support::skip::skip;
use crate::support::spans::spans;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SPAN: &str = "b7ad6b7169203331";

/// Reads headers (`headers`) or one message (`segment`, `msgpack`) and prints what an agent makes of them; beside headers
/// also those that the agent writes for the context above.
const AGENTS: &str = r#"
import json, os, sys
os.environ.update(DD_TRACE_PROPAGATION_STYLE="datadog", DD_TRACE_ENABLED="false", DD_INSTRUMENTATION_TELEMETRY_ENABLED="false",
                  DD_REMOTE_CONFIGURATION_ENABLED="false")
kind, data = sys.argv[1], sys.stdin.buffer.read()
trace, span = 0x0af7651916cd43dd8448eb211c80319c, 0xb7ad6b7169203331
if kind == "msgpack":
    import msgpack
    print(json.dumps(msgpack.unpackb(data)))
elif kind == "segment":
    from skywalking.protocol.language_agent.Tracing_pb2 import SegmentObject
    from google.protobuf.json_format import MessageToDict
    print(json.dumps(MessageToDict(SegmentObject.FromString(data))))
else:
    from ddtrace.propagation.http import HTTPPropagator
    from ddtrace.trace import Context
    from aws_xray_sdk.core.models.trace_header import TraceHeader
    from skywalking import config
    config.init(agent_collector_backend_services="127.0.0.1:1", agent_name="theirs", agent_instance_name="theirs-1")
    from skywalking.trace.carrier import Carrier
    ours = json.loads(data)
    dd = {}
    HTTPPropagator.inject(Context(trace_id=trace, span_id=span, sampling_priority=2, dd_origin="rum"), dd)
    xray = TraceHeader(root="1-0af76519-16cd43dd8448eb211c80319c", parent="b7ad6b7169203331", sampled=1, data={"Lineage": "1:a:0"})
    sw = Carrier(trace_id="a.b.c", segment_id="d.e.f", span_id="3", service="s", service_instance="i", endpoint="/e",
                 client_address="p:1", correlation={"k": "v"})
    context = HTTPPropagator.extract(ours)
    header = TraceHeader.from_header_str(ours["x-amzn-trace-id"])
    carrier = Carrier()
    for item in carrier:
        item.val = ours.get(item.key)
    print(json.dumps({
        "written": {"datadog": dd, "xray": {"x-amzn-trace-id": xray.to_header_str()}, "skywalking": {i.key: i.val for i in sw}},
        "read": {
            "datadog": [context.trace_id == trace, context.span_id == span, context.sampling_priority, context.dd_origin],
            "xray": [header.root, header.parent, header.sampled, header.data],
            "skywalking": [carrier.is_valid, carrier.trace_id, carrier.segment_id, int(carrier.span_id), carrier.service,
                           carrier.endpoint, carrier.correlation_carrier.correlation],
        }}))
"#;

fn python() -> Option<PathBuf> {
    let python = tools().map(|dir| dir.join("agents/bin/python"));
    let found = python.filter(|python| python.is_file());
    if found.is_none() {
        skip("no Python agents: run tests/interop/install.sh agents");
    }
    found
}

fn ask(python: &PathBuf, kind: &str, input: &[u8]) -> Value {
    let mut child = Command::new(python)
        .args(["-c", AGENTS, kind])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let text = String::from_utf8(output.stdout).unwrap();
    let answer = text
        .lines()
        .last()
        .and_then(|line| serde_json::from_str(line).ok());
    answer.unwrap_or_else(|| panic!("{kind}: {text} {said}"))
}

fn propagator() -> Propagator {
    Propagator::new(&Config::from_list("datadog,xray,skywalking").0)
}

#[test]
fn agents_read_the_headers_written_here_and_theirs_are_read() {
    let Some(python) = python() else { return };
    let mut context = SpanContext::new(
        TraceId::from_hex(TRACE.as_bytes()).unwrap(),
        SpanId::from_hex(SPAN.as_bytes()).unwrap(),
        SamplingState::Accept,
    );
    context.carried = [
        ("datadog.priority", "2".into()),
        ("datadog.origin", "rum".into()),
        ("xray", ";Lineage=1:a:0".into()),
        (skywalking::ENDPOINT, "GET /users".into()),
    ]
    .into_iter()
    .collect();
    let mut headers = HeaderMap::new();
    propagator().inject(&context, &mut headers);
    let pairs = headers.iter().map(|(name, value)| {
        let value = value.to_str().unwrap();
        (name.to_string(), json!(value))
    });
    let mut ours = Value::Object(pairs.collect());
    ours["sw8-correlation"] = json!(skywalking::correlation_text("k", "v"));
    let answer = ask(&python, "headers", ours.to_string().as_bytes());

    assert_eq!(answer["read"]["datadog"], json!([true, true, 2, "rum"]));
    let root = "1-0af76519-16cd43dd8448eb211c80319c";
    assert_eq!(
        answer["read"]["xray"],
        json!([root, SPAN, 1, { "Lineage": "1:a:0" }])
    );
    let segment = format!("{TRACE}.{}.{}", 0xb7ad_6b71_u32, 0x6920_3331);
    let expected = json!([true, TRACE, segment, 0, "unknown_service", "GET /users", { "k": "v" }]);
    assert_eq!(answer["read"]["skywalking"], expected);

    for (name, trace, span, carried) in [
        (
            "datadog",
            TRACE.to_owned(),
            SPAN.to_owned(),
            ("datadog.origin", "rum"),
        ),
        (
            "xray",
            TRACE.to_owned(),
            SPAN.to_owned(),
            ("xray", ";Lineage=1:a:0"),
        ),
        (
            "skywalking",
            TraceId::of_text("a.b.c").to_string(),
            SpanId::of_text("d.e.f-3").to_string(),
            (skywalking::SW8, "1-YS5iLmM=-ZC5lLmY=-3-cw==-aQ==-L2U=-cDox"),
        ),
    ] {
        let mut theirs = HeaderMap::new();
        for (key, value) in answer["written"][name].as_object().unwrap() {
            let key = HeaderName::try_from(key.as_str()).unwrap();
            theirs.insert(key, value.as_str().unwrap().parse().unwrap());
        }
        let extraction = propagator().extract(&theirs);
        assert_eq!(extraction.format, Some(name));
        let parent = extraction.extracted.parent.unwrap();
        assert_eq!(
            (parent.trace_id.to_string(), parent.span_id.to_string()),
            (trace, span)
        );
        assert_eq!(parent.state, SamplingState::Accept, "{name}");
        assert_eq!(parent.carried.get(carried.0).unwrap(), carried.1);
    }
}

#[test]
fn skywalkings_own_structs_read_our_segments() {
    let Some(python) = python() else { return };
    let segments = skywalking::encode_segments(&spans(0..1, 10));
    let read = ask(&python, "segment", &segments[0]);
    assert_eq!(read["service"], "svc");
    assert_eq!(read["serviceInstance"], "1");
    assert_eq!(read["traceId"], "00000000000000070000000000000001");
    let span = &read["spans"][0];
    assert_eq!(span["parentSpanId"], -1);
    assert_eq!(span.get("spanType"), None, "Entry is the default");
    assert!(span["operationName"].is_string() && span["startTime"].is_string());
}

#[test]
fn msgpack_reads_our_traces() {
    let Some(python) = python() else { return };
    let (n_traces, body) = datadog::encode(&spans(0..3, 300));
    let read = ask(&python, "msgpack", &body);
    assert_eq!(read.as_array().map(Vec::len), Some(n_traces));
    assert_eq!(read[2][0]["span_id"], 3);
    assert_eq!(read[0][0]["service"], "svc");
    assert_eq!(read[0][0]["meta"]["_dd.p.tid"], "0000000000000007");
    assert_eq!(read[0][0]["metrics"]["_sampling_priority_v1"], 1.0);
}
