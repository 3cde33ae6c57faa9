//! `probabilistic`: a share of all traces, computed from the trace id.
//!
//! The rule is that of Jaeger's Go client since 2.23: the lower 63 bits of the id against `2^63 * rate`. Jaeger's other
//! clients compute differently, so consistency between hops rests on the propagated decision, never on this rule.
//!
//! Source: jaeger-client-go `sampler.go`; `tests/data/jaeger/probabilistic-decisions.json`.

use std::time::Instant;

use crate::model::TraceId;
use crate::sampling::Built;
use crate::sampling::Decision;
use crate::sampling::Param;
use crate::sampling::Parts;
use crate::sampling::Probability;
use crate::sampling::Sampler;
use crate::sampling::Told;

pub(super) const EXAMPLE: &str = r#"{"probabilistic": {"rate": 0.1}}"#;

/// A share of all traces.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The share of traces that are recorded.
    ///
    /// Unit: probability from 0 to 1. Default: `0.001`. Reload: live.
    pub rate: Probability,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            rate: Probability::INITIAL,
        }
    }
}

impl Config {
    pub(super) fn told(&self) -> Told<'_> {
        Told::Probability(self.rate)
    }
}

/// Samples the ids below a boundary.
#[derive(Debug, Clone, Copy)]
pub struct Probabilistic {
    rate: Probability,
    boundary: u64,
}

pub(super) fn build(config: &Config, _: Parts<'_>) -> Built {
    Built::fixed(Probabilistic::new(config.rate))
}

impl Probabilistic {
    /// Samples this share of the ids.
    pub fn new(rate: Probability) -> Self {
        Self {
            rate,
            boundary: ((1u64 << 63) as f64 * rate.value()) as u64,
        }
    }

    /// The share.
    pub fn rate(&self) -> Probability {
        self.rate
    }
}

impl Sampler for Probabilistic {
    fn sample(&self, trace_id: TraceId, _: &str, _: Instant) -> Decision {
        Decision {
            sampled: trace_id.low() & (u64::MAX >> 1) <= self.boundary,
            kind: "probabilistic",
            param: Param::F64(self.rate.value()),
        }
    }

    fn description(&self) -> String {
        format!("probabilistic {}", self.rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Deserialize)]
    struct Vectors {
        rows: Vec<Row>,
    }

    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Row {
        rate: Probability,
        trace_id_low: String,
        #[serde(rename = "go_2_30")]
        sampled: bool,
    }

    #[test]
    fn decides_as_the_go_client_does() {
        let vectors: Vectors = serde_json::from_str(include_str!(
            "../../tests/data/jaeger/probabilistic-decisions.json"
        ))
        .unwrap();
        assert!(vectors.rows.len() > 50, "{} rows", vectors.rows.len());
        for row in vectors.rows {
            let low = u64::from_str_radix(&row.trace_id_low, 16).unwrap();
            for high in [1, u64::MAX] {
                let trace_id = TraceId::from_halves(high, low).unwrap();
                let decision = Probabilistic::new(row.rate).sample(trace_id, "", Instant::now());
                assert_eq!(
                    decision.sampled, row.sampled,
                    "rate {} id {}",
                    row.rate, row.trace_id_low
                );
                assert_eq!(decision.param, Param::F64(row.rate.value()));
            }
        }
    }
}
