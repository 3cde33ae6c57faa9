//! Why a proxied request failed, and on which side. `respond` alone turns it into an answer.

use std::io;
use std::time::Duration;

use crate::net::tls::TlsError;
use crate::proxy::guard::Refusal;
use crate::telemetry::metrics::ConnectFailure;
use crate::telemetry::metrics::ErrorType;
use crate::telemetry::metrics::Rejection;

/// A failure that Pillion answers instead of the upstream.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// The name of the destination does not resolve.
    #[error("{host} does not resolve")]
    Resolve {
        /// The name.
        host: String,
        /// What the resolver said.
        #[source]
        source: io::Error,
    },
    /// No connection.
    #[error("connect to {to} failed")]
    Connect {
        /// The destination.
        to: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// No connection in time.
    #[error("connect to {to} timed out after {after:?}")]
    ConnectTimeout {
        /// The destination.
        to: String,
        /// The limit.
        after: Duration,
    },
    /// TLS towards the upstream failed.
    #[error("TLS with {to} failed")]
    Tls {
        /// The destination.
        to: String,
        /// What the handshake said.
        #[source]
        source: TlsError,
    },
    /// No upstream connection became free.
    #[error("no upstream connection became free within {0:?}")]
    PoolTimeout(Duration),
    /// The upstream broke the exchange before its response head was complete.
    #[error("the upstream broke the exchange")]
    Exchange(#[source] hyper::Error),
    /// No response head in time.
    #[error("no response within {0:?}")]
    ResponseTimeout(Duration),
    /// Neither side made progress.
    #[error("neither side made progress for {0:?}")]
    Stalled(Duration),
    /// Too many requests in flight.
    #[error("more than {0} requests in flight")]
    Overload(usize),
    /// The request body is larger than configured.
    #[error("the request body exceeds {0} bytes")]
    BodyTooLarge(u64),
    /// The request cannot be forwarded as it is.
    #[error("{0}")]
    BadRequest(&'static str),
    /// The request is not passed on.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The caller broke its request off.
    #[error("the request body ended early")]
    BodyBroken,
    /// The upstream's response is not passed on.
    #[error("{0}")]
    BadResponse(&'static str),
    /// The destination is this proxy.
    #[error("{to} is this proxy itself")]
    Loop {
        /// The destination.
        to: String,
    },
}

impl ProxyError {
    /// True when the caller sent what nobody should: what follows on its connection is not worth reading.
    pub fn is_callers(&self) -> bool {
        matches!(
            self,
            Self::BodyTooLarge(_) | Self::BadRequest(_) | Self::Refused(_) | Self::BodyBroken
        )
    }

    /// The closed-set reason for metrics and `error.type`.
    pub fn error_type(&self) -> ErrorType {
        match self {
            Self::Resolve { .. } | Self::Connect { .. } | Self::Tls { .. } => ErrorType::Connect,
            Self::ConnectTimeout { .. } | Self::ResponseTimeout(_) | Self::Stalled(_) => {
                ErrorType::Timeout
            }
            Self::Exchange(error) if error.is_parse() || error.is_user() => ErrorType::Protocol,
            Self::Exchange(_) => ErrorType::Reset,
            Self::PoolTimeout(_) | Self::Overload(_) => ErrorType::Overload,
            Self::BodyBroken => ErrorType::Canceled,
            Self::BodyTooLarge(_)
            | Self::BadRequest(_)
            | Self::Refused(_)
            | Self::BadResponse(_)
            | Self::Loop { .. } => ErrorType::Protocol,
        }
    }

    /// `error.type` on the span: finer than the metric's label, still a closed set.
    pub fn span_error_type(&self) -> &'static str {
        match self {
            Self::Resolve { .. } => "name_not_resolved",
            Self::Connect { source, .. } => match source.kind() {
                io::ErrorKind::ConnectionRefused => "connection_refused",
                io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => "unreachable",
                _ => "connect_failed",
            },
            Self::ConnectTimeout { .. } => "connect_timeout",
            Self::Tls { .. } => "tls_handshake",
            Self::PoolTimeout(_) => "pool_exhausted",
            Self::Exchange(error) if error.is_parse() => "malformed_response",
            Self::Exchange(_) => "connection_reset",
            Self::ResponseTimeout(_) => "timeout",
            Self::Stalled(_) => "stalled",
            Self::Overload(_) => "overload",
            Self::BodyTooLarge(_) => "body_too_large",
            Self::BadRequest(_) | Self::Refused(_) => "bad_request",
            Self::BodyBroken => "canceled",
            Self::BadResponse(_) => "malformed_response",
            Self::Loop { .. } => "loop",
        }
    }

    /// The metric's reason when no connection could be opened.
    pub fn connect_failure(&self) -> Option<ConnectFailure> {
        match self {
            Self::Resolve { .. } => Some(ConnectFailure::Dns),
            Self::Connect { source, .. } => Some(ConnectFailure::from(source)),
            Self::ConnectTimeout { .. } => Some(ConnectFailure::Timeout),
            Self::Tls { .. } => Some(ConnectFailure::Tls),
            Self::Exchange(_) => Some(ConnectFailure::Protocol),
            _ => None,
        }
    }

    /// The metric's reason when a limit of ours refused the request.
    pub fn rejection(&self) -> Option<Rejection> {
        match self {
            Self::PoolTimeout(_) => Some(Rejection::Pool),
            Self::Overload(_) => Some(Rejection::Requests),
            Self::BodyTooLarge(_) => Some(Rejection::BodyTooLarge),
            Self::BadRequest(_) => Some(Rejection::Malformed),
            Self::Refused(refusal) => Some(refusal.rejection()),
            Self::Loop { .. } => Some(Rejection::Loop),
            _ => None,
        }
    }
}
