//! Traces as JSON, by the codecs.

use serde_json::Value;

use crate::admin::Trace;
use crate::codec::jaeger_json;
use crate::codec::otlp;

/// `TracesData` in OTLP JSON: all spans of these traces.
pub(super) fn otlp(traces: &[Trace]) -> Value {
    let spans: Vec<_> = traces
        .iter()
        .flat_map(|trace| trace.spans.iter().cloned())
        .collect();
    otlp::to_json(&spans)
}

/// One trace as Jaeger's query API shows it and its page takes it as an upload.
pub(super) fn jaeger(trace: &Trace) -> Value {
    let trace = jaeger_json::trace(&trace.spans);
    // Plain structs always become JSON.
    serde_json::to_value(trace).unwrap_or_default()
}
