//! Captures of real clients, round trips through both protocols, and hostile bytes.

use serde_json::Value as Json;

use super::*;
use crate::codec::jaeger;
use crate::codec::tests::bare_span;
use crate::codec::tests::full_span;

macro_rules! data {
    ($name:literal) => {
        include_bytes!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/data/jaeger/",
            $name
        ))
    };
}

/// Name, bytes, protocol, the same decoded by Apache Thrift elsewhere.
type Capture = (&'static str, &'static [u8], Protocol, &'static [u8]);

const MESSAGES: &[Capture] = &[
    (
        "python, const sampler",
        data!("01-python-4.8.0-compact-oneway-const-sampler.bin"),
        Protocol::Compact,
        data!("01-python-4.8.0-compact-oneway-const-sampler.json"),
    ),
    (
        "python, remote sampler",
        data!("02-python-4.8.0-compact-oneway-remote-sampler.bin"),
        Protocol::Compact,
        data!("02-python-4.8.0-compact-oneway-remote-sampler.json"),
    ),
    (
        "node, every value field of every tag",
        data!("03-node-3.19.0-binary-oneway.bin"),
        Protocol::Binary,
        data!("03-node-3.19.0-binary-oneway.json"),
    ),
    (
        "opentelemetry python, 128 bits",
        data!("04-otel-python-1.21.0-compact-oneway-128bit.bin"),
        Protocol::Compact,
        data!("04-otel-python-1.21.0-compact-oneway-128bit.json"),
    ),
    (
        "compact call with statistics",
        data!("08-synthetic-compact-call-seqno-stats.bin"),
        Protocol::Compact,
        data!("08-synthetic-compact-call-seqno-stats.json"),
    ),
    (
        "strict binary call",
        data!("09-synthetic-binary-strict-call.bin"),
        Protocol::Binary,
        data!("09-synthetic-binary-strict-call.json"),
    ),
    (
        "non-strict binary call, the same content",
        data!("10-synthetic-binary-nonstrict-call.bin"),
        Protocol::Binary,
        data!("09-synthetic-binary-strict-call.json"),
    ),
];

const BATCHES: &[Capture] = &[
    (
        "node over HTTP",
        data!("05-node-3.19.0-http-batch-binary.body.bin"),
        Protocol::Binary,
        data!("05-node-3.19.0-http-batch-binary.json"),
    ),
    (
        "opentelemetry python over HTTP",
        data!("06-otel-python-1.21.0-http-batch-binary.body.bin"),
        Protocol::Binary,
        data!("06-otel-python-1.21.0-http-batch-binary.json"),
    ),
    (
        "synthetic over HTTP",
        data!("11-synthetic-http-batch-binary.body.bin"),
        Protocol::Binary,
        data!("11-synthetic-http-batch-binary.json"),
    ),
];

#[test]
fn captured_datagrams_decode_as_apache_thrift_decodes_them() {
    for (name, bytes, protocol, expected) in MESSAGES {
        let message = decode_message(bytes, *protocol, Limits::default())
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let expected: Json = serde_json::from_slice(expected).unwrap();
        assert_eq!(message.oneway, expected["type"] == "ONEWAY", "{name}");
        assert_eq!(expected["seqid"], message.sequence, "{name}");
        assert_same(&message.batch, &expected["batch"], name);
    }
}

#[test]
fn captured_bodies_decode_as_apache_thrift_decodes_them() {
    for (name, bytes, protocol, expected) in BATCHES {
        let batch = decode_batch(bytes, *protocol, Limits::default())
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let expected: Json = serde_json::from_slice(expected).unwrap();
        let expected = expected.get("batch").unwrap_or(&expected);
        assert_same(&batch, expected, name);
    }
}

#[test]
fn what_was_read_is_written_so_that_it_reads_the_same() {
    for (name, bytes, protocol, _) in MESSAGES {
        let message = decode_message(bytes, *protocol, Limits::default()).unwrap();
        let written = encode_message(&borrowed(&message.batch), 7, *protocol).unwrap();
        let again = decode_message(&written, *protocol, Limits::default()).unwrap();
        assert_eq!(again.batch, message.batch, "{name}");
        assert!(again.oneway, "{name}");
        assert_eq!(again.sequence, 7, "{name}");
    }
    // This exporter writes the fields we write; the others write empty lists or unused values too.
    let (_, bytes, protocol, _) = MESSAGES[3];
    let message = decode_message(bytes, protocol, Limits::default()).unwrap();
    let written = encode_message(&borrowed(&message.batch), message.sequence, protocol).unwrap();
    assert!(written == bytes, "not byte for byte the same");
}

#[test]
fn own_spans_survive_both_protocols() {
    for protocol in [Protocol::Compact, Protocol::Binary] {
        let batch = Batch {
            process: jaeger::process_of(&full_span().resource),
            spans: vec![jaeger::span_of(&full_span()), jaeger::span_of(&bare_span())],
            sequence: Some(3),
            stats: Some(ClientStats {
                full_queue: 1,
                too_large: 2,
                failed_to_emit: 3,
            }),
        };
        let bytes = encode_batch(&borrowed(&batch), protocol).unwrap();
        let read = decode_batch(&bytes, protocol, Limits::default()).unwrap();
        assert_eq!(read, batch, "{protocol:?}");
        let parts: usize = batch
            .spans
            .iter()
            .map(|span| span_len(span, protocol).unwrap())
            .sum();
        let overhead = bytes.len() - parts - process_len(&batch.process, protocol).unwrap();
        assert!(
            overhead < 70,
            "{protocol:?}: {overhead} bytes beside process and spans"
        );
    }
}

#[test]
fn other_methods_and_broken_messages_are_refused() {
    let good = MESSAGES[0].1;
    let zipkin: &[u8] = data!("12-synthetic-emitzipkinbatch-compact.bin");
    let reply = [&[0x82, 0x41], &good[2..]].concat();
    let version = [&[0x82, 0x82], &good[2..]].concat();
    let no_arguments = b"\x82\x81\x00\x09emitBatch\x00";
    for (bytes, protocol, why) in [
        (&[][..], Protocol::Compact, "empty"),
        (zipkin, Protocol::Compact, "emitZipkinBatch"),
        (&reply, Protocol::Compact, "a reply"),
        (&version, Protocol::Compact, "version 2"),
        (no_arguments, Protocol::Compact, "no batch"),
        (good, Protocol::Binary, "compact on the binary port"),
        (&good[..good.len() / 2], Protocol::Compact, "cut short"),
        (b"GET / HTTP/1.1\r\n\r\n", Protocol::Binary, "HTTP"),
    ] {
        assert!(
            decode_message(bytes, protocol, Limits::default()).is_err(),
            "{why}"
        );
    }
}

#[test]
fn unknown_fields_of_every_type_are_skipped() {
    // Batch { 1: process {}, 2: [], 20: unknown of each compact type, stop }.
    let unknown: &[(&[u8], &str)] = &[
        (&[0x01, 40], "true"),
        (&[0x02, 40], "false"),
        (&[0x03, 40, 9], "byte"),
        (&[0x04, 40, 2], "i16"),
        (&[0x05, 40, 2], "i32"),
        (&[0x06, 40, 2], "i64"),
        (&[0x07, 40, 0, 0, 0, 0, 0, 0, 0, 0], "double"),
        (&[0x08, 40, 1, b'x'], "string"),
        (&[0x09, 40, 0x21, 1, 2], "list of two booleans"),
        (&[0x0a, 40, 0x13, 5], "set of a byte"),
        (&[0x0b, 40, 1, 0x85, 1, b'k', 2], "map"),
        (&[0x0b, 40, 0], "empty map"),
        (&[0x0c, 40, 0x15, 4, 0], "struct"),
    ];
    for (field, why) in unknown {
        let mut bytes = vec![0x1c, 0x00, 0x19, 0x0c];
        bytes.extend_from_slice(field);
        bytes.push(0);
        let batch = decode_batch(&bytes, Protocol::Compact, Limits::default());
        assert_eq!(batch, Ok(Batch::default()), "{why}");
    }
}

#[test]
fn counts_and_lengths_that_the_bytes_cannot_back_are_refused() {
    let limits = Limits {
        spans: 5,
        parts: 20,
    };
    let mut spans = vec![0x1c, 0x00, 0x19, 0x6c];
    spans.extend([0; 6]);
    spans.push(0);
    let mut tags = vec![0x1c, 0x29, 0xfc, 30];
    tags.extend([0; 30]);
    tags.extend([0, 0]);
    for (bytes, error, why) in [
        (&spans[..], Some(DecodeError::TooMany("spans")), "six spans"),
        (
            &tags,
            Some(DecodeError::TooMany("attributes, events or links")),
            "thirty tags",
        ),
        (
            &[0x1c, 0x18, 0xff, 0xff, 0xff, 0xff, 0x07],
            None,
            "a string of 2 GiB",
        ),
        (
            &[0x1c, 0x00, 0x19, 0xfc, 0xff, 0xff, 0xff, 0xff, 0x07],
            None,
            "2^31 spans",
        ),
    ] {
        let result = decode_batch(bytes, Protocol::Compact, limits);
        match error {
            Some(error) => assert_eq!(result, Err(error), "{why}"),
            None => assert!(result.is_err(), "{why}"),
        }
    }
    let nested = [0x5c_u8].repeat(10_000);
    let result = decode_batch(&nested, Protocol::Compact, limits);
    assert_eq!(result, Err(DecodeError::TooDeep), "structs in structs");
}

#[test]
fn arbitrary_bytes_never_panic() {
    let mut random = fastrand::Rng::with_seed(43);
    for (_, seed, protocol, _) in MESSAGES.iter().chain(BATCHES) {
        for _ in 0..1_000 {
            let mut bytes = seed.to_vec();
            for _ in 0..random.usize(1..6) {
                let at = random.usize(..bytes.len());
                bytes[at] = random.u8(..);
            }
            bytes.truncate(random.usize(..=bytes.len()));
            drop(decode_message(&bytes, *protocol, Limits::default()));
            drop(decode_batch(&bytes, *protocol, Limits::default()));
        }
    }
}

fn borrowed(batch: &Batch) -> BatchRef<'_> {
    BatchRef {
        process: &batch.process,
        spans: &batch.spans,
        sequence: batch.sequence,
        stats: batch.stats.as_ref(),
    }
}

fn assert_same(batch: &Batch, expected: &Json, name: &str) {
    assert_eq!(
        expected["process"]["serviceName"],
        batch.process.service.as_str(),
        "{name}"
    );
    assert_tags(&batch.process.tags, &expected["process"]["tags"], name);
    let spans = expected["spans"].as_array().unwrap();
    assert_eq!(batch.spans.len(), spans.len(), "{name}");
    for (span, expected) in batch.spans.iter().zip(spans) {
        assert_eq!(expected["traceIdLow"], span.trace_id_low as i64, "{name}");
        assert_eq!(expected["traceIdHigh"], span.trace_id_high as i64, "{name}");
        assert_eq!(expected["spanId"], span.span_id as i64, "{name}");
        assert_eq!(
            expected["parentSpanId"], span.parent_span_id as i64,
            "{name}"
        );
        assert_eq!(expected["operationName"], span.operation.as_str(), "{name}");
        assert_eq!(expected["flags"], span.flags, "{name}");
        assert_eq!(expected["startTime"], span.start, "{name}");
        assert_eq!(expected["duration"], span.duration, "{name}");
        assert_tags(&span.tags, &expected["tags"], name);
        assert_eq!(span.logs.len(), length(&expected["logs"]), "{name}");
        for (place, log) in span.logs.iter().enumerate() {
            assert_eq!(
                expected["logs"][place]["timestamp"], log.timestamp,
                "{name}"
            );
            assert_tags(&log.fields, &expected["logs"][place]["fields"], name);
        }
        assert_eq!(
            span.references.len(),
            length(&expected["references"]),
            "{name}"
        );
        for (place, reference) in span.references.iter().enumerate() {
            let expected = &expected["references"][place];
            for (key, half) in [
                ("traceIdLow", reference.trace_id_low),
                ("traceIdHigh", reference.trace_id_high),
                ("spanId", reference.span_id),
            ] {
                assert_eq!(expected[key], half as i64, "{name}: {key}");
            }
            let follows = reference.kind == RefType::FollowsFrom;
            assert_eq!(expected["refType"] == "FOLLOWS_FROM", follows, "{name}");
        }
    }
    assert_eq!(expected["seqNo"].as_i64(), batch.sequence, "{name}");
    for (key, count) in [
        ("fullQueueDroppedSpans", batch.stats.map(|s| s.full_queue)),
        ("tooLargeDroppedSpans", batch.stats.map(|s| s.too_large)),
        ("failedToEmitSpans", batch.stats.map(|s| s.failed_to_emit)),
    ] {
        assert_eq!(expected["stats"][key].as_i64(), count, "{name}: {key}");
    }
}

fn assert_tags(tags: &[Tag], expected: &Json, name: &str) {
    assert_eq!(tags.len(), length(expected), "{name}");
    for (place, tag) in tags.iter().enumerate() {
        let expected = &expected[place];
        assert_eq!(expected["key"], tag.key.as_str(), "{name}");
        let (kind, same) = match &tag.value {
            TagValue::Str(text) => ("STRING", expected["vStr"] == text.as_str()),
            TagValue::Double(number) => ("DOUBLE", expected["vDouble"] == *number),
            TagValue::Bool(value) => ("BOOL", expected["vBool"] == *value),
            TagValue::Long(number) => ("LONG", expected["vLong"] == *number),
            TagValue::Binary(bytes) => {
                let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                ("BINARY", expected["vBinary"]["hex"] == hex)
            }
        };
        assert_eq!(expected["vType"], kind, "{name}: {}", tag.key);
        assert!(same, "{name}: {tag:?} is not {expected}");
    }
}

fn length(list: &Json) -> usize {
    list.as_array().map_or(0, Vec::len)
}
