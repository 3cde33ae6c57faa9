//! Start, reload and stop one proxy process.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::OnceLock;
use std::thread::JoinHandle;
use std::time::Duration;
use std::time::Instant;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::signal::unix::Signal;
use tokio::signal::unix::SignalKind;
use tokio::signal::unix::signal;
use tokio_util::sync::CancellationToken;
use tracing::error;
use tracing::info;
use tracing::warn;

use crate::admin::Build;
use crate::admin::Readiness;
use crate::admin::State;
use crate::admin::Store;
use crate::app::admin::Control;
use crate::app::admin::admin_socket;
use crate::app::admin::probe_socket;
use crate::app::build;
use crate::app::build::BuildError;
use crate::app::build::Lasting;
use crate::app::ledger;
use crate::app::linking;
use crate::app::program::Sight;
use crate::app::receivers;
use crate::app::sampling::Sampling;
use crate::app::systemd;
use crate::app::worker;
use crate::config::Change;
use crate::config::Config;
use crate::config::Event;
use crate::config::Loaded;
use crate::config::Sources;
use crate::config::Watch;
use crate::config::diff;
use crate::config::watch;
use crate::model::Resource;
use crate::model::Text;
use crate::net::drain::Drain;
use crate::net::kernel::KernelError;
use crate::net::memory;
use crate::net::netns::Netns;
use crate::net::tls::ServerTls;
use crate::proxy::listener::Role;
use crate::proxy::shared::Shared;
use crate::receiver;
use crate::receiver::Receivers;
use crate::reporter::Observe;
use crate::reporter::Reason;
use crate::reporter::Reporters;
use crate::reporter::Sink;
use crate::telemetry::logs;
use crate::telemetry::logs::Chain;
use crate::telemetry::logs::LogError;
use crate::telemetry::logs::Logs;
use crate::telemetry::metrics::Direction;
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
    /// `linking.kernel` is `required`.
    #[error("linking.kernel is required: {0}")]
    Kernel(#[from] KernelError),
    /// Our own logs.
    #[error(transparent)]
    Logs(#[from] LogError),
    /// No runtime, thread or signal handler.
    #[error("the system refused a thread, a runtime or a signal handler")]
    System(#[from] io::Error),
}

/// A proxy at work. Stop it with [`Running::stop`]; dropping it cuts everything.
pub struct Running {
    pub(super) config: Mutex<Config>,
    /// The settings at the start: those that need a restart are in force as they stand here.
    started: Config,
    /// What the effective configuration is shown from when somebody asks, and what waits for a restart.
    effective: Mutex<Option<(Loaded, Vec<Change>)>>,
    metrics: Metrics,
    lasting: Lasting,
    reporters: Arc<Reporters>,
    first_reporters: Vec<Text>,
    /// Recent spans, when the view is on and there is a port that shows it.
    pub store: Option<Arc<Store>>,
    pub(super) shared: Arc<Shared>,
    /// What is seen of the program.
    pub(super) sight: Arc<ArcSwap<Sight>>,
    resource: Arc<Resource>,
    pub(super) readiness: Arc<Readiness>,
    tls: Vec<ServerTls>,
    drain: Drain,
    /// Ends pollers, the admin port and other tasks of the control thread.
    pub(super) cancel: CancellationToken,
    stop_workers: CancellationToken,
    workers: Mutex<Vec<JoinHandle<()>>>,
    sampling: Mutex<Sampling>,
    receivers: Receivers,
    /// Where each listener really listens, in the order of configuration.
    pub addresses: Vec<(&'static str, SocketAddr)>,
    pub(super) admin_address: OnceLock<SocketAddr>,
}

/// Runs a proxy until a signal or `/quitquitquit` ends it.
///
/// # Errors
/// The proxy could not start.
pub fn run(loaded: Loaded, sources: Sources, build: Build) -> Result<(), RunError> {
    let metrics = Metrics::new();
    let logs = Arc::new(logs::init(&loaded.config.log, Some(metrics.logs()))?);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(async {
        // Before anything listens: from then on there may be spans to flush.
        let ends = Ends {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        };
        let (watch, trigger) = watch(sources, &loaded)?;
        let control = Control {
            trigger,
            logs: logs.clone(),
            quit: Arc::default(),
        };
        let running = Running::launch(loaded, metrics, control.clone(), build, None).await?;
        systemd::ready();
        wait_for_end(&running, &control, watch, ends).await;
        systemd::stopping();
        running.stop().await;
        Ok(())
    });
    logs.flush(LOG_FLUSH);
    result
}

/// The signals that end a proxy, caught.
struct Ends {
    terminate: Signal,
    interrupt: Signal,
}

/// Reloads whenever there is a reason to, until SIGTERM, SIGINT or an order to quit. A second signal ends the process
/// at once.
async fn wait_for_end(running: &Running, control: &Control, mut watch: Watch, mut ends: Ends) {
    let mut watchdog = systemd::watchdog();
    loop {
        tokio::select! {
            _ = ends.terminate.recv() => info!("SIGTERM: stopping"),
            _ = ends.interrupt.recv() => info!("SIGINT: stopping"),
            () = control.quit.notified() => info!("asked to quit: stopping"),
            () = systemd::beat(&mut watchdog) => continue,
            event = watch.next() => {
                systemd::reloading();
                apply(running, control, event);
                systemd::ready();
                continue;
            }
        }
        break;
    }
    tokio::spawn(async move {
        tokio::select! {
            _ = ends.terminate.recv() => {}
            _ = ends.interrupt.recv() => {}
        }
        warn!("second signal: ending at once");
        std::process::exit(1);
    });
}

/// Puts a configuration that was loaded again to work, or says why not.
pub(super) fn apply(running: &Running, control: &Control, event: Event) {
    let answer = match &event.outcome {
        Ok(loaded) => {
            for warning in &loaded.warnings {
                warn!(warning = warning.trim_end(), "doubtful setting");
            }
            running
                .apply(loaded, &control.logs)
                .map_err(|error| Chain(&error).to_string())
        }
        Err(errors) => {
            running
                .metrics
                .config()
                .reloaded(Outcome::Failure, running.now());
            Err(errors.lines().join("; "))
        }
    };
    match &answer {
        Ok(changes) => info!(changes, cause = %event.cause, "configuration reloaded"),
        Err(reason) => {
            error!(reason, cause = %event.cause, "configuration not reloaded, the old one stays")
        }
    }
    event.answer(answer);
}

impl Running {
    /// Binds, builds and starts everything but the admin port.
    ///
    /// # Errors
    /// See [`RunError`]; nothing keeps running then.
    pub async fn start(config: Config, metrics: Metrics) -> Result<Arc<Self>, RunError> {
        Self::start_beside(config, metrics, None, None).await
    }

    /// [`Running::start`] beside a program with a network of its own, and with an admin port at this address.
    async fn start_beside(
        config: Config,
        metrics: Metrics,
        inside: Option<Netns>,
        admin: Option<SocketAddr>,
    ) -> Result<Arc<Self>, RunError> {
        let workers = build::workers(&config);
        let bound = build::listeners(&config, workers, inside.as_ref())?;
        let ports = receiver::open(&config.receivers).map_err(BuildError::from)?;
        // Without the port nobody would look at it, nor empty its queue.
        let is_shown = config.view.enabled && admin.is_some();
        let store = is_shown.then(|| Arc::new(config.view.store()));
        let observe = observe(&metrics);
        let sink = store.clone().map(|store| store as Arc<dyn Sink>);
        let reporters =
            Reporters::start(&config.reporters, sink, Some(observe)).map_err(BuildError::from)?;
        let reporters = Arc::new(reporters);
        let lasting = Lasting {
            clock: Arc::new(Clock::new()),
            ledger: Arc::new(Ledger::default()),
            sink: Arc::clone(&reporters) as Arc<dyn Sink>,
            sampler_metrics: metrics.sampler(&build::SAMPLER_TYPES),
            metrics: metrics.clone(),
            inside,
        };
        let cancel = CancellationToken::new();
        let sampling = Sampling::start(&config, &lasting, &cancel);
        let resource = build::resource(&config);
        let snapshot = build::snapshot(
            &config,
            &lasting,
            sampling.sampler.clone(),
            resource.clone(),
        )?;
        let own = build::own_addresses(&bound);
        let received = ports.addresses.iter().map(|(_, address)| *address);
        let private = admin.into_iter().chain(received).map(|at| at.port());
        let evidence = config.linking.preload.then(linking::evidence).flatten();
        let pacer = linking::pacer(&config.linking);
        let offer = linking::offer(&config.linking, evidence.as_ref());
        if let Some(offer) = offer {
            let cancel = cancel.clone();
            tokio::spawn(async move { cancel.run_until_cancelled(offer.serve()).await });
        }
        let shared = Shared::new(
            snapshot,
            workers,
            &metrics,
            own,
            private.collect(),
            evidence,
            pacer,
        );
        linking::ask_kernel(&config, lasting.inside.as_ref(), &shared)?;
        linking::start_pacing(&shared, lasting.inside.as_ref())?;
        let running = Arc::new(Self {
            effective: Mutex::default(),
            sight: Arc::default(),
            shared,
            first_reporters: reporters
                .snapshot()
                .into_iter()
                .map(|book| book.name)
                .collect(),
            addresses: bound
                .iter()
                .map(|bound| (role_name(&bound.listener.role), bound.address))
                .chain(ports.addresses.iter().copied())
                .collect(),
            receivers: receivers::start(ports, &config, &lasting)?,
            tls: bound
                .iter()
                .filter_map(|bound| bound.listener.tls.clone())
                .collect(),
            readiness: Arc::default(),
            drain: Drain::new(),
            stop_workers: CancellationToken::new(),
            workers: Mutex::default(),
            sampling: Mutex::new(sampling),
            store,
            metrics,
            lasting,
            reporters,
            resource,
            cancel,
            started: config.clone(),
            config: Mutex::new(config),
            admin_address: OnceLock::new(),
        });
        running.start_workers(workers, bound)?;
        running.start_tasks();
        running.metrics.config().loaded(running.now());
        running.set_ready(true);
        for (role, address) in &running.addresses {
            info!(%address, role, "listening");
        }
        Ok(running)
    }

    /// [`Running::start`] with the admin port and what it shows.
    ///
    /// # Errors
    /// See [`RunError`]; nothing keeps running then.
    pub(super) async fn launch(
        loaded: Loaded,
        metrics: Metrics,
        control: Control,
        build: Build,
        inside: Option<Netns>,
    ) -> Result<Arc<Self>, RunError> {
        metrics.build_info(&[
            ("version", &build.version),
            ("revision", &build.commit),
            ("rustc", &build.rustc),
        ]);
        let admin = admin_socket(&loaded.config)?;
        let probes = probe_socket(&loaded.config)?;
        let at = admin.as_ref().map(TcpListener::local_addr).transpose()?;
        let config = loaded.config.clone();
        let running = Self::start_beside(config, metrics, inside, at).await?;
        *running.effective.lock() = Some((loaded, Vec::new()));
        if let Some(socket) = probes {
            running.serve_probes(socket, control.clone(), build.clone())?;
        }
        if let Some(socket) = admin {
            running.serve_admin(socket, control, build)?;
        }
        Ok(running)
    }

    fn start_workers(&self, workers: usize, bound: Vec<build::Bound>) -> io::Result<()> {
        let limits = [Direction::Inbound, Direction::Outbound]
            .map(|direction| build::pool_limits(&self.config.lock(), workers, direction));
        let mut sockets: Vec<Vec<_>> = (0..workers).map(|_| Vec::new()).collect();
        for bound in bound {
            for (of_worker, socket) in sockets.iter_mut().zip(bound.sockets) {
                of_worker.push((bound.listener.clone(), socket));
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

    /// The network of the program's own, when it has one.
    pub(super) fn inside(&self) -> Option<Netns> {
        self.lasting.inside.clone()
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
        let shared = self.shared.clone();
        let give_back = memory::run(move || shared.connections());
        let cancel = self.cancel.clone();
        tokio::spawn(async move { cancel.run_until_cancelled(give_back).await });
        self.watch_program();
        let upkeep = self.metrics.clone().run_upkeep();
        let cancel = self.cancel.clone();
        tokio::spawn(async move { cancel.run_until_cancelled(upkeep).await });
    }

    /// Takes a new configuration into use for new connections: everything or nothing. `Ok`: what changed.
    ///
    /// # Errors
    /// What cannot be put to work; the old configuration stays in force.
    pub fn reload(&self, config: Config) -> Result<String, RunError> {
        let result = self.try_reload(config);
        let outcome = if result.is_ok() {
            Outcome::Success
        } else {
            Outcome::Failure
        };
        self.metrics.config().reloaded(outcome, self.now());
        result
    }

    /// [`Running::reload`] with what hangs on a loaded configuration besides.
    fn apply(&self, loaded: &Loaded, logs: &Logs) -> Result<String, RunError> {
        let changed = diff(&self.started, &loaded.config);
        let waiting: Vec<Change> = changed.needs_restart().cloned().collect();
        let changes = self.reload(loaded.config.clone())?;
        if !waiting.is_empty() {
            let paths: Vec<&str> = waiting.iter().map(|change| &*change.path).collect();
            let settings = paths.join(", ");
            warn!(settings, "changed settings wait for a restart");
        }
        *self.effective.lock() = Some((loaded.clone(), waiting));
        logs.set_level(&loaded.config.log.level);
        Ok(changes)
    }

    fn try_reload(&self, config: Config) -> Result<String, RunError> {
        let mut sampling = self.sampling.lock();
        let next = sampling.successor(&config, &self.lasting, &self.cancel);
        let sampler = next.as_ref().unwrap_or(&sampling).sampler.clone();
        let snapshot = build::snapshot(&config, &self.lasting, sampler, self.resource.clone())?;
        let limit = config.shutdown.flush_timeout.0;
        let flush = self
            .reporters
            .reload(&config.reporters, limit)
            .map_err(BuildError::from)?;
        tokio::spawn(flush);
        if let Some(next) = next {
            *sampling = next;
            let strategies = receivers::strategies(&config, &self.metrics);
            self.receivers.strategies.store(Arc::new(strategies));
        }
        // Loading checked the files already; whoever changed them since keeps the old certificates.
        for tls in &self.tls {
            if let Err(error) = tls.reload() {
                error!(%error, "certificates not reloaded, the old ones stay");
            }
        }
        self.shared.snapshot.store(Arc::new(snapshot));
        let mut current = self.config.lock();
        let changes = diff(&current, &config).to_string();
        *current = config;
        Ok(changes)
    }

    /// Where the admin port really listens; `None` when it is off.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin_address.get().copied()
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

    /// Stops accepting; open exchanges go on. Readiness fails.
    pub fn begin_drain(&self) {
        self.set_ready(false);
        self.metrics.config().set_draining(true);
        self.drain.signal();
    }

    /// Fails readiness, waits the configured moment, finishes what is open up to the grace period, flushes the
    /// reporters.
    pub async fn stop(&self) {
        let shutdown = self.config.lock().shutdown.clone();
        self.set_ready(false);
        tokio::time::sleep(shutdown.delay.0).await;
        self.begin_drain();
        if let Err(unfinished) = self.drain.wait_all(shutdown.drain_timeout.0).await {
            warn!(
                connections = unfinished.remaining,
                "grace period over: cutting what is open"
            );
        }
        if let Some(pacer) = &self.shared.pacer {
            pacer.end();
        }
        self.stop_workers.cancel();
        let workers = std::mem::take(&mut *self.workers.lock());
        let joined = tokio::task::spawn_blocking(move || {
            workers
                .into_iter()
                .filter_map(|worker| worker.join().err())
                .count()
        });
        if joined.await.unwrap_or(1) > 0 {
            error!("a worker panicked");
        }
        // Programs that were asked to stop together with us have sent their last spans by now.
        self.receivers.stop().await;
        self.flush(shutdown.flush_timeout.0).await;
        self.cancel.cancel();
        info!("stopped");
    }

    /// Sends what the reporters still hold, and says how much of it was lost: nobody can scrape that any more.
    async fn flush(&self, limit: Duration) {
        let before = self.reporters.snapshot();
        self.reporters.shutdown(limit).await;
        for (before, after) in before.iter().zip(self.reporters.snapshot()) {
            let spans = after.dropped_total() - before.dropped_total();
            if spans > 0 {
                error!(reporter = %after.name, spans, within = ?limit, "spans lost: the collector did not take them");
            }
        }
    }

    /// The effective configuration as text, secrets redacted.
    pub(super) fn dump(&self) -> String {
        let effective = self.effective.lock();
        let print = |(loaded, waiting): &(Loaded, Vec<Change>)| loaded.print_reloaded(waiting);
        effective.as_ref().map(print).unwrap_or_default()
    }

    /// The sampler in force, for the admin port.
    pub(super) fn sampling_state(&self) -> serde_json::Value {
        self.sampling.lock().state()
    }

    fn set_ready(&self, ready: bool) {
        self.readiness
            .set(if ready { State::Ready } else { State::Draining });
        self.metrics.config().set_ready(ready);
    }

    /// Time since the Unix epoch.
    fn now(&self) -> Duration {
        Duration::from_nanos(self.lasting.clock.timestamp(Instant::now()).0)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.drain.signal();
        self.stop_workers.cancel();
        self.cancel.cancel();
    }
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running")
            .field("addresses", &self.addresses)
            .finish_non_exhaustive()
    }
}

/// Records how long each send of a reporter took.
fn observe(metrics: &Metrics) -> Observe {
    let metrics = metrics.clone();
    let reasons = Reason::ALL.map(Reason::name);
    Arc::new(move |name, took, _| metrics.reporter(name, &reasons).duration.record(took))
}

fn role_name(role: &Role) -> &'static str {
    match role {
        Role::Inbound { .. } => "inbound",
        Role::ForwardProxy { .. } => "outbound",
        Role::Route { .. } => "route",
        Role::RedirectedInbound { .. } => "inbound_redirect",
        Role::RedirectedOutbound { .. } => "outbound_redirect",
    }
}
