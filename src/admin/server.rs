//! The admin listener: accepts within limits, speaks HTTP/1, hands each request to the routes.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;
use http::Request;
use http::StatusCode;
use http::header;
use http_body_util::BodyExt;
use http_body_util::Limited;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::rt::TokioTimer;
use socket2::SockRef;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;
use tracing::warn;

use crate::admin::Config;
use crate::admin::Hooks;
use crate::admin::Store;
use crate::admin::guard;
use crate::admin::otlp;
use crate::admin::probes;
use crate::admin::respond;
use crate::admin::respond::Answer;
use crate::admin::routes;
use crate::admin::view;

/// Connections served at once; further ones are closed right after accepting.
const MAX_CONNECTIONS: usize = 256;
/// From accepting, or from the end of the request before, to the end of a request head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// From the head to the end of a body.
const BODY_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a peer may leave what we sent unread.
const UNREAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Request head, in bytes; also hyper's read buffer.
const MAX_HEAD: usize = 64 << 10;
/// Body of everything but spans, in bytes.
const MAX_BODY: usize = 64 << 10;
/// How long open requests may finish after cancelling.
const GRACE: Duration = Duration::from_secs(2);

/// What every request sees.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) allowed_hosts: Vec<String>,
    pub(super) hooks: Hooks,
    /// `None` when the view is off.
    pub(super) store: Option<Arc<Store>>,
    pub(super) otlp: bool,
    pub(super) tcp_probes: Vec<u16>,
    reach: Reach,
    /// Span batches read or decoded at once, as each takes a multiple of its size in memory.
    batches: Semaphore,
}

/// What a port offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// Everything.
    All,
    /// What probes and Prometheus ask for.
    Probes,
}

/// Serves the admin port until cancelled, then lets open requests finish for a moment.
///
/// `store` comes from [`view::Config::store`] and is `None` when the view is off; its [`Store::keep`] runs here.
/// Runs on the control runtime.
pub async fn serve(
    listener: TcpListener,
    config: &Config,
    view: &view::Config,
    hooks: Hooks,
    store: Option<Arc<Store>>,
    cancel: CancellationToken,
) {
    let shared = Arc::new(Shared {
        allowed_hosts: config.allowed_hosts.clone(),
        hooks,
        otlp: view.otlp,
        tcp_probes: Vec::new(),
        reach: Reach::All,
        batches: Semaphore::new(otlp::CONCURRENT),
        store,
    });
    let tasks = TaskTracker::new();
    if let Some(store) = shared.store.clone() {
        let cancel = cancel.clone();
        tasks.spawn(async move { store.keep(cancel).await });
    }
    accept(listener, shared, tasks, cancel).await;
}

/// Serves the port for probes until cancelled.
pub async fn serve_probes(
    listener: TcpListener,
    config: &Config,
    hooks: Hooks,
    cancel: CancellationToken,
) {
    let shared = Arc::new(Shared {
        allowed_hosts: config.allowed_hosts.clone(),
        hooks,
        otlp: false,
        tcp_probes: config.tcp_probes.clone(),
        reach: Reach::Probes,
        batches: Semaphore::new(0),
        store: None,
    });
    accept(listener, shared, TaskTracker::new(), cancel).await;
}

async fn accept(
    listener: TcpListener,
    shared: Arc<Shared>,
    tasks: TaskTracker,
    cancel: CancellationToken,
) {
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut failing = false;
    loop {
        let accepted = tokio::select! {
            () = cancel.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => {
                failing = false;
                stream
            }
            Err(error) => {
                // Out of descriptors, most likely: give others time to close some. Said once, until it works again.
                if !std::mem::replace(&mut failing, true) {
                    warn!(%error, "admin accept failed");
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(permit) = Arc::clone(&connections).try_acquire_owned() else {
            continue;
        };
        let shared = Arc::clone(&shared);
        let cancel = cancel.clone();
        tasks.spawn(async move {
            connection(stream, shared, cancel).await;
            drop(permit);
        });
    }
    tasks.close();
    if tokio::time::timeout(GRACE, tasks.wait()).await.is_err() {
        debug!("admin connections cut");
    }
}

async fn connection(stream: TcpStream, shared: Arc<Shared>, cancel: CancellationToken) {
    // Best effort: without it an unread answer merely stays longer.
    if let Err(error) = SockRef::from(&stream).set_tcp_user_timeout(Some(UNREAD_TIMEOUT)) {
        debug!(%error, "tcp user timeout not set");
    }
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%error, "tcp nodelay not set");
    }
    let local = stream.local_addr().map(|addr| addr.ip().to_canonical());
    let local = local.ok();
    let service = service_fn(move |request| {
        let shared = Arc::clone(&shared);
        async move { Ok::<_, Infallible>(handle(request, &shared, local).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let outcome = tokio::select! {
        outcome = connection.as_mut() => outcome,
        () = cancel.cancelled() => {
            connection.as_mut().graceful_shutdown();
            match tokio::time::timeout(GRACE, connection).await {
                Ok(outcome) => outcome,
                Err(_) => return,
            }
        }
    };
    if let Err(error) = outcome {
        debug!(%error, "admin connection failed");
    }
}

async fn handle(request: Request<Incoming>, shared: &Shared, local: Option<IpAddr>) -> Answer {
    let method = request.method().clone();
    if let Err(refusal) = guard::check(&request, &shared.allowed_hosts) {
        let status = match refusal {
            guard::Refusal::BadHost => StatusCode::BAD_REQUEST,
            guard::Refusal::ForeignHost(_) | guard::Refusal::ForeignOrigin => StatusCode::FORBIDDEN,
        };
        return close(respond::text(status, refusal.to_string()));
    }
    let (parts, body) = request.into_parts();
    let mut limit = MAX_BODY;
    let mut batch = None;
    if parts.uri.path() == otlp::PATH && shared.reach == Reach::All {
        let Ok(permit) = shared.batches.try_acquire() else {
            return close(otlp::busy(&parts.headers));
        };
        batch = Some(permit);
        limit = otlp::MAX_BODY;
    }
    let body = match read(body, limit).await {
        Ok(body) => body,
        Err(status) => {
            let reason = status.canonical_reason().unwrap_or_default();
            return close(respond::text(status, reason.to_lowercase()));
        }
    };
    let request = Request::from_parts(parts, body);
    let answer = match shared.reach {
        Reach::All => routes::dispatch(request, shared).await,
        Reach::Probes => probes::dispatch(&request, shared, local).await,
    };
    drop(batch);
    respond::for_method(answer, &method)
}

async fn read(body: Incoming, limit: usize) -> Result<Bytes, StatusCode> {
    let announced = http_body::Body::size_hint(&body).lower();
    if announced > limit as u64 {
        return Err(StatusCode::PAYLOAD_TOO_LARGE);
    }
    match tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, limit).collect()).await {
        Err(_) => Err(StatusCode::REQUEST_TIMEOUT),
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            Err(StatusCode::PAYLOAD_TOO_LARGE)
        }
        Ok(Err(_)) => Err(StatusCode::BAD_REQUEST),
    }
}

/// For answers that leave the request's body unread.
fn close(mut answer: Answer) -> Answer {
    answer
        .headers_mut()
        .insert(header::CONNECTION, HeaderValue::from_static("close"));
    answer
}
