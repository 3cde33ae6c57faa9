//! Bad input, from callers and from upstreams: a clear answer or a closed connection, nothing smuggled, memory bounded,
//! and the next request served.

mod http1;
mod http2;
mod upstream;

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use serde_json::json;

use crate::support::pillion::Pillion;
use crate::support::raw::Missing;
use crate::support::raw::Peer;
use crate::support::raw::Recorder;
use crate::support::raw::find;
use crate::support::raw::show;

/// Issue 2, bar 5.
const HTTP1_INPUTS: usize = 60;
const HTTP2_INPUTS: usize = 15;

/// What a request that hides in another one asks for. It must never arrive.
const SMUGGLED: &[u8] = b"/smuggled";

/// All inputs together may cost a process this much memory.
const MEMORY_BOUND: usize = 8 << 20;

/// Short waits and small limits.
fn settings() -> Value {
    json!({
        "timeouts": { "detect": "400ms", "head": "400ms", "idle": "1s" },
        "limits": { "head_size": "16KiB", "headers": 100, "body_size": "200KiB" },
    })
}

/// The status of a response, 0 when there is none.
fn status_of(answer: &[u8]) -> u16 {
    let line = answer
        .strip_prefix(b"HTTP/1.1 ")
        .or_else(|| answer.strip_prefix(b"HTTP/1.0 "));
    line.and_then(|line| std::str::from_utf8(line.get(..3)?).ok()?.parse().ok())
        .unwrap_or_default()
}

/// A well-formed request on a new connection is served.
async fn next_is_served(to: SocketAddr) -> Result<(), String> {
    let mut caller = Peer::connect(to).await;
    caller
        .send(b"GET /next HTTP/1.1\r\nHost: app\r\nConnection: close\r\n\r\n")
        .await;
    match caller.rest().await {
        Ok(answer) if status_of(&answer) == 200 => Ok(()),
        Ok(answer) => Err(format!("the next request got {}", show(&answer))),
        Err(Missing(why)) => Err(format!("the next request: {why}")),
    }
}

fn check_nothing_smuggled(upstream: &Recorder) -> Result<(), String> {
    let seen = upstream.all();
    match find(&seen, SMUGGLED) {
        None => Ok(()),
        Some(_) => Err(format!("smuggled: the upstream saw {}", show(&seen))),
    }
}

/// Waits until a condition holds.
async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..200 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("never: {what}");
}

#[tokio::test]
async fn memory_stays_bounded_whatever_comes() {
    let upstream = Recorder::friendly().await;
    let mut config = settings();
    config["app"] = json!(upstream.addr.to_string());
    config["inbound"] = json!({ "listen": "127.0.0.1:0", "app_protocol": "http1" });
    config["outbound"] = json!({ "enabled": false });
    config["admin"] = json!({ "listen": "" });
    config["view"] = json!({ "enabled": false });
    config["limits"]["idle_per_destination"] = json!(0);
    // Loading the kernel's types takes tens of megabytes for a moment, before or after the first look at the memory.
    config["linking"] = json!({ "kernel": "off" });
    // JSON is YAML.
    let process = Pillion::run(&config.to_string());
    let to = SocketAddr::from(([127, 0, 0, 1], process.port("inbound")));
    next_is_served(to).await.unwrap();
    let before = process.memory();
    assert!(before > 0, "the system does not say");
    let mut failures = http1::run_all(to, &upstream, false).await;
    failures.extend(http2::run_all(to, &upstream).await);
    failures.extend(upstream::run_all(to, &upstream).await);
    let grown = process.memory().saturating_sub(before);
    println!(
        "{} KiB before, {} KiB more after",
        before >> 10,
        grown >> 10
    );
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(grown < MEMORY_BOUND, "{grown} bytes more memory");
}

#[test]
fn there_are_enough_inputs() {
    let (first, second) = (http1::count() + upstream::count(), http2::count());
    println!("{first} over HTTP/1, {second} over HTTP/2");
    assert!(http1::count() >= HTTP1_INPUTS, "{}", http1::count());
    assert!(second >= HTTP2_INPUTS, "{second}");
}
