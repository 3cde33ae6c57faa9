//! The handle structs, one for each part of the program. Whoever holds one counts without looking anything up.

mod make;

use std::sync::Arc;
use std::time::Duration;

use super::Counter;
use super::Family;
use super::Gauge;
use super::Histogram;
use super::Metrics;
use super::labels::CloseReason;
use super::labels::ConnectFailure;
use super::labels::Detected;
use super::labels::Door;
use super::labels::ExtractResult;
use super::labels::Label;
use super::labels::LinkOutcome;
use super::labels::LogLevel;
use super::labels::LossCause;
use super::labels::Outcome;
use super::labels::Receipt;
use super::labels::Rejection;
use super::labels::ReviewOutcome;
use super::labels::StrategyAnswer;

/// One counter for each value of a closed label.
#[derive(Debug, Clone)]
pub struct CounterSet<L> {
    counters: Box<[Counter]>,
    label: std::marker::PhantomData<fn(L)>,
}

impl<L: Label> CounterSet<L> {
    fn new(metrics: &Metrics, family: &Family, labels: &[(&'static str, &str)]) -> Self {
        let counter = |value: &L| {
            let mut labels = labels.to_vec();
            labels.push((L::KEY, value.as_str()));
            metrics.counter(family, &labels)
        };
        Self {
            counters: L::ALL.iter().map(counter).collect(),
            label: std::marker::PhantomData,
        }
    }

    /// Counts one event.
    pub fn count(&self, value: L) {
        if let Some(counter) = self.counters.get(value.index()) {
            counter.increment(1);
        }
    }
}

/// One counter for each of the names handed down when it was built, and `_other` for a name that was not.
#[derive(Debug, Clone)]
pub struct CounterTable {
    names: Box<[&'static str]>,
    counters: Box<[Counter]>,
    other: Counter,
}

impl CounterTable {
    fn new(
        metrics: &Metrics,
        family: &Family,
        labels: &[(&'static str, &str)],
        key: &'static str,
        names: &[&'static str],
    ) -> Self {
        let counter = |name: &'static str| {
            let mut labels = labels.to_vec();
            labels.push((key, name));
            metrics.counter(family, &labels)
        };
        Self {
            names: names.into(),
            counters: names.iter().map(|name| counter(name)).collect(),
            other: counter("_other"),
        }
    }

    /// The counter under `name`. A search through a handful of words.
    pub fn of(&self, name: &str) -> &Counter {
        self.names
            .iter()
            .position(|known| *known == name)
            .and_then(|index| self.counters.get(index))
            .unwrap_or(&self.other)
    }
}

/// Things in progress: a guard for each, so that none is forgotten.
#[derive(Debug, Clone)]
pub struct ActiveGauge(Gauge);

impl ActiveGauge {
    /// Sets the number, for things that are counted elsewhere.
    pub fn set(&self, count: u64) {
        self.0.set(count as f64);
    }

    /// Counts one more until the guard is dropped.
    pub fn enter(&self) -> ActiveGuard {
        self.0.increment(1.0);
        ActiveGuard(self.0.clone())
    }
}

/// One thing in progress. Dropping it counts it out.
#[derive(Debug)]
pub struct ActiveGuard(Gauge);

impl Drop for ActiveGuard {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

/// What is counted around each request of one direction. Held by each listener.
#[derive(Debug, Clone)]
pub struct TrafficMetrics {
    /// Exchanges in flight.
    pub active: ActiveGauge,
    /// Latency that is ours, in seconds.
    pub added: Histogram,
    /// What was refused.
    pub rejections: CounterSet<Rejection>,
}

/// The connections of one direction to one kind of peer. Held by the listener or the pool.
#[derive(Debug)]
pub struct ConnectionMetrics {
    /// Bytes read from its sockets.
    pub received: Counter,
    /// Bytes written to its sockets.
    pub sent: Counter,
    opened: Counter,
    active: Gauge,
    closed: CounterSet<CloseReason>,
}

impl ConnectionMetrics {
    /// Counts a connection as open until the guard is dropped.
    pub fn open(self: &Arc<Self>) -> OpenConnection {
        self.opened.increment(1);
        self.active.increment(1.0);
        OpenConnection {
            metrics: self.clone(),
            reason: CloseReason::Peer,
        }
    }
}

/// One open connection. Dropping it counts it as closed, by the peer unless another reason was set.
#[derive(Debug)]
pub struct OpenConnection {
    metrics: Arc<ConnectionMetrics>,
    /// Why it ended.
    pub reason: CloseReason,
}

impl OpenConnection {
    /// The family it belongs to, for its byte counters.
    pub fn metrics(&self) -> &ConnectionMetrics {
        &self.metrics
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.metrics.active.decrement(1.0);
        self.metrics.closed.count(self.reason);
    }
}

/// A worker's upstream pool of one direction.
#[derive(Debug, Clone)]
pub struct PoolMetrics {
    /// Connections that wait for a request; changed by increments, as every worker has a pool.
    pub idle: Gauge,
    /// Connections with an exchange on them.
    pub in_use: ActiveGauge,
    /// Requests that had to wait.
    pub waits: Counter,
    /// Requests that got none.
    pub rejected: Counter,
    /// Requests sent again because a reused connection was gone.
    pub stale_retries: Counter,
    /// Time to connect, in seconds, TLS included.
    pub connect_duration: Histogram,
    /// Connections that could not be opened.
    pub connect_failures: CounterSet<ConnectFailure>,
}

/// A listener's accept loop of one direction.
#[derive(Debug, Clone)]
pub struct ServerMetrics {
    /// Connections that could not be accepted.
    pub accept_errors: Counter,
    /// What first bytes turned out to be.
    pub detected: CounterSet<Detected>,
}

/// TLS towards one kind of peer.
#[derive(Debug, Clone)]
pub struct TlsMetrics {
    /// Handshakes.
    pub handshakes: CounterSet<Outcome>,
    /// Attempts to load changed certificates.
    pub reloads: CounterSet<Outcome>,
}

/// Spans before the reporters. `started = unsampled + finished + active` at rest.
#[derive(Debug, Clone)]
pub struct SpanMetrics {
    /// Started, sampled or not.
    pub started: Counter,
    /// Ended without being recorded.
    pub unsampled: Counter,
    /// Handed to the reporters.
    pub finished: Counter,
    /// Spans of programs, handed to the reporters.
    pub received: Counter,
    /// Not yet ended.
    pub active: ActiveGauge,
    /// Kept for an error although not sampled.
    pub kept_errors: Counter,
    /// Kept for their duration although not sampled.
    pub kept_slow: Counter,
    /// Worth keeping but beyond the limit.
    pub keep_limited: Counter,
}

/// A reporter's ledger in plain numbers: `accepted = exported + Σ dropped + queued`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReporterLedger<'a> {
    /// Spans handed to it since the start.
    pub accepted: u64,
    /// Spans that the collector confirmed, or that were sent where nobody confirms.
    pub exported: u64,
    /// Spans lost since the start, by reason.
    pub dropped: &'a [(&'static str, u64)],
    /// Spans that wait or are being sent.
    pub queued: u64,
    /// Spans that its queue can hold.
    pub capacity: u64,
    /// Attempts to send, repeated ones included.
    pub attempts: u64,
    /// Attempts that failed.
    pub failures: u64,
    /// Panics that were caught.
    pub panics: u64,
}

/// One reporter. The ledger is the reporter's own; it is copied here at each scrape.
#[derive(Debug, Clone)]
pub struct ReporterMetrics {
    /// Time of one attempt to send, in seconds.
    pub duration: Histogram,
    attempts: Counter,
    failures: Counter,
    panics: Counter,
    accepted: Counter,
    exported: Counter,
    dropped: CounterTable,
    queued: Gauge,
    capacity: Gauge,
}

impl ReporterMetrics {
    /// Takes over the ledger's state. Numbers that are lower than the last ones leave a counter as it is.
    pub fn publish_ledger(&self, ledger: &ReporterLedger<'_>) {
        self.accepted.absolute(ledger.accepted);
        self.exported.absolute(ledger.exported);
        self.attempts.absolute(ledger.attempts);
        self.failures.absolute(ledger.failures);
        self.panics.absolute(ledger.panics);
        let mut other = 0;
        for (reason, count) in ledger.dropped {
            if self.dropped.names.contains(reason) {
                self.dropped.of(reason).absolute(*count);
            } else {
                other += count;
            }
        }
        self.dropped.other.absolute(other);
        self.queued.set(ledger.queued as f64);
        self.capacity.set(ledger.capacity as f64);
    }
}

/// A reporter's spool in plain numbers; `recovered = exported + dropped + queued` of earlier processes' spans.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SpoolLedger {
    /// Spans on the disk; those of this process are part of `queued`.
    pub spans: u64,
    /// Bytes on the disk.
    pub bytes: u64,
    /// Bytes that there may be; 0 without a spool.
    pub capacity: u64,
    /// Spans written.
    pub written: u64,
    /// Times that the folder could not be opened or written to.
    pub failures: u64,
    /// Records that could not be read, such as one that a killed process left half written.
    pub damaged: u64,
    /// Spans of earlier processes that were found.
    pub recovered: u64,
    /// Those that the collector took.
    pub recovered_exported: u64,
    /// Those that were lost.
    pub recovered_dropped: u64,
    /// Those that still wait.
    pub recovered_queued: u64,
}

/// The spool of one reporter; copied here at each scrape.
#[derive(Debug, Clone)]
pub struct SpoolMetrics {
    spans: Gauge,
    bytes: Gauge,
    capacity: Gauge,
    written: Counter,
    failures: Counter,
    damaged: Counter,
    recovered: Counter,
    recovered_exported: Counter,
    recovered_dropped: Counter,
    recovered_queued: Gauge,
}

impl SpoolMetrics {
    /// Takes over the ledger's state.
    pub fn publish_ledger(&self, ledger: &SpoolLedger) {
        self.spans.set(ledger.spans as f64);
        self.bytes.set(ledger.bytes as f64);
        self.capacity.set(ledger.capacity as f64);
        self.written.absolute(ledger.written);
        self.failures.absolute(ledger.failures);
        self.damaged.absolute(ledger.damaged);
        self.recovered.absolute(ledger.recovered);
        self.recovered_exported.absolute(ledger.recovered_exported);
        self.recovered_dropped.absolute(ledger.recovered_dropped);
        self.recovered_queued.set(ledger.recovered_queued as f64);
    }
}

/// How outbound requests found their cause. Held by `correlate`.
#[derive(Debug, Clone)]
pub struct LinkMetrics {
    methods: Box<[(&'static str, CounterSet<LinkOutcome>)]>,
    other: CounterSet<LinkOutcome>,
}

impl LinkMetrics {
    /// Counts one outbound request.
    pub fn count(&self, method: &str, outcome: LinkOutcome) {
        self.methods
            .iter()
            .find(|(name, _)| *name == method)
            .map_or(&self.other, |(_, set)| set)
            .count(outcome);
    }
}

/// Reading and writing trace headers. Held by the propagator; formats are in the order of the names given.
#[derive(Debug, Clone)]
pub struct PropagationMetrics {
    /// One for each format, in the order given.
    pub formats: Box<[ExtractMetrics]>,
    /// Requests whose formats named different traces.
    pub conflicts: Counter,
}

/// One format of trace headers.
#[derive(Debug, Clone)]
pub struct ExtractMetrics {
    /// The format's name.
    pub format: &'static str,
    /// What came of reading.
    pub extracted: CounterSet<ExtractResult>,
}

/// Sampling. Held by the samplers and by the poller of strategies.
#[derive(Debug, Clone)]
pub struct SamplerMetrics {
    /// Requests for strategies.
    pub queries: CounterSet<Outcome>,
    /// Strategies taken into use (success) or refused (failure).
    pub updates: CounterSet<Outcome>,
    /// Unix time of the last good answer, in seconds.
    pub last_update: Gauge,
    /// Operations with a sampler of their own.
    pub operations: Gauge,
    sampled: CounterTable,
    rejected: CounterTable,
}

impl SamplerMetrics {
    /// Counts a trace that started here.
    pub fn decided(&self, kind: &str, sampled: bool) {
        let table = if sampled {
            &self.sampled
        } else {
            &self.rejected
        };
        table.of(kind).increment(1);
    }
}

/// The injector's questions and answers.
#[derive(Debug, Clone)]
pub struct InjectorMetrics {
    /// Questions answered, or not.
    pub reviews: CounterSet<ReviewOutcome>,
    /// Time of each, in seconds.
    pub duration: Histogram,
}

/// Configuration and lifecycle. Held by `app`.
#[derive(Debug, Clone)]
pub struct ConfigMetrics {
    ready: Gauge,
    draining: Gauge,
    reloads: CounterSet<Outcome>,
    last_ok: Gauge,
    last_time: Gauge,
}

impl ConfigMetrics {
    /// Records an attempt to load a configuration, at this Unix time.
    pub fn reloaded(&self, outcome: Outcome, unix_time: Duration) {
        self.reloads.count(outcome);
        let ok = outcome == Outcome::Success;
        self.last_ok.set(f64::from(u8::from(ok)));
        if ok {
            self.last_time.set(unix_time);
        }
    }

    /// Records the configuration that the program started with; no reload.
    pub fn loaded(&self, unix_time: Duration) {
        self.last_ok.set(1.0);
        self.last_time.set(unix_time);
    }

    /// Records whether traffic is taken.
    pub fn set_ready(&self, ready: bool) {
        self.ready.set(f64::from(u8::from(ready)));
    }

    /// Records whether the program is finishing.
    pub fn set_draining(&self, draining: bool) {
        self.draining.set(f64::from(u8::from(draining)));
    }
}

/// Our own log lines.
#[derive(Debug, Clone)]
pub struct LogMetrics {
    /// Written.
    pub messages: CounterSet<LogLevel>,
    /// Not written because they repeat.
    pub suppressed: Counter,
    /// Not written because standard error did not take them in time.
    pub lost: Counter,
}

/// Spans of programs. Held by the receivers.
#[derive(Debug, Clone)]
pub struct ReceiverMetrics {
    /// Where the answers to questions for strategies came from.
    pub strategies: CounterSet<StrategyAnswer>,
    /// Jaeger clients that number their batches.
    pub clients: Gauge,
    doors: Box<[DoorMetrics]>,
}

impl ReceiverMetrics {
    /// What is counted at this door.
    ///
    /// # Panics
    /// Never: every door has its entry.
    pub fn door(&self, door: Door) -> &DoorMetrics {
        &self.doors[door.index()]
    }
}

/// One door for spans of programs.
#[derive(Debug, Clone)]
pub struct DoorMetrics {
    /// Messages.
    pub messages: CounterSet<Receipt>,
    /// Spans handed to the reporters.
    pub spans: Counter,
    /// Spans left out.
    pub invalid: Counter,
}

/// One Jaeger client that numbers its batches.
#[derive(Debug, Clone)]
pub struct ClientMetrics {
    /// Batches that it sent, by its own count.
    pub sent: Counter,
    /// Batches that arrived.
    pub received: Counter,
    lost: Box<[Counter]>,
}

impl ClientMetrics {
    /// Counts spans that the client lost.
    pub fn lose(&self, cause: LossCause, spans: u64) {
        if let Some(counter) = self.lost.get(cause.index()) {
            counter.increment(spans);
        }
    }
}
