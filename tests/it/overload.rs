//! Too much to do, or nobody to do it: who is turned away is told the same on either path, and leaves nothing behind.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;

use crate::support::pillion;
use crate::support::proxy::Pillion;
use crate::support::raw::Peer;
use crate::support::raw::Recorder;
use crate::support::raw::find;
use crate::support::raw::show;

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const HOLD: &[u8] = b"GET /hold HTTP/1.1\r\nHost: a\r\n\r\n";
const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Answers everything but `/hold`.
async fn upstream() -> Recorder {
    Recorder::start(|_, mut peer| async move {
        while let Ok(request) = peer.request().await {
            if find(&request, b"/hold").is_some() {
                peer.rest().await.ok();
                std::future::pending::<()>().await;
            }
            peer.send(OK).await;
        }
    })
    .await
}

/// Takes so many places among the requests in flight, for as long as the callers are there.
async fn take_places(to: SocketAddr, upstream: &Recorder, count: usize) -> Vec<Peer> {
    let mut callers = Vec::new();
    for _ in 0..count {
        let mut caller = Peer::connect(to).await;
        caller.send(HOLD).await;
        callers.push(caller);
    }
    let held = || {
        let all = upstream.all();
        all.windows(5).filter(|part| part == b"/hold").count()
    };
    while held() < count {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    callers
}

#[tokio::test]
async fn who_is_turned_away_is_told_why_and_may_come_again() {
    let upstream = upstream().await;
    let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nobody = free.local_addr().unwrap();
    drop(free);
    let refused = format!("connect to {nobody} failed: Connection refused (os error 111)");
    for (app, settings, places, asked, status, retry, reason) in [
        (
            upstream.addr,
            json!({ "limits": { "requests": 1 } }),
            1,
            GET,
            "503 Service Unavailable",
            "retry-after: 1\r\n",
            "more than 1 requests in flight",
        ),
        (
            upstream.addr,
            json!({ "timeouts": { "response": "100ms" } }),
            0,
            HOLD,
            "504 Gateway Timeout",
            "",
            "no response within 100ms",
        ),
        (
            nobody,
            json!({}),
            0,
            GET,
            "502 Bad Gateway",
            "",
            refused.as_str(),
        ),
    ] {
        let proxy = Pillion::inbound_to(app, settings);
        let _held = take_places(proxy.inbound(), &upstream, places).await;
        let text = format!("pillion: {reason}\n");
        let expected = format!(
            "HTTP/1.1 {status}\r\ncontent-type: text/plain; charset=utf-8\r\n{retry}content-length: {}\r\n\r\n{text}",
            text.len()
        );
        let mut caller = Peer::connect(proxy.inbound()).await;
        for _ in 0..3 {
            caller.send(asked).await;
            let answer = caller.response().await.unwrap();
            assert_eq!(show(&answer), show(expected.as_bytes()));
        }
        let head = asked.strip_suffix(b"\r\n").unwrap();
        caller
            .send(&[head, b"Connection: close\r\n\r\n"].concat())
            .await;
        let last = caller.rest().await.unwrap();
        let says_so = find(&last, b"\r\nconnection: close\r\n").is_some();
        assert!(says_so, "{}", show(&last));
        let label = format!("status_code=\"{}\"", &status[..3]);
        let counted = proxy.metric("pillion_http_requests_total", &[&label]).await;
        assert_eq!(counted, 4.0, "{status}");
    }
}

#[tokio::test]
async fn connections_stay_small_when_their_requests_are_turned_away() {
    const CALLERS: usize = 300;
    const PLACES: usize = 4;
    /// Less than what the library holds for a connection, by far.
    const EACH: usize = 4 << 10;
    if std::env::var_os("PILLION_TEST_LIBRARY_ALONE").is_some() {
        return;
    }
    let upstream = upstream().await;
    let config = json!({
        "app": upstream.addr.to_string(),
        "workers": 1,
        "inbound": { "listen": "127.0.0.1:0", "app_protocol": "http1" },
        "outbound": { "enabled": false },
        "admin": { "listen": "" },
        "limits": { "requests": PLACES },
        // Loading the kernel's types takes tens of megabytes for a moment.
        "linking": { "kernel": "off" },
        "view": { "enabled": false },
    });
    let process = pillion::Pillion::run(&config.to_string());
    let to = SocketAddr::from(([127, 0, 0, 1], process.port("inbound")));
    let mut callers = Vec::new();
    for _ in 0..CALLERS {
        let mut caller = Peer::connect(to).await;
        caller.send(GET).await;
        assert_eq!(caller.response().await.unwrap(), OK);
        callers.push(caller);
    }
    let _held = take_places(to, &upstream, PLACES).await;
    let before = process.memory();
    assert!(before > 0, "the system does not say");
    for caller in &mut callers {
        caller.send(GET).await;
        let answer = caller.response().await.unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 503 "), "{}", show(&answer));
    }
    let grown = process.memory().saturating_sub(before) / CALLERS;
    println!("{grown} bytes more for each connection");
    assert!(grown < EACH, "{grown} bytes more for each connection");
}
