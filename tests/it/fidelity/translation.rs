//! HTTP/2 on one side and HTTP/1 on the other.

use bytes::Bytes;
use http::HeaderValue;
use http::Request;
use http::Response;
use serde_json::json;

use super::http2::all;
use super::http2::answer;
use super::http2::connect;
use super::http2::get;
use super::http2::post;
use super::http2::serve;
use super::in_front_of;
use crate::support::raw::Peer;
use crate::support::raw::Recorder;
use crate::support::raw::dechunk;
use crate::support::raw::find;
use crate::support::raw::show;

conversations![
    extended_connect_is_not_offered_before_an_http1_program,
    http2_caller_of_an_http1_program,
    http2_get_with_a_body_of_unknown_length_for_an_http1_program,
    http2_trailers_from_an_http1_program,
    http2_cookies_for_an_http1_program,
    http1_caller_of_an_http2_program,
    http1_upgrade_towards_an_http2_program,
];

async fn extended_connect_is_not_offered_before_an_http1_program() {
    let upstream = Recorder::friendly().await;
    let proxy = in_front_of(upstream.addr, to_http1());
    let mut client = connect(proxy.inbound()).await;
    let request = client.send_request(get("/"), true).unwrap().0;
    assert_eq!(request.await.unwrap().status(), 200);
    assert!(!client.is_extended_connect_protocol_enabled());
}

fn to_http1() -> serde_json::Value {
    json!({ "inbound": { "app_protocol": "http1" }, "spans": { "enabled": false } })
}

async fn http2_caller_of_an_http1_program() {
    let upstream = Recorder::start(|_, mut peer| async move {
        peer.request().await.unwrap();
        peer.send(
            b"HTTP/1.1 299 Odd\r\nX-Up: 1\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        )
        .await;
    })
    .await;
    let proxy = in_front_of(upstream.addr, to_http1());
    let mut client = connect(proxy.inbound()).await;
    let mut request = post("/p?q");
    request
        .headers_mut()
        .insert("content-length", HeaderValue::from_static("4"));
    request
        .headers_mut()
        .insert("x-a", HeaderValue::from_static("1"));
    let (response, mut stream) = client.send_request(request, false).unwrap();
    stream.send_data(Bytes::from("body"), true).unwrap();
    let response = response.await.unwrap();
    assert_eq!(response.status(), 299);
    assert_eq!(response.headers()["x-up"], "1");
    assert!(!response.headers().contains_key("connection"));
    assert_eq!(all(response.into_body()).await.0, b"ok");
    let expected = "POST /p?q HTTP/1.1\r\ncontent-length: 4\r\nx-a: 1\r\nhost: app\r\n\r\nbody";
    let seen = upstream.all();
    assert_eq!(seen, expected.as_bytes(), "{}", show(&seen));
}

async fn http2_get_with_a_body_of_unknown_length_for_an_http1_program() {
    for method in ["GET", "POST", "DELETE", "OPTIONS"] {
        let upstream = Recorder::friendly().await;
        let proxy = in_front_of(upstream.addr, to_http1());
        let mut client = connect(proxy.inbound()).await;
        let request = Request::builder()
            .method(method)
            .uri("http://app/")
            .body(())
            .unwrap();
        let (response, mut stream) = client.send_request(request, false).unwrap();
        stream.send_data(Bytes::from("body"), true).unwrap();
        assert_eq!(response.await.unwrap().status(), 200, "{method}");
        let seen = upstream.all();
        let (head, body) = seen.split_at(find(&seen, b"\r\n\r\n").unwrap() + 4);
        assert!(
            find(head, b"transfer-encoding: chunked\r\n").is_some(),
            "{}",
            show(&seen)
        );
        assert_eq!(
            dechunk(body).unwrap().0,
            b"body",
            "{method}: {}",
            show(&seen)
        );
    }
}

async fn http2_trailers_from_an_http1_program() {
    let upstream = Recorder::start(|_, mut peer| async move {
        peer.request().await.unwrap();
        peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\ngrpc-status: 0\r\n\r\n")
            .await;
    })
    .await;
    let proxy = in_front_of(upstream.addr, to_http1());
    let mut client = connect(proxy.inbound()).await;
    let response = client
        .send_request(get("/"), true)
        .unwrap()
        .0
        .await
        .unwrap();
    assert!(!response.headers().contains_key("transfer-encoding"));
    let (content, trailers) = all(response.into_body()).await;
    assert_eq!(content, b"ok");
    assert_eq!(trailers.unwrap()["grpc-status"], "0");
}

async fn http2_cookies_for_an_http1_program() {
    let upstream = Recorder::friendly().await;
    let proxy = in_front_of(upstream.addr, to_http1());
    let mut client = connect(proxy.inbound()).await;
    let mut request = get("/");
    for crumb in ["a=1", "b=2", "c=3"] {
        request
            .headers_mut()
            .append("cookie", HeaderValue::from_static(crumb));
    }
    client.send_request(request, true).unwrap().0.await.unwrap();
    let seen = upstream.all();
    assert!(
        find(&seen, b"cookie: a=1; b=2; c=3\r\n").is_some(),
        "{}",
        show(&seen)
    );
}

async fn http1_caller_of_an_http2_program() {
    let upstream = serve(|request, mut respond| async move {
        assert_eq!(request.uri(), "http://app/p?q");
        for gone in ["host", "connection", "transfer-encoding", "keep-alive"] {
            assert!(!request.headers().contains_key(gone), "{gone}");
        }
        assert_eq!(request.headers()["x-a"], "1");
        let (content, _) = all(request.into_body()).await;
        let response = Response::builder().header("x-up", "1").body(()).unwrap();
        let mut stream = respond.send_response(response, false).unwrap();
        stream.send_data(content.into(), true).unwrap();
    })
    .await;
    let proxy = in_front_of(upstream, json!({ "inbound": { "app_protocol": "http2" } }));
    let mut caller = Peer::connect(proxy.inbound()).await;
    for _ in 0..2 {
        caller
            .send(b"POST /p?q HTTP/1.1\r\nHost: app\r\nConnection: keep-alive\r\nX-A: 1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
            .await;
        let answer = caller.response().await.unwrap();
        let (head, body) = answer.split_at(find(&answer, b"\r\n\r\n").unwrap() + 4);
        assert_eq!(
            head,
            b"HTTP/1.1 200 OK\r\nx-up: 1\r\ntransfer-encoding: chunked\r\n\r\n",
            "{}",
            show(head)
        );
        assert_eq!(dechunk(body).unwrap().0, b"abc");
    }
}

async fn http1_upgrade_towards_an_http2_program() {
    let upstream = serve(|request, respond| async move {
        assert!(!request.headers().contains_key("upgrade"));
        let response = Response::builder().status(426).body(()).unwrap();
        answer(respond, response, "");
    })
    .await;
    let proxy = in_front_of(upstream, json!({ "inbound": { "app_protocol": "http2" } }));
    let mut caller = Peer::connect(proxy.inbound()).await;
    caller
        .send(b"GET / HTTP/1.1\r\nHost: app\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        .await;
    let answer = caller.response().await.unwrap();
    assert!(
        answer.starts_with(b"HTTP/1.1 426 "),
        "an upgrade may be ignored: {}",
        show(&answer)
    );
}
