//! Stand-ins for parts of the tree whose families are on their way; each goes when its family arrives.

use schemars::JsonSchema;
use serde::Deserialize;
use serde::Serialize;

use crate::model::ByteSize;
use crate::model::HostPort;
use crate::model::HumanDuration;

/// Trace headers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Propagation {
    /// Formats read, first valid wins.
    ///
    /// Default: `[tracecontext, jaeger, b3]`. Reload: live.
    pub extract: Vec<String>,
    /// Formats written.
    ///
    /// Default: `[tracecontext, jaeger]`. Reload: live.
    pub inject: Vec<String>,
}

impl Default for Propagation {
    fn default() -> Self {
        let names = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
        Self {
            extract: names(&["tracecontext", "jaeger", "b3"]),
            inject: names(&["tracecontext", "jaeger"]),
        }
    }
}

/// Sampling.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Sampling {
    /// Always the same answer.
    Constant(bool),
    /// A share of all traces.
    Probabilistic(Probabilistic),
    /// What the backend says.
    Remote(Remote),
}

impl Default for Sampling {
    fn default() -> Self {
        Self::Constant(true)
    }
}

/// A share of all traces.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Probabilistic {
    /// The share. Reload: live.
    pub rate: f64,
}

/// What the backend says.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Remote {
    /// Strategy server. Reload: live.
    pub endpoint: String,
}

/// A reporter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reporter {
    /// OTLP.
    Otlp(Otlp),
    /// Jaeger over UDP.
    JaegerUdp(JaegerUdp),
    /// Jaeger over HTTP.
    JaegerHttp(Otlp),
    /// Log lines.
    Log(LogReporter),
}

/// OTLP.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Otlp {
    /// Collector. Reload: restart.
    pub endpoint: String,
    /// Timeout. Reload: restart.
    pub timeout: Option<HumanDuration>,
}

/// Jaeger over UDP.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct JaegerUdp {
    /// Agent. Reload: restart.
    pub endpoint: Option<HostPort>,
}

/// Log lines.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LogReporter {}

/// The view.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct View {
    /// On or off. Reload: restart.
    pub enabled: bool,
    /// Memory. Reload: restart.
    pub max_bytes: ByteSize,
}

impl Default for View {
    fn default() -> Self {
        Self { enabled: true, max_bytes: ByteSize(32 << 20) }
    }
}

/// The admin port.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Admin {
    /// Address. Reload: restart.
    pub listen: String,
}

impl Default for Admin {
    fn default() -> Self {
        Self { listen: "127.0.0.1:15690".to_owned() }
    }
}
