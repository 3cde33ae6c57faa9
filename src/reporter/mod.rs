//! The way out of finished spans: a bounded queue, batches, retries and one sender per wire, each in its file.
//!
//! The request path only pushes; it never waits. What cannot be kept is dropped and counted by reason. For each
//! reporter, `accepted = exported + dropped + queued` holds at every moment (`ledger` says why). Each reporter has one send under
//! way at a time, or a few while its queue fills faster than that, and a slow collector holds back nobody but itself.
//!
//! Adding a reporter is one new file and two neighbouring lines here: its `mod` and its row in the table.

mod datagram;
mod endpoint;
mod ledger;
mod post;
mod queue;
mod retry;
mod run;
mod sender;
mod spool;

mod datadog;
mod failover;
mod file;
mod grpc;
mod jaeger_grpc;
mod jaeger_http;
mod jaeger_udp;
mod kafka;
mod log;
mod otlp;
mod skywalking;
mod xray;
mod zipkin;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::warn;

use crate::model::HostPort;
use crate::model::Span;
use crate::model::Text;
use crate::reporter::queue::Queue;
use crate::reporter::run::REFRESH_INTERVAL;
use crate::reporter::run::Runner;
use crate::reporter::run::Warnings;
use crate::reporter::run::spare::Spare;
use crate::reporter::run::spooled::Spooled;
use crate::reporter::sender::Sender;
use crate::reporter::spool::Books;
use crate::reporter::spool::Spool;

pub use endpoint::{Endpoint, EndpointError};
pub use ledger::{Reason, Snapshot};
pub use queue::Config as QueueConfig;
pub use retry::Config as RetryConfig;
pub use spool::Config as SpoolConfig;

/// Takes finished, sampled spans from the request path and fans them out to every configured reporter.
pub trait Sink: Send + Sync {
    /// Hands a span over. Never blocks, never fails: a full queue drops the span and counts it.
    fn report(&self, span: Arc<Span>);
}

/// Hears of every send: the reporter's name, how long it took, whether the collector took the batch (or part of it).
pub type Observe = Arc<dyn Fn(&str, Duration, bool) + Send + Sync>;

/// What each kind's `Config` offers to the rest of the family.
trait Settings {
    /// A YAML example that tests build.
    const EXAMPLE: &'static str;

    fn queue(&self) -> &queue::Config;

    /// Where spans go; the strategies of this host are the ones to follow. `None`: no collector.
    fn collector(&self) -> Option<HostPort> {
        None
    }

    /// Every place that spans may go to, whether or not it knows strategies.
    fn destinations(&self) -> Vec<HostPort> {
        self.collector().into_iter().collect()
    }

    /// Some of its servers take only trace ids that begin with the time.
    fn wants_dated_ids(&self) -> bool {
        false
    }

    /// Wires that cannot be asked twice keep the default.
    fn retry(&self) -> retry::Config {
        retry::Config::never()
    }

    /// One send after another, whatever `queue.senders` says: there is no answer to wait for.
    fn is_stream(&self) -> bool {
        self.retry() == retry::Config::never()
    }

    fn sender(&self) -> Result<Box<dyn Sender>, BuildError>;
}

/// Why a reporter cannot be built from its settings.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A header name or value that HTTP does not allow.
    #[error("header {0:?} is not valid in HTTP")]
    Header(String),
    /// Settings that exclude each other or need another one.
    #[error("{0}")]
    Conflict(&'static str),
    /// The client for this endpoint could not be made.
    #[error("no client for this endpoint")]
    Client(#[source] Box<dyn std::error::Error + Send + Sync>),
}

macro_rules! reporters {
    ($($(#[$doc:meta])* $name:literal => $variant:ident, $module:ident;)+) => {
        /// One reporter: its kind and that kind's settings, written `{ otlp: { endpoint: ... } }`.
        #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
        pub enum Config {
            $($(#[$doc])* #[serde(rename = $name)] $variant($module::Config),)+
        }

        /// Each kind's name with a YAML example of its settings.
        pub const KINDS: &[(&str, &str)] = &[
            $(($name, <$module::Config as Settings>::EXAMPLE),)+
        ];

        impl Config {
            /// The kind's name.
            pub fn kind(&self) -> &'static str {
                match self { $(Self::$variant(_) => $name,)+ }
            }

            /// The collector or agent that spans go to; `None` when they stay on this machine's streams.
            pub fn collector(&self) -> Option<HostPort> {
                match self { $(Self::$variant(config) => config.collector(),)+ }
            }

            /// Every place in the network that spans may go to and that receivers of ours could stand for.
            pub fn destinations(&self) -> Vec<HostPort> {
                match self { $(Self::$variant(config) => config.destinations(),)+ }
            }

            /// True where trace ids are to begin with the time (AWS X-Ray).
            pub fn wants_dated_ids(&self) -> bool {
                match self { $(Self::$variant(config) => config.wants_dated_ids(),)+ }
            }

            fn queue(&self) -> &queue::Config {
                match self { $(Self::$variant(config) => config.queue(),)+ }
            }

            fn retry(&self) -> retry::Config {
                match self { $(Self::$variant(config) => config.retry(),)+ }
            }

            fn is_stream(&self) -> bool {
                match self { $(Self::$variant(config) => config.is_stream(),)+ }
            }

            fn sender(&self) -> Result<Box<dyn Sender>, BuildError> {
                match self { $(Self::$variant(config) => config.sender(),)+ }
            }
        }
    };
}

reporters! {
    /// Traces in msgpack to a Datadog agent.
    "datadog" => Datadog, datadog;
    /// Several collectors of which one is enough: the next one where the first does not answer, or each in turn.
    "failover" => Failover, failover;
    /// JSON lines in files that are turned over by size.
    "file" => File, file;
    /// Protobuf over gRPC to a Jaeger collector.
    "jaeger_grpc" => JaegerGrpc, jaeger_grpc;
    /// Thrift over HTTP to a Jaeger collector.
    "jaeger_http" => JaegerHttp, jaeger_http;
    /// Thrift over UDP to a Jaeger agent, or to Jaeger's and the OpenTelemetry Collector's UDP receivers.
    "jaeger_udp" => JaegerUdp, jaeger_udp;
    /// Records in a Kafka topic, as Jaeger's ingesters read them.
    "kafka" => Kafka, kafka;
    /// One JSON line a span on standard output or standard error.
    "log" => Log, log;
    /// OTLP to an OpenTelemetry Collector, Jaeger, or anything else that speaks it.
    "otlp" => Otlp, otlp;
    /// Segments to a SkyWalking server, over gRPC or HTTP.
    "skywalking" => SkyWalking, skywalking;
    /// Segments over UDP to an AWS X-Ray daemon.
    "xray" => XRay, xray;
    /// Zipkin v2 spans, JSON or proto3, to a Zipkin server or what reads its API.
    "zipkin" => Zipkin, zipkin;
}

impl Config {
    /// How many sends may be under way at once.
    fn senders(&self) -> usize {
        match self.is_stream() {
            true => 1,
            false => self.queue().senders,
        }
    }

    /// Checks what the types alone cannot: builds the sender and drops it again.
    ///
    /// # Errors
    /// [`BuildError`] names what is wrong.
    pub fn check(&self) -> Result<(), BuildError> {
        let queue = self.queue();
        if !(1..=queue::MAX_CAPACITY).contains(&queue.capacity) || queue.batch == 0 {
            return Err(BuildError::Conflict(
                "queue.capacity must lie between 1 and 1000000 and queue.batch must be at least 1",
            ));
        }
        if !(1..=queue::MAX_SENDERS).contains(&queue.senders) {
            return Err(BuildError::Conflict(
                "queue.senders must lie between 1 and 16",
            ));
        }
        if queue.spool.max_size.0 < spool::MIN_SIZE {
            return Err(BuildError::Conflict(
                "queue.spool.max_size must be at least 256kiB",
            ));
        }
        self.sender().map(drop)
    }
}

/// All running reporters, and the in-process store if there is one. The request path holds it as a [`Sink`].
///
/// Dropping it stops the tasks without a flush; call [`Reporters::shutdown`] first.
pub struct Reporters {
    queues: ArcSwap<Vec<Arc<Queue>>>,
    store: Option<Arc<dyn Sink>>,
    observe: Option<Observe>,
    /// What this process signs its spools with.
    writer: u64,
    control: Mutex<Control>,
}

/// Touched at start, reload, shutdown and reading, never on the request path.
#[derive(Default)]
struct Control {
    running: Vec<Running>,
    /// One book for each name there ever was, in order of appearance: counters never go back on a reload.
    books: Vec<Book>,
}

struct Book {
    name: Text,
    kind: &'static str,
    books: Books,
}

struct Running {
    name: Text,
    config: Config,
    queue: Arc<Queue>,
    stop: watch::Sender<Option<Instant>>,
    /// The first, then those beside it.
    tasks: Vec<JoinHandle<()>>,
}

impl Reporters {
    /// Starts a task for each configured reporter on the current runtime.
    ///
    /// `store` receives every span beside the reporters; `observe` hears of every send.
    ///
    /// # Errors
    /// The first reporter that cannot be built; nothing was started then.
    ///
    /// # Panics
    /// Outside a tokio runtime, when there is a reporter to start.
    pub fn start(
        configs: &[Config],
        store: Option<Arc<dyn Sink>>,
        observe: Option<Observe>,
    ) -> Result<Self, BuildError> {
        let reporters = Self {
            queues: ArcSwap::default(),
            store,
            observe,
            writer: fastrand::u64(..),
            control: Mutex::default(),
        };
        // Nothing ran before, so nothing is replaced and there is no flush to wait for.
        reporters.apply(configs)?;
        Ok(reporters)
    }

    /// Takes a new configuration: unchanged reporters go on, others are replaced, all or nothing.
    ///
    /// The returned future flushes the replaced ones within `limit`; spawn or await it. New spans go to the new
    /// reporters from the moment this returns.
    ///
    /// # Errors
    /// The first reporter that cannot be built; the running ones go on unchanged then.
    pub fn reload(
        &self,
        configs: &[Config],
        limit: Duration,
    ) -> Result<impl Future<Output = ()> + Send + 'static, BuildError> {
        let replaced = self.apply(configs)?;
        Ok(stop_all(replaced, limit))
    }

    /// Flushes everything within `limit`. What is still here then is dropped as `shutdown`, as is what comes later.
    pub async fn shutdown(&self, limit: Duration) {
        let running = std::mem::take(&mut self.control.lock().running);
        stop_all(running, limit).await;
    }

    /// Reads every reporter's book, in order of configuration, former reporters included.
    pub fn snapshot(&self) -> Vec<Snapshot> {
        let control = self.control.lock();
        control
            .books
            .iter()
            .map(|book| Snapshot {
                spool: book.books.spool.snapshot(),
                ..book.books.own.snapshot(&book.name, book.kind)
            })
            .collect()
    }

    /// Makes the set of running reporters match; answers those that are no longer part of it.
    fn apply(&self, configs: &[Config]) -> Result<Vec<Running>, BuildError> {
        let mut control = self.control.lock();
        let mut plan = Vec::new();
        for (name, config) in named(configs) {
            let unchanged = control
                .running
                .iter()
                .any(|running| running.name == name && running.config == *config);
            let sender = if unchanged {
                None
            } else {
                Some(config.sender()?)
            };
            plan.push((name, config, sender));
        }
        let mut before = std::mem::take(&mut control.running);
        for (name, config, sender) in plan {
            let running = match sender {
                Some(sender) => self.spawn(&mut control, name, config.clone(), sender),
                None => match before.iter().position(|running| running.name == name) {
                    Some(place) => before.swap_remove(place),
                    None => continue,
                },
            };
            control.running.push(running);
        }
        let queues = control
            .running
            .iter()
            .map(|running| Arc::clone(&running.queue))
            .collect();
        self.queues.store(Arc::new(queues));
        Ok(before)
    }

    fn spawn(
        &self,
        control: &mut Control,
        name: Text,
        config: Config,
        sender: Box<dyn Sender>,
    ) -> Running {
        let books = control.books(&name, config.kind());
        let queue = Arc::new(Queue::new(config.queue(), Arc::clone(&books.own)));
        let (stop, stopped) = watch::channel(None);
        let ledger = Arc::clone(&books.own);
        let runner = |sender| Runner {
            name: name.clone(),
            config: config.clone(),
            queue: Arc::clone(&queue),
            ledger: Arc::clone(&ledger),
            sender,
            stop: stopped.clone(),
            observe: self.observe.clone(),
            warnings: Warnings::default(),
            quiet_until: None,
            next_refresh: Instant::now() + REFRESH_INTERVAL,
        };
        let first = runner(Some(sender));
        let mut tasks = Vec::new();
        match self.spool(&name, &config, books) {
            Some(spool) => tasks.push(tokio::spawn(Spooled::new(first, spool).run())),
            None => {
                tasks.push(tokio::spawn(first.run()));
                let spares = (1..config.senders()).map(|_| Spare::new(runner(None)));
                tasks.extend(spares.map(|spare| tokio::spawn(spare.run())));
            }
        }
        Running {
            name,
            config,
            queue,
            stop,
            tasks,
        }
    }

    fn spool(&self, name: &Text, config: &Config, books: Books) -> Option<Spool> {
        let settings = &config.queue().spool;
        let folder = settings.folder.as_ref()?.join(name.as_str());
        Spool::start(settings, folder, self.writer, books)
            .inspect_err(|error| warn!(reporter = %name, %error, "no thread for the spool"))
            .ok()
    }
}

impl Sink for Reporters {
    fn report(&self, span: Arc<Span>) {
        for queue in self.queues.load().iter() {
            queue.push(Arc::clone(&span));
        }
        if let Some(store) = &self.store {
            store.report(span);
        }
    }
}

impl Control {
    /// The book under this name; a name that comes back goes on where it stopped.
    fn books(&mut self, name: &Text, kind: &'static str) -> Books {
        if let Some(book) = self.books.iter().find(|book| book.name == *name) {
            return book.books.clone();
        }
        let books = Books::default();
        self.books.push(Book {
            name: name.clone(),
            kind,
            books: books.clone(),
        });
        books
    }
}

/// The kind's name, numbered from the second of a kind on.
fn named(configs: &[Config]) -> impl Iterator<Item = (Text, &Config)> {
    configs.iter().enumerate().map(|(place, config)| {
        let kind = config.kind();
        let earlier = configs
            .iter()
            .take(place)
            .filter(|other| other.kind() == kind);
        let name = match earlier.count() {
            0 => Text::new_static(kind),
            before => format!("{kind}_{}", before + 1).into(),
        };
        (name, config)
    })
}

async fn stop_all(stopping: Vec<Running>, limit: Duration) {
    let deadline = Instant::now() + limit;
    for running in &stopping {
        // The task may have ended by itself; then there is nobody to tell.
        running.stop.send_replace(Some(deadline));
    }
    for running in stopping {
        for mut task in running.tasks {
            // A task ends right after its deadline by itself; the extra second only bounds the unforeseen.
            let ended = tokio::time::timeout_at(deadline + Duration::from_secs(1), &mut task);
            if !matches!(ended.await, Ok(Ok(()))) {
                task.abort();
                running.queue.close();
                running.queue.drop_rest(Reason::Shutdown);
            }
        }
    }
}

#[cfg(test)]
mod tests;
