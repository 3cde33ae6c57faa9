//! Every wire into a real Jaeger v2: the same trace, sent each way, read back through the query API.

use std::sync::Arc;
use std::time::Duration;

use pillion::model::Attribute;
use pillion::model::Baggage;
use pillion::model::Carried;
use pillion::model::Event;
use pillion::model::Kind;
use pillion::model::Link;
use pillion::model::Resource;
use pillion::model::SamplingState;
use pillion::model::Span;
use pillion::model::SpanContext;
use pillion::model::SpanId;
use pillion::model::Status;
use pillion::model::Timestamp;
use pillion::model::TraceId;
use pillion::model::TraceState;
use pillion::model::Value;
use pillion::reporter::Config;
use pillion::reporter::Reporters;
use pillion::reporter::Sink;
use serde_json::json;

use crate::support::jaeger::Jaeger;
use crate::support::jaeger::Sampling;
use crate::support::jaeger::spans;
use crate::support::jaeger::tag;

const LIMIT: Duration = Duration::from_secs(20);

#[tokio::test]
async fn every_wire_carries_a_trace_into_jaeger() {
    let strategies = json!({ "default_strategy": { "type": "probabilistic", "param": 1 } });
    let Some(jaeger) = Jaeger::start(Sampling::File(strategies)).await else {
        return;
    };
    let ports = &jaeger.ports;
    let jaeger_grpc = ports.jaeger_grpc;
    let (compact, binary) = (ports.thrift_compact_udp, ports.thrift_binary_udp);
    let (thrift, http, grpc) = (ports.thrift_http, ports.otlp_http, ports.otlp_grpc);
    let wires = [
        format!("jaeger_udp: {{ endpoint: '127.0.0.1:{compact}' }}"),
        format!("jaeger_udp: {{ endpoint: '127.0.0.1:{binary}', protocol: binary }}"),
        format!("jaeger_http: {{ endpoint: 'http://127.0.0.1:{thrift}' }}"),
        format!("jaeger_grpc: {{ endpoint: 'http://127.0.0.1:{jaeger_grpc}' }}"),
        format!("jaeger_grpc: {{ endpoint: 'http://127.0.0.1:{jaeger_grpc}', compression: gzip }}"),
        format!("otlp: {{ endpoint: 'http://127.0.0.1:{http}' }}"),
        format!("otlp: {{ endpoint: 'http://127.0.0.1:{http}', compression: gzip }}"),
        format!("otlp: {{ endpoint: 'http://127.0.0.1:{grpc}', protocol: grpc }}"),
        format!(
            "otlp: {{ endpoint: 'http://127.0.0.1:{grpc}', protocol: grpc, compression: gzip }}"
        ),
    ];
    for (place, yaml) in wires.iter().enumerate() {
        let config: Config = serde_saphyr::from_str(yaml).unwrap();
        let reporters = Reporters::start(&[config], None, None).unwrap();
        let trace = trace(place as u64 + 1);
        for span in &trace {
            reporters.report(Arc::clone(span));
        }
        reporters.shutdown(LIMIT).await;
        let book = reporters.snapshot().remove(0);
        assert_eq!(book.exported, 3, "{yaml}: {book:?}");
        let id = trace[0].context.trace_id.to_string();
        let found = jaeger.wait_for_trace(&id, 3, LIMIT).await;
        assert_trace(&found, &trace, yaml);
    }
}

/// Zipkin's tags are texts and links have no place, so this is what is left to compare.
#[tokio::test]
async fn both_spellings_of_zipkin_carry_a_trace_into_jaeger() {
    let strategies = json!({ "default_strategy": { "type": "probabilistic", "param": 1 } });
    let Some(jaeger) = Jaeger::start(Sampling::File(strategies)).await else {
        return;
    };
    let zipkin = jaeger.ports.zipkin;
    for (number, settings) in [
        (100, "encoding: json, compression: gzip"),
        (101, "encoding: proto3"),
    ] {
        let yaml = format!("zipkin: {{ endpoint: 'http://127.0.0.1:{zipkin}', {settings} }}");
        let config: Config = serde_saphyr::from_str(&yaml).unwrap();
        let reporters = Reporters::start(&[config], None, None).unwrap();
        let trace = trace(number);
        for span in &trace {
            reporters.report(Arc::clone(span));
        }
        reporters.shutdown(LIMIT).await;
        let book = reporters.snapshot().remove(0);
        assert_eq!(book.exported, 3, "{yaml}: {book:?}");
        let id = trace[0].context.trace_id.to_string();
        let found = jaeger.wait_for_trace(&id, 3, LIMIT).await;
        let all = spans(&found);
        for sent in &trace {
            let id = sent.context.span_id.to_string();
            let span = all
                .iter()
                .find(|span| span["spanID"] == id.as_str())
                .unwrap();
            assert_eq!(span["operationName"], sent.name.as_str(), "{settings}");
            assert_eq!(span["startTime"], sent.start.micros(), "{settings}");
            assert_eq!(span["duration"], 3_000, "{settings}");
            assert_eq!(tag(span, "span.kind"), sent.kind.name(), "{settings}");
            let parent = span["references"]
                .get(0)
                .map(|parent| parent["spanID"].clone());
            assert_eq!(
                parent,
                sent.parent.map(|id| json!(id.to_string())),
                "{settings}"
            );
            let process = &found["processes"][span["processID"].as_str().unwrap()];
            assert_eq!(process["serviceName"], "reporter-test", "{settings}");
        }
        let id = trace[0].context.span_id.to_string();
        let server = all
            .iter()
            .find(|span| span["spanID"] == id.as_str())
            .unwrap();
        assert_eq!(tag(server, "error"), "boom", "{settings}");
        let fields = server["logs"][0]["fields"].to_string();
        assert!(fields.contains("retry"), "{settings}: {fields}");
    }
}

fn assert_trace(found: &serde_json::Value, sent: &[Arc<Span>], wire: &str) {
    let span = |id: SpanId| {
        let id = id.to_string();
        let all = spans(found);
        all.iter()
            .find(|span| span["spanID"] == id.as_str())
            .unwrap()
    };
    let server = span(sent[0].context.span_id);
    assert_eq!(server["operationName"], "GET /users/{id}", "{wire}");
    assert_eq!(server["startTime"], sent[0].start.micros(), "{wire}");
    assert_eq!(server["duration"], 3_000, "{wire}");
    assert_eq!(tag(server, "span.kind"), "server", "{wire}");
    assert_eq!(tag(server, "http.response.status_code"), 503, "{wire}");
    assert_eq!(tag(server, "error"), true, "{wire}");
    assert_eq!(tag(server, "ratio"), 0.25, "{wire}");
    assert_eq!(tag(server, "flag"), true, "{wire}");
    let list = tag(server, "http.request.header.x-a");
    assert!(
        list == "[\"1\",\"2\"]" || list == &json!(["1", "2"]),
        "{wire}: {list}"
    );
    let fields = server["logs"][0]["fields"].as_array().unwrap();
    assert!(
        fields
            .iter()
            .any(|field| field["key"] == "event" && field["value"] == "retry"),
        "{wire}"
    );
    let client = span(sent[1].context.span_id);
    let references = client["references"].as_array().unwrap();
    let parent = sent[0].context.span_id.to_string();
    assert_eq!(references[0]["refType"], "CHILD_OF", "{wire}");
    assert_eq!(references[0]["spanID"], parent.as_str(), "{wire}");
    let linked = span(sent[2].context.span_id);
    let references = linked["references"].as_array().unwrap();
    assert!(
        references
            .iter()
            .any(|reference| reference["refType"] == "FOLLOWS_FROM"),
        "{wire}: {references:?}"
    );
    let process = &found["processes"][server["processID"].as_str().unwrap()];
    assert_eq!(process["serviceName"], "reporter-test", "{wire}");
    let tags = process["tags"].as_array().unwrap();
    assert!(tags.iter().any(|tag| tag["key"] == "host.name"), "{wire}");
}

/// A server span, a client span below it, and a span that follows from another trace.
fn trace(number: u64) -> Vec<Arc<Span>> {
    let trace_id = TraceId::from_halves(0xfeed, number).unwrap();
    let resource = Arc::new(Resource {
        service: "reporter-test".into(),
        attributes: vec![Attribute::new("host.name", "demo")],
        scope: None,
    });
    let start = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
    let span = |id: u64, parent: Option<u64>, name: &'static str, kind| Span {
        context: SpanContext {
            trace_id,
            span_id: SpanId::from_u64(number << 8 | id).unwrap(),
            state: SamplingState::Accept,
            random: false,
            firehose: false,
            trace_state: TraceState::default(),
            baggage: Baggage::default(),
            carried: Carried::default(),
        },
        parent: parent.and_then(|parent| SpanId::from_u64(number << 8 | parent)),
        remote_parent: false,
        name: name.into(),
        kind,
        start: Timestamp(start),
        end: Timestamp(start + 3_000_000),
        attributes: Vec::new().into(),
        events: Vec::new(),
        links: Vec::new(),
        status: Status::Unset,
        resource: Arc::clone(&resource),
    };
    let mut server = span(1, None, "GET /users/{id}", Kind::Server);
    server.status = Status::Error("boom".into());
    server.attributes = vec![
        Attribute::new("http.response.status_code", 503_i64),
        Attribute::new("ratio", 0.25),
        Attribute::new("flag", true),
        Attribute::new(
            "http.request.header.x-a",
            Value::StrList(["1".into(), "2".into()].into()),
        ),
    ]
    .into();
    server.events = vec![Event {
        time: Timestamp(start + 1_000),
        name: "retry".into(),
        attributes: vec![Attribute::new("n", 1_i64)],
    }];
    let client = span(2, Some(1), "GET", Kind::Client);
    let mut linked = span(3, Some(1), "GET", Kind::Client);
    linked.links = vec![Link {
        trace_id: TraceId::from_halves(0xbeef, number).unwrap(),
        span_id: SpanId::from_u64(9).unwrap(),
        attributes: Vec::new(),
    }];
    vec![Arc::new(server), Arc::new(client), Arc::new(linked)]
}
