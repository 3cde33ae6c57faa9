//! Zipkin's `ListOfSpans` in proto3.
//!
//! Source: openzipkin/zipkin-api `zipkin.proto`.

use std::collections::HashMap;
use std::sync::Arc;

use prost::Message;

use crate::codec::zipkin;
use crate::model;

/// The spans as one `ListOfSpans`.
pub fn encode_proto(spans: &[Arc<model::Span>]) -> Vec<u8> {
    let spans = spans.iter().map(|span| proto_of(span)).collect();
    ListOfSpans { spans }.encode_to_vec()
}

fn proto_of(span: &model::Span) -> Span {
    let plain = zipkin::Span::of(span);
    let trace_id = span.context.trace_id;
    Span {
        trace_id: if trace_id.high() == 0 {
            trace_id.low().to_be_bytes().to_vec()
        } else {
            trace_id.bytes().to_vec()
        },
        parent_id: span.parent.map_or_else(Vec::new, |id| id.bytes().to_vec()),
        id: span.context.span_id.bytes().to_vec(),
        kind: match span.kind {
            model::Kind::Internal => 0,
            model::Kind::Client => 1,
            model::Kind::Server => 2,
            model::Kind::Producer => 3,
            model::Kind::Consumer => 4,
        },
        name: plain.name.to_owned(),
        timestamp: plain.timestamp,
        duration: plain.duration,
        local_endpoint: Some(endpoint(plain.local_endpoint)),
        remote_endpoint: plain.remote_endpoint.map(endpoint),
        annotations: plain
            .annotations
            .into_iter()
            .map(|annotation| Annotation {
                timestamp: annotation.timestamp,
                value: annotation.value,
            })
            .collect(),
        tags: plain
            .tags
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value))
            .collect(),
        debug: plain.debug,
        shared: plain.shared,
    }
}

fn endpoint(plain: zipkin::Endpoint) -> Endpoint {
    Endpoint {
        service_name: plain.service_name,
        ipv4: plain.ipv4.map_or_else(Vec::new, |ip| ip.octets().to_vec()),
        ipv6: plain.ipv6.map_or_else(Vec::new, |ip| ip.octets().to_vec()),
        port: plain.port.map_or(0, i32::from),
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct ListOfSpans {
    #[prost(message, repeated, tag = "1")]
    spans: Vec<Span>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Span {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) parent_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    pub(super) id: Vec<u8>,
    #[prost(int32, tag = "4")]
    pub(super) kind: i32,
    #[prost(string, tag = "5")]
    pub(super) name: String,
    #[prost(fixed64, tag = "6")]
    pub(super) timestamp: u64,
    #[prost(uint64, tag = "7")]
    pub(super) duration: u64,
    #[prost(message, optional, tag = "8")]
    pub(super) local_endpoint: Option<Endpoint>,
    #[prost(message, optional, tag = "9")]
    pub(super) remote_endpoint: Option<Endpoint>,
    #[prost(message, repeated, tag = "10")]
    pub(super) annotations: Vec<Annotation>,
    #[prost(map = "string, string", tag = "11")]
    pub(super) tags: HashMap<String, String>,
    #[prost(bool, tag = "12")]
    pub(super) debug: bool,
    #[prost(bool, tag = "13")]
    pub(super) shared: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Endpoint {
    #[prost(string, tag = "1")]
    pub(super) service_name: String,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) ipv4: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    pub(super) ipv6: Vec<u8>,
    #[prost(int32, tag = "4")]
    pub(super) port: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Annotation {
    #[prost(fixed64, tag = "1")]
    pub(super) timestamp: u64,
    #[prost(string, tag = "2")]
    pub(super) value: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::tests::full_span;

    #[test]
    fn a_real_exporters_list_is_read_to_its_last_byte() {
        let body =
            include_bytes!("../../../tests/data/zipkin/02-otel-python-1.21.0-v2-proto3.body.bin");
        let list = ListOfSpans::decode(&body[..]).unwrap();
        assert_eq!(list.spans.len(), 2);
        assert!(
            list.spans
                .iter()
                .all(|span| span.trace_id.len() == 16 && span.id.len() == 8)
        );
        assert!(
            list.spans
                .iter()
                .any(|span| span.kind == 2 && !span.tags.is_empty())
        );
        assert_eq!(list.encoded_len(), body.len(), "no field was passed over");
    }

    #[test]
    fn both_spellings_say_the_same() {
        let body = encode_proto(&[Arc::new(full_span())]);
        let span = ListOfSpans::decode(&body[..]).unwrap().spans.remove(0);
        assert_eq!((span.kind, span.duration), (1, 1_500));
        assert_eq!(span.tags["error"], "boom");
        assert_eq!(span.local_endpoint.unwrap().service_name, "svc-a");
        assert_eq!(span.parent_id, 0xb29a_2a6e_589e_f16b_u64.to_be_bytes());
        assert_eq!(span.annotations.len(), 1);
    }
}
