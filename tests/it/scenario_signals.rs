//! SIGTERM right after a response, again and again: the span of that response is never lost.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use serde_json::Value;
use serde_json::json;

use crate::support::collector::Collector;
use crate::support::collector::Reply;
use crate::support::collector::Speaks;
use crate::support::http;
use crate::support::otlp;
use crate::support::pillion::Pillion;
use crate::support::upstream::Upstream;

/// Runs of each test, this many at a time.
const RUNS: usize = 100;
const AT_ONCE: usize = 4;

/// Starts a proxy, sends a request and ends the proxy as soon as the answer is there; the log it leaves.
async fn one_run(upstream: u16, reporter: &Value) -> Pillion {
    let config = json!({
        "app": format!("127.0.0.1:{upstream}"),
        "inbound": { "listen": "127.0.0.1:0" },
        "outbound": { "enabled": false },
        "admin": { "listen": "" },
        "workers": 2,
        "reporters": [reporter],
        "sampling": { "constant": { "decision": true } },
    });
    let started = tokio::task::spawn_blocking(move || {
        let process = Pillion::run(&config.to_string());
        let port = process.port("inbound");
        (process, port)
    });
    let (mut process, port) = started.await.unwrap();
    let answer = http::get(port, "/last").await.unwrap();
    process.signal(rustix::process::Signal::TERM);
    assert_eq!(answer.status, 200);
    let ended = tokio::task::spawn_blocking(move || {
        let status = process.wait();
        assert!(status.success(), "{status}\n{}", process.stderr());
        process
    });
    ended.await.unwrap()
}

/// Does `RUNS` runs and gives the log of each to `check`.
async fn runs(upstream: u16, reporter: Value, check: impl Fn(&Pillion) + Send + Sync + 'static) {
    let (left, check) = (Arc::new(AtomicUsize::new(RUNS)), Arc::new(check));
    let mut lanes = tokio::task::JoinSet::new();
    for _ in 0..AT_ONCE {
        let (left, check, reporter) = (left.clone(), check.clone(), reporter.clone());
        lanes.spawn(async move {
            let take =
                || left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
            while take().is_ok() {
                check(&one_run(upstream, &reporter).await);
            }
        });
    }
    lanes.join_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_span_is_lost_on_its_way_to_the_log() {
    let upstream = Upstream::start().await;
    runs(upstream.port, json!({ "log": {} }), |process| {
        let lines = process.stdout();
        let spans: Vec<Value> = lines
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(spans.len(), 1, "{lines}\n{}", process.stderr());
        assert!(lines.contains("/last"), "{lines}");
    })
    .await;
    assert_eq!(upstream.heads().len(), RUNS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_span_is_lost_on_its_way_to_a_collector() {
    let upstream = Upstream::start().await;
    let collector = Collector::start(Speaks::Http1, Vec::new(), Reply::Accept).await;
    let reporter = json!({ "otlp": { "endpoint": collector.url() } });
    runs(upstream.port, reporter, |_| ()).await;
    let mut ids: Vec<String> = otlp::spans(&collector)
        .into_iter()
        .map(|span| span.span_id)
        .collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), RUNS, "one span for each response");
}

#[test]
fn sigterm_right_after_the_first_listener_opened_is_a_clean_end() {
    for run in 0..20 {
        let args = [
            "run",
            "--app=127.0.0.1:9",
            "--inbound=127.0.0.1:0",
            "--outbound=127.0.0.1:0",
        ];
        let more = ["--admin=127.0.0.1:0", "--log-format=json"];
        let mut process = Pillion::start(&[&args[..], &more].concat());
        process.port("inbound");
        process.signal(rustix::process::Signal::TERM);
        let status = process.wait();
        assert!(
            status.success(),
            "run {run}: {status}\n{}",
            process.stderr()
        );
    }
}
