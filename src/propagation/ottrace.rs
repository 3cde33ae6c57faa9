//! OpenTracing's basic tracers and Lightstep: `ot-tracer-traceid`, `ot-tracer-spanid`, `ot-tracer-sampled`, `ot-baggage-*`.
//!
//! The trace id is the low half, 16 digits; what is longer is read whole, for some write 32. Ids come unpadded. Both ids or
//! none. Source: opentelemetry-go-contrib `propagators/ot/ot_propagator.go`; opentelemetry-python `propagator-ot-trace`.

use http::HeaderMap;
use http::HeaderName;

use crate::model::BaggageItem;
use crate::model::SamplingState;
use crate::model::SpanContext;
use crate::model::SpanId;
use crate::model::TraceId;
use crate::propagation::ExtractError;
use crate::propagation::Format;
use crate::propagation::Found;
use crate::propagation::Items;
use crate::propagation::items::MAX_BYTES;
use crate::propagation::items::is_token;
use crate::propagation::wire;

static TRACE_ID: HeaderName = HeaderName::from_static("ot-tracer-traceid");
static SPAN_ID: HeaderName = HeaderName::from_static("ot-tracer-spanid");
static SAMPLED: HeaderName = HeaderName::from_static("ot-tracer-sampled");
static ALL: [&HeaderName; 3] = [&TRACE_ID, &SPAN_ID, &SAMPLED];

/// Datadog's older tracers write their baggage under this name too.
pub(super) const BAGGAGE: &str = "ot-baggage-";

/// 32 digits and blanks around them.
const MAX_LEN: usize = 48;

/// The format `ottrace`.
pub(super) struct OtTrace;

impl Format for OtTrace {
    fn name(&self) -> &'static str {
        "ottrace"
    }

    fn reads(&self) -> &'static [&'static HeaderName] {
        &ALL
    }

    fn prefixes(&self) -> &'static [&'static str] {
        &[BAGGAGE]
    }

    fn writes(&self) -> &'static [&'static HeaderName] {
        &ALL
    }

    fn extract(&self, headers: &HeaderMap) -> Result<Option<Found>, ExtractError> {
        let trace = wire::single(&TRACE_ID, MAX_LEN, headers)?;
        let span = wire::single(&SPAN_ID, MAX_LEN, headers)?;
        let state = match wire::single(&SAMPLED, MAX_LEN, headers)? {
            None => SamplingState::Defer,
            Some(b"true" | b"1") => SamplingState::Accept,
            Some(b"false" | b"0") => SamplingState::Reject,
            Some(_) => return Err(ExtractError::Malformed("ot-tracer-sampled")),
        };
        match (trace, span) {
            (Some(trace), Some(span)) => {
                let trace = TraceId::from_hex(trace);
                let trace = trace.ok_or(ExtractError::Malformed("ot-tracer-traceid"))?;
                let span = SpanId::from_hex(span);
                let span = span.ok_or(ExtractError::Malformed("ot-tracer-spanid"))?;
                Ok(Some(Found::Parent(wire::context(trace, span, state))))
            }
            (None, None) if state == SamplingState::Defer => Ok(None),
            (None, None) => Ok(Some(Found::Decision(state))),
            (None, _) => Err(ExtractError::Malformed("ot-tracer-traceid")),
            (_, None) => Err(ExtractError::Malformed("ot-tracer-spanid")),
        }
    }

    fn baggage(&self, headers: &HeaderMap, items: &mut Items) -> Result<(), ExtractError> {
        read_baggage(headers, items)
    }

    fn inject(&self, context: &SpanContext, headers: &mut HeaderMap) {
        wire::put(&TRACE_ID, context.trace_id.low_hex().as_bytes(), headers);
        wire::put(&SPAN_ID, context.span_id.hex().as_bytes(), headers);
        let sampled: &[u8] = match context.state {
            SamplingState::Accept | SamplingState::Debug => b"true",
            SamplingState::Reject => b"false",
            SamplingState::Defer => {
                wire::remove(&SAMPLED, headers);
                return;
            }
        };
        wire::put(&SAMPLED, sampled, headers);
    }

    fn inject_baggage(&self, items: &[BaggageItem], headers: &mut HeaderMap) {
        write_baggage(items, headers);
    }
}

/// `ot-baggage-{key}: {value}`, one header an item, the value as it is.
pub(super) fn read_baggage(headers: &HeaderMap, items: &mut Items) -> Result<(), ExtractError> {
    let mut result = Ok(());
    for (name, value) in headers {
        let Some(key) = name.as_str().strip_prefix(BAGGAGE) else {
            continue;
        };
        if key.is_empty() || value.len() > MAX_BYTES {
            result = Err(ExtractError::Malformed("ot-baggage-*"));
            continue;
        }
        items.push(key, &String::from_utf8_lossy(value.as_bytes()), "");
    }
    result
}

/// Items whose value no header may carry are left out.
pub(super) fn write_baggage(items: &[BaggageItem], headers: &mut HeaderMap) {
    let mut n_bytes = 0;
    for item in items.iter().filter(|item| is_token(item.key.as_bytes())) {
        let name = [BAGGAGE, &item.key].concat();
        n_bytes += name.len() + item.value.len();
        let Ok(name) = HeaderName::from_bytes(name.as_bytes()) else {
            continue;
        };
        if n_bytes <= MAX_BYTES && !headers.contains_key(&name) {
            wire::put(&name, item.value.as_bytes(), headers);
        }
    }
}
