//! A scripted collector on loopback: OTLP over HTTP and gRPC, Jaeger over HTTP. Says after a script how each request ends.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;
use std::time::Instant;

use bytes::Bytes;
use http::HeaderMap;
use http::Request;
use http::Response;
use http_body_util::BodyExt;
use hyper::body::Frame;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioExecutor;
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1 as theirs;
use pillion::net::tls::Alpn;
use pillion::net::tls::ServerConfig;
use pillion::net::tls::ServerTls;
use prost::Message;
use socket2::Domain;
use socket2::Socket;
use socket2::Type;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::net::TcpListener;
use tokio::net::TcpStream;

/// How one request ends.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    /// Everything accepted.
    Accept,
    /// Accepted after this time.
    Slow(Duration),
    /// Accepted but for so many spans.
    Partial(i64),
    /// An HTTP status with headers and a text.
    Status(u16, Vec<(&'static str, String)>, &'static str),
    /// A gRPC status with the value of `grpc-status-details-bin`; in the headers alone or behind a body.
    Grpc(u16, Option<String>, Where),
    /// The connection is reset after a part of the answer's head.
    Reset,
    /// No answer, ever.
    Hang,
}

/// Where a gRPC status stands.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Where {
    Headers,
    Trailers,
}

/// A request as it arrived.
#[derive(Debug, Clone)]
pub(crate) struct Received {
    pub(crate) at: Instant,
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// A running collector; it ends with its test's runtime.
pub(crate) struct Collector {
    pub(crate) addr: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    script: Mutex<VecDeque<Reply>>,
    then: Reply,
    received: Mutex<Vec<Received>>,
}

/// A collector that is down: its address refuses connections, and nobody else can take it.
pub(crate) struct Down {
    pub(crate) addr: SocketAddr,
    socket: Socket,
}

impl Down {
    pub(crate) fn new() -> Self {
        Self::at(SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    /// At this address.
    pub(crate) fn at(addr: SocketAddr) -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&addr.into()).unwrap();
        let addr = socket.local_addr().unwrap().as_socket().unwrap();
        Self { addr, socket }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Comes up and accepts everything after the script.
    pub(crate) fn up(self, script: Vec<Reply>) -> Collector {
        self.socket.listen(1024).unwrap();
        self.socket.set_nonblocking(true).unwrap();
        let listener = TcpListener::from_std(self.socket.into()).unwrap();
        Collector::listen(listener, Speaks::Http1, script, Reply::Accept)
    }
}

/// What it speaks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Speaks {
    Http1,
    Http2,
}

impl Collector {
    /// Answers with the script's replies in order, then always with `then`.
    pub(crate) async fn start(speaks: Speaks, script: Vec<Reply>, then: Reply) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::listen(listener, speaks, script, then)
    }

    fn listen(listener: TcpListener, speaks: Speaks, script: Vec<Reply>, then: Reply) -> Self {
        let addr = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            script: Mutex::new(script.into()),
            then,
            received: Mutex::default(),
        });
        let served = Arc::clone(&shared);
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let raw = clone_of(&tcp);
                tokio::spawn(serve(tcp, raw, speaks, Arc::clone(&served)));
            }
        });
        Self { addr, shared }
    }

    /// Like `start` behind TLS; accepts everything.
    pub(crate) async fn start_tls(speaks: Speaks, cert_file: &Path, key_file: &Path) -> Self {
        let config = ServerConfig {
            cert_file: cert_file.to_owned(),
            key_file: key_file.to_owned(),
            ..ServerConfig::default()
        };
        let alpn = match speaks {
            Speaks::Http1 => Alpn::Http1,
            Speaks::Http2 => Alpn::Http2,
        };
        let acceptor = ServerTls::new(&config, alpn).unwrap().acceptor();
        let listener = TcpListener::bind("localhost:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            script: Mutex::default(),
            then: Reply::Accept,
            received: Mutex::default(),
        });
        let served = Arc::clone(&shared);
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let (acceptor, served) = (acceptor.clone(), Arc::clone(&served));
                tokio::spawn(async move {
                    let raw = clone_of(&tcp);
                    if let Ok(tls) = acceptor.accept(tcp).await {
                        serve(tls, raw, speaks, served).await;
                    }
                });
            }
        });
        Self { addr, shared }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    pub(crate) fn received(&self) -> Vec<Received> {
        self.shared.received.lock().unwrap().clone()
    }

    /// The span ids of all OTLP requests, in order of arrival; one list a request.
    pub(crate) fn otlp_batches(&self) -> Vec<Vec<u64>> {
        self.received().iter().map(Received::otlp_spans).collect()
    }
}

impl Received {
    /// The body without gRPC frame and compression.
    pub(crate) fn message(&self) -> Vec<u8> {
        let grpc = self.headers["content-type"] == "application/grpc";
        let (compressed, body) = if grpc {
            (self.body[0] == 1, &self.body[5..])
        } else {
            let encoding = self.headers.get("content-encoding");
            (
                encoding.is_some_and(|encoding| encoding == "gzip"),
                &self.body[..],
            )
        };
        if !compressed {
            return body.to_vec();
        }
        let mut plain = Vec::new();
        std::io::copy(&mut flate2::read::GzDecoder::new(body), &mut plain).unwrap();
        plain
    }

    /// The span ids, read by an independent decoder.
    pub(crate) fn otlp_spans(&self) -> Vec<u64> {
        let request = theirs::ExportTraceServiceRequest::decode(&self.message()[..]).unwrap();
        request
            .resource_spans
            .iter()
            .flat_map(|resource| &resource.scope_spans)
            .flat_map(|scope| &scope.spans)
            .map(|span| u64::from_be_bytes(span.span_id[..].try_into().unwrap()))
            .collect()
    }
}

/// The socket beside hyper, so that a scripted reset can be a real one.
fn clone_of(tcp: &TcpStream) -> std::net::TcpStream {
    std::os::fd::AsFd::as_fd(tcp)
        .try_clone_to_owned()
        .unwrap()
        .into()
}

async fn serve<IO>(io: IO, raw: std::net::TcpStream, speaks: Speaks, shared: Arc<Shared>)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let raw = Arc::new(raw);
    let service = service_fn(move |request: Request<Incoming>| {
        let shared = Arc::clone(&shared);
        let raw = Arc::clone(&raw);
        async move { answer(request, &shared, &raw).await }
    });
    let io = TokioIo::new(io);
    // A connection that the script or the client breaks is what is tested.
    match speaks {
        Speaks::Http1 => hyper::server::conn::http1::Builder::new()
            .serve_connection(io, service)
            .await
            .ok(),
        Speaks::Http2 => hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .serve_connection(io, service)
            .await
            .ok(),
    };
}

async fn answer(
    request: Request<Incoming>,
    shared: &Shared,
    raw: &std::net::TcpStream,
) -> Result<Response<Frames>, std::io::Error> {
    let (head, body) = request.into_parts();
    let body = body
        .collect()
        .await
        .map_err(std::io::Error::other)?
        .to_bytes();
    let grpc = head.headers["content-type"] == "application/grpc";
    shared.received.lock().unwrap().push(Received {
        at: Instant::now(),
        path: head.uri.path_and_query().unwrap().to_string(),
        headers: head.headers,
        body,
    });
    let reply = shared.script.lock().unwrap().pop_front();
    match reply.unwrap_or_else(|| shared.then.clone()) {
        Reply::Accept => Ok(accepted(grpc, 0)),
        Reply::Slow(wait) => {
            tokio::time::sleep(wait).await;
            Ok(accepted(grpc, 0))
        }
        Reply::Partial(rejected) => Ok(accepted(grpc, rejected)),
        Reply::Status(status, headers, text) => {
            let mut builder = Response::builder().status(status);
            for (name, value) in headers {
                builder = builder.header(name, value);
            }
            Ok(builder.body(Frames::data(Bytes::from(text))).unwrap())
        }
        Reply::Grpc(code, details, place) => Ok(grpc_failure(code, details, place)),
        Reply::Reset => {
            use std::io::Write;
            // A zero linger turns the close into a reset.
            socket2::SockRef::from(raw).set_linger(Some(Duration::ZERO))?;
            (&*raw).write_all(b"HTTP/1.1 200 O")?;
            Err(std::io::ErrorKind::ConnectionReset.into())
        }
        Reply::Hang => std::future::pending().await,
    }
}

fn accepted(grpc: bool, rejected: i64) -> Response<Frames> {
    let message = theirs::ExportTraceServiceResponse {
        partial_success: (rejected > 0).then(|| theirs::ExportTracePartialSuccess {
            rejected_spans: rejected,
            error_message: "over quota".to_owned(),
        }),
    }
    .encode_to_vec();
    if !grpc {
        return Response::new(Frames::data(message.into()));
    }
    let mut frame = vec![0];
    frame.extend((message.len() as u32).to_be_bytes());
    frame.extend(message);
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().unwrap());
    let mut body = Frames::data(frame.into());
    body.0.push_back(Frame::trailers(trailers));
    grpc_response(body)
}

fn grpc_failure(code: u16, details: Option<String>, place: Where) -> Response<Frames> {
    let mut status = HeaderMap::new();
    status.insert("grpc-status", code.into());
    status.insert("grpc-message", "not%20now".parse().unwrap());
    if let Some(details) = details {
        status.insert("grpc-status-details-bin", details.parse().unwrap());
    }
    match place {
        Where::Headers => {
            let mut response = grpc_response(Frames(VecDeque::new()));
            response.headers_mut().extend(status);
            response
        }
        Where::Trailers => grpc_response(Frames([Frame::trailers(status)].into())),
    }
}

fn grpc_response(body: Frames) -> Response<Frames> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert("content-type", "application/grpc".parse().unwrap());
    response
}

/// A body of given frames.
struct Frames(VecDeque<Frame<Bytes>>);

impl Frames {
    fn data(bytes: Bytes) -> Self {
        Self([Frame::data(bytes)].into())
    }
}

impl http_body::Body for Frames {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        std::task::Poll::Ready(self.0.pop_front().map(Ok))
    }
}
