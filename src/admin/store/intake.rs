//! Which spans come into the store: all of them while they are few, else all of a share of the traces.
//!
//! The page shows people what happens, and nobody looks at thousands of traces a second; keeping each would cost more
//! than all the rest of tracing. The decision is made before anything is done for a span, by its trace alone, so that a
//! trace is there as a whole. It changes rarely: the share goes in powers of two.

use std::sync::atomic::AtomicU32;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::model::TraceId;

/// How often the share is set.
pub(super) const ROUND: Duration = Duration::from_millis(100);
/// Spans a round, on average, that are all taken; of more only a share is.
pub(super) const TAKEN: u64 = 100;
/// Spans that are taken in one round even so: bursts are seen whole.
const BURST: u64 = 300;
/// The share of what comes behind a burst, in halvings.
const BEHIND: u32 = 6;
/// Rounds over which the average goes.
const AVERAGED: u64 = 4;
/// The smallest share, in halvings.
const SMALLEST: u32 = 32;

/// Decides. Shared between those who report and the keeper, who counts the rounds.
#[derive(Debug)]
pub(super) struct Intake {
    /// Spans it was asked about.
    offered: AtomicU64,
    /// Spans that came past it.
    given: AtomicU64,
    thinned: AtomicU64,
    /// How often the share is halved.
    halvings: AtomicU32,
    /// The burst ends when so many were offered.
    burst: AtomicU64,
}

/// The keeper's memory of the rounds.
#[derive(Debug)]
pub(super) struct Rounds {
    offered: u64,
    /// Spans a round, times [`AVERAGED`].
    average: u64,
}

impl Intake {
    pub(super) fn new() -> Self {
        Self {
            offered: AtomicU64::new(0),
            given: AtomicU64::new(0),
            thinned: AtomicU64::new(0),
            halvings: AtomicU32::new(0),
            burst: AtomicU64::new(BURST),
        }
    }

    /// Takes everything until the first round ends.
    #[cfg(test)]
    pub(super) fn open() -> Self {
        Self {
            burst: AtomicU64::new(u64::MAX),
            ..Self::new()
        }
    }

    /// Counts a span of this trace. True when it is taken.
    pub(super) fn takes(&self, id: TraceId) -> bool {
        let number = self.offered.fetch_add(1, Ordering::Relaxed);
        let mut halvings = self.halvings.load(Ordering::Relaxed);
        if number >= self.burst.load(Ordering::Relaxed) {
            halvings = halvings.max(BEHIND);
        }
        // Not everybody's ids are random; the factor spreads them.
        let spread = id.low().wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let takes = spread <= u64::MAX >> halvings;
        if !takes {
            self.thinned.fetch_add(1, Ordering::Relaxed);
        }
        takes
    }

    /// Counts a span that is taken whatever else comes.
    pub(super) fn takes_anyway(&self) {
        self.given.fetch_add(1, Ordering::Relaxed);
    }

    /// Spans since the start.
    pub(super) fn received(&self) -> u64 {
        self.offered.load(Ordering::Relaxed) + self.given.load(Ordering::Relaxed)
    }

    /// Those that were not taken.
    pub(super) fn thinned(&self) -> u64 {
        self.thinned.load(Ordering::Relaxed)
    }

    /// The rounds from here on.
    pub(super) fn rounds(&self) -> Rounds {
        Rounds {
            offered: self.offered.load(Ordering::Relaxed),
            average: 0,
        }
    }

    /// Sets the share at the end of a round.
    pub(super) fn end_round(&self, rounds: &mut Rounds) {
        let offered = self.offered.load(Ordering::Relaxed);
        let before = std::mem::replace(&mut rounds.offered, offered);
        rounds.average -= rounds.average / AVERAGED;
        rounds.average += offered.saturating_sub(before);
        let average = rounds.average / AVERAGED;
        let fits = |halvings: &u32| average >> halvings <= TAKEN;
        let halvings = (0..SMALLEST).find(fits).unwrap_or(SMALLEST);
        self.halvings.store(halvings, Ordering::Relaxed);
        self.burst.store(offered + BURST, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(low: u64) -> TraceId {
        TraceId::from_halves(0, low).unwrap()
    }

    /// Rounds of so many spans, each of a trace of its own; answers how many of the last round were taken.
    fn taken(intake: &Intake, rounds: &mut Rounds, n_rounds: u64, spans: u64) -> u64 {
        let mut taken = 0;
        for _ in 0..n_rounds {
            let traces = 1..=spans;
            taken = traces.filter(|trace| intake.takes(id(*trace))).count() as u64;
            intake.end_round(rounds);
        }
        taken
    }

    #[test]
    fn whatever_a_person_can_follow_is_taken() {
        let intake = Intake::new();
        let mut rounds = intake.rounds();
        for (n_rounds, spans, why) in [
            (1, BURST, "a burst out of silence"),
            (10, 0, "silence"),
            (100, TAKEN, "a thousand a second, for long"),
        ] {
            taken(&intake, &mut rounds, n_rounds, spans);
            assert_eq!(intake.thinned(), 0, "{why}");
        }
    }

    #[test]
    fn of_more_a_share_is_taken() {
        for spans in [3 * TAKEN, 20 * TAKEN, 200 * TAKEN] {
            let intake = Intake::new();
            let mut rounds = intake.rounds();
            let last = taken(&intake, &mut rounds, 100, spans);
            assert!(
                (TAKEN / 4..=TAKEN * 3 / 2).contains(&last),
                "{last} of {spans}"
            );
            assert_eq!(intake.received(), 100 * spans);
        }
    }

    #[test]
    fn a_flood_out_of_silence_is_held_back_at_once() {
        let intake = Intake::new();
        let last = taken(&intake, &mut intake.rounds(), 1, 10_000);
        assert!((BURST..2 * BURST).contains(&last), "{last}");
    }

    #[test]
    fn after_a_flood_everything_is_taken_again() {
        let intake = Intake::new();
        let mut rounds = intake.rounds();
        taken(&intake, &mut rounds, 20, 10_000);
        taken(&intake, &mut rounds, 30, 1);
        let thinned = intake.thinned();
        taken(&intake, &mut rounds, 30, TAKEN);
        assert_eq!(intake.thinned(), thinned);
    }

    #[test]
    fn a_trace_of_a_smaller_share_is_one_of_a_larger_share_too() {
        let shares = [0, 3, BEHIND].map(|halvings| {
            let intake = Intake::open();
            intake.halvings.store(halvings, Ordering::Relaxed);
            let taken = (1..=10_000).filter(|trace| intake.takes(id(*trace)));
            taken.collect::<std::collections::HashSet<_>>()
        });
        assert!(shares[2].is_subset(&shares[1]) && shares[1].is_subset(&shares[0]));
        assert!(shares[2].len() < shares[1].len() && shares[1].len() < shares[0].len());
    }

    #[test]
    fn spans_that_are_taken_anyway_take_nobodys_place() {
        let intake = Intake::new();
        let mut rounds = intake.rounds();
        for _ in 0..100 * TAKEN {
            intake.takes_anyway();
        }
        assert_eq!(taken(&intake, &mut rounds, 1, BURST), BURST);
        assert_eq!(taken(&intake, &mut rounds, 1, TAKEN), TAKEN);
        assert_eq!(intake.received(), 101 * TAKEN + BURST);
    }
}
