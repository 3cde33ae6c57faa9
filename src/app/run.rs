//! Start, run, reload and stop one proxy process.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::signal::unix::SignalKind;
use tokio::signal::unix::signal;
use tokio_util::sync::CancellationToken;
use tracing::info;
use tracing::warn;

use crate::app::build;
use crate::app::build::BuildError;
use crate::app::build::Lasting;
use crate::app::ledger;
use crate::app::worker;
use crate::config::Config;
use crate::config::Loaded;
use crate::config::Sources;
use crate::model::Resource;
use crate::model::Text;
use crate::net::drain::Drain;
use crate::proxy::listener::Role;
use crate::proxy::shared::Shared;
use crate::reporter::Reporters;
use crate::reporter::Sink;
use crate::sampling;
use crate::telemetry::logs;
use crate::telemetry::logs::LogError;
use crate::telemetry::logs::Logs;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::metrics::Outcome;
use crate::tracer::Ledger;
use crate::tracer::clock::Clock;

/// How often the clock follows the wall clock.
const RESYNC: Duration = Duration::from_secs(10);
/// How long our own last log lines may take.
const LOG_FLUSH: Duration = Duration::from_secs(1);

/// Why a proxy could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The settings cannot be put to work.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// Our own logs.
    #[error(transparent)]
    Logs(#[from] LogError),
    /// No runtime, thread or signal handler.
    #[error("the system refused a thread, a runtime or a signal handler")]
    System(#[from] io::Error),
}

/// A proxy at work. Stop it with [`Running::stop`]; dropping it cuts everything.
pub struct Running {
    config: Mutex<Config>,
    metrics: Metrics,
    lasting: Lasting,
    reporters: Arc<Reporters>,
    first_reporters: Vec<Text>,
    shared: Arc<Shared>,
    resource: Arc<Resource>,
    drain: Drain,
    /// Ends pollers and other tasks of the control thread.
    cancel: CancellationToken,
    stop_workers: CancellationToken,
    workers: Mutex<Vec<JoinHandle<()>>>,
    sampling: Mutex<Sampling>,
    /// Where each listener really listens, in the order of configuration.
    pub addresses: Vec<(&'static str, SocketAddr)>,
}

/// The sampler in force and the task behind it.
struct Sampling {
    config: sampling::Config,
    sampler: Arc<dyn sampling::Sampler>,
    poller: CancellationToken,
}

/// Runs a proxy until a signal ends it.
///
/// # Errors
/// The proxy could not start.
pub fn run(loaded: Loaded, sources: Sources) -> Result<(), RunError> {
    let metrics = Metrics::new();
    let logs = logs::init(&loaded.config.log, Some(metrics.logs()))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(async {
        let running = Arc::new(Running::start(loaded.config, metrics).await?);
        wait_for_end(&running, &sources, &logs).await?;
        running.stop().await;
        Ok(())
    });
    logs.flush(LOG_FLUSH);
    result
}

/// Waits for SIGTERM or SIGINT; a second one ends the process at once.
async fn wait_for_end(
    running: &Arc<Running>,
    _sources: &Sources,
    _logs: &Logs,
) -> Result<(), RunError> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => info!("SIGTERM: stopping"),
        _ = interrupt.recv() => info!("SIGINT: stopping"),
    }
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        warn!("second signal: ending at once");
        std::process::exit(1);
    });
    let delay = running.config.lock().shutdown.delay.0;
    tokio::time::sleep(delay).await;
    Ok(())
}

impl Running {
    /// Binds, builds and starts everything.
    ///
    /// # Errors
    /// See [`RunError`]; nothing keeps running then.
    pub async fn start(config: Config, metrics: Metrics) -> Result<Self, RunError> {
        let workers = build::workers(&config);
        let bound = build::listeners(&config, workers)?;
        let reporters =
            Arc::new(Reporters::start(&config.reporters, None, None).map_err(BuildError::from)?);
        let first_reporters = reporters
            .snapshot()
            .into_iter()
            .map(|book| book.name)
            .collect();
        let lasting = Lasting {
            clock: Arc::new(Clock::new()),
            ledger: Arc::new(Ledger::default()),
            sink: Arc::clone(&reporters) as Arc<dyn Sink>,
            metrics: metrics.clone(),
        };
        let cancel = CancellationToken::new();
        let sampling = Sampling::start(&config, &cancel);
        let resource = build::resource(&config);
        let snapshot = build::snapshot(
            &config,
            &lasting,
            sampling.sampler.clone(),
            resource.clone(),
        )?;
        let own: Vec<SocketAddr> = bound.iter().map(|bound| bound.address).collect();
        let addresses = bound
            .iter()
            .map(|bound| match bound.listener.role {
                Role::Inbound { .. } => ("inbound", bound.address),
                Role::ForwardProxy { .. } => ("outbound", bound.address),
                Role::Route { .. } => ("route", bound.address),
            })
            .collect();
        let shared = Shared::new(snapshot, workers, &metrics, own);
        let running = Self {
            drain: Drain::new(),
            stop_workers: CancellationToken::new(),
            workers: Mutex::default(),
            sampling: Mutex::new(sampling),
            metrics,
            lasting,
            reporters,
            first_reporters,
            shared,
            resource,
            cancel,
            addresses,
            config: Mutex::new(config),
        };
        running.start_workers(workers, bound)?;
        running.start_tasks();
        for (role, address) in &running.addresses {
            info!(%address, role, "listening");
        }
        Ok(running)
    }

    fn start_workers(&self, workers: usize, bound: Vec<build::Bound>) -> io::Result<()> {
        let limits = build::pool_limits(&self.config.lock(), workers);
        let mut sockets: Vec<Vec<_>> = (0..workers).map(|_| Vec::new()).collect();
        for bound in bound {
            for (index, socket) in bound.sockets.into_iter().enumerate() {
                if let Some(of_worker) = sockets.get_mut(index) {
                    of_worker.push((bound.listener.clone(), socket));
                }
            }
        }
        for (index, sockets) in sockets.into_iter().enumerate() {
            let plan = worker::Plan {
                index,
                shared: self.shared.clone(),
                metrics: self.metrics.clone(),
                limits,
                sockets,
                drain: self.drain.clone(),
                stop: self.stop_workers.clone(),
            };
            self.workers.lock().push(worker::spawn(plan)?);
        }
        Ok(())
    }

    fn start_tasks(&self) {
        let clock = self.lasting.clock.clone();
        let resync = async move {
            loop {
                tokio::time::sleep(RESYNC).await;
                clock.resync();
            }
        };
        let cancel = self.cancel.clone();
        tokio::spawn(async move { cancel.run_until_cancelled(resync).await });
        let upkeep = self.metrics.clone().run_upkeep();
        let cancel = self.cancel.clone();
        tokio::spawn(async move { cancel.run_until_cancelled(upkeep).await });
    }

    /// Takes a new configuration into use for new connections: everything or nothing.
    ///
    /// # Errors
    /// What cannot be put to work; the old configuration stays in force.
    pub fn reload(&self, config: Config) -> Result<(), RunError> {
        let result = self.try_reload(config);
        let outcome = if result.is_ok() {
            Outcome::Success
        } else {
            Outcome::Failure
        };
        let now = self.lasting.clock.timestamp(std::time::Instant::now());
        self.metrics
            .config()
            .reloaded(outcome, Duration::from_nanos(now.0));
        result
    }

    fn try_reload(&self, config: Config) -> Result<(), RunError> {
        let mut sampling = self.sampling.lock();
        // An unchanged remote sampler keeps what it has learned.
        let changed = sampling.config != config.sampling;
        let next = if changed {
            Some(Sampling::start(&config, &self.cancel))
        } else {
            None
        };
        let sampler = next
            .as_ref()
            .map_or_else(|| sampling.sampler.clone(), |next| next.sampler.clone());
        let snapshot = build::snapshot(&config, &self.lasting, sampler, self.resource.clone());
        let snapshot = match snapshot {
            Ok(snapshot) => snapshot,
            Err(error) => {
                if let Some(next) = next {
                    next.poller.cancel();
                }
                return Err(error.into());
            }
        };
        let flush = self
            .reporters
            .reload(&config.reporters, config.shutdown.flush_timeout.0)
            .map_err(BuildError::from)?;
        tokio::spawn(flush);
        if let Some(next) = next {
            std::mem::replace(&mut *sampling, next).poller.cancel();
        }
        self.shared.snapshot.store(Arc::new(snapshot));
        *self.config.lock() = config;
        Ok(())
    }

    /// Every metric as Prometheus text, the ledger exact.
    pub fn render_metrics(&self) -> String {
        ledger::publish(
            &self.metrics,
            &self.lasting.ledger,
            &self.reporters,
            &self.first_reporters,
        );
        self.metrics.render()
    }

    /// Stops accepting, finishes what is open up to the grace period, flushes the reporters.
    pub async fn stop(&self) {
        let shutdown = self.config.lock().shutdown.clone();
        self.metrics.config().set_draining(true);
        self.drain.signal();
        if let Err(unfinished) = self.drain.wait_all(shutdown.drain_timeout.0).await {
            warn!(
                connections = unfinished.remaining,
                "grace period over: cutting what is open"
            );
        }
        self.stop_workers.cancel();
        let workers = std::mem::take(&mut *self.workers.lock());
        let joined = tokio::task::spawn_blocking(move || {
            for worker in workers {
                if worker.join().is_err() {
                    warn!("a worker panicked");
                }
            }
        });
        if joined.await.is_err() {
            warn!("workers could not be joined");
        }
        self.reporters.shutdown(shutdown.flush_timeout.0).await;
        self.cancel.cancel();
        info!("stopped");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.drain.signal();
        self.stop_workers.cancel();
        self.cancel.cancel();
    }
}

impl Sampling {
    fn start(config: &Config, cancel: &CancellationToken) -> Self {
        let built = build::sampler(config);
        let stop = cancel.child_token();
        if let Some(poller) = built.poller {
            tokio::spawn(poller.run(stop.clone()));
        }
        Self {
            config: config.sampling.clone(),
            sampler: built.sampler,
            poller: stop,
        }
    }
}
