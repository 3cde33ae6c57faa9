//! Which kinds of calls come out of windows because of what was delivered, and which does the program make by itself?
//!
//! A job's calls fall into windows as they fall into the idle ones between them. What a delivery causes comes much more
//! often in windows that deliver something. A kind that was seldom seen is not believed.

use std::collections::HashMap;
use std::time::Duration;

use crate::correlate::Shape;

/// Kinds that are remembered; what comes beyond them is not believed.
const MAX_KINDS: usize = 256;
/// Windows with a delivery in which a kind must have been seen, and so many times what one stray call more than were seen
/// would make of it. A delivery wakes a loop whose timer is due and would have slept on to the next millisecond, so a job's
/// calls come about twice as often with one.
const FEWEST: u32 = 12;
const TIMES: f64 = 12.0;
/// After so many windows with a delivery the older half counts half.
const FORGET: u32 = 2_048;

/// What windows had in them.
#[derive(Debug, Default)]
pub(super) struct Kinds {
    known: HashMap<Shape, Seen>,
    paced: Duration,
    idle: Duration,
    n_paced: u32,
}

/// In how many windows a kind was seen.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    paced: u32,
    idle: u32,
    /// The number of the latest one: each counts once.
    latest: u64,
}

impl Kinds {
    /// A window with a delivery has ended.
    pub(super) fn paced(&mut self, took: Duration) {
        self.paced += took;
        self.n_paced += 1;
        if self.n_paced < FORGET {
            return;
        }
        self.n_paced /= 2;
        self.paced /= 2;
        self.idle /= 2;
        self.known.retain(|_, seen| {
            (seen.paced, seen.idle) = (seen.paced / 2, seen.idle / 2);
            seen.paced + seen.idle > 0
        });
    }

    /// A window without one has ended.
    pub(super) fn idle(&mut self, took: Duration) {
        self.idle += took;
    }

    /// A call of this kind came in the window of this number.
    pub(super) fn called(&mut self, kind: Shape, window: u64, is_idle: bool) {
        if !self.known.contains_key(&kind) && self.known.len() >= MAX_KINDS {
            return;
        }
        let seen = self.known.entry(kind).or_default();
        if seen.latest == window {
            return;
        }
        seen.latest = window;
        match is_idle {
            true => seen.idle += 1,
            false => seen.paced += 1,
        }
    }

    /// True when calls of this kind come because of what is delivered.
    pub(super) fn believes(&self, kind: Shape) -> bool {
        self.known
            .get(&kind)
            .is_some_and(|seen| self.is_caused(seen))
    }

    /// True when those of some kind do.
    pub(super) fn believes_any(&self) -> bool {
        self.known.values().any(|seen| self.is_caused(seen))
    }

    fn is_caused(&self, seen: &Seen) -> bool {
        let by_itself = f64::from(seen.idle + 1) * self.paced.as_secs_f64();
        let is_often = f64::from(seen.paced) * self.idle.as_secs_f64() >= TIMES * by_itself;
        seen.paced >= FEWEST && is_often
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;
    use crate::correlate::InFlight;

    const MILLI: Duration = Duration::from_millis(1);

    /// So many windows, one in `each_idle` without a delivery; one in so many of either sort has a call of this kind.
    fn after(n_windows: u32, each_idle: u32, (paced, idle): (u32, u32), kind: Shape) -> Kinds {
        let mut kinds = Kinds::default();
        let (mut n_paced, mut n_idle) = (0_u32, 0_u32);
        for n in 1..=n_windows {
            let is_idle = n.is_multiple_of(each_idle);
            let (count, each) = match is_idle {
                true => (&mut n_idle, idle),
                false => (&mut n_paced, paced),
            };
            *count += 1;
            if count.is_multiple_of(each) {
                // Several at once count once.
                (0..8).for_each(|_| kinds.called(kind, n.into(), is_idle));
            }
            match is_idle {
                true => kinds.idle(MILLI),
                false => kinds.paced(MILLI),
            }
        }
        kinds
    }

    #[test]
    fn kinds_are_believed_that_come_with_deliveries() {
        let kind = InFlight::new(1).shapes.of(&Method::GET, "db", "/");
        let never = u32::MAX;
        for (n_windows, each_idle, seen, expected, why) in [
            (12, 2, (1, never), false, "seldom"),
            (40, 2, (1, never), true, "in each one with a delivery"),
            (400, 8, (4, never), true, "in one of four"),
            (400, 8, (100, never), false, "by chance"),
            (40, 2, (1, 1), false, "in all"),
            (4_000, 8, (10, 10), false, "a job's, as often in either"),
            (4_000, 8, (10, 100), false, "ten times as often"),
            (10_000, 8, (10, 10), false, "and for long"),
            (10_000, 8, (1, 50), true, "a stray one now and then"),
            (10_000, 8, (16, never), true, "rare, but never by itself"),
        ] {
            let kinds = after(n_windows, each_idle, seen, kind);
            assert_eq!(kinds.believes(kind), expected, "{why}");
            assert_eq!(kinds.believes_any(), expected, "{why}");
            assert!(!kinds.believes(Shape::NONE), "never seen");
        }
    }

    #[test]
    fn kinds_are_bounded() {
        let (mut kinds, in_flight) = (Kinds::default(), InFlight::new(1));
        for n in 0..2 * MAX_KINDS {
            let kind = in_flight.shapes.of(&Method::GET, &format!("h{n}"), "/");
            kinds.called(kind, n as u64, false);
        }
        assert_eq!(kinds.known.len(), MAX_KINDS);
        (0..2 * FORGET).for_each(|_| kinds.paced(MILLI));
        assert!(
            kinds.known.is_empty(),
            "what does not come again is forgotten"
        );
    }
}
