//! Upstreams that break HTTP/1: the caller gets 502 or a response that visibly breaks off, never a second one.

use std::net::SocketAddr;

use serde_json::json;

use super::status_of;
use crate::support::proxy::Pillion;
use crate::support::raw::Missing;
use crate::support::raw::Peer;
use crate::support::raw::Recorder;
use crate::support::raw::find;
use crate::support::raw::show;

/// What the caller gets.
#[derive(Debug, Clone, PartialEq)]
enum Gets {
    /// 502 with a text of ours.
    BadGateway,
    /// A head with 200, then less than it promises.
    BrokenOff,
    /// Exactly this.
    Exactly(&'static str),
    /// A few interim responses, then `OK`.
    Interims,
}

struct Input {
    name: &'static str,
    response: Vec<u8>,
    gets: Gets,
}

fn input(name: &'static str, response: impl Into<Vec<u8>>, gets: Gets) -> Input {
    Input {
        name,
        response: response.into(),
        gets,
    }
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

fn inputs() -> Vec<Input> {
    [heads(), lengths(), bodies(), more_than_one()]
        .into_iter()
        .flatten()
        .collect()
}

pub(super) fn count() -> usize {
    inputs().len()
}

fn heads() -> Vec<Input> {
    let bad = |name, response: &str| input(name, response, Gets::BadGateway);
    let field = |name, line: &str| {
        bad(
            name,
            &format!("HTTP/1.1 200 OK\r\n{line}\r\nContent-Length: 2\r\n\r\nok"),
        )
    };
    let many: String = (0..5000).map(|n| format!("x-{n}: y\r\n")).collect();
    let mega = "y".repeat(1 << 20);
    vec![
        bad("no answer", ""),
        bad("half a status line", "HTTP/1.1 2"),
        bad("half a head", "HTTP/1.1 200 OK\r\nX: y"),
        bad("another protocol", "SSH-2.0-x\r\n"),
        bad("a misspelt protocol", "HTTQ/1.1 200 OK\r\n\r\n"),
        bad("HTTP/0.9", "<html>ok</html>"),
        bad("HTTP/2.0 in text", "HTTP/2.0 200 OK\r\n\r\n"),
        bad("a status of two digits", "HTTP/1.1 20 OK\r\n\r\n"),
        bad("a status of four digits", "HTTP/1.1 2000 OK\r\n\r\n"),
        bad("a status of letters", "HTTP/1.1 abc OK\r\n\r\n"),
        bad("status 000", "HTTP/1.1 000 OK\r\n\r\n"),
        bad("status 099", "HTTP/1.1 099 OK\r\n\r\n"),
        bad("a negative status", "HTTP/1.1 -20 OK\r\n\r\n"),
        field("a bare CR in a value", "X: a\rSet-Cookie: evil"),
        field("NUL in a value", "X: a\0b"),
        field("a folded value", "X: a\r\n b"),
        field("a blank before the colon", "X : a"),
        field("a line without a colon", "evil"),
        field("an empty name", ": a"),
        field("5000 fields", &many),
        field("a field of 1 MB", &format!("X: {mega}")),
        bad(
            "101 unasked",
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        ),
        bad(
            "only interim responses",
            "HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n",
        ),
    ]
}

fn lengths() -> Vec<Input> {
    let length = |name, lines: &str| {
        input(
            name,
            format!("HTTP/1.1 200 OK\r\n{lines}\r\n\r\nok"),
            Gets::BadGateway,
        )
    };
    vec![
        length("two lengths", "Content-Length: 2\r\nContent-Length: 3"),
        length("a negative length", "Content-Length: -2"),
        length("a length with a plus", "Content-Length: +2"),
        length("a hexadecimal length", "Content-Length: 0x2"),
        length("a length of 2^64", "Content-Length: 18446744073709551616"),
        length("a list of lengths", "Content-Length: 2, 3"),
        input(
            "length and chunks",
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\nevil",
            Gets::Exactly(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            ),
        ),
        input(
            "chunks and length",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n2\r\nok\r\n0\r\n\r\nevil",
            Gets::Exactly(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            ),
        ),
        input(
            "chunks in HTTP/1.0",
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            Gets::BadGateway,
        ),
    ]
}

fn bodies() -> Vec<Input> {
    let broken =
        |name, rest: &str| input(name, format!("HTTP/1.1 200 OK\r\n{rest}"), Gets::BrokenOff);
    let chunks = |name, body: &str| {
        broken(
            name,
            &format!("Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n{body}"),
        )
    };
    vec![
        broken("less than the length", "Content-Length: 10\r\n\r\nabc"),
        chunks("no last chunk", ""),
        chunks("half a chunk", "5\r\nab"),
        chunks("a chunk size that is no number", "zz\r\nab"),
        chunks("a chunk size of 2^68", "100000000000000000\r\nab"),
        chunks("a chunk without its end", "2\r\nabcd\r\n0\r\n\r\n"),
    ]
}

fn more_than_one() -> Vec<Input> {
    let evil = "HTTP/1.1 200 OK\r\nX-Evil: 1\r\nContent-Length: 4\r\n\r\nevil";
    let hints = "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n".repeat(50_000);
    vec![
        input(
            "a second response",
            format!("{OK}{evil}"),
            Gets::Exactly(OK),
        ),
        input(
            "bytes behind the response",
            format!("{OK}\r\n\r\nevil"),
            Gets::Exactly(OK),
        ),
        input(
            "content behind 204",
            "HTTP/1.1 204 No Content\r\nContent-Length: 4\r\n\r\nevil",
            Gets::Exactly("HTTP/1.1 204 No Content\r\n\r\n"),
        ),
        input(
            "content behind 304",
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\nevil",
            Gets::Exactly("HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\n"),
        ),
        input(
            "50,000 interim responses",
            format!("{hints}{OK}"),
            Gets::Interims,
        ),
    ]
}

async fn run(input: &Input, to: SocketAddr, upstream: &Recorder) -> Result<(), String> {
    let response = input.response.clone();
    upstream.restart(move |_, mut peer| {
        let response = response.clone();
        async move {
            if peer.request().await.is_ok() {
                peer.send(&response).await;
                peer.half_close().await;
                peer.rest().await.ok();
            }
        }
    });
    let mut caller = Peer::connect(to).await;
    caller.send(b"GET /a HTTP/1.1\r\nHost: app\r\n\r\n").await;
    let answer = match &input.gets {
        Gets::Exactly(expected) => {
            let answer = caller
                .exactly(expected.len())
                .await
                .map_err(|Missing(why)| why)?;
            if answer != expected.as_bytes() {
                return Err(format!(
                    "expected {}, got {}",
                    show(expected.as_bytes()),
                    show(&answer)
                ));
            }
            answer
        }
        Gets::Interims => {
            let answer = caller
                .until(OK.as_bytes())
                .await
                .map_err(|Missing(why)| why)?;
            if answer.len() > 10_000 {
                return Err(format!("{} bytes of interim responses", answer.len()));
            }
            answer
        }
        Gets::BadGateway => loop {
            let answer = caller.response().await.map_err(|Missing(why)| why)?;
            if !(100..200).contains(&status_of(&answer)) {
                break answer;
            }
        },
        Gets::BrokenOff => caller.rest().await.map_err(|Missing(why)| why)?,
    };
    let is_whole = crate::support::raw::message_length(&answer, 0).is_some();
    match input.gets {
        Gets::BadGateway
            if status_of(&answer) != 502 || find(&answer, b"\r\n\r\npillion: ").is_none() =>
        {
            return Err(format!("expected 502, got {}", show(&answer)));
        }
        Gets::BrokenOff if status_of(&answer) != 200 || is_whole => {
            return Err(format!("not broken off: {}", show(&answer)));
        }
        _ => {}
    }
    // The next caller gets the next response, whatever lay behind the last one.
    upstream.restart(|_, mut peer| async move {
        if peer.request().await.is_ok() {
            let last = OK.replace("Content", "Connection: close\r\nContent");
            peer.send(last.as_bytes()).await;
        }
    });
    let mut caller = Peer::connect(to).await;
    caller.send(b"GET /b HTTP/1.1\r\nHost: app\r\n\r\n").await;
    let next = caller.response().await.map_err(|Missing(why)| why)?;
    if next != OK.as_bytes() {
        return Err(format!("the next response: {}", show(&next)));
    }
    Ok(())
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
async fn bad_responses_become_502_or_break_off() {
    let upstream = Recorder::friendly().await;
    let settings = json!({ "limits": { "head_size": "16KiB", "headers": 100 } });
    let proxy = Pillion::inbound_to(upstream.addr, settings);
    let failures = run_all(proxy.inbound(), &upstream).await;
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
