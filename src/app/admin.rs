//! What the admin port shows and triggers, bound to one running proxy.

use std::io;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::Weak;

use serde_json::json;
use tokio::sync::Notify;
use tracing::info;

use crate::admin;
use crate::admin::Build;
use crate::admin::Hooks;
use crate::app::build;
use crate::app::build::BuildError;
use crate::app::run::RunError;
use crate::app::run::Running;
use crate::config::Config;
use crate::config::Trigger;
use crate::model::HostPort;
use crate::net::listen;
use crate::net::listen::Reach;
use crate::telemetry::logs::Directives;
use crate::telemetry::logs::Logs;

/// What orders from outside reach besides the proxy itself.
#[derive(Clone)]
pub(super) struct Control {
    /// Orders a reload.
    pub(super) trigger: Trigger,
    /// The process's logs.
    pub(super) logs: Arc<Logs>,
    /// Told when the process is to end.
    pub(super) quit: Arc<Notify>,
}

/// The hooks of one proxy. They hold it weakly: the admin port must not keep it alive.
pub(super) fn hooks(running: &Arc<Running>, control: Control, build: Build) -> Hooks {
    let proxy = Arc::downgrade(running);
    let logs = control.logs.clone();
    let quit = control.quit.clone();
    Hooks {
        build,
        readiness: running.readiness.clone(),
        render_metrics: with(&proxy, String::new(), Running::render_metrics),
        config_dump: with(&proxy, String::new(), Running::dump),
        connections: with(&proxy, serde_json::Value::Null, Running::connections),
        sampling: with(&proxy, serde_json::Value::Null, Running::sampling_state),
        linking: with(&proxy, serde_json::Value::Null, Running::linking_state),
        set_log_level: Arc::new(move |text| {
            let level: Directives = text.parse().map_err(|error| format!("{error}"))?;
            logs.set_level(&level);
            Ok(())
        }),
        reload: Arc::new(move || {
            let trigger = control.trigger.clone();
            Box::pin(async move { trigger.reload().await })
        }),
        drain: with(&proxy, (), |running| {
            running.begin_drain();
        }),
        quit: Arc::new(move || quit.notify_one()),
    }
}

fn with<T: Clone + Send + Sync + 'static>(
    proxy: &Weak<Running>,
    gone: T,
    read: impl Fn(&Running) -> T + Send + Sync + 'static,
) -> Arc<dyn Fn() -> T + Send + Sync> {
    let proxy = proxy.clone();
    Arc::new(move || {
        proxy
            .upgrade()
            .map_or_else(|| gone.clone(), |running| read(&running))
    })
}

/// The admin port's socket; `None` when it is switched off.
pub(super) fn admin_socket(config: &Config) -> Result<Option<TcpListener>, RunError> {
    if config.admin.listen.is_empty() {
        return Ok(None);
    }
    let at: HostPort = config.admin.listen.parse().map_err(BuildError::from)?;
    Ok(build::open("admin.listen", &at, 1)?.pop())
}

/// The socket of the port for probes; `None` when it is switched off.
pub(super) fn probe_socket(config: &Config) -> Result<Option<TcpListener>, RunError> {
    if config.admin.probe_listen.is_empty() {
        return Ok(None);
    }
    let at: HostPort = config
        .admin
        .probe_listen
        .parse()
        .map_err(BuildError::from)?;
    let address: SocketAddr = build::resolve(&at)?;
    let bound = listen::bind_redirected(address, 1, Reach::Own);
    let setting = "admin.probe_listen";
    let mut sockets = bound.map_err(|source| BuildError::Bind { setting, source })?;
    Ok(sockets.pop())
}

impl Running {
    /// The admin port, until the proxy ends.
    pub(super) fn serve_admin(
        self: &Arc<Self>,
        socket: TcpListener,
        control: Control,
        build: Build,
    ) -> Result<(), RunError> {
        let socket = tokio::net::TcpListener::from_std(socket)?;
        let address = socket.local_addr()?;
        let address = self.admin_address.get_or_init(|| address);
        info!(%address, role = "admin", "listening");
        let hooks = hooks(self, control, build);
        let (config, view) = {
            let config = self.config.lock();
            (config.admin.clone(), config.view.clone())
        };
        let store = self.store.clone();
        let cancel = self.cancel.clone();
        tokio::spawn(
            async move { admin::serve(socket, &config, &view, hooks, store, cancel).await },
        );
        Ok(())
    }

    /// The port for probes, until the proxy ends.
    pub(super) fn serve_probes(
        self: &Arc<Self>,
        socket: TcpListener,
        control: Control,
        build: Build,
    ) -> io::Result<()> {
        let socket = tokio::net::TcpListener::from_std(socket)?;
        let address = socket.local_addr()?;
        info!(%address, role = "probes", "listening");
        let hooks = hooks(self, control, build);
        let (config, cancel) = (self.config.lock().admin.clone(), self.cancel.clone());
        tokio::spawn(async move { admin::serve_probes(socket, &config, hooks, cancel).await });
        Ok(())
    }

    /// Listeners and exchanges, for `/connections`.
    fn connections(&self) -> serde_json::Value {
        let listeners: Vec<_> = self
            .addresses
            .iter()
            .map(|(role, address)| json!({ "role": role, "address": address.to_string() }))
            .collect();
        json!({
            "listeners": listeners,
            "inbound_requests_in_flight": self.shared.inbound_requests(),
            "requests_in_flight": self.shared.requests(),
        })
    }
}
