//! Every capture of a real client in tests/data: it is read, written and read again with the same meaning, and where the
//! client writes as we do, byte for byte. What a capture must mean stands in the decoder's own tests, beside the code.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::BytesMut;
use pillion::codec::DecodeError;
use pillion::codec::Decoded;
use pillion::codec::Limits;
use pillion::codec::jaeger::Group;
use pillion::codec::jaeger_proto;
use pillion::codec::otlp;
use pillion::codec::skywalking;
use pillion::codec::thrift;
use pillion::codec::thrift::BatchRef;
use pillion::codec::thrift::Datagram;
use pillion::codec::thrift::Protocol;
use pillion::codec::zipkin;
use pillion::model::Span;
use pillion::model::Status;

/// Who reads a capture.
enum Reader {
    /// A Thrift message as a datagram carries it.
    Message(Protocol),
    /// A bare Thrift batch, the body of a POST.
    Batch(Protocol),
    /// OTLP's protobuf, perhaps compressed.
    Otlp,
    OtlpJson,
    /// Jaeger's gRPC request.
    PostSpans,
    /// A datagram of Zipkin's first model.
    ZipkinMessage,
    ZipkinJson,
    ZipkinProto,
    /// A segment in protobuf.
    SkyWalking,
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
use Reader::PostSpans;
use Reader::SkyWalking;
use Reader::Written;
use Reader::ZipkinJson;
use Reader::ZipkinMessage;
use Reader::ZipkinProto;

#[rustfmt::skip]
const CAPTURES: &[(&str, Reader, Again)] = &[
    ("datadog/01-ddtrace-python-4.16.0-v04-msgpack.body.bin", Written("src/codec/datadog.rs"), Same("not read")),
    ("jaeger/01-python-4.8.0-compact-oneway-const-sampler.bin", Message(Compact), Same("empty lists of logs")),
    ("jaeger/02-python-4.8.0-compact-oneway-remote-sampler.bin", Message(Compact), Same("empty lists of logs")),
    ("jaeger/03-node-3.19.0-binary-oneway.bin", Message(Binary), Same("every value field of every tag")),
    ("jaeger/04-otel-python-1.21.0-compact-oneway-128bit.bin", Message(Compact), Exact),
    ("jaeger/05-node-3.19.0-http-batch-binary.body.bin", Batch(Binary), Same("every value field of every tag")),
    ("jaeger/06-otel-python-1.21.0-http-batch-binary.body.bin", Batch(Binary), Exact),
    ("jaeger/07-otel-python-1.21.0-grpc-postspans.bin", PostSpans, Same("a process on each span becomes one of the batch")),
    ("jaeger/08-synthetic-compact-call-seqno-stats.bin", Message(Compact), Same("a call, empty lists")),
    ("jaeger/09-synthetic-binary-strict-call.bin", Message(Binary), Same("a call, empty lists")),
    ("jaeger/10-synthetic-binary-nonstrict-call.bin", Message(Binary), Same("a call without version")),
    ("jaeger/11-synthetic-http-batch-binary.body.bin", Batch(Binary), Same("empty lists")),
    ("jaeger/12-synthetic-emitzipkinbatch-compact.bin", ZipkinMessage, Same("version 1 is not written")),
    ("otlp/01-python-1.45.1-http-protobuf.body.bin", Otlp, Same("the scope becomes attributes")),
    ("otlp/02-python-1.45.1-http-protobuf-gzip.body.bin", Otlp, Same("compressed")),
    ("otlp/03-js-0.223.1-http-json-chunked.body.json", OtlpJson, Same("spacing and order of keys are free")),
    ("otlp/04-python-1.45.1-grpc-export.bin", Otlp, Same("the scope becomes attributes")),
    ("skywalking/01-python-agent-1.2.0-segmentobject.bin", SkyWalking, Same("each span becomes a segment")),
    ("xray/01-aws-xray-sdk-python-2.15.0-udp-segment.bin", Written("src/codec/xray.rs"), Same("not read")),
    ("zipkin/01-otel-python-1.21.0-v2-json.body.json", ZipkinJson, Same("spacing and order of keys are free")),
    ("zipkin/02-otel-python-1.21.0-v2-proto3.body.bin", ZipkinProto, Same("tags come in another order")),
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
            PostSpans => post_spans(&bytes, file),
            ZipkinMessage => zipkin_message(&bytes),
            ZipkinJson => {
                let read = |bytes: &[u8]| zipkin::decode_json(bytes, limits(), &mut Arc::new);
                again_in(&bytes, read, zipkin::encode_json, file)
            }
            ZipkinProto => {
                let read = |bytes: &[u8]| zipkin::decode_proto(bytes, limits(), &mut Arc::new);
                again_in(&bytes, read, zipkin::encode_proto, file)
            }
            SkyWalking => segment(&bytes, file),
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

fn post_spans(bytes: &[u8], file: &str) -> Vec<u8> {
    let first = jaeger_proto::decode(bytes, limits()).unwrap_or_else(|e| panic!("{file}: {e}"));
    let mut written = Vec::new();
    for batch in first {
        let group = Group {
            process: batch.process.clone(),
            spans: batch.spans.clone(),
        };
        written = jaeger_proto::encode(&group);
        assert_eq!(
            jaeger_proto::decode(&written, limits()).unwrap(),
            [batch],
            "{file}"
        );
    }
    written
}

/// Version 1 is read, and written as version 2.
fn zipkin_message(bytes: &[u8]) -> Vec<u8> {
    let Ok(Datagram::Zipkin(spans)) = thrift::decode_datagram(bytes, Compact, limits()) else {
        panic!("not a message of Zipkin's");
    };
    let first = zipkin::received_v1(spans, &mut Arc::new).spans;
    let written = zipkin::encode_json(&shared(&first));
    let again = zipkin::decode_json(&written, limits(), &mut Arc::new).unwrap();
    assert_eq!(essences(&again.spans), essences(&first));
    written
}

/// Reads, writes and reads again.
fn again_in(
    bytes: &[u8],
    read: impl Fn(&[u8]) -> Result<Decoded, DecodeError>,
    write: impl Fn(&[Arc<Span>]) -> Vec<u8>,
    file: &str,
) -> Vec<u8> {
    let first = read(bytes).unwrap_or_else(|error| panic!("{file}: {error}"));
    let written = write(&shared(&first.spans));
    let again = read(&written).unwrap_or_else(|error| panic!("{file}: {error}"));
    assert_eq!(essences(&again.spans), essences(&first.spans), "{file}");
    written
}

fn segment(bytes: &[u8], file: &str) -> Vec<u8> {
    let read = |bytes: &[u8]| skywalking::decode_segment(bytes, limits(), &mut Arc::new);
    let first = read(bytes).unwrap_or_else(|error| panic!("{file}: {error}"));
    let written = skywalking::encode_segments(&shared(&first.spans));
    let again: Vec<_> = written
        .iter()
        .flat_map(|segment| read(segment).unwrap().spans)
        .collect();
    assert_eq!(essences(&again), essences(&first.spans), "{file}");
    written.concat()
}

/// What every wire has words for; names of tags differ.
fn essences(spans: &[Span]) -> Vec<String> {
    let essence = |span: &Span| {
        let (context, service) = (&span.context, &span.resource.service);
        let status = matches!(span.status, Status::Error(_));
        format!(
            "{} {} {:?} {service} {} {:?} {}..{} {status} {}",
            context.trace_id,
            context.span_id,
            span.parent,
            span.name,
            span.kind,
            span.start.0,
            span.end.0,
            span.events.len()
        )
    };
    let essences: Vec<_> = spans.iter().map(essence).collect();
    assert!(!essences.is_empty());
    essences
}

fn limits() -> Limits {
    Limits::default()
}

fn shared(spans: &[Span]) -> Vec<Arc<Span>> {
    spans.iter().cloned().map(Arc::new).collect()
}
