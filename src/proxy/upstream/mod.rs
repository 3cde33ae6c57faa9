//! Connections to upstreams: opening them, keeping them, handing them out.
//!
//! Each worker has its own pool; a connection never moves between threads.

mod answering;
mod connect;
mod link;
mod pool;
mod streams;

use std::net::IpAddr;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use http::Request;
use http::Response;
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;

use crate::model::HostPort;
use crate::net::tls::ClientTls;
use crate::proxy::body::RequestBody;
use crate::proxy::error::ProxyError;
use crate::proxy::upstream::link::Link;
use crate::telemetry::metrics::ActiveGuard;

pub use connect::Connector;
pub use connect::Inside;
pub use link::Plain;
pub use link::Speaker;
pub use pool::Opened;
pub use pool::Opening;
pub use pool::Pool;
pub use pool::PoolLimits;

pub(super) use answering::Read;

/// What makes two upstream connections interchangeable.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Destination {
    /// Where.
    pub to: HostPort,
    /// TLS, and which settings.
    pub tls: Option<TlsTarget>,
    /// HTTP/2 instead of HTTP/1.
    pub http2: bool,
    /// The address it comes from, where that is not ours.
    pub from: Option<IpAddr>,
}

/// TLS towards one name.
#[derive(Debug, Clone)]
pub struct TlsTarget {
    /// Settings; identity, not content, tells two apart.
    pub tls: Arc<ClientTls>,
}

impl PartialEq for TlsTarget {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.tls, &other.tls)
    }
}

impl Eq for TlsTarget {}

impl std::hash::Hash for TlsTarget {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.tls).hash(state);
    }
}

/// The two ends of a connection upwards. Shows as the far one.
#[derive(Debug, Clone, Copy)]
pub struct Ends {
    /// The upstream's address.
    pub address: SocketAddr,
    /// Our own address.
    pub local: SocketAddr,
    /// When it began to be opened.
    pub since: Instant,
}

impl std::fmt::Display for Ends {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.address.fmt(f)
    }
}

/// Where the time of opening a connection went.
#[derive(Debug, Clone, Copy, Default)]
pub struct ConnectTiming {
    /// Name resolution.
    pub resolve: Duration,
    /// TCP.
    pub connect: Duration,
    /// TLS handshake; zero without TLS.
    pub tls: Duration,
}

/// A connection on loan for one exchange. Give it back with [`Lease::give_back`]; dropping it closes an HTTP/1
/// connection, which is right whenever the exchange did not end well.
pub struct Lease {
    sender: Sender,
    pool: Arc<Pool>,
    destination: Destination,
    /// The connection's ends.
    pub peer: Ends,
    /// Served an earlier exchange.
    pub reused: bool,
    /// Zero when reused.
    pub timing: ConnectTiming,
    /// How long it may idle, by the upstream's own words.
    pub idle_limit: Option<Duration>,
    in_use: ActiveGuard,
}

enum Sender {
    Http1(hyper::client::conn::http1::SendRequest<RequestBody>),
    Http2(streams::SharedSender),
    Plain(Box<Plain>),
}

impl Lease {
    /// Has the library send one request. The error says whether the request was not sent at all and can go elsewhere.
    /// `None`: the library does not speak on this connection.
    pub async fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> Option<Result<Response<Incoming>, TrySendError<Request<RequestBody>>>> {
        Some(match &mut self.sender {
            Sender::Http1(sender) => sender.try_send_request(request).await,
            Sender::Http2(shared) => shared.sender.try_send_request(request).await,
            Sender::Plain(_) => return None,
        })
    }

    /// The connection itself; `None` when the library speaks on it.
    pub(super) fn plain(&mut self) -> Option<&mut Plain> {
        match &mut self.sender {
            Sender::Plain(plain) => Some(plain),
            _ => None,
        }
    }

    /// Has the library read the answer to a request that was sent without it; `request` is what it takes for that
    /// one. The connection ends with the answer.
    ///
    /// # Errors
    /// The upstream broke the exchange.
    pub(super) async fn answer(
        self,
        request: Request<RequestBody>,
        read: Read,
    ) -> Result<Response<Incoming>, ProxyError> {
        let mut sender = match self.sender {
            Sender::Plain(plain) => self.pool.adopt(plain, self.peer, read).await?,
            Sender::Http1(sender) => sender,
            Sender::Http2(_) => return Err(ProxyError::BadResponse("not HTTP/1")),
        };
        let answer = sender.send_request(request).await;
        answer.map_err(ProxyError::Exchange)
    }

    /// True for HTTP/2.
    pub fn is_http2(&self) -> bool {
        matches!(self.sender, Sender::Http2(_))
    }

    /// Returns a connection whose exchange ended well, now.
    pub fn give_back(self, now: Instant) {
        let Self {
            sender,
            pool,
            destination,
            peer,
            idle_limit,
            in_use,
            ..
        } = self;
        drop(in_use);
        let link = match sender {
            Sender::Http1(sender) => Link::Library(sender),
            Sender::Plain(plain) => Link::Plain(plain),
            Sender::Http2(_) => return,
        };
        pool.put(destination, link, peer, idle_limit, now);
    }
}
