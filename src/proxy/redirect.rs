//! Connections that rules of the system lead here: where they were going, and what they carry.
//!
//! The client's first byte races the server's. A connection to a destination that nobody knows yet is opened upwards
//! at once, so that a server that speaks first is heard without delay; when the client turns out to speak HTTP, the
//! request path takes that connection over. What is not HTTP goes on in `tcp`.

use std::future::pending;
use std::future::ready;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tracing::debug;
use tracing::warn;

use crate::detect;
use crate::detect::ClientHello;
use crate::detect::Hello;
use crate::detect::Protocol;
use crate::model::HostPort;
use crate::net::original_dst;
use crate::net::rewind::Rewind;
use crate::proxy::config::Arrival;
use crate::proxy::config::Interception;
use crate::proxy::error::ProxyError;
use crate::proxy::habits::Habit;
use crate::proxy::listener;
use crate::proxy::listener::Conn;
use crate::proxy::listener::Role;
use crate::proxy::metered::Metered;
use crate::proxy::preamble;
use crate::proxy::tcp;
use crate::proxy::tcp::Content;
use crate::proxy::upstream::Connector;
use crate::proxy::upstream::Opened;
use crate::proxy::upstream::Opening;
use crate::proxy::upstream::Pool;
use crate::telemetry::metrics::CloseReason;
use crate::telemetry::metrics::Detected;
use crate::telemetry::metrics::Direction;
use crate::telemetry::metrics::OpenConnection;
use crate::telemetry::metrics::Rejection;

/// Where HTTP is spoken, a client may be silent for so long before its server is asked whether it speaks first.
const HEAD_START: Duration = Duration::from_millis(10);
/// How long a client may be silent after its destination refused: one that speaks HTTP gets an answer.
const REFUSAL_GRACE: Duration = Duration::from_millis(100);

/// Where a redirected connection was going.
pub struct Redirected {
    /// As the caller dialled it.
    pub addr: SocketAddr,
    /// Where that is reached from here.
    pub to: HostPort,
    /// A connection there, opened before anybody knew what it will carry. The first request takes it.
    opening: Mutex<Option<Opening>>,
}

impl Redirected {
    /// The connection that was opened in advance, once.
    pub(super) fn take_opening(&self) -> Option<Opening> {
        self.opening.lock().take()
    }
}

/// Serves a redirected connection to its end.
pub(super) async fn serve(mut conn: Conn, stream: TcpStream, mut open: OpenConnection) {
    let begun = Instant::now();
    let (addr, to) = match destination(&conn, &stream) {
        Ok(found) => found,
        Err(reason) => {
            conn.metrics().traffic.rejections.count(reason);
            open.reason = CloseReason::Local;
            original_dst::reset_on_close(&stream);
            return;
        }
    };
    // As the program sees it.
    conn.redirected = Some(Redirected {
        addr,
        to: to.clone(),
        opening: Mutex::default(),
    });
    let stream = Metered::new(stream, conn.metrics().downstream.clone()).through(conn.passage());
    let (prefix, io) = match preamble::read(&mut conn, stream).await {
        Ok(stream) => stream.into_parts(),
        Err(reason) => {
            open.reason = reason;
            return;
        }
    };
    let pool = match conn.listener.direction() {
        Direction::Inbound => conn.worker.inbound_pool.clone(),
        Direction::Outbound => conn.worker.outbound_pool.clone(),
    };
    let mut race = Race {
        conn: &conn,
        addr,
        to,
        pool,
        io,
        prefix: BytesMut::from(prefix),
        upstream: Upstream::Waiting,
    };
    let first = race.run().await;
    let hello = match first {
        First::Client(Protocol::Tls) => race.hello().await,
        _ => ClientHello::default(),
    };
    let Race {
        io,
        prefix,
        upstream,
        to,
        pool,
        ..
    } = race;
    let io = Rewind::new(io, prefix.freeze());
    count(&conn, &first);
    let connector = connector(&conn);
    open.reason = match first {
        First::Client(protocol @ (Protocol::Http1 | Protocol::Http2)) => {
            let now = std::time::Instant::now();
            conn.worker.habits.learn(addr, Habit::Http, now);
            if let Some(redirected) = &conn.redirected {
                *redirected.opening.lock() = upstream.into_opening();
            }
            let conn = Arc::new(conn);
            match protocol {
                Protocol::Http2 => listener::serve_http2(conn, io).await,
                _ => listener::serve_http1(conn, io).await,
            }
        }
        First::Client(protocol) => {
            let content = match protocol {
                Protocol::Tls => Content::Tls(hello),
                _ => Content::Opaque,
            };
            let opening = upstream.into_opening();
            let opening = opening.unwrap_or_else(|| pool.begin(to, connector));
            tcp::forward(conn, io, opening, content, begun.into_std()).await
        }
        First::Server => {
            let opening = upstream.into_opening();
            let opening = opening.unwrap_or_else(|| pool.begin(to, connector));
            tcp::forward(conn, io, opening, Content::Opaque, begun.into_std()).await
        }
        First::Refused(error) => {
            debug!(%error, %addr, "destination of a redirected connection not reached");
            original_dst::reset_on_close(io.inner().inner());
            CloseReason::Error
        }
        First::Broken => CloseReason::Error,
        First::Drain => CloseReason::Drain,
    };
}

/// Where the connection was going: as dialled, and as it is reached from here.
fn destination(conn: &Conn, stream: &TcpStream) -> Result<(SocketAddr, HostPort), Rejection> {
    let (mode, to) = match conn.listener.role {
        Role::RedirectedInbound { mode, to, .. } => (mode, to),
        Role::RedirectedOutbound { mode } => (mode, Arrival::Original),
        _ => return Err(Rejection::NoRoute),
    };
    let found = match mode {
        Interception::Tproxy => stream.local_addr().map(original_dst::canonical).map(Some),
        Interception::Redirect => original_dst::redirected(stream),
    };
    let addr = match found {
        Ok(Some(addr)) => addr,
        // Whoever dials this port itself wants to go nowhere.
        Ok(None) => return Err(looped(conn, None)),
        Err(error) => {
            debug!(%error, peer = %conn.peer, "no original destination");
            return Err(Rejection::NoRoute);
        }
    };
    let own = &conn.worker.shared.own_addresses;
    if own.iter().any(|own| own.port() == addr.port()) && original_dst::is_local(addr.ip()) {
        return Err(looped(conn, Some(addr)));
    }
    // From loopback they would be reached, whatever the rules know of them.
    let private = &conn.worker.shared.private_ports;
    if to == Arrival::Loopback && private.contains(&addr.port()) {
        return Err(looped(conn, Some(addr)));
    }
    let ip = match to {
        Arrival::Original => addr.ip(),
        Arrival::Loopback => original_dst::loopback_like(addr.ip()),
    };
    Ok((addr, HostPort::new(&ip.to_string(), addr.port())))
}

/// The caller's address, where the program is to see it.
pub(super) fn source(conn: &Conn) -> Option<IpAddr> {
    let Role::RedirectedInbound {
        keep_source: true, ..
    } = conn.listener.role
    else {
        return None;
    };
    let ip = conn.peer.ip();
    // A header of the PROXY protocol may name anything.
    let is_usable = !ip.is_loopback() && !ip.is_unspecified() && !ip.is_multicast();
    is_usable.then_some(ip)
}

fn connector(conn: &Conn) -> Connector {
    Connector {
        from: source(conn),
        ..conn.snapshot.connector(conn.listener.direction())
    }
}

fn looped(conn: &Conn, to: Option<SocketAddr>) -> Rejection {
    let to = to.map_or("the listener itself".to_owned(), |to| to.to_string());
    if let Some(suppressed) = conn.worker.shared.loop_warnings.pass() {
        warn!(%to, peer = %conn.peer, suppressed, "redirected connection to this proxy itself closed");
    }
    Rejection::Loop
}

fn count(conn: &Conn, first: &First) {
    let detected = match first {
        First::Client(protocol) => Detected::from(*protocol),
        First::Server => Detected::ServerFirst,
        First::Refused(_) | First::Broken | First::Drain => return,
    };
    conn.metrics().server.detected.count(detected);
}

/// Who made the first move.
enum First {
    /// The client spoke, ended, or was silent for too long.
    Client(Protocol),
    /// The server spoke or ended, or is known to speak first.
    Server,
    /// There is no server, and the client said nothing that could be answered.
    Refused(ProxyError),
    /// The client's connection broke.
    Broken,
    /// The proxy is stopping, and nothing has begun.
    Drain,
}

/// The connection upwards while nobody knows yet what it will carry.
enum Upstream {
    /// Not begun.
    Waiting,
    /// On its way.
    Opening(Opening),
    /// There.
    Open(Opened<TcpStream>),
    /// Refused, at this time.
    Failed(ProxyError, Instant),
}

/// What happened upwards.
enum Event {
    /// The connection is there or refused.
    Opened(Result<Opened<TcpStream>, ProxyError>),
    /// The server spoke; true: in a way that is worth remembering.
    Spoke(bool),
}

struct Race<'a> {
    conn: &'a Conn,
    addr: SocketAddr,
    to: HostPort,
    pool: Arc<Pool>,
    io: Metered<TcpStream>,
    prefix: BytesMut,
    upstream: Upstream,
}

impl Race<'_> {
    async fn run(&mut self) -> First {
        let snapshot = &self.conn.snapshot;
        let begun = Instant::now();
        let ports = &snapshot.passthrough.server_first_ports;
        let habit = self.conn.worker.habits.of(self.addr, begun.into_std());
        if habit == Some(Habit::ServerFirst) || ports.contains(&self.addr.port()) {
            self.begin();
            return First::Server;
        }
        if habit.is_none() {
            self.begin();
        }
        if let Some(protocol) = self.verdict(false) {
            return First::Client(protocol);
        }
        let mut deadline = after(begun, snapshot.timeouts.detect.0);
        let drain = self.conn.drain.clone();
        loop {
            let wait = match &self.upstream {
                Upstream::Waiting => begun + HEAD_START,
                Upstream::Failed(_, at) => (*at + REFUSAL_GRACE).max(begun),
                _ => deadline,
            };
            tokio::select! {
                biased;
                read = detect::read_more(&mut self.io, &mut self.prefix) => {
                    let Ok(n) = read else { return First::Broken };
                    if let Some(protocol) = self.verdict(n == 0) {
                        return First::Client(protocol);
                    }
                    // Something was said that may go on in several ways: it is not held back for long.
                    let hold = after(Instant::now(), snapshot.passthrough.hold.0);
                    deadline = deadline.min(hold);
                }
                event = self.upstream.next() => match event {
                    Event::Opened(Ok(opened)) => self.upstream = Upstream::Open(opened),
                    Event::Opened(Err(error)) => {
                        self.upstream = Upstream::Failed(error, Instant::now());
                    }
                    Event::Spoke(remember) => {
                        if remember && self.prefix.is_empty() {
                            let now = std::time::Instant::now();
                            self.conn.worker.habits.learn(self.addr, Habit::ServerFirst, now);
                        }
                        return First::Server;
                    }
                },
                () = tokio::time::sleep_until(wait.min(deadline)) => {
                    if wait >= deadline && !matches!(self.upstream, Upstream::Failed(..)) {
                        return First::Client(Protocol::Timeout);
                    }
                    match std::mem::replace(&mut self.upstream, Upstream::Waiting) {
                        Upstream::Failed(error, _) => return First::Refused(error),
                        _ => self.begin(),
                    }
                }
                () = drain.signaled() => return First::Drain,
            }
        }
    }

    fn begin(&mut self) {
        let opening = self.pool.begin(self.to.clone(), connector(self.conn));
        self.upstream = Upstream::Opening(opening);
    }

    fn verdict(&self, end: bool) -> Option<Protocol> {
        match detect::verdict(&self.prefix, end)? {
            // The program's own way through another proxy: what follows the answer is not HTTP.
            Protocol::Http1 if self.prefix.starts_with(b"CONNECT ") => {
                Some(Protocol::Opaque(detect::Reason::Method))
            }
            protocol => Some(protocol),
        }
    }

    /// Reads the rest of a ClientHello, as long as it comes at once.
    async fn hello(&mut self) -> ClientHello {
        let deadline = after(Instant::now(), self.conn.snapshot.passthrough.hold.0);
        loop {
            match detect::client_hello(&self.prefix) {
                Hello::Whole(hello) => return hello,
                Hello::Malformed => return ClientHello::default(),
                Hello::NeedMore => {}
            }
            let read = detect::read_more(&mut self.io, &mut self.prefix);
            match tokio::time::timeout_at(deadline, read).await {
                Ok(Ok(n)) if n > 0 => {}
                _ => return ClientHello::default(),
            }
        }
    }
}

impl Upstream {
    async fn next(&mut self) -> Event {
        match self {
            Self::Opening(opening) => Event::Opened(opening.await),
            Self::Open((stream, ..)) => {
                let mut greeting = [0; 5];
                let n = stream.peek(&mut greeting).await.unwrap_or(0);
                // An HTTP server that gives up waiting says so in HTTP.
                Event::Spoke(n > 0 && greeting != *b"HTTP/")
            }
            Self::Waiting | Self::Failed(..) => pending().await,
        }
    }

    fn into_opening(self) -> Option<Opening> {
        match self {
            Self::Waiting => None,
            Self::Opening(opening) => Some(opening),
            Self::Open(opened) => Some(Box::pin(ready(Ok(opened)))),
            Self::Failed(error, _) => Some(Box::pin(ready(Err(error)))),
        }
    }
}

/// Zero stands for "no limit".
fn after(now: Instant, limit: Duration) -> Instant {
    const FOREVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
    now + if limit.is_zero() { FOREVER } else { limit }
}
