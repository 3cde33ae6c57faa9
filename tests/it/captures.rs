//! Every capture of a real client in tests/data: it is read, written and read again with the same meaning, and where the
//! client writes as we do, byte for byte. What a capture must mean stands in the decoder's own tests, beside the code.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::BytesMut;
use pillion::codec::Limits;
use pillion::codec::otlp;
use pillion::codec::thrift;
use pillion::codec::thrift::BatchRef;
use pillion::codec::thrift::Protocol;
use pillion::codec::zipkin;
use pillion::model::Span;
use serde_json::Value;

use crate::support::spans::spans;

/// Who reads a capture.
enum Reader {
    /// A Thrift message as a datagram carries it.
    Message(Protocol),
    /// A bare Thrift batch, the body of a POST.
    Batch(Protocol),
    /// OTLP's protobuf, perhaps compressed.
    Otlp,
    OtlpJson,
    /// A wire that Pillion writes: the test of this file takes the capture for its measure.
    Written(&'static str),
}

/// Whether what is written again is the same bytes.
enum Again {
    Exact,
    /// The reason why not.
    Same(&'static str),
}

use Again::Exact;
use Again::Same;
use Protocol::Binary;
use Protocol::Compact;
use Reader::Batch;
use Reader::Message;
use Reader::Otlp;
use Reader::OtlpJson;
use Reader::Written;

#[rustfmt::skip]
const CAPTURES: &[(&str, Reader, Again)] = &[
    ("datadog/01-ddtrace-python-4.16.0-v04-msgpack.body.bin", Written("src/codec/datadog.rs"), Same("not read")),
    ("jaeger/01-python-4.8.0-compact-oneway-const-sampler.bin", Message(Compact), Same("empty lists of logs")),
    ("jaeger/02-python-4.8.0-compact-oneway-remote-sampler.bin", Message(Compact), Same("empty lists of logs")),
    ("jaeger/03-node-3.19.0-binary-oneway.bin", Message(Binary), Same("every value field of every tag")),
    ("jaeger/04-otel-python-1.21.0-compact-oneway-128bit.bin", Message(Compact), Exact),
    ("jaeger/05-node-3.19.0-http-batch-binary.body.bin", Batch(Binary), Same("every value field of every tag")),
    ("jaeger/06-otel-python-1.21.0-http-batch-binary.body.bin", Batch(Binary), Exact),
    ("jaeger/07-otel-python-1.21.0-grpc-postspans.bin", Written("src/codec/jaeger_proto.rs"), Same("not read")),
    ("jaeger/08-synthetic-compact-call-seqno-stats.bin", Message(Compact), Same("a call, empty lists")),
    ("jaeger/09-synthetic-binary-strict-call.bin", Message(Binary), Same("a call, empty lists")),
    ("jaeger/10-synthetic-binary-nonstrict-call.bin", Message(Binary), Same("a call without version")),
    ("jaeger/11-synthetic-http-batch-binary.body.bin", Batch(Binary), Same("empty lists")),
    ("jaeger/12-synthetic-emitzipkinbatch-compact.bin", Written("src/codec/thrift/tests.rs"), Same("refused")),
    ("otlp/01-python-1.45.1-http-protobuf.body.bin", Otlp, Same("the scope becomes attributes")),
    ("otlp/02-python-1.45.1-http-protobuf-gzip.body.bin", Otlp, Same("compressed")),
    ("otlp/03-js-0.223.1-http-json-chunked.body.json", OtlpJson, Same("spacing and order of keys are free")),
    ("otlp/04-python-1.45.1-grpc-export.bin", Otlp, Same("the scope becomes attributes")),
    ("skywalking/01-python-agent-1.2.0-segmentobject.bin", Written("src/codec/skywalking/segment.rs"), Same("not read")),
    ("xray/01-aws-xray-sdk-python-2.15.0-udp-segment.bin", Written("src/codec/xray.rs"), Same("not read")),
    ("zipkin/01-otel-python-1.21.0-v2-json.body.json", Written("tests/it/captures.rs"), Same("not read")),
    ("zipkin/02-otel-python-1.21.0-v2-proto3.body.bin", Written("src/codec/zipkin/proto.rs"), Same("not read")),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

#[test]
fn every_capture_has_a_row() {
    let mut files = BTreeSet::new();
    for folder in fs::read_dir(root().join("tests/data")).unwrap() {
        let folder = folder.unwrap().path();
        for file in fs::read_dir(&folder).unwrap() {
            let name = file.unwrap().file_name().into_string().unwrap();
            if name.ends_with(".bin") || name.ends_with(".body.json") {
                let folder = folder.file_name().unwrap().to_str().unwrap();
                files.insert(format!("{folder}/{name}"));
            }
        }
    }
    let rows: BTreeSet<_> = CAPTURES
        .iter()
        .map(|(file, ..)| (*file).to_owned())
        .collect();
    assert_eq!(files, rows);
}

#[test]
fn captures_survive_being_read_written_and_read_again() {
    for (file, reader, again) in CAPTURES {
        let bytes = fs::read(root().join("tests/data").join(file)).unwrap();
        let written = match reader {
            Message(protocol) => message(&bytes, *protocol, file),
            Batch(protocol) => batch(&bytes, *protocol, file),
            Otlp => otlp_protobuf(&bytes, file),
            OtlpJson => otlp_json(&bytes, file),
            Written(test) => {
                let text = fs::read_to_string(root().join(test)).unwrap();
                let (_, name) = file.split_once('/').unwrap();
                assert!(text.contains(name), "{test} does not use {file}");
                continue;
            }
        };
        match again {
            Exact => assert!(written == bytes, "{file} is not written byte for byte"),
            Same(why) => assert!(written != bytes, "{file} is exact, not \"{why}\""),
        }
    }
}

/// Keys that both write have values of the same type.
#[test]
fn zipkins_json_is_of_the_types_that_a_real_exporter_writes() {
    let theirs = fs::read(root().join("tests/data/zipkin/01-otel-python-1.21.0-v2-json.body.json"));
    let theirs: Vec<Value> = serde_json::from_slice(&theirs.unwrap()).unwrap();
    let ours: Value = serde_json::from_slice(&zipkin::encode_json(&spans(0..1, 1))).unwrap();
    let ours = ours[0].as_object().unwrap();
    assert_eq!(theirs.len(), 2);
    for span in &theirs {
        let mut n_shared = 0;
        for (key, value) in ours {
            let Some(other) = span.get(key) else { continue };
            let same = std::mem::discriminant(value) == std::mem::discriminant(other);
            assert!(same, "{key}: {value} and {other}");
            n_shared += 1;
        }
        assert!(n_shared >= 7, "{span}");
        assert_eq!(span["traceId"].as_str().unwrap().len(), 32);
        assert_eq!(span["id"].as_str().unwrap().len(), 16);
    }
}

fn message(bytes: &[u8], protocol: Protocol, file: &str) -> Vec<u8> {
    let read = |bytes: &[u8]| thrift::decode_message(bytes, protocol, Limits::default());
    let first = read(bytes).unwrap_or_else(|error| panic!("{file}: {error}"));
    let written = thrift::encode_message(&borrowed(&first.batch), first.sequence, protocol);
    let written = written.unwrap();
    assert_eq!(read(&written).unwrap().batch, first.batch, "{file}");
    written
}

fn batch(bytes: &[u8], protocol: Protocol, file: &str) -> Vec<u8> {
    let read = |bytes: &[u8]| thrift::decode_batch(bytes, protocol, Limits::default());
    let first = read(bytes).unwrap_or_else(|error| panic!("{file}: {error}"));
    let written = thrift::encode_batch(&borrowed(&first), protocol).unwrap();
    assert_eq!(read(&written).unwrap(), first, "{file}");
    written
}

fn borrowed(batch: &thrift::Batch) -> BatchRef<'_> {
    BatchRef {
        process: &batch.process,
        spans: &batch.spans,
        sequence: batch.sequence,
        stats: batch.stats.as_ref(),
    }
}

fn otlp_protobuf(bytes: &[u8], file: &str) -> Vec<u8> {
    let mut plain = bytes.to_vec();
    if bytes.starts_with(&[0x1f, 0x8b]) {
        plain.clear();
        std::io::copy(&mut flate2::read::GzDecoder::new(bytes), &mut plain).unwrap();
    }
    let first = otlp::decode(&plain, Limits::default()).unwrap_or_else(|e| panic!("{file}: {e}"));
    let mut written = BytesMut::new();
    otlp::encode(&shared(&first.spans), &mut written);
    let again = otlp::decode(&written, Limits::default()).unwrap();
    assert_eq!(again.spans, first.spans, "{file}");
    written.to_vec()
}

fn otlp_json(bytes: &[u8], file: &str) -> Vec<u8> {
    let first = otlp::decode_json(bytes, Limits::default());
    let first = first.unwrap_or_else(|error| panic!("{file}: {error}"));
    let written = otlp::encode_json(&shared(&first.spans));
    let again = otlp::decode_json(&written, Limits::default()).unwrap();
    assert_eq!(again.spans, first.spans, "{file}");
    written
}

fn shared(spans: &[Span]) -> Vec<Arc<Span>> {
    spans.iter().cloned().map(Arc::new).collect()
}
