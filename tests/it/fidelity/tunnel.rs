//! Connections that stop being HTTP: upgrades and CONNECT.

use std::time::Duration;

use serde_json::json;

use super::in_front_of;
use crate::support::proxy::Pillion;
use crate::support::raw::Peer;
use crate::support::raw::Recorder;
use crate::support::raw::find;
use crate::support::raw::show;

conversations![
    websocket_with_bytes_right_behind_the_101,
    upgrade_with_bytes_right_behind_the_request,
    upgrade_of_a_post_with_a_body,
    upgrade_that_is_refused,
    upgraded_connection_that_the_caller_half_closes,
    upgraded_connection_that_the_upstream_half_closes,
    upgrade_through_the_forward_proxy,
    a_megabyte_both_ways,
    connect_tunnel,
    connect_tunnel_with_early_bytes,
    connect_tunnel_that_the_caller_half_closes,
    connect_tunnel_that_the_upstream_half_closes,
    connect_tunnel_that_the_upstream_resets,
    connect_that_finds_nobody_then_another_request,
];

const UPGRADE: &[u8] = b"GET /chat HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\n\r\n";
const FORWARDED: &[u8] = b"GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\n\r\n";
const SWITCHED: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: y\r\nX-A: 1\r\n\r\n";

/// Accepts the upgrade, then echoes until the end.
async fn echo_after_101(mut peer: Peer) {
    peer.head().await.unwrap();
    peer.send(SWITCHED).await;
    echo(peer).await;
}

async fn echo(mut peer: Peer) {
    while let Ok(bytes) = peer
        .take_by(|bytes| (!bytes.is_empty()).then_some(bytes.len()))
        .await
    {
        peer.send(&bytes).await;
    }
    peer.half_close().await;
}

fn untraced() -> serde_json::Value {
    json!({ "spans": { "enabled": false } })
}

async fn websocket_with_bytes_right_behind_the_101() {
    let upstream = Recorder::start(|_, mut peer| async move {
        peer.head().await.unwrap();
        peer.send(&[SWITCHED, b"\x81\x05hello"].concat()).await;
        echo(peer).await;
    })
    .await;
    let proxy = in_front_of(upstream.addr, untraced());
    let mut caller = Peer::connect(proxy.inbound()).await;
    caller.send(UPGRADE).await;
    let head = caller.head().await.unwrap();
    assert_eq!(head, SWITCHED, "{}", show(&head));
    assert_eq!(caller.exactly(7).await.unwrap(), b"\x81\x05hello");
    caller.send(b"\x81\x83\0\0\0\0abc").await;
    assert_eq!(caller.exactly(9).await.unwrap(), b"\x81\x83\0\0\0\0abc");
    let seen = upstream.all();
    assert_eq!(
        seen,
        [FORWARDED, b"\x81\x83\0\0\0\0abc"].concat(),
        "{}",
        show(&seen)
    );
}

async fn upgrade_with_bytes_right_behind_the_request() {
    let upstream = Recorder::start(|_, peer| echo_after_101(peer)).await;
    let proxy = in_front_of(upstream.addr, untraced());
    let mut caller = Peer::connect(proxy.inbound()).await;
    // Not HTTP, and more than one line of it.
    caller.send(&[UPGRADE, b"early\n\n\0bytes"].concat()).await;
    assert_eq!(caller.head().await.unwrap(), SWITCHED);
    assert_eq!(caller.exactly(13).await.unwrap(), b"early\n\n\0bytes");
}

async fn upgrade_of_a_post_with_a_body() {
    let upstream = Recorder::start(|_, mut peer| async move {
        peer.request().await.unwrap();
        peer.send(SWITCHED).await;
        echo(peer).await;
    })
    .await;
    let proxy = in_front_of(upstream.addr, untraced());
    let mut caller = Peer::connect(proxy.inbound()).await;
    let request = b"POST /exec HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 4\r\n\r\nbody";
    caller.send(request).await;
    assert_eq!(caller.head().await.unwrap(), SWITCHED);
    caller.send(b"raw").await;
    assert_eq!(caller.exactly(3).await.unwrap(), b"raw");
    assert_eq!(upstream.all(), [&request[..], b"raw"].concat());
}

async fn upgrade_that_is_refused() {
    let upstream = Recorder::start(|_, mut peer| async move {
        while peer.request().await.is_ok() {
            peer.send(b"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 2\r\n\r\nno")
                .await;
        }
    })
    .await;
    let proxy = in_front_of(upstream.addr, untraced());
    let mut caller = Peer::connect(proxy.inbound()).await;
    for _ in 0..2 {
        caller.send(UPGRADE).await;
        let answer = caller.response().await.unwrap();
        assert_eq!(
            answer,
            b"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 2\r\n\r\nno"
        );
    }
    assert_eq!(upstream.all(), [FORWARDED, FORWARDED].concat());
}

async fn upgraded_connection_that_the_caller_half_closes() {
    let upstream = Recorder::start(|_, mut peer| async move {
        peer.head().await.unwrap();
        peer.send(SWITCHED).await;
        let all = peer.rest().await.unwrap();
        peer.send(&[b"got ", &all[..]].concat()).await;
    })
    .await;
    let proxy = in_front_of(upstream.addr, untraced());
    let mut caller = Peer::connect(proxy.inbound()).await;
    caller.send(UPGRADE).await;
    caller.head().await.unwrap();
    caller.send(b"all").await;
    caller.half_close().await;
    assert_eq!(caller.rest().await.unwrap(), b"got all");
}

async fn upgraded_connection_that_the_upstream_half_closes() {
    let upstream = Recorder::start(|_, mut peer| async move {
        peer.head().await.unwrap();
        peer.send(&[SWITCHED, b"bye"].concat()).await;
        peer.half_close().await;
        peer.rest().await.ok();
    })
    .await;
    let proxy = in_front_of(upstream.addr, untraced());
    let mut caller = Peer::connect(proxy.inbound()).await;
    caller.send(UPGRADE).await;
    caller.head().await.unwrap();
    assert_eq!(caller.rest().await.unwrap(), b"bye");
    caller.send(b"one more thing").await;
    super::eventually(|| upstream.all().ends_with(b"one more thing")).await;
}

async fn upgrade_through_the_forward_proxy() {
    let upstream = Recorder::start(|_, peer| echo_after_101(peer)).await;
    let proxy = Pillion::start(untraced());
    let mut caller = Peer::connect(proxy.outbound()).await;
    let request = format!(
        "GET http://{0}/chat HTTP/1.1\r\nHost: {0}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        upstream.addr
    );
    caller.send(request.as_bytes()).await;
    assert_eq!(caller.head().await.unwrap(), SWITCHED);
    caller.send(b"ping").await;
    assert_eq!(caller.exactly(4).await.unwrap(), b"ping");
    assert!(upstream.all().starts_with(b"GET /chat HTTP/1.1\r\n"));
}

async fn a_megabyte_both_ways() {
    let upstream = Recorder::start(|_, peer| echo_after_101(peer)).await;
    let proxy = in_front_of(upstream.addr, untraced());
    let mut caller = Peer::connect(proxy.inbound()).await;
    caller.send(UPGRADE).await;
    caller.head().await.unwrap();
    let large: Vec<u8> = (0..1_000_000_u32).map(|n| ((n * 31) >> 3) as u8).collect();
    for piece in large.chunks(50_000) {
        caller.send(piece).await;
        assert!(caller.exactly(piece.len()).await.unwrap() == piece);
    }
}

async fn open_tunnel(upstream: &Recorder, early: &[u8]) -> (Pillion, Peer) {
    let proxy = Pillion::start(json!({}));
    let mut caller = Peer::connect(proxy.outbound()).await;
    let connect = format!("CONNECT {0} HTTP/1.1\r\nHost: {0}\r\n\r\n", upstream.addr);
    caller.send(&[connect.as_bytes(), early].concat()).await;
    let head = caller.head().await.unwrap();
    assert_eq!(head, b"HTTP/1.1 200 OK\r\n\r\n", "{}", show(&head));
    (proxy, caller)
}

async fn connect_tunnel() {
    let upstream = Recorder::start(|_, peer| echo(peer)).await;
    let (_proxy, mut caller) = open_tunnel(&upstream, b"").await;
    for bytes in [
        &b"\x16\x03\x01 not looked at"[..],
        b"GET / HTTP/9\n\n",
        b"\0",
    ] {
        caller.send(bytes).await;
        assert_eq!(caller.exactly(bytes.len()).await.unwrap(), bytes);
    }
}

async fn connect_tunnel_with_early_bytes() {
    let upstream = Recorder::start(|_, peer| echo(peer)).await;
    let (_proxy, mut caller) = open_tunnel(&upstream, b"early\n\0").await;
    assert_eq!(caller.exactly(7).await.unwrap(), b"early\n\0");
    assert_eq!(upstream.all(), b"early\n\0");
}

async fn connect_tunnel_that_the_caller_half_closes() {
    let upstream = Recorder::start(|_, mut peer| async move {
        let all = peer.rest().await.unwrap();
        peer.send(&[b"got ", &all[..]].concat()).await;
    })
    .await;
    let (_proxy, mut caller) = open_tunnel(&upstream, b"").await;
    caller.send(b"all").await;
    caller.half_close().await;
    assert_eq!(caller.rest().await.unwrap(), b"got all");
}

async fn connect_tunnel_that_the_upstream_half_closes() {
    let upstream = Recorder::start(|_, mut peer| async move {
        peer.send(b"bye").await;
        peer.half_close().await;
        peer.rest().await.ok();
    })
    .await;
    let (_proxy, mut caller) = open_tunnel(&upstream, b"").await;
    assert_eq!(caller.rest().await.unwrap(), b"bye");
    caller.send(b"one more thing").await;
    super::eventually(|| upstream.all() == b"one more thing").await;
}

async fn connect_tunnel_that_the_upstream_resets() {
    let upstream = Recorder::start(|_, mut peer| async move {
        peer.exactly(1).await.unwrap();
        peer.reset();
    })
    .await;
    let (_proxy, mut caller) = open_tunnel(&upstream, b"x").await;
    assert_eq!(caller.rest().await.unwrap(), b"");
}

async fn connect_that_finds_nobody_then_another_request() {
    let upstream = Recorder::friendly().await;
    let proxy = Pillion::start(json!({}));
    let free = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let mut caller = Peer::connect(proxy.outbound()).await;
    let connect = format!("CONNECT {free} HTTP/1.1\r\nHost: {free}\r\n\r\n");
    caller.send(connect.as_bytes()).await;
    let answer = caller.response().await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 502 "), "{}", show(&answer));
    assert!(find(&answer, b"\r\n\r\npillion: ").is_some());
    let get = format!(
        "GET http://{0}/ HTTP/1.1\r\nHost: {0}\r\n\r\n",
        upstream.addr
    );
    caller.send(get.as_bytes()).await;
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert!(caller.response().await.unwrap().ends_with(b"ok"));
}
