//! HTTP/1 connections that wait for a request, and who speaks on them.

use std::io;
use std::pin::Pin;
use std::task::Context;
use std::task::Waker;
use std::time::Duration;
use std::time::Instant;

use hyper::client::conn::http1;
use tokio::io::AsyncRead;
use tokio::io::ReadBuf;
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;

use crate::net::peek;
use crate::net::tls::MaybeTls;
use crate::proxy::body::RequestBody;
use crate::proxy::metered::Metered;
use crate::proxy::upstream::Ends;
use crate::proxy::upstream::Sender;
use crate::telemetry::metrics::OpenConnection;

/// Who speaks HTTP/1 on a connection. It stays with whoever began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaker {
    /// The HTTP library, in a task of its own.
    Library,
    /// The exchange itself: see `proxy::plain`.
    Plain,
}

/// A connection without anybody's state: bytes in, bytes out.
pub struct Plain {
    /// The connection.
    pub(in crate::proxy) io: Metered<MaybeTls<TcpStream>>,
    pub(super) open: OpenConnection,
    pub(super) permit: OwnedSemaphorePermit,
}

/// A connection that rested for so long is asked before it is used again. That its upstream closed it may not have been
/// told yet while this thread had other work, and the request would be lost; busier ones are not worth the system call.
const RESTED: Duration = Duration::from_millis(100);

/// A connection that waits for a request.
pub(super) struct Idle {
    pub(super) link: Link,
    pub(super) peer: Ends,
    pub(super) since: Instant,
    pub(super) until: Instant,
}

/// What waits.
pub(super) enum Link {
    /// The library's handle.
    Library(http1::SendRequest<RequestBody>),
    /// The connection itself.
    Plain(Box<Plain>),
}

impl Idle {
    /// True when it shall carry no further request.
    pub(super) fn is_gone(&mut self, now: Instant) -> bool {
        let has_rested = || now.saturating_duration_since(self.since) >= RESTED;
        self.until <= now || self.link.is_closed() || has_rested() && self.link.has_input()
    }
}

impl Link {
    pub(super) fn speaker(&self) -> Speaker {
        match self {
            Self::Library(_) => Speaker::Library,
            Self::Plain(_) => Speaker::Plain,
        }
    }

    /// True when its last exchange was its last; what happened since is not asked.
    pub(super) fn is_over(&self) -> bool {
        match self {
            Self::Library(sender) => sender.is_closed(),
            Self::Plain(_) => false,
        }
    }

    /// True when it can carry no further request.
    pub(super) fn is_closed(&mut self) -> bool {
        match self {
            Self::Library(sender) => sender.is_closed(),
            Self::Plain(plain) => plain.has_spoken(),
        }
    }

    /// The same as far as the system knows now; the library's own connections cannot be asked.
    fn has_input(&self) -> bool {
        match self {
            Self::Plain(plain) => match plain.io.inner() {
                MaybeTls::Plain(tcp) => peek::has_input(tcp),
                _ => false,
            },
            Self::Library(_) => false,
        }
    }

    /// True when its last exchange is wound up.
    pub(super) fn is_ready(&self) -> bool {
        match self {
            Self::Library(sender) => sender.is_ready(),
            Self::Plain(_) => true,
        }
    }
}

impl From<Link> for Sender {
    fn from(link: Link) -> Self {
        match link {
            Link::Library(sender) => Self::Http1(sender),
            Link::Plain(plain) => Self::Plain(plain),
        }
    }
}

impl Plain {
    /// True when something came although nothing was asked: the end, or what nobody may take for an answer. Costs no
    /// system call while the system has reported nothing.
    fn has_spoken(&mut self) -> bool {
        let mut byte = [0];
        if let MaybeTls::Plain(tcp) = self.io.inner() {
            let read = tcp.try_read(&mut byte);
            return !matches!(read, Err(error) if error.kind() == io::ErrorKind::WouldBlock);
        }
        let mut buf = ReadBuf::new(&mut byte);
        let mut cx = Context::from_waker(Waker::noop());
        Pin::new(&mut self.io)
            .poll_read(&mut cx, &mut buf)
            .is_ready()
    }
}
