//! Stand-ins for parts of the tree whose families are on their way; each goes when its family arrives.

use schemars::JsonSchema;
use serde::Deserialize;
use serde::Serialize;

use crate::model::ByteSize;

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
        Self {
            enabled: true,
            max_bytes: ByteSize(32 << 20),
        }
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
        Self {
            listen: "127.0.0.1:15690".to_owned(),
        }
    }
}
