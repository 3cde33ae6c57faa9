//! Jaeger's query JSON: what its UI shows, what its upload accepts, what `GET /api/traces` answers inside `data`.
//!
//! Shape of a trace: `{traceID, spans: [...], processes: {p1: {serviceName, tags}}, warnings: null}`. Ids are 16 hex digits, trace
//! ids 32 when the high half is not zero; times are microseconds; integers beyond ±2^53 are texts.
//! Source: jaeger@v2.20.0 `internal/uimodel/model.go` and its converter.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::Value as Json;
use serde_json::json;

use crate::codec::jaeger;
use crate::codec::thrift;
use crate::codec::thrift::RefType;
use crate::codec::thrift::Tag;
use crate::codec::thrift::TagValue;
use crate::model::Span;
use crate::model::TraceId;

/// One trace in Jaeger's query form.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Trace {
    /// Hex.
    #[serde(rename = "traceID")]
    pub trace_id: String,
    /// In the order given.
    pub spans: Vec<Json>,
    /// `p1`, `p2`, ... to service name and tags.
    pub processes: serde_json::Map<String, Json>,
    /// Always `null` here.
    pub warnings: Option<Vec<String>>,
}

/// Builds one trace from spans that all belong to it; `None` without spans.
///
/// A child's parent becomes its first `CHILD_OF` reference; links become `FOLLOWS_FROM` references.
pub fn trace(spans: &[Arc<Span>]) -> Option<Trace> {
    let first = spans.first()?;
    let mut trace = Trace {
        trace_id: trace_id_text(first.context.trace_id),
        spans: Vec::with_capacity(spans.len()),
        processes: serde_json::Map::new(),
        warnings: None,
    };
    for (place, group) in jaeger::groups(spans).into_iter().enumerate() {
        let process_id = format!("p{}", place + 1);
        for span in &group.spans {
            trace.spans.push(span_json(span, &process_id));
        }
        let process = json!({
            "serviceName": group.process.service,
            "tags": tags_json(&group.process.tags),
        });
        trace.processes.insert(process_id, process);
    }
    Some(trace)
}

/// Wraps traces as the query API answers them and as the UI's upload reads them: `{data: [...], total, limit, ...}`.
pub fn answer(traces: &[Trace]) -> Json {
    json!({ "data": traces, "total": traces.len(), "limit": 0, "offset": 0, "errors": null })
}

/// A trace id as Jaeger writes it: 16 digits when the high half is zero, else 32.
pub fn trace_id_text(trace_id: TraceId) -> String {
    if trace_id.high() == 0 {
        trace_id.low_hex().to_string()
    } else {
        trace_id.to_string()
    }
}

fn span_json(span: &thrift::Span, process_id: &str) -> Json {
    let trace_id = halves_text(span.trace_id_high, span.trace_id_low);
    let mut references = Vec::with_capacity(span.references.len() + 1);
    if span.parent_span_id != 0 {
        let parent = format!("{:016x}", span.parent_span_id);
        references.push(json!({ "refType": "CHILD_OF", "traceID": trace_id, "spanID": parent }));
    }
    for reference in &span.references {
        let kind = match reference.kind {
            RefType::ChildOf => "CHILD_OF",
            RefType::FollowsFrom => "FOLLOWS_FROM",
        };
        references.push(json!({
            "refType": kind,
            "traceID": halves_text(reference.trace_id_high, reference.trace_id_low),
            "spanID": format!("{:016x}", reference.span_id),
        }));
    }
    let logs: Vec<_> = span
        .logs
        .iter()
        .map(|log| json!({ "timestamp": log.timestamp, "fields": tags_json(&log.fields) }))
        .collect();
    json!({
        "traceID": trace_id,
        "spanID": format!("{:016x}", span.span_id),
        "flags": span.flags,
        "operationName": span.operation,
        "references": references,
        "startTime": span.start,
        "duration": span.duration,
        "tags": tags_json(&span.tags),
        "logs": logs,
        "processID": process_id,
        "warnings": null,
    })
}

fn halves_text(high: u64, low: u64) -> String {
    if high == 0 {
        format!("{low:016x}")
    } else {
        format!("{high:016x}{low:016x}")
    }
}

fn tags_json(tags: &[Tag]) -> Vec<Json> {
    tags.iter().map(tag_json).collect()
}

fn tag_json(tag: &Tag) -> Json {
    let (kind, value) = match &tag.value {
        TagValue::Str(text) => ("string", json!(text)),
        TagValue::Bool(value) => ("bool", json!(value)),
        TagValue::Long(number) if number.unsigned_abs() <= MAX_EXACT => ("int64", json!(number)),
        TagValue::Long(number) => ("int64", json!(number.to_string())),
        // JSON has no NaN and no infinity; their text is what people can read.
        TagValue::Double(number) if number.is_finite() => ("float64", json!(number)),
        TagValue::Double(number) => ("float64", json!(number.to_string())),
        TagValue::Binary(bytes) => ("binary", json!(STANDARD.encode(bytes))),
    };
    json!({ "key": tag.key, "type": kind, "value": value })
}

/// The largest integer that a browser reads exactly: 2^53 - 1.
const MAX_EXACT: u64 = (1 << 53) - 1;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::tests::bare_span;
    use crate::codec::tests::full_span;

    #[test]
    fn a_trace_as_the_query_api_answers_it() {
        let trace = trace(&[Arc::new(full_span())]).unwrap();
        let json = answer(&[trace]);
        assert_eq!(json["total"], 1);
        let trace = &json["data"][0];
        assert_eq!(trace["traceID"], "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(trace["processes"]["p1"]["serviceName"], "svc-a");
        assert_eq!(trace["processes"]["p1"]["tags"][0]["key"], "host.name");
        let span = &trace["spans"][0];
        assert_eq!(span["spanID"], "bda7d714c4652197");
        assert_eq!(span["processID"], "p1");
        assert_eq!(span["startTime"], 1_795_165_654_108_055_u64);
        assert_eq!(span["duration"], 1_500);
        assert_eq!(span["references"][0]["refType"], "CHILD_OF");
        assert_eq!(span["references"][0]["spanID"], "b29a2a6e589ef16b");
        assert_eq!(span["references"][1]["refType"], "FOLLOWS_FROM");
        assert_eq!(span["references"][1]["traceID"], "0000000000000001");
        let tag = |key: &str| {
            let tags = span["tags"].as_array().unwrap();
            tags.iter().find(|tag| tag["key"] == key).cloned().unwrap()
        };
        assert_eq!(
            tag("negative"),
            json!({"key": "negative", "type": "int64", "value": -1})
        );
        assert_eq!(tag("big")["value"], "9223372036854775807", "beyond 2^53");
        assert_eq!(tag("bytes")["type"], "binary");
        assert_eq!(tag("error")["value"], true);
    }

    #[test]
    fn short_ids_stay_short_and_nothing_is_no_trace() {
        let trace = trace(&[Arc::new(bare_span())]).unwrap();
        assert_eq!(trace.trace_id, "0000000000000001");
        assert_eq!(trace.spans[0]["references"], json!([]));
        assert_eq!(super::trace(&[]), None);
    }
}
