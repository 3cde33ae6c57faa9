//! The one clock: monotonic instants on the request path, turned into wall-clock timestamps when a span ends.
//!
//! Both edges of a span are converted with the same offset, so a step of the wall clock never makes a span negative.

use std::sync::atomic::AtomicI64;
use std::sync::atomic::Ordering;
use std::time::Instant;
use std::time::SystemTime;

use crate::model::Timestamp;

/// Turns [`Instant`]s into timestamps. Shared by all workers; reading it is one atomic load.
#[derive(Debug)]
pub struct Clock {
    base: Instant,
    /// Wall-clock nanoseconds at `base`; replaced by [`Clock::resync`].
    offset: AtomicI64,
}

impl Clock {
    /// A clock synchronised with the wall clock now.
    pub fn new() -> Self {
        let base = Instant::now();
        Self {
            base,
            offset: AtomicI64::new(wall_nanos()),
        }
    }

    /// Follows the wall clock after a step or a suspend. Called every few seconds by the control thread.
    pub fn resync(&self) {
        let elapsed = i64::try_from(self.base.elapsed().as_nanos()).unwrap_or(i64::MAX);
        self.offset
            .store(wall_nanos().saturating_sub(elapsed), Ordering::Relaxed);
    }

    /// Both edges of a span, converted with one offset. `end` is never before `start`.
    pub fn edges(&self, start: Instant, end: Instant) -> (Timestamp, Timestamp) {
        let offset = self.offset.load(Ordering::Relaxed);
        let start = at(offset, self.base, start);
        let end = at(offset, self.base, end);
        (start, end.max(start))
    }

    /// One instant as a timestamp.
    pub fn timestamp(&self, instant: Instant) -> Timestamp {
        at(self.offset.load(Ordering::Relaxed), self.base, instant)
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

fn at(offset: i64, base: Instant, instant: Instant) -> Timestamp {
    let since =
        i64::try_from(instant.saturating_duration_since(base).as_nanos()).unwrap_or(i64::MAX);
    Timestamp(u64::try_from(offset.saturating_add(since)).unwrap_or(0))
}

#[allow(clippy::disallowed_methods)]
fn wall_nanos() -> i64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| {
            i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
        })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn edges_keep_their_distance_across_a_resync() {
        let clock = Clock::new();
        let start = Instant::now();
        let end = start + Duration::from_micros(1500);
        let (first, last) = clock.edges(start, end);
        assert_eq!(last.0 - first.0, 1_500_000);
        clock.resync();
        let (first, last) = clock.edges(start, end);
        assert_eq!(last.0 - first.0, 1_500_000);
        let (first, last) = clock.edges(end, start);
        assert_eq!(first, last, "an end before the start is lifted to it");
    }
}
