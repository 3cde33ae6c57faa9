//! The leaky bucket behind rate limits and lower bounds, in one atomic number.
//!
//! Credits refill at `rate` a second up to `max(rate, 1)`; a trace costs one; a new bucket is full. Instead of a balance
//! and the time of its last refill, which would need a lock, the bucket stores the instant at which it was last empty:
//! the balance is the time since then times the rate. Taking a credit moves that instant forward by the time that one
//! credit takes to refill.
//!
//! Two deliberate differences from Jaeger's Go client, both found in its other clients: refilling comes before looking
//! (so a burst never exceeds the maximum), and a rate of zero lets nothing pass, not even a first trace.
//!
//! Source: jaeger-client-go `utils/rate_limiter.go`, jaeger-client-java `utils/RateLimiter.java`.

use std::sync::atomic::AtomicI64;
use std::sync::atomic::Ordering;
use std::time::Instant;

use crate::sampling::TracesPerSecond;

/// Credits that refill with time. Shared between threads without a lock.
#[derive(Debug)]
pub struct Bucket {
    rate: TracesPerSecond,
    /// Nanoseconds in which one credit refills.
    period: i64,
    /// Nanoseconds in which an empty bucket becomes full.
    capacity: i64,
    epoch: Instant,
    /// Nanoseconds from `epoch` to the moment at which the balance was zero; the past beyond `capacity` means full.
    empty_at: AtomicI64,
}

impl Bucket {
    /// A full bucket that holds so many credits.
    pub fn with_burst(rate: TracesPerSecond, burst: u32) -> Self {
        let bucket = Self::new(rate);
        Self {
            capacity: bucket.period.saturating_mul(i64::from(burst.max(1))),
            ..bucket
        }
    }

    /// A full bucket.
    pub(super) fn new(rate: TracesPerSecond) -> Self {
        let period = 1e9 / rate.value();
        Self {
            rate,
            period: period as i64,
            capacity: (period * rate.value().max(1.0)) as i64,
            epoch: Instant::now(),
            empty_at: AtomicI64::new(i64::MIN),
        }
    }

    /// Credits a second.
    pub(super) fn rate(&self) -> TracesPerSecond {
        self.rate
    }

    /// Takes one credit if there is one.
    pub fn take(&self, now: Instant) -> bool {
        if self.rate.is_zero() {
            return false;
        }
        let now = self.nanos(now);
        let full = now.saturating_sub(self.capacity);
        self.empty_at
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |empty_at| {
                let after = empty_at.max(full).saturating_add(self.period);
                (after <= now).then_some(after)
            })
            .is_ok()
    }

    /// True when forgetting this bucket and starting a new one makes no difference.
    pub(super) fn is_full(&self, now: Instant) -> bool {
        self.rate.is_zero()
            || self.empty_at.load(Ordering::Relaxed)
                <= self.nanos(now).saturating_sub(self.capacity)
    }

    /// A bucket of another rate that is as full, in proportion, as this one.
    ///
    /// A credit taken from `self` by another thread meanwhile may be lost to the new bucket.
    pub(super) fn with_rate(&self, rate: TracesPerSecond, now: Instant) -> Self {
        let new = Self {
            epoch: self.epoch,
            ..Self::new(rate)
        };
        if self.is_full(now) {
            return new;
        }
        let now = self.nanos(now);
        let since_empty = now.saturating_sub(self.empty_at.load(Ordering::Relaxed));
        let share = since_empty as f64 / self.capacity as f64;
        let since_empty = (share * new.capacity as f64) as i64;
        new.empty_at
            .store(now.saturating_sub(since_empty), Ordering::Relaxed);
        new
    }

    fn nanos(&self, now: Instant) -> i64 {
        let signed = |d: std::time::Duration| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX);
        match now.checked_duration_since(self.epoch) {
            Some(after) => signed(after),
            None => -signed(self.epoch.duration_since(now)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn bucket(rate: f64) -> Bucket {
        Bucket::new(TracesPerSecond::new(rate).unwrap())
    }

    fn drain(bucket: &Bucket, now: Instant) -> usize {
        (0..100_000).take_while(|_| bucket.take(now)).count()
    }

    #[test]
    fn bursts_are_the_maximum_balance_and_refill_follows_the_rate() {
        let t0 = Instant::now();
        for (rate, burst, wait, refilled, why) in [
            (10.0, 10, 0.25, 2, "10/s for a quarter second"),
            (10.0, 10, 60.0, 10, "never above the maximum"),
            (3.0, 3, 1.001, 3, "a rate that does not divide a second"),
            (2.5, 2, 1.0, 2, "half a credit is no trace, and stays"),
            (0.1, 1, 9.9, 0, "not yet"),
            (0.1, 1, 10.0, 1, "one trace each ten seconds"),
            (1.0 / 60.0, 1, 60.001, 1, "adaptive sampling's lower bound"),
            (1e-9, 1, 1e6, 0, "one each thirty years"),
            (0.0, 0, 1e6, 0, "zero is zero, also at the start"),
            (5000.0, 5000, 0.1, 500, "fast"),
        ] {
            let bucket = bucket(rate);
            assert_eq!(drain(&bucket, t0), burst, "burst, {why}");
            let later = t0 + Duration::from_secs_f64(wait);
            assert_eq!(drain(&bucket, later), refilled, "refill, {why}");
        }
    }

    #[test]
    fn extreme_rates_neither_panic_nor_block() {
        for rate in [f64::MIN_POSITIVE, 5e-324, 1e18, f64::MAX] {
            let bucket = bucket(rate);
            assert!(bucket.take(Instant::now()), "{rate}");
            let _ = bucket.with_rate(TracesPerSecond::new(1.0).unwrap(), Instant::now());
        }
    }

    #[test]
    fn a_clock_that_lags_behind_takes_no_extra_credit() {
        let bucket = bucket(1.0);
        let now = Instant::now() + Duration::from_secs(100);
        assert!(bucket.take(now));
        assert!(!bucket.take(now - Duration::from_secs(50)));
        assert!(!bucket.take(now));
    }

    #[test]
    fn a_new_rate_keeps_the_share_of_credits() {
        let t0 = Instant::now();
        for (old, taken, new, left, why) in [
            (10.0, 10, 20.0, 0, "empty stays empty"),
            (10.0, 5, 20.0, 10, "half stays half"),
            (10.0, 0, 4.0, 4, "full stays full"),
            (10.0, 5, 0.5, 0, "half a credit"),
            (0.0, 0, 3.0, 3, "a bucket of zero was never used"),
            (10.0, 3, 0.0, 0, "switched off"),
        ] {
            let bucket = bucket(old);
            for _ in 0..taken {
                assert!(bucket.take(t0));
            }
            let new = bucket.with_rate(TracesPerSecond::new(new).unwrap(), t0);
            assert_eq!(drain(&new, t0), left, "{why}");
        }
    }

    #[test]
    fn many_threads_never_take_more_than_there_is() {
        let bucket = bucket(1000.0);
        let now = Instant::now();
        let taken: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| drain(&bucket, now)))
                .collect();
            threads.into_iter().map(|t| t.join().unwrap()).sum()
        });
        assert_eq!(taken, 1000);
    }
}
