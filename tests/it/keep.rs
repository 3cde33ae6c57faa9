//! Requests of traces that are not sampled: those that fail or take long are reported, up to the limit, and whom they
//! reach is told "not sampled" all the same.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;
use std::time::Instant;

use serde_json::Value;
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::net::TcpStream;

use crate::support::collector::Collector;
use crate::support::collector::Down;
use crate::support::http;
use crate::support::otlp;
use crate::support::otlp::Span;
use crate::support::proxy::Pillion;

const LIMIT: Duration = Duration::from_secs(20);

/// A program that answers after its path: `/fail` with 503, `/slow` late, `/relay` with what a call through the proxy says.
#[derive(Clone, Default)]
struct App {
    heads: Arc<Mutex<Vec<String>>>,
    proxy: Arc<Mutex<Option<SocketAddr>>>,
}

impl App {
    async fn start(&self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let app = self.clone();
        tokio::spawn(async move {
            while let Ok((conn, _)) = listener.accept().await {
                tokio::spawn(app.clone().serve(conn));
            }
        });
        addr
    }

    async fn serve(self, mut conn: TcpStream) {
        let mut buffer = vec![0; 8192];
        while let Ok(read @ 1..) = conn.read(&mut buffer).await {
            let head = String::from_utf8_lossy(&buffer[..read]).into_owned();
            self.heads.lock().unwrap().push(head.clone());
            let status = match head.split(' ').nth(1).unwrap() {
                "/fail" => 503,
                "/slow" => {
                    tokio::time::sleep(Duration::from_millis(300)).await;
                    200
                }
                "/relay" => self.relay(&head).await,
                _ => 200,
            };
            let answer = format!("HTTP/1.1 {status} x\r\ncontent-length: 2\r\n\r\nok");
            conn.write_all(answer.as_bytes()).await.unwrap();
        }
    }

    /// Calls somebody who is not there, with the trace headers passed on.
    async fn relay(&self, head: &str) -> u16 {
        let proxy = self.proxy.lock().unwrap().unwrap();
        let gone = Down::new();
        let traceparent = head.lines().find(|line| line.starts_with("traceparent"));
        let request = format!(
            "GET http://{}/x HTTP/1.0\r\nhost: {}\r\n{}\r\n\r\n",
            gone.addr,
            gone.addr,
            traceparent.unwrap()
        );
        let mut conn = TcpStream::connect(proxy).await.unwrap();
        conn.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        conn.read_to_end(&mut answer).await.unwrap();
        assert!(answer.starts_with(b"HTTP/1.0 502") || answer.starts_with(b"HTTP/1.1 502"));
        500
    }
}

fn settings(collector: &Collector, keep: Value) -> Value {
    json!({
        "sampling": { "constant": { "decision": false } },
        "spans": { "keep": keep, "routes": ["/{what}"] },
        "reporters": [{ "otlp": {
            "endpoint": collector.url(),
            "queue": { "flush_interval": "20ms" },
        } }],
    })
}

async fn sum(pillion: &Pillion, name: &str) -> f64 {
    pillion.metric(name, &[]).await
}

/// The spans that arrived, once as many as were started are accounted for.
async fn settled(pillion: &Pillion, collector: &Collector, started: f64) -> Vec<Span> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let gone = sum(pillion, "pillion_spans_unsampled_total").await
            + sum(pillion, "pillion_reporter_spans_exported_total").await;
        if gone == started {
            break;
        }
        assert!(Instant::now() < deadline, "{gone} of {started}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(sum(pillion, "pillion_spans_started_total").await, started);
    assert_eq!(sum(pillion, "pillion_spans_active").await, 0.0);
    otlp::spans(collector)
}

#[tokio::test]
async fn what_fails_or_takes_long_is_kept_and_nobody_is_told() {
    let collector = Down::new().up(vec![]);
    let app = App::default();
    let keep = json!({ "errors": true, "slower_than": "200ms" });
    let pillion = Pillion::inbound_to(app.start().await, settings(&collector, keep));
    for path in ["/fine", "/fail", "/fine", "/slow", "/fine"] {
        http::get(pillion.inbound().port(), path).await.unwrap();
    }
    let spans = settled(&pillion, &collector, 5.0).await;
    let kept: Vec<_> = spans
        .iter()
        .map(|span| {
            let why = span.attribute("pillion.sampling.kept");
            (why, span.attribute("url.path"))
        })
        .collect();
    let expected = [("error", "/fail"), ("slow", "/slow")];
    assert_eq!(kept, expected);
    let failed = &spans[0];
    assert_eq!(failed.name, "GET /{what}");
    for (key, value) in [
        ("http.request.method", "GET"),
        ("http.response.status_code", "503"),
        ("http.route", "/{what}"),
        ("error.type", "503"),
        ("pillion.response.origin", "upstream"),
        ("http.response.body.size", "2"),
        ("client.address", "127.0.0.1"),
        ("server.address", "localhost"),
    ] {
        assert_eq!(failed.attribute(key), value, "{key}");
    }
    for head in app.heads.lock().unwrap().iter() {
        let line = head.lines().find(|line| line.starts_with("traceparent"));
        assert!(
            line.unwrap().ends_with("-02"),
            "random, not sampled: {head}"
        );
    }
    let kept = pillion
        .metric("pillion_spans_kept_total", &["reason=\"error\""])
        .await;
    assert_eq!(kept, 1.0);
}

#[tokio::test]
async fn a_failed_call_hangs_below_the_failed_request_that_made_it() {
    let collector = Down::new().up(vec![]);
    let app = App::default();
    let keep = json!({ "errors": true });
    let pillion = Pillion::inbound_to(app.start().await, settings(&collector, keep));
    *app.proxy.lock().unwrap() = Some(pillion.outbound());
    let answer = http::get(pillion.inbound().port(), "/relay").await;
    assert_eq!(answer.unwrap().status, 500);
    let spans = settled(&pillion, &collector, 2.0).await;
    let (call, request) = (&spans[0], &spans[1]);
    assert_eq!(call.parent_id, request.span_id);
    assert_eq!(call.trace_id, request.trace_id);
    assert_eq!(call.attribute("pillion.link.method"), "forwarded");
    assert_eq!(call.attribute("error.type"), "connection_refused");
    assert_eq!(call.attribute("pillion.response.origin"), "pillion");
    assert!(call.attribute("url.full").starts_with("http://127.0.0.1:"));
    assert_eq!(request.attribute("http.response.status_code"), "500");
}

#[tokio::test]
async fn no_more_are_kept_than_the_limit_says() {
    let collector = Down::new().up(vec![]);
    let keep = json!({ "errors": true, "per_second": 0.001, "burst": 3 });
    let app = App::default().start().await;
    let pillion = Pillion::inbound_to(app, settings(&collector, keep));
    for _ in 0..10 {
        http::get(pillion.inbound().port(), "/fail").await.unwrap();
    }
    assert_eq!(settled(&pillion, &collector, 10.0).await.len(), 3);
    let limited = sum(&pillion, "pillion_spans_keep_limited_total").await;
    assert_eq!(limited, 7.0);
}
