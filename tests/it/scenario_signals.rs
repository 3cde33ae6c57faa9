//! SIGTERM right after a response, again and again: the span of that response is never lost. And with tunnels open.

use std::io::Read;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use rustix::process::Signal;
use serde_json::Value;
use serde_json::json;

use crate::support::collector::Collector;
use crate::support::collector::Reply;
use crate::support::collector::Speaks;
use crate::support::http;
use crate::support::otlp;
use crate::support::pillion::LIMIT;
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

/// A tunnel to an address through the proxy, with its 200 read.
fn tunnel(proxy: u16, to: SocketAddr) -> TcpStream {
    let mut tunnel = TcpStream::connect(("127.0.0.1", proxy)).unwrap();
    tunnel.set_read_timeout(Some(LIMIT)).unwrap();
    write!(tunnel, "CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\n").unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        tunnel.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    assert!(head.starts_with(b"HTTP/1.1 200"));
    tunnel
}

#[test]
fn a_silent_tunnel_does_not_hold_the_end_up_and_a_busy_one_goes_on() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let echo = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for conn in listener.incoming() {
            let conn = conn.unwrap();
            std::thread::spawn(move || std::io::copy(&mut &conn, &mut &conn));
        }
    });
    let config = json!({
        "outbound": { "listen": "127.0.0.1:0" },
        "admin": { "listen": "127.0.0.1:0" },
        "timeouts": { "tunnel_drain": "400ms" },
        // Longer than the wait for the end.
        "shutdown": { "drain_timeout": "2m" },
        "reporters": [{ "log": {} }],
        "sampling": { "constant": { "decision": true } },
    });
    let mut process = Pillion::run(&config.to_string());
    let proxy = process.port("outbound");
    let (mut silent, mut busy) = (tunnel(proxy, echo), tunnel(proxy, echo));
    process.signal(Signal::TERM);
    let started = Instant::now();
    let mut byte = [0];
    while started.elapsed() < Duration::from_secs(2) {
        busy.write_all(b"x").unwrap();
        busy.read_exact(&mut byte).unwrap();
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(
        silent.read(&mut byte).unwrap(),
        0,
        "closed in an orderly way"
    );
    assert!(process.wait().success(), "{}", process.stderr());
    let spans = process.stdout();
    assert_eq!(spans.lines().count(), 2, "{spans}");
    assert!(!spans.contains("error.type"), "{spans}");
}
