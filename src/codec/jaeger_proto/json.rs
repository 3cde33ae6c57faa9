//! One span of Jaeger's model in the JSON that protobuf gives it, as its collectors write to Kafka.
//!
//! Source: jaegertracing/jaeger-idl `proto/api_v2/model.proto`; protobuf, "ProtoJSON Format".

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use super::FOLLOWS_FROM;
use super::KeyValue;
use super::Moment;
use super::Process;
use super::Span;
use super::SpanRef;
use crate::codec::json_span::rfc3339;
use crate::model::Timestamp;

pub(super) fn span(span: &Span) -> Value {
    json!({
        "traceId": STANDARD.encode(&span.trace_id),
        "spanId": STANDARD.encode(&span.span_id),
        "operationName": span.operation_name,
        "references": span.references.iter().map(reference).collect::<Vec<_>>(),
        "flags": span.flags,
        "startTime": timestamp(span.start_time.unwrap_or_default()),
        "duration": duration(span.duration.unwrap_or_default()),
        "tags": pairs(&span.tags),
        "logs": span.logs.iter().map(|log| json!({
            "timestamp": timestamp(log.timestamp.unwrap_or_default()),
            "fields": pairs(&log.fields),
        })).collect::<Vec<_>>(),
        "process": span.process.as_ref().map(process),
    })
}

fn process(process: &Process) -> Value {
    json!({ "serviceName": process.service_name, "tags": pairs(&process.tags) })
}

fn reference(other: &SpanRef) -> Value {
    let kind = match other.ref_type {
        FOLLOWS_FROM => "FOLLOWS_FROM",
        _ => "CHILD_OF",
    };
    json!({
        "traceId": STANDARD.encode(&other.trace_id),
        "spanId": STANDARD.encode(&other.span_id),
        "refType": kind,
    })
}

fn pairs(pairs: &[KeyValue]) -> Vec<Value> {
    pairs.iter().map(pair).collect()
}

/// Large numbers are text, and so are those that JSON has no number for.
fn pair(pair: &KeyValue) -> Value {
    let (kind, key, value) = match pair.v_type {
        1 => ("BOOL", "vBool", json!(pair.v_bool)),
        2 => ("INT64", "vInt64", json!(pair.v_int64.to_string())),
        3 if pair.v_float64.is_nan() => ("FLOAT64", "vFloat64", json!("NaN")),
        3 if pair.v_float64.is_infinite() => {
            let sign = if pair.v_float64 > 0.0 { "" } else { "-" };
            ("FLOAT64", "vFloat64", json!(format!("{sign}Infinity")))
        }
        3 => ("FLOAT64", "vFloat64", json!(pair.v_float64)),
        4 => ("BINARY", "vBinary", json!(STANDARD.encode(&pair.v_binary))),
        _ => ("STRING", "vStr", json!(pair.v_str)),
    };
    let mut object = Map::new();
    object.insert("key".to_owned(), json!(pair.key));
    object.insert("vType".to_owned(), json!(kind));
    object.insert(key.to_owned(), value);
    Value::Object(object)
}

fn duration(length: Moment) -> String {
    format!("{}.{:09}s", length.seconds, length.nanos)
}

fn timestamp(moment: Moment) -> String {
    let seconds = u64::try_from(moment.seconds).unwrap_or(0);
    let nanos = u64::try_from(moment.nanos).unwrap_or(0);
    rfc3339(Timestamp(
        seconds.saturating_mul(1_000_000_000).saturating_add(nanos),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_written_as_protobufs_json_wants_them() {
        let moment = Moment {
            seconds: 3,
            nanos: 20_000,
        };
        assert_eq!(duration(moment), "3.000020000s");
        assert_eq!(timestamp(moment), "1970-01-01T00:00:03.000020Z");
    }

    #[test]
    fn numbers_that_json_has_not_are_text() {
        for (number, text) in [
            (f64::NAN, r#""NaN""#),
            (f64::NEG_INFINITY, r#""-Infinity""#),
            (1.5, "1.5"),
        ] {
            let tag = KeyValue {
                v_type: 3,
                v_float64: number,
                ..KeyValue::default()
            };
            assert_eq!(pair(&tag)["vFloat64"].to_string(), text);
        }
    }
}
