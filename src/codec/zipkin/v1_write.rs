//! Spans as Zipkin's first version wants them: edges of calls as moments, tags and the other side as values.
//!
//! Source: jaeger-idl `thrift/zipkincore.thrift`; openzipkin/zipkin `V1SpanConverter.java`.

use std::sync::Arc;

use bytes::Bytes;

use crate::codec::thrift;
use crate::codec::thrift::Annotation;
use crate::codec::thrift::BinaryAnnotation;
use crate::codec::thrift::EncodeError;
use crate::codec::thrift::Host;
use crate::codec::thrift::ZipkinSpan;
use crate::codec::zipkin::Endpoint;
use crate::codec::zipkin::annotation;
use crate::codec::zipkin::remote_endpoint;
use crate::codec::zipkin::tags;
use crate::model;
use crate::model::Kind;
use crate::model::Timestamp;

/// `AnnotationType` of texts and of the one value that stands for an address.
const STRING: i32 = 6;
const BOOL: i32 = 0;

/// The spans as the Thrift list that `/api/v1/spans` takes.
///
/// # Errors
/// [`EncodeError`], in theory.
pub fn encode_v1_thrift(spans: &[Arc<model::Span>]) -> Result<Vec<u8>, EncodeError> {
    let spans: Vec<_> = spans.iter().map(|span| v1(span)).collect();
    thrift::encode_zipkin_list(&spans)
}

fn v1(span: &model::Span) -> ZipkinSpan {
    let host = Host {
        service: span.resource.service.clone(),
        ..Host::default()
    };
    let moment = |timestamp, value: &str| Annotation {
        timestamp,
        value: value.into(),
        host: Some(host.clone()),
    };
    let mut annotations: Vec<_> = edges(span)
        .into_iter()
        .map(|(time, value)| moment(micros(time), value))
        .collect();
    annotations.extend(span.events.iter().map(|event| {
        let event = annotation(event);
        moment(
            i64::try_from(event.timestamp).unwrap_or(i64::MAX),
            &event.value,
        )
    }));
    let text = |key: &str, value: String| BinaryAnnotation {
        key: key.into(),
        value: Bytes::from(value),
        kind: STRING,
        host: Some(host.clone()),
    };
    let mut values: Vec<_> = tags(span)
        .into_iter()
        .map(|(key, value)| text(key, value))
        .collect();
    if span.kind == Kind::Internal {
        // Without a moment or a value of ours nobody would know whose span it is.
        values.push(text("lc", String::new()));
    }
    values.extend(remote_endpoint(span).map(|endpoint| BinaryAnnotation {
        key: other_side(span.kind).into(),
        value: Bytes::from_static(&[1]),
        kind: BOOL,
        host: Some(host_of(endpoint)),
    }));
    let trace_id = span.context.trace_id;
    ZipkinSpan {
        trace_id: trace_id.low(),
        trace_id_high: trace_id.high(),
        id: span.context.span_id.to_u64(),
        parent_id: span.parent.map_or(0, |id| id.to_u64()),
        name: span.name.clone(),
        annotations,
        values,
        debug: span.is_debug(),
        timestamp: micros(span.start),
        // Zero would mean that the duration is unknown.
        duration: i64::try_from(span.duration_nanos() / 1_000)
            .unwrap_or(i64::MAX)
            .max(1),
    }
}

/// The moments that make a span a side of a call or of a message.
fn edges(span: &model::Span) -> Vec<(Timestamp, &'static str)> {
    match span.kind {
        Kind::Internal => Vec::new(),
        Kind::Server => vec![(span.start, "sr"), (span.end, "ss")],
        Kind::Client => vec![(span.start, "cs"), (span.end, "cr")],
        Kind::Producer => vec![(span.start, "ms")],
        Kind::Consumer => vec![(span.start, "mr")],
    }
}

fn other_side(kind: Kind) -> &'static str {
    match kind {
        Kind::Server => "ca",
        Kind::Producer | Kind::Consumer => "ma",
        Kind::Client | Kind::Internal => "sa",
    }
}

fn host_of(endpoint: Endpoint) -> Host {
    Host {
        service: endpoint.service_name.into(),
        ipv4: endpoint.ipv4.map_or(0, u32::from),
        ipv6: endpoint
            .ipv6
            .map(|address| Bytes::copy_from_slice(&address.octets()))
            .unwrap_or_default(),
        port: endpoint.port.unwrap_or(0),
    }
}

fn micros(time: Timestamp) -> i64 {
    i64::try_from(time.micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Limits;
    use crate::codec::tests::full_span;
    use crate::codec::zipkin::decode_v1_thrift;
    use crate::model::Attribute;

    #[test]
    fn every_kind_is_read_as_it_was_written() {
        for kind in [
            Kind::Internal,
            Kind::Server,
            Kind::Client,
            Kind::Producer,
            Kind::Consumer,
        ] {
            let mut span = full_span();
            span.kind = kind;
            span.attributes
                .push(Attribute::new("service.peer.name", "stock"));
            let bytes = encode_v1_thrift(&[Arc::new(span.clone())]).unwrap();
            let mut intern = |resource| Arc::new(resource);
            let read = decode_v1_thrift(&bytes, Limits::default(), &mut intern).unwrap();
            assert_eq!((read.spans.len(), read.rejected), (1, 0), "{kind:?}");
            let read = &read.spans[0];
            assert_eq!(read.kind, kind);
            assert_eq!(read.context.trace_id, span.context.trace_id);
            assert_eq!(read.context.span_id, span.context.span_id);
            assert_eq!(read.parent, span.parent);
            assert_eq!(read.name, span.name);
            assert_eq!(read.start.micros(), span.start.micros());
            assert_eq!(read.duration_nanos(), span.duration_nanos(), "{kind:?}");
            assert_eq!(read.resource.service, span.resource.service, "{kind:?}");
            assert_eq!(read.events.len(), 1, "{kind:?}");
            let status = read.attribute("http.response.status_code");
            assert_eq!(status.and_then(|value| value.as_str()), Some("503"));
        }
    }
}
