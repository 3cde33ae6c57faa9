//! Whether a trace that starts here is recorded: one sampler per file, one decision type.
//!
//! Samplers decide local roots only; a parent's decision is never asked again. They know nothing of spans or headers.

use std::time::Instant;

use crate::model::TraceId;

/// Decides whether a new trace is recorded. Called on the request path: no waiting, no input or output.
pub trait Sampler: Send + Sync + std::fmt::Debug {
    /// Decides for a root span of this operation (the span name).
    fn sample(&self, trace_id: TraceId, operation: &str, now: Instant) -> Decision;
}

/// A sampler's answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Decision {
    /// Record and report.
    pub sampled: bool,
    /// `sampler.type`: `const`, `probabilistic`, `ratelimiting` or `lowerbound`.
    pub kind: &'static str,
    /// `sampler.param`.
    pub param: Param,
}

/// `sampler.param`, typed as Jaeger's clients type it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Param {
    /// For `const`.
    Bool(bool),
    /// Probability or traces per second.
    F64(f64),
}
