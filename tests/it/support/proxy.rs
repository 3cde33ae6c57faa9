//! A whole Pillion in this process, on free loopback ports, in a thread with a runtime of its own.

use std::net::SocketAddr;
use std::sync::mpsc;
use std::thread::JoinHandle;

use pillion::app::Running;
use pillion::config::Config;
use pillion::telemetry::metrics::Metrics;
use serde_json::Value;
use serde_json::json;
use tokio::sync::oneshot;

/// A running proxy; dropping it stops it.
pub(crate) struct Pillion {
    addresses: Vec<(&'static str, SocketAddr)>,
    commands: Option<tokio::sync::mpsc::UnboundedSender<Command>>,
    thread: Option<JoinHandle<()>>,
}

enum Command {
    Metrics(oneshot::Sender<String>),
    Drain,
}

/// What every test proxy has: free ports, one worker, no view, a short stop.
fn base() -> Value {
    json!({
        "workers": 1,
        "inbound": { "listen": "127.0.0.1:0" },
        "outbound": { "listen": "127.0.0.1:0" },
        "view": { "enabled": false },
        "shutdown": { "drain_timeout": "100ms", "flush_timeout": "1s" },
    })
}

/// Objects are merged key by key; anything else replaces what was there.
fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

impl Pillion {
    /// Starts with these settings, in the shape of the configuration file, over what every test has.
    pub(crate) fn start(settings: Value) -> Self {
        let mut all = base();
        merge(&mut all, settings);
        let config: Config = serde_json::from_value(all).unwrap();
        let (started, starting) = mpsc::channel();
        let (commands, mut inbox) = tokio::sync::mpsc::unbounded_channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let running = Running::start(config, Metrics::new()).await.unwrap();
                started.send(running.addresses.clone()).unwrap();
                while let Some(command) = inbox.recv().await {
                    match command {
                        // A test that ended in the meantime no longer listens.
                        Command::Metrics(reply) => drop(reply.send(running.render_metrics())),
                        Command::Drain => running.begin_drain(),
                    }
                }
                running.stop().await;
            });
        });
        let addresses = starting.recv().unwrap();
        Self {
            addresses,
            commands: Some(commands),
            thread: Some(thread),
        }
    }

    /// In front of this program.
    pub(crate) fn inbound_to(app: SocketAddr, settings: Value) -> Self {
        let mut all = json!({ "app": app.to_string() });
        merge(&mut all, settings);
        Self::start(all)
    }

    /// Where callers of the program connect.
    pub(crate) fn inbound(&self) -> SocketAddr {
        self.address("inbound")
    }

    /// Where the program sends what `HTTP_PROXY` says.
    pub(crate) fn outbound(&self) -> SocketAddr {
        self.address("outbound")
    }

    /// The first static route.
    pub(crate) fn route(&self) -> SocketAddr {
        self.address("route")
    }

    pub(crate) fn address(&self, role: &str) -> SocketAddr {
        let found = self.addresses.iter().find(|(name, _)| *name == role);
        found.unwrap().1
    }

    /// Every metric as text.
    pub(crate) async fn metrics(&self) -> String {
        let (reply, text) = oneshot::channel();
        self.command(Command::Metrics(reply));
        text.await.unwrap()
    }

    /// The sum of a metric's series whose labels contain all of `labels`.
    pub(crate) async fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let text = self.metrics().await;
        let series = text.lines().filter(|line| {
            line.strip_prefix(name)
                .is_some_and(|rest| rest.starts_with(['{', ' ']))
                && labels.iter().all(|label| line.contains(label))
        });
        series
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    /// Begins to stop: what is open goes on.
    pub(crate) fn drain(&self) {
        self.command(Command::Drain);
    }

    fn command(&self, command: Command) {
        let sent = self.commands.as_ref().unwrap().send(command);
        assert!(sent.is_ok(), "the proxy's thread is gone");
    }
}

impl Drop for Pillion {
    fn drop(&mut self) {
        self.commands = None;
        let joined = self.thread.take().unwrap().join();
        if !std::thread::panicking() {
            joined.unwrap();
        }
    }
}
