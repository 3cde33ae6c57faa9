//! Where every span went: one book a reporter, exact at every reading.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;

use crate::model::Text;
use crate::telemetry::metrics::SpoolLedger;

/// Why a span did not reach its collector. Closed: these are the values of the metric label `reason`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// The queue was full when the span ended.
    QueueFull,
    /// The collector refused it, wholly or in part, for good.
    Rejected,
    /// The collector stayed unreachable or overloaded until the retry limit.
    RetriesExhausted,
    /// The span alone is larger than a message may be, or the collector said so.
    TooLarge,
    /// The span could not be turned into bytes.
    Encode,
    /// The operating system or the local output refused it, on a wire without retries.
    SendFailed,
    /// It was still here when the time for flushing at shutdown was over, or came later still.
    Shutdown,
    /// The sender panicked while it had the span.
    Panic,
    /// It was the oldest in a spool that had no room for a newer one.
    SpoolFull,
    /// It was in the spool, but what is there now cannot be read.
    SpoolDamaged,
}

impl Reason {
    /// Every reason, in the order of the book.
    pub const ALL: [Self; 10] = [
        Self::QueueFull,
        Self::Rejected,
        Self::RetriesExhausted,
        Self::TooLarge,
        Self::Encode,
        Self::SendFailed,
        Self::Shutdown,
        Self::Panic,
        Self::SpoolFull,
        Self::SpoolDamaged,
    ];

    /// The value of the metric label.
    pub fn name(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::Rejected => "rejected",
            Self::RetriesExhausted => "retries_exhausted",
            Self::TooLarge => "too_large",
            Self::Encode => "encode",
            Self::SendFailed => "send_failed",
            Self::Shutdown => "shutdown",
            Self::Panic => "panic",
            Self::SpoolFull => "spool_full",
            Self::SpoolDamaged => "spool_damaged",
        }
    }
}

/// The counters behind a [`Snapshot`]. Written by request threads and the reporter's task, read by anybody.
///
/// A span is entered under `accepted` before anything else can happen to it and leaves through exactly one of
/// `exported` and `dropped`. Exits are written with `Release` and read with `Acquire`, and a reading takes the exits
/// first and the entries last: each exit it saw therefore has its entry among those it reads, and
/// `queued = accepted - exported - dropped` can neither underflow nor miss a span.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// What the running queue holds at most; changes with a reload.
    capacity: AtomicU64,
    accepted: Padded,
    exported: AtomicU64,
    dropped: [AtomicU64; Reason::ALL.len()],
    attempts: AtomicU64,
    failures: AtomicU64,
    panics: AtomicU64,
    last_error: Mutex<Option<Text>>,
}

/// `accepted` is written on every core's request path: it shares its cache line with nothing.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Padded(AtomicU64);

impl Ledger {
    /// Enters one span; answers how many had been entered before.
    pub(super) fn accept(&self) -> u64 {
        self.accepted.0.fetch_add(1, Ordering::Relaxed)
    }

    /// Enters spans that were found rather than handed over.
    pub(super) fn accept_many(&self, spans: u64) {
        self.accepted.0.fetch_add(spans, Ordering::Relaxed);
    }

    pub(super) fn set_capacity(&self, spans: usize) {
        self.capacity.store(spans as u64, Ordering::Relaxed);
    }

    pub(super) fn export(&self, spans: usize) {
        self.exported.fetch_add(spans as u64, Ordering::Release);
    }

    pub(super) fn drop_spans(&self, reason: Reason, spans: usize) {
        self.dropped[reason as usize].fetch_add(spans as u64, Ordering::Release);
    }

    pub(super) fn dropped(&self, reason: Reason) -> u64 {
        self.dropped[reason as usize].load(Ordering::Acquire)
    }

    pub(super) fn attempt(&self) {
        self.attempts.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn failure(&self, cause: &str) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        *self.last_error.lock() = Some(cause.into());
    }

    pub(super) fn panic(&self) {
        self.panics.fetch_add(1, Ordering::Relaxed);
    }

    /// Reads the book. The order of the loads is what makes the equation exact; see [`Ledger`].
    pub(super) fn snapshot(&self, name: &Text, kind: &'static str) -> Snapshot {
        let exported = self.exported.load(Ordering::Acquire);
        let dropped = Reason::ALL.map(|reason| (reason, self.dropped(reason)));
        let accepted = self.accepted.0.load(Ordering::Acquire);
        let gone = exported + dropped.iter().map(|(_, spans)| spans).sum::<u64>();
        Snapshot {
            name: name.clone(),
            kind,
            accepted,
            exported,
            dropped,
            queued: accepted.saturating_sub(gone),
            capacity: self.capacity.load(Ordering::Relaxed),
            attempts: self.attempts.load(Ordering::Relaxed),
            failures: self.failures.load(Ordering::Relaxed),
            panics: self.panics.load(Ordering::Relaxed),
            last_error: self.last_error.lock().clone(),
            spool: SpoolLedger::default(),
        }
    }
}

/// One reading of a reporter's book: `accepted = exported + dropped + queued`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The reporter's name, unique among the running ones: its kind, numbered from the second of a kind on (`otlp_2`).
    pub name: Text,
    /// Its kind, as in the configuration.
    pub kind: &'static str,
    /// Spans handed to this reporter, those that met a full queue included.
    pub accepted: u64,
    /// Spans the collector took, or that went out where nobody answers (UDP, standard output).
    pub exported: u64,
    /// Spans lost, by reason.
    pub dropped: [(Reason, u64); Reason::ALL.len()],
    /// Spans waiting in the queue or the spool, or on their way.
    pub queued: u64,
    /// Spans that the queue can hold.
    pub capacity: u64,
    /// Sends tried, retries included.
    pub attempts: u64,
    /// Sends that failed, whether or not they were tried again.
    pub failures: u64,
    /// Times the sender panicked and was built anew.
    pub panics: u64,
    /// What the last failure said.
    pub last_error: Option<Text>,
    /// What waits on the disk.
    pub spool: SpoolLedger,
}

impl Snapshot {
    /// Spans lost, all reasons together.
    pub fn dropped_total(&self) -> u64 {
        self.dropped.iter().map(|(_, spans)| spans).sum()
    }

    /// Spans lost for one reason.
    pub fn dropped_for(&self, reason: Reason) -> u64 {
        self.dropped[reason as usize].1
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn reasons_are_in_the_order_of_the_book_and_have_distinct_names() {
        for (place, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, place);
            assert_eq!(
                Reason::ALL
                    .iter()
                    .filter(|other| other.name() == reason.name())
                    .count(),
                1
            );
        }
    }

    #[test]
    fn the_equation_holds_at_every_reading_while_others_write() {
        let ledger = Arc::new(Ledger::default());
        let writers: Vec<_> = (0..3)
            .map(|writer| {
                let ledger = Arc::clone(&ledger);
                std::thread::spawn(move || {
                    for span in 0..20_000 {
                        ledger.accept();
                        if (span + writer) % 3 == 0 {
                            ledger.drop_spans(Reason::QueueFull, 1);
                        } else {
                            ledger.export(1);
                        }
                    }
                })
            })
            .collect();
        while !writers.iter().all(|writer| writer.is_finished()) {
            let book = ledger.snapshot(&"x".into(), "x");
            assert_eq!(
                book.accepted,
                book.exported + book.dropped_total() + book.queued
            );
        }
        for writer in writers {
            writer.join().unwrap();
        }
        let book = ledger.snapshot(&"x".into(), "x");
        assert_eq!((book.accepted, book.queued), (60_000, 0));
    }
}
