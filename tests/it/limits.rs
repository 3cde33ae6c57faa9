//! Limits and timeouts of the data path: who exceeds one is told or cut, who does not is left alone.

use std::time::Duration;
use std::time::Instant;

use serde_json::json;

use crate::support::frames;
use crate::support::proxy::Pillion;
use crate::support::raw::Peer;
use crate::support::raw::Recorder;
use crate::support::raw::find;
use crate::support::raw::show;

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const MOMENT: Duration = Duration::from_millis(150);

fn is_refusal(answer: &[u8], status: &str) -> bool {
    answer.starts_with(format!("HTTP/1.1 {status} ").as_bytes())
        && find(answer, b"\r\n\r\npillion: ").is_some()
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_for_a_place() {
    let upstream = Recorder::friendly().await;
    let proxy = Pillion::inbound_to(upstream.addr, json!({ "limits": { "connections": 2 } }));
    let mut first = Peer::connect(proxy.inbound()).await;
    let mut second = Peer::connect(proxy.inbound()).await;
    for caller in [&mut first, &mut second] {
        caller.send(GET).await;
        assert_eq!(caller.response().await.unwrap(), OK);
    }
    let mut third = Peer::connect(proxy.inbound()).await;
    let mut fourth = Peer::connect(proxy.inbound()).await;
    third.send(GET).await;
    fourth.send(GET).await;
    assert!(third.within(MOMENT).await.is_empty(), "no place yet");
    drop(first);
    assert_eq!(third.response().await.unwrap(), OK);
    drop(third);
    assert_eq!(fourth.response().await.unwrap(), OK);
    second.send(GET).await;
    assert_eq!(second.response().await.unwrap(), OK);
}

#[tokio::test]
async fn a_tunnel_keeps_its_place() {
    let upstream = Recorder::start(|_, mut peer| async move {
        peer.head().await.unwrap();
        peer.send(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n")
            .await;
        while !peer.within(MOMENT).await.is_empty() {}
        peer.rest().await.ok();
    })
    .await;
    let proxy = Pillion::inbound_to(upstream.addr, json!({ "limits": { "connections": 1 } }));
    let mut tunnel = Peer::connect(proxy.inbound()).await;
    tunnel
        .send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
        .await;
    tunnel.head().await.unwrap();
    let mut next = Peer::connect(proxy.inbound()).await;
    next.send(b"GET / HTTP/9.9\r\n\r\n").await;
    assert!(next.within(MOMENT).await.is_empty(), "no place yet");
    drop(tunnel);
    assert!(is_refusal(&next.rest().await.unwrap(), "505"));
}

#[tokio::test]
async fn requests_beyond_the_limit_are_told_to_come_again() {
    let (go, held) = tokio::sync::watch::channel(false);
    let upstream = Recorder::start(move |_, mut peer| {
        let mut held = held.clone();
        async move {
            while peer.request().await.is_ok() {
                held.wait_for(|go| *go).await.unwrap();
                peer.send(OK).await;
            }
        }
    })
    .await;
    let proxy = Pillion::inbound_to(upstream.addr, json!({ "limits": { "requests": 3 } }));
    let mut served = Vec::new();
    for n in 1..=3 {
        let mut caller = Peer::connect(proxy.inbound()).await;
        caller.send(GET).await;
        while upstream
            .all()
            .windows(4)
            .filter(|part| part == b"GET ")
            .count()
            < n
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        served.push(caller);
    }
    let mut shed = Peer::connect(proxy.inbound()).await;
    for _ in 0..20 {
        shed.send(GET).await;
        let answer = shed.response().await.unwrap();
        assert!(is_refusal(&answer, "503"), "{}", show(&answer));
        assert!(find(&answer, b"retry-after: 1\r\n").is_some());
    }
    let reason = ["direction=\"inbound\"", "reason=\"requests\""];
    let counted = proxy.metric("pillion_rejections_total", &reason).await;
    assert!((counted - 20.0).abs() < 0.5, "{counted} counted");
    go.send(true).unwrap();
    for caller in &mut served {
        assert_eq!(caller.response().await.unwrap(), OK, "not disturbed");
    }
    shed.send(GET).await;
    assert_eq!(shed.response().await.unwrap(), OK, "there is place again");
}

#[tokio::test]
async fn overload_holds_no_more_than_its_limits() {
    const LIMIT: usize = 4;
    const CALLERS: usize = 40;
    const EACH: usize = 25;
    const SPANS: usize = 300;
    const QUEUE: f64 = 64.0;
    const BATCH: f64 = 16.0;
    const SENDERS: f64 = 2.0;
    let (go, held) = tokio::sync::watch::channel(false);
    let upstream = Recorder::start(move |_, mut peer| {
        let mut held = held.clone();
        async move {
            while peer.request().await.is_ok() {
                held.wait_for(|go| *go).await.unwrap();
                peer.send(OK).await;
            }
        }
    })
    .await;
    // Takes spans and says nothing.
    let collector = Recorder::start(|_, mut peer| async move {
        peer.rest().await.ok();
    })
    .await;
    let queue = json!({ "capacity": QUEUE as u64, "batch": BATCH as u64, "flush_interval": "10ms",
            "senders": SENDERS as u64 });
    let settings = json!({
        "limits": { "requests": LIMIT },
        "sampling": { "constant": { "decision": true } },
        "reporters": [
            { "otlp": { "endpoint": format!("http://{}", collector.addr), "queue": queue } },
        ],
    });
    let proxy = Pillion::inbound_to(upstream.addr, settings);
    let mut callers = Vec::new();
    for n in 1..=CALLERS {
        let mut caller = Peer::connect(proxy.inbound()).await;
        caller.send(GET).await;
        // Who comes first is served: the rest would have to guess who that is.
        while n <= LIMIT && proxy.metric("pillion_http_active_requests", &[]).await < n as f64 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        callers.push(caller);
    }
    for caller in callers.iter_mut().skip(LIMIT) {
        for _ in 0..EACH {
            let answer = caller.response().await.unwrap();
            assert!(is_refusal(&answer, "503"), "{}", show(&answer));
            caller.send(GET).await;
        }
        assert!(is_refusal(&caller.response().await.unwrap(), "503"));
    }
    let is = async |name: &str, labels: &[&str], expected: usize| {
        let found = proxy.metric(name, labels).await;
        assert!((found - expected as f64).abs() < 0.5, "{name} is {found}");
    };
    let shed = (CALLERS - LIMIT) * (EACH + 1);
    is("pillion_rejections_total", &["reason=\"requests\""], shed).await;
    is("pillion_http_active_requests", &[], LIMIT).await;
    let upwards = ["direction=\"inbound\"", "peer=\"upstream\""];
    is("pillion_connections_opened_total", &upwards, LIMIT).await;
    is("pillion_spans_started_total", &[], LIMIT).await;

    go.send(true).unwrap();
    for caller in callers.iter_mut().take(LIMIT) {
        assert_eq!(caller.response().await.unwrap(), OK);
    }
    for _ in LIMIT..SPANS {
        callers[0].send(GET).await;
        assert_eq!(callers[0].response().await.unwrap(), OK);
        let waiting = proxy.metric("pillion_reporter_queue_spans", &[]).await;
        // In the queue, under way, and gathered for the sender that is free next.
        let most = QUEUE + (SENDERS + 1.0) * BATCH;
        assert!(waiting <= most, "{waiting} spans wait");
    }
    // The last exchange ends a moment after its caller has the answer.
    while proxy.metric("pillion_http_active_requests", &[]).await > 0.5 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let waiting = proxy.metric("pillion_reporter_queue_spans", &[]).await;
    let dropped = ["reason=\"queue_full\""];
    let lost = SPANS - waiting as usize;
    is("pillion_reporter_spans_dropped_total", &dropped, lost).await;
    // Connections are used again: there are far fewer than requests.
    let opened = proxy.metric("pillion_connections_opened_total", &upwards);
    assert!(opened.await <= 2.0 * LIMIT as f64);
}

#[tokio::test]
async fn whoever_is_slow_holds_up_only_the_own_exchange() {
    const LARGE: usize = 8 << 20;
    let upstream = Recorder::start(|_, mut peer| async move {
        while let Ok(request) = peer.request().await {
            if find(&request, b"/silent").is_some() {
                peer.rest().await.ok();
                return;
            }
            if find(&request, b"/large").is_some() {
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n");
                peer.send(head.as_bytes()).await;
                peer.send(&vec![b'x'; LARGE]).await;
                continue;
            }
            peer.send(OK).await;
        }
    })
    .await;
    // One worker: all of it happens on one thread.
    let proxy = Pillion::inbound_to(upstream.addr, json!({}));
    let mut slow = Vec::new();
    for path in ["/silent", "/large"].repeat(10) {
        let mut caller = Peer::connect(proxy.inbound()).await;
        let get = format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
        // Neither is ever read.
        caller.send(get.as_bytes()).await;
        slow.push(caller);
    }
    let mut caller = Peer::connect(proxy.inbound()).await;
    let start = Instant::now();
    for _ in 0..100 {
        caller.send(GET).await;
        assert_eq!(caller.response().await.unwrap(), OK);
    }
    let each = start.elapsed() / 100;
    assert!(each < Duration::from_millis(100), "{each:?} for each");
}

#[tokio::test]
async fn waiting_for_an_upstream_connection_has_an_end() {
    let upstream = Recorder::start(|_, mut peer| async move {
        peer.request().await.unwrap();
        peer.rest().await.ok();
    })
    .await;
    let settings = json!({
        "limits": { "upstream_connections": 1 },
        "timeouts": { "pool": "100ms" },
    });
    let proxy = Pillion::inbound_to(upstream.addr, settings);
    let mut first = Peer::connect(proxy.inbound()).await;
    first.send(GET).await;
    while upstream.all().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut second = Peer::connect(proxy.inbound()).await;
    second.send(GET).await;
    let answer = second.response().await.unwrap();
    assert!(is_refusal(&answer, "503"), "{}", show(&answer));
}

#[tokio::test]
async fn a_response_that_does_not_begin_is_504() {
    for (settings, why) in [
        (json!({ "response": "100ms" }), "response"),
        (json!({ "stall": "100ms" }), "stall"),
    ] {
        let upstream = Recorder::start(|_, mut peer| async move {
            peer.request().await.unwrap();
            peer.rest().await.ok();
        })
        .await;
        let proxy = Pillion::inbound_to(upstream.addr, json!({ "timeouts": settings }));
        let mut caller = Peer::connect(proxy.inbound()).await;
        caller.send(GET).await;
        let answer = caller.response().await.unwrap();
        assert!(is_refusal(&answer, "504"), "{why}: {}", show(&answer));
    }
}

fn stall() -> serde_json::Value {
    json!({ "timeouts": { "stall": "400ms" } })
}

#[tokio::test]
async fn a_request_that_stalls_is_504_and_one_that_drips_is_not() {
    let upstream = Recorder::friendly().await;
    let proxy = Pillion::inbound_to(upstream.addr, stall());
    let head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 12\r\n\r\n";
    let mut caller = Peer::connect(proxy.inbound()).await;
    caller.send(&[head, &b"half"[..]].concat()).await;
    let answer = caller.response().await.unwrap();
    assert!(is_refusal(&answer, "504"), "{}", show(&answer));

    let mut caller = Peer::connect(proxy.inbound()).await;
    caller.send(head).await;
    for _ in 0..12 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        caller.send(b"x").await;
    }
    assert_eq!(caller.response().await.unwrap(), OK);
}

#[tokio::test]
async fn a_response_that_stalls_breaks_off_and_one_that_drips_does_not() {
    let upstream = Recorder::start(|number, mut peer| async move {
        peer.request().await.unwrap();
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n")
            .await;
        let count = if number == 0 { 4 } else { 12 };
        for _ in 0..count {
            tokio::time::sleep(Duration::from_millis(50)).await;
            peer.send(b"x").await;
        }
        peer.rest().await.ok();
    })
    .await;
    let proxy = Pillion::inbound_to(upstream.addr, stall());
    let mut caller = Peer::connect(proxy.inbound()).await;
    caller.send(GET).await;
    let answer = caller.rest().await.unwrap();
    assert!(answer.ends_with(b"\r\n\r\nxxxx"), "{}", show(&answer));
    let mut caller = Peer::connect(proxy.inbound()).await;
    caller.send(GET).await;
    assert!(caller.response().await.unwrap().ends_with(b"xxxxxxxxxxxx"));
}

#[tokio::test]
async fn a_caller_that_does_not_read_is_cut() {
    let (told, mut gone) = tokio::sync::mpsc::unbounded_channel();
    let upstream = Recorder::start(move |_, mut peer| {
        let told = told.clone();
        async move {
            peer.request().await.unwrap();
            peer.send(b"HTTP/1.1 200 OK\r\n\r\n").await;
            while peer.send(&[b'x'; 100_000]).await {}
            told.send(()).unwrap();
        }
    })
    .await;
    let proxy = Pillion::inbound_to(upstream.addr, stall());
    let mut caller = Peer::connect(proxy.inbound()).await;
    caller.send(GET).await;
    // Reads nothing; the upstream fills every buffer, then notices that its connection is gone.
    tokio::time::timeout(Duration::from_secs(20), gone.recv())
        .await
        .unwrap();
    let closed = ["direction=\"inbound\"", "reason=\"timeout\""];
    assert!(proxy.metrics().await.lines().any(|line| {
        line.contains("closed") && closed.iter().all(|label| line.contains(label))
    }));
}

#[tokio::test]
async fn a_tunnel_that_stalls_is_cut_and_a_busy_one_is_not() {
    let upstream = Recorder::start(|_, mut peer| async move {
        while peer.exactly(1).await.is_ok() {
            peer.send(b"y").await;
        }
    })
    .await;
    let mut settings = stall();
    settings["outbound"] = json!({});
    let proxy = Pillion::start(settings);
    let mut caller = Peer::connect(proxy.outbound()).await;
    let connect = format!("CONNECT {0} HTTP/1.1\r\nHost: {0}\r\n\r\n", upstream.addr);
    caller.send(connect.as_bytes()).await;
    caller.head().await.unwrap();
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(800) {
        caller.send(b"x").await;
        assert_eq!(caller.exactly(1).await.unwrap(), b"y");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(caller.rest().await.unwrap(), b"", "silence ends it");
}

#[tokio::test]
async fn a_program_may_call_itself_through_the_proxy_but_not_the_proxy() {
    let upstream = Recorder::friendly().await;
    let proxy = Pillion::inbound_to(upstream.addr, json!({}));
    for (to, status) in [(proxy.inbound(), "200"), (proxy.outbound(), "508")] {
        let mut caller = Peer::connect(proxy.outbound()).await;
        let request = format!("GET http://{to}/ HTTP/1.1\r\nHost: {to}\r\n\r\n");
        caller.send(request.as_bytes()).await;
        let answer = caller.response().await.unwrap();
        let expected = format!("HTTP/1.1 {status} ");
        assert!(answer.starts_with(expected.as_bytes()), "{}", show(&answer));
    }
    let loops = proxy.metric("pillion_rejections_total", &["outbound", "loop"]);
    assert_eq!(loops.await, 1.0);
}

#[tokio::test]
async fn a_head_that_does_not_come_to_its_end_does_not_hold_up_ours() {
    let upstream = Recorder::friendly().await;
    let proxy = Pillion::inbound_to(upstream.addr, json!({}));
    let mut caller = Peer::connect(proxy.inbound()).await;
    caller.send(b"GET / HTTP/1.1\r\nHo").await;
    let detected = "pillion_detected_protocols_total";
    while proxy.metric(detected, &["inbound", "http1"]).await < 1.0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // One that is there in time is served.
    let mut other = Peer::connect(proxy.inbound()).await;
    other.send(b"GET / HTTP/1.1\r\nHost").await;
    while proxy.metric(detected, &["inbound", "http1"]).await < 2.0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    proxy.drain();
    other.send(b": a\r\n\r\n").await;
    let answer = other.rest().await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{answer:?}");
    // The usual limit is half a minute.
    let start = Instant::now();
    assert_eq!(caller.rest().await.unwrap(), b"");
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn idle_connections_end_quietly() {
    let upstream = Recorder::friendly().await;
    let proxy = Pillion::inbound_to(upstream.addr, json!({ "timeouts": { "idle": "150ms" } }));
    let mut caller = Peer::connect(proxy.inbound()).await;
    caller.send(GET).await;
    assert_eq!(caller.response().await.unwrap(), OK);
    assert!(
        caller.rest().await.unwrap().is_empty(),
        "HTTP/1: closed without a word"
    );

    let mut caller = Peer::connect(proxy.inbound()).await;
    caller.send(&frames::opening()).await;
    loop {
        let frame = frames::read(&mut caller).await.unwrap();
        if frame.kind == frames::GOAWAY {
            assert_eq!(frame.code(), 0, "HTTP/2: a goodbye without blame");
            break;
        }
    }
    let closed = ["reason=\"idle\""];
    for _ in 0..200 {
        if proxy
            .metrics()
            .await
            .lines()
            .any(|line| closed.iter().all(|label| line.contains(label)) && line.ends_with(" 1"))
        {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("not counted as idle:\n{}", proxy.metrics().await);
}

#[tokio::test]
async fn a_long_exchange_is_not_idle() {
    let upstream = Recorder::start(|_, mut peer| async move {
        peer.request().await.unwrap();
        tokio::time::sleep(Duration::from_millis(600)).await;
        peer.send(OK).await;
    })
    .await;
    let settings = json!({
        "timeouts": { "idle": "100ms", "head": "100ms" },
        "inbound": { "app_protocol": "http1" },
    });
    let proxy = Pillion::inbound_to(upstream.addr, settings);
    let mut caller = Peer::connect(proxy.inbound()).await;
    caller.send(GET).await;
    assert_eq!(caller.response().await.unwrap(), OK);

    let mut caller = Peer::connect(proxy.inbound()).await;
    caller.send(&frames::opening()).await;
    let headers = frames::frame(
        frames::HEADERS,
        frames::END_HEADERS | frames::END_STREAM,
        1,
        &frames::block(&frames::GET),
    );
    caller.send(&headers).await;
    loop {
        let frame = frames::read(&mut caller).await.unwrap();
        assert_ne!(frame.kind, frames::GOAWAY, "not before the answer");
        if frame.kind == frames::HEADERS {
            assert_eq!(frame.status(), 200);
            break;
        }
    }
}

#[tokio::test]
async fn an_upload_longer_than_the_response_time_is_no_time_out() {
    let upstream = Recorder::friendly().await;
    let settings = json!({ "timeouts": { "response": "200ms" } });
    let proxy = Pillion::inbound_to(upstream.addr, settings);
    let mut caller = Peer::connect(proxy.inbound()).await;
    caller
        .send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n")
        .await;
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        caller.send(b"x").await;
    }
    assert_eq!(caller.response().await.unwrap(), OK);
}

#[tokio::test]
async fn a_request_with_a_body_has_no_more_time_for_its_response() {
    let upstream = Recorder::start(|_, mut peer| async move {
        peer.request().await.unwrap();
        peer.rest().await.ok();
    })
    .await;
    let settings = json!({ "timeouts": { "response": "200ms" } });
    let proxy = Pillion::inbound_to(upstream.addr, settings);
    let mut caller = Peer::connect(proxy.inbound()).await;
    caller
        .send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nx")
        .await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    caller.send(b"x").await;
    let answer = caller.response().await.unwrap();
    assert!(is_refusal(&answer, "504"), "{}", show(&answer));
}

/// An HTTP/2 request for `host` over a connection of its own, answered or not.
async fn http2_get(proxy: std::net::SocketAddr, host: std::net::SocketAddr) -> u16 {
    let mut caller = Peer::connect(proxy).await;
    let host = host.to_string();
    let fields: [(&[u8], &[u8]); 4] = [
        (b":method", b"GET"),
        (b":scheme", b"http"),
        (b":path", b"/"),
        (b":authority", host.as_bytes()),
    ];
    let flags = frames::END_HEADERS | frames::END_STREAM;
    let request = frames::frame(frames::HEADERS, flags, 1, &frames::block(&fields));
    caller.send(&[frames::opening(), request].concat()).await;
    loop {
        let frame = frames::read(&mut caller).await.unwrap();
        if frame.kind == frames::HEADERS {
            return frame.status();
        }
    }
}

/// A server that answers HTTP/2 requests and tells when a connection of its ends.
async fn http2_server() -> (
    std::net::SocketAddr,
    tokio::sync::mpsc::UnboundedReceiver<()>,
) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (told, ended) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let told = told.clone();
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    respond
                        .send_response(http::Response::new(()), true)
                        .unwrap();
                }
                // The test may be over.
                told.send(()).ok();
            });
        }
    });
    (addr, ended)
}

#[tokio::test]
async fn an_idle_http2_connection_to_an_upstream_is_closed() {
    let (addr, mut ended) = http2_server().await;
    for (timeouts, is_program, why) in [
        (
            json!({ "program_idle": "100ms", "upstream_idle": "1h" }),
            true,
            "the program",
        ),
        (
            json!({ "upstream_idle": "100ms", "program_idle": "1h" }),
            false,
            "another",
        ),
    ] {
        let proxy = Pillion::inbound_to(addr, json!({ "timeouts": timeouts }));
        let front = match is_program {
            true => proxy.inbound(),
            false => proxy.outbound(),
        };
        assert_eq!(http2_get(front, addr).await, 200);
        let limit = Duration::from_secs(20);
        let closed = tokio::time::timeout(limit, ended.recv()).await;
        closed.expect(why).unwrap();
    }
}

#[tokio::test]
async fn an_idle_http2_connection_makes_room_for_another_destination() {
    let (one, mut ended) = http2_server().await;
    let (other, _) = http2_server().await;
    let settings = json!({ "limits": { "upstream_connections": 1 } });
    let proxy = Pillion::start(settings);
    assert_eq!(http2_get(proxy.outbound(), one).await, 200);
    assert_eq!(http2_get(proxy.outbound(), other).await, 200);
    ended.recv().await.unwrap();
}
