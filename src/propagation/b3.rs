//! Zipkin's B3 in its single header, and the reading of both forms.
//!
//! `b3: {trace}-{span}[-{state}[-{parent}]]`, or only a state: `0`, `1`, `d`. Readers of B3 meet both forms, so each of the
//! two formats reads both: the single header wins, and the multiple ones are the fallback when it is malformed. Where both
//! formats are read, each reads its own form, and their order says which wins. The parent id is checked, not used; a server span of its own is always made, and no parent id is sent. Jaeger clients'
//! `baggage-*` beside B3 is passed on as it is. Source: openzipkin/b3-propagation, README.

use http::HeaderMap;
use http::HeaderName;

use crate::model::SamplingState;
use crate::model::SpanContext;
use crate::model::TraceId;
use crate::propagation::ExtractError;
use crate::propagation::Format;
use crate::propagation::Found;
use crate::propagation::wire;
use crate::propagation::wire::Line;

pub(super) static SINGLE: HeaderName = HeaderName::from_static("b3");
pub(super) static TRACE_ID: HeaderName = HeaderName::from_static("x-b3-traceid");
pub(super) static SPAN_ID: HeaderName = HeaderName::from_static("x-b3-spanid");
pub(super) static PARENT_SPAN_ID: HeaderName = HeaderName::from_static("x-b3-parentspanid");
pub(super) static SAMPLED: HeaderName = HeaderName::from_static("x-b3-sampled");
pub(super) static FLAGS: HeaderName = HeaderName::from_static("x-b3-flags");
pub(super) static READS: [&HeaderName; 6] = [
    &SINGLE,
    &TRACE_ID,
    &SPAN_ID,
    &PARENT_SPAN_ID,
    &SAMPLED,
    &FLAGS,
];
pub(super) static SINGLE_ONLY: [&HeaderName; 1] = [&SINGLE];
pub(super) static MULTI: [&HeaderName; 5] =
    [&TRACE_ID, &SPAN_ID, &PARENT_SPAN_ID, &SAMPLED, &FLAGS];

/// The format `b3`: reads both forms, writes the single header.
pub(super) struct B3;

impl Format for B3 {
    fn name(&self) -> &'static str {
        "b3"
    }

    fn reads(&self) -> &'static [&'static HeaderName] {
        &READS
    }

    fn writes(&self) -> &'static [&'static HeaderName] {
        &SINGLE_ONLY
    }

    fn companions(&self) -> &'static [&'static HeaderName] {
        &MULTI
    }

    fn extract(&self, headers: &HeaderMap) -> Result<Option<Found>, ExtractError> {
        extract(headers)
    }

    fn extract_own(&self, headers: &HeaderMap) -> Result<Option<Found>, ExtractError> {
        extract_single(headers)
    }

    fn inject(&self, context: &SpanContext, headers: &mut HeaderMap) {
        line_of(context).put(&SINGLE, headers);
    }

    fn line(&self) -> Option<Option<&'static HeaderName>> {
        Some(Some(&SINGLE))
    }

    fn put_line(&self, context: &SpanContext, out: &mut Vec<u8>) {
        out.extend_from_slice(line_of(context).bytes());
    }
}

fn line_of(context: &SpanContext) -> Line {
    let state: &[u8] = match context.state {
        SamplingState::Accept => b"-1",
        SamplingState::Reject => b"-0",
        SamplingState::Debug => b"-d",
        SamplingState::Defer => b"",
    };
    Line::new()
        .push_trace_id(context.trace_id)
        .push(b"-")
        .push(context.span_id.hex().as_bytes())
        .push(state)
}

/// Reads the single header, or the multiple ones when it is absent or malformed.
pub(super) fn extract(headers: &HeaderMap) -> Result<Option<Found>, ExtractError> {
    match extract_single(headers) {
        Ok(Some(found)) => Ok(Some(found)),
        Ok(None) => extract_multi(headers),
        Err(error) => extract_multi(headers).ok().flatten().map(Some).ok_or(error),
    }
}

fn extract_single(headers: &HeaderMap) -> Result<Option<Found>, ExtractError> {
    let malformed = ExtractError::Malformed("b3");
    match headers.get(&SINGLE).map(|value| value.as_bytes()) {
        Some(value) if value.len() > MAX_LEN => Err(malformed),
        Some(value) => parse_single(value.trim_ascii()).ok_or(malformed).map(Some),
        None => Ok(None),
    }
}

/// `{32}-{16}-{1}-{16}`, and blanks around it.
const MAX_LEN: usize = 32 + 1 + 16 + 1 + 1 + 1 + 16 + 16;

fn parse_single(value: &[u8]) -> Option<Found> {
    let mut parts = value.split(|byte| *byte == b'-');
    let first = parts.next()?;
    let Some(span) = parts.next() else {
        return parse_state(first).map(Found::Decision);
    };
    let state = match parts.next() {
        Some(state) => parse_state(state)?,
        None => SamplingState::Defer,
    };
    if let Some(parent) = parts.next() {
        wire::lower_hex::<8>(parent)?;
    }
    if parts.next().is_some() {
        return None;
    }
    Some(Found::Parent(wire::context(
        trace_id(first)?,
        wire::span_id(span)?,
        state,
    )))
}

fn parse_state(state: &[u8]) -> Option<SamplingState> {
    match state {
        b"0" => Some(SamplingState::Reject),
        b"1" => Some(SamplingState::Accept),
        b"d" => Some(SamplingState::Debug),
        _ => None,
    }
}

/// 16 or 32 digits, not zero.
fn trace_id(digits: &[u8]) -> Option<TraceId> {
    if digits.len() == 16 {
        let low = u64::from_be_bytes(wire::lower_hex(digits)?);
        return TraceId::from_halves(0, low);
    }
    wire::trace_id(digits)
}

/// Reads the multiple headers alone.
pub(super) fn extract_multi(headers: &HeaderMap) -> Result<Option<Found>, ExtractError> {
    let state = read_state(headers)?;
    let (trace, span) = (first(&TRACE_ID, headers), first(&SPAN_ID, headers));
    let parent = first(&PARENT_SPAN_ID, headers);
    if let Some(parent) = parent {
        // Some proxies write a zero parent on roots.
        wire::lower_hex::<8>(parent).ok_or(ExtractError::Malformed("x-b3-parentspanid"))?;
    }
    match (trace, span) {
        (Some(trace), Some(span)) => {
            let trace = trace_id(trace).ok_or(ExtractError::Malformed("x-b3-traceid"))?;
            let span = wire::span_id(span).ok_or(ExtractError::Malformed("x-b3-spanid"))?;
            let state = state.unwrap_or(SamplingState::Defer);
            Ok(Some(Found::Parent(wire::context(trace, span, state))))
        }
        (None, None) if parent.is_none() => Ok(state.map(Found::Decision)),
        (None, _) => Err(ExtractError::Malformed("x-b3-traceid")),
        (_, None) => Err(ExtractError::Malformed("x-b3-spanid")),
    }
}

/// `x-b3-flags: 1` is debug whatever `x-b3-sampled` says; other flags mean nothing.
fn read_state(headers: &HeaderMap) -> Result<Option<SamplingState>, ExtractError> {
    if first(&FLAGS, headers) == Some(b"1") {
        return Ok(Some(SamplingState::Debug));
    }
    match first(&SAMPLED, headers) {
        None => Ok(None),
        Some(b"1") => Ok(Some(SamplingState::Accept)),
        Some(b"0") => Ok(Some(SamplingState::Reject)),
        Some(word) if word.eq_ignore_ascii_case(b"true") => Ok(Some(SamplingState::Accept)),
        Some(word) if word.eq_ignore_ascii_case(b"false") => Ok(Some(SamplingState::Reject)),
        Some(_) => Err(ExtractError::Malformed("x-b3-sampled")),
    }
}

/// The first value of that name; an over-long one is left to fail as it is, for only exact lengths pass.
fn first<'a>(name: &'static HeaderName, headers: &'a HeaderMap) -> Option<&'a [u8]> {
    let value = headers.get(name)?.as_bytes();
    Some(if value.len() > MAX_LEN {
        value
    } else {
        value.trim_ascii()
    })
}
