//! The program behind the proxies: answers cheaply and counts what it answered.
//!
//! `upstream --listen ADDR [--call ADDR]`
//!
//! HTTP/1 connections that begin with `GET /small` are answered by a loop without a parser; all others by hyper, HTTP/2
//! by its preface. Paths: `/small` 64 bytes, `/size/N` N bytes, `/stream/N/SIZE` N chunks, `/echo` the request body as
//! it comes, `/call` one request to `--call` with the caller's trace headers passed on, `/forget` the same
//! without them, `/count` requests so far.

use std::cell::Cell;
use std::cell::RefCell;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Context;
use std::task::Poll;

use bytes::Bytes;
use http_body_util::BodyExt;
use http_body_util::Full;
use http_body_util::combinators::BoxBody;
use hyper::HeaderMap;
use hyper::Request;
use hyper::Response;
use hyper::body::Body;
use hyper::body::Frame;
use hyper::body::Incoming;
use hyper::header;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpSocket;
use tokio::net::TcpStream;

const SMALL: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 64\r\n\r\n\
    0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcde\n";
/// A proxy may open thousands of connections at a time; a shorter queue makes them wait for seconds, or fail.
const BACKLOG: u32 = 16 * 1024;
const PASSED_ON: &[&str] = &["traceparent", "tracestate", "x-request-id"];

struct App {
    requests: Cell<u64>,
    call: Option<SocketAddr>,
    callers: RefCell<Vec<TcpStream>>,
    zeros: Bytes,
}

/// Chunks that leave one by one.
struct Chunks {
    left: usize,
    chunk: Bytes,
    pause: bool,
}

/// A gRPC answer: the message, then its status in trailers.
struct Unary(Option<Bytes>, bool);

/// Tasks that stay on this thread.
#[derive(Clone)]
struct Local;

type Answer = Response<BoxBody<Bytes, hyper::Error>>;

fn main() -> io::Result<()> {
    pillion_compare::run(async {
        let call = pillion_compare::argument("--call", String::new());
        let app = Rc::new(App {
            requests: Cell::new(0),
            call: call.parse().ok(),
            callers: RefCell::default(),
            zeros: Bytes::from(vec![b'0'; 16 << 20]),
        });
        let address: SocketAddr = pillion_compare::required("--listen");
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        let listener = socket.listen(BACKLOG)?;
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                continue;
            };
            let app = app.clone();
            tokio::task::spawn_local(async move {
                // A broken connection shows at the other end.
                let _ = serve(stream, app).await;
            });
        }
    })
}

async fn serve(stream: TcpStream, app: Rc<App>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut first = [0; 10];
    let count = stream.peek(&mut first).await?;
    if first[..count] == *b"GET /small" {
        return serve_small(stream, &app).await;
    }
    let service = service_fn(move |request| answer(app.clone(), request));
    let io = TokioIo::new(stream);
    let served = if first.starts_with(b"PRI") {
        hyper::server::conn::http2::Builder::new(Local)
            .max_concurrent_streams(1000)
            .serve_connection(io, service)
            .await
    } else {
        hyper::server::conn::http1::Builder::new()
            .serve_connection(io, service)
            .await
    };
    served.map_err(io::Error::other)
}

/// Answers every head with the same bytes; `Connection: close` is obeyed.
async fn serve_small(mut stream: TcpStream, app: &App) -> io::Result<()> {
    let mut buffer = [0; 16 * 1024];
    let mut length = 0;
    loop {
        let count = stream.read(&mut buffer[length..]).await?;
        if count == 0 {
            return Ok(());
        }
        length += count;
        if !buffer[..length].ends_with(b"\r\n\r\n") {
            continue;
        }
        let close = buffer[..length]
            .windows(17)
            .any(|window| window.eq_ignore_ascii_case(b"connection: close"));
        length = 0;
        app.requests.set(app.requests.get() + 1);
        stream.write_all(SMALL).await?;
        if close {
            return stream.shutdown().await;
        }
    }
}

async fn answer(app: Rc<App>, request: Request<Incoming>) -> Result<Answer, Infallible> {
    let path = request.uri().path().to_owned();
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    let number = |at: usize| -> usize {
        parts
            .get(at)
            .and_then(|part| part.parse().ok())
            .unwrap_or(0)
    };
    if parts[0] == "count" {
        return Ok(full(app.requests.get().to_string().into()));
    }
    app.requests.set(app.requests.get() + 1);
    let grpc = request
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    if grpc {
        return Ok(unary(request).await);
    }
    Ok(match parts[0] {
        "size" => full(app.zeros.slice(..number(1).min(app.zeros.len()))),
        "stream" => Response::new(BodyExt::boxed(Chunks {
            left: number(1),
            chunk: app.zeros.slice(..number(2).min(app.zeros.len())),
            pause: false,
        })),
        "echo" => Response::new(BodyExt::boxed(request.into_body())),
        "call" => after_call(&app, request.headers()).await,
        "forget" => after_call(&app, &HeaderMap::new()).await,
        _ => full(app.zeros.slice(..64)),
    })
}

async fn after_call(app: &App, headers: &HeaderMap) -> Answer {
    match app.call(headers).await {
        Ok(()) => full(app.zeros.slice(..64)),
        Err(error) => {
            let mut response = full(error.to_string().into());
            *response.status_mut() = hyper::StatusCode::BAD_GATEWAY;
            response
        }
    }
}

fn full(bytes: Bytes) -> Answer {
    Response::new(Full::new(bytes).map_err(|never| match never {}).boxed())
}

/// Sends the request's message back.
async fn unary(request: Request<Incoming>) -> Answer {
    let message = match request.into_body().collect().await {
        Ok(body) => body.to_bytes(),
        Err(_) => Bytes::new(),
    };
    let mut response = Response::new(BodyExt::boxed(Unary(Some(message), true)));
    let kind = header::HeaderValue::from_static("application/grpc");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

impl App {
    /// One request over a kept connection.
    async fn call(&self, headers: &HeaderMap) -> io::Result<()> {
        let to = self.call.ok_or(io::ErrorKind::AddrNotAvailable)?;
        let idle = self.callers.borrow_mut().pop();
        let mut stream = match idle {
            Some(stream) => stream,
            None => TcpStream::connect(to).await?,
        };
        let mut head = String::from("GET /small HTTP/1.1\r\nhost: backend\r\n");
        for name in PASSED_ON {
            if let Some(value) = headers.get(*name).and_then(|value| value.to_str().ok()) {
                head.extend([name, ": ", value, "\r\n"]);
            }
        }
        head.push_str("\r\n");
        stream.write_all(head.as_bytes()).await?;
        let mut buffer = [0; 4096];
        let mut length = 0;
        loop {
            let count = stream.read(&mut buffer[length..]).await?;
            length += count;
            if count == 0 || !buffer.starts_with(b"HTTP/1.1 200") {
                return Err(io::ErrorKind::InvalidData.into());
            }
            let text = &buffer[..length];
            if let Some(head) = text.windows(4).position(|window| window == b"\r\n\r\n")
                && length >= head + 4 + 64
            {
                self.callers.borrow_mut().push(stream);
                return Ok(());
            }
        }
    }
}

impl Body for Chunks {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        self.pause = !self.pause;
        if !self.pause {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.left -= 1;
        Poll::Ready(Some(Ok(Frame::data(self.chunk.clone()))))
    }
}

impl Body for Unary {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if let Some(message) = self.0.take() {
            return Poll::Ready(Some(Ok(Frame::data(message))));
        }
        if !std::mem::take(&mut self.1) {
            return Poll::Ready(None);
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", header::HeaderValue::from_static("0"));
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }
}

impl<F> hyper::rt::Executor<F> for Local
where
    F: Future<Output: 'static> + 'static,
{
    fn execute(&self, task: F) {
        tokio::task::spawn_local(task);
    }
}
