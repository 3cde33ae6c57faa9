//! SOFATracer: B3's header names with ids of its own, and `SOFA-TraceId`, `SOFA-RpcId` as MOSN spells them.
//!
//! A trace is up to 32 hexadecimal digits, mostly 25 or 30: its number, and it leaves in the length it came in. A span is
//! its place in the tree (`0.1.2`), so ids that are real B3 are nothing here. Values may be percent-encoded. Written
//! beside `b3multi` the later of the two in the list has the last word over the headers they share.
//! Source: sofastack/sofa-tracer `AbstractTextB3Formatter.java`, `HttpHeadersB3Formatter.java`; mosn `pkg/trace/sofa`.

use std::borrow::Cow;

use http::HeaderMap;
use http::HeaderName;

use crate::model::SamplingState;
use crate::model::SpanContext;
use crate::model::Text;
use crate::model::TraceId;
use crate::propagation::ExtractError;
use crate::propagation::Format;
use crate::propagation::Found;
use crate::propagation::b3;
use crate::propagation::rpc_id;
use crate::propagation::wire;

static TRACE_ID: HeaderName = HeaderName::from_static("sofa-traceid");
static RPC_ID: HeaderName = HeaderName::from_static("sofa-rpcid");
static ALL: [&HeaderName; 6] = [
    &TRACE_ID,
    &RPC_ID,
    &b3::TRACE_ID,
    &b3::SPAN_ID,
    &b3::PARENT_SPAN_ID,
    &b3::SAMPLED,
];

/// The carried items that hold the trace's name and the caller's place in it.
const TRACE: &str = "sofa.trace";
const PLACE: &str = "sofa.place";

const MAX_LEN: usize = 512;

/// The format `sofatracer`.
pub(super) struct SofaTracer;

impl Format for SofaTracer {
    fn name(&self) -> &'static str {
        "sofatracer"
    }

    fn reads(&self) -> &'static [&'static HeaderName] {
        &ALL
    }

    fn writes(&self) -> &'static [&'static HeaderName] {
        &ALL
    }

    fn extract(&self, headers: &HeaderMap) -> Result<Option<Found>, ExtractError> {
        let Some((trace, place)) = read_ids(headers)? else {
            return Ok(None);
        };
        let is_hex = trace.bytes().all(|digit| digit.is_ascii_hexdigit());
        let trace_id = is_hex
            .then(|| TraceId::from_hex(trace.as_bytes()))
            .flatten();
        let trace_id = trace_id.ok_or(ExtractError::Malformed("sofa-traceid"))?;
        let span_id = rpc_id::span_id(&trace, &place);
        let span_id = span_id.ok_or(ExtractError::Malformed("sofa-rpcid"))?;
        let state = match wire::text(&b3::SAMPLED, MAX_LEN, headers)? {
            Some("1" | "true") => SamplingState::Accept,
            Some("0" | "false") => SamplingState::Reject,
            _ => SamplingState::Defer,
        };
        let mut context = wire::context(trace_id, span_id, state);
        context.carried = [(TRACE, Text::from(trace)), (PLACE, Text::from(place))]
            .into_iter()
            .collect();
        Ok(Some(Found::Parent(context)))
    }

    fn inject(&self, context: &SpanContext, headers: &mut HeaderMap) {
        let kept = |key| context.carried.get(key).map(Text::as_str);
        let known = kept(TRACE)
            .filter(|known| TraceId::from_hex(known.as_bytes()) == Some(context.trace_id));
        let trace = known.map_or_else(|| context.trace_id.to_string(), str::to_owned);
        let came_from = kept(PLACE).filter(|_| known.is_some());
        let place = rpc_id::place(came_from, context.span_id);
        let sampled = match context.state {
            SamplingState::Accept | SamplingState::Debug => Some("true"),
            SamplingState::Reject => Some("false"),
            SamplingState::Defer => None,
        };
        for (name, value) in [
            (&TRACE_ID, trace.as_str()),
            (&RPC_ID, &place),
            (&b3::TRACE_ID, &trace),
            (&b3::SPAN_ID, &place),
            (&b3::PARENT_SPAN_ID, came_from.unwrap_or("0")),
        ] {
            wire::put(name, value.as_bytes(), headers);
        }
        wire::put_or_remove(&b3::SAMPLED, sampled, headers);
    }
}

/// Trace and place, from MOSN's headers, else from B3's where the span is a place.
fn read_ids(headers: &HeaderMap) -> Result<Option<(String, String)>, ExtractError> {
    if let Some(trace) = wire::text(&TRACE_ID, MAX_LEN, headers)? {
        let place = wire::text(&RPC_ID, MAX_LEN, headers)?;
        return Ok(Some((decoded(trace), decoded(place.unwrap_or("0")))));
    }
    let trace = wire::text(&b3::TRACE_ID, MAX_LEN, headers).ok().flatten();
    let place = wire::text(&b3::SPAN_ID, MAX_LEN, headers).ok().flatten();
    let is_place = |place: &str| place == "0" || place.contains('.');
    Ok(trace
        .zip(place.filter(|place| is_place(place)))
        .map(|(trace, place)| (decoded(trace), decoded(place))))
}

fn decoded(text: &str) -> String {
    let decoded: Cow<'_, [u8]> = percent_encoding::percent_decode_str(text).into();
    String::from_utf8_lossy(&decoded).into_owned()
}
