//! What must not pass although the HTTP library would let it: ambiguous framing, loose line ends, doubtful targets.
//!
//! [`scan`] is the rule for HTTP/1 on the wire, without input or output: one reading of a byte stream as requests, so
//! narrow that no other reader can find different requests in it. [`wire`] applies it to a connection before the HTTP
//! library sees a byte. [`check`] is what remains to be said about a parsed request, of any version.
//!
//! A refused head is replaced by a request of our own ([`is_stand_in`]), so that the answer takes the usual way behind
//! the answers of earlier requests.

mod authority;
mod check;
mod lines;
mod scan;
mod wire;

use http::Request;

use crate::telemetry::metrics::Rejection;

pub(super) use check::check;
pub(super) use check::check_host;
pub(super) use lines::field;
pub(super) use scan::Bounds;
pub(super) use scan::FieldLine;
pub(super) use scan::FieldLines;
pub(super) use scan::Whole;
pub(super) use scan::whole;
pub(super) use wire::Guarded;

/// Why bytes are not passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Not HTTP, or HTTP that can be read in two ways.
    #[error("{0}")]
    Malformed(&'static str),
    /// An HTTP version that is not spoken here.
    #[error("this HTTP version is not supported")]
    Version,
    /// A transfer coding other than `chunked`.
    #[error("no transfer coding but chunked is supported")]
    Coding,
    /// The request line is longer than the head may be.
    #[error("the request target is too long")]
    TargetTooLong,
    /// The head is too large.
    #[error("the request head is too large")]
    HeadTooLarge,
    /// The head has too many fields.
    #[error("the request has too many header fields")]
    TooManyFields,
    /// The head took too long.
    #[error("the request head did not arrive within its time")]
    HeadTimeout,
}

impl Refusal {
    /// The metric's reason.
    pub(super) fn rejection(self) -> Rejection {
        match self {
            Self::Malformed(_) | Self::Version | Self::Coding => Rejection::Malformed,
            Self::TargetTooLong | Self::HeadTooLarge => Rejection::HeadTooLarge,
            Self::TooManyFields => Rejection::TooManyHeaders,
            Self::HeadTimeout => Rejection::HeadTimeout,
        }
    }
}

/// The method of the request that stands in for a refused one.
const STAND_IN: &str = "PILLION-REFUSED";

/// True for the request that stands in for a refused one. A caller who writes the like is refused too.
pub(super) fn is_stand_in<B>(request: &Request<B>) -> bool {
    request.method().as_str() == STAND_IN
}
