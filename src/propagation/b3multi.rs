//! Zipkin's B3 in several headers: `x-b3-traceid`, `x-b3-spanid`, `x-b3-sampled`, `x-b3-flags`.
//!
//! Reads what [`b3`](crate::propagation::b3) reads. Debug is written as `x-b3-flags: 1` without `x-b3-sampled`, a deferred
//! decision as neither. Source: openzipkin/b3-propagation, README, section "Multiple Headers".

use http::HeaderMap;
use http::HeaderName;

use crate::model::SamplingState;
use crate::model::SpanContext;
use crate::propagation::ExtractError;
use crate::propagation::Format;
use crate::propagation::Found;
use crate::propagation::b3;
use crate::propagation::wire;
use crate::propagation::wire::Line;

/// The format `b3multi`: reads both forms, writes the multiple headers.
pub(super) struct B3Multi;

impl Format for B3Multi {
    fn name(&self) -> &'static str {
        "b3multi"
    }

    fn reads(&self) -> &'static [&'static HeaderName] {
        &b3::READS
    }

    fn writes(&self) -> &'static [&'static HeaderName] {
        &b3::MULTI
    }

    fn companions(&self) -> &'static [&'static HeaderName] {
        &b3::SINGLE_ONLY
    }

    fn extract(&self, headers: &HeaderMap) -> Result<Option<Found>, ExtractError> {
        b3::extract(headers)
    }

    fn extract_own(&self, headers: &HeaderMap) -> Result<Option<Found>, ExtractError> {
        b3::extract_multi(headers)
    }

    fn inject(&self, context: &SpanContext, headers: &mut HeaderMap) {
        Line::new()
            .push_trace_id(context.trace_id)
            .put(&b3::TRACE_ID, headers);
        Line::new()
            .push(context.span_id.hex().as_bytes())
            .put(&b3::SPAN_ID, headers);
        wire::remove(&b3::PARENT_SPAN_ID, headers);
        let (sampled, flags) = match context.state {
            SamplingState::Accept => (Some("1"), None),
            SamplingState::Reject => (Some("0"), None),
            SamplingState::Debug => (None, Some("1")),
            SamplingState::Defer => (None, None),
        };
        wire::put_or_remove(&b3::SAMPLED, sampled, headers);
        wire::put_or_remove(&b3::FLAGS, flags, headers);
    }
}
