//! One reporter's task with a spool: what cannot be sent, or not in time, is put on the disk and sent from there.
//!
//! While the disk holds anything it is sent first and what is new goes behind it, so spans leave in order. A batch is
//! never given up for the time it took, only for want of room, the oldest first. Where the folder cannot be used, spans
//! wait in memory as they do without a spool, and it is tried again.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinError;
use tokio::time::Instant;
use tracing::info;
use tracing::warn;

use crate::reporter::ledger::Ledger;
use crate::reporter::ledger::Reason;
use crate::reporter::retry::Backoff;
use crate::reporter::run::Attempt;
use crate::reporter::run::Batch;
use crate::reporter::run::Flight;
use crate::reporter::run::Landed;
use crate::reporter::run::MAX_QUIET;
use crate::reporter::run::MIN_INTERVAL;
use crate::reporter::run::Runner;
use crate::reporter::run::deadline;
use crate::reporter::run::told_to_stop;
use crate::reporter::sender::SendError;
use crate::reporter::spool::Answer;
use crate::reporter::spool::Books;
use crate::reporter::spool::Spool;
use crate::reporter::spool::Ticket;

/// The task's state.
pub(in crate::reporter) struct Spooled {
    runner: Runner,
    spool: Spool,
    /// Spans that go out together at most.
    batch: usize,
    /// What is sent or to be sent next.
    job: Option<Job>,
    flight: Option<Flight>,
    /// Taken from the queue for the disk, which did not take it.
    held: Option<Batch>,
    backoff: Backoff,
    /// No send before this instant.
    not_before: Instant,
    /// Spans that have waited long enough for their batch to fill.
    due: usize,
    /// The folder is open.
    usable: bool,
    opening: Option<Answer<Result<(), String>>>,
}

/// A batch, in the parts that the wire wants.
struct Job {
    /// The last is sent first.
    parts: Vec<Batch>,
    from: From,
}

#[derive(Clone, Copy)]
enum From {
    /// First tried at this instant.
    Memory(Instant),
    Disk(Ticket),
}

enum Wake {
    Stop,
    Landed(Result<Landed, JoinError>),
    Opened(Option<Result<(), String>>),
    Flush,
    Filled,
    Ready,
}

/// What was said about a batch that is to go on the disk.
enum Put {
    Away,
    Back,
}

impl Spooled {
    pub(in crate::reporter) fn new(runner: Runner, spool: Spool) -> Self {
        let settings = runner.config.queue();
        Self {
            batch: settings.batch.clamp(1, settings.capacity.max(1)),
            backoff: Backoff::new(&runner.config.retry()),
            opening: Some(spool.open()),
            runner,
            spool,
            job: None,
            flight: None,
            held: None,
            not_before: Instant::now(),
            due: 0,
            usable: false,
        }
    }

    /// Runs until told to stop; afterwards the queue is closed and empty, and what was not sent is on the disk.
    pub(in crate::reporter) async fn run(mut self) {
        let interval = self.runner.config.queue().flush_interval.0;
        let interval = interval.max(MIN_INTERVAL);
        let mut next_flush = Instant::now() + interval;
        loop {
            self.send_next().await;
            match self.wake(next_flush).await {
                Wake::Stop => return self.finish().await,
                Wake::Landed(joined) => self.landed(joined).await,
                Wake::Opened(result) => self.opened(result),
                Wake::Filled => self.make_room().await,
                Wake::Ready => {}
                Wake::Flush => {
                    self.flush().await;
                    next_flush = Instant::now() + interval;
                }
            }
        }
    }

    async fn wake(&mut self, next_flush: Instant) -> Wake {
        let queue = Arc::clone(&self.runner.queue);
        let waits = self.flight.is_none() && self.not_before > Instant::now();
        tokio::select! {
            biased;
            () = told_to_stop(&mut self.runner.stop) => Wake::Stop,
            joined = landing(&mut self.flight) => Wake::Landed(joined),
            result = opening(&mut self.opening) => Wake::Opened(result),
            () = tokio::time::sleep_until(next_flush) => Wake::Flush,
            () = queue.filled() => Wake::Filled,
            () = tokio::time::sleep_until(self.not_before), if waits => Wake::Ready,
        }
    }

    /// Starts the next send if none is under way and it is time.
    async fn send_next(&mut self) {
        if self.flight.is_some() || Instant::now() < self.not_before {
            return;
        }
        if self.job.is_none() {
            self.job = self.next_job().await;
        }
        let Some(part) = self.job.as_ref().and_then(|job| job.parts.last()) else {
            return;
        };
        match self.runner.take_off(&Arc::clone(part)) {
            Ok(flight) => self.flight = Some(flight),
            Err(error) => self.settle(Attempt::Done(Err(error))).await,
        }
    }

    async fn next_job(&mut self) -> Option<Job> {
        let now = Instant::now();
        let of = |batch: Batch, from| Job {
            parts: vec![batch],
            from,
        };
        if self.usable && !self.spool.books.spool.is_empty() {
            let taken = self.spool.take();
            if let Some(Some((ticket, spans))) = self.answer(taken).await {
                return Some(of(spans.into(), From::Disk(ticket)));
            }
        }
        if let Some(held) = self.held.take() {
            return Some(of(held, From::Memory(now)));
        }
        let most = if self.runner.queue.has_filled() {
            self.batch
        } else {
            self.batch.min(self.due)
        };
        let taken = self.runner.queue.take(most);
        self.due = self.due.saturating_sub(taken.len());
        (!taken.is_empty()).then(|| of(taken.into(), From::Memory(now)))
    }

    /// A send is over.
    async fn landed(&mut self, joined: Result<Landed, JoinError>) {
        let Some(flight) = self.flight.take() else {
            return;
        };
        let attempt = self.runner.landed(joined, flight.started);
        self.settle(attempt).await;
    }

    /// Accounts for what was sent, and takes the next part or batch in hand.
    async fn settle(&mut self, attempt: Attempt) {
        let Some(mut job) = self.job.take() else {
            return;
        };
        let Some(part) = job.parts.pop() else { return };
        match attempt {
            Attempt::Done(Ok(delivery)) => {
                let book = job.book(&self.spool.books);
                self.runner.account(book, delivery);
                self.backoff = Backoff::new(&self.runner.config.retry());
            }
            Attempt::Done(Err(SendError::Split(parts))) => {
                let parts = parts.into_iter().rev().filter(|part| !part.is_empty());
                job.parts.extend(parts.map(Batch::from));
            }
            Attempt::Done(Err(SendError::Drop { reason, cause })) => {
                self.lose(&job, part.len(), reason, &cause);
            }
            Attempt::Panicked => {
                let cause = self.runner.panicked();
                self.lose(&job, part.len(), Reason::Panic, cause);
            }
            Attempt::Done(Err(SendError::Retry { after, cause })) => {
                job.parts.push(part);
                return self.put_off(job, after, &cause).await;
            }
            Attempt::OutOfTime => job.parts.push(part),
        }
        if !job.parts.is_empty() {
            self.job = Some(job);
        } else if let From::Disk(ticket) = job.from {
            let done = self.spool.done(ticket);
            self.answer(done).await;
        }
    }

    /// The collector is out of reach: what is in memory goes on the disk, if it can.
    async fn put_off(&mut self, mut job: Job, after: Option<Duration>, cause: &str) {
        let wait = self.backoff.wait(after, &mut fastrand::Rng::new());
        self.not_before = Instant::now() + wait.min(MAX_QUIET);
        self.runner.warn_retry(job.spans(), wait, cause);
        match job.from {
            From::Disk(ticket) => {
                if self.is_gone(ticket).await {
                    return self.lose(&job, job.spans(), Reason::SpoolFull, cause);
                }
            }
            From::Memory(since) => {
                while let Some(part) = job.parts.pop() {
                    if let Put::Back = self.put_away(&part).await {
                        job.parts.push(part);
                        break;
                    }
                }
                if job.parts.is_empty() {
                    return;
                }
                if since.elapsed() + wait > self.runner.config.retry().max_elapsed.0 {
                    return self.lose(&job, job.spans(), Reason::RetriesExhausted, cause);
                }
            }
        }
        self.job = Some(job);
    }

    /// True when a batch that was taken from the disk was the oldest as room was needed.
    async fn is_gone(&mut self, ticket: Ticket) -> bool {
        let holds = self.spool.holds(ticket);
        self.answer(holds).await == Some(false)
    }

    /// Writes a batch to the disk.
    async fn put_away(&mut self, batch: &Batch) -> Put {
        if !self.usable {
            return Put::Back;
        }
        let written = self.spool.append(Arc::clone(batch));
        let cause = match self.answer(written).await {
            Some(Ok(())) => return Put::Away,
            Some(Err(cause)) => cause,
            None => "the disk stands still".to_owned(),
        };
        self.warn("spans could not be written to the spool", &cause);
        Put::Back
    }

    /// Takes spans out of the queue and to the disk where they would otherwise be too many to wait.
    async fn make_room(&mut self) {
        let queue = Arc::clone(&self.runner.queue);
        while self.flight.is_some() && queue.is_half_full()
            || self.is_behind() && queue.has_filled()
        {
            if !self.move_batch(self.batch).await {
                return;
            }
        }
    }

    /// What has waited for a batch to fill is sent as it is, or put on the disk if it is not its turn.
    async fn flush(&mut self) {
        let mut waiting = self.runner.queue.len();
        self.due = waiting;
        while self.is_behind() && waiting > 0 {
            let most = self.batch.min(waiting);
            if !self.move_batch(most).await {
                break;
            }
            waiting -= most;
            self.due = 0;
        }
        self.runner.warn_of_full_queue();
        self.runner.refresh();
        if !self.usable && self.opening.is_none() {
            self.opening = Some(self.spool.open());
        }
    }

    /// Moves a batch from the queue to the disk. False: the disk takes nothing now.
    async fn move_batch(&mut self, most: usize) -> bool {
        let batch = match self.held.take() {
            Some(held) => held,
            None if self.usable => self.runner.queue.take(most).into(),
            None => return false,
        };
        if batch.is_empty() {
            return false;
        }
        if let Put::Back = self.put_away(&batch).await {
            self.held = Some(batch);
            return false;
        }
        true
    }

    /// True when what is new has to wait behind what is on the disk.
    fn is_behind(&self) -> bool {
        self.not_before > Instant::now() || !self.spool.books.spool.is_empty()
    }

    fn opened(&mut self, result: Option<Result<(), String>>) {
        self.opening = None;
        match result {
            Some(Ok(())) => {
                self.usable = true;
                let spans = self.spool.books.spool.snapshot().spans;
                if spans > 0 {
                    info!(reporter = %self.runner.name, spans, "spans found in the spool");
                }
            }
            Some(Err(cause)) => self.warn("the spool cannot be used, spans wait in memory", &cause),
            None => {}
        }
    }

    fn warn(&mut self, what: &'static str, cause: &str) {
        if let Some(suppressed) = self.runner.warnings.allow() {
            warn!(reporter = %self.runner.name, cause, suppressed, "{what}");
        }
    }

    fn lose(&mut self, job: &Job, spans: usize, reason: Reason, cause: &str) {
        job.book(&self.spool.books).drop_spans(reason, spans);
        self.runner.warn_dropped(reason, spans, cause);
    }

    /// Waits for the disk, but no longer than a stop allows.
    async fn answer<T>(&mut self, answer: Answer<T>) -> Option<T> {
        tokio::select! {
            biased;
            answer = answer => answer.ok(),
            () = deadline(&mut self.runner.stop) => None,
        }
    }

    /// The last flush: sends while that works and time allows, then puts the rest on the disk and closes the queue.
    async fn finish(mut self) {
        let left = self.runner.time_left().unwrap_or_default();
        let reserve = match self.usable {
            true => MAX_RESERVE.min(left / 4),
            false => Duration::ZERO,
        };
        let until = Instant::now() + left - reserve;
        if self.is_behind() {
            // What is in memory first: the disk keeps it whatever becomes of us.
            while self.usable && self.move_batch(self.batch).await {}
        }
        // Being told to stop ends a wait: this may be the last try.
        self.not_before = Instant::now();
        while Instant::now() < until {
            self.due = self.runner.queue.len();
            self.send_next().await;
            if self.flight.is_some() {
                self.land_by(until).await;
            } else if self.not_before > Instant::now() && !self.usable {
                tokio::time::sleep_until(self.not_before.min(until)).await;
            } else if self.job.is_none() || self.not_before > Instant::now() {
                break;
            }
        }
        self.runner.queue.close();
        self.put_rest_away().await;
    }

    /// Waits for the send under way, and ends it when time is up.
    async fn land_by(&mut self, until: Instant) {
        let joined = tokio::select! {
            joined = landing(&mut self.flight) => joined,
            () = tokio::time::sleep_until(until) => {
                if let Some(flight) = &self.flight {
                    flight.task.abort();
                }
                // It may have ended in the same instant: then its result counts.
                landing(&mut self.flight).await
            }
        };
        self.landed(joined).await;
    }

    async fn put_rest_away(&mut self) {
        let mut rest: Vec<Batch> = Vec::new();
        if let Some(job) = self.job.take() {
            match job.from {
                From::Memory(_) => rest.extend(job.parts),
                From::Disk(ticket) if self.is_gone(ticket).await => {
                    self.lose(
                        &job,
                        job.spans(),
                        Reason::SpoolFull,
                        "no time left to flush",
                    );
                }
                From::Disk(_) => {}
            }
        }
        rest.extend(self.held.take());
        loop {
            let batch = match rest.pop() {
                Some(batch) => batch,
                None => self.runner.queue.take(self.batch).into(),
            };
            if batch.is_empty() {
                return;
            }
            if let Put::Back = self.put_away(&batch).await {
                let (reason, spans) = (Reason::Shutdown, batch.len());
                self.runner.ledger.drop_spans(reason, spans);
                self.runner
                    .warn_dropped(reason, spans, "no time left to flush");
            }
        }
    }
}

impl Job {
    fn spans(&self) -> usize {
        self.parts.iter().map(|part| part.len()).sum()
    }

    /// The book that its spans are in.
    fn book<'a>(&self, books: &'a Books) -> &'a Ledger {
        match self.from {
            From::Memory(_) => &books.own,
            From::Disk(ticket) => books.of(ticket),
        }
    }
}

/// Most of a stop's time that is kept for the disk.
const MAX_RESERVE: Duration = Duration::from_secs(1);

/// Ends with the send under way, if there is one.
async fn landing(flight: &mut Option<Flight>) -> Result<Landed, JoinError> {
    match flight {
        Some(flight) => (&mut flight.task).await,
        None => std::future::pending().await,
    }
}

async fn opening(answer: &mut Option<Answer<Result<(), String>>>) -> Option<Result<(), String>> {
    match answer {
        Some(answer) => answer.await.ok(),
        None => std::future::pending().await,
    }
}
