//! Callers that break HTTP/2. The program behind speaks HTTP/1, where smuggling would be possible.

mod inputs;

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;

use super::check_nothing_smuggled;
use super::next_is_served;
use crate::support::frames::*;
use crate::support::proxy::Pillion;
use crate::support::raw::Missing;
use crate::support::raw::Peer;
use crate::support::raw::Recorder;
use crate::support::raw::friendly;
use crate::support::raw::message_length;
use crate::support::raw::show;
use inputs::Gets;
use inputs::Input;
use inputs::inputs;

pub(super) fn count() -> usize {
    inputs().len()
}

/// What came back for stream 1 or the connection.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Came {
    Closed,
    Reset,
    Status(u16),
    Silence,
}

async fn answer(caller: &mut Peer) -> Came {
    loop {
        match read(caller).await {
            Ok(frame) => match frame.kind {
                GOAWAY if frame.code() != 0 => return Came::Closed,
                RST_STREAM if frame.stream == 1 => return Came::Reset,
                HEADERS if frame.stream == 1 => return Came::Status(frame.status()),
                _ => {}
            },
            Err(Missing(why)) if why.starts_with("ended") => return Came::Closed,
            Err(_) => return Came::Silence,
        }
    }
}

async fn run(input: &Input, to: SocketAddr, upstream: &Recorder) -> Result<(), String> {
    upstream.restart(|_, peer| friendly(peer));
    let mut caller = Peer::connect(to).await;
    caller.send(&opening()).await;
    read(&mut caller).await.map_err(|Missing(why)| why)?;
    caller.send(&frame(SETTINGS, ACK, 0, b"")).await;
    caller.send(&input.bytes).await;
    if input.gets == Gets::Survives {
        next_is_served(to).await?;
        settled(upstream).await;
        return check_nothing_smuggled(upstream);
    }
    let came = answer(&mut caller).await;
    let fits = match input.gets {
        Gets::Closed => came == Came::Closed,
        Gets::Status(status) => came == Came::Status(status),
        Gets::StatusOrReset(status) => {
            matches!(came, Came::Reset | Came::Closed) || came == Came::Status(status)
        }
        Gets::Survives => true,
    };
    if !fits {
        return Err(format!("expected {:?}, got {came:?}", input.gets));
    }
    check_nothing_smuggled(upstream)?;
    let seen = upstream.all();
    // Requests that were reset later may have been served before.
    let is_flood = input.name == "rapid reset";
    if !seen.is_empty() && !is_flood && (!input.in_part || message_length(&seen, 0).is_some()) {
        return Err(format!("the upstream saw {}", show(&seen)));
    }
    next_is_served(to).await?;
    if is_flood {
        settled(upstream).await;
    }
    Ok(())
}

/// Waits until no request of an input arrives any more: it would be taken for the next input's.
async fn settled(upstream: &Recorder) {
    let mut before = usize::MAX;
    while upstream.all().len() != before {
        before = upstream.all().len();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Every input once; what failed.
pub(super) async fn run_all(to: SocketAddr, upstream: &Recorder) -> Vec<String> {
    let mut failures = Vec::new();
    for input in inputs() {
        if let Err(why) = run(&input, to, upstream).await {
            failures.push(format!("{}: {why}", input.name));
        }
    }
    failures
}

#[tokio::test]
async fn bad_frames_and_heads_are_refused_and_nothing_is_smuggled() {
    let upstream = Recorder::friendly().await;
    let mut settings = super::settings();
    settings["inbound"] = json!({ "app_protocol": "http1" });
    let proxy = Pillion::inbound_to(upstream.addr, settings);
    let failures = run_all(proxy.inbound(), &upstream).await;
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
