//! The writer against the message structs and an independent decoder; the reader against captures and hostile bytes.

use std::sync::Arc;

use bytes::BytesMut;
use opentelemetry_proto::tonic as theirs;
use prost::Message;

use super::*;
use crate::codec::DecodeError;
use crate::codec::Limits;
use crate::codec::otlp::message::ExportTraceServiceRequest;
use crate::codec::tests::bare_span;
use crate::codec::tests::full_span;
use crate::model::Kind;
use crate::model::Span;
use crate::model::Status;
use crate::model::Text;
use crate::model::Value;

type Theirs = theirs::collector::trace::v1::ExportTraceServiceRequest;

fn batch() -> Vec<Arc<Span>> {
    let full = Arc::new(full_span());
    let mut other = full_span();
    other.resource = Arc::new(Resource {
        service: "svc-b".into(),
        attributes: Vec::new(),
        scope: None,
    });
    other.status = Status::Ok;
    other.kind = Kind::Server;
    let mut equal = full_span();
    equal.resource = Arc::new((*full.resource).clone());
    equal.name = "x".repeat(300).into();
    vec![
        full,
        Arc::new(other),
        Arc::new(bare_span()),
        Arc::new(equal),
    ]
}

fn encoded(spans: &[Arc<Span>]) -> BytesMut {
    let mut out = BytesMut::new();
    encode(spans, &mut out);
    let mut within = BytesMut::new();
    assert!(encode_within(spans, out.len(), &mut within));
    assert_eq!(within, out);
    if let Some(less) = out.len().checked_sub(1) {
        assert!(!encode_within(spans, less, &mut within), "a byte too many");
        assert_eq!(within, out, "and nothing is written");
    }
    out
}

#[test]
fn the_direct_writer_and_the_messages_agree_byte_for_byte() {
    let spans = batch();
    assert_eq!(
        encoded(&spans),
        ExportTraceServiceRequest::of(&spans).encode_to_vec()
    );
    assert!(encoded(&[]).is_empty());
}

#[test]
fn an_independent_decoder_reads_what_was_written() {
    let request = Theirs::decode(encoded(&batch())).unwrap();
    assert_eq!(request.resource_spans.len(), 3, "grouped by resource");
    let first = &request.resource_spans[0];
    let resource = first.resource.as_ref().unwrap();
    assert_eq!(resource.attributes[0].key, "service.name");
    let scope = first.scope_spans[0].scope.as_ref().unwrap();
    assert_eq!(scope.name, "pillion");
    let spans = &first.scope_spans[0].spans;
    assert_eq!(spans.len(), 2, "equal resources are one group");
    let span = &spans[0];
    assert_eq!(span.trace_id, full_span().context.trace_id.bytes());
    assert_eq!(
        span.parent_span_id,
        [0xb2, 0x9a, 0x2a, 0x6e, 0x58, 0x9e, 0xf1, 0x6b]
    );
    assert_eq!(span.trace_state, "vendor=1");
    assert_eq!(span.kind, 3);
    assert_eq!(
        span.flags, 0x303,
        "sampled, random, parent known to be remote"
    );
    assert_eq!(
        span.end_time_unix_nano - span.start_time_unix_nano,
        1_500_000
    );
    let status = span.status.as_ref().unwrap();
    assert_eq!((status.code, status.message.as_str()), (2, "boom"));
    assert_eq!(span.attributes.len(), 10);
    assert_eq!(span.events[0].attributes[0].key, "n");
    assert_eq!(span.links[0].span_id, [0, 0, 0, 0, 0, 0, 0, 2]);
}

#[test]
fn spans_come_back_as_they_were() {
    for spans in [batch(), vec![Arc::new(bare_span())]] {
        let decoded = decode(&encoded(&spans), Limits::default()).unwrap();
        assert_eq!(decoded.rejected, 0);
        let mut expected: Vec<Span> = spans.iter().map(|span| (**span).clone()).collect();
        // Grouping moves the span with the equal resource up to its sibling.
        if expected.len() == 4 {
            let equal = expected.remove(3);
            expected.insert(1, equal);
        }
        assert_eq!(decoded.spans, expected);
        let json = decode_json(&encode_json(&spans), Limits::default()).unwrap();
        assert_eq!(json.spans, expected, "JSON");
    }
}

#[test]
fn captures_of_real_exporters_are_understood() {
    let plain = include_bytes!("../../../tests/data/otlp/01-python-1.45.1-http-protobuf.body.bin");
    let grpc = include_bytes!("../../../tests/data/otlp/04-python-1.45.1-grpc-export.bin");
    let js = include_bytes!("../../../tests/data/otlp/03-js-0.223.1-http-json-chunked.body.json");
    for (name, decoded) in [
        ("protobuf", decode(plain, Limits::default())),
        ("grpc", decode(grpc, Limits::default())),
        ("json", decode_json(js, Limits::default())),
    ] {
        let decoded = decoded.unwrap();
        assert_eq!((decoded.spans.len(), decoded.rejected), (2, 0), "{name}");
        let [client, server] = &decoded.spans[..] else {
            panic!("{name}");
        };
        assert_eq!(client.parent, Some(server.context.span_id), "{name}");
        assert_eq!(client.kind, Kind::Client);
        assert_eq!(server.kind, Kind::Server);
        assert_eq!(server.name, "GET /users/{id}");
        assert_eq!(client.resource.service, "svc-a");
        assert!(matches!(client.status, Status::Error(_)), "{name}");
        assert_eq!(client.links.len(), 1, "{name}");
        assert_eq!(server.events[0].attribute_i64("n"), Some(-1));
        assert_eq!(
            server.attribute("http.request.header.x-a"),
            Some(&Value::StrList(["1".into(), "2".into()].into())),
            "{name}"
        );
        let scope = client.resource.scope.as_ref();
        assert_eq!(scope.map(|scope| scope.name.as_str()), Some("demo"));
        assert!(client.start < client.end);
    }
}

impl crate::model::Event {
    fn attribute_i64(&self, key: &str) -> Option<i64> {
        let attribute = self
            .attributes
            .iter()
            .find(|attribute| attribute.key == key)?;
        attribute.value.as_i64()
    }
}

#[test]
fn captures_say_what_their_descriptions_say() {
    macro_rules! data {
        ($name:literal) => {
            include_str!(concat!("../../../tests/data/otlp/", $name))
        };
    }
    let plain = include_bytes!("../../../tests/data/otlp/01-python-1.45.1-http-protobuf.body.bin");
    let grpc = include_bytes!("../../../tests/data/otlp/04-python-1.45.1-grpc-export.bin");
    for (bytes, description) in [
        (&plain[..], data!("01-python-1.45.1-http-protobuf.json")),
        (grpc, data!("04-python-1.45.1-grpc-export.json")),
    ] {
        // They name what OTLP's own JSON has numbers for.
        let mut json = description.to_owned();
        for (name, number) in [
            ("SPAN_KIND_SERVER", "2"),
            ("SPAN_KIND_CLIENT", "3"),
            ("STATUS_CODE_ERROR", "2"),
        ] {
            json = json.replace(&format!("\"{name}\""), number);
        }
        let described = decode_json(json.as_bytes(), Limits::default()).unwrap();
        let decoded = decode(bytes, Limits::default()).unwrap();
        assert_eq!(decoded.spans.len(), 2);
        assert_eq!(decoded, described);
    }
}

#[test]
fn where_the_parent_ran_is_read_or_follows_from_the_kind() {
    let good = ExportTraceServiceRequest::of(&[Arc::new(bare_span())]);
    for (flags, kind, parent, expected, why) in [
        (0x300, 1, 1, true, "said to be remote"),
        (0x100, 2, 1, false, "said to be local, though a server's"),
        (0, 2, 1, true, "a server's, nothing said"),
        (1, 5, 1, true, "a consumer's, nothing said"),
        (0, 3, 1, false, "a client's, nothing said"),
        (0, 2, 0, false, "a root"),
    ] {
        let mut request = good.clone();
        let span = &mut request.resource_spans[0].scope_spans[0].spans[0];
        (span.flags, span.kind) = (flags, kind);
        span.parent_span_id = vec![parent; 8];
        let decoded = decode(&request.encode_to_vec(), Limits::default()).unwrap();
        assert_eq!(decoded.spans[0].remote_parent, expected, "{why}");
    }
}

#[test]
fn the_gzip_capture_is_the_plain_one_compressed() {
    let gzip =
        include_bytes!("../../../tests/data/otlp/02-python-1.45.1-http-protobuf-gzip.body.bin");
    let mut plain = Vec::new();
    std::io::copy(&mut flate2::read::GzDecoder::new(&gzip[..]), &mut plain).unwrap();
    assert_eq!(decode(&plain, Limits::default()).unwrap().spans.len(), 2);
}

#[test]
fn spans_without_valid_ids_are_rejected_one_by_one() {
    let good = ExportTraceServiceRequest::of(&[Arc::new(bare_span())]);
    let with = |change: &dyn Fn(&mut message::Span)| {
        let mut request = good.clone();
        change(&mut request.resource_spans[0].scope_spans[0].spans[0]);
        decode(&request.encode_to_vec(), Limits::default()).unwrap()
    };
    for (decoded, why) in [
        (with(&|span| span.trace_id = vec![0; 16]), "zero trace id"),
        (with(&|span| span.trace_id = vec![1; 8]), "short trace id"),
        (with(&|span| span.trace_id.clear()), "no trace id"),
        (with(&|span| span.span_id = vec![0; 8]), "zero span id"),
        (with(&|span| span.span_id = vec![1; 9]), "long span id"),
        (
            with(&|span| span.parent_span_id = vec![1; 4]),
            "short parent",
        ),
    ] {
        assert_eq!((decoded.spans.len(), decoded.rejected), (0, 1), "{why}");
    }
    let zero_parent = with(&|span| span.parent_span_id = vec![0; 8]);
    assert_eq!(zero_parent.spans[0].parent, None, "a zero parent is a root");
}

#[test]
fn values_beyond_the_model_become_json_text() {
    use message::any_value::Value as Any;
    let any = |value| message::AnyValue { value: Some(value) };
    let pair = |key: &str, value| message::KeyValue {
        key: key.to_owned(),
        value: Some(any(value)),
    };
    let mut request = ExportTraceServiceRequest::of(&[Arc::new(bare_span())]);
    let span = &mut request.resource_spans[0].scope_spans[0].spans[0];
    let numbers = message::ArrayValue {
        values: vec![any(Any::Int(1)), any(Any::Bool(true))],
    };
    let map = message::KeyValueList {
        values: vec![
            pair("a", Any::Array(numbers.clone())),
            pair("b", Any::String("x".into())),
        ],
    };
    span.attributes = vec![
        pair("numbers", Any::Array(numbers)),
        pair("map", Any::Kvlist(map)),
        pair("none", Any::Array(message::ArrayValue::default())),
    ];
    let decoded = decode(&request.encode_to_vec(), Limits::default()).unwrap();
    let text = |key| decoded.spans[0].attribute(key).and_then(Value::as_str);
    assert_eq!(text("numbers"), Some("[1,true]"));
    assert_eq!(text("map"), Some(r#"{"a":[1,true],"b":"x"}"#));
    assert_eq!(
        decoded.spans[0].attribute("none"),
        Some(&Value::StrList([].into()))
    );
}

#[test]
fn hostile_requests_are_refused_within_their_limits() {
    let limits = Limits {
        spans: 10,
        parts: 100,
    };
    // Field 1 (resource_spans) > field 2 (scope_spans) > field 2 (span), each span two bytes of nothing.
    let nest = |field: u8, content: &[u8]| {
        let mut out = BytesMut::new();
        super::wire::put_bytes(&mut out, u32::from(field), content);
        out
    };
    let empty_spans = [0x12_u8, 0x00].repeat(11);
    let spans = nest(1, &nest(2, &empty_spans));
    assert_eq!(decode(&spans, limits), Err(DecodeError::TooMany("spans")));
    let attributes = nest(1, &nest(2, &nest(2, &[0x4a_u8, 0x00].repeat(101))));
    assert!(matches!(
        decode(&attributes, limits),
        Err(DecodeError::TooMany(_))
    ));
    let mut deep = BytesMut::from(&[0x10_u8, 0x01][..]);
    for _ in 0..200 {
        deep = nest(5, &nest(1, &deep));
    }
    let deep = nest(1, &nest(2, &nest(2, &nest(9, &nest(2, &deep)))));
    assert_eq!(decode(&deep, limits), Err(DecodeError::TooDeep));
    for (bytes, why) in [(&[0x0a, 0x7f, 0][..], "cut short"), (b"hello", "text")] {
        assert!(decode(bytes, limits).is_err(), "{why}");
    }
    let objects = format!("{{\"resourceSpans\":[{}]}}", vec!["{}"; 400].join(","));
    assert!(
        decode_json(objects.as_bytes(), limits).is_err(),
        "many objects"
    );
    let nested = "[".repeat(100_000);
    assert!(decode_json(nested.as_bytes(), limits).is_err(), "nesting");
}

#[test]
fn arbitrary_bytes_never_panic() {
    let mut random = fastrand::Rng::with_seed(42);
    let seed = encoded(&batch());
    let json = encode_json(&batch());
    for _ in 0..3_000 {
        for (bytes, is_json) in [(&seed[..], false), (&json[..], true)] {
            let mut bytes = bytes.to_vec();
            for _ in 0..random.usize(1..8) {
                let at = random.usize(..bytes.len());
                bytes[at] = random.u8(..);
            }
            bytes.truncate(random.usize(..=bytes.len()));
            if is_json {
                drop(decode_json(&bytes, Limits::default()));
            } else {
                drop(decode(&bytes, Limits::default()));
            }
        }
    }
}

#[test]
fn a_resource_arrives_no_larger_than_it_can_be_repeated() {
    let mut span = bare_span();
    span.resource = Arc::new(Resource {
        attributes: vec![Attribute::new("big", Text::from("n".repeat(1 << 20)))],
        ..(*span.resource).clone()
    });
    let mut bytes = BytesMut::new();
    encode(&[Arc::new(span)], &mut bytes);
    let decoded = decode(&bytes, Limits::default()).unwrap();
    assert_eq!(decoded.spans[0].resource.attributes, []);
}
