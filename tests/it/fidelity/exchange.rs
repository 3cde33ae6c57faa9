//! Exchanges in which the order of events counts.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::sync::Semaphore;

use super::in_front_of;
use crate::support::raw::Peer;
use crate::support::raw::Recorder;
use crate::support::raw::dechunk;
use crate::support::raw::find;
use crate::support::raw::friendly;
use crate::support::raw::show;

conversations![
    early_response_before_the_body_was_read,
    expectation_that_the_upstream_accepts,
    expectation_that_the_upstream_rejects_with_417,
    expectation_that_the_upstream_rejects_with_413,
    expectation_that_the_upstream_leaves_unanswered,
    interim_responses_before_the_final_one,
    pipelined_requests,
    keep_alive_on_both_sides,
    keep_alive_of_http_1_0,
    http_1_0_is_the_last_on_its_connection,
    close_asked_by_the_caller,
    idle_connection_that_the_upstream_closed,
    request_that_left_is_never_sent_twice,
    request_body_that_drips,
    response_body_that_drips,
    server_sent_events,
    bodies_both_ways_at_once,
    caller_that_half_closes,
    heads_byte_by_byte,
    upgrade_that_is_ignored_then_another_request,
    caller_that_goes_away,
    upstream_that_goes_away,
];

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const MOMENT: Duration = Duration::from_millis(100);

async fn early_response_before_the_body_was_read() {
    let upstream = Recorder::start(|_, mut peer| async move {
        peer.head().await.unwrap();
        peer.send(b"HTTP/1.1 413 Too Much\r\nContent-Length: 3\r\nX-Early: 1\r\n\r\nno!")
            .await;
        // Still open, and not reading.
        tokio::time::sleep(Duration::from_secs(30)).await;
    })
    .await;
    let proxy = in_front_of(upstream.addr, json!({}));
    let mut caller = Peer::connect(proxy.inbound()).await;
    caller
        .send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9999999\r\n\r\nthe first part")
        .await;
    let answer = caller.response().await.unwrap();
    let head = b"HTTP/1.1 413 Too Much\r\nContent-Length: 3\r\nX-Early: 1\r\n";
    assert!(answer.starts_with(head), "{}", show(&answer));
    assert!(answer.ends_with(b"no!"), "{}", show(&answer));
}

const EXPECTING: &[u8] =
    b"PUT /x HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n";

async fn expectation_that_the_upstream_accepts() {
    let upstream = Recorder::start(|_, mut peer| async move {
        let head = peer.head().await.unwrap();
        assert!(find(&head, b"\r\nExpect: 100-continue\r\n").is_some());
        assert!(peer.within(MOMENT).await.is_empty(), "no body before 100");
        peer.send(b"HTTP/1.1 100 Continue\r\n\r\n").await;
        assert_eq!(peer.exactly(4).await.unwrap(), b"body");
        peer.send(OK).await;
    })
    .await;
    let proxy = in_front_of(upstream.addr, json!({ "spans": { "enabled": false } }));
    let mut caller = Peer::connect(proxy.inbound()).await;
    caller.send(EXPECTING).await;
    assert_eq!(
        caller.head().await.unwrap(),
        b"HTTP/1.1 100 Continue\r\n\r\n"
    );
    caller.send(b"body").await;
    assert_eq!(caller.response().await.unwrap(), OK);
    assert_eq!(upstream.all(), [EXPECTING, b"body"].concat());
}

async fn expectation_that_the_upstream_rejects_with_417() {
    reject("HTTP/1.1 417 Expectation Failed\r\nContent-Length: 2\r\n\r\nno").await;
}

async fn expectation_that_the_upstream_rejects_with_413() {
    reject("HTTP/1.1 413 Payload Too Large\r\nContent-Length: 2\r\n\r\nno").await;
}

async fn reject(answer: &'static str) {
    let upstream = Recorder::start(move |_, mut peer| async move {
        peer.head().await.unwrap();
        peer.send(answer.as_bytes()).await;
        peer.rest().await.ok();
    })
    .await;
    let proxy = in_front_of(upstream.addr, json!({ "spans": { "enabled": false } }));
    let mut caller = Peer::connect(proxy.inbound()).await;
    caller.send(EXPECTING).await;
    let got = caller.response().await.unwrap();
    let (line, _) = answer.split_once("\r\n").unwrap();
    assert!(
        got.starts_with(line.as_bytes()),
        "no 100 before it: {}",
        show(&got)
    );
    assert_eq!(upstream.all(), EXPECTING, "no body");
}

async fn expectation_that_the_upstream_leaves_unanswered() {
    let upstream = Recorder::friendly().await;
    let proxy = in_front_of(upstream.addr, json!({ "spans": { "enabled": false } }));
    let mut caller = Peer::connect(proxy.inbound()).await;
    caller.send(EXPECTING).await;
    assert_eq!(
        caller.head().await.unwrap(),
        b"HTTP/1.1 100 Continue\r\n\r\n"
    );
    caller.send(b"body").await;
    assert_eq!(caller.response().await.unwrap(), OK);
    assert_eq!(upstream.all(), [EXPECTING, b"body"].concat());
}

const HINTS: &[u8] = b"HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\n\r\n";

async fn interim_responses_before_the_final_one() {
    let step = Arc::new(Semaphore::new(0));
    let steps = step.clone();
    let upstream = Recorder::start(move |_, mut peer| {
        let steps = steps.clone();
        async move {
            while peer.request().await.is_ok() {
                peer.send(b"HTTP/1.1 102 Processing\r\n\r\n").await;
                peer.send(HINTS).await;
                steps.acquire().await.unwrap().forget();
                // Two in one piece with the final response.
                peer.send(&[HINTS, HINTS, OK].concat()).await;
            }
        }
    })
    .await;
    let proxy = in_front_of(upstream.addr, json!({}));
    let mut caller = Peer::connect(proxy.inbound()).await;
    for _ in 0..2 {
        caller.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        // They come while the final response is not even there.
        let processing = b"HTTP/1.1 102 Processing\r\n\r\n";
        assert_eq!(caller.head().await.unwrap(), processing);
        assert_eq!(caller.head().await.unwrap(), HINTS);
        step.add_permits(1);
        assert_eq!(caller.head().await.unwrap(), HINTS);
        assert_eq!(caller.head().await.unwrap(), HINTS);
        assert_eq!(caller.response().await.unwrap(), OK);
    }
    let mut caller = Peer::connect(proxy.inbound()).await;
    caller.send(b"GET / HTTP/1.0\r\nHost: a\r\n\r\n").await;
    step.add_permits(1);
    let answer = caller.rest().await.unwrap();
    assert!(
        answer.starts_with(b"HTTP/1.0 200 OK\r\n"),
        "HTTP/1.0 knows none: {}",
        show(&answer)
    );
}

async fn pipelined_requests() {
    let upstream = Recorder::start(|_, mut peer| async move {
        while let Ok(request) = peer.request().await {
            let line = request.split(|byte| *byte == b' ').nth(1).unwrap().to_vec();
            let length = line.len();
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
            peer.send(&[head.as_bytes(), &line].concat()).await;
        }
    })
    .await;
    let proxy = in_front_of(upstream.addr, json!({}));
    let mut caller = Peer::connect(proxy.inbound()).await;
    caller
        .send(
            b"GET /one HTTP/1.1\r\nHost: a\r\n\r\n\
              POST /two HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc\
              PUT /three HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n\
              GET /four HTTP/1.1\r\nHost: a\r\n\r\n",
        )
        .await;
    for expected in ["/one", "/two", "/three", "/four"] {
        let answer = caller.response().await.unwrap();
        assert!(answer.ends_with(expected.as_bytes()), "{}", show(&answer));
    }
}

async fn keep_alive_on_both_sides() {
    let upstream = Recorder::friendly().await;
    let proxy = in_front_of(upstream.addr, json!({}));
    for _ in 0..2 {
        let mut caller = Peer::connect(proxy.inbound()).await;
        for _ in 0..3 {
            caller.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
            assert_eq!(caller.response().await.unwrap(), OK);
        }
    }
    assert_eq!(upstream.seen().len(), 1, "one upstream connection for all");
}

async fn keep_alive_of_http_1_0() {
    let upstream = Recorder::friendly().await;
    let proxy = in_front_of(upstream.addr, json!({}));
    let mut caller = Peer::connect(proxy.inbound()).await;
    for _ in 0..2 {
        caller
            .send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            .await;
        let answer = caller.response().await.unwrap();
        let text = String::from_utf8(answer).unwrap().to_ascii_lowercase();
        assert!(text.contains("\r\nconnection: keep-alive\r\n"), "{text}");
    }
    caller.send(b"GET / HTTP/1.0\r\n\r\n").await;
    assert!(caller.rest().await.unwrap().ends_with(b"ok"), "then closed");
}

/// Servers close after a request of HTTP/1.0, and not all say so: a request on such a connection would be lost.
async fn http_1_0_is_the_last_on_its_connection() {
    let upstream = Recorder::friendly().await;
    let proxy = in_front_of(upstream.addr, json!({}));
    for (n, version) in ["1.0", "1.0", "1.1", "1.1"].iter().enumerate() {
        let mut caller = Peer::connect(proxy.inbound()).await;
        let request = format!("GET / HTTP/{version}\r\nHost: a\r\n\r\n");
        caller.send(request.as_bytes()).await;
        let answer = caller.response().await.unwrap();
        assert!(answer.ends_with(b"ok"), "{}", show(&answer));
        assert_eq!(upstream.seen().len(), [1, 2, 3, 3][n]);
    }
}

async fn close_asked_by_the_caller() {
    let upstream = Recorder::friendly().await;
    let proxy = in_front_of(upstream.addr, json!({}));
    let mut caller = Peer::connect(proxy.inbound()).await;
    caller
        .send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        .await;
    let answer = caller.rest().await.unwrap();
    assert!(answer.ends_with(b"ok"), "{}", show(&answer));
    assert!(
        find(&upstream.all(), b"Connection").is_none(),
        "the upstream's stays open"
    );
}

async fn idle_connection_that_the_upstream_closed() {
    let upstream = Recorder::start(|number, mut peer| async move {
        peer.request().await.unwrap();
        peer.send(OK).await;
        if number > 0 {
            friendly(peer).await;
        }
        // The first connection closes now, although it was said to stay.
    })
    .await;
    let proxy = in_front_of(upstream.addr, json!({}));
    let mut caller = Peer::connect(proxy.inbound()).await;
    for method in ["GET", "POST", "GET"] {
        let request = format!("{method} / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
        caller.send(request.as_bytes()).await;
        assert_eq!(caller.response().await.unwrap(), OK, "{method}");
    }
}

async fn request_that_left_is_never_sent_twice() {
    for request in [
        "POST /once HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody",
        "GET /once HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        let upstream = Recorder::start(|number, mut peer| async move {
            peer.request().await.unwrap();
            peer.send(OK).await;
            if number > 0 {
                return friendly(peer).await;
            }
            // The second request arrives on the kept connection, which breaks without an answer.
            peer.until(b"/once").await.unwrap();
        })
        .await;
        let proxy = in_front_of(upstream.addr, json!({}));
        let mut caller = Peer::connect(proxy.inbound()).await;
        caller.send(b"GET /first HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert_eq!(caller.response().await.unwrap(), OK);
        caller.send(request.as_bytes()).await;
        let answer = caller.response().await.unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 502 "), "{}", show(&answer));
        let times = upstream
            .all()
            .windows(5)
            .filter(|window| window == b"/once")
            .count();
        assert_eq!(times, 1, "{request}");
    }
}

async fn request_body_that_drips() {
    let upstream = Recorder::friendly().await;
    let proxy = in_front_of(upstream.addr, json!({}));
    let mut caller = Peer::connect(proxy.inbound()).await;
    caller
        .send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n")
        .await;
    for count in 1..=5 {
        caller.send(b"x").await;
        super::eventually(|| upstream.all().iter().filter(|byte| **byte == b'x').count() == count)
            .await;
    }
    assert_eq!(caller.response().await.unwrap(), OK);
}

async fn response_body_that_drips() {
    let upstream = Recorder::start(|_, mut peer| async move {
        peer.request().await.unwrap();
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n")
            .await;
        peer.send_in_pieces(&[b'y'; 50], 1).await;
    })
    .await;
    let proxy = in_front_of(upstream.addr, json!({}));
    let mut caller = Peer::connect(proxy.inbound()).await;
    caller.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(caller.response().await.unwrap().ends_with(&[b'y'; 50]));
}

async fn server_sent_events() {
    let step = Arc::new(Semaphore::new(0));
    let steps = step.clone();
    let upstream = Recorder::start(move |_, mut peer| {
        let steps = steps.clone();
        async move {
            peer.request().await.unwrap();
            peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
                .await;
            for number in 0..3 {
                steps.acquire().await.unwrap().forget();
                peer.send(format!("data: {number}\n\n").as_bytes()).await;
            }
        }
    })
    .await;
    let proxy = in_front_of(upstream.addr, json!({}));
    let mut caller = Peer::connect(proxy.inbound()).await;
    caller
        .send(b"GET /events HTTP/1.1\r\nHost: a\r\n\r\n")
        .await;
    caller.head().await.unwrap();
    for number in 0..3 {
        // The next event is not sent before this one was read.
        step.add_permits(1);
        caller
            .until(format!("data: {number}\n\n").as_bytes())
            .await
            .unwrap();
    }
    assert!(caller.until(b"0\r\n\r\n").await.is_ok(), "and an end");
}

async fn bodies_both_ways_at_once() {
    let upstream = Recorder::start(|_, mut peer| async move {
        peer.head().await.unwrap();
        peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            .await;
        for _ in 0..3 {
            peer.until(b"ping\r\n").await.unwrap();
            peer.send(b"4\r\npong\r\n").await;
        }
        peer.until(b"0\r\n\r\n").await.unwrap();
        peer.send(b"0\r\n\r\n").await;
    })
    .await;
    let proxy = in_front_of(upstream.addr, json!({}));
    let mut caller = Peer::connect(proxy.inbound()).await;
    caller
        .send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await;
    for _ in 0..3 {
        caller.send(b"4\r\nping\r\n").await;
        caller.until(b"pong\r\n").await.unwrap();
    }
    caller.send(b"0\r\n\r\n").await;
    assert_eq!(caller.exactly(5).await.unwrap(), b"0\r\n\r\n");
}

async fn caller_that_half_closes() {
    let upstream = Recorder::start(|_, mut peer| async move {
        peer.request().await.unwrap();
        tokio::time::sleep(MOMENT).await;
        peer.send(OK).await;
    })
    .await;
    let proxy = in_front_of(upstream.addr, json!({}));
    let mut caller = Peer::connect(proxy.inbound()).await;
    caller
        .send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi")
        .await;
    caller.half_close().await;
    assert_eq!(caller.rest().await.unwrap(), OK);
}

async fn heads_byte_by_byte() {
    let upstream = Recorder::start(|_, mut peer| async move {
        peer.request().await.unwrap();
        peer.send_in_pieces(OK, 1).await;
    })
    .await;
    let proxy = in_front_of(upstream.addr, json!({ "spans": { "enabled": false } }));
    let mut caller = Peer::connect(proxy.inbound()).await;
    let request =
        b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;x\r\nabc\r\n0\r\n\r\n";
    caller.send_in_pieces(request, 1).await;
    assert_eq!(caller.response().await.unwrap(), OK);
    let seen = upstream.all();
    let (head, body) = seen.split_at(find(&seen, b"\r\n\r\n").unwrap() + 4);
    assert!(request.starts_with(head), "{}", show(head));
    assert_eq!(dechunk(body).unwrap().0, b"abc");
}

async fn upgrade_that_is_ignored_then_another_request() {
    let upstream = Recorder::friendly().await;
    let proxy = in_front_of(upstream.addr, json!({ "spans": { "enabled": false } }));
    let mut caller = Peer::connect(proxy.inbound()).await;
    // What Java's client sends first; the second request comes without waiting for the first answer.
    let first = "GET /1 HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nHost: a\r\nHTTP2-Settings: AAEAAEAA\r\nUpgrade: h2c\r\n\r\n";
    let second = "GET /2 HTTP/1.1\r\nHost: a\r\n\r\n";
    caller.send([first, second].concat().as_bytes()).await;
    assert_eq!(caller.response().await.unwrap(), OK);
    assert_eq!(caller.response().await.unwrap(), OK);
    caller.send(second.as_bytes()).await;
    assert_eq!(caller.response().await.unwrap(), OK);
    assert!(
        upstream
            .all()
            .ends_with([second, second].concat().as_bytes())
    );
}

async fn caller_that_goes_away() {
    let (told, mut gone) = tokio::sync::mpsc::unbounded_channel();
    let upstream = Recorder::start(move |_, mut peer| {
        let told = told.clone();
        async move {
            peer.request().await.unwrap();
            peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                .await;
            while peer
                .send(&[b"4000\r\n".as_slice(), &[b'x'; 0x4000], b"\r\n"].concat())
                .await
            {}
            told.send(()).unwrap();
        }
    })
    .await;
    let proxy = in_front_of(upstream.addr, json!({}));
    let mut caller = Peer::connect(proxy.inbound()).await;
    caller.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    caller.exactly(100_000).await.unwrap();
    caller.reset();
    // The upstream notices that nobody reads any more.
    tokio::time::timeout(crate::support::raw::DEADLINE, gone.recv())
        .await
        .unwrap();
}

async fn upstream_that_goes_away() {
    let upstream = Recorder::start(|_, mut peer| async move {
        peer.request().await.unwrap();
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
            .await;
        tokio::time::sleep(MOMENT).await;
        peer.reset();
    })
    .await;
    let proxy = in_front_of(upstream.addr, json!({}));
    let mut caller = Peer::connect(proxy.inbound()).await;
    caller.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let answer = caller.rest().await.unwrap();
    assert!(answer.ends_with(b"\r\n\r\nhalf"), "{}", show(&answer));
}
