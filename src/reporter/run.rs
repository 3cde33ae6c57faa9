//! One reporter's task: takes batches from the queue, sends, repeats, accounts, and flushes at the end.
//!
//! Each send runs in a task of its own, so that a panicking sender costs its batch (counted) and nothing else. `spooled` is
//! the same task with a spool behind it, `spare` one beside it for as long as one send after another is too slow.

pub(super) mod spare;
pub(super) mod spooled;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinError;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::error;
use tracing::warn;

use crate::model::Span;
use crate::model::Text;
use crate::reporter::Config;
use crate::reporter::Observe;
use crate::reporter::ledger::Ledger;
use crate::reporter::ledger::Reason;
use crate::reporter::queue::Queue;
use crate::reporter::retry::Backoff;
use crate::reporter::sender::Delivery;
use crate::reporter::sender::SendError;
use crate::reporter::sender::Sender;

/// The task's state. Dropping it without [`Runner::run`] leaves the queue to fill up.
pub(super) struct Runner {
    pub(super) name: Text,
    pub(super) config: Config,
    pub(super) queue: Arc<Queue>,
    pub(super) ledger: Arc<Ledger>,
    /// `None` after a panic or an abort: built anew from `config` for the next send.
    pub(super) sender: Option<Box<dyn Sender>>,
    /// `Some`: flush, but be gone at this instant.
    pub(super) stop: watch::Receiver<Option<Instant>>,
    pub(super) observe: Option<Observe>,
    pub(super) warnings: Warnings,
    /// When certificate files are looked at again.
    pub(super) next_refresh: Instant,
    /// The collector asked for quiet until then, beyond what the batch that met it could wait.
    pub(super) quiet_until: Option<Instant>,
}

type Batch = Arc<[Arc<Span>]>;

enum Wake {
    Filled,
    Flush,
    Stop,
}

/// A send under way.
struct Flight {
    started: Instant,
    task: JoinHandle<Landed>,
}

/// The sender and what it says.
type Landed = (Box<dyn Sender>, Result<Delivery, SendError>);

/// What one try came to.
enum Attempt {
    Done(Result<Delivery, SendError>),
    Panicked,
    OutOfTime,
}

impl Runner {
    /// Runs until told to stop; afterwards the queue is closed and empty.
    pub(super) async fn run(mut self) {
        let settings = self.config.queue().clone();
        let batch = settings.batch.clamp(1, settings.capacity.max(1));
        let interval = settings.flush_interval.0.max(MIN_INTERVAL);
        let mut next_flush = Instant::now() + interval;
        loop {
            match self.wake(next_flush).await {
                Wake::Filled => {
                    // Under constant load the flush still gets its turn: it also warns of a full queue.
                    while self.queue.has_filled() && !self.stopping() && Instant::now() < next_flush
                    {
                        self.deliver(self.queue.take(batch)).await;
                    }
                }
                Wake::Flush => {
                    // Only what waits now: under constant load the rest is better sent in full batches.
                    let mut waiting = self.queue.len();
                    while waiting > 0 && !self.stopping() {
                        let taken = self.queue.take(batch.min(waiting));
                        waiting = if taken.is_empty() {
                            0
                        } else {
                            waiting - taken.len()
                        };
                        self.deliver(taken).await;
                    }
                    self.warn_of_full_queue();
                    self.refresh();
                    next_flush = Instant::now() + interval;
                }
                Wake::Stop => {
                    self.finish(batch).await;
                    return;
                }
            }
        }
    }

    async fn wake(&mut self, next_flush: Instant) -> Wake {
        let queue = Arc::clone(&self.queue);
        tokio::select! {
            biased;
            () = told_to_stop(&mut self.stop) => Wake::Stop,
            () = tokio::time::sleep_until(next_flush) => Wake::Flush,
            () = queue.filled() => Wake::Filled,
        }
    }

    /// The last flush: sends until nothing is left or time is up, then closes the queue.
    async fn finish(&mut self, batch: usize) {
        let mut closed = false;
        loop {
            let taken = self.queue.take(batch);
            if taken.is_empty() {
                if closed {
                    return;
                }
                self.queue.close();
                closed = true;
            } else if self.time_left() == Some(Duration::ZERO) {
                self.queue.close();
                closed = true;
                self.ledger.drop_spans(Reason::Shutdown, taken.len());
                self.warn_dropped(Reason::Shutdown, taken.len(), "no time left to flush");
            } else {
                self.deliver(taken).await;
            }
        }
    }

    /// Brings a batch to its end, in parts where the wire wants it in parts.
    async fn deliver(&mut self, batch: Vec<Arc<Span>>) {
        let mut waiting = vec![batch];
        while let Some(batch) = waiting.pop() {
            if batch.is_empty() {
                continue;
            }
            self.keep_quiet().await;
            if let Fate::Split(parts) = self.deliver_part(&batch.into()).await {
                waiting.extend(parts.into_iter().rev());
            }
        }
    }

    /// Sends one part until it is accepted, lost, or out of time. Every span of it is accounted for unless split.
    async fn deliver_part(&mut self, batch: &Batch) -> Fate {
        let retry = self.config.retry();
        let give_up = Instant::now() + retry.max_elapsed.0;
        let mut random = fastrand::Rng::new();
        let mut backoff = Backoff::new(&retry);
        loop {
            let (after, cause) = match self.attempt(batch).await {
                Attempt::Done(Ok(delivery)) => {
                    self.queue.note(false);
                    self.account(&Arc::clone(&self.ledger), delivery);
                    return Fate::Settled;
                }
                Attempt::Done(Err(SendError::Split(parts))) => return Fate::Split(parts),
                Attempt::Done(Err(SendError::Drop { reason, cause })) => {
                    return self.lose(batch, reason, &cause);
                }
                Attempt::Done(Err(SendError::Retry { after, cause })) => {
                    self.queue.note(true);
                    (after, cause)
                }
                Attempt::Panicked => {
                    let cause = self.panicked();
                    return self.lose(batch, Reason::Panic, cause);
                }
                Attempt::OutOfTime => {
                    return self.lose(batch, Reason::Shutdown, "no time left to flush");
                }
            };
            let wait = backoff.wait(after, &mut random);
            if Instant::now() + wait > give_up {
                if after.is_some() {
                    self.quiet_until = Some(Instant::now() + wait.min(MAX_QUIET));
                }
                return self.lose(batch, Reason::RetriesExhausted, &cause);
            }
            self.warn_retry(batch.len(), wait, &cause);
            if !self.pause(wait).await {
                return self.lose(batch, Reason::Shutdown, &cause);
            }
        }
    }

    async fn attempt(&mut self, batch: &Batch) -> Attempt {
        let mut flight = match self.take_off(batch) {
            Ok(flight) => flight,
            Err(error) => return Attempt::Done(Err(error)),
        };
        let joined = tokio::select! {
            joined = &mut flight.task => joined,
            () = deadline(&mut self.stop) => {
                flight.task.abort();
                // It may have ended in the same instant: then its result counts.
                (&mut flight.task).await
            }
        };
        self.landed(joined, flight.started)
    }

    /// Starts a send.
    fn take_off(&mut self, batch: &Batch) -> Result<Flight, SendError> {
        let mut sender = match self.sender.take() {
            Some(sender) => sender,
            None => match self.config.sender() {
                Ok(sender) => sender,
                Err(error) => return Err(SendError::retry(error.to_string())),
            },
        };
        self.ledger.attempt();
        let sent = Arc::clone(batch);
        Ok(Flight {
            started: Instant::now(),
            task: tokio::spawn(async move {
                let result = sender.send(&sent).await;
                (sender, result)
            }),
        })
    }

    /// Takes the sender back, counts, and says what the send came to.
    fn landed(&mut self, joined: Result<Landed, JoinError>, started: Instant) -> Attempt {
        let attempt = match joined {
            Ok((sender, result)) => {
                self.sender = Some(sender);
                Attempt::Done(result)
            }
            Err(error) if error.is_cancelled() => Attempt::OutOfTime,
            Err(_) => Attempt::Panicked,
        };
        if let Some(observe) = &self.observe {
            let delivered = matches!(&attempt, Attempt::Done(Ok(_)));
            observe(&self.name, started.elapsed(), delivered);
        }
        match &attempt {
            Attempt::Done(Err(SendError::Retry { cause, .. } | SendError::Drop { cause, .. })) => {
                self.ledger.failure(cause);
            }
            Attempt::Panicked => self.ledger.failure("the sender panicked"),
            _ => {}
        }
        attempt
    }

    /// Counts a sender that panicked; the cause that is given for its batch.
    fn panicked(&self) -> &'static str {
        self.ledger.panic();
        error!(reporter = %self.name, "sender panicked; it is built anew");
        "the sender panicked"
    }

    fn refresh(&mut self) {
        let now = Instant::now();
        if now < self.next_refresh || self.sender.is_none() {
            return;
        }
        self.next_refresh = now + REFRESH_INTERVAL;
        if let Some(Err(error)) = self.sender.as_mut().map(|sender| sender.refresh())
            && let Some(suppressed) = self.warnings.allow()
        {
            warn!(reporter = %self.name, error, suppressed, "files were not read again");
        }
    }

    fn account(&mut self, book: &Ledger, delivery: Delivery) {
        book.export(delivery.exported);
        let remark = delivery.remark.as_deref().unwrap_or("not accepted");
        let mut lost = 0;
        for (reason, spans) in &delivery.dropped {
            book.drop_spans(*reason, *spans);
            lost += spans;
        }
        if let Some((reason, _)) = delivery.dropped.first() {
            self.ledger.failure(remark);
            self.warn_dropped(*reason, lost, remark);
        } else if let Some(remark) = &delivery.remark
            && let Some(suppressed) = self.warnings.allow()
        {
            warn!(reporter = %self.name, %remark, suppressed, "collector accepted with a warning");
        }
    }

    fn lose(&mut self, batch: &Batch, reason: Reason, cause: &str) -> Fate {
        self.ledger.drop_spans(reason, batch.len());
        self.warn_dropped(reason, batch.len(), cause);
        Fate::Settled
    }

    /// Waits before a repetition. `false`: time ran out. Being told to stop ends the wait at once: it may be the last try.
    async fn pause(&mut self, wait: Duration) -> bool {
        match self.time_left() {
            Some(left) => {
                tokio::time::sleep(wait.min(left)).await;
                wait < left
            }
            None => {
                tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    () = told_to_stop(&mut self.stop) => {}
                }
                true
            }
        }
    }

    /// Keeps the quiet a collector asked for; a stop ends it.
    async fn keep_quiet(&mut self) {
        if let Some(until) = self.quiet_until.take() {
            tokio::select! {
                () = tokio::time::sleep_until(until) => {}
                () = told_to_stop(&mut self.stop) => {}
            }
        }
    }

    fn stopping(&self) -> bool {
        self.stop.borrow().is_some()
    }

    /// `None`: nobody told us to stop. Zero: time is up.
    fn time_left(&self) -> Option<Duration> {
        let deadline = *self.stop.borrow();
        deadline.map(|at| at.saturating_duration_since(Instant::now()))
    }

    fn warn_dropped(&mut self, reason: Reason, spans: usize, cause: &str) {
        if let Some(suppressed) = self.warnings.allow() {
            let reason = reason.name();
            warn!(reporter = %self.name, reason, spans, cause, suppressed, "spans dropped");
        }
    }

    fn warn_retry(&mut self, spans: usize, wait: Duration, cause: &str) {
        if let Some(suppressed) = self.warnings.allow() {
            warn!(reporter = %self.name, spans, ?wait, cause, suppressed, "export failed, trying again");
        }
    }

    fn warn_of_full_queue(&mut self) {
        let dropped = self.ledger.dropped(Reason::QueueFull);
        let since = dropped - self.warnings.full_queue_seen;
        if since > 0
            && let Some(suppressed) = self.warnings.allow()
        {
            self.warnings.full_queue_seen = dropped;
            warn!(reporter = %self.name, spans = since, suppressed, "queue full, spans dropped");
        }
    }
}

/// What became of one part: accounted for, or to be sent in smaller ones.
enum Fate {
    Settled,
    Split(Vec<Vec<Arc<Span>>>),
}

/// No more than this many wake-ups a second for nothing.
const MIN_INTERVAL: Duration = Duration::from_millis(10);

pub(super) const REFRESH_INTERVAL: Duration = Duration::from_secs(60);

/// A collector that asks for a day of quiet is asked again sooner.
const MAX_QUIET: Duration = Duration::from_secs(300);

/// One warning a period for each reporter, with the number kept back since the last.
#[derive(Debug, Default)]
pub(super) struct Warnings {
    last: Option<Instant>,
    suppressed: u64,
    full_queue_seen: u64,
}

const WARN_PERIOD: Duration = Duration::from_secs(30);

impl Warnings {
    /// `Some` with the number of warnings kept back: say this one.
    fn allow(&mut self) -> Option<u64> {
        let now = Instant::now();
        if self.last.is_some_and(|last| now - last < WARN_PERIOD) {
            self.suppressed += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.suppressed))
    }
}

/// Ends when a stop is ordered, or when nobody is left to order one.
async fn told_to_stop(stop: &mut watch::Receiver<Option<Instant>>) {
    // An error means the owner is gone without an order: nothing will flush us later, so stop as well.
    let _gone = stop.wait_for(Option::is_some).await.is_err();
}

/// Ends at the deadline of a stop.
async fn deadline(stop: &mut watch::Receiver<Option<Instant>>) {
    let at = match stop.wait_for(Option::is_some).await {
        Ok(at) => (*at).unwrap_or_else(Instant::now),
        Err(_) => Instant::now(),
    };
    tokio::time::sleep_until(at).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn warnings_come_once_a_period_with_the_number_kept_back() {
        let mut warnings = Warnings::default();
        assert_eq!(warnings.allow(), Some(0));
        assert_eq!(warnings.allow(), None);
        assert_eq!(warnings.allow(), None);
        tokio::time::advance(WARN_PERIOD).await;
        assert_eq!(warnings.allow(), Some(2));
    }
}
