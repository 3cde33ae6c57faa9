//! Counts of spans by fate: what started is unsampled, still open, or handed to the reporters.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

/// Counters of the tracer, shared by all workers and surviving reloads.
#[derive(Debug, Default)]
pub struct Ledger {
    started: AtomicU64,
    received: AtomicU64,
    unsampled: AtomicU64,
    reported: AtomicU64,
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
    /// Recorded spans that have not ended.
    pub open: u64,
    /// Recorded spans that ended and spans that were received: what went to the reporters.
    pub reported: u64,
}

impl Ledger {
    pub(super) fn start(&self, recording: bool) {
        self.started.fetch_add(1, Ordering::AcqRel);
        if !recording {
            self.unsampled.fetch_add(1, Ordering::AcqRel);
        }
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
        }
    }
}
