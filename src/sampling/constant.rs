//! `constant`: every trace, or none.

use std::time::Instant;

use crate::model::TraceId;
use crate::sampling::Built;
use crate::sampling::Decision;
use crate::sampling::Param;
use crate::sampling::Parts;
use crate::sampling::Probability;
use crate::sampling::Sampler;
use crate::sampling::Told;

pub(super) const EXAMPLE: &str = r#"{"constant": {"decision": true}}"#;

/// The same answer for every trace.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Whether traces that start here are recorded.
    ///
    /// Unit: boolean. Default: `true`. Reload: live.
    pub decision: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self { decision: true }
    }
}

impl Config {
    pub(super) fn told(&self) -> Told<'_> {
        match self.decision {
            true => Told::Probability(Probability::ONE),
            false => Told::Probability(Probability::ZERO),
        }
    }
}

/// Answers every question alike.
#[derive(Debug)]
pub struct Constant {
    decision: bool,
}

pub(super) fn build(config: &Config, _: Parts<'_>) -> Built {
    Built::fixed(Constant {
        decision: config.decision,
    })
}

impl Sampler for Constant {
    fn sample(&self, _: TraceId, _: &str, _: Instant) -> Decision {
        Decision {
            sampled: self.decision,
            kind: "const",
            param: Param::Bool(self.decision),
        }
    }

    fn description(&self) -> String {
        format!("const {}", self.decision)
    }
}
