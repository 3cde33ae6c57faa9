//! Against servers on loopback: versions, limits, failures.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;

use hyper::body::Frame;
use hyper::body::Incoming;
use hyper::service::service_fn;
use tokio::net::TcpListener;

use super::*;

const SECOND: Duration = Duration::from_secs(5);

/// A server that answers with the version it was spoken to in, the request's body and one trailer.
async fn serve(bind: &str, http2: bool) -> SocketAddr {
    let listener = TcpListener::bind(bind).await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let io = TokioIo::new(tcp);
            tokio::spawn(async move {
                if http2 {
                    hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                        .serve_connection(io, service_fn(echo))
                        .await
                } else {
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(io, service_fn(echo))
                        .await
                }
            });
        }
    });
    addr
}

async fn echo(
    request: Request<Incoming>,
) -> Result<Response<impl http_body::Body<Data = Bytes, Error = Infallible>>, Infallible> {
    let version = format!("{:?} ", request.version());
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().unwrap());
    let frames = [
        Frame::data(Bytes::from(version)),
        Frame::data(body),
        Frame::trailers(trailers),
    ];
    let body = Frames(frames.into());
    Ok(Response::builder()
        .header("trailer", "grpc-status")
        .body(body)
        .unwrap())
}

/// A body of given frames.
struct Frames(VecDeque<Frame<Bytes>>);

impl http_body::Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front().map(Ok))
    }
}

fn post(uri: &str) -> Request<Full<Bytes>> {
    Request::post(uri)
        .header("te", "trailers")
        .body(Full::from("spans"))
        .unwrap()
}

#[tokio::test]
async fn http1_and_http2_with_prior_knowledge_carry_body_and_trailers() {
    for (http2, client, expected) in [
        (false, Client::plain(), "HTTP/1.1 spans"),
        (true, Client::h2_only(None), "HTTP/2.0 spans"),
    ] {
        let addr = serve("127.0.0.1:0", http2).await;
        let request = post(&format!("http://{addr}/v1/traces"));
        let answer = client
            .send_with_trailers(request, SECOND, 1_000)
            .await
            .unwrap();
        assert_eq!(answer.response.body(), expected);
        assert_eq!(answer.trailers["grpc-status"], "0", "{expected}");
    }
}

#[tokio::test]
async fn bracketed_ipv6_addresses_and_names_are_reached() {
    let Ok(probe) = TcpListener::bind("[::1]:0").await else {
        println!("skipped: no IPv6 loopback");
        return;
    };
    drop(probe);
    let addr = serve("[::1]:0", false).await;
    let uri = format!("http://[::1]:{}/", addr.port());
    Client::plain()
        .send(post(&uri), SECOND, 1_000)
        .await
        .unwrap();
    let addr = serve("127.0.0.1:0", false).await;
    let uri = format!("http://localhost:{}/", addr.port());
    Client::plain()
        .send(post(&uri), SECOND, 1_000)
        .await
        .unwrap();
}

#[tokio::test]
async fn what_exceeds_the_callers_limit_is_told_apart_from_a_broken_exchange() {
    let addr = serve("127.0.0.1:0", false).await;
    let uri = format!("http://{addr}/");
    let error = Client::plain().send(post(&uri), SECOND, 10).await;
    assert!(matches!(error, Err(ClientError::TooLarge(10))), "{error:?}");

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move { while listener.accept().await.is_ok() {} });
    let error = Client::plain().send(post(&uri), SECOND, 10).await;
    assert!(matches!(error, Err(ClientError::Exchange(_))), "{error:?}");
}

#[tokio::test]
async fn nobody_listening_is_a_connect_error() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}/", listener.local_addr().unwrap());
    drop(listener);
    let error = Client::plain().send(post(&uri), SECOND, 10).await;
    assert!(matches!(error, Err(ClientError::Connect(_))), "{error:?}");
    let error = Client::plain()
        .send(post("https://127.0.0.1:1/"), SECOND, 10)
        .await;
    let Err(ClientError::Connect(source)) = error else {
        panic!("{error:?}");
    };
    let chain = format!("{source:?}");
    assert!(chain.contains("https needs TLS"), "{chain}");
}

#[tokio::test]
async fn silence_ends_with_the_callers_timeout() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}/", listener.local_addr().unwrap());
    let short = Duration::from_millis(20);
    let error = Client::plain().send(post(&uri), short, 10).await;
    assert!(
        matches!(error, Err(ClientError::Timeout(after)) if after == short),
        "{error:?}"
    );
}
