//! Spans of programs through a whole Pillion: captures of real clients on every wire, answers to their questions, and
//! what is refused without harm to the next.

use std::io::Write;
use std::net::SocketAddr;
use std::time::Duration;
use std::time::Instant;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::Request;
use http_body_util::Full;
use pillion::codec::jaeger_strategy;
use pillion::codec::jaeger_strategy::Answer;
use pillion::codec::jaeger_strategy::Spelling;
use pillion::net::client::Client;
use pillion::net::grpc;
use serde_json::Value;
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::UdpSocket;

use crate::support::collector::Collector;
use crate::support::collector::Reply;
use crate::support::collector::Speaks;
use crate::support::otlp;
use crate::support::proxy::Pillion;
use crate::support::receivers::everywhere;

const LIMIT: Duration = Duration::from_secs(30);

macro_rules! data {
    ($name:literal) => {
        include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/", $name))
    };
}

/// How a message goes out.
#[derive(Debug, Clone, Copy)]
enum Send {
    Datagram,
    /// Path, content type, content encoding.
    Post(&'static str, &'static str, &'static str),
    /// Method.
    Call(&'static str),
}

const PROTOBUF: &str = "application/x-protobuf";
const JSON: &str = "application/json";
const EXPORT: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
const POST_SPANS: &str = "/jaeger.api_v2.CollectorService/PostSpans";
const COLLECT: &str = "/skywalking.v3.TraceSegmentReportService/collect";

/// Port, way, bytes, service, spans.
type Case = (&'static str, Send, &'static [u8], &'static str, usize);

#[rustfmt::skip]
const CAPTURES: &[Case] = &[
    ("jaeger.compact", Send::Datagram, data!("jaeger/01-python-4.8.0-compact-oneway-const-sampler.bin"), "py-demo", 3),
    ("jaeger.binary", Send::Datagram, data!("jaeger/03-node-3.19.0-binary-oneway.bin"), "node-demo", 3),
    ("jaeger.compact", Send::Datagram, data!("jaeger/04-otel-python-1.21.0-compact-oneway-128bit.bin"), "otel-py-demo", 2),
    ("jaeger.binary", Send::Datagram, data!("jaeger/10-synthetic-binary-nonstrict-call.bin"), "go-like-demo", 2),
    ("jaeger.zipkin_compact", Send::Datagram, data!("jaeger/12-synthetic-emitzipkinbatch-compact.bin"), "zk-demo", 1),
    ("jaeger.zipkin_compact", Send::Datagram, data!("jaeger/02-python-4.8.0-compact-oneway-remote-sampler.bin"), "py-demo", 3),
    ("jaeger.http", Send::Post("/api/traces?format=jaeger.thrift", "application/x-thrift", ""), data!("jaeger/05-node-3.19.0-http-batch-binary.body.bin"), "node-demo", 3),
    ("jaeger.grpc", Send::Call(POST_SPANS), data!("jaeger/07-otel-python-1.21.0-grpc-postspans.bin"), "", 2),
    ("otlp.http", Send::Post("/v1/traces", PROTOBUF, ""), data!("otlp/01-python-1.45.1-http-protobuf.body.bin"), "", 2),
    ("otlp.http", Send::Post("/v1/traces", PROTOBUF, "gzip"), data!("otlp/02-python-1.45.1-http-protobuf-gzip.body.bin"), "", 2),
    ("otlp.http", Send::Post("/v1/traces", JSON, ""), data!("otlp/03-js-0.223.1-http-json-chunked.body.json"), "", 2),
    ("otlp.grpc", Send::Call(EXPORT), data!("otlp/04-python-1.45.1-grpc-export.bin"), "", 2),
    ("zipkin.listen", Send::Post("/api/v2/spans", JSON, ""), data!("zipkin/01-otel-python-1.21.0-v2-json.body.json"), "", 2),
    ("zipkin.listen", Send::Post("/api/v2/spans", PROTOBUF, ""), data!("zipkin/02-otel-python-1.21.0-v2-proto3.body.bin"), "", 2),
    ("skywalking.grpc", Send::Call(COLLECT), data!("skywalking/01-python-agent-1.2.0-segmentobject.bin"), "sw-demo", 2),
];

/// A proxy with every receiver, whose spans go to a collector.
async fn start() -> (Pillion, Collector) {
    let collector = Collector::start(Speaks::Http1, Vec::new(), Reply::Accept).await;
    let pillion = Pillion::start(json!({
        "receivers": everywhere(),
        "reporters": [{ "otlp": { "endpoint": collector.url(), "queue": { "flush_interval": "10ms" } } }],
        "sampling": { "constant": { "decision": true } },
    }));
    (pillion, collector)
}

/// Sends a message; the status of the answer, 0 where there is none, and its body.
async fn send(to: SocketAddr, way: Send, bytes: &[u8]) -> (u16, Vec<u8>) {
    match way {
        Send::Datagram => {
            let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            socket.send_to(bytes, to).await.unwrap();
            (0, Vec::new())
        }
        Send::Post(path, kind, encoding) => {
            let request = Request::post(format!("http://{to}{path}"))
                .header("content-type", kind)
                .header("content-encoding", encoding)
                .body(Full::new(Bytes::copy_from_slice(bytes)))
                .unwrap();
            let answer = Client::plain().send(request, LIMIT, 1 << 20).await.unwrap();
            (answer.status().as_u16(), answer.body().to_vec())
        }
        Send::Call(method) => call(to, method, grpc::frame(bytes)).await,
    }
}

/// Sends frames; the status of the call and the first message of its answer.
async fn call(to: SocketAddr, method: &str, frames: Bytes) -> (u16, Vec<u8>) {
    let request = Request::post(format!("http://{to}{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(frames))
        .unwrap();
    let client = Client::h2_only(None);
    let answer = client.send_with_trailers(request, LIMIT, 1 << 20).await;
    let answer = answer.unwrap();
    let (code, _) = grpc::status(answer.response.headers(), &answer.trailers);
    let mut frames = grpc::Frames::new(1 << 20);
    frames.push(answer.response.body());
    let message = frames.pop().unwrap().map(|message| message.bytes.to_vec());
    (u16::try_from(code).unwrap(), message.unwrap_or_default())
}

async fn get(to: SocketAddr, path: &str) -> (u16, Value) {
    let request = Request::get(format!("http://{to}{path}"));
    let request = request.body(Full::default()).unwrap();
    let answer = Client::plain().send(request, LIMIT, 1 << 20).await.unwrap();
    let body = serde_json::from_slice(answer.body()).unwrap_or(Value::Null);
    (answer.status().as_u16(), body)
}

/// Waits until a metric has this value.
async fn metric_is(pillion: &Pillion, name: &str, labels: &[&str], expected: f64) {
    let deadline = Instant::now() + LIMIT;
    loop {
        let value = pillion.metric(name, labels).await;
        if value == expected {
            return;
        }
        assert!(
            Instant::now() < deadline && value <= expected,
            "{name} {labels:?} is {value}, not {expected}"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn captures_of_every_wire_leave_through_the_reporter_and_are_counted() {
    let (pillion, collector) = start().await;
    let mut expected = 0;
    for (port, way, bytes, service, n_spans) in CAPTURES {
        let before = otlp::spans(&collector).len();
        let (status, _) = send(pillion.address(port), *way, bytes).await;
        assert!(matches!(status, 0 | 200 | 202), "{port} {way:?}: {status}");
        let deadline = Instant::now() + LIMIT;
        let taken = loop {
            let taken = pillion
                .metric("pillion_receiver_messages_total", &["accepted"])
                .await;
            if taken as usize > expected || Instant::now() > deadline {
                break taken as usize;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        expected += 1;
        assert_eq!(taken, expected, "{port} {way:?}");
        let spans = loop {
            let spans = otlp::spans(&collector);
            let received = pillion.metric("pillion_spans_received_total", &[]).await;
            if spans.len() == received as usize || Instant::now() > deadline {
                break spans;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        let new = &spans[before..];
        assert!(!new.is_empty(), "{port} {way:?}");
        if *n_spans > 0 {
            assert_eq!(new.len(), *n_spans, "{port} {way:?}: {new:?}");
        }
        for span in new {
            assert!(!span.service.is_empty(), "{port}: {span:?}");
            if !service.is_empty() {
                assert_eq!(span.service, *service, "{port}");
            }
        }
    }
    let metrics = [
        "pillion_spans_started_total",
        "pillion_spans_received_total",
        "pillion_reporter_spans_exported_total",
    ];
    let mut values = Vec::new();
    for name in metrics {
        values.push(pillion.metric(name, &[]).await);
    }
    assert_eq!(
        values[0] + values[1],
        values[2],
        "every span is accounted for"
    );
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn what_is_hostile_is_refused_counted_and_harms_nothing() {
    let (pillion, _collector) = start().await;
    let bomb = gzip(&vec![0; 40 << 20]);
    let mut random = fastrand::Rng::with_seed(11);
    let noise: Vec<u8> = std::iter::repeat_with(|| random.u8(..))
        .take(3_000)
        .collect();
    let deep = [b"[{\"traceId\":".repeat(20_000)].concat();
    let many = format!("[{}]", vec!["{}"; 2_000_000].join(","));
    let lying: &[u8] = b"\x82\x21\x01\x09emitBatch\x1c\x19\xfc\xff\xff\xff\xff\x07";
    let nested = [b"\x82\x21\x01\x09emitBatch".as_slice(), &[0x5c; 10_000]].concat();
    let good = data!("jaeger/01-python-4.8.0-compact-oneway-const-sampler.bin");
    let zipkin = Send::Post("/api/v2/spans", JSON, "");
    let thrift = Send::Post("/api/traces", "application/x-thrift", "");
    /// Port, way, bytes, status, how it is counted, why.
    type Case<'a> = (&'a str, Send, &'a [u8], u16, &'a str, &'a str);
    #[rustfmt::skip]
    let cases: &[Case<'_>] = &[
        ("jaeger.compact", Send::Datagram, &noise, 0, "malformed", "noise"),
        ("jaeger.compact", Send::Datagram, b"", 0, "malformed", "empty"),
        ("jaeger.compact", Send::Datagram, &good[..good.len() / 2], 0, "malformed", "cut short"),
        ("jaeger.compact", Send::Datagram, lying, 0, "malformed", "a list of 2^31 spans"),
        ("jaeger.compact", Send::Datagram, &nested, 0, "malformed", "structs in structs"),
        ("jaeger.binary", Send::Datagram, good, 0, "malformed", "compact on the binary port"),
        ("jaeger.compact", Send::Datagram, &[0x82; 65_200], 0, "too_large", "larger than a client sends"),
        ("jaeger.http", thrift, &noise, 400, "malformed", "noise"),
        ("jaeger.http", Send::Post("/api/traces", "text/plain", ""), good, 400, "unsupported", "content type"),
        ("otlp.http", Send::Post("/v1/traces", PROTOBUF, "gzip"), &bomb, 413, "too_large", "gzip bomb"),
        ("otlp.http", Send::Post("/v1/traces", PROTOBUF, "gzip"), &noise, 400, "malformed", "no gzip"),
        ("otlp.http", Send::Post("/v1/traces", PROTOBUF, "br"), &noise, 415, "unsupported", "content encoding"),
        ("otlp.http", Send::Post("/v1/traces", "text/html", ""), &noise, 415, "unsupported", "content type"),
        ("zipkin.listen", zipkin, &deep, 400, "malformed", "nested deeply"),
        ("zipkin.listen", zipkin, many.as_bytes(), 413, "too_large", "two million spans"),
        ("zipkin.listen", Send::Post("/api/v1/spans", "application/x-thrift", ""), &[0x0c, 0x7f, 0xff, 0xff, 0xff], 400, "malformed", "2^31 spans"),
        ("zipkin.listen", Send::Post("/api/v2/spans", JSON, "gzip"), &bomb, 413, "too_large", "gzip bomb"),
        ("skywalking.http", Send::Post("/v3/segments", JSON, ""), b"[1]", 400, "malformed", "no segments"),
        ("otlp.grpc", Send::Call(EXPORT), &noise, 3, "malformed", "noise"),
        ("jaeger.grpc", Send::Call(POST_SPANS), &noise, 3, "malformed", "noise"),
        ("skywalking.grpc", Send::Call(COLLECT), &noise, 3, "malformed", "noise"),
    ];
    let mut counts = std::collections::BTreeMap::<&str, f64>::new();
    for (port, way, bytes, expected, counted, why) in cases {
        let start = Instant::now();
        let (status, _) = send(pillion.address(port), *way, bytes).await;
        assert_eq!(status, *expected, "{port}: {why}");
        let count = counts.entry(counted).or_default();
        *count += 1.0;
        let label = format!("result=\"{counted}\"");
        metric_is(
            &pillion,
            "pillion_receiver_messages_total",
            &[&label],
            *count,
        )
        .await;
        assert!(start.elapsed() < Duration::from_secs(20), "{port}: {why}");
    }
    // A message that announces more than it may have, and one that breaks off.
    let to = pillion.address("otlp.grpc");
    let huge = Bytes::from_static(&[0, 0x7f, 0xff, 0xff, 0xff]);
    assert_eq!(call(to, EXPORT, huge).await.0, 8);
    let cut = Bytes::from_static(&[0, 0, 0, 0, 9, 1]);
    assert_eq!(call(to, EXPORT, cut).await.0, 14);
    assert_eq!(call(to, "/no.such/Method", Bytes::new()).await.0, 12);

    assert_eq!(
        pillion.metric("pillion_spans_received_total", &[]).await,
        0.0
    );
    send(pillion.address("jaeger.compact"), Send::Datagram, good).await;
    metric_is(&pillion, "pillion_spans_received_total", &[], 3.0).await;
}

#[tokio::test]
async fn programs_that_ask_get_this_sidecars_own_rates_in_their_spelling() {
    let (pillion, _collector) = start().await;
    let agent = pillion.address("jaeger.sampling");
    let by_name = get(agent, "/sampling?service=a").await;
    let all = json!({ "samplingRate": 1.0 });
    assert_eq!(
        by_name,
        (
            200,
            json!({ "strategyType": "PROBABILISTIC", "probabilisticSampling": all })
        )
    );
    let (status, by_number) = get(agent, "/?service=a").await;
    assert_eq!((status, &by_number["strategyType"]), (200, &json!(0)));
    assert_eq!(by_number["rateLimitingSampling"], Value::Null);
    for (path, expected) in [
        ("/sampling", 400),
        ("/sampling?service=a&service=b", 400),
        ("/nothing", 404),
        ("/baggageRestrictions?service=a", 500),
        ("/credits?service=a", 400),
    ] {
        assert_eq!(get(agent, path).await.0, expected, "{path}");
    }
    let (_, credits) = get(agent, "/credits?service=a&uuid=1&operations=x&operations=y").await;
    assert_eq!(
        credits["balances"][1],
        json!({ "operation": "y", "balance": 1.0 })
    );
    let (_, credits) = get(agent, "/credits?service=a&uuid=1&operations=z").await;
    assert_eq!(
        credits["balances"][0]["balance"], 1.0,
        "an operation that comes later starts with as much"
    );
    assert_eq!(
        get(pillion.address("jaeger.http"), "/api/sampling?service=a")
            .await
            .0,
        200
    );
    for port in ["jaeger.sampling_grpc", "jaeger.grpc"] {
        let question = grpc::frame(&jaeger_strategy::question("a"));
        let (code, message) = call(pillion.address(port), jaeger_strategy::METHOD, question).await;
        assert_eq!(code, 0, "{port}");
        assert_eq!(Answer::from_proto(&message), Ok(Answer::probabilistic(1.0)));
    }
}

#[tokio::test]
async fn captured_questions_are_answered_as_they_were_asked() {
    let (pillion, _collector) = start().await;
    let strategy = r#""strategyType":"PROBABILISTIC""#;
    let credits = r#"{"balances":[{"balance":1.0,"operation":"dbg"},{"balance":1.0,"operation":"debug-root"}]}"#;
    let questions: [(&[u8], &str); 4] = [
        (
            data!("jaeger/20-python-4.8.0-sampling-poll.head.txt"),
            strategy,
        ),
        (
            data!("jaeger/21-node-3.19.0-sampling-poll.head.txt"),
            strategy,
        ),
        (
            data!("jaeger/22-otel-js-0.222.0-sampling-poll.head.txt"),
            strategy,
        ),
        (
            data!("jaeger/23-python-4.8.0-credits-poll.head.txt"),
            credits,
        ),
    ];
    for (question, expected) in questions {
        let mut asker = TcpStream::connect(pillion.address("jaeger.sampling"))
            .await
            .unwrap();
        asker.write_all(question).await.unwrap();
        // Whoever keeps the connection asks no more.
        asker.shutdown().await.unwrap();
        let mut answer = String::new();
        asker.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
        assert!(answer.contains(expected), "{answer}");
    }
}

#[tokio::test]
async fn strategies_of_the_backend_are_passed_on_and_outlive_it() {
    // The backend is another sidecar: over gRPC, then over HTTP.
    for (port, scheme, path) in [
        ("jaeger.sampling_grpc", "grpc", ""),
        ("jaeger.sampling", "http", "/sampling"),
    ] {
        let backend = Pillion::start(json!({
            "receivers": everywhere(),
            "sampling": { "probabilistic": { "rate": 0.25 } },
        }));
        let endpoint = format!("{scheme}://{}{path}", backend.address(port));
        let pillion = Pillion::start(json!({
            "receivers": everywhere(),
            "sampling": { "remote": { "endpoint": endpoint, "timeout": "2s" } },
        }));
        let agent = pillion.address("jaeger.sampling");
        let quarter = Answer::probabilistic(0.25).to_json(Spelling::Name);
        let quarter: Value = serde_json::from_slice(&quarter).unwrap();
        let known = get(agent, "/sampling?service=known").await;
        assert_eq!(known, (200, quarter.clone()), "{scheme}");
        assert_eq!(get(agent, "/sampling?service=known").await.0, 200);
        let source = |name| format!("source=\"{name}\"");
        let family = "pillion_receiver_strategies_total";
        assert_eq!(pillion.metric(family, &[&source("backend")]).await, 1.0);
        assert_eq!(pillion.metric(family, &[&source("cached")]).await, 1.0);
        drop(backend);
        assert_eq!(get(agent, "/sampling?service=never").await.0, 500);
        assert_eq!(get(agent, "/sampling?service=known").await, (200, quarter));
    }
}
