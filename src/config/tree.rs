//! The settings of the whole program. Families own their part; this file puts the parts under their keys.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;
use serde::Serialize;

use crate::admin;
use crate::correlate;
use crate::injector;
use crate::model::HostPort;
use crate::model::HumanDuration;
use crate::propagation;
use crate::proxy;
use crate::receiver;
use crate::reporter;
use crate::sampling;
use crate::telemetry::logs;
use crate::tracer;

/// Everything that can be configured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
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
    /// Unit: `host:port`. Default: none. Reload: restart.
    pub app: Option<HostPort>,
    /// Requests to the program.
    pub inbound: proxy::config::Inbound,
    /// Requests of the program that come through this proxy (`HTTP_PROXY`).
    pub outbound: proxy::config::Outbound,
    /// Requests of the program to fixed destinations, one listener each.
    ///
    /// Default: none. Reload: restart.
    pub routes: Vec<proxy::config::Route>,
    /// Redirected connections that are passed on without being understood.
    pub passthrough: proxy::config::Passthrough,
    /// Names, attributes and redaction of spans.
    pub spans: tracer::Config,
    /// How outbound requests find the inbound request that caused them.
    pub linking: correlate::Config,
    /// Which trace headers are read and written.
    pub propagation: propagation::Config,
    /// Which traces are recorded. When this is not set: what the host of the first `jaeger_*`, else the first `otlp`
    /// reporter says on port 5778, and 0.001 until it answers; all of them where there is no such reporter, as the agents
    /// of Zipkin, SkyWalking and Datadog do, or where `receivers.jaeger` has that very port.
    ///
    /// Default: see above. Reload: live.
    pub sampling: sampling::Config,
    /// Where spans go. Several work side by side.
    ///
    /// Default: none, spans are kept for the view only. Reload: live.
    pub reporters: Vec<reporter::Config>,
    /// Spans of the programs beside this sidecar, taken on the ports that their libraries know.
    pub receivers: receiver::Config,
    /// Recent spans in memory, with their page and query interface on the admin port.
    pub view: admin::view::Config,
    /// The admin port: probes, metrics, control.
    pub admin: admin::Config,
    /// Sizes and counts beyond which requests are refused.
    pub limits: proxy::config::Limits,
    /// Longest waits.
    pub timeouts: proxy::config::Timeouts,
    /// The admission webhook that puts Pillion into pods. Only `pillion injector` looks at it.
    pub injector: injector::Config,
    /// Pillion's own messages.
    pub log: logs::Config,
    /// The steps of a clean stop.
    pub shutdown: Shutdown,
    /// Threads that carry traffic. `0`: one for each processor this process may use, at most 4.
    ///
    /// Unit: threads. Default: `0`. Reload: restart.
    pub workers: u16,
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

impl Default for Config {
    fn default() -> Self {
        Self {
            service: None,
            resource: BTreeMap::new(),
            app: None,
            inbound: proxy::config::Inbound::default(),
            outbound: proxy::config::Outbound::default(),
            routes: Vec::new(),
            passthrough: proxy::config::Passthrough::default(),
            spans: tracer::Config::default(),
            linking: correlate::Config::default(),
            propagation: propagation::Config::default(),
            sampling: sampling::Config::Constant(sampling::constant::Config::default()),
            reporters: Vec::new(),
            receivers: receiver::Config::default(),
            view: admin::view::Config::default(),
            admin: admin::Config::default(),
            limits: proxy::config::Limits::default(),
            timeouts: proxy::config::Timeouts::default(),
            injector: injector::Config::default(),
            log: logs::Config::default(),
            shutdown: Shutdown::default(),
            workers: 0,
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
