//! Settings of the view: the page, the store behind it, the query API and the OTLP receiver.

use schemars::JsonSchema;
use serde::Deserialize;
use serde::Serialize;

use crate::admin::store::Store;
use crate::model::ByteSize;

/// The built-in view over recent spans.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Serves the page, the query API and `/traces`, and keeps recent spans for them.
    ///
    /// Unit: boolean. Default: `true`. Reload: restart.
    pub enabled: bool,
    /// Memory for recent spans; the oldest traces make room.
    ///
    /// Unit: size (`"32MiB"`). Default: `2MiB`. Reload: restart.
    pub max_bytes: ByteSize,
    /// Number of traces kept; the oldest make room.
    ///
    /// Unit: traces. Default: `10000`. Reload: restart.
    pub max_traces: u32,
    /// Accepts spans of other sidecars and programs on `POST /v1/traces` (OTLP over HTTP), for the view only.
    ///
    /// Unit: boolean. Default: `true`. Reload: restart.
    pub otlp: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            enabled: true,
            max_bytes: ByteSize(2 << 20),
            max_traces: 10_000,
            otlp: true,
        }
    }
}

impl Config {
    /// The empty store that these settings describe.
    pub fn store(&self) -> Store {
        Store::new(
            self.max_bytes.as_usize(),
            usize::try_from(self.max_traces).unwrap_or(usize::MAX),
        )
    }
}
