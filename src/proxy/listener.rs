//! A listener: what it is for, its accept loop, and the connections it accepts.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::TokioExecutor;
use hyper_util::rt::TokioIo;
use hyper_util::rt::TokioTimer;
use parking_lot::Mutex;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tracing::debug;
use tracing::warn;

use crate::detect;
use crate::detect::Protocol;
use crate::model::HostPort;
use crate::model::Text;
use crate::net::drain::Watch;
use crate::net::listen;
use crate::net::rewind::Rewind;
use crate::net::tls::ClientTls;
use crate::net::tls::ServerTls;
use crate::proxy::config::Arrival;
use crate::proxy::config::Interception;
use crate::proxy::flow;
use crate::proxy::forward;
use crate::proxy::guard::Bounds;
use crate::proxy::guard::Guarded;
use crate::proxy::guard::Refusal;
use crate::proxy::interim::Interims;
use crate::proxy::interim::WithInterims;
use crate::proxy::metered::Metered;
use crate::proxy::pacing::Heard;
use crate::proxy::pacing::Passage;
use crate::proxy::pacing::Side;
use crate::proxy::patience;
use crate::proxy::patience::Patience;
use crate::proxy::patience::REQUEST_TIMEOUT;
use crate::proxy::phase::Cut;
use crate::proxy::phase::Phase;
use crate::proxy::plain;
use crate::proxy::plain::After;
use crate::proxy::plain::Handover;
use crate::proxy::preamble;
use crate::proxy::redirect;
use crate::proxy::redirect::Redirected;
use crate::proxy::shared::DirectionMetrics;
use crate::proxy::shared::Snapshot;
use crate::proxy::shared::Worker;
use crate::proxy::target;
use crate::telemetry::metrics::CloseReason;
use crate::telemetry::metrics::Direction;
use crate::telemetry::metrics::OpenConnection;
use crate::telemetry::metrics::Outcome;

/// No limit on heads is smaller: clients of some age send cookies of 8 KiB.
const MIN_HEAD: usize = 8 * 1024;
/// A header map takes no more.
const MAX_FIELDS: usize = 16_384;
/// The library's buffer is larger than a head may be, so that it is never the one to refuse it.
const ROOM_BEHIND_HEAD: usize = 16 * 1024;

/// How long a request head that began before the end may still take, once or twice.
const LAST_HEAD: Duration = Duration::from_secs(1);
/// How long an HTTP/2 peer that was idle may take to close.
const GOODBYE: Duration = Duration::from_secs(5);

/// What a listener is for. Shared by the workers' sockets of one address.
pub struct Listener {
    /// Where requests go.
    pub role: Role,
    /// Terminates TLS.
    pub tls: Option<ServerTls>,
}

/// Where requests go.
pub enum Role {
    /// To the program beside us.
    Inbound {
        /// The program.
        app: HostPort,
    },
    /// Where each request says: absolute-form requests and CONNECT.
    ForwardProxy {
        /// TLS towards `https://` URLs.
        tls: Arc<ClientTls>,
    },
    /// To one destination.
    Route {
        /// The destination.
        to: HostPort,
        /// Originates TLS.
        tls: Option<Arc<ClientTls>>,
        /// Replace the `Host` header.
        rewrite_host: bool,
        /// `service.peer.name`; empty: none.
        peer_service: Text,
    },
    /// To the port of the program that the caller dialled.
    RedirectedInbound {
        /// How rules lead connections here.
        mode: Interception,
        /// Where the program takes them.
        to: Arrival,
        /// The program is called from the caller's address.
        keep_source: bool,
    },
    /// Where the program was going.
    RedirectedOutbound {
        /// How rules lead connections here.
        mode: Interception,
    },
}

/// One accepted connection.
pub struct Conn {
    /// The worker it lives on.
    pub worker: Arc<Worker>,
    /// The listener it came through.
    pub listener: Arc<Listener>,
    /// The configuration when it was accepted.
    pub snapshot: Arc<Snapshot>,
    /// The other end.
    pub peer: SocketAddr,
    /// When its slot of evidence was written for the latest request, as the bits of a moment.
    pub evidence: AtomicU32,
    /// Our address on it; `None` unless somebody says who sends the program's calls.
    local: Option<SocketAddr>,
    /// When the kernel saw the latest request, as the bits of a moment.
    pub witnessed: AtomicU32,
    /// What the gate before the program told of a request that the plain path gave up.
    told: Mutex<Option<Heard>>,
    /// `http` or `https`.
    pub scheme: &'static str,
    /// Tells when to finish.
    pub drain: Watch,
    /// Whether it waits for a request or serves one.
    pub phase: Phase,
    /// Interim responses on their way down; HTTP/1.1 alone.
    pub interims: Interims,
    /// Its place among the connections; a tunnel keeps it.
    _place: Option<OwnedSemaphorePermit>,
    /// Where it was going, when rules of the system led it here.
    pub redirected: Option<Redirected>,
}

impl Listener {
    /// Inbound or outbound.
    pub fn direction(&self) -> Direction {
        match self.role {
            Role::Inbound { .. } | Role::RedirectedInbound { .. } => Direction::Inbound,
            Role::ForwardProxy { .. } | Role::Route { .. } | Role::RedirectedOutbound { .. } => {
                Direction::Outbound
            }
        }
    }
}

impl Conn {
    /// The metrics of its direction.
    pub fn metrics(&self) -> &DirectionMetrics {
        self.worker.shared.metrics(self.listener.direction())
    }

    /// Its way through the gate before the program; `None` where there is none, or it comes from elsewhere.
    pub(super) fn passage(&self) -> Option<Passage> {
        let pacer = self.worker.shared.pacer.as_ref()?;
        let is_programs = self.listener.direction() == Direction::Outbound;
        let dialled = self.dialled().filter(|_| is_programs)?;
        Some(pacer.passage(Side::Theirs, (self.peer, dialled)))
    }

    /// What the gate before the program tells of the call which comes now.
    pub(super) async fn paced(&self) -> Option<Heard> {
        let pacer = self.worker.shared.pacer.as_ref()?;
        if let Some(told) = self.told.lock().take() {
            return Some(told);
        }
        match self.listener.direction() {
            Direction::Outbound => pacer.verdict().await,
            Direction::Inbound => None,
        }
    }

    /// Keeps what [`Conn::paced`] told, for whoever takes the request over.
    pub(super) fn keep_paced(&self, told: Heard) {
        *self.told.lock() = Some(told);
    }

    /// Forgets it: the request it was told of is not sent on.
    pub(super) fn forget_paced(&self) {
        self.told.lock().take();
    }

    /// The address that the other end connected to; `None` unless somebody says who sends the program's calls.
    pub fn dialled(&self) -> Option<SocketAddr> {
        let redirected = self.redirected.as_ref().map(|redirected| redirected.addr);
        redirected.or(self.local)
    }
}

/// Accepts until the drain begins. Each connection is a task of its own that holds the drain open.
pub async fn accept(
    worker: Arc<Worker>,
    listener: Arc<Listener>,
    socket: TcpListener,
    drain: Watch,
) {
    if listener.direction() == Direction::Outbound {
        worker.shared.in_flight.expect_calls();
    }
    let mut failures = 0;
    loop {
        let accepted = tokio::select! {
            accepted = listen::accept(&socket) => accepted,
            () = drain.signaled() => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                failures = 0;
                // Beyond the limit this one waits here and the next ones in the kernel's backlog.
                let place = tokio::select! {
                    place = worker.shared.place() => place,
                    () = drain.signaled() => return,
                };
                let (worker, listener) = (worker.clone(), listener.clone());
                let conn = new_conn(worker, listener, &stream, peer, drain.clone(), place);
                tokio::spawn(serve(conn, stream));
            }
            Err(error) => {
                let pause = listen::accept_pause(failures);
                failures += 1;
                worker
                    .shared
                    .metrics(listener.direction())
                    .server
                    .accept_errors
                    .increment(1);
                warn!(%error, failures, ?pause, "accept failed");
                tokio::time::sleep(pause).await;
            }
        }
    }
}

/// What is known of a connection when it is accepted. Boxed: it moves a few times before it is shared.
fn new_conn(
    worker: Arc<Worker>,
    listener: Arc<Listener>,
    stream: &TcpStream,
    peer: SocketAddr,
    drain: Watch,
    place: Option<OwnedSemaphorePermit>,
) -> Box<Conn> {
    let shared = &worker.shared;
    let looked_at =
        shared.evidence.is_some() || shared.kernel.get().is_some() || shared.pacer.is_some();
    let local = looked_at.then(|| stream.local_addr().ok()).flatten();
    Box::new(Conn {
        snapshot: worker.shared.snapshot.load_full(),
        worker,
        listener,
        peer,
        evidence: AtomicU32::new(0),
        local,
        witnessed: AtomicU32::new(0),
        told: Mutex::default(),
        scheme: "http",
        drain,
        phase: Phase::default(),
        interims: Interims::default(),
        _place: place,
        redirected: None,
    })
}

async fn serve(mut conn: Box<Conn>, stream: TcpStream) {
    let metrics = conn.metrics();
    let mut open = metrics.downstream.open();
    if let Role::RedirectedInbound { .. } | Role::RedirectedOutbound { .. } = conn.listener.role {
        // Boxed, as all that most connections never need.
        Box::pin(redirect::serve(*conn, stream, open)).await;
        return;
    }
    let stream = Metered::new(stream, metrics.downstream.clone()).through(conn.passage());
    let stream = match Box::pin(preamble::read(&mut conn, stream)).await {
        Ok(stream) => stream,
        Err(reason) => {
            open.reason = reason;
            return;
        }
    };
    let Some(tls) = conn.listener.tls.clone() else {
        serve_detected(Arc::from(conn), stream, open).await;
        return;
    };
    // Boxed: connections without TLS do not carry the room for it.
    let handshake = Box::pin(tls.acceptor().accept(stream));
    let limit = conn.snapshot.timeouts.tls_handshake.0;
    let limit = if limit.is_zero() {
        Duration::MAX
    } else {
        limit
    };
    match tokio::time::timeout(limit, handshake).await {
        Ok(Ok(stream)) => {
            conn.metrics().tls.handshakes.count(Outcome::Success);
            conn.scheme = "https";
            Box::pin(serve_detected(Arc::from(conn), stream, open)).await;
        }
        Ok(Err(error)) => {
            conn.metrics().tls.handshakes.count(Outcome::Failure);
            debug!(%error, peer = %conn.peer, "TLS handshake failed");
            open.reason = CloseReason::Protocol;
        }
        Err(_) => {
            conn.metrics().tls.handshakes.count(Outcome::Failure);
            open.reason = CloseReason::Timeout;
        }
    }
}

async fn serve_detected<IO>(conn: Arc<Conn>, io: IO, mut open: OpenConnection)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let limit = conn.snapshot.timeouts.detect.0;
    let limit = if limit.is_zero() {
        Duration::MAX
    } else {
        limit
    };
    let detecting = detect::detect(io, limit);
    let drain = conn.drain.clone();
    let detected = tokio::select! {
        detected = detecting => detected,
        () = drain.signaled() => {
            open.reason = CloseReason::Drain;
            return;
        }
    };
    let detected_counter = &conn.metrics().server.detected;
    match detected {
        Ok((protocol, io)) => {
            detected_counter.count(protocol.into());
            open.reason = match protocol {
                Protocol::Http2 => Box::pin(serve_http2(conn, io)).await,
                Protocol::Closed => CloseReason::Peer,
                Protocol::Timeout => give_up(&conn, io).await,
                // Whatever is not HTTP gets HTTP/1's answer to malformed input.
                Protocol::Http1 | Protocol::Tls | Protocol::Opaque(_) => {
                    serve_http1(conn, io).await
                }
            };
        }
        Err(_) => open.reason = CloseReason::Peer,
    }
}

/// Ends a connection that did not say in time what it carries. Who began a request is told.
async fn give_up<IO>(conn: &Conn, mut io: Rewind<IO>) -> CloseReason
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    if !io.prefix().is_empty() {
        let rejections = &conn.metrics().traffic.rejections;
        rejections.count(Refusal::HeadTimeout.rejection());
        // Best effort: the peer may be gone.
        io.write_all(REQUEST_TIMEOUT).await.unwrap_or_default();
    }
    CloseReason::Timeout
}

pub(super) async fn serve_http1<IO>(conn: Arc<Conn>, io: Rewind<IO>) -> CloseReason
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (limits, timeouts) = (&conn.snapshot.limits, &conn.snapshot.timeouts);
    let bounds = Bounds {
        head: limits.head_size.as_usize().max(MIN_HEAD),
        fields: limits.headers.clamp(1, MAX_FIELDS),
    };
    let patience = patience::Limits {
        head: timeouts.head.0,
        idle: timeouts.idle.0,
        stall: timeouts.stall.0,
    };
    let mut io = Patience::new(io, conn.phase.clone(), patience);
    match plain::serve(&conn, &mut io, bounds).await {
        After::Over(well) => match conn.phase.why_cut() {
            None if !well => CloseReason::Error,
            _ => close_reason(&conn, Ok(())),
        },
        // Boxed: connections that never get there do not carry the room for it.
        After::Library(handover) => Box::pin(serve_by_library(conn, io, bounds, handover)).await,
    }
}

/// Serves the rest of a connection, `handover` first.
async fn serve_by_library<IO>(
    conn: Arc<Conn>,
    io: Patience<Rewind<IO>>,
    bounds: Bounds,
    handover: Option<Handover>,
) -> CloseReason
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .half_close(true)
        .preserve_header_case(true)
        .auto_date_header(false)
        .max_headers(bounds.fields)
        .max_buf_size(bounds.head + ROOM_BEHIND_HEAD)
        .header_read_timeout(None);
    let io = Guarded::new(io, conn.phase.clone(), bounds);
    let io = WithInterims::new(io, conn.interims.clone());
    let drain = conn.drain.clone();
    let served = conn.clone();
    let first = Mutex::new(handover);
    let service = service_fn(move |request: Request<Incoming>| {
        forward::handle(served.clone(), request, first.lock().take())
    });
    let serving = builder
        .serve_connection(TokioIo::new(io), service)
        .with_upgrades();
    tokio::pin!(serving);
    let result = tokio::select! {
        // What has arrived already counts.
        biased;
        result = serving.as_mut() => result,
        () = drain.signaled() => {
            let late = conn.phase.head_for(LAST_HEAD);
            tokio::pin!(late);
            // The library does not know of a head that the guard still holds, and would close.
            let served = tokio::select! {
                result = serving.as_mut() => Some(result),
                () = conn.phase.head_over() => None,
                () = late.as_mut() => return CloseReason::Drain,
            };
            match served {
                Some(result) => result,
                None => {
                    serving.as_mut().graceful_shutdown();
                    tokio::select! {
                        result = serving => result,
                        () = late => return CloseReason::Drain,
                    }
                }
            }
        }
    };
    match conn.phase.refusal() {
        Some(late @ Refusal::HeadTimeout) => {
            conn.metrics().traffic.rejections.count(late.rejection());
            CloseReason::Timeout
        }
        Some(_) => CloseReason::Protocol,
        None => close_reason(&conn, result),
    }
}

pub(super) async fn serve_http2<IO>(conn: Arc<Conn>, io: Rewind<IO>) -> CloseReason
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Conn {
        drain, snapshot, ..
    } = &*conn;
    let (drain, limits, timeouts) = (
        drain.clone(),
        snapshot.limits.clone(),
        snapshot.timeouts.clone(),
    );
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .auto_date_header(false)
        .max_header_list_size(u32::try_from(limits.head_size.0).unwrap_or(u32::MAX))
        .max_concurrent_streams(limits.http2_streams)
        .initial_stream_window_size(flow::STREAM_WINDOW)
        .initial_connection_window_size(flow::connection_window(limits.http2_streams));
    if target::takes_extended_connect(&conn) {
        builder.enable_connect_protocol();
    }
    let patience = patience::Limits {
        head: Duration::ZERO,
        idle: Duration::ZERO,
        stall: timeouts.stall.0,
    };
    let io = Patience::new(io, conn.phase.clone(), patience);
    let served = conn.clone();
    // Boxed: the library moves what serves a stream several times before it begins.
    let service = service_fn(move |request: Request<Incoming>| {
        Box::pin(forward::handle(served.clone(), request, None))
    });
    let serving = builder.serve_connection(TokioIo::new(io), service);
    tokio::pin!(serving);
    let idle_over = async {
        match timeouts.idle.0 {
            Duration::ZERO => std::future::pending().await,
            limit => conn.phase.idle_for(limit).await,
        }
    };
    let result = tokio::select! {
        result = serving.as_mut() => result,
        () = drain.signaled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
        () = idle_over => {
            conn.phase.cut(Cut::Idle);
            serving.as_mut().graceful_shutdown();
            // A peer that does not answer our goodbye gets no further hour.
            tokio::time::timeout(GOODBYE, serving).await.unwrap_or(Ok(()))
        }
    };
    close_reason(&conn, result)
}

fn close_reason(conn: &Conn, result: Result<(), hyper::Error>) -> CloseReason {
    match conn.phase.why_cut() {
        Some(Cut::Idle) => return CloseReason::Idle,
        Some(Cut::Stalled) => return CloseReason::Timeout,
        None => {}
    }
    let Err(error) = result else {
        return CloseReason::Peer;
    };
    debug!(%error, "downstream connection ended");
    if error.is_timeout() {
        CloseReason::Timeout
    } else if error.is_parse() {
        CloseReason::Protocol
    } else {
        CloseReason::Error
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The size of the futures that a function makes.
    fn size_of_task<A, B, T>(_: fn(A, B) -> T) -> usize {
        size_of::<T>()
    }

    #[test]
    fn an_idle_connection_is_small() {
        let size = size_of_task(serve);
        assert!(size <= 3072, "{size} bytes, ten thousand times");
    }
}
