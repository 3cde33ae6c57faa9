//! W3C Trace Context, Level 1 and Level 2: `traceparent` and `tracestate`.
//!
//! `traceparent: 00-{32 lower hex}-{16 lower hex}-{2 lower hex}`; flag 0x01 sampled, flag 0x02 random (Level 2). A list in
//! `tracestate` that breaks any rule is discarded as a whole and never invalidates `traceparent`. Pillion adds no
//! entry of its own. Source: W3C Trace Context, sections "traceparent Header", "tracestate Header", "Processing Model".

use std::sync::Arc;

use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use smallvec::SmallVec;

use crate::model::SamplingState;
use crate::model::SpanContext;
use crate::model::TraceState;
use crate::propagation::ExtractError;
use crate::propagation::Format;
use crate::propagation::Found;
use crate::propagation::wire;
use crate::propagation::wire::Line;

static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
static TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
static BOTH: [&HeaderName; 2] = [&TRACEPARENT, &TRACESTATE];

const SAMPLED: u8 = 0x01;
const RANDOM: u8 = 0x02;

/// The length of version 00, and the least of later versions.
const LEN: usize = 55;
/// Later versions may be longer; nobody needs this much.
const MAX_LEN: usize = 512;

/// The format `tracecontext`.
pub(super) struct TraceContext;

impl Format for TraceContext {
    fn name(&self) -> &'static str {
        "tracecontext"
    }

    fn reads(&self) -> &'static [&'static HeaderName] {
        &BOTH
    }

    fn writes(&self) -> &'static [&'static HeaderName] {
        &BOTH
    }

    /// A `tracestate` without a valid `traceparent` says nothing: [`Format::inject`] removes it.
    fn extract(&self, headers: &HeaderMap) -> Result<Option<Found>, ExtractError> {
        let Some(value) = wire::single(&TRACEPARENT, MAX_LEN, headers)? else {
            return Ok(None);
        };
        let mut context = parse(value).ok_or(ExtractError::Malformed("traceparent"))?;
        context.trace_state = read_tracestate(headers);
        Ok(Some(Found::Parent(context)))
    }

    fn inject(&self, context: &SpanContext, headers: &mut HeaderMap) {
        line_of(context).put(&TRACEPARENT, headers);
        write_tracestate(context.trace_state.as_str(), headers);
    }

    fn line(&self) -> Option<Option<&'static HeaderName>> {
        Some(Some(&TRACEPARENT))
    }

    fn put_line(&self, context: &SpanContext, out: &mut Vec<u8>) {
        out.extend_from_slice(line_of(context).bytes());
    }
}

fn line_of(context: &SpanContext) -> Line {
    let sampled = if context.state.is_sampled() {
        SAMPLED
    } else {
        0
    };
    let random = if context.random { RANDOM } else { 0 };
    Line::new()
        .push(b"00-")
        .push(context.trace_id.hex().as_bytes())
        .push(b"-")
        .push(context.span_id.hex().as_bytes())
        .push(b"-0")
        .push(&[b'0' + (sampled | random)])
}

fn parse(value: &[u8]) -> Option<SpanContext> {
    let (fields, rest) = value.split_at_checked(LEN)?;
    let [version] = wire::lower_hex(&fields[..2])?;
    let ends_well = match version {
        0x00 => rest.is_empty(),
        0xff => false,
        _ => rest.is_empty() || rest[0] == b'-',
    };
    if !ends_well || fields[2] != b'-' || fields[35] != b'-' || fields[52] != b'-' {
        return None;
    }
    let [flags] = wire::lower_hex(&fields[53..])?;
    let state = if flags & SAMPLED != 0 {
        SamplingState::Accept
    } else {
        SamplingState::Reject
    };
    let mut context = wire::context(
        wire::trace_id(&fields[3..35])?,
        wire::span_id(&fields[36..52])?,
        state,
    );
    // What the other bits of later versions mean is unknown.
    context.random = version == 0 && flags & RANDOM != 0;
    Some(context)
}

/// The most members in a list.
const MAX_MEMBERS: usize = 32;
/// 32 members of the longest key and value, with blanks to spare.
const MAX_TRACESTATE: usize = 20 * 1024;

/// Joins and checks the list; anything wrong with any member discards all of it.
fn read_tracestate(headers: &HeaderMap) -> TraceState {
    let values = headers.get_all(&TRACESTATE);
    let total: usize = values.iter().map(HeaderValue::len).sum();
    if total == 0 || total > MAX_TRACESTATE {
        return TraceState::default();
    }
    let mut n_members = 0;
    let mut list: SmallVec<[u8; 512]> = SmallVec::new();
    let members = values
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    for member in members
        .map(<[u8]>::trim_ascii)
        .filter(|member| !member.is_empty())
    {
        n_members += 1;
        if n_members > MAX_MEMBERS || !is_member(member) {
            return TraceState::default();
        }
        if !list.is_empty() {
            list.push(b',');
        }
        list.extend_from_slice(member);
    }
    let list = std::str::from_utf8(&list).unwrap_or_default();
    TraceState((!list.is_empty()).then(|| Arc::from(list)))
}

/// True when key and value keep Level 2's rules. Blanks around the member are gone already.
fn is_member(member: &[u8]) -> bool {
    let Some(equals) = member.iter().position(|byte| *byte == b'=') else {
        return false;
    };
    let (key, value) = (&member[..equals], &member[equals + 1..]);
    let is_key_char = |byte: &u8| is_key_start(*byte) || b"_-*/@".contains(byte);
    let is_value_char = |byte: &u8| matches!(byte, 0x20..=0x7e) && *byte != b'=';
    key.first().copied().is_some_and(is_key_start)
        && key.len() <= 256
        && key.iter().all(is_key_char)
        && (1..=256).contains(&value.len())
        && value.iter().all(is_value_char)
}

fn is_key_start(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

fn write_tracestate(list: &str, headers: &mut HeaderMap) {
    if list.is_empty() {
        wire::remove(&TRACESTATE, headers);
        return;
    }
    let mut present = headers.get_all(&TRACESTATE).iter();
    let is_there = present.next().is_some_and(|value| value == list) && present.next().is_none();
    if !is_there {
        wire::put(&TRACESTATE, list.as_bytes(), headers);
    }
}
