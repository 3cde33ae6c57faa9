//! The bounded queue between request threads and one reporter's task.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use crossbeam_queue::ArrayQueue;
use tokio::sync::Notify;

use crate::model::HumanDuration;
use crate::model::Span;
use crate::reporter::ledger::Ledger;
use crate::reporter::ledger::Reason;
use crate::reporter::spool;

/// How spans wait for a reporter.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Spans that may wait. One more is dropped and counted (`queue_full`).
    ///
    /// Unit: spans. Default: `2048`. Reload: live.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub capacity: usize,

    /// Spans that go out together at most.
    ///
    /// Unit: spans. Default: `512`. Reload: live.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub batch: usize,

    /// Longest time a span waits for its batch to fill.
    ///
    /// Unit: duration. Default: `1s`. Reload: live.
    pub flush_interval: HumanDuration,

    /// Sends that may be under way at once. There is a second one only while two batches wait, and none while the collector
    /// is in trouble. Files, streams and datagrams are written one after another, as is what is never repeated or has a spool.
    ///
    /// Unit: sends, 1 to 16. Default: `4`. Reload: live.
    #[schemars(range(min = 1, max = 16))]
    pub senders: usize,

    /// Where spans wait while the collector is out of reach, beyond what memory holds. Reload: live.
    pub spool: spool::Config,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            capacity: 2048,
            batch: 512,
            flush_interval: HumanDuration::from_secs(1),
            senders: 4,
            spool: spool::Config::default(),
        }
    }
}

/// More would be memory that nobody meant to give.
pub(super) const MAX_CAPACITY: usize = 1_000_000;
pub(super) const MAX_SENDERS: usize = 16;

/// Spans on their way from many threads to one task.
pub(super) struct Queue {
    spans: ArrayQueue<Arc<Span>>,
    ledger: Arc<Ledger>,
    /// The task is woken for each so many spans, not for each span: waking costs a system call.
    wake_every: u64,
    filled: Notify,
    /// Spans that are too many for one send after another.
    many: usize,
    pressed: Notify,
    /// The last send to end failed.
    troubled: AtomicBool,
    closed: AtomicBool,
}

impl Queue {
    pub(super) fn new(config: &Config, ledger: Arc<Ledger>) -> Self {
        let capacity = config.capacity.clamp(1, MAX_CAPACITY);
        // Entries are counted over the queue's whole life, so up to twice this many spans can wait before the first
        // wake-up: a quarter of the capacity leaves room to take them in time.
        let wake_every = config.batch.min(capacity / 4).max(1) as u64;
        ledger.set_capacity(capacity);
        Self {
            spans: ArrayQueue::new(capacity),
            ledger,
            wake_every,
            filled: Notify::new(),
            many: config.batch.saturating_mul(2).min(capacity),
            pressed: Notify::new(),
            troubled: AtomicBool::new(false),
            closed: AtomicBool::new(false),
        }
    }

    /// Takes a span from a request thread: two atomic additions and a push, no lock, no system call in the usual case.
    pub(super) fn push(&self, span: Arc<Span>) {
        let before = self.ledger.accept();
        if self.spans.push(span).is_err() {
            self.ledger.drop_spans(Reason::QueueFull, 1);
            return;
        }
        if (before + 1).is_multiple_of(self.wake_every) {
            self.filled.notify_one();
            if self.is_pressed() {
                self.pressed.notify_one();
            }
        }
        // Either we see the closing here, or the closing's last look sees our span: both sides are SeqCst.
        if self.closed.load(Ordering::SeqCst) {
            self.drop_rest(Reason::Shutdown);
        }
    }

    /// Waits until about a batch has been pushed since the last wake-up.
    pub(super) async fn filled(&self) {
        self.filled.notified().await;
    }

    /// True when as much waits as is worth a wake-up.
    pub(super) fn has_filled(&self) -> bool {
        self.spans.len() as u64 >= self.wake_every
    }

    /// Waits until more sends at once would help.
    pub(super) async fn pressed(&self) {
        self.pressed.notified().await;
    }

    /// True while more sends at once would help.
    pub(super) fn is_pressed(&self) -> bool {
        self.spans.len() >= self.many && !self.troubled.load(Ordering::Relaxed)
    }

    /// Notes how the last send ended.
    pub(super) fn note(&self, troubled: bool) {
        if self.troubled.load(Ordering::Relaxed) != troubled {
            self.troubled.store(troubled, Ordering::Relaxed);
        }
    }

    /// True when it is time to make room by other means than sending.
    pub(super) fn is_half_full(&self) -> bool {
        self.spans.len() >= self.spans.capacity().div_ceil(2)
    }

    /// Takes at most `most` spans, oldest first.
    pub(super) fn take(&self, most: usize) -> Vec<Arc<Span>> {
        let mut taken = Vec::with_capacity(most.min(self.spans.len()));
        while taken.len() < most {
            let Some(span) = self.spans.pop() else { break };
            taken.push(span);
        }
        taken
    }

    pub(super) fn len(&self) -> usize {
        self.spans.len()
    }

    /// From here on, spans that come are dropped as `shutdown`. What is inside stays for the last `take`.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    /// Drops and counts what is inside.
    pub(super) fn drop_rest(&self, reason: Reason) {
        while self.spans.pop().is_some() {
            self.ledger.drop_spans(reason, 1);
        }
    }
}
