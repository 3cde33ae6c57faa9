//! The injector at work: its certificate, its port, reload and end.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::signal::unix::SignalKind;
use tokio::signal::unix::signal;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::error;
use tracing::info;

use crate::admin::Build;
use crate::app::build;
use crate::app::build::BuildError;
use crate::app::run::RunError;
use crate::app::shims;
use crate::app::systemd;
use crate::config::Config;
use crate::config::Event;
use crate::config::Loaded;
use crate::config::Sources;
use crate::config::watch;
use crate::injector;
use crate::injector::Hooks;
use crate::injector::Injector;
use crate::injector::Loads;
use crate::net::tls::Alpn;
use crate::net::tls::Reload;
use crate::net::tls::ServerTls;
use crate::telemetry::logs;
use crate::telemetry::logs::Chain;
use crate::telemetry::logs::Logs;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::metrics::Outcome;
use crate::telemetry::metrics::Peer;
use crate::tracer::clock::Clock;

/// How often the certificate's files are looked at. The kubelet takes about a minute to renew them.
const LOOK_AT_FILES: Duration = Duration::from_secs(5);
/// How long our own last log lines may take.
const LOG_FLUSH: Duration = Duration::from_secs(1);

/// What a reload reaches.
struct Running {
    hooks: Hooks,
    metrics: Metrics,
    logs: Logs,
    clock: Clock,
}

/// Serves the webhook until SIGTERM or SIGINT.
///
/// # Errors
/// It could not start.
pub fn injector(loaded: Loaded, sources: Sources, build: Build) -> Result<(), RunError> {
    let metrics = Metrics::new();
    metrics.build_info(&[
        ("version", &build.version),
        ("revision", &build.commit),
        ("rustc", &build.rustc),
    ]);
    let logs = logs::init(&loaded.config.log, Some(metrics.logs()))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(serve(loaded, sources, metrics, logs))
}

async fn serve(
    loaded: Loaded,
    sources: Sources,
    metrics: Metrics,
    logs: Logs,
) -> Result<(), RunError> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (mut watch, _trigger) = watch(sources, &loaded)?;
    let config = &loaded.config;
    let tls = ServerTls::new(&config.injector.tls, Alpn::Http).map_err(BuildError::from)?;
    let at = &config.injector.listen;
    let socket = build::open("injector.listen", at, 1)?.pop();
    let socket = socket.ok_or_else(|| io::Error::other("no socket"))?;
    let socket = tokio::net::TcpListener::from_std(socket)?;
    let (address, shutdown) = (socket.local_addr()?, config.shutdown.clone());
    let rendered = metrics.clone();
    let running = Running {
        hooks: Hooks {
            injector: Arc::new(ArcSwap::from_pointee(make(config)?)),
            tls,
            metrics: metrics.injector(),
            handshakes: metrics.tls(Peer::Downstream),
            render_metrics: Arc::new(move || rendered.render()),
            leaving: CancellationToken::new(),
        },
        metrics,
        logs,
        clock: Clock::new(),
    };
    let cancel = CancellationToken::new();
    let hooks = running.hooks.clone();
    let served = injector::serve(socket, hooks, cancel.clone(), shutdown.drain_timeout.0);
    let served = tokio::spawn(served);
    tokio::spawn(running.metrics.clone().run_upkeep());
    running.metrics.config().loaded(running.now());
    running.metrics.config().set_ready(true);
    info!(%address, role = "injector", "listening");
    systemd::ready();
    let mut look = tokio::time::interval(LOOK_AT_FILES);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = terminate.recv() => info!("SIGTERM: stopping"),
            _ = interrupt.recv() => info!("SIGINT: stopping"),
            _ = look.tick() => {
                running.reload_certificate();
                continue;
            }
            event = watch.next() => {
                running.apply(event);
                continue;
            }
        }
        break;
    }
    systemd::stopping();
    running.metrics.config().set_ready(false);
    running.hooks.leaving.cancel();
    tokio::select! {
        () = tokio::time::sleep(shutdown.delay.0) => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    cancel.cancel();
    if served.await.is_err() {
        error!("the injector's port panicked");
    }
    info!("stopped");
    running.logs.flush(LOG_FLUSH);
    Ok(())
}

fn make(config: &Config) -> Result<Injector, RunError> {
    let loads = Loads {
        shims: shims::variables_in,
        preload: shims::has_library().then_some(shims::preload_in),
    };
    let made = Injector::new(config.injector.clone(), loads);
    // Loading has checked it already.
    made.map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error).into())
}

impl Running {
    /// Takes over changed certificates, for new connections.
    fn reload_certificate(&self) {
        let reloads = &self.hooks.handshakes.reloads;
        match self.hooks.tls.reload() {
            Ok(Reload::Unchanged) => {}
            Ok(Reload::Changed) => {
                reloads.count(Outcome::Success);
                info!("certificate reloaded");
            }
            Err(error) => {
                reloads.count(Outcome::Failure);
                error!(error = %Chain(&error), "certificate not reloaded, the old one stays");
            }
        }
    }

    fn apply(&self, event: Event) {
        let answer = match &event.outcome {
            Err(errors) => Err(errors.lines().join("; ")),
            Ok(loaded) => make(&loaded.config)
                .map_err(|error| Chain(&error).to_string())
                .map(|made| {
                    self.hooks.injector.store(Arc::new(made));
                    self.logs.set_level(&loaded.config.log.level);
                    "done".to_owned()
                }),
        };
        let outcome = match &answer {
            Ok(_) => {
                self.reload_certificate();
                info!(cause = %event.cause, "configuration reloaded");
                Outcome::Success
            }
            Err(reason) => {
                error!(reason, cause = %event.cause, "configuration not reloaded, the old one stays");
                Outcome::Failure
            }
        };
        self.metrics.config().reloaded(outcome, self.now());
        event.answer(answer);
    }

    /// Time since the Unix epoch.
    fn now(&self) -> Duration {
        Duration::from_nanos(self.clock.timestamp(std::time::Instant::now()).0)
    }
}
