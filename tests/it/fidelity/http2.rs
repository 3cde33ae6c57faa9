//! HTTP/2 on both sides.

use std::future::Future;
use std::net::SocketAddr;

use bytes::Bytes;
use h2::Reason;
use h2::RecvStream;
use h2::SendStream;
use h2::client::SendRequest;
use h2::ext::Protocol;
use h2::server::SendResponse;
use http::HeaderMap;
use http::HeaderValue;
use http::Request;
use http::Response;
use http::StatusCode;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::net::TcpStream;

use super::in_front_of;

conversations![
    grpc_with_trailers,
    grpc_with_trailers_only,
    grpc_stream_both_ways,
    fields_of_every_kind,
    fields_of_60_kib,
    a_response_without_content,
    a_head_request,
    a_large_body_both_ways,
    forty_streams_at_once,
    reset_by_the_caller,
    reset_by_the_upstream,
    upstream_that_says_goodbye,
    extended_connect,
];

/// An upstream with prior knowledge; each request is handled by `handle`.
pub(super) async fn serve<F>(
    handle: impl Fn(Request<RecvStream>, SendResponse<Bytes>) -> F + Clone + Send + 'static,
) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let handle = handle.clone();
            tokio::spawn(async move {
                let mut server = h2::server::Builder::new()
                    .enable_connect_protocol()
                    .handshake(tcp)
                    .await
                    .unwrap();
                while let Some(Ok((request, respond))) = server.accept().await {
                    tokio::spawn(handle(request, respond));
                }
            });
        }
    });
    addr
}

pub(super) async fn connect(to: SocketAddr) -> SendRequest<Bytes> {
    let tcp = TcpStream::connect(to).await.unwrap();
    let (client, connection) = h2::client::handshake(tcp).await.unwrap();
    tokio::spawn(async move { connection.await.unwrap_or_default() });
    client.ready().await.unwrap()
}

pub(super) fn get(path: &str) -> Request<()> {
    Request::get(format!("http://app{path}")).body(()).unwrap()
}

pub(super) fn post(path: &str) -> Request<()> {
    Request::post(format!("http://app{path}")).body(()).unwrap()
}

/// Everything of a body, and its trailers.
pub(super) async fn all(mut body: RecvStream) -> (Vec<u8>, Option<HeaderMap>) {
    let mut content = Vec::new();
    while let Some(data) = body.data().await {
        let data = data.unwrap();
        body.flow_control().release_capacity(data.len()).unwrap();
        content.extend_from_slice(&data);
    }
    (content, body.trailers().await.unwrap())
}

/// Sends as much as the other side takes at a time.
async fn send_all(stream: &mut SendStream<Bytes>, mut data: Bytes) {
    while !data.is_empty() {
        stream.reserve_capacity(data.len());
        let capacity = std::future::poll_fn(|cx| stream.poll_capacity(cx))
            .await
            .unwrap()
            .unwrap();
        stream
            .send_data(data.split_to(capacity.min(data.len())), false)
            .unwrap();
    }
}

/// Answers at once and ends the stream.
pub(super) fn answer(
    mut respond: SendResponse<Bytes>,
    response: Response<()>,
    content: &'static str,
) {
    let mut stream = respond.send_response(response, content.is_empty()).unwrap();
    if !content.is_empty() {
        stream.send_data(Bytes::from(content), true).unwrap();
    }
}

fn grpc_trailers(status: &'static str) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static(status));
    trailers.insert("grpc-message", HeaderValue::from_static("all%20well"));
    trailers.append("x-bin", HeaderValue::from_static("AAH/"));
    trailers.append("x-bin", HeaderValue::from_static("AgM="));
    trailers
}

async fn grpc_with_trailers() {
    let upstream = serve(|request, mut respond| async move {
        assert_eq!(request.headers()["te"], "trailers");
        assert_eq!(request.headers()["content-type"], "application/grpc");
        let (message, _) = all(request.into_body()).await;
        let head = Response::builder().header("content-type", "application/grpc");
        let mut stream = respond
            .send_response(head.body(()).unwrap(), false)
            .unwrap();
        stream.send_data(message.into(), false).unwrap();
        stream.send_trailers(grpc_trailers("0")).unwrap();
    })
    .await;
    let proxy = in_front_of(upstream, json!({}));
    let mut client = connect(proxy.inbound()).await;
    let mut request = post("/pkg.Service/Method");
    request
        .headers_mut()
        .insert("te", HeaderValue::from_static("trailers"));
    request
        .headers_mut()
        .insert("content-type", HeaderValue::from_static("application/grpc"));
    let (response, mut stream) = client.send_request(request, false).unwrap();
    stream
        .send_data(Bytes::from_static(b"\0\0\0\0\x03abc"), true)
        .unwrap();
    let response = response.await.unwrap();
    assert_eq!(response.headers()["content-type"], "application/grpc");
    let (content, trailers) = all(response.into_body()).await;
    assert_eq!(content, b"\0\0\0\0\x03abc");
    assert_eq!(trailers.unwrap(), grpc_trailers("0"));
}

async fn grpc_with_trailers_only() {
    let upstream = serve(|_, respond| async move {
        let head = Response::builder()
            .header("content-type", "application/grpc")
            .header("grpc-status", "5");
        answer(respond, head.body(()).unwrap(), "");
    })
    .await;
    let proxy = in_front_of(upstream, json!({}));
    let mut client = connect(proxy.inbound()).await;
    let (response, mut stream) = client
        .send_request(post("/pkg.Service/Method"), false)
        .unwrap();
    stream.send_data(Bytes::new(), true).unwrap();
    let response = response.await.unwrap();
    assert_eq!(response.headers()["grpc-status"], "5");
    assert!(response.body().is_end_stream(), "one frame, not two");
}

async fn grpc_stream_both_ways() {
    let upstream = serve(|request, mut respond| async move {
        let mut stream = respond.send_response(Response::new(()), false).unwrap();
        let mut body = request.into_body();
        while let Some(Ok(data)) = body.data().await {
            body.flow_control().release_capacity(data.len()).unwrap();
            stream.send_data(data, false).unwrap();
        }
        let mut trailers = body.trailers().await.unwrap().unwrap();
        trailers.extend(grpc_trailers("0"));
        stream.send_trailers(trailers).unwrap();
    })
    .await;
    let proxy = in_front_of(upstream, json!({}));
    let mut client = connect(proxy.inbound()).await;
    let (response, mut stream) = client.send_request(post("/"), false).unwrap();
    let mut body = response.await.unwrap().into_body();
    for message in ["one", "two", "three"] {
        stream.send_data(Bytes::from(message), false).unwrap();
        assert_eq!(body.data().await.unwrap().unwrap(), message);
        body.flow_control().release_capacity(message.len()).unwrap();
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("x-request-sum", HeaderValue::from_static("3"));
    stream.send_trailers(trailers).unwrap();
    let (_, trailers) = all(body).await;
    let trailers = trailers.unwrap();
    assert_eq!(
        trailers["x-request-sum"], "3",
        "trailers of requests pass too"
    );
    assert_eq!(trailers["grpc-status"], "0");
}

fn every_kind() -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("x-twice", &b"1"[..]),
        ("x-twice", b"2"),
        ("x-empty", b""),
        ("cookie", b"a=1"),
        ("cookie", b"b=2; c=3"),
        ("x-data-bin", b"AAECAwQ"),
        ("x-latin", b"caf\xe9"),
        ("set-cookie", b"x=1, y"),
        ("set-cookie", b"y=2"),
        ("via", b"1.1 somebody"),
    ] {
        headers.append(name, HeaderValue::from_bytes(value).unwrap());
    }
    headers
}

async fn fields_of_every_kind() {
    let upstream = serve(|request, respond| async move {
        assert_eq!(request.uri(), "http://app:81/a%2Fb//?x=%20&y");
        let mut response = Response::new(());
        *response.headers_mut() = request.headers().clone();
        *response.status_mut() = StatusCode::from_u16(599).unwrap();
        answer(respond, response, "");
    })
    .await;
    let proxy = in_front_of(upstream, json!({ "spans": { "enabled": false } }));
    let mut client = connect(proxy.inbound()).await;
    let mut request = get("");
    *request.uri_mut() = "http://app:81/a%2Fb//?x=%20&y".parse().unwrap();
    *request.headers_mut() = every_kind();
    let (response, _) = client.send_request(request, true).unwrap();
    let response = response.await.unwrap();
    assert_eq!(response.status(), 599);
    let lines = |headers: &HeaderMap| -> Vec<(String, HeaderValue)> {
        let lines = headers.iter();
        lines
            .map(|(name, value)| (name.to_string(), value.clone()))
            .collect()
    };
    assert_eq!(lines(response.headers()), lines(&every_kind()), "order too");
}

async fn fields_of_60_kib() {
    let upstream = serve(|request, respond| async move {
        let mut response = Response::new(());
        *response.headers_mut() = request.headers().clone();
        answer(respond, response, "");
    })
    .await;
    let proxy = in_front_of(upstream, json!({ "spans": { "enabled": false } }));
    let mut client = connect(proxy.inbound()).await;
    let mut request = get("/");
    let large = HeaderValue::from_str(&"v".repeat(60 * 1024)).unwrap();
    request.headers_mut().insert("x-large", large.clone());
    let (response, _) = client.send_request(request, true).unwrap();
    assert_eq!(response.await.unwrap().headers()["x-large"], large);
}

async fn a_response_without_content() {
    let upstream = serve(|_, respond| async move {
        let response = Response::builder().status(204).body(()).unwrap();
        answer(respond, response, "");
    })
    .await;
    let proxy = in_front_of(upstream, json!({}));
    let mut client = connect(proxy.inbound()).await;
    let response = client
        .send_request(get("/"), true)
        .unwrap()
        .0
        .await
        .unwrap();
    assert_eq!(response.status(), 204);
    assert!(response.headers().is_empty(), "{:?}", response.headers());
    assert!(response.body().is_end_stream());
}

async fn a_head_request() {
    let upstream = serve(|request, respond| async move {
        assert_eq!(request.method(), "HEAD");
        let response = Response::builder().header("content-length", "1234");
        answer(respond, response.body(()).unwrap(), "");
    })
    .await;
    let proxy = in_front_of(upstream, json!({}));
    let mut client = connect(proxy.inbound()).await;
    let request = Request::head("http://app/").body(()).unwrap();
    let response = client.send_request(request, true).unwrap().0.await.unwrap();
    assert_eq!(response.headers()["content-length"], "1234");
}

async fn a_large_body_both_ways() {
    let upstream = serve(|request, mut respond| async move {
        let mut stream = respond.send_response(Response::new(()), false).unwrap();
        let mut body = request.into_body();
        while let Some(Ok(data)) = body.data().await {
            body.flow_control().release_capacity(data.len()).unwrap();
            send_all(&mut stream, data).await;
        }
        stream.send_data(Bytes::new(), true).unwrap();
    })
    .await;
    let proxy = in_front_of(upstream, json!({}));
    let mut client = connect(proxy.inbound()).await;
    let (response, mut stream) = client.send_request(post("/"), false).unwrap();
    let large: Bytes = (0..3_000_000_u32).map(|n| ((n * 31) >> 3) as u8).collect();
    let sending = async {
        send_all(&mut stream, large.clone()).await;
        stream.send_data(Bytes::new(), true).unwrap();
    };
    let receiving = async { all(response.await.unwrap().into_body()).await.0 };
    let ((), received) = tokio::join!(sending, receiving);
    assert!(received == large, "{} bytes", received.len());
}

async fn forty_streams_at_once() {
    let upstream = serve(|request, mut respond| async move {
        let path = request.uri().path().to_owned();
        let (content, _) = all(request.into_body()).await;
        let mut stream = respond.send_response(Response::new(()), false).unwrap();
        stream
            .send_data([path.as_bytes(), &content].concat().into(), true)
            .unwrap();
    })
    .await;
    let proxy = in_front_of(upstream, json!({}));
    let mut client = connect(proxy.inbound()).await;
    let mut open = Vec::new();
    for number in 0..40 {
        client = client.ready().await.unwrap();
        open.push(
            client
                .send_request(post(&format!("/{number}:")), false)
                .unwrap(),
        );
    }
    // The last one ends first.
    for (number, (response, mut stream)) in open.into_iter().enumerate().rev() {
        stream
            .send_data(format!("body of {number}").into(), true)
            .unwrap();
        let (content, _) = all(response.await.unwrap().into_body()).await;
        assert_eq!(content, format!("/{number}:body of {number}").into_bytes());
    }
}

async fn reset_by_the_caller() {
    let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let upstream = serve(move |request, mut respond| {
        let told = told.clone();
        async move {
            if request.uri().path() == "/fine" {
                return answer(respond, Response::new(()), "fine");
            }
            told.send(None).unwrap();
            let reset = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
            told.send(Some(reset.unwrap())).unwrap();
        }
    })
    .await;
    let proxy = in_front_of(upstream, json!({}));
    let mut client = connect(proxy.inbound()).await;
    let (response, mut stream) = client.send_request(post("/reset"), false).unwrap();
    assert_eq!(heard.recv().await.unwrap(), None, "it arrived");
    stream.send_reset(Reason::CANCEL);
    drop(response);
    let reset = tokio::time::timeout(crate::support::raw::DEADLINE, heard.recv()).await;
    assert!(
        reset.unwrap().unwrap().is_some(),
        "the upstream hears of it"
    );
    let response = client
        .send_request(get("/fine"), true)
        .unwrap()
        .0
        .await
        .unwrap();
    assert_eq!(all(response.into_body()).await.0, b"fine");
}

async fn reset_by_the_upstream() {
    let upstream = serve(|request, mut respond| async move {
        match request.uri().path() {
            "/fine" => answer(respond, Response::new(()), "fine"),
            "/head" => respond.send_reset(Reason::INTERNAL_ERROR),
            _ => {
                let mut stream = respond.send_response(Response::new(()), false).unwrap();
                stream.send_data(Bytes::from("half"), false).unwrap();
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                stream.send_reset(Reason::INTERNAL_ERROR);
            }
        }
    })
    .await;
    let proxy = in_front_of(upstream, json!({}));
    let mut client = connect(proxy.inbound()).await;
    let response = client
        .send_request(get("/head"), true)
        .unwrap()
        .0
        .await
        .unwrap();
    assert_eq!(response.status(), 502, "before the head there is an answer");
    let response = client
        .send_request(get("/body"), true)
        .unwrap()
        .0
        .await
        .unwrap();
    let mut body = response.into_body();
    assert_eq!(body.data().await.unwrap().unwrap(), "half");
    let error = body.data().await.unwrap().unwrap_err();
    assert!(error.is_reset(), "{error}");
    let response = client
        .send_request(get("/fine"), true)
        .unwrap()
        .0
        .await
        .unwrap();
    assert_eq!(all(response.into_body()).await.0, b"fine");
}

async fn upstream_that_says_goodbye() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut server = h2::server::handshake(tcp).await.unwrap();
                let mut n_served = 0;
                while let Some(Ok((_, respond))) = server.accept().await {
                    answer(respond, Response::new(()), "served");
                    n_served += 1;
                    if n_served == 2 {
                        server.graceful_shutdown();
                    }
                }
            });
        }
    });
    let proxy = in_front_of(upstream, json!({}));
    let mut client = connect(proxy.inbound()).await;
    for number in 0..10 {
        let response = client
            .send_request(get("/"), true)
            .unwrap()
            .0
            .await
            .unwrap();
        assert_eq!(response.status(), 200, "{number}");
        assert_eq!(all(response.into_body()).await.0, b"served", "{number}");
    }
}

async fn extended_connect() {
    let upstream = serve(|request, mut respond| async move {
        assert_eq!(
            request.extensions().get::<Protocol>().unwrap().as_str(),
            "websocket"
        );
        assert_eq!(request.headers()["sec-websocket-version"], "13");
        let mut stream = respond.send_response(Response::new(()), false).unwrap();
        let mut body = request.into_body();
        while let Some(Ok(data)) = body.data().await {
            body.flow_control().release_capacity(data.len()).unwrap();
            stream.send_data(data, false).unwrap();
        }
        stream.send_data(Bytes::new(), true).unwrap();
    })
    .await;
    let proxy = in_front_of(upstream, json!({}));
    let mut client = connect(proxy.inbound()).await;
    super::eventually(|| client.is_extended_connect_protocol_enabled()).await;
    let mut request = Request::builder()
        .method("CONNECT")
        .uri("http://app/chat")
        .header("sec-websocket-version", "13")
        .body(())
        .unwrap();
    request
        .extensions_mut()
        .insert(Protocol::from_static("websocket"));
    let (response, mut stream) = client.send_request(request, false).unwrap();
    let response = response.await.unwrap();
    assert_eq!(response.status(), 200);
    let mut body = response.into_body();
    for message in ["one", "two"] {
        stream.send_data(Bytes::from(message), false).unwrap();
        assert_eq!(body.data().await.unwrap().unwrap(), message);
        body.flow_control().release_capacity(message.len()).unwrap();
    }
    stream.send_data(Bytes::new(), true).unwrap();
    assert!(all(body).await.0.is_empty());
}
