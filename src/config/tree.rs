//! The settings of the whole program. Families own their part; this file puts the parts under their keys.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::net::SocketAddr;

use schemars::JsonSchema;
use serde::Deserialize;
use serde::Serialize;

use crate::config::pending;
use crate::correlate;
use crate::model::ByteSize;
use crate::model::HostPort;
use crate::model::HumanDuration;
use crate::tracer;

/// Everything that can be configured.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Name of the service beside this sidecar, as traces show it.
    ///
    /// Default: `unknown_service`. Reload: restart.
    pub service: Option<String>,
    /// Further attributes of the service: version, environment, place.
    ///
    /// Unit: text by attribute name. Default: none. Reload: restart.
    pub resource: BTreeMap<String, String>,
    /// Address of the program beside this sidecar; inbound requests go there. Without it nothing is accepted inbound.
    ///
    /// Unit: `host:port`. Default: none. Reload: new connections.
    pub app: Option<HostPort>,
    /// Requests to the program.
    pub inbound: Inbound,
    /// Requests of the program that come through this proxy (`HTTP_PROXY`).
    pub outbound: Outbound,
    /// Requests of the program to fixed destinations, one listener each.
    ///
    /// Default: none. Reload: restart.
    pub routes: Vec<Route>,
    /// Names, attributes and redaction of spans.
    pub spans: tracer::Config,
    /// How outbound requests find the inbound request that caused them.
    pub linking: correlate::Config,
    /// Which trace headers are read and written.
    pub propagation: pending::Propagation,
    /// Which traces are recorded. When this is not set: all of them as long as no reporter sends spans to a collector,
    /// otherwise what the collector's host says on port 5778, and 0.001 until it answers.
    ///
    /// Default: see above. Reload: live.
    pub sampling: pending::Sampling,
    /// Where spans go. Several work side by side.
    ///
    /// Default: none, spans are kept for the view only. Reload: restart.
    pub reporters: Vec<pending::Reporter>,
    /// Recent spans in memory, with their page and query interface on the admin port.
    pub view: pending::View,
    /// The admin port: probes, metrics, control.
    pub admin: pending::Admin,
    /// Sizes and counts beyond which requests are refused.
    pub limits: Limits,
    /// Longest waits.
    pub timeouts: Timeouts,
    /// Pillion's own messages.
    pub log: Log,
    /// The steps of a clean stop.
    pub shutdown: Shutdown,
    /// Threads that carry traffic. `0`: one for each processor this process may use, at most 4.
    ///
    /// Unit: threads. Default: `0`. Reload: restart.
    pub workers: u16,
}

/// The listener in front of the program.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Inbound {
    /// Where requests to the program arrive. All addresses by default, as a reverse proxy is there to be reached;
    /// write `127.0.0.1:15606` to keep it to this machine.
    ///
    /// Unit: `address:port`. Default: `0.0.0.0:15606`. Reload: restart.
    pub listen: SocketAddr,
    /// Whose trace context is believed.
    pub trust: tracer::TrustConfig,
}

/// The forward proxy for what the program sends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Outbound {
    /// Accepts requests in proxy form and `CONNECT`.
    ///
    /// Unit: boolean. Default: `true`. Reload: restart.
    pub enabled: bool,
    /// Where the program finds its proxy. Loopback by default: on any other address this is an open proxy for
    /// everyone who can reach it.
    ///
    /// Unit: `address:port`. Default: `127.0.0.1:15601`. Reload: restart.
    pub listen: SocketAddr,
}

/// A listener whose requests all go to one destination.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Where the program sends its requests instead of to the destination.
    ///
    /// Unit: `address:port`. Required. Reload: restart.
    pub listen: SocketAddr,
    /// The destination.
    ///
    /// Unit: `host:port`. Required. Reload: restart.
    pub to: HostPort,
    /// Name of the destination service, for spans.
    ///
    /// Default: the host of `to`. Reload: restart.
    #[serde(default)]
    pub service: Option<String>,
}

/// Sizes and counts beyond which requests are refused.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Size of a request or response head with all its headers; beyond it 431.
    ///
    /// Unit: size. Default: `64KiB`. Reload: new connections.
    pub head: ByteSize,
    /// Number of headers; beyond it 431.
    ///
    /// Unit: headers. Default: `128`. Reload: new connections.
    pub headers: u32,
}

/// Longest waits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// Opening a connection to the program or a destination; beyond it 504.
    ///
    /// Unit: duration. Default: `5s`. Reload: live.
    pub connect: HumanDuration,
}

/// Pillion's own messages, on standard error.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// What is written: `error`, `warn`, `info`, `debug`, `trace`, or by module as in `info,pillion::reporter=debug`.
    ///
    /// Unit: filter in the syntax of `RUST_LOG`. Default: `info`. Reload: live.
    pub level: String,
    /// How it is written: `text`, `json` or `logfmt`.
    ///
    /// Default: `text`. Reload: restart.
    pub format: LogFormat,
}

/// The form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
    /// `key=value` pairs.
    Logfmt,
}

/// The steps of a clean stop.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Shutdown {
    /// How long listeners stay open after readiness began to fail, so that balancers notice first.
    ///
    /// Unit: duration. Default: `0`. Reload: live.
    pub delay: HumanDuration,
    /// How long open requests may take to finish.
    ///
    /// Unit: duration. Default: `20s`. Reload: live.
    pub drain_timeout: HumanDuration,
    /// How long reporters may take to send what is left.
    ///
    /// Unit: duration. Default: `5s`. Reload: live.
    pub flush_timeout: HumanDuration,
}

impl Default for Inbound {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 15606)),
            trust: tracer::TrustConfig::default(),
        }
    }
}

impl Default for Outbound {
    fn default() -> Self {
        Self {
            enabled: true,
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 15601)),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head: ByteSize(64 << 10),
            headers: 128,
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: HumanDuration::from_secs(5),
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self {
            level: "info".to_owned(),
            format: LogFormat::Text,
        }
    }
}

impl Default for Shutdown {
    fn default() -> Self {
        Self {
            delay: HumanDuration::from_secs(0),
            drain_timeout: HumanDuration::from_secs(20),
            flush_timeout: HumanDuration::from_secs(5),
        }
    }
}
