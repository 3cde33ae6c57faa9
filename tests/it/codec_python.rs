//! What the codecs write, read by Apache Thrift's Python library with Jaeger's own generated structs.

use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;
use std::sync::Arc;

use pillion::codec::jaeger;
use pillion::codec::thrift;
use pillion::codec::thrift::BatchRef;
use pillion::codec::thrift::Protocol;
use pillion::model::Attribute;
use pillion::model::Value;
use serde_json::json;

use crate::support::jaeger::tools;
use crate::support::skip::skip;
use crate::support::spans::spans;

/// Reads a message or a bare batch from standard input and prints what it holds.
const READER: &str = r#"
import json, sys
from thrift.protocol import TBinaryProtocol, TCompactProtocol
from thrift.transport.TTransport import TMemoryBuffer
from jaeger_client.thrift_gen.agent import Agent
from jaeger_client.thrift_gen.jaeger.ttypes import Batch
kind, protocol = sys.argv[1:]
buffer = TMemoryBuffer(sys.stdin.buffer.read())
reader = (TCompactProtocol.TCompactProtocol if protocol == "compact" else TBinaryProtocol.TBinaryProtocol)(buffer)
if kind == "message":
    name, message_type, seqid = reader.readMessageBegin()
    arguments = Agent.emitBatch_args()
    arguments.read(reader)
    reader.readMessageEnd()
    batch, head = arguments.batch, [name, message_type, seqid]
else:
    batch, head = Batch(), None
    batch.read(reader)
rest = len(buffer._buffer.read())
tag = lambda t: [t.key, [t.vStr, t.vDouble, t.vBool, t.vLong, t.vBinary][t.vType]]
tags = lambda list_: dict(map(tag, list_ or []))
print(json.dumps({
    "head": head, "rest": rest, "service": batch.process.serviceName, "process": tags(batch.process.tags),
    "spans": [{
        "ids": [s.traceIdLow, s.traceIdHigh, s.spanId, s.parentSpanId], "operation": s.operationName, "flags": s.flags,
        "times": [s.startTime, s.duration], "tags": tags(s.tags),
        "references": [[r.refType, r.traceIdLow, r.traceIdHigh, r.spanId] for r in s.references or []],
        "logs": [[l.timestamp, tags(l.fields)] for l in s.logs or []],
    } for s in batch.spans]}))
"#;

#[test]
fn apache_thrift_reads_what_we_write() {
    let python = tools().map(|dir| dir.join("python/bin/python"));
    let Some(python) = python.filter(|python| python.is_file()) else {
        return skip("no Python tools: run tests/interop/install.sh python");
    };
    let mut span = (*spans(0..1, 10)[0]).clone();
    span.attributes.extend([
        Attribute::new("long", i64::MIN),
        Attribute::new("double", -0.5),
        Attribute::new("bool", true),
        Attribute::new("text", "ünïcode"),
        // The generated reader takes bytes for text, so these are both.
        Attribute::new("bytes", Value::Bytes(b"abc"[..].into())),
    ]);
    // More than fourteen list entries take the long form of compact lists.
    let mut batch = vec![Arc::new(span)];
    batch.extend(spans(1..20, 300));
    let group = jaeger::groups(&batch).remove(0);
    let borrowed = BatchRef {
        process: &group.process,
        spans: &group.spans,
        sequence: None,
        stats: None,
    };
    for (protocol, name) in [(Protocol::Compact, "compact"), (Protocol::Binary, "binary")] {
        let message = thrift::encode_message(&borrowed, 300, protocol).unwrap();
        let read = read(&python, "message", name, &message);
        assert_eq!(read["head"], json!(["emitBatch", 4, 300]), "{name}");
        assert_batch(&read, &group, name);
        let bare = thrift::encode_batch(&borrowed, protocol).unwrap();
        assert_batch(&self::read(&python, "batch", name, &bare), &group, name);
    }
}

fn assert_batch(read: &serde_json::Value, group: &jaeger::Group, name: &str) {
    assert_eq!(read["rest"], 0, "{name}: nothing behind the last byte");
    assert_eq!(read["service"], "svc", "{name}");
    assert_eq!(
        read["process"],
        json!({ "service.instance.id": "1" }),
        "{name}"
    );
    let spans = read["spans"].as_array().unwrap();
    assert_eq!(spans.len(), group.spans.len(), "{name}");
    for (read, span) in spans.iter().zip(&group.spans) {
        let ids = [
            span.trace_id_low as i64,
            span.trace_id_high as i64,
            span.span_id as i64,
            span.parent_span_id as i64,
        ];
        assert_eq!(read["ids"], json!(ids), "{name}");
        assert_eq!(read["times"], json!([span.start, span.duration]), "{name}");
        assert_eq!(read["operation"], span.operation.as_str(), "{name}");
        assert_eq!(read["flags"], 1, "{name}");
        assert_eq!(read["tags"]["span.kind"], "server", "{name}");
        assert_eq!(
            read["tags"].as_object().unwrap().len(),
            span.tags.len(),
            "{name}"
        );
    }
    let tags = &spans[0]["tags"];
    assert_eq!(tags["long"], i64::MIN, "{name}");
    assert_eq!(tags["double"], -0.5, "{name}");
    assert_eq!(tags["bool"], true, "{name}");
    assert_eq!(tags["text"], "ünïcode", "{name}");
    assert_eq!(tags["bytes"], "abc", "{name}");
}

fn read(python: &PathBuf, kind: &str, protocol: &str, bytes: &[u8]) -> serde_json::Value {
    let mut child = Command::new(python)
        .args(["-c", READER, kind, protocol])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(bytes).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "the reader failed");
    serde_json::from_slice(&output.stdout).unwrap()
}
