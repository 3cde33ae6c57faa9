//! Repeated warnings: one in a while, with the number of those that were not written.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use crate::telemetry::metrics::Counter;

/// Lets one event through per interval. Held by whoever logs; shared between threads without a lock.
///
/// ```
/// # let gate = pillion::telemetry::logs::RateLimit::new(std::time::Duration::from_secs(10));
/// if let Some(suppressed) = gate.pass() {
///     tracing::warn!(suppressed, "upstream connect failed");
/// }
/// ```
#[derive(Debug)]
pub struct RateLimit {
    start: Instant,
    interval: Duration,
    /// Nanoseconds after `start` from which the next event may pass.
    opens: AtomicU64,
    suppressed: AtomicU64,
    counter: Option<Counter>,
}

impl RateLimit {
    /// The first event passes, then one per `interval`.
    pub fn new(interval: Duration) -> Self {
        Self::starting(Instant::now(), interval)
    }

    /// Like [`RateLimit::new`]; events that do not pass are counted here too.
    pub fn counted(interval: Duration, counter: Counter) -> Self {
        Self {
            counter: Some(counter),
            ..Self::new(interval)
        }
    }

    fn starting(start: Instant, interval: Duration) -> Self {
        Self {
            start,
            interval,
            opens: AtomicU64::new(0),
            suppressed: AtomicU64::new(0),
            counter: None,
        }
    }

    /// `Some(n)`: log it, and say that `n` before it were not logged. `None`: too soon.
    pub fn pass(&self) -> Option<u64> {
        self.pass_at(Instant::now())
    }

    fn pass_at(&self, now: Instant) -> Option<u64> {
        let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let now = nanos(now.saturating_duration_since(self.start));
        let opens = self.opens.load(Ordering::Relaxed);
        let next = now.saturating_add(nanos(self.interval));
        // Of several threads at the same moment one wins.
        let passes = now >= opens
            && self
                .opens
                .compare_exchange(opens, next, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if passes {
            return Some(self.suppressed.swap(0, Ordering::Relaxed));
        }
        self.suppressed.fetch_add(1, Ordering::Relaxed);
        if let Some(counter) = &self.counter {
            counter.increment(1);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_passes_per_interval_and_carries_the_count() {
        let start = Instant::now();
        let gate = RateLimit::starting(start, Duration::from_secs(10));
        let at = |seconds| gate.pass_at(start + Duration::from_secs(seconds));
        for (seconds, expected) in [
            (0, Some(0)),
            (1, None),
            (9, None),
            (10, Some(2)),
            (11, None),
            (40, Some(1)),
            (49, None),
            (50, Some(1)),
        ] {
            assert_eq!(at(seconds), expected, "{seconds}");
        }
    }

    #[test]
    fn threads_together_pass_one_and_lose_no_count() {
        let start = Instant::now();
        let gate = RateLimit::starting(start, Duration::from_secs(10));
        let passed: Vec<u64> = std::thread::scope(|scope| {
            let ask = || -> Vec<u64> { (0..1_000).filter_map(|_| gate.pass_at(start)).collect() };
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
            threads
                .into_iter()
                .flat_map(|t| t.join().unwrap())
                .collect()
        });
        assert_eq!(passed.len(), 1);
        let later = gate.pass_at(start + Duration::from_secs(20)).unwrap();
        assert_eq!(passed[0] + later, 3_999);
    }
}
