//! A span as any system shows it, in one shape for all of them, and the one assertion that compares two of these.

use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value;
use prost::Message;
use serde_json::Value;
use serde_json::json;

use crate::support::collector::Collector;
use crate::support::jaeger;

/// Ids in hexadecimal, kinds in the words of OTLP, times in nanoseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) trace_id: String,
    pub(crate) span_id: String,
    /// Empty for a root.
    pub(crate) parent_id: String,
    pub(crate) service: String,
    pub(crate) name: String,
    pub(crate) kind: &'static str,
    pub(crate) is_error: bool,
    pub(crate) start: u64,
    pub(crate) end: u64,
}

/// Words of OTLP's enumeration, in its order.
const KINDS: [&str; 6] = [
    "unspecified",
    "internal",
    "server",
    "client",
    "producer",
    "consumer",
];

/// Fails unless both hold the same spans, whatever their order; times may differ by less than `step`.
pub(crate) fn assert_same(expected: &[Seen], found: &[Seen], step: Duration, wire: &str) {
    let sorted = |spans: &[Seen]| {
        let mut spans = spans.to_vec();
        spans.sort_by(|one, other| one.kind.cmp(other.kind));
        spans
    };
    let (expected, found) = (sorted(expected), sorted(found));
    assert_eq!(expected.len(), found.len(), "{wire}: {found:#?}");
    for (expected, found) in expected.iter().zip(&found) {
        for (expected, found) in [(expected.start, found.start), (expected.end, found.end)] {
            let step = (step.as_nanos() as u64).max(1);
            let apart = expected.abs_diff(found);
            assert!(
                apart < step,
                "{wire}: {expected} and {found} are {apart} ns apart"
            );
        }
        let (start, end) = (expected.start, expected.end);
        let found = Seen {
            start,
            end,
            ..found.clone()
        };
        assert_eq!(*expected, found, "{wire}");
    }
}

/// What a scripted collector received in OTLP, read by an independent decoder.
pub(crate) fn in_otlp(collector: &Collector) -> Vec<Seen> {
    let mut seen = Vec::new();
    for received in collector.received() {
        let request = ExportTraceServiceRequest::decode(&received.message()[..]).unwrap();
        for group in request.resource_spans {
            let service = service_of(&group.resource.unwrap_or_default().attributes);
            let spans = group.scope_spans.into_iter().flat_map(|scope| scope.spans);
            seen.extend(spans.map(|span| Seen {
                trace_id: hex(&span.trace_id),
                span_id: hex(&span.span_id),
                parent_id: hex(&span.parent_span_id),
                service: service.clone(),
                name: span.name,
                kind: KINDS[span.kind as usize],
                is_error: span.status.is_some_and(|status| status.code == 2),
                start: span.start_time_unix_nano,
                end: span.end_time_unix_nano,
            }));
        }
    }
    seen
}

fn service_of(attributes: &[KeyValue]) -> String {
    let named = attributes.iter().find(|pair| pair.key == "service.name");
    let value = named.and_then(|pair| pair.value.clone()?.value);
    match value {
        Some(any_value::Value::StringValue(text)) => text,
        _ => String::new(),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A span of OTLP's JSON with the attributes of its resource.
#[derive(Debug, Clone)]
pub(crate) struct JsonSpan {
    pub(crate) span: Value,
    pub(crate) resource: Value,
}

/// Every span in these lines of OTLP's JSON.
pub(crate) fn json_spans(lines: &str) -> Vec<JsonSpan> {
    let requests = lines
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut spans = Vec::new();
    for group in requests.flat_map(|request| list(&request["resourceSpans"]).to_vec()) {
        for scope in list(&group["scopeSpans"]) {
            spans.extend(list(&scope["spans"]).iter().map(|span| JsonSpan {
                span: span.clone(),
                resource: group["resource"].clone(),
            }));
        }
    }
    spans
}

impl JsonSpan {
    /// An attribute of the span as text; empty when absent.
    pub(crate) fn attribute(&self, key: &str) -> String {
        attribute(&self.span, key)
    }

    pub(crate) fn seen(&self) -> Seen {
        let span = &self.span;
        Seen {
            trace_id: text(&span["traceId"]),
            span_id: text(&span["spanId"]),
            parent_id: text(&span["parentSpanId"]),
            service: attribute(&self.resource, "service.name"),
            name: text(&span["name"]),
            kind: KINDS[span["kind"].as_u64().unwrap_or(0) as usize],
            is_error: span["status"]["code"] == 2,
            start: number(&span["startTimeUnixNano"]),
            end: number(&span["endTimeUnixNano"]),
        }
    }
}

fn attribute(of: &Value, key: &str) -> String {
    let mut pairs = list(&of["attributes"]).iter();
    let pair = pairs.find(|pair| pair["key"] == key);
    let value = pair.and_then(|pair| pair["value"].as_object()?.values().next());
    value.map(text).unwrap_or_default()
}

/// One trace of Jaeger's query API.
pub(crate) fn in_jaeger(trace: &Value) -> Vec<Seen> {
    let error = json!({ "key": "error", "type": "bool", "value": true });
    let seen = |span: &Value| {
        let references = list(&span["references"]);
        let parent = references.iter().find(|one| one["refType"] == "CHILD_OF");
        let process = &trace["processes"][span["processID"].as_str().unwrap()];
        let start = number(&span["startTime"]) * 1_000;
        Seen {
            trace_id: text(&span["traceID"]),
            span_id: text(&span["spanID"]),
            parent_id: parent.map(|one| text(&one["spanID"])).unwrap_or_default(),
            service: text(&process["serviceName"]),
            name: text(&span["operationName"]),
            kind: kind(jaeger::tag(span, "span.kind")),
            // Zipkin's own tag of this name may stand beside it, with a text.
            is_error: list(&span["tags"]).contains(&error),
            start,
            end: start + number(&span["duration"]) * 1_000,
        }
    };
    jaeger::spans(trace).iter().map(seen).collect()
}

/// One trace of Zipkin's query API.
pub(crate) fn in_zipkin(trace: &Value) -> Vec<Seen> {
    let seen = |span: &Value| {
        let start = number(&span["timestamp"]) * 1_000;
        Seen {
            trace_id: text(&span["traceId"]),
            span_id: text(&span["id"]),
            parent_id: text(&span["parentId"]),
            service: text(&span["localEndpoint"]["serviceName"]),
            name: text(&span["name"]),
            kind: kind(&span["kind"]),
            is_error: !span["tags"]["error"].is_null(),
            start,
            end: start + number(&span["duration"]) * 1_000,
        }
    };
    list(trace).iter().map(seen).collect()
}

fn kind(word: &Value) -> &'static str {
    let word = text(word).to_lowercase();
    KINDS.iter().find(|kind| **kind == word).unwrap_or(&"none")
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// Texts as they are, numbers in digits, nothing for what is absent.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

fn number(value: &Value) -> u64 {
    text(value).parse().unwrap_or(0)
}
