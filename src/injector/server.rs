//! The HTTPS port that the API server calls: accepts within limits, reads bounded bodies, answers reviews.
//!
//! Speaks HTTP/1 and HTTP/2, which the API server prefers. Whatever goes wrong inside is an answer that lets the pod pass
//! or an HTTP error, which the webhook's `failurePolicy: Ignore` turns into the same.

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::HeaderValue;
use http::Method;
use http::Request;
use http::Response;
use http::StatusCode;
use http::header;
use http_body_util::BodyExt;
use http_body_util::Full;
use http_body_util::Limited;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::TokioExecutor;
use hyper_util::rt::TokioIo;
use hyper_util::rt::TokioTimer;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;
use tracing::info;
use tracing::warn;

use super::Injector;
use super::Unless;
use crate::net::listen;
use crate::net::tls::ServerTls;
use crate::telemetry::metrics;
use crate::telemetry::metrics::InjectorMetrics;
use crate::telemetry::metrics::Outcome;
use crate::telemetry::metrics::ReviewOutcome;
use crate::telemetry::metrics::TlsMetrics;

/// Connections served at once; further ones are closed right after accepting.
const MAX_CONNECTIONS: usize = 256;
/// Reviews read at once, as each takes a multiple of its size in memory; further ones wait.
const MAX_REVIEWS: usize = 8;
/// Largest review, in bytes. An API server takes no object above 3 MiB.
const MAX_BODY: usize = 4 << 20;
/// Requests at once on an HTTP/2 connection.
const MAX_STREAMS: u32 = 64;
/// A TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// From accepting, or from the end of the request before, to the end of a request head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// From the head to the end of a body. API servers wait 30 seconds at most for the answer.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// What the server needs from around it.
#[derive(Clone)]
pub struct Hooks {
    /// Who decides; replaced on reload.
    pub injector: Arc<ArcSwap<Injector>>,
    /// The certificate.
    pub tls: ServerTls,
    /// What reviews are counted in.
    pub metrics: InjectorMetrics,
    /// What handshakes are counted in.
    pub handshakes: TlsMetrics,
    /// The Prometheus text of `/metrics`.
    pub render_metrics: Arc<dyn Fn() -> String + Send + Sync>,
    /// Cancelled when traffic is no longer welcome: `/readyz` fails.
    pub leaving: CancellationToken,
}

type Answer = Response<Full<Bytes>>;

struct Shared {
    hooks: Hooks,
    reviews: Semaphore,
}

/// Serves until cancelled; then open requests finish within `grace`.
pub async fn serve(
    listener: TcpListener,
    hooks: Hooks,
    cancel: CancellationToken,
    grace: Duration,
) {
    let shared = Arc::new(Shared {
        hooks,
        reviews: Semaphore::new(MAX_REVIEWS),
    });
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let tasks = TaskTracker::new();
    let mut failures = 0;
    loop {
        let accepted = tokio::select! {
            () = cancel.cancelled() => break,
            accepted = listen::accept(&listener) => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                if failures == 0 {
                    warn!(%error, "injector accept failed");
                }
                tokio::time::sleep(listen::accept_pause(failures)).await;
                failures = failures.saturating_add(1);
                continue;
            }
        };
        failures = 0;
        let Ok(permit) = Arc::clone(&connections).try_acquire_owned() else {
            continue;
        };
        let (shared, cancel) = (Arc::clone(&shared), cancel.clone());
        tasks.spawn(async move {
            connection(stream, shared, cancel).await;
            drop(permit);
        });
    }
    tasks.close();
    if tokio::time::timeout(grace, tasks.wait()).await.is_err() {
        debug!("injector connections cut");
    }
}

async fn connection(stream: TcpStream, shared: Arc<Shared>, cancel: CancellationToken) {
    let handshake = shared.hooks.tls.acceptor().accept(stream);
    let handshakes = &shared.hooks.handshakes.handshakes;
    let stream = match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            handshakes.count(Outcome::Failure);
            // Probes that only connect end here too.
            debug!(%error, "TLS handshake failed");
            return;
        }
        Err(_) => return handshakes.count(Outcome::Failure),
    };
    handshakes.count(Outcome::Success);
    if let Err(error) = speak(stream, shared, cancel).await {
        debug!(%error, "injector connection failed");
    }
}

async fn speak(
    stream: TlsStream<TcpStream>,
    shared: Arc<Shared>,
    cancel: CancellationToken,
) -> Result<(), hyper::Error> {
    let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let service = service_fn(move |request| {
        let shared = Arc::clone(&shared);
        async move { Ok::<_, Infallible>(handle(request, &shared).await) }
    });
    if is_http2 {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .keep_alive_interval(HEAD_TIMEOUT)
            .max_concurrent_streams(MAX_STREAMS);
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        tokio::select! {
            outcome = connection.as_mut() => return outcome,
            () = cancel.cancelled() => connection.as_mut().graceful_shutdown(),
        }
        return connection.await;
    }
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    tokio::select! {
        outcome = connection.as_mut() => return outcome,
        () = cancel.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}

async fn handle(request: Request<Incoming>, shared: &Shared) -> Answer {
    let method = request.method().clone();
    let reads = matches!(method, Method::GET | Method::HEAD);
    match request.uri().path() {
        "/mutate" if method == Method::POST => review(request, shared, Unless::Asked).await,
        "/mutate/namespace" if method == Method::POST => {
            review(request, shared, Unless::Refused).await
        }
        "/mutate" | "/mutate/namespace" => wrong_method("POST"),
        "/healthz" | "/livez" if reads => text(StatusCode::OK, "ok"),
        "/readyz" if reads => match shared.hooks.leaving.is_cancelled() {
            false => text(StatusCode::OK, "ready"),
            true => text(StatusCode::SERVICE_UNAVAILABLE, "draining"),
        },
        "/metrics" if reads => {
            let rendered = (shared.hooks.render_metrics)();
            answer(StatusCode::OK, metrics::CONTENT_TYPE, rendered.into())
        }
        "/healthz" | "/livez" | "/readyz" | "/metrics" => wrong_method("GET, HEAD"),
        _ => text(
            StatusCode::NOT_FOUND,
            "not found; here are /mutate, /mutate/namespace, /healthz, /livez, /readyz and /metrics",
        ),
    }
}

async fn review(request: Request<Incoming>, shared: &Shared, unless: Unless) -> Answer {
    let began = Instant::now();
    let answer = match read(request, shared).await {
        Ok(body) => decide(&body, shared, unless),
        Err((status, reason)) => {
            warn!(%status, reason, "review not read");
            shared.hooks.metrics.reviews.count(ReviewOutcome::Failed);
            let mut answer = text(status, reason);
            // The body may be unread.
            let close = HeaderValue::from_static("close");
            answer.headers_mut().insert(header::CONNECTION, close);
            answer
        }
    };
    shared
        .hooks
        .metrics
        .duration
        .record(began.elapsed().as_secs_f64());
    answer
}

fn decide(body: &[u8], shared: &Shared, unless: Unless) -> Answer {
    let Hooks {
        injector, metrics, ..
    } = &shared.hooks;
    match injector.load().review(body, unless) {
        Ok(found) => {
            metrics.reviews.count(found.outcome);
            let (pod, warnings) = (&*found.pod, found.warnings.join("; "));
            match found.outcome {
                ReviewOutcome::Injected => info!(pod, warnings, "pod injected"),
                ReviewOutcome::Skipped | ReviewOutcome::Invalid => {
                    warn!(pod, warnings, "pod not injected");
                }
                _ => debug!(pod, warnings, "pod left alone"),
            }
            answer(StatusCode::OK, "application/json", found.body.into())
        }
        Err(error) => {
            warn!(%error, "review not understood");
            metrics.reviews.count(ReviewOutcome::Failed);
            text(StatusCode::BAD_REQUEST, error.to_string())
        }
    }
}

async fn read(
    request: Request<Incoming>,
    shared: &Shared,
) -> Result<Bytes, (StatusCode, &'static str)> {
    let too_large = (
        StatusCode::PAYLOAD_TOO_LARGE,
        "the review is larger than 4 MiB",
    );
    let kind = request.headers().get(header::CONTENT_TYPE);
    let kind = kind.map_or(&b""[..], HeaderValue::as_bytes);
    if !kind.to_ascii_lowercase().starts_with(b"application/json") {
        let reason = "a review has the content type application/json";
        return Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, reason));
    }
    let body = request.into_body();
    if http_body::Body::size_hint(&body).lower() > MAX_BODY as u64 {
        return Err(too_large);
    }
    let read = async {
        let permit = shared.reviews.acquire().await;
        let read = Limited::new(body, MAX_BODY).collect().await;
        drop(permit);
        read
    };
    match tokio::time::timeout(BODY_TIMEOUT, read).await {
        Err(_) => Err((
            StatusCode::REQUEST_TIMEOUT,
            "the review did not arrive in time",
        )),
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => Err(too_large),
        Ok(Err(_)) => Err((StatusCode::BAD_REQUEST, "the review broke off")),
    }
}

fn text(status: StatusCode, text: impl fmt::Display) -> Answer {
    answer(
        status,
        "text/plain; charset=utf-8",
        format!("{text}\n").into(),
    )
}

fn wrong_method(allowed: &'static str) -> Answer {
    let mut answer = text(
        StatusCode::METHOD_NOT_ALLOWED,
        format_args!("method not allowed, use {allowed}"),
    );
    let headers = answer.headers_mut();
    headers.insert(header::ALLOW, HeaderValue::from_static(allowed));
    answer
}

fn answer(status: StatusCode, kind: &'static str, body: Bytes) -> Answer {
    let mut answer = Response::new(Full::new(body));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hooks").finish_non_exhaustive()
    }
}
