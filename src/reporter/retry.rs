//! When to try again: exponential backoff with jitter, and what `Retry-After` says.

use std::time::Duration;
use std::time::SystemTime;

use http::HeaderMap;
use http::header::RETRY_AFTER;

use crate::model::HumanDuration;

/// How failed sends are repeated.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Wait before the first repetition; doubles each time, each wait shortened at random by up to half.
    ///
    /// Unit: duration. Default: `500ms`. Reload: live.
    pub initial: HumanDuration,

    /// Longest wait between repetitions, unless the collector asks for more with `Retry-After`.
    ///
    /// Unit: duration. Default: `15s`. Reload: live.
    pub max: HumanDuration,

    /// Time after which a batch that could not be sent is dropped (`retries_exhausted`). `0`: try once.
    ///
    /// Unit: duration. Default: `60s`. Reload: live.
    pub max_elapsed: HumanDuration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            initial: HumanDuration::from_millis(500),
            max: HumanDuration::from_secs(15),
            max_elapsed: HumanDuration::from_secs(60),
        }
    }
}

impl Config {
    /// For wires that cannot be asked twice.
    pub(super) fn never() -> Self {
        Self {
            max_elapsed: HumanDuration(Duration::ZERO),
            ..Self::default()
        }
    }
}

/// The waits of one batch.
#[derive(Debug)]
pub(super) struct Backoff {
    next: Duration,
    max: Duration,
}

impl Backoff {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            next: config.initial.0.max(MIN_WAIT),
            max: config.max.0.max(MIN_WAIT),
        }
    }

    /// The wait that the collector asked for, within what clocks can reach; else the next one of ours.
    pub(super) fn wait(&mut self, asked: Option<Duration>, random: &mut fastrand::Rng) -> Duration {
        match asked {
            Some(asked) => asked.min(LONGEST_WAIT),
            None => self.next(random),
        }
    }

    /// The next wait: between half and all of the current step.
    fn next(&mut self, random: &mut fastrand::Rng) -> Duration {
        let step = self.next.min(self.max);
        self.next = step.saturating_mul(2).min(self.max);
        step.mul_f64(0.5 + random.f64() / 2.0)
    }
}

/// A configured zero must not become a busy loop.
const MIN_WAIT: Duration = Duration::from_millis(10);

/// A collector may ask for more than can be added to the time of day.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 3600);

/// The wait that an answer asks for: seconds or an HTTP date relative to `now`. `None`: absent or unreadable.
///
/// Source: RFC 9110, section 10.2.3.
pub(super) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(now).unwrap_or(Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_limit_within_their_jitter() {
        let mut backoff = Backoff::new(&Config::default());
        let mut random = fastrand::Rng::with_seed(7);
        for step in [500, 1_000, 2_000, 4_000, 8_000, 15_000, 15_000] {
            let wait = backoff.next(&mut random).as_millis();
            assert!((step / 2..=step).contains(&wait), "{wait} of {step}");
        }
        let mut asked = |wait| backoff.wait(Some(wait), &mut random);
        assert_eq!(asked(Duration::from_secs(7)), Duration::from_secs(7));
        assert_eq!(asked(Duration::MAX), LONGEST_WAIT);
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        for (value, expected, why) in [
            ("120", Some(120), "seconds"),
            (" 0 ", Some(0), "zero"),
            ("Sun, 06 Nov 1994 08:50:37 GMT", Some(60), "date ahead"),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0), "date passed"),
            ("-1", None, "negative"),
            ("soon", None, "neither"),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, value.parse().unwrap());
            let wait = retry_after(&headers, now);
            assert_eq!(wait, expected.map(Duration::from_secs), "{why}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), now), None, "absent");
    }
}
