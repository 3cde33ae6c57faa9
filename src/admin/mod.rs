//! The admin port: probes, metrics, state and control, recent spans with their page and query API.
//!
//! Owns its listener's connections and the recent spans. Everything it shows or triggers beyond that arrives in
//! [`Hooks`] from the composition root; it never names the configuration tree, the proxy's listeners or the tracer.

use schemars::JsonSchema;
use serde::Deserialize;
use serde::Serialize;

mod api;
mod control;
mod graph;
mod guard;
mod hooks;
mod otlp;
mod page;
mod probes;
mod respond;
mod routes;
mod search;
mod server;
mod store;
pub mod view;

pub use hooks::{Build, Hooks, Outcome, Readiness, SetLogLevel, State};
pub use server::{serve, serve_probes};
pub use store::{Operation, Stats, Store, Trace};

/// The admin listener.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Address of the admin port; an empty text turns it off. Anyone who reaches it can drain and stop the sidecar
    /// and read recent spans, so keep it on loopback unless the network in front of it is trusted.
    ///
    /// Unit: `host:port`. Default: `127.0.0.1:15690`. Reload: restart.
    pub listen: String,
    /// Host names under which the admin port may be called, besides `localhost` and IP addresses. A browser that was
    /// lured to another name resolving to this port is refused (DNS rebinding).
    ///
    /// Unit: host names without port. Default: none. Reload: restart.
    pub allowed_hosts: Vec<String>,
    /// Address of a second port with `/livez`, `/readyz`, `/healthz` and `/metrics` alone, for kubelets and Prometheus to
    /// reach; an empty text turns it off.
    ///
    /// Unit: `host:port`. Default: empty. Reload: restart.
    pub probe_listen: String,
    /// Ports of the program that `/tcp/PORT` on the port for probes connects to, at the address it was asked on. A TCP
    /// probe of the program itself would find its redirected port open whether or not the program listens.
    ///
    /// Unit: ports. Default: none. Reload: restart.
    pub tcp_probes: Vec<u16>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:15690".to_owned(),
            allowed_hosts: Vec::new(),
            probe_listen: String::new(),
            tcp_probes: Vec::new(),
        }
    }
}
