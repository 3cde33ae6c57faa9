//! Every format beside every other in one request through a sidecar: who is followed, and that it is counted once.

use std::time::UNIX_EPOCH;

use http::HeaderMap;
use pillion::model::SamplingState;
use pillion::model::SpanContext;
use pillion::model::SpanId;
use pillion::model::TraceId;
use pillion::propagation;
use pillion::propagation::FORMATS;
use pillion::propagation::Format;
use pillion::propagation::Found;
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::support::collector::Collector;
use crate::support::collector::Reply;
use crate::support::collector::Speaks;
use crate::support::proxy::Pillion;
use crate::support::seen::in_otlp;
use crate::support::upstream::Upstream;

/// The formats that carry ids: all but W3C's baggage.
fn carriers() -> impl Iterator<Item = &'static dyn Format> {
    let all = FORMATS.iter().copied();
    all.filter(|format| !format.writes().is_empty())
}

/// Headers of this format alone for a context with these ids. SOFATracer writes B3's besides its own.
fn headers(format: &dyn Format, ids: u64) -> HeaderMap {
    let (trace_id, span_id) = (TraceId::from_halves(ids, ids), SpanId::from_u64(ids));
    let context = SpanContext::new(trace_id.unwrap(), span_id.unwrap(), SamplingState::Accept);
    let mut headers = HeaderMap::new();
    format.inject(&context, &mut headers);
    if format.name() == "sofatracer" {
        for name in propagation::format("b3multi").unwrap().writes() {
            headers.remove(*name);
        }
    }
    headers
}

fn ids(format: &dyn Format, headers: &HeaderMap) -> (String, String) {
    match format.extract(headers) {
        Ok(Some(Found::Parent(context))) => {
            (context.trace_id.to_string(), context.span_id.to_string())
        }
        other => panic!("{}: {other:?}", format.name()),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_configured_winner_is_followed_and_one_conflict_counted() {
    let app = Upstream::start().await;
    let mut n_requests = 0;
    for first in carriers() {
        let collector = Collector::start(Speaks::Http1, vec![], Reply::Accept).await;
        let others = carriers().filter(|other| other.name() != first.name());
        let others: Vec<_> = others.collect();
        let mut order = vec![first.name()];
        order.extend(others.iter().map(|other| other.name()));
        let pillion = Pillion::inbound_to(
            ([127, 0, 0, 1], app.port).into(),
            json!({
                "propagation": { "extract": order },
                "sampling": { "constant": { "decision": true } },
                "reporters": [{ "otlp": { "endpoint": collector.url() } }],
                "shutdown": { "drain_timeout": "100ms", "flush_timeout": "10s" },
            }),
        );
        let followed = headers(first, 7);
        for (before, other) in others.iter().enumerate() {
            let mut both = followed.clone();
            both.extend(headers(*other, 9));
            request(&pillion, &both).await;
            n_requests += 1;
            let conflicts = pillion
                .metric("pillion_propagation_conflicts_total", &[])
                .await;
            let pair = format!("{} before {}", first.name(), other.name());
            assert_eq!(conflicts, before as f64 + 1.0, "{pair}");
        }
        let name = format!("\"{}\"", first.name());
        let found = pillion
            .metric("pillion_propagation_extract_total", &[&name, "\"found\""])
            .await;
        assert_eq!(found, others.len() as f64, "{name}");
        request(&pillion, &followed).await;
        let conflicts = pillion
            .metric("pillion_propagation_conflicts_total", &[])
            .await;
        assert_eq!(
            conflicts,
            others.len() as f64,
            "{name} alone is no conflict"
        );
        tokio::task::block_in_place(|| drop(pillion));
        let spans = in_otlp(&collector);
        assert_eq!(spans.len(), others.len() + 1, "{name}");
        for span in spans {
            assert_eq!(
                (span.trace_id, span.parent_id),
                ids(first, &followed),
                "{name}"
            );
        }
    }
    assert_eq!(n_requests, carriers().count() * (carriers().count() - 1));
}

/// X-Ray's servers took no other ids for years.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn traces_that_may_come_to_xray_begin_with_the_time() {
    let app = Upstream::start().await;
    let xray = json!({ "xray": { "endpoint": "127.0.0.1:9" } });
    for (settings, expected) in [
        (json!({}), false),
        (
            json!({ "propagation": { "inject": ["tracecontext", "xray"] } }),
            true,
        ),
        (json!({ "reporters": [xray] }), true),
        (
            json!({ "reporters": [{ "failover": { "members": [{ "log": {} }, xray] } }] }),
            true,
        ),
    ] {
        let mut all = json!({ "sampling": { "constant": { "decision": true } } });
        for (key, value) in settings.as_object().unwrap() {
            all[key] = value.clone();
        }
        let pillion = Pillion::inbound_to(([127, 0, 0, 1], app.port).into(), all);
        let before = UNIX_EPOCH.elapsed().unwrap().as_secs();
        request(&pillion, &HeaderMap::new()).await;
        let after = UNIX_EPOCH.elapsed().unwrap().as_secs();
        let head = app.heads().pop().unwrap();
        let id = head
            .lines()
            .find_map(|line| line.strip_prefix("traceparent: 00-"));
        let seconds = u64::from_str_radix(&id.unwrap()[..8], 16).unwrap();
        let is_dated = (before..=after).contains(&seconds);
        assert_eq!(is_dated, expected, "{settings}: {head}");
        if head.contains("x-amzn-trace-id") {
            assert!(head.contains(&format!("Root=1-{seconds:08x}-")), "{head}");
        }
    }
}

async fn request(pillion: &Pillion, headers: &HeaderMap) {
    let mut conn = TcpStream::connect(pillion.inbound()).await.unwrap();
    let mut head = b"GET / HTTP/1.1\r\nhost: app\r\nconnection: close\r\n".to_vec();
    for (name, value) in headers {
        head.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    head.extend(b"\r\n");
    conn.write_all(&head).await.unwrap();
    let mut answer = String::new();
    conn.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}
