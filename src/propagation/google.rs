//! Google Cloud's `X-Cloud-Trace-Context: {32 hex}[/{span, decimal}][;o={0|1}]`.
//!
//! No span, or span 0, names the trace that starts here. Without `o` nobody decided yet. Bit 0 of `o` is "traced"; Google
//! writes no other. Source: Google Cloud, "Trace context"; opentelemetry-operations-python `cloud_trace_propagator.py`.

use http::HeaderMap;
use http::HeaderName;

use crate::model::Carried;
use crate::model::SamplingState;
use crate::model::SpanContext;
use crate::model::SpanId;
use crate::model::TraceId;
use crate::propagation::ExtractError;
use crate::propagation::Format;
use crate::propagation::Found;
use crate::propagation::Start;
use crate::propagation::wire;
use crate::propagation::wire::Line;

static CONTEXT: HeaderName = HeaderName::from_static("x-cloud-trace-context");
static BOTH: [&HeaderName; 1] = [&CONTEXT];

/// 32 digits, 20 digits, options, and blanks to spare.
const MAX_LEN: usize = 96;

/// The format `google`.
pub(super) struct Google;

impl Format for Google {
    fn name(&self) -> &'static str {
        "google"
    }

    fn reads(&self) -> &'static [&'static HeaderName] {
        &BOTH
    }

    fn writes(&self) -> &'static [&'static HeaderName] {
        &BOTH
    }

    fn extract(&self, headers: &HeaderMap) -> Result<Option<Found>, ExtractError> {
        let Some(value) = wire::single(&CONTEXT, MAX_LEN, headers)? else {
            return Ok(None);
        };
        let found = std::str::from_utf8(value).ok().and_then(parse);
        let malformed = ExtractError::Malformed("x-cloud-trace-context");
        found.map(Some).ok_or(malformed)
    }

    fn inject(&self, context: &SpanContext, headers: &mut HeaderMap) {
        let options: &[u8] = match context.state {
            SamplingState::Accept | SamplingState::Debug => b";o=1",
            SamplingState::Reject => b";o=0",
            SamplingState::Defer => b"",
        };
        Line::new()
            .push(context.trace_id.hex().as_bytes())
            .push(b"/")
            .push(context.span_id.to_u64().to_string().as_bytes())
            .push(options)
            .put(&CONTEXT, headers);
    }
}

fn parse(value: &str) -> Option<Found> {
    let (ids, options) = value.split_once(';').unwrap_or((value, ""));
    let (trace, span) = ids.split_once('/').unwrap_or((ids, ""));
    if trace.len() != 32 {
        return None;
    }
    let trace_id = TraceId::from_hex(trace.as_bytes())?;
    let span = match span {
        "" => 0,
        digits => wire::decimal(digits)?,
    };
    let state = match options.strip_prefix("o=") {
        None if options.is_empty() => SamplingState::Defer,
        Some("") => SamplingState::Defer,
        Some(flags) if wire::decimal(flags)? & 1 == 1 => SamplingState::Accept,
        Some(_) => SamplingState::Reject,
        None => return None,
    };
    Some(match SpanId::from_u64(span) {
        Some(span_id) => Found::Parent(wire::context(trace_id, span_id, state)),
        None => Found::Start(Start {
            trace_id,
            state,
            carried: Carried::default(),
        }),
    })
}
