//! Keeping what matters: a request of a trace that is not sampled is reported all the same when it fails or takes long.
//!
//! What such a span would say is not built while it is under way; the request's first line is held, and the rest is made
//! of what the exchange still knows at its end. The decision that callees read on the wire stays a no.

use std::net::SocketAddr;
use std::time::Duration;
use std::time::Instant;

use ::http::HeaderValue;
use ::http::Method;
use ::http::Request;
use ::http::StatusCode;
use ::http::Uri;
use ::http::Version;
use ::http::header::HOST;
use schemars::JsonSchema;
use serde::Deserialize;
use serde::Serialize;

use crate::model::HumanDuration;
use crate::model::Text;
use crate::sampling::Bucket;
use crate::sampling::TracesPerSecond;
use crate::tracer::ActiveSpan;
use crate::tracer::Cause;
use crate::tracer::http::Conventions;
use crate::tracer::http::Operation;

/// Which requests are reported although their trace is not sampled. Each is judged by itself: the parent that its span
/// names may not be there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Those that fail, where a recorded span would be an error.
    ///
    /// Default: `false`. Reload: new connections.
    pub errors: bool,
    /// Those that take this long or longer. `0`: none.
    ///
    /// Unit: duration. Default: `0`. Reload: new connections.
    pub slower_than: HumanDuration,
    /// Most of them in a second, in the long run; what is beyond is counted.
    ///
    /// Unit: spans a second. Default: `10`. Reload: new connections.
    pub per_second: TracesPerSecond,
    /// Most of them at once after a quiet time.
    ///
    /// Unit: spans. Default: `50`. Reload: new connections.
    pub burst: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            errors: false,
            slower_than: HumanDuration::from_secs(0),
            per_second: TracesPerSecond::TEN,
            burst: 50,
        }
    }
}

/// The rule and its limit. Present only where something may be kept.
#[derive(Debug)]
pub struct Keep {
    errors: bool,
    slower_than: Duration,
    bucket: Bucket,
}

/// Why a span was kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// It failed.
    Error,
    /// It took long.
    Slow,
}

impl Kept {
    /// The value of `pillion.sampling.kept`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Slow => "slow",
        }
    }
}

impl Keep {
    /// `None`: nothing is kept.
    pub fn new(config: &Config) -> Option<Self> {
        let keeps = config.errors || !config.slower_than.0.is_zero();
        keeps.then(|| Self {
            errors: config.errors,
            slower_than: config.slower_than.0,
            bucket: Bucket::with_burst(config.per_second, config.burst),
        })
    }

    /// Why a span with this end is worth keeping, whatever the limit says.
    pub(super) fn reason(&self, failed: bool, took: Duration) -> Option<Kept> {
        if failed && self.errors {
            return Some(Kept::Error);
        }
        (!self.slower_than.is_zero() && took >= self.slower_than).then_some(Kept::Slow)
    }

    /// False: there were too many.
    pub(super) fn admit(&self, now: Instant) -> bool {
        self.bucket.take(now)
    }
}

/// What is held of a request until it is known whether its span is kept.
#[derive(Debug, Default)]
pub struct Late {
    head: Option<Head>,
    /// Method, confidence and number of candidates.
    pub(super) link: Option<(&'static str, &'static str, f64, usize)>,
    pub(super) failed: Option<Text>,
    pub(super) rpc_status: Option<&'static str>,
    pub(super) peer: Option<SocketAddr>,
}

/// Everything here is shared, not copied.
#[derive(Debug)]
struct Head {
    operation: Operation,
    method: Method,
    uri: Uri,
    version: Version,
    host: Option<HeaderValue>,
}

impl Late {
    /// Holds the beginning of a request.
    pub(super) fn hold<B>(&mut self, operation: Operation, request: &Request<B>) {
        self.head = Some(Head {
            operation,
            method: request.method().clone(),
            uri: request.uri().clone(),
            version: request.version(),
            host: request.headers().get(HOST).cloned(),
        });
    }

    pub(super) fn linked(&mut self, cause: &Cause) {
        self.link = Some((cause.method, cause.confidence, cause.p, cause.candidates));
    }

    /// The request as far as it was held: its first line and its host.
    pub fn request(&mut self) -> Option<(Operation, Request<()>)> {
        let head = self.head.take()?;
        let mut request = Request::new(());
        *request.method_mut() = head.method;
        *request.uri_mut() = head.uri;
        *request.version_mut() = head.version;
        if let Some(host) = head.host {
            request.headers_mut().insert(HOST, host);
        }
        Some((head.operation, request))
    }
}

impl Conventions {
    /// Attributes of a span that was kept, beyond those of its request.
    pub fn kept(&self, span: &mut ActiveSpan, late: Late, status: Option<StatusCode>) {
        if let Some((method, confidence, p, candidates)) = late.link {
            span.label_link(method, confidence, p, candidates);
        }
        if let Some(peer) = late.peer {
            self.peer(span, peer);
        }
        if let Some(status) = status {
            span.set("http.response.status_code", i64::from(status.as_u16()));
        }
        if let Some(name) = late.rpc_status {
            span.set("rpc.response.status_code", name);
        }
        if let Some(error_type) = late.failed {
            span.fail(error_type);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_and_slow_requests_are_told_apart_and_others_are_not_kept() {
        let keep = |errors, slower_than| {
            Keep::new(&Config {
                errors,
                slower_than: HumanDuration::from_millis(slower_than),
                ..Config::default()
            })
        };
        assert!(keep(false, 0).is_none(), "off by default");
        for (errors, limit, failed, took, expected) in [
            (true, 0, true, 0, Some(Kept::Error)),
            (true, 0, false, 10_000, None),
            (false, 100, true, 99, None),
            (false, 100, false, 100, Some(Kept::Slow)),
            (true, 100, true, 200, Some(Kept::Error)),
            (true, 100, false, 200, Some(Kept::Slow)),
            (true, 100, false, 50, None),
        ] {
            let keep = keep(errors, limit).unwrap();
            let reason = keep.reason(failed, Duration::from_millis(took));
            assert_eq!(reason, expected, "{errors} {limit} {failed} {took}");
        }
    }

    #[test]
    fn no_more_than_the_limit_and_its_burst() {
        let config = Config {
            errors: true,
            per_second: TracesPerSecond::new(2.0).unwrap(),
            burst: 5,
            ..Config::default()
        };
        let keep = Keep::new(&config).unwrap();
        let start = Instant::now();
        let admitted = |after| {
            let now = start + Duration::from_secs(after);
            (0..100).filter(|_| keep.admit(now)).count()
        };
        assert_eq!(admitted(10), 5);
        assert_eq!(admitted(11), 2);
        assert_eq!(admitted(60), 5);
    }
}
