//! `rate_limiting`: so many traces a second and no more, with bursts of at most one second's worth.

use std::time::Instant;

use crate::model::TraceId;
use crate::sampling::Built;
use crate::sampling::Decision;
use crate::sampling::Param;
use crate::sampling::Parts;
use crate::sampling::Sampler;
use crate::sampling::Told;
use crate::sampling::TracesPerSecond;
use crate::sampling::bucket::Bucket;

pub(super) const EXAMPLE: &str = r#"{"rate_limiting": {"traces_per_second": 10}}"#;

/// At most so many traces a second.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// How many traces are recorded each second. Below 1, for example 0.1, it is one trace in so many seconds.
    ///
    /// Unit: traces per second. Default: `10`. Reload: live.
    pub traces_per_second: TracesPerSecond,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            traces_per_second: TracesPerSecond::TEN,
        }
    }
}

impl Config {
    pub(super) fn told(&self) -> Told<'_> {
        Told::Limit(self.traces_per_second)
    }
}

/// Samples while the bucket has credit.
#[derive(Debug)]
pub struct RateLimiting {
    bucket: Bucket,
}

pub(super) fn build(config: &Config, _: Parts<'_>) -> Built {
    Built::fixed(RateLimiting::new(config.traces_per_second))
}

impl RateLimiting {
    /// Starts with a full bucket.
    pub fn new(rate: TracesPerSecond) -> Self {
        Self {
            bucket: Bucket::new(rate),
        }
    }

    /// The same with another rate: credit carries over in proportion.
    pub fn with_rate(&self, rate: TracesPerSecond, now: Instant) -> Self {
        Self {
            bucket: self.bucket.with_rate(rate, now),
        }
    }

    /// Traces per second.
    pub fn rate(&self) -> TracesPerSecond {
        self.bucket.rate()
    }
}

impl Sampler for RateLimiting {
    fn sample(&self, _: TraceId, _: &str, now: Instant) -> Decision {
        Decision {
            sampled: self.bucket.take(now),
            kind: "ratelimiting",
            param: Param::F64(self.rate().value()),
        }
    }

    fn description(&self) -> String {
        format!("ratelimiting {}/s", self.rate())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_steady_stream_is_cut_to_the_rate() {
        let sampler = RateLimiting::new(TracesPerSecond::new(10.0).unwrap());
        let trace_id = TraceId::from_halves(0, 1).unwrap();
        let start = Instant::now();
        let sampled = (0..60_000)
            .filter(|ms| {
                let now = start + Duration::from_millis(*ms);
                sampler.sample(trace_id, "GET", now).sampled
            })
            .count();
        // One burst of ten, then ten a second for a minute.
        assert!((608..=610).contains(&sampled), "{sampled}");
        let decision = sampler.sample(trace_id, "GET", start);
        assert_eq!(decision.kind, "ratelimiting");
        assert_eq!(decision.param, Param::F64(10.0));
    }
}
