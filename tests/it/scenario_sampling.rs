//! Remote sampling end to end: a sidecar process follows the strategies file of a real Jaeger v2, operation by operation.

use std::collections::BTreeMap;
use std::time::Duration;
use std::time::Instant;

use serde_json::Value;
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::support::apps::Sidecar;
use crate::support::collector::Collector;
use crate::support::collector::Reply;
use crate::support::collector::Speaks;
use crate::support::echo::Echo;
use crate::support::http;
use crate::support::jaeger::Jaeger;
use crate::support::jaeger::Sampling;
use crate::support::otlp;

const SERVICE: &str = "shop";
const LIMIT: Duration = Duration::from_secs(30);
/// Connections over which requests go, one after the other on each.
const CONNECTIONS: usize = 4;

/// Strategies for these operations, 0.5 for the rest.
fn strategies(operations: &[(&str, f64)]) -> Value {
    let operations: Vec<Value> = operations
        .iter()
        .map(|(name, rate)| json!({ "operation": name, "type": "probabilistic", "param": rate }))
        .collect();
    json!({ "service_strategies": [{
        "service": SERVICE, "type": "probabilistic", "param": 0.5, "operation_strategies": operations,
    }]})
}

/// Sends so many requests for `path`; all must be answered with 200.
async fn send(port: u16, path: &str, requests: usize) {
    let mut lanes = tokio::task::JoinSet::new();
    for lane in 0..CONNECTIONS {
        let n = requests / CONNECTIONS + usize::from(lane < requests % CONNECTIONS);
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
        lanes.spawn(async move {
            let mut conn = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            let mut buffer = [0; 4096];
            for _ in 0..n {
                conn.write_all(request.as_bytes()).await.unwrap();
                let mut filled = 0;
                while !is_whole(&buffer[..filled]) {
                    let read = conn.read(&mut buffer[filled..]).await.unwrap();
                    assert!(read > 0, "closed in the middle of an answer");
                    filled += read;
                }
                assert!(buffer.starts_with(b"HTTP/1.1 200"));
            }
        });
    }
    lanes.join_all().await;
}

/// True when the answer of known length is complete.
fn is_whole(answer: &[u8]) -> bool {
    let text = String::from_utf8_lossy(answer);
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return false;
    };
    let length = head
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .map(|(_, value)| value.trim().parse::<usize>().unwrap());
    length.is_some_and(|length| body.len() >= length)
}

/// Spans of each name at the collector, once the sidecar has exported everything.
async fn sampled(sidecar: &Sidecar, collector: &Collector) -> BTreeMap<String, usize> {
    sidecar.accounted_for("otlp").await;
    let mut by_name = BTreeMap::new();
    for span in otlp::spans(collector) {
        *by_name.entry(span.name).or_default() += 1;
    }
    by_name
}

/// Waits until the sidecar has asked again, after this call, and been answered.
async fn one_poll(sidecar: &Sidecar) {
    let asked = async || {
        let state = http::get(sidecar.admin, "/sampling").await.unwrap().json();
        state["remote"]["queries_ok"]
            .as_u64()
            .unwrap_or_else(|| panic!("{state}"))
    };
    let before = asked().await;
    let deadline = Instant::now() + LIMIT;
    // One that was under way may carry the old answer.
    while asked().await < before + 2 {
        assert!(Instant::now() < deadline, "asks no more");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Five standard deviations around what a probability gives.
fn assert_binomial(sampled: usize, requests: usize, probability: f64, what: &str) {
    let mean = requests as f64 * probability;
    let allowed = 5.0 * (mean * (1.0 - probability)).sqrt();
    let off = (sampled as f64 - mean).abs();
    assert!(
        off <= allowed,
        "{what}: {sampled} of {requests} at {probability}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rates_follow_the_file_per_operation_and_outlive_the_backend() {
    let (cart, pay, home) = ("GET /cart/{id}", "GET /pay", "GET");
    let first = strategies(&[(cart, 0.3), (pay, 0.02)]);
    let Some(mut jaeger) = Jaeger::start(Sampling::File(first)).await else {
        return;
    };
    let collector = Collector::start(Speaks::Http1, Vec::new(), Reply::Accept).await;
    let echo = Echo::start().await;
    let settings = json!({
        "reporters": [{ "otlp": {
            "endpoint": collector.url(), "queue": { "flush_interval": "20ms", "capacity": 20_000 },
        } }],
        "sampling": { "remote": { "endpoint": jaeger.sampling_url(), "poll_interval": "300ms", "timeout": "2s" } },
        "spans": { "routes": ["/cart/{id}", "/pay"] },
    });
    let sidecar = Sidecar::beside(SERVICE, echo.port, &settings);
    one_poll(&sidecar).await;

    for (path, requests) in [("/cart/7", 5_000), ("/pay", 3_000), ("/", 2_000)] {
        send(sidecar.inbound, path, requests).await;
    }
    let counts = sampled(&sidecar, &collector).await;
    let count = |name: &str| counts.get(name).copied().unwrap_or(0);
    assert_binomial(count(cart), 5_000, 0.3, cart);
    assert_binomial(count(pay), 3_000, 0.02, pay);
    assert_binomial(count(home), 2_000, 0.5, "without a strategy of its own");
    for span in otlp::spans(&collector)
        .iter()
        .filter(|span| span.name == pay)
    {
        assert_eq!(
            (
                span.attribute("sampler.type"),
                span.attribute("sampler.param")
            ),
            ("probabilistic", "0.02")
        );
    }

    // The file changes: from the next poll on the new rates hold.
    let old = jaeger.strategy(SERVICE).await;
    jaeger.write_strategies(&strategies(&[(cart, 0.0), (pay, 1.0)]));
    jaeger.wait_for_strategy(SERVICE, |now| *now != old).await;
    one_poll(&sidecar).await;
    for (path, requests) in [("/cart/7", 500), ("/pay", 500)] {
        send(sidecar.inbound, path, requests).await;
    }
    let after = sampled(&sidecar, &collector).await;
    assert_eq!(after.get(cart), counts.get(cart), "0 means none");
    assert_eq!(after[pay], count(pay) + 500, "1 means all");

    // The backend dies: traffic and the last strategy go on.
    jaeger.kill();
    let failed = async || {
        let state = http::get(sidecar.admin, "/sampling").await.unwrap().json();
        state["remote"]["queries_failed"].as_u64().unwrap_or(0)
    };
    let deadline = Instant::now() + LIMIT;
    while failed().await < 2 {
        assert!(Instant::now() < deadline, "the end is not noticed");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for (path, requests) in [("/cart/7", 200), ("/pay", 200)] {
        send(sidecar.inbound, path, requests).await;
    }
    let last = sampled(&sidecar, &collector).await;
    assert_eq!(last.get(cart), counts.get(cart));
    assert_eq!(last[pay], count(pay) + 700);
    assert_eq!(echo.requests(), 10_000 + 1_000 + 400);
}
