//! Trace context in HTTP headers: one wire form per file, one table of them, one ordered reader and writer.
//!
//! Adding a format is one new file and two neighbouring lines here. Knows nothing of sockets, clocks or configuration
//! files; rules come from the field sheets of each format, named in its file.

use http::HeaderMap;

use crate::model::Baggage;
use crate::model::SamplingState;
use crate::model::SpanContext;
use crate::model::Text;

/// One wire form of trace context.
pub trait Format: Sync {
    /// The name used in configuration, metrics and `OTEL_PROPAGATORS`.
    fn name(&self) -> &'static str;

    /// Reads what this format's headers say. `Ok(None)`: none of its headers is present.
    ///
    /// # Errors
    /// Headers are present but malformed; the caller counts it and tries the next format.
    fn extract(&self, headers: &HeaderMap) -> Result<Option<Extracted>, ExtractError>;

    /// Writes the context, replacing every header of this format that is already there.
    fn inject(&self, context: &SpanContext, headers: &mut HeaderMap);
}

/// What one format's headers said. Every part may be absent by itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Extracted {
    /// The caller's span: ids, state, trace state. `None` when the headers carry no ids.
    pub parent: Option<SpanContext>,
    /// A decision without ids (`b3: 0`): binding for the trace that starts here.
    pub decision: Option<SamplingState>,
    /// Jaeger's `jaeger-debug-id`: forces a debug root and is recorded on it.
    pub debug_id: Option<Text>,
    /// Baggage that comes even without a parent.
    pub baggage: Baggage,
}

/// Why a header that is present was not understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ExtractError {
    /// The header breaks its format's grammar; names the part.
    #[error("malformed {0}")]
    Malformed(&'static str),
}
