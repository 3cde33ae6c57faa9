//! What the admin port shows and triggers, handed down by the composition root as values and closures.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering;

use serde::Serialize;

/// A text or the reason why not, once it is known.
pub type Outcome = Pin<Box<dyn Future<Output = Result<String, String>> + Send>>;

/// Takes a log filter, or says why it is none.
pub type SetLogLevel = dyn Fn(&str) -> Result<(), String> + Send + Sync;

/// Everything the admin port shows or triggers. [`Hooks::default`] shows nothing and refuses every order.
#[derive(Clone)]
pub struct Hooks {
    /// What `/version` says.
    pub build: Build,
    /// What `/readyz` says; shared with whoever starts and drains.
    pub readiness: Arc<Readiness>,
    /// The Prometheus text of `/metrics`.
    pub render_metrics: Arc<dyn Fn() -> String + Send + Sync>,
    /// The effective configuration for `/config_dump`, secrets already redacted.
    pub config_dump: Arc<dyn Fn() -> String + Send + Sync>,
    /// Open connections for `/connections`.
    pub connections: Arc<dyn Fn() -> serde_json::Value + Send + Sync>,
    /// The samplers' state for `/sampling`.
    pub sampling: Arc<dyn Fn() -> serde_json::Value + Send + Sync>,
    /// Which evidence links calls to requests, and how often it was right, for `/linking`.
    pub linking: Arc<dyn Fn() -> serde_json::Value + Send + Sync>,
    /// Changes the log filter (`RUST_LOG` syntax). `Err`: why the text is no filter.
    pub set_log_level: Arc<SetLogLevel>,
    /// Loads the configuration again. `Ok`: what changed; `Err`: why the running one stays.
    pub reload: Arc<dyn Fn() -> Outcome + Send + Sync>,
    /// Starts draining; the process stays.
    pub drain: Arc<dyn Fn() + Send + Sync>,
    /// Drains, flushes and ends the process.
    pub quit: Arc<dyn Fn() + Send + Sync>,
}

/// What this program is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Build {
    /// The package's version.
    pub version: String,
    /// The source revision; empty when unknown.
    pub commit: String,
    /// The compiler; empty when unknown.
    pub rustc: String,
    /// Optional parts compiled in.
    pub features: Vec<String>,
}

/// Whether traffic should come here. Shared by whoever starts and drains, and by the probes.
#[derive(Debug, Default)]
pub struct Readiness(AtomicU8);

/// The stages of a process's life, as probes see them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Listeners are not all open yet.
    Starting,
    /// Traffic is welcome.
    Ready,
    /// No new traffic, please.
    Draining,
}

impl Readiness {
    /// Enters a stage.
    pub fn set(&self, state: State) {
        self.0.store(state as u8, Ordering::Release);
    }

    /// The stage now.
    pub fn state(&self) -> State {
        match self.0.load(Ordering::Acquire) {
            0 => State::Starting,
            1 => State::Ready,
            _ => State::Draining,
        }
    }
}

impl State {
    /// The lower-case word that probes answer with.
    pub fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Draining => "draining",
        }
    }
}

impl Default for Build {
    fn default() -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: option_env!("PILLION_BUILD_COMMIT").unwrap_or("").to_owned(),
            rustc: option_env!("PILLION_BUILD_RUSTC").unwrap_or("").to_owned(),
            features: Vec::new(),
        }
    }
}

impl Default for Hooks {
    fn default() -> Self {
        Self {
            build: Build::default(),
            readiness: Arc::default(),
            render_metrics: Arc::new(String::new),
            config_dump: Arc::new(String::new),
            connections: Arc::new(|| serde_json::Value::Null),
            sampling: Arc::new(|| serde_json::Value::Null),
            linking: Arc::new(|| serde_json::Value::Null),
            set_log_level: Arc::new(|_| Err("the log level is fixed".to_owned())),
            reload: Arc::new(|| Box::pin(async { Err("there is nothing to reload".to_owned()) })),
            drain: Arc::new(|| {}),
            quit: Arc::new(|| {}),
        }
    }
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hooks")
            .field("build", &self.build)
            .field("readiness", &self.readiness)
            .finish_non_exhaustive()
    }
}
