//! The receivers' TCP ports: accepts within limits, speaks the HTTP version of each port, hands requests on.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::Method;
use http::Request;
use http::StatusCode;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::TokioExecutor;
use hyper_util::rt::TokioIo;
use hyper_util::rt::TokioTimer;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;
use tracing::warn;

use crate::codec::jaeger_strategy::Spelling;
use crate::net::listen;
use crate::receiver::Intake;
use crate::receiver::Jaeger;
use crate::receiver::Strategies;
use crate::receiver::agent;
use crate::receiver::body::Room;
use crate::receiver::calls;
use crate::receiver::credits::Credits;
use crate::receiver::posts;
use crate::receiver::reply;
use crate::receiver::reply::Reply;

/// Connections served at once, on all ports together.
const MAX_CONNECTIONS: usize = 1024;
/// From accepting, or from the end of the request before, to the end of a request head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
const MAX_HEAD: usize = 64 << 10;
const MAX_STREAMS: u32 = 100;
/// How an HTTP/2 connection that lost its peer is noticed.
const PING: Duration = Duration::from_secs(60);
/// How long open requests may finish after cancelling.
const GRACE: Duration = Duration::from_secs(2);

/// What a port serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Service {
    /// Jaeger's agent over HTTP.
    Sampling,
    /// Strategies over gRPC.
    SamplingGrpc,
    /// Jaeger's collector over HTTP.
    JaegerHttp,
    /// Jaeger's collector over gRPC.
    JaegerGrpc,
    OtlpHttp,
    OtlpGrpc,
    Zipkin,
    SkyWalkingHttp,
    SkyWalkingGrpc,
}

impl Service {
    fn is_grpc(self) -> bool {
        matches!(
            self,
            Self::SamplingGrpc | Self::JaegerGrpc | Self::OtlpGrpc | Self::SkyWalkingGrpc
        )
    }
}

/// What every request sees.
pub(super) struct Shared {
    pub(super) intake: Arc<Intake>,
    pub(super) strategies: Arc<ArcSwap<Strategies>>,
    pub(super) jaeger: Jaeger,
    pub(super) credits: Mutex<Credits>,
    pub(super) room: Room,
    /// Large messages that are being decoded, each on a thread of its own.
    pub(super) decoders: Semaphore,
    pub(super) connections: Arc<Semaphore>,
}

impl Shared {
    pub(super) fn new(
        intake: Arc<Intake>,
        strategies: Arc<ArcSwap<Strategies>>,
        jaeger: Jaeger,
    ) -> Self {
        Self {
            credits: Mutex::new(Credits::new(jaeger.debug_credits)),
            intake,
            strategies,
            jaeger,
            room: Room::new(),
            decoders: Semaphore::new(2),
            connections: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
        }
    }
}

/// Serves a port until cancelled, then lets open requests finish for a moment.
pub(super) async fn serve(
    listener: TcpListener,
    service: Service,
    shared: Arc<Shared>,
    cancel: CancellationToken,
) {
    let tasks = TaskTracker::new();
    let mut failures = 0;
    loop {
        let accepted = tokio::select! {
            () = cancel.cancelled() => break,
            accepted = listen::accept(&listener) => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => {
                failures = 0;
                stream
            }
            Err(error) => {
                if failures == 0 {
                    warn!(%error, ?service, "receiver cannot accept");
                }
                tokio::time::sleep(listen::accept_pause(failures)).await;
                failures = failures.saturating_add(1);
                continue;
            }
        };
        // Beyond the limit a connection is closed right after accepting.
        let Ok(permit) = Arc::clone(&shared.connections).try_acquire_owned() else {
            continue;
        };
        let (shared, cancel) = (Arc::clone(&shared), cancel.clone());
        tasks.spawn(async move {
            connection(stream, service, shared, cancel).await;
            drop(permit);
        });
    }
    tasks.close();
    if tokio::time::timeout(GRACE, tasks.wait()).await.is_err() {
        debug!(?service, "receiver's connections cut");
    }
}

async fn connection(
    stream: TcpStream,
    service: Service,
    shared: Arc<Shared>,
    cancel: CancellationToken,
) {
    let io = TokioIo::new(stream);
    let answer = service_fn(move |request| {
        let shared = Arc::clone(&shared);
        async move { Ok::<_, Infallible>(handle(request, service, &shared).await) }
    });
    // The two kinds of connections are different types with the same methods.
    macro_rules! finish {
        ($connection:expr) => {{
            let connection = $connection;
            tokio::pin!(connection);
            tokio::select! {
                outcome = connection.as_mut() => outcome,
                () = cancel.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    match tokio::time::timeout(GRACE, connection).await {
                        Ok(outcome) => outcome,
                        Err(_) => return,
                    }
                }
            }
        }};
    }
    let outcome = if service.is_grpc() {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(MAX_HEAD as u32)
            .keep_alive_interval(PING)
            .keep_alive_timeout(PING);
        finish!(builder.serve_connection(io, answer))
    } else {
        let mut builder = http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(MAX_HEAD)
            .half_close(true);
        finish!(builder.serve_connection(io, answer))
    };
    if let Err(error) = outcome {
        debug!(%error, ?service, "receiver's connection failed");
    }
}

async fn handle(request: Request<Incoming>, service: Service, shared: &Arc<Shared>) -> Reply {
    if service.is_grpc() {
        return calls::answer(request, service, shared).await;
    }
    let (parts, body) = request.into_parts();
    let (path, query) = (parts.uri.path(), parts.uri.query().unwrap_or(""));
    let asks = parts.method == Method::GET || parts.method == Method::HEAD;
    match service {
        Service::Sampling if asks => agent::answer(path, query, shared).await,
        Service::JaegerHttp if asks && path == "/api/sampling" => {
            agent::strategy(query, Spelling::Name, shared).await
        }
        // What balancers and libraries look at to see whether somebody is there.
        Service::JaegerHttp | Service::Zipkin if asks && matches!(path, "/" | "/health") => {
            reply::of(StatusCode::OK, "application/json", r#"{"status":"UP"}"#)
        }
        _ if parts.method == Method::POST => posts::answer(&parts, body, service, shared).await,
        _ => reply::text(StatusCode::METHOD_NOT_ALLOWED, "method not allowed"),
    }
}
