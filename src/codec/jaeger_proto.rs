//! Jaeger's protobuf model (`jaeger.api_v2`): batches for `CollectorService/PostSpans`.
//!
//! Made from the same translation as the Thrift batches, so that every Jaeger wire says the same.
//! Source: jaegertracing/jaeger-idl `proto/api_v2/collector.proto`, `model.proto`.

use prost::Message;

use crate::codec::jaeger::Group;
use crate::codec::thrift;
use crate::codec::thrift::RefType;
use crate::codec::thrift::TagValue;

/// One group as a `PostSpansRequest`.
pub fn encode(group: &Group) -> Vec<u8> {
    let batch = Batch {
        spans: group.spans.iter().map(span_of).collect(),
        process: Some(Process {
            service_name: group.process.service.to_string(),
            tags: group.process.tags.iter().map(key_value).collect(),
        }),
    };
    PostSpansRequest { batch: Some(batch) }.encode_to_vec()
}

fn span_of(span: &thrift::Span) -> Span {
    let own_trace = trace_id(span.trace_id_high, span.trace_id_low);
    // There is no field for the parent: it is the first reference of its kind to the same trace.
    let parent = (span.parent_span_id != 0).then(|| SpanRef {
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
    /// Stands in for the batch's; never written.
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
