//! Datadog: `x-datadog-trace-id`, `-parent-id`, `-sampling-priority`, `-origin`, `-tags`, baggage as `ot-baggage-*`.
//!
//! Ids are decimal and 64 bits wide; the high half of a trace id stands in the tag `_dd.p.tid`, and one that is malformed
//! is left out. Priorities say more than yes and no (2 and -1 are a user's word): the number is kept beside the decision
//! and leaves again unless the decision changed. Origin and the other `_dd.p.*` tags leave as they came.
//! Source: dd-trace-py `ddtrace/propagation/http.py`.

use std::fmt::Write;

use http::HeaderMap;
use http::HeaderName;

use crate::codec::datadog;
use crate::model::BaggageItem;
use crate::model::Carried;
use crate::model::SamplingState;
use crate::model::SpanContext;
use crate::model::SpanId;
use crate::model::Text;
use crate::model::TraceId;
use crate::propagation::ExtractError;
use crate::propagation::Format;
use crate::propagation::Found;
use crate::propagation::Items;
use crate::propagation::Start;
use crate::propagation::ottrace;
use crate::propagation::wire;

static TRACE_ID: HeaderName = HeaderName::from_static("x-datadog-trace-id");
static PARENT_ID: HeaderName = HeaderName::from_static("x-datadog-parent-id");
static PRIORITY: HeaderName = HeaderName::from_static("x-datadog-sampling-priority");
static ORIGIN: HeaderName = HeaderName::from_static("x-datadog-origin");
static TAGS: HeaderName = HeaderName::from_static("x-datadog-tags");
static ALL: [&HeaderName; 5] = [&TRACE_ID, &PARENT_ID, &PRIORITY, &ORIGIN, &TAGS];

/// The longest decimal number of 64 bits, sign and blanks.
const MAX_NUMBER: usize = 40;
/// What tracers write at most.
const MAX_TAGS: usize = 512;
const HIGH_HALF: &str = "_dd.p.tid=";

/// The format `datadog`.
pub(super) struct Datadog;

impl Format for Datadog {
    fn name(&self) -> &'static str {
        "datadog"
    }

    fn reads(&self) -> &'static [&'static HeaderName] {
        &ALL
    }

    fn prefixes(&self) -> &'static [&'static str] {
        &[ottrace::BAGGAGE]
    }

    fn writes(&self) -> &'static [&'static HeaderName] {
        &ALL
    }

    fn extract(&self, headers: &HeaderMap) -> Result<Option<Found>, ExtractError> {
        let priority = read_number(&PRIORITY, headers)?;
        let state = match priority {
            None => SamplingState::Defer,
            Some(priority) if priority > 0 => SamplingState::Accept,
            Some(_) => SamplingState::Reject,
        };
        let Some(trace) = wire::single(&TRACE_ID, MAX_NUMBER, headers)? else {
            return Ok(priority.map(|_| Found::Decision(state)));
        };
        let tags = wire::single(&TAGS, MAX_TAGS, headers).unwrap_or(None);
        let (high, tags) = split_tags(tags.unwrap_or_default());
        let low = wire::decimal_bytes(trace).filter(|low| *low != 0);
        let low = low.ok_or(ExtractError::Malformed("x-datadog-trace-id"))?;
        let trace_id = TraceId::from_halves(high, low);
        let trace_id = trace_id.ok_or(ExtractError::Malformed("x-datadog-trace-id"))?;
        let parent = match wire::single(&PARENT_ID, MAX_NUMBER, headers)? {
            None => 0,
            Some(digits) => {
                wire::decimal_bytes(digits).ok_or(ExtractError::Malformed("x-datadog-parent-id"))?
            }
        };
        let carried = carried(priority, headers, tags);
        Ok(Some(match SpanId::from_u64(parent) {
            Some(span_id) => {
                let mut context = wire::context(trace_id, span_id, state);
                context.carried = carried;
                Found::Parent(context)
            }
            None => Found::Start(Start {
                trace_id,
                state,
                carried,
            }),
        }))
    }

    fn baggage(&self, headers: &HeaderMap, items: &mut Items) -> Result<(), ExtractError> {
        ottrace::read_baggage(headers, items)
    }

    fn inject(&self, context: &SpanContext, headers: &mut HeaderMap) {
        let number = |number: u64| number.to_string();
        let trace = number(context.trace_id.low());
        wire::put(&TRACE_ID, trace.as_bytes(), headers);
        let parent = number(context.span_id.to_u64());
        wire::put(&PARENT_ID, parent.as_bytes(), headers);
        let kept = |key| context.carried.get(key).map(Text::as_str);
        wire::put_or_remove(&PRIORITY, priority_of(context), headers);
        wire::put_or_remove(&ORIGIN, kept(datadog::ORIGIN), headers);
        let mut tags = kept(datadog::TAGS).unwrap_or_default().to_owned();
        if context.trace_id.high() != 0 {
            let separator = if tags.is_empty() { "" } else { "," };
            let high = context.trace_id.high();
            // Writing into a String cannot fail.
            write!(tags, "{separator}{HIGH_HALF}{high:016x}").ok();
        }
        let tags = (!tags.is_empty()).then_some(tags.as_str());
        wire::put_or_remove(&TAGS, tags, headers);
    }

    fn inject_baggage(&self, items: &[BaggageItem], headers: &mut HeaderMap) {
        ottrace::write_baggage(items, headers);
    }
}

/// The kept priority where it still says what was decided.
fn priority_of(context: &SpanContext) -> Option<&str> {
    let kept = context.carried.get(datadog::PRIORITY).map(Text::as_str);
    let is_rejection = kept.is_some_and(|priority| priority.starts_with('-'));
    match context.state {
        SamplingState::Accept => kept.filter(|_| !is_rejection).or(Some("1")),
        SamplingState::Debug => Some("2"),
        SamplingState::Reject => kept.filter(|_| is_rejection).or(Some("0")),
        SamplingState::Defer => None,
    }
}

fn carried(priority: Option<i64>, headers: &HeaderMap, tags: String) -> Carried {
    let priority = priority.filter(|priority| ![0, 1].contains(priority));
    let priority = priority.map(|priority| (datadog::PRIORITY, Text::from(priority.to_string())));
    let origin = wire::single(&ORIGIN, MAX_TAGS, headers).ok().flatten();
    let origin = origin.and_then(|origin| std::str::from_utf8(origin).ok());
    let origin = origin.filter(|origin| !origin.is_empty());
    let origin = origin.map(|origin| (datadog::ORIGIN, Text::new(origin)));
    let tags = (!tags.is_empty()).then(|| (datadog::TAGS, Text::from(tags)));
    priority.into_iter().chain(origin).chain(tags).collect()
}

/// The high half of the trace id, 0 where it is absent or malformed, and the other tags that are to be passed on.
fn split_tags(tags: &[u8]) -> (u64, String) {
    let mut high = 0;
    let mut others = String::new();
    for tag in std::str::from_utf8(tags).unwrap_or_default().split(',') {
        if let Some(digits) = tag.strip_prefix(HIGH_HALF) {
            high = wire::lower_hex(digits.as_bytes()).map_or(0, u64::from_be_bytes);
        } else if tag.starts_with("_dd.p.") && tag.contains('=') {
            if !others.is_empty() {
                others.push(',');
            }
            others.push_str(tag);
        }
    }
    (high, others)
}

fn read_number(
    name: &'static HeaderName,
    headers: &HeaderMap,
) -> Result<Option<i64>, ExtractError> {
    let Some(value) = wire::single(name, MAX_NUMBER, headers)? else {
        return Ok(None);
    };
    let number = std::str::from_utf8(value).ok().and_then(|v| v.parse().ok());
    number
        .map(Some)
        .ok_or(ExtractError::Malformed(name.as_str()))
}
