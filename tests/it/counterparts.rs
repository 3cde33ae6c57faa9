//! One request through Pillion, seen by the real systems it reports to: over every wire the same ids, names, parents, kinds,
//! outcomes and times, by the system's own query API or by the file that a real collector writes.
//!
//! What is true comes from the headers that the programs saw, and from a second reporter that speaks OTLP to a scripted
//! collector. A server span answers 200; the client span below it 503, which is an error.

use std::time::Duration;
use std::time::Instant;
use std::time::UNIX_EPOCH;

use serde_json::Value;
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::net::TcpStream;

use crate::support::collector::Collector;
use crate::support::collector::Reply;
use crate::support::collector::Speaks;
use crate::support::http;
use crate::support::jaeger::Jaeger;
use crate::support::jaeger::Sampling;
use crate::support::kafka::Ingester;
use crate::support::kafka::Kafka;
use crate::support::proxy::Pillion;
use crate::support::seen::Seen;
use crate::support::seen::assert_same;
use crate::support::seen::in_jaeger;
use crate::support::seen::in_otlp;
use crate::support::seen::in_zipkin;
use crate::support::server::Jaeger1;
use crate::support::server::OtelCol;
use crate::support::server::Zipkin;
use crate::support::upstream::Upstream;

const LIMIT: Duration = Duration::from_secs(20);
const CALLER: &str = "00f067aa0ba902b7";
const EXACT: Duration = Duration::ZERO;
/// Start and duration are both cut to microseconds, so an end may be one short.
const MICROS: Duration = Duration::from_nanos(2_000);
const MILLIS: Duration = Duration::from_millis(1);

/// Sends one request through a sidecar with this reporter and returns what is true of its two spans.
async fn exchange(reporter: &Value) -> Vec<Seen> {
    let truth = Collector::start(Speaks::Http1, vec![], Reply::Accept).await;
    let program = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let service = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let pillion = Pillion::inbound_to(
        program.local_addr().unwrap(),
        json!({
            "service": "shop",
            "sampling": { "constant": { "decision": true } },
            "resource": { "service.instance.id": "one" },
            "reporters": [reporter, { "otlp": { "endpoint": truth.url() } }],
            "shutdown": { "drain_timeout": "100ms", "flush_timeout": "10s" },
        }),
    );
    let trace_id = format!("{:032x}", fastrand::u128(1 << 96..));
    let before = now();
    let mut caller = TcpStream::connect(pillion.inbound()).await.unwrap();
    let request = format!(
        "GET /cart?x=%C3%A4 HTTP/1.1\r\nhost: shop\r\nconnection: close\r\ntraceparent: 00-{trace_id}-{CALLER}-01\r\n\r\n"
    );
    caller.write_all(request.as_bytes()).await.unwrap();
    let (mut held, _) = program.accept().await.unwrap();
    let server_span = parent_in(&head(&mut held).await, &trace_id);

    // The program calls another service and passes on what it got.
    let to = service.local_addr().unwrap();
    let mut call = TcpStream::connect(pillion.outbound()).await.unwrap();
    let request = format!(
        "GET http://{to}/stock HTTP/1.1\r\nhost: {to}\r\nconnection: close\r\ntraceparent: 00-{trace_id}-{server_span}-01\r\n\r\n"
    );
    call.write_all(request.as_bytes()).await.unwrap();
    let (mut called, _) = service.accept().await.unwrap();
    let client_span = parent_in(&head(&mut called).await, &trace_id);
    finish(&mut called, "503 Service Unavailable", &mut call).await;
    finish(&mut held, "200 OK", &mut caller).await;
    let after = now();

    // Stopping sends what is queued.
    tokio::task::block_in_place(|| drop(pillion));
    let spans = in_otlp(&truth);
    let by_id = |id: &str| {
        let found = spans.iter().find(|span| span.span_id == id);
        found
            .unwrap_or_else(|| panic!("no {id} in {spans:#?}"))
            .clone()
    };
    let (server, client) = (by_id(&server_span), by_id(&client_span));
    assert_eq!(spans.len(), 2, "{spans:#?}");
    for (span, kind, parent, is_error) in [
        (&server, "server", CALLER, false),
        (&client, "client", &*server_span, true),
    ] {
        assert_eq!((span.kind, span.is_error), (kind, is_error));
        assert_eq!((&*span.trace_id, &*span.parent_id), (&*trace_id, parent));
        assert_eq!((&*span.service, &*span.name), ("shop", "GET"));
        assert!(before <= span.start && span.start < span.end && span.end <= after);
    }
    assert!(server.start <= client.start && client.end <= server.end);
    vec![server, client]
}

/// Nanoseconds since 1970.
fn now() -> u64 {
    UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64
}

async fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

/// The span that `traceparent` names in this head; its trace must be this one.
fn parent_in(head: &str, trace_id: &str) -> String {
    let start = format!("traceparent: 00-{trace_id}-");
    let line = head.lines().find_map(|line| line.strip_prefix(&start));
    line.unwrap_or_else(|| panic!("{head}"))[..16].to_owned()
}

/// Answers a request and waits until who asked has the answer.
async fn finish(server: &mut TcpStream, status: &str, client: &mut TcpStream) {
    let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok");
    server.write_all(answer.as_bytes()).await.unwrap();
    let mut text = String::new();
    client.read_to_string(&mut text).await.unwrap();
    assert!(text.starts_with(&format!("HTTP/1.1 {status}")), "{text}");
}

/// Reports over this wire into a real collector and compares what it wrote with what `told` makes of the truth.
async fn through_the_collector(
    wire: impl Fn(&OtelCol) -> Value,
    step: Duration,
    told: impl Fn(&mut Seen),
) {
    let Some(collector) = OtelCol::start().await else {
        return;
    };
    let wire = wire(&collector);
    let mut expected = exchange(&wire).await;
    expected.iter_mut().for_each(told);
    let found = collector.spans(2).await;
    let found: Vec<_> = found.iter().map(|span| span.seen()).collect();
    assert_same(&expected, &found, step, &wire.to_string());
}

fn url(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

fn at(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_sees_the_request_over_otlp_http() {
    let wire =
        |c: &OtelCol| json!({ "otlp": { "endpoint": url(c.otlp_http), "compression": "gzip" } });
    through_the_collector(wire, EXACT, |_| {}).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_sees_the_request_over_otlp_grpc() {
    let wire =
        |c: &OtelCol| json!({ "otlp": { "endpoint": url(c.otlp_grpc), "protocol": "grpc" } });
    through_the_collector(wire, EXACT, |_| {}).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_sees_the_request_over_jaeger_grpc() {
    let wire = |c: &OtelCol| json!({ "jaeger_grpc": { "endpoint": url(c.jaeger_grpc) } });
    through_the_collector(wire, MICROS, |_| {}).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_sees_the_request_over_jaeger_http() {
    let wire = |c: &OtelCol| json!({ "jaeger_http": { "endpoint": url(c.thrift_http) } });
    through_the_collector(wire, MICROS, |_| {}).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_sees_the_request_over_jaeger_udp_compact() {
    let wire = |c: &OtelCol| json!({ "jaeger_udp": { "endpoint": at(c.thrift_compact_udp) } });
    through_the_collector(wire, MICROS, |_| {}).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_sees_the_request_over_jaeger_udp_binary() {
    let wire = |c: &OtelCol| json!({ "jaeger_udp": { "endpoint": at(c.thrift_binary_udp), "protocol": "binary" } });
    through_the_collector(wire, MICROS, |_| {}).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_sees_the_request_over_zipkin_json() {
    let wire = |c: &OtelCol| json!({ "zipkin": { "endpoint": url(c.zipkin) } });
    through_the_collector(wire, MICROS, |_| {}).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_sees_the_request_over_zipkin_proto3() {
    let wire =
        |c: &OtelCol| json!({ "zipkin": { "endpoint": url(c.zipkin), "encoding": "proto3" } });
    through_the_collector(wire, MICROS, |_| {}).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_sees_the_request_over_zipkin_thrift() {
    let wire =
        |c: &OtelCol| json!({ "zipkin": { "endpoint": url(c.zipkin), "encoding": "thrift" } });
    through_the_collector(wire, MICROS, |_| {}).await;
}

/// Datadog has two names for a span: the kind of operation, which the collector takes, and the resource.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_sees_the_request_over_datadog() {
    let wire = |c: &OtelCol| json!({ "datadog": { "endpoint": url(c.datadog) } });
    through_the_collector(wire, EXACT, |span| {
        span.name = format!("http.{}.request", span.kind)
    })
    .await;
}

/// A segment is named after the service, a call after the host called.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_sees_the_request_over_xray() {
    let wire = |c: &OtelCol| json!({ "xray": { "endpoint": at(c.xray_udp) } });
    through_the_collector(wire, MICROS, |span| {
        let called = span.kind == "client";
        span.name = if called { "127.0.0.1" } else { "shop" }.to_owned();
        span.service.clone_from(&span.name);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_sees_the_request_over_skywalking_grpc() {
    skywalking(|c| json!({ "skywalking": { "endpoint": url(c.skywalking_grpc) } })).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_sees_the_request_over_skywalking_http() {
    skywalking(
        |c| json!({ "skywalking": { "endpoint": url(c.skywalking_http), "protocol": "http" } }),
    )
    .await;
}

/// The collector makes numbers of SkyWalking's texts by rules of its own and keeps the text of the segment, whose last two
/// parts are the halves of the span's number.
async fn skywalking(wire: impl Fn(&OtelCol) -> Value) {
    let Some(collector) = OtelCol::start().await else {
        return;
    };
    let wire = wire(&collector);
    let expected = exchange(&wire).await;
    let written = collector.spans(2).await;
    let by_kind = |kind| {
        written
            .iter()
            .find(|span| span.seen().kind == kind)
            .unwrap()
    };
    assert_eq!(
        by_kind("client").seen().parent_id,
        by_kind("server").seen().span_id,
        "the collector joins them by its own rules"
    );
    let found: Vec<_> = written
        .iter()
        .map(|span| {
            let links = span.span["links"].to_string();
            let (parent, kind) = (
                text_between(&links, "sw8.parent_segment_id"),
                span.seen().kind,
            );
            assert!(!parent.is_empty(), "{links}");
            Seen {
                span_id: number_in(&span.attribute("sw8.segment_id")),
                parent_id: number_in(&parent),
                service: span.seen().service,
                kind,
                ..span.seen()
            }
        })
        .collect();
    assert_same(&expected, &found, MILLIS, &wire.to_string());
}

/// The text value of an attribute in this JSON.
fn text_between(json: &str, key: &str) -> String {
    let rest = json
        .split(&format!("\"key\":\"{key}\",\"value\":{{\"stringValue\":\""))
        .nth(1);
    let value = rest.and_then(|rest| rest.split('"').next());
    value.unwrap_or_default().to_owned()
}

/// `{trace}.{high}.{low}` as 16 digits.
fn number_in(segment: &str) -> String {
    let mut halves = segment
        .split('.')
        .skip(1)
        .map(|half| half.parse::<u64>().unwrap());
    let (high, low) = (halves.next().unwrap(), halves.next().unwrap());
    format!("{:016x}", high << 32 | low)
}

/// The file that Pillion writes, read by the collector's receiver of such files.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_sees_the_request_in_a_file() {
    let wire = |c: &OtelCol| json!({ "file": { "path": c.watched_file, "encoding": "otlp_json" } });
    through_the_collector(wire, EXACT, |_| {}).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn zipkin_shows_the_request() {
    let Some(zipkin) = Zipkin::start().await else {
        return;
    };
    for encoding in ["json", "proto3", "thrift"] {
        let wire = json!({ "zipkin": { "endpoint": url(zipkin.port), "encoding": encoding } });
        let mut expected = exchange(&wire).await;
        let trace = zipkin.trace(&expected[0].trace_id, 2).await;
        for span in &mut expected {
            span.name.make_ascii_lowercase();
        }
        assert_same(&expected, &in_zipkin(&trace), MICROS, &wire.to_string());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jaeger_1_shows_the_request_over_every_wire() {
    let Some(jaeger) = Jaeger1::start(&json!({})).await else {
        return;
    };
    let wires = [
        json!({ "otlp": { "endpoint": url(jaeger.otlp_http) } }),
        json!({ "otlp": { "endpoint": url(jaeger.otlp_grpc), "protocol": "grpc" } }),
        json!({ "jaeger_grpc": { "endpoint": url(jaeger.jaeger_grpc) } }),
        json!({ "jaeger_http": { "endpoint": url(jaeger.thrift_http) } }),
        json!({ "jaeger_udp": { "endpoint": at(jaeger.thrift_compact_udp) } }),
        json!({ "jaeger_udp": { "endpoint": at(jaeger.thrift_binary_udp), "protocol": "binary" } }),
        json!({ "zipkin": { "endpoint": url(jaeger.zipkin) } }),
        json!({ "zipkin": { "endpoint": url(jaeger.zipkin), "encoding": "proto3" } }),
    ];
    for wire in wires {
        let expected = exchange(&wire).await;
        let trace = jaeger.trace(&expected[0].trace_id, 2).await;
        assert_same(&expected, &in_jaeger(&trace), MICROS, &wire.to_string());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jaeger_2_shows_the_request_over_every_wire() {
    let Some(jaeger) = Jaeger::start(Sampling::File(json!({}))).await else {
        return;
    };
    let ports = &jaeger.ports;
    let wires = [
        json!({ "otlp": { "endpoint": url(ports.otlp_http) } }),
        json!({ "otlp": { "endpoint": url(ports.otlp_grpc), "protocol": "grpc" } }),
        json!({ "jaeger_grpc": { "endpoint": url(ports.jaeger_grpc) } }),
        json!({ "jaeger_http": { "endpoint": url(ports.thrift_http) } }),
        json!({ "jaeger_udp": { "endpoint": at(ports.thrift_compact_udp) } }),
        json!({ "jaeger_udp": { "endpoint": at(ports.thrift_binary_udp), "protocol": "binary" } }),
        json!({ "zipkin": { "endpoint": url(ports.zipkin) } }),
        json!({ "zipkin": { "endpoint": url(ports.zipkin), "encoding": "proto3" } }),
    ];
    for wire in wires {
        let expected = exchange(&wire).await;
        let trace = jaeger.wait_for_trace(&expected[0].trace_id, 2, LIMIT).await;
        assert_same(&expected, &in_jaeger(&trace), MICROS, &wire.to_string());
    }
}

/// In either form, compressed or not, in the clear, after user and password, and behind TLS.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jaeger_reads_the_request_from_kafka() {
    let Some(kafka) = Kafka::start().await else {
        return;
    };
    for (topic, encoding, format, port, more) in [
        ("plain", "protobuf", "jaeger_proto", kafka.port, json!({})),
        (
            "packed",
            "json",
            "jaeger_json",
            kafka.port,
            json!({ "compression": "gzip" }),
        ),
        (
            "known",
            "json",
            "jaeger_json",
            kafka.sasl,
            json!({ "sasl_plain": { "user": "user", "password": "secret" } }),
        ),
        (
            "secret",
            "protobuf",
            "jaeger_proto",
            kafka.tls,
            json!({ "tls": { "ca_file": kafka.ca() } }),
        ),
    ] {
        let Some(ingester) = Ingester::start(&kafka, topic, format).await else {
            return;
        };
        let mut wire = json!({ "brokers": [at(port)], "topic": topic, "encoding": encoding });
        for (key, value) in more.as_object().unwrap() {
            wire[key] = value.clone();
        }
        let wire = json!({ "kafka": wire });
        let expected = exchange(&wire).await;
        let trace = ingester.trace(&expected[0].trace_id, 2).await;
        assert_same(&expected, &in_jaeger(&trace), MICROS, &wire.to_string());
    }
}

/// What the broker will not take tomorrow either is not sent again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kafka_refuses_a_wrong_password_for_good() {
    let Some(kafka) = Kafka::start().await else {
        return;
    };
    let app = Upstream::start().await;
    let pillion = Pillion::inbound_to(
        ([127, 0, 0, 1], app.port).into(),
        json!({
            "sampling": { "constant": { "decision": true } },
            "reporters": [{ "kafka": {
                "brokers": [at(kafka.sasl)], "sasl_plain": { "user": "user", "password": "wrong" },
                "queue": { "flush_interval": "10ms" },
            } }],
        }),
    );
    http::get(pillion.inbound().port(), "/").await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    let rejected = ["reason=\"rejected\""];
    let metric = "pillion_reporter_spans_dropped_total";
    while pillion.metric(metric, &rejected).await < 1.0 {
        assert!(Instant::now() < deadline, "{}", pillion.metrics().await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Nothing is recorded until the agent's port, or the collector's, has said that everything is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jaeger_1_is_asked_for_strategies() {
    let everything = json!({ "default_strategy": { "type": "probabilistic", "param": 1 } });
    let Some(jaeger) = Jaeger1::start(&everything).await else {
        return;
    };
    let app = Upstream::start().await;
    for endpoint in [
        format!("{}/sampling", url(jaeger.sampling_http)),
        format!("grpc://{}", at(jaeger.jaeger_grpc)),
    ] {
        let pillion = Pillion::inbound_to(
            ([127, 0, 0, 1], app.port).into(),
            json!({
                "service": "shop",
                "sampling": { "remote": { "endpoint": endpoint, "initial_rate": 0 } },
            }),
        );
        let deadline = Instant::now() + LIMIT;
        loop {
            http::get(pillion.inbound().port(), "/").await.unwrap();
            let head = app.heads().pop().unwrap();
            let context = head.lines().find(|line| line.starts_with("traceparent: "));
            // Sampled, whether or not the id is random.
            if context.is_some_and(|context| context.ends_with(['1', '3'])) {
                break;
            }
            assert!(
                Instant::now() < deadline,
                "{endpoint}: still unsampled: {head}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
