//! One span as one line of JSON, for people, `jq` and log shippers.
//!
//! Shape: `time` (RFC 3339, UTC, µs), `trace_id`, `span_id`, `parent_span_id`, `service`, `name`, `kind`, `duration_ms`,
//! `status`, `status_description`, `attributes`, `events`, `links`, `resource`; empty parts are left out. Bytes are base64.

use std::fmt::Write as _;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde::Serializer;
use serde::ser::SerializeMap;

use crate::model::Attribute;
use crate::model::Event;
use crate::model::Link;
use crate::model::Span;
use crate::model::Status;
use crate::model::Timestamp;
use crate::model::Value;

/// Appends the span as one line, line feed included.
pub fn write_line(span: &Span, out: &mut Vec<u8>) {
    // Writing plain structs into a Vec cannot fail.
    let written = serde_json::to_writer(&mut *out, &Line::of(span));
    debug_assert!(written.is_ok());
    out.push(b'\n');
}

#[derive(Serialize)]
struct Line<'a> {
    time: String,
    trace_id: String,
    span_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent_span_id: Option<String>,
    service: &'a str,
    name: &'a str,
    kind: &'static str,
    duration_ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'static str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    status_description: &'a str,
    #[serde(skip_serializing_if = "Attributes::is_empty")]
    attributes: Attributes<'a>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    events: Vec<EventLine<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    links: Vec<LinkLine<'a>>,
    #[serde(skip_serializing_if = "Attributes::is_empty")]
    resource: Attributes<'a>,
}

#[derive(Serialize)]
struct EventLine<'a> {
    time: String,
    name: &'a str,
    #[serde(skip_serializing_if = "Attributes::is_empty")]
    attributes: Attributes<'a>,
}

#[derive(Serialize)]
struct LinkLine<'a> {
    trace_id: String,
    span_id: String,
    #[serde(skip_serializing_if = "Attributes::is_empty")]
    attributes: Attributes<'a>,
}

impl<'a> Line<'a> {
    fn of(span: &'a Span) -> Self {
        let (status, status_description) = match &span.status {
            Status::Unset => (None, ""),
            Status::Ok => (Some("ok"), ""),
            Status::Error(description) => (Some("error"), description.as_str()),
        };
        Self {
            time: rfc3339(span.start),
            trace_id: span.context.trace_id.to_string(),
            span_id: span.context.span_id.to_string(),
            parent_span_id: span.parent.map(|id| id.to_string()),
            service: &span.resource.service,
            name: &span.name,
            kind: span.kind.name(),
            duration_ms: span.duration_nanos() as f64 / 1e6,
            status,
            status_description,
            attributes: Attributes(&span.attributes),
            events: span.events.iter().map(EventLine::of).collect(),
            links: span.links.iter().map(LinkLine::of).collect(),
            resource: Attributes(&span.resource.attributes),
        }
    }
}

impl<'a> EventLine<'a> {
    fn of(event: &'a Event) -> Self {
        Self {
            time: rfc3339(event.time),
            name: &event.name,
            attributes: Attributes(&event.attributes),
        }
    }
}

impl<'a> LinkLine<'a> {
    fn of(link: &'a Link) -> Self {
        Self {
            trace_id: link.trace_id.to_string(),
            span_id: link.span_id.to_string(),
            attributes: Attributes(&link.attributes),
        }
    }
}

struct Attributes<'a>(&'a [Attribute]);

impl Attributes<'_> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for Attributes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for Attribute { key, value } in self.0 {
            match value {
                Value::Str(text) => map.serialize_entry(key, text)?,
                Value::Bool(value) => map.serialize_entry(key, value)?,
                Value::I64(number) => map.serialize_entry(key, number)?,
                Value::F64(number) => map.serialize_entry(key, number)?,
                Value::Bytes(bytes) => map.serialize_entry(key, &STANDARD.encode(bytes))?,
                Value::StrList(texts) => map.serialize_entry(key, texts)?,
            }
        }
        map.end()
    }
}

/// `2026-11-20T11:52:02.123456Z`.
pub(super) fn rfc3339(time: Timestamp) -> String {
    let seconds = time.0 / 1_000_000_000;
    let (year, month, day) = civil(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60);
    let micros = time.micros() % 1_000_000;
    let mut text = String::with_capacity(27);
    let written = write!(
        text,
        "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z"
    );
    debug_assert!(written.is_ok());
    text
}

/// Year, month and day of a day since the epoch in the Gregorian calendar; the year begins in March on the way, so that
/// the leap day is its last.
fn civil(days: u64) -> (u64, u64, u64) {
    const DAYS_IN_400_YEARS: u64 = 146_097;
    // 1970-01-01 is day 719,468 of a calendar that begins on 0000-03-01.
    let days = days + 719_468;
    let era = days / DAYS_IN_400_YEARS;
    let day_of_era = days % DAYS_IN_400_YEARS;
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_utc_with_microseconds() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (951_782_400, "2000-02-29T00:00:00.000000Z"),
            (1_709_251_199, "2024-02-29T23:59:59.000000Z"),
            (1_735_689_599, "2024-12-31T23:59:59.000000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000000Z"),
        ] {
            assert_eq!(rfc3339(Timestamp(seconds * 1_000_000_000)), text);
        }
        assert_eq!(rfc3339(Timestamp(1_999)), "1970-01-01T00:00:00.000001Z");
        assert!(!rfc3339(Timestamp(u64::MAX)).is_empty());
    }

    #[test]
    fn a_span_is_one_line_that_json_tools_read() {
        let span = crate::codec::tests::full_span();
        let mut line = Vec::new();
        write_line(&span, &mut line);
        assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
        let parsed: serde_json::Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(parsed["trace_id"], "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(parsed["duration_ms"], 1.5);
        assert_eq!(parsed["status"], "error");
        assert_eq!(parsed["attributes"]["http.response.status_code"], 503);
        assert_eq!(parsed["attributes"]["list"][1], "b");
        assert_eq!(parsed["events"][0]["name"], "step\nwith a line break");
    }
}
