//! Jaeger's protobuf model (`jaeger.api_v2`): batches for `CollectorService/PostSpans`, both ways.
//!
//! Made from the same translation as the Thrift batches, so that every Jaeger wire says the same.
//! Source: jaegertracing/jaeger-idl `proto/api_v2/collector.proto`, `model.proto`.

mod json;

use prost::Message;

use crate::codec::DecodeError;
use crate::codec::Limits;
use crate::codec::jaeger::Group;
use crate::codec::limits::Budget;
use crate::codec::otlp::wire::Field;
use crate::codec::otlp::wire::Reader;
use crate::codec::thrift;
use crate::codec::thrift::RefType;
use crate::codec::thrift::TagValue;

/// One group as a `PostSpansRequest`.
pub fn encode(group: &Group) -> Vec<u8> {
    let batch = Batch {
        spans: group.spans.iter().map(span_of).collect(),
        process: Some(process_of(&group.process)),
    };
    PostSpansRequest { batch: Some(batch) }.encode_to_vec()
}

/// One span with its process, as Jaeger's ingesters read it from Kafka: in protobuf.
pub fn encode_span(process: &thrift::Process, span: &thrift::Span) -> Vec<u8> {
    whole(process, span).encode_to_vec()
}

/// The same in protobuf's JSON.
pub fn encode_span_json(process: &thrift::Process, span: &thrift::Span) -> Vec<u8> {
    json::span(&whole(process, span)).to_string().into_bytes()
}

fn whole(process: &thrift::Process, span: &thrift::Span) -> Span {
    Span {
        process: Some(process_of(process)),
        ..span_of(span)
    }
}

fn process_of(process: &thrift::Process) -> Process {
    Process {
        service_name: process.service.to_string(),
        tags: process.tags.iter().map(key_value).collect(),
    }
}

fn span_of(span: &thrift::Span) -> Span {
    let own_trace = trace_id(span.trace_id_high, span.trace_id_low);
    // There is no field for the parent: it is the first reference of its kind to the same trace.
    let named = span.references.iter().any(|other| {
        other.span_id == span.parent_span_id
            && (other.trace_id_high, other.trace_id_low) == (span.trace_id_high, span.trace_id_low)
    });
    let parent = (span.parent_span_id != 0 && !named).then(|| SpanRef {
        trace_id: own_trace.clone(),
        span_id: span.parent_span_id.to_be_bytes().to_vec(),
        ref_type: CHILD_OF,
    });
    let others = span.references.iter().map(|other| SpanRef {
        trace_id: trace_id(other.trace_id_high, other.trace_id_low),
        span_id: other.span_id.to_be_bytes().to_vec(),
        ref_type: match other.kind {
            RefType::ChildOf => CHILD_OF,
            RefType::FollowsFrom => FOLLOWS_FROM,
        },
    });
    Span {
        trace_id: own_trace,
        span_id: span.span_id.to_be_bytes().to_vec(),
        operation_name: span.operation.to_string(),
        references: parent.into_iter().chain(others).collect(),
        flags: span.flags.cast_unsigned(),
        start_time: Some(moment(span.start)),
        duration: Some(moment(span.duration)),
        tags: span.tags.iter().map(key_value).collect(),
        logs: span
            .logs
            .iter()
            .map(|log| Log {
                timestamp: Some(moment(log.timestamp)),
                fields: log.fields.iter().map(key_value).collect(),
            })
            .collect(),
        process: None,
    }
}

fn trace_id(high: u64, low: u64) -> Vec<u8> {
    [high.to_be_bytes(), low.to_be_bytes()].concat()
}

/// Microseconds as a timestamp or a duration, which look the same on the wire.
fn moment(micros: i64) -> Moment {
    Moment {
        seconds: micros.div_euclid(1_000_000),
        nanos: (micros.rem_euclid(1_000_000) * 1_000) as i32,
    }
}

fn key_value(tag: &thrift::Tag) -> KeyValue {
    let mut pair = KeyValue {
        key: tag.key.to_string(),
        ..KeyValue::default()
    };
    match &tag.value {
        TagValue::Str(text) => pair.v_str = text.to_string(),
        TagValue::Bool(value) => (pair.v_type, pair.v_bool) = (1, *value),
        TagValue::Long(number) => (pair.v_type, pair.v_int64) = (2, *number),
        TagValue::Double(number) => (pair.v_type, pair.v_float64) = (3, *number),
        TagValue::Binary(bytes) => (pair.v_type, pair.v_binary) = (4, bytes.to_vec()),
    }
    pair
}

/// Reads a `PostSpansRequest`: a batch for the request's process, and one more for each other process that a span names
/// in its place.
///
/// # Errors
/// [`DecodeError`]: the whole request is refused.
pub fn decode(bytes: &[u8], limits: Limits) -> Result<Vec<thrift::Batch>, DecodeError> {
    charge(bytes, &mut Budget::new(limits))?;
    let request =
        PostSpansRequest::decode(bytes).map_err(|_| DecodeError::Malformed("PostSpansRequest"))?;
    let batch = request.batch.unwrap_or_default();
    let shared = batch.process.unwrap_or_default();
    let mut batches: Vec<(Process, thrift::Batch)> = Vec::new();
    for mut span in batch.spans {
        let own = span.process.take();
        let process = own.as_ref().unwrap_or(&shared);
        let span = thrift_span(span);
        // Neighbours mostly share their process.
        match batches.last_mut().filter(|(known, _)| known == process) {
            Some((_, batch)) => batch.spans.push(span),
            None => {
                let batch = thrift::Batch {
                    process: thrift::Process {
                        service: process.service_name.as_str().into(),
                        tags: process.tags.iter().cloned().map(thrift_tag).collect(),
                    },
                    spans: vec![span],
                    ..thrift::Batch::default()
                };
                batches.push((process.clone(), batch));
            }
        }
    }
    Ok(batches.into_iter().map(|(_, batch)| batch).collect())
}

/// Charges every element before the structs are made. A span's own process counts as often as it may be copied.
fn charge(request: &[u8], budget: &mut Budget) -> Result<(), DecodeError> {
    each(request, 1, &mut |batch| {
        each(batch, 1, &mut |span| {
            budget.span()?;
            let mut parts = Reader::new(span);
            while let Some((number, field)) = parts.next()? {
                budget.part()?;
                if let (9 | 10, Field::Delimited(nested)) = (number, field) {
                    let mut fields = Reader::new(nested);
                    while fields.next()?.is_some() {
                        budget.part()?;
                    }
                }
            }
            Ok(())
        })?;
        each(batch, 2, &mut |process| {
            let mut fields = Reader::new(process);
            while fields.next()?.is_some() {
                budget.part()?;
            }
            Ok(())
        })
    })
}

/// Every nested message under this number.
fn each(
    message: &[u8],
    wanted: u32,
    visit: &mut dyn FnMut(&[u8]) -> Result<(), DecodeError>,
) -> Result<(), DecodeError> {
    let mut reader = Reader::new(message);
    while let Some((number, field)) = reader.next()? {
        if let Field::Delimited(bytes) = field
            && number == wanted
        {
            visit(bytes)?;
        }
    }
    Ok(())
}

fn thrift_span(span: Span) -> thrift::Span {
    let (trace_id_high, trace_id_low) = halves(&span.trace_id);
    thrift::Span {
        trace_id_low,
        trace_id_high,
        span_id: halves(&span.span_id).1,
        // The first reference says it.
        parent_span_id: 0,
        operation: span.operation_name.into(),
        references: span.references.iter().map(thrift_reference).collect(),
        flags: span.flags.cast_signed(),
        start: micros(span.start_time),
        duration: micros(span.duration),
        tags: span.tags.into_iter().map(thrift_tag).collect(),
        logs: span
            .logs
            .into_iter()
            .map(|log| thrift::Log {
                timestamp: micros(log.timestamp),
                fields: log.fields.into_iter().map(thrift_tag).collect(),
            })
            .collect(),
    }
}

fn thrift_reference(other: &SpanRef) -> thrift::SpanRef {
    let (trace_id_high, trace_id_low) = halves(&other.trace_id);
    thrift::SpanRef {
        kind: match other.ref_type {
            FOLLOWS_FROM => RefType::FollowsFrom,
            _ => RefType::ChildOf,
        },
        trace_id_low,
        trace_id_high,
        span_id: halves(&other.span_id).1,
    }
}

/// 16 or 8 bytes; anything else is no id, hence zero.
fn halves(bytes: &[u8]) -> (u64, u64) {
    if let Ok(bytes) = <[u8; 16]>::try_from(bytes) {
        let number = u128::from_be_bytes(bytes);
        return ((number >> 64) as u64, number as u64);
    }
    (0, <[u8; 8]>::try_from(bytes).map_or(0, u64::from_be_bytes))
}

fn micros(moment: Option<Moment>) -> i64 {
    let moment = moment.unwrap_or_default();
    let micros = i64::from(moment.nanos) / 1_000;
    moment
        .seconds
        .saturating_mul(1_000_000)
        .saturating_add(micros)
}

fn thrift_tag(pair: KeyValue) -> thrift::Tag {
    let value = match pair.v_type {
        0 => TagValue::Str(pair.v_str.into()),
        1 => TagValue::Bool(pair.v_bool),
        2 => TagValue::Long(pair.v_int64),
        3 => TagValue::Double(pair.v_float64),
        4 => TagValue::Binary(pair.v_binary.into()),
        other => TagValue::Str(format!("Unknown VType: {other}").into()),
    };
    thrift::Tag {
        key: pair.key.into(),
        value,
    }
}

const CHILD_OF: i32 = 0;
const FOLLOWS_FROM: i32 = 1;

#[derive(Clone, PartialEq, prost::Message)]
struct PostSpansRequest {
    #[prost(message, optional, tag = "1")]
    batch: Option<Batch>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Batch {
    #[prost(message, repeated, tag = "1")]
    spans: Vec<Span>,
    #[prost(message, optional, tag = "2")]
    process: Option<Process>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Process {
    #[prost(string, tag = "1")]
    service_name: String,
    #[prost(message, repeated, tag = "2")]
    tags: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Span {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    span_id: Vec<u8>,
    #[prost(string, tag = "3")]
    operation_name: String,
    #[prost(message, repeated, tag = "4")]
    references: Vec<SpanRef>,
    #[prost(uint32, tag = "5")]
    flags: u32,
    #[prost(message, optional, tag = "6")]
    start_time: Option<Moment>,
    #[prost(message, optional, tag = "7")]
    duration: Option<Moment>,
    #[prost(message, repeated, tag = "8")]
    tags: Vec<KeyValue>,
    #[prost(message, repeated, tag = "9")]
    logs: Vec<Log>,
    /// Stands in for the batch's; written where a span travels by itself.
    #[prost(message, optional, tag = "10")]
    process: Option<Process>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct SpanRef {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    span_id: Vec<u8>,
    #[prost(int32, tag = "3")]
    ref_type: i32,
}

/// `google.protobuf.Timestamp` and `Duration`.
#[derive(Clone, Copy, PartialEq, prost::Message)]
struct Moment {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Log {
    #[prost(message, optional, tag = "1")]
    timestamp: Option<Moment>,
    #[prost(message, repeated, tag = "2")]
    fields: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct KeyValue {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(int32, tag = "2")]
    v_type: i32,
    #[prost(string, tag = "3")]
    v_str: String,
    #[prost(bool, tag = "4")]
    v_bool: bool,
    #[prost(int64, tag = "5")]
    v_int64: i64,
    #[prost(double, tag = "6")]
    v_float64: f64,
    #[prost(bytes = "vec", tag = "7")]
    v_binary: Vec<u8>,
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::codec::jaeger;
    use crate::codec::tests::full_span;

    #[test]
    fn a_real_exporters_request_is_read_to_its_last_byte() {
        let body =
            include_bytes!("../../tests/data/jaeger/07-otel-python-1.21.0-grpc-postspans.bin");
        let request = PostSpansRequest::decode(&body[..]).unwrap();
        assert_eq!(
            request.encoded_len(),
            body.len(),
            "no field was passed over"
        );
        let batch = request.batch.unwrap();
        assert!(!batch.spans.is_empty());
        for span in &batch.spans {
            assert_eq!((span.trace_id.len(), span.span_id.len()), (16, 8));
            let start = span.start_time.unwrap();
            assert!(start.seconds > 1_600_000_000);
            let process = span.process.as_ref().or(batch.process.as_ref());
            assert!(process.is_some_and(|process| !process.service_name.is_empty()));
        }
    }

    #[test]
    fn parents_are_references_and_values_keep_their_types() {
        let groups = jaeger::groups(&[Arc::new(full_span())]);
        let request = PostSpansRequest::decode(&encode(&groups[0])[..]).unwrap();
        let batch = request.batch.unwrap();
        let span = &batch.spans[0];
        assert_eq!(span.references[0].ref_type, CHILD_OF);
        assert_eq!(span.references[0].trace_id, span.trace_id);
        assert_eq!(
            span.references[0].span_id,
            0xb29a_2a6e_589e_f16b_u64.to_be_bytes()
        );
        assert_eq!(span.references[1].ref_type, FOLLOWS_FROM);
        assert_eq!(
            span.duration,
            Some(Moment {
                seconds: 0,
                nanos: 1_500_000
            })
        );
        let tag = |key: &str| span.tags.iter().find(|tag| tag.key == key).unwrap();
        assert_eq!((tag("big").v_type, tag("big").v_int64), (2, i64::MAX));
        assert_eq!((tag("ratio").v_type, tag("ratio").v_float64), (3, 0.5));
        assert_eq!((tag("yes").v_type, tag("yes").v_bool), (1, true));
        assert_eq!((tag("bytes").v_type, tag("bytes").v_binary.len()), (4, 3));
        assert_eq!(batch.process.unwrap().service_name, "svc-a");
    }

    #[test]
    fn a_captured_request_and_one_of_ours_come_back_as_batches() {
        let body =
            include_bytes!("../../tests/data/jaeger/07-otel-python-1.21.0-grpc-postspans.bin");
        let batches = decode(body, Limits::default()).unwrap();
        // As its description says: two spans of one process, the second the parent of the first.
        let [batch] = &batches[..] else {
            panic!("{batches:?}");
        };
        assert_eq!(batch.process.service, "otel-grpc-demo");
        let spans = jaeger::received(batch.clone(), &mut Arc::new).spans;
        let ids: Vec<_> = spans
            .iter()
            .map(|span| {
                let trace = span.context.trace_id.to_string();
                assert_eq!(trace, "e0041525b79eff41a14c02707a3957f8");
                let parent = span.parent.map(|id| id.to_string());
                (span.name.as_str(), span.context.span_id.to_string(), parent)
            })
            .collect();
        let (client, server) = ("7d03b19079d204a4", "dfa5ac3b7cfe6013");
        assert_eq!(
            ids,
            [
                ("client", client.to_owned(), Some(server.to_owned())),
                ("GET /a", server.to_owned(), None)
            ]
        );
        let groups = jaeger::groups(&[Arc::new(full_span())]);
        let again = decode(&encode(&groups[0]), Limits::default()).unwrap();
        let span = &again[0].spans[0];
        assert_eq!(again[0].process, groups[0].process);
        assert_eq!(span.tags, groups[0].spans[0].tags);
        assert_eq!(span.references.len(), 2, "the parent leads");
        let back = jaeger::received(again[0].clone(), &mut Arc::new).spans;
        assert_eq!(back[0].parent, full_span().parent);
        assert_eq!(back[0].links.len(), 1);
    }

    #[test]
    fn requests_beyond_the_limits_are_refused() {
        let limits = Limits { spans: 2, parts: 9 };
        for (bytes, why) in [
            (&[0x0a, 0x09][..], "a length beyond the end"),
            (&[0x0a, 6, 0x0a, 0, 0x0a, 0, 0x0a, 0], "three spans"),
            (
                &[
                    0x0a, 22, 0x12, 20, 0x12, 0, 0x12, 0, 0x12, 0, 0x12, 0, 0x12, 0, 0x12, 0, 0x12,
                    0, 0x12, 0, 0x12, 0, 0x12, 0,
                ],
                "ten tags of a process",
            ),
        ] {
            assert!(decode(bytes, limits).is_err(), "{why}");
        }
        assert_eq!(decode(&[], limits), Ok(Vec::new()));
    }

    #[test]
    fn times_before_the_epoch_keep_positive_nanos() {
        assert_eq!(
            moment(-1),
            Moment {
                seconds: -1,
                nanos: 999_999_000
            }
        );
        assert_eq!(
            moment(1_500_000),
            Moment {
                seconds: 1,
                nanos: 500_000_000
            }
        );
    }
}
