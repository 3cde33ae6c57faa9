//! The ends of an exchange over HTTP/2, for who counts what lies between: a program that answers, and a caller.

use std::convert::Infallible;
use std::io::BufRead;
use std::net::Ipv4Addr;
use std::pin::Pin;
use std::task::Context;
use std::task::Poll;

use bytes::Bytes;
use http::HeaderMap;
use http::HeaderValue;
use http::Request;
use http::Response;
use http::StatusCode;
use http::header;
use http_body::Body;
use http_body::Frame;
use http_body_util::BodyExt;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper::service::service_fn;
use hyper_util::rt::TokioExecutor;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::net::TcpStream;

/// A gRPC message of 32 bytes.
const MESSAGE: &[u8] = b"\0\0\0\0\x20\x0a\x1exxxxxxxxxxxxxxxxxxxxxxxxxxxxxx";
/// What everything else is answered with.
const TEXT: &[u8] = &[b'x'; 64];
/// Connections that take turns.
const CONNECTIONS: usize = 4;

type Failure = Box<dyn std::error::Error>;

/// A message and its trailers.
struct Unary {
    message: Option<Bytes>,
    is_over: bool,
}

/// Prints the port that it answers on, and answers until standard input ends.
pub(crate) fn answer() -> Result<(), Failure> {
    run(async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        println!("{}", listener.local_addr()?.port());
        std::thread::spawn(|| {
            std::io::stdin().lines().for_each(drop);
            std::process::exit(0);
        });
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            let serving = builder.serve_connection(TokioIo::new(stream), service_fn(served));
            tokio::spawn(async move {
                serving.await.ok();
            });
        }
    })
}

/// Reads numbers from standard input and makes so many calls, one after the other; answers each number with a line.
pub(crate) fn call(port: u16, is_grpc: bool) -> Result<(), Failure> {
    run(async {
        let mut senders = Vec::new();
        for _ in 0..CONNECTIONS {
            let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
            stream.set_nodelay(true)?;
            let builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
            let (sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            senders.push(sender);
        }
        for line in std::io::stdin().lock().lines() {
            let count: usize = line?.trim().parse()?;
            for number in 0..count {
                let sender = &mut senders[number % CONNECTIONS];
                one_call(sender, is_grpc).await?;
            }
            println!("called");
        }
        Ok(())
    })
}

fn run(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(work)
}

async fn one_call(sender: &mut SendRequest<Full<Bytes>>, is_grpc: bool) -> Result<(), Failure> {
    let (request, body) = match is_grpc {
        true => (
            Request::post("http://bench.test/bench.Echo/Say")
                .header(header::CONTENT_TYPE, "application/grpc")
                .header(header::TE, "trailers"),
            MESSAGE,
        ),
        false => (Request::get("http://bench.test/users/42"), &[][..]),
    };
    let request = request.header(header::USER_AGENT, "bench/1");
    sender.ready().await?;
    let response = sender.send_request(request.body(Full::new(Bytes::from_static(body)))?);
    let response = response.await?;
    let status = response.status();
    let body = response.into_body().collect().await?;
    let has_trailers = body.trailers().is_some();
    let expected = if is_grpc { MESSAGE } else { TEXT };
    if status != StatusCode::OK || has_trailers != is_grpc || body.to_bytes() != expected {
        return Err(format!("not the program's answer: {status}").into());
    }
    Ok(())
}

async fn served(request: Request<Incoming>) -> Result<Response<Unary>, Infallible> {
    let kind = request.headers().get(header::CONTENT_TYPE);
    let is_grpc = kind.is_some_and(|kind| kind == "application/grpc");
    let message = match is_grpc {
        true => request
            .into_body()
            .collect()
            .await
            .map(|body| body.to_bytes()),
        false => Ok(Bytes::from_static(TEXT)),
    };
    let kind = if is_grpc {
        "application/grpc"
    } else {
        "text/plain"
    };
    let mut response = Response::new(Unary {
        message: message.ok(),
        is_over: !is_grpc,
    });
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    Ok(response)
}

impl Body for Unary {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(message) = self.message.take() {
            return Poll::Ready(Some(Ok(Frame::data(message))));
        }
        if std::mem::replace(&mut self.is_over, true) {
            return Poll::Ready(None);
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.message.is_none() && self.is_over
    }
}
