//! Callers that break HTTP/1.

mod inputs;

use std::net::SocketAddr;

use super::check_nothing_smuggled;
use super::eventually;
use super::next_is_served;
use super::settings;
use super::status_of;
use crate::support::proxy::Pillion;
use crate::support::raw::Missing;
use crate::support::raw::Peer;
use crate::support::raw::Recorder;
use crate::support::raw::find;
use crate::support::raw::show;
use inputs::AFTER;
use inputs::Gets;
use inputs::Input;
use inputs::Sees;
use inputs::inputs;

pub(super) fn count() -> usize {
    inputs().len() + SLOW.len()
}

async fn run(
    input: &Input,
    in_pieces: bool,
    to: SocketAddr,
    upstream: &Recorder,
) -> Result<(), String> {
    upstream.restart(|_, peer| crate::support::raw::friendly(peer));
    let mut caller = Peer::connect(to).await;
    if in_pieces {
        caller.send_in_pieces(&input.bytes, 7).await;
    } else {
        caller.send(&input.bytes).await;
    }
    caller.half_close().await;
    let answer = caller.rest().await.map_err(|Missing(why)| why)?;
    match input.gets {
        Gets::Closed if answer.is_empty() => {}
        Gets::Status(status) if status_of(&answer) == status => {
            if find(&answer, b"\r\n\r\npillion: ").is_none() {
                return Err(format!("no text of ours: {}", show(&answer)));
            }
            if find(&answer[9..], b"HTTP/1.1 ").is_some() {
                return Err(format!("more than one answer: {}", show(&answer)));
            }
        }
        expected => return Err(format!("expected {expected:?}, got {}", show(&answer))),
    }
    check_nothing_smuggled(upstream)?;
    let seen = upstream.all();
    let whole = crate::support::raw::message_length(&seen, 0);
    match input.sees {
        Sees::Nothing if !seen.is_empty() => Err(format!("the upstream saw {}", show(&seen))),
        Sees::Part if whole.is_some() => Err(format!("the upstream saw all of {}", show(&seen))),
        _ => next_is_served(to).await,
    }
}

/// Every input once; what failed.
pub(super) async fn run_all(to: SocketAddr, upstream: &Recorder, in_pieces: bool) -> Vec<String> {
    let mut failures = Vec::new();
    for input in inputs() {
        if in_pieces && input.bytes.len() > 3000 {
            continue;
        }
        if let Err(why) = run(&input, in_pieces, to, upstream).await {
            failures.push(format!("{}: {why}", input.name));
        }
    }
    failures
}

async fn check_all(in_pieces: bool) {
    let upstream = Recorder::friendly().await;
    let mut settings = settings();
    if in_pieces {
        // Byte by byte, a busy machine takes longer over a head than an ordinary caller may.
        settings["timeouts"]["head"] = "10s".into();
    }
    let proxy = Pillion::inbound_to(upstream.addr, settings);
    let failures = run_all(proxy.inbound(), &upstream, in_pieces).await;
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    let refused = proxy.metric("pillion_rejections_total", &[]).await;
    assert!(refused > 0.0, "refusals are counted");
}

#[tokio::test]
async fn bad_requests_are_refused_and_nothing_is_smuggled() {
    check_all(false).await;
}

#[tokio::test]
async fn bad_requests_are_refused_wherever_they_are_cut() {
    check_all(true).await;
}

/// Bytes, then silence.
const SLOW: &[(&str, &str, Gets)] = &[
    ("silence", "", Gets::Closed),
    ("silence in the method", "GE", Gets::Status(408)),
    ("silence in the request line", "GET / HT", Gets::Status(408)),
    (
        "silence in the head",
        "GET / HTTP/1.1\r\nHost: a",
        Gets::Status(408),
    ),
    (
        "silence before the end of the head",
        "GET / HTTP/1.1\r\nHost: a\r\n",
        Gets::Status(408),
    ),
    ("silence in a TLS hello", "\x16\x03\x01", Gets::Status(408)),
];

#[tokio::test]
async fn whoever_stops_in_the_middle_is_told_and_closed() {
    let upstream = Recorder::friendly().await;
    let proxy = Pillion::inbound_to(upstream.addr, settings());
    for (name, bytes, gets) in SLOW {
        let mut caller = Peer::connect(proxy.inbound()).await;
        caller.send(bytes.as_bytes()).await;
        let answer = caller.rest().await.unwrap();
        match gets {
            Gets::Closed => assert!(answer.is_empty(), "{name}: {}", show(&answer)),
            Gets::Status(status) => assert_eq!(status_of(&answer), *status, "{name}"),
        }
        next_is_served(proxy.inbound()).await.unwrap();
    }
    let late = ["reason=\"head_timeout\""];
    eventually("every late head is counted", async || {
        proxy.metric("pillion_rejections_total", &late).await == 5.0
    })
    .await;
}

#[tokio::test]
async fn a_head_that_drips_has_no_more_time_than_one_that_stops() {
    let upstream = Recorder::friendly().await;
    let proxy = Pillion::inbound_to(upstream.addr, settings());
    let mut caller = Peer::connect(proxy.inbound()).await;
    caller.send(b"GET / HTTP/1.1\r\n").await;
    let mut answer = Vec::new();
    for _ in 0..200 {
        if !answer.is_empty() {
            break;
        }
        caller.send(b"X: y\r\n").await;
        answer = caller.within(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(status_of(&answer), 408, "{}", show(&answer));
}

#[tokio::test]
async fn a_bad_request_behind_good_ones_is_answered_in_its_turn() {
    let upstream = Recorder::friendly().await;
    let proxy = Pillion::inbound_to(upstream.addr, settings());
    let good = "GET /1 HTTP/1.1\r\nHost: app\r\n\r\nPOST /2 HTTP/1.1\r\nHost: app\r\nContent-Length: 3\r\n\r\nabc";
    let bad = "GET /3 HTTP/1.1\nHost: app\r\n\r\n";
    let mut caller = Peer::connect(proxy.inbound()).await;
    caller.send(format!("{good}{bad}{AFTER}").as_bytes()).await;
    let answers = [
        caller.response().await.unwrap(),
        caller.response().await.unwrap(),
        caller.rest().await.unwrap(),
    ];
    assert_eq!(
        answers.each_ref().map(|answer| status_of(answer)),
        [200, 200, 400]
    );
    check_nothing_smuggled(&upstream).unwrap();
    assert!(find(&upstream.all(), b"/3").is_none());
}

#[tokio::test]
async fn every_byte_of_a_target_passes_as_it_is_or_is_refused() {
    let upstream = Recorder::friendly().await;
    let proxy = Pillion::inbound_to(upstream.addr, settings());
    let mut without_text = Vec::new();
    for byte in 0_u8..=127 {
        for place in ["/a{}b", "/?a{}b"] {
            let target = place.replace("{}", &char::from(byte).to_string());
            upstream.restart(|_, peer| crate::support::raw::friendly(peer));
            let mut caller = Peer::connect(proxy.inbound()).await;
            let line = format!("GET {target} HTTP/1.1\r\n");
            caller
                .send(format!("{line}Host: app\r\nConnection: close\r\n\r\n").as_bytes())
                .await;
            let answer = caller.rest().await.unwrap();
            match status_of(&answer) {
                200 => assert!(upstream.all().starts_with(line.as_bytes()), "{target:?}"),
                400 => {
                    assert!(upstream.all().is_empty(), "{target:?}");
                    if find(&answer, b"pillion: ").is_none() {
                        without_text.push(target);
                    }
                }
                other => panic!("{target:?}: {other} {}", show(&answer)),
            }
        }
    }
    assert!(without_text.is_empty(), "{without_text:?}");
}
