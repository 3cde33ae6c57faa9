//! The way out of finished spans: a bounded queue, batches, retries and one sender per wire, each in its file.
//!
//! The request path only pushes; it never waits. What cannot be kept is dropped and counted by reason. For each
//! reporter, `accepted = exported + dropped + queued` holds at every moment.

use std::sync::Arc;

use crate::model::Span;

/// Takes finished, sampled spans from the request path and fans them out to every configured reporter.
pub trait Sink: Send + Sync {
    /// Hands a span over. Never blocks, never fails: a full queue drops the span and counts it.
    fn report(&self, span: Arc<Span>);
}
