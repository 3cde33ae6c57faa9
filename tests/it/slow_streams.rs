//! Streams that share a connection of HTTP/2: whoever is slow to take a body holds up no other.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use h2::SendStream;
use http::Request;
use http::Response;
use serde_json::json;

use crate::support::proxy::Pillion;
use crate::support::raw::Peer;
use crate::support::raw::Recorder;
use crate::support::raw::find;

/// More than the system keeps of a body on its way, several times over.
const LARGE: usize = 32;
const PIECE: usize = 1 << 20;
/// Bodies that nobody takes.
const STUCK: usize = 8;
const DEADLINE: Duration = Duration::from_secs(10);
const RECEIVED: &str = "pillion_received_bytes_total";
const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Sends a body as fast as flow control lets it: it waits in this process.
fn send_large(body: &mut SendStream<Bytes>) {
    let piece = Bytes::from(vec![b'x'; PIECE]);
    for _ in 0..LARGE {
        body.send_data(piece.clone(), false).unwrap();
    }
}

/// Waits until no more bytes come from this side: whoever does not read has all that it gets.
async fn nothing_moves(proxy: &Pillion, peer: &str) {
    let received = async || {
        let labels = ["direction=\"inbound\"", peer];
        proxy.metric(RECEIVED, &labels).await
    };
    let mut before = 0.0;
    loop {
        let now = received().await;
        if now > 0.0 && now == before {
            return;
        }
        before = now;
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

/// A server that speaks HTTP/2 and takes so many streams at a time: `/large` has a large body, `/hold` no answer, all else
/// a small body.
async fn server(streams: u32) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut builder = h2::server::Builder::new();
                builder.max_concurrent_streams(streams);
                let mut connection = builder.handshake(stream).await.unwrap();
                let (mut held, mut bodies) = (Vec::new(), Vec::new());
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    if request.uri().path() == "/hold" {
                        held.push(respond);
                        continue;
                    }
                    let mut body = respond.send_response(Response::new(()), false).unwrap();
                    match request.uri().path() {
                        "/large" => send_large(&mut body),
                        _ => body.send_data(Bytes::from_static(b"ok"), true).unwrap(),
                    }
                    bodies.push(body);
                }
            });
        }
    });
    addr
}

#[tokio::test]
async fn callers_that_do_not_read_hold_up_no_other_stream_of_the_upstream() {
    let upstream = server(1000).await;
    let settings = json!({ "inbound": { "app_protocol": "http2" } });
    let proxy = Pillion::inbound_to(upstream, settings);
    let mut slow = Vec::new();
    for _ in 0..STUCK {
        let mut caller = Peer::connect(proxy.inbound()).await;
        let get = b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n";
        caller.send(get).await;
        // The response has begun; its body is never read.
        caller.exactly(1).await.unwrap();
        slow.push(caller);
    }
    nothing_moves(&proxy, "upstream").await;
    let mut caller = Peer::connect(proxy.inbound()).await;
    for _ in 0..20 {
        caller.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let answer = caller.response().await.expect("held up");
        assert!(answer.starts_with(b"HTTP/1.1 200 "));
    }
}

#[tokio::test]
async fn a_program_that_does_not_read_holds_up_no_other_stream_of_the_caller() {
    let upstream = Recorder::start(|_, mut peer| async move {
        while let Ok(head) = peer.head().await {
            if find(&head, b"/stuck").is_some() {
                std::future::pending::<()>().await;
            }
            peer.until(b"hi").await.unwrap();
            peer.until(b"0\r\n\r\n").await.unwrap();
            peer.send(OK).await;
        }
    })
    .await;
    let settings = json!({ "inbound": { "app_protocol": "http1" } });
    let proxy = Pillion::inbound_to(upstream.addr, settings);
    let stream = tokio::net::TcpStream::connect(proxy.inbound()).await;
    let (mut caller, connection) = h2::client::handshake(stream.unwrap()).await.unwrap();
    tokio::spawn(async move {
        // It ends with the test.
        connection.await.unwrap_or_default();
    });
    let post = |path: &str| {
        let uri = format!("http://a{path}");
        Request::post(uri).body(()).unwrap()
    };
    let mut stuck = Vec::new();
    for _ in 0..STUCK {
        caller = caller.ready().await.unwrap();
        let (answer, mut body) = caller.send_request(post("/stuck"), false).unwrap();
        send_large(&mut body);
        stuck.push((answer, body));
    }
    while upstream.seen().len() < STUCK {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    nothing_moves(&proxy, "downstream").await;
    for _ in 0..20 {
        caller = caller.ready().await.unwrap();
        let (answer, mut body) = caller.send_request(post("/"), false).unwrap();
        body.send_data(Bytes::from_static(b"hi"), true).unwrap();
        let answer = tokio::time::timeout(DEADLINE, answer).await;
        assert_eq!(answer.expect("held up").unwrap().status(), 200);
    }
}

#[tokio::test]
async fn streams_that_take_long_hold_up_none_beyond_what_their_connection_takes() {
    const STREAMS: usize = 5;
    let upstream = server(STREAMS as u32).await;
    let settings = json!({ "inbound": { "app_protocol": "http2" } });
    let proxy = Pillion::inbound_to(upstream, settings);
    let mut held = Vec::new();
    for n in 1..=3 * STREAMS {
        let mut caller = Peer::connect(proxy.inbound()).await;
        caller.send(b"GET /hold HTTP/1.1\r\nHost: a\r\n\r\n").await;
        held.push(caller);
        while proxy.metric("pillion_http_active_requests", &[]).await < n as f64 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let mut caller = Peer::connect(proxy.inbound()).await;
        caller.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let answer = caller.response().await.expect("held up");
        assert!(answer.starts_with(b"HTTP/1.1 200 "));
    }
    let upwards = ["direction=\"inbound\"", "peer=\"upstream\""];
    let opened = proxy.metric("pillion_connections_opened_total", &upwards);
    assert!(opened.await <= 5.0, "no more connections than needed");
}
