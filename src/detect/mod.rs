//! First bytes of a connection to its protocol.
//!
//! [`sniff`] is the rule, without input or output; [`detect`] reads until the rule has decided. A peer whose first
//! bytes are no HTTP and no TLS is forwarded without being understood: the rule would rather let an odd HTTP request
//! pass unseen than disturb another protocol. What it gives up: Redis' inline form `GET /key` looks like HTTP, and
//! HTTP methods in lower case do not. How long to wait is the listener's to know.
//!
//! A peer that says nothing may wait for the other side to speak first, so silence is an outcome of its own.

mod client_hello;
mod proxy_protocol;
mod read;
mod sniff;

use crate::telemetry::metrics::Detected;

pub use client_hello::{ClientHello, Hello, MAX_HELLO, client_hello};
pub use proxy_protocol::{MAX_PROXY_HEADER, ProxyHeader, proxy_header};
pub use read::{detect, read_more, verdict};
pub use sniff::{MAX_PREFIX, Reason, Sniff, sniff};

/// What a connection carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.0 or HTTP/1.1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// A TLS ClientHello.
    Tls,
    /// None of those.
    Opaque(Reason),
    /// Nothing was decided in time: the peer is silent, or stopped in the middle of a word.
    Timeout,
    /// The peer closed without a byte.
    Closed,
}

impl From<Protocol> for Detected {
    fn from(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Http1 => Self::Http1,
            Protocol::Http2 => Self::Http2,
            Protocol::Tls => Self::Tls,
            Protocol::Opaque(_) => Self::Opaque,
            Protocol::Timeout => Self::Timeout,
            Protocol::Closed => Self::Closed,
        }
    }
}
