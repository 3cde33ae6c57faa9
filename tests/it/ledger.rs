//! The ledger through a whole proxy: `started = unsampled + open + exported + dropped + queued` at every scrape,
//! whatever the collectors do, and not one request that is served differently for it.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use serde_json::json;
use tokio::io::AsyncBufReadExt;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::io::BufReader;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::support::collector::Collector;
use crate::support::collector::Reply;
use crate::support::collector::Speaks;
use crate::support::proxy::Pillion;

const REQUESTS: usize = 400;
const DEADLINE: Duration = Duration::from_secs(20);
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// What a scrape says about one reporter and the spans before it.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Books {
    started: f64,
    unsampled: f64,
    open: f64,
    exported: f64,
    dropped: f64,
    queued: f64,
}

impl Books {
    /// All numbers from one text: two scrapes would be two moments.
    fn read(text: &str, reporter: &str) -> Self {
        let sum = |name: &str, label: &str| -> f64 {
            text.lines()
                .filter(|line| {
                    line.strip_prefix(name)
                        .is_some_and(|rest| rest.starts_with(['{', ' ']))
                        && line.contains(label)
                })
                .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
                .sum()
        };
        let of = format!("reporter=\"{reporter}\"");
        Self {
            started: sum("pillion_spans_started_total", ""),
            unsampled: sum("pillion_spans_unsampled_total", ""),
            open: sum("pillion_spans_active", ""),
            exported: sum("pillion_reporter_spans_exported_total", &of),
            dropped: sum("pillion_reporter_spans_dropped_total", &of),
            queued: sum("pillion_reporter_queue_spans", &of),
        }
    }

    fn assert_balanced(self) {
        let sum = self.unsampled + self.open + self.exported + self.dropped + self.queued;
        assert_eq!(self.started, sum, "{self:?}");
    }
}

/// A program that answers every request with `ok`.
async fn program() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut stream = BufReader::new(stream);
                let mut line = String::new();
                while stream.read_line(&mut line).await.is_ok_and(|n| n > 0) {
                    if line == "\r\n" {
                        stream.write_all(ANSWER).await.unwrap();
                    }
                    line.clear();
                }
            });
        }
    });
    addr
}

/// Sends requests over one kept connection, each answered whole before the next.
async fn traffic(proxy: SocketAddr, count: usize) {
    let mut stream = TcpStream::connect(proxy).await.unwrap();
    let mut answer = vec![0; ANSWER.len()];
    for _ in 0..count {
        stream
            .write_all(b"GET /x HTTP/1.1\r\nhost: app\r\n\r\n")
            .await
            .unwrap();
        let read = tokio::time::timeout(DEADLINE, stream.read_exact(&mut answer)).await;
        read.expect("a request hangs").unwrap();
        assert_eq!(answer, ANSWER);
    }
}

/// Four callers at once, with a scrape after every bit of traffic.
async fn traffic_and_scrapes(pillion: &Pillion) {
    let callers: Vec<_> = (0..4)
        .map(|_| tokio::spawn(traffic(pillion.inbound(), REQUESTS / 4)))
        .collect();
    while !callers.iter().all(tokio::task::JoinHandle::is_finished) {
        Books::read(&pillion.metrics().await, "otlp").assert_balanced();
    }
    for caller in callers {
        caller.await.unwrap();
    }
}

/// Waits until nothing is open or queued, scraping all the while.
async fn settled(pillion: &Pillion) -> Books {
    let start = Instant::now();
    loop {
        let books = Books::read(&pillion.metrics().await, "otlp");
        books.assert_balanced();
        if books.open + books.queued == 0.0 && books.started > 0.0 {
            return books;
        }
        assert!(start.elapsed() < DEADLINE, "never settled: {books:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn settings(endpoint: &str, sampling: Value) -> Value {
    json!({
        "sampling": sampling,
        "reporters": [{ "otlp": {
            "endpoint": endpoint,
            "timeout": "300ms",
            "queue": { "batch": 50, "flush_interval": "50ms" },
            "retry": { "initial": "20ms", "max": "100ms", "max_elapsed": "600ms" },
        } }],
    })
}

fn status(code: u16) -> Reply {
    Reply::Status(code, vec![], "no")
}

fn everything() -> Value {
    json!({ "constant": { "decision": true } })
}

#[tokio::test]
async fn a_healthy_collector_gets_every_span() {
    let collector = Collector::start(Speaks::Http1, vec![], Reply::Accept).await;
    let pillion = Pillion::inbound_to(program().await, settings(&collector.url(), everything()));
    traffic_and_scrapes(&pillion).await;
    let books = settled(&pillion).await;
    assert_eq!(books.exported, REQUESTS as f64);
    let received: usize = collector.otlp_batches().iter().map(Vec::len).sum();
    assert_eq!(received, REQUESTS);
}

#[tokio::test]
async fn what_is_not_sampled_is_counted_and_nothing_else_happens_to_it() {
    let collector = Collector::start(Speaks::Http1, vec![], Reply::Accept).await;
    let half = json!({ "probabilistic": { "rate": 0.5 } });
    let pillion = Pillion::inbound_to(program().await, settings(&collector.url(), half));
    traffic_and_scrapes(&pillion).await;
    let books = settled(&pillion).await;
    assert_eq!(books.started, REQUESTS as f64);
    assert!(books.unsampled > 0.0 && books.exported > 0.0, "{books:?}");
    let received: usize = collector.otlp_batches().iter().map(Vec::len).sum();
    assert_eq!(received as f64, books.exported);
}

#[tokio::test]
async fn collectors_in_trouble_cost_spans_that_are_counted_and_no_request() {
    for (reply, what) in [
        (Reply::Hang, "hangs"),
        (Reply::Reset, "resets"),
        (status(503), "is overloaded"),
        (status(429), "throttles"),
        (status(400), "refuses"),
    ] {
        let collector = Collector::start(Speaks::Http1, vec![], reply).await;
        let pillion =
            Pillion::inbound_to(program().await, settings(&collector.url(), everything()));
        traffic_and_scrapes(&pillion).await;
        let books = settled(&pillion).await;
        assert_eq!(books.dropped, REQUESTS as f64, "the collector {what}");
    }
}

#[tokio::test]
async fn partial_success_counts_both_sides() {
    let collector = Collector::start(Speaks::Http1, vec![], Reply::Partial(3)).await;
    let pillion = Pillion::inbound_to(program().await, settings(&collector.url(), everything()));
    traffic_and_scrapes(&pillion).await;
    let books = settled(&pillion).await;
    // A batch may be smaller than what the collector says it refused.
    let batches = collector.otlp_batches();
    let refused: usize = batches.iter().map(|batch| batch.len().min(3)).sum();
    assert_eq!(books.dropped, refused as f64);
    assert_eq!(books.exported, (REQUESTS - refused) as f64);
}

#[tokio::test]
async fn a_collector_that_nobody_runs_costs_no_request() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let pillion = Pillion::inbound_to(program().await, settings(&endpoint, everything()));
    traffic_and_scrapes(&pillion).await;
    let books = settled(&pillion).await;
    assert_eq!(books.dropped, REQUESTS as f64);
}

#[tokio::test]
async fn a_collector_that_recovers_gets_what_waited() {
    let trouble = vec![status(503), Reply::Reset, status(503)];
    let collector = Collector::start(Speaks::Http1, trouble, Reply::Accept).await;
    let mut all = settings(&collector.url(), everything());
    all["reporters"][0]["otlp"]["retry"]["max_elapsed"] = json!("20s");
    let pillion = Pillion::inbound_to(program().await, all);
    traffic_and_scrapes(&pillion).await;
    let books = settled(&pillion).await;
    assert_eq!(books.exported, REQUESTS as f64, "{books:?}");
}
