//! Counts of spans by fate: what started is unsampled, still open, or handed to the reporters.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use crate::tracer::Kept;

/// Counters of the tracer, shared by all workers and surviving reloads.
#[derive(Debug, Default)]
pub struct Ledger {
    started: AtomicU64,
    received: AtomicU64,
    unsampled: AtomicU64,
    reported: AtomicU64,
    kept_errors: AtomicU64,
    kept_slow: AtomicU64,
    turned_away: AtomicU64,
}

/// A consistent reading: `started + received = unsampled + open + reported` at every moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LedgerSnapshot {
    /// Spans begun, sampled or not.
    pub started: u64,
    /// Spans of programs, finished elsewhere.
    pub received: u64,
    /// Spans begun that nobody records.
    pub unsampled: u64,
    /// Spans that have not ended: recorded ones, and those that may yet be kept.
    pub open: u64,
    /// Recorded spans that ended and spans that were received: what went to the reporters.
    pub reported: u64,
    /// Those of them that were kept for an error although their trace is not sampled.
    pub kept_errors: u64,
    /// Those of them that were kept because they took long.
    pub kept_slow: u64,
    /// Unsampled spans that were worth keeping but beyond the limit.
    pub turned_away: u64,
}

impl Ledger {
    /// `open`: it is recorded, or may yet be kept at its end.
    pub(super) fn start(&self, open: bool) {
        self.started.fetch_add(1, Ordering::AcqRel);
        if !open {
            self.unsampled.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// A span that might have been kept was not.
    pub(super) fn end_unsampled(&self) {
        self.unsampled.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn keep(&self, why: Kept) {
        let kept = match why {
            Kept::Error => &self.kept_errors,
            Kept::Slow => &self.kept_slow,
        };
        kept.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn turn_away(&self) {
        self.turned_away.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn report(&self) {
        self.reported.fetch_add(1, Ordering::AcqRel);
    }

    /// Enters spans of programs, right before they are handed to the reporters.
    pub fn receive(&self, spans: u64) {
        self.received.fetch_add(spans, Ordering::AcqRel);
        self.reported.fetch_add(spans, Ordering::AcqRel);
    }

    /// Reads the later stages first, so that a span under way between two of them counts as open, never twice.
    pub fn snapshot(&self) -> LedgerSnapshot {
        let reported = self.reported.load(Ordering::Acquire);
        let unsampled = self.unsampled.load(Ordering::Acquire);
        let received = self.received.load(Ordering::Acquire);
        let started = self.started.load(Ordering::Acquire);
        LedgerSnapshot {
            started,
            received,
            unsampled,
            open: (started + received)
                .saturating_sub(unsampled)
                .saturating_sub(reported),
            reported,
            kept_errors: self.kept_errors.load(Ordering::Relaxed),
            kept_slow: self.kept_slow.load(Ordering::Relaxed),
            turned_away: self.turned_away.load(Ordering::Relaxed),
        }
    }
}
