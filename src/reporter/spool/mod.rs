//! The outage spool: batches that cannot be sent wait in a folder, up to a size, until the collector or the process is
//! back.
//!
//! `record` is one batch as bytes, `disk` the folder. Here is the thread that owns them: files can block for as long as
//! a disk likes, and neither the request path nor the thread that sends may wait with them. What was found from an earlier
//! process has a book of its own, so that the book of this one stays exact.

mod disk;
mod record;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::sync::mpsc;

use tokio::sync::oneshot;

use crate::model::ByteSize;
use crate::model::Span;
use crate::reporter::ledger::Ledger;
use crate::reporter::ledger::Reason;
use crate::reporter::sender::chain;
use crate::reporter::spool::disk::Disk;
use crate::reporter::spool::disk::Limits;
use crate::reporter::spool::disk::Lost;
use crate::telemetry::metrics::SpoolLedger;

pub(super) use disk::Ticket;

/// Where spans wait while the collector is out of reach.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The folder. Each reporter has its own below it, named like the reporter, which no two processes may share.
    ///
    /// Unit: path. Default: none, spans wait in memory alone. Reload: live.
    pub folder: Option<PathBuf>,

    /// Most bytes on the disk. Beyond it the oldest spans are dropped and counted (`spool_full`).
    ///
    /// Unit: size. Default: `256MiB`, at least `256kiB`. Reload: live.
    pub max_size: ByteSize,

    /// Wait for the disk itself after each batch, so that spans outlive a power failure too. Without it they outlive the
    /// end of the process, however sudden.
    ///
    /// Default: `false`. Reload: live.
    pub sync: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            folder: None,
            max_size: ByteSize(256 << 20),
            sync: false,
        }
    }
}

/// Less would hold but a batch or two.
pub(super) const MIN_SIZE: u64 = 256 << 10;

/// What is known about a spool from outside its thread.
#[derive(Debug, Default)]
pub(super) struct SpoolBook {
    /// Spans of earlier processes: accepted when found.
    pub(super) earlier: Ledger,
    own_spans: AtomicU64,
    earlier_spans: AtomicU64,
    bytes: AtomicU64,
    capacity: AtomicU64,
    written: AtomicU64,
    failures: AtomicU64,
    damaged: AtomicU64,
}

impl SpoolBook {
    pub(super) fn snapshot(&self) -> SpoolLedger {
        let read = |number: &AtomicU64| number.load(Ordering::Relaxed);
        let earlier = self.earlier.snapshot(&"".into(), "");
        SpoolLedger {
            spans: read(&self.own_spans) + read(&self.earlier_spans),
            bytes: read(&self.bytes),
            capacity: read(&self.capacity),
            written: read(&self.written),
            failures: read(&self.failures),
            damaged: read(&self.damaged),
            recovered: earlier.accepted,
            recovered_exported: earlier.exported,
            recovered_dropped: earlier.dropped_total(),
            recovered_queued: earlier.queued,
        }
    }

    /// True when nothing waits on the disk.
    pub(super) fn is_empty(&self) -> bool {
        self.own_spans.load(Ordering::Relaxed) + self.earlier_spans.load(Ordering::Relaxed) == 0
    }

    pub(super) fn failure(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes over what the folder holds now.
    fn update(&self, disk: &Disk) {
        let (own, earlier) = disk.spans();
        self.own_spans.store(own, Ordering::Relaxed);
        self.earlier_spans.store(earlier, Ordering::Relaxed);
        self.bytes.store(disk.size(), Ordering::Relaxed);
    }
}

/// The books in which the spans of a spool stand.
#[derive(Debug, Clone, Default)]
pub(super) struct Books {
    /// Of this process.
    pub(super) own: Arc<Ledger>,
    pub(super) spool: Arc<SpoolBook>,
}

impl Books {
    /// The book that the spans of this batch are in.
    pub(super) fn of(&self, ticket: Ticket) -> &Ledger {
        match ticket.is_own {
            true => &self.own,
            false => &self.spool.earlier,
        }
    }

    fn lose(&self, reason: Reason, lost: Lost) {
        self.own.drop_spans(reason, lost.own as usize);
        self.spool.earlier.drop_spans(reason, lost.earlier as usize);
    }

    /// Enters what was found when a folder was opened.
    fn found(&self, disk: &Disk) {
        let (own, earlier) = disk.spans();
        let damaged = Reason::SpoolDamaged;
        // What a reporter before us in this process left here, and somebody has taken since.
        let missing = self
            .spool
            .own_spans
            .load(Ordering::Relaxed)
            .saturating_sub(own);
        self.own.drop_spans(damaged, missing as usize);
        let known = self.spool.earlier.snapshot(&"".into(), "").queued;
        let book = &self.spool.earlier;
        book.accept_many(earlier.saturating_sub(known));
        book.drop_spans(damaged, known.saturating_sub(earlier) as usize);
        self.spool
            .damaged
            .fetch_add(disk.damaged, Ordering::Relaxed);
        self.spool.update(disk);
    }
}

/// The way to the spool's thread. Dropping it ends the thread, which releases the folder.
pub(super) struct Spool {
    jobs: mpsc::SyncSender<Job>,
    pub(super) books: Books,
}

type Job = Box<dyn FnOnce(&mut Keeper) + Send>;
type Batch = Arc<[Arc<Span>]>;

/// An answer of the thread. An error: it is gone, or stands still over an earlier order.
pub(super) type Answer<T> = oneshot::Receiver<T>;

/// What the thread owns.
struct Keeper {
    folder: PathBuf,
    limits: Limits,
    writer: u64,
    books: Books,
    disk: Option<Disk>,
}

impl Spool {
    /// Starts the thread; [`Spool::open`] comes next. `writer` is the same for all spools of a process and no other's.
    ///
    /// # Errors
    /// No thread could be had.
    pub(super) fn start(
        config: &Config,
        folder: PathBuf,
        writer: u64,
        books: Books,
    ) -> std::io::Result<Self> {
        let max_size = config.max_size.0.max(MIN_SIZE);
        books.spool.capacity.store(max_size, Ordering::Relaxed);
        let mut keeper = Keeper {
            folder,
            limits: Limits {
                size: max_size,
                sync: config.sync,
            },
            writer,
            books: books.clone(),
            disk: None,
        };
        let (jobs, inbox) = mpsc::sync_channel::<Job>(1);
        std::thread::Builder::new()
            .name("span-spool".to_owned())
            .spawn(move || {
                while let Ok(job) = inbox.recv() {
                    job(&mut keeper);
                }
            })?;
        Ok(Self { jobs, books })
    }

    /// Opens the folder. A text for the log when that fails; it can be tried again.
    pub(super) fn open(&self) -> Answer<Result<(), String>> {
        self.ask(Keeper::open)
    }

    /// Writes a batch. An error, in words, leaves it with the caller.
    pub(super) fn append(&self, batch: Batch) -> Answer<Result<(), String>> {
        self.ask(move |keeper| keeper.append(&batch))
    }

    /// The oldest batch.
    pub(super) fn take(&self) -> Answer<Option<(Ticket, Vec<Arc<Span>>)>> {
        self.ask(Keeper::take)
    }

    /// Whether a batch that was taken is still there.
    pub(super) fn holds(&self, ticket: Ticket) -> Answer<bool> {
        self.ask(move |keeper| keeper.disk.as_ref().is_some_and(|disk| disk.holds(ticket)))
    }

    /// Forgets a batch that was taken and has been accounted for.
    pub(super) fn done(&self, ticket: Ticket) -> Answer<()> {
        self.ask(move |keeper| keeper.with_disk(|disk| disk.done(ticket)))
    }

    fn ask<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Keeper) -> T + Send + 'static,
    ) -> Answer<T> {
        let (done, answer) = oneshot::channel();
        let job = move |keeper: &mut Keeper| {
            // Nobody waits any more after the end of a shutdown's time.
            let _unheard = done.send(job(keeper)).is_err();
        };
        // A full inbox drops the job, and with it the other end of the answer.
        let _refused = self.jobs.try_send(Box::new(job)).is_err();
        answer
    }
}

impl Keeper {
    fn open(&mut self) -> Result<(), String> {
        if self.disk.is_some() {
            return Ok(());
        }
        let disk = Disk::open(&self.folder, self.limits, self.writer).map_err(|error| {
            self.books.spool.failure();
            chain(&error)
        })?;
        self.books.found(&disk);
        self.disk = Some(disk);
        Ok(())
    }

    fn append(&mut self, batch: &[Arc<Span>]) -> Result<(), String> {
        let (record, spans) = record::encode(batch);
        let (mut lost, mut result) = (Lost::default(), Err("the folder is not open".to_owned()));
        self.with_disk(|disk| {
            result = disk
                .append(&record, spans, &mut lost)
                .map_err(|error| error.to_string());
        });
        self.books.lose(Reason::SpoolFull, lost);
        match &result {
            Ok(()) => {
                let written = &self.books.spool.written;
                written.fetch_add(u64::from(spans), Ordering::Relaxed);
            }
            Err(_) => self.books.spool.failure(),
        }
        result
    }

    fn take(&mut self) -> Option<(Ticket, Vec<Arc<Span>>)> {
        let (mut lost, mut taken) = (Lost::default(), None);
        self.with_disk(|disk| taken = disk.take(&mut lost));
        self.books.lose(Reason::SpoolDamaged, lost);
        taken
    }

    fn with_disk(&mut self, job: impl FnOnce(&mut Disk)) {
        let Some(disk) = &mut self.disk else { return };
        let damaged = disk.damaged;
        job(disk);
        let damaged = disk.damaged - damaged;
        self.books
            .spool
            .damaged
            .fetch_add(damaged, Ordering::Relaxed);
        self.books.spool.update(disk);
    }
}
