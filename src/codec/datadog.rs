//! Datadog's traces for `/v0.4/traces`: msgpack written by hand, for it takes a page and a library would take more.
//!
//! Spans are grouped by trace. Ids are 64 bits; the high half of a trace id stands in the first span's `_dd.p.tid`, beside
//! the sampling priority of the whole and what a Datadog caller's headers said besides. Attributes are texts in `meta`,
//! numbers in `metrics`; the operation is `http.server.request` and its like, and our span name is the resource. Events and
//! links have no place in this version.
//! Source: dd-trace-py `ddtrace/internal/encoding.py`; a captured request; Datadog, "Unified Service Tagging".

use std::sync::Arc;

use crate::codec::text_value::text_at;
use crate::codec::text_value::text_of;
use crate::model::Kind;
use crate::model::SamplingState;
use crate::model::Span;
use crate::model::Status;
use crate::model::TraceId;
use crate::model::Value;

/// The key under which a context carries the priority that a Datadog caller gave it.
pub const PRIORITY: &str = "datadog.priority";
/// The key of a Datadog caller's origin.
pub const ORIGIN: &str = "datadog.origin";
/// The key of a Datadog caller's tags.
pub const TAGS: &str = "datadog.tags";

/// The spans as an array of traces, and how many traces that are.
pub fn encode(spans: &[Arc<Span>]) -> (usize, Vec<u8>) {
    let mut traces: Vec<(TraceId, Vec<&Span>)> = Vec::new();
    for span in spans {
        let trace_id = span.context.trace_id;
        match traces
            .iter_mut()
            .rev()
            .find(|(known, _)| *known == trace_id)
        {
            Some((_, spans)) => spans.push(span),
            None => traces.push((trace_id, vec![span])),
        }
    }
    let mut out = Vec::with_capacity(spans.len() * 512);
    put_array(&mut out, traces.len());
    for (_, spans) in &traces {
        put_array(&mut out, spans.len());
        for (place, span) in spans.iter().enumerate() {
            put_span(&mut out, span, place == 0);
        }
    }
    (traces.len(), out)
}

fn put_span(out: &mut Vec<u8>, span: &Span, is_first: bool) {
    let (name, kind) = match span.kind {
        Kind::Server => ("http.server.request", "web"),
        Kind::Client => ("http.client.request", "http"),
        Kind::Producer => ("queue.publish", "queue"),
        Kind::Consumer => ("queue.process", "queue"),
        Kind::Internal => ("internal", "custom"),
    };
    put_map(out, 12);
    put_text(out, "service");
    put_text(out, &span.resource.service);
    put_text(out, "name");
    put_text(out, name);
    put_text(out, "resource");
    put_text(out, &span.name);
    put_text(out, "type");
    put_text(out, kind);
    put_text(out, "trace_id");
    put_u64(out, span.context.trace_id.low());
    put_text(out, "span_id");
    put_u64(out, span.context.span_id.to_u64());
    put_text(out, "parent_id");
    put_u64(out, span.parent.map_or(0, |id| id.to_u64()));
    put_text(out, "start");
    put_u64(out, span.start.0);
    put_text(out, "duration");
    put_u64(out, span.duration_nanos());
    put_text(out, "error");
    put_u64(out, u64::from(matches!(span.status, Status::Error(_))));
    let (meta, metrics) = tags(span, is_first);
    put_text(out, "meta");
    put_map(out, meta.len());
    for (key, value) in &meta {
        put_text(out, key);
        put_text(out, value);
    }
    put_text(out, "metrics");
    put_map(out, metrics.len());
    for (key, value) in &metrics {
        put_text(out, key);
        out.push(0xcb);
        out.extend(value.to_be_bytes());
    }
}

type Texts<'a> = Vec<(&'a str, String)>;
type Numbers<'a> = Vec<(&'a str, f64)>;

fn tags(span: &Span, is_first: bool) -> (Texts<'_>, Numbers<'_>) {
    let (mut meta, mut metrics) = (Vec::new(), Vec::new());
    meta.push(("span.kind", span.kind.name().to_owned()));
    if let Status::Error(description) = &span.status
        && !description.is_empty()
    {
        meta.push(("error.message", description.to_string()));
    }
    if let Some(origin) = span.context.carried.get(ORIGIN) {
        meta.push(("_dd.origin", origin.to_string()));
    }
    if is_first {
        if span.context.trace_id.high() != 0 {
            meta.push((
                "_dd.p.tid",
                format!("{:016x}", span.context.trace_id.high()),
            ));
        }
        let tags = span.context.carried.get(TAGS);
        for (key, value) in tags
            .iter()
            .flat_map(|tags| tags.split(','))
            .filter_map(pair)
        {
            meta.push((key, value.to_owned()));
        }
        let kept = span.context.carried.get(PRIORITY);
        let kept = kept
            .and_then(|kept| kept.parse().ok())
            .filter(|kept| *kept > 0.0);
        let priority = match span.context.state {
            SamplingState::Debug => 2.0,
            _ => kept.unwrap_or(1.0),
        };
        metrics.push(("_sampling_priority_v1", priority));
    }
    if span.parent.is_none() || span.remote_parent {
        metrics.push(("_dd.top_level", 1.0));
    }
    for (ours, theirs) in UNIFIED {
        if let Some(value) = text_at(&span.resource.attributes, ours) {
            meta.push((*theirs, value));
        }
    }
    for attribute in span.resource.attributes.iter().chain(&span.attributes) {
        let key = match attribute.key.as_str() {
            "http.request.method" => "http.method",
            "url.full" => "http.url",
            // A text there, as the agent's own statistics expect it.
            "http.response.status_code" | "http.status_code" => {
                meta.push(("http.status_code", text_of(&attribute.value)));
                continue;
            }
            key => key,
        };
        match &attribute.value {
            Value::I64(number) => metrics.push((key, *number as f64)),
            Value::F64(number) => metrics.push((key, *number)),
            other => meta.push((key, text_of(other))),
        }
    }
    (meta, metrics)
}

fn pair(tag: &str) -> Option<(&str, &str)> {
    tag.split_once('=')
}

/// What Datadog groups everything by.
const UNIFIED: &[(&str, &str)] = &[
    ("deployment.environment.name", "env"),
    ("deployment.environment", "env"),
    ("service.version", "version"),
];

fn put_array(out: &mut Vec<u8>, len: usize) {
    out.push(0xdd);
    out.extend((len as u32).to_be_bytes());
}

fn put_map(out: &mut Vec<u8>, len: usize) {
    out.push(0xdf);
    out.extend((len as u32).to_be_bytes());
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    match text.len() {
        len @ 0..32 => out.push(0xa0 | len as u8),
        len => {
            out.push(0xdb);
            out.extend((len as u32).to_be_bytes());
        }
    }
    out.extend(text.as_bytes());
}

fn put_u64(out: &mut Vec<u8>, number: u64) {
    out.push(0xcf);
    out.extend(number.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use serde_json::Value as Json;
    use serde_json::json;

    use super::*;
    use crate::codec::tests::bare_span;
    use crate::codec::tests::full_span;
    use crate::model::Attribute;

    /// Reads one msgpack value of the kinds that tracers write; moves `bytes` behind it.
    fn read(bytes: &mut &[u8]) -> Json {
        let tag = take(bytes, 1)[0];
        match tag {
            0x00..=0x7f => json!(tag),
            0xe0..=0xff => json!(tag as i8),
            0x80..=0x8f => read_map(bytes, u64::from(tag & 15)),
            0xde => read_sized_map(bytes, 2),
            0xdf => read_sized_map(bytes, 4),
            0x90..=0x9f => read_array(bytes, u64::from(tag & 15)),
            0xdc => {
                let len = number(bytes, 2);
                read_array(bytes, len)
            }
            0xdd => {
                let len = number(bytes, 4);
                read_array(bytes, len)
            }
            0xa0..=0xbf => text(bytes, u64::from(tag & 31)),
            0xd9..=0xdb => {
                let len = number(bytes, 1 << (tag - 0xd9));
                text(bytes, len)
            }
            0xcb => json!(f64::from_bits(number(bytes, 8))),
            0xcc..=0xcf => json!(number(bytes, 1 << (tag - 0xcc))),
            0xd3 => json!(number(bytes, 8).cast_signed()),
            0xc0 => Json::Null,
            _ => panic!("tag {tag:#x}"),
        }
    }

    fn take<'a>(bytes: &mut &'a [u8], len: usize) -> &'a [u8] {
        let (taken, rest) = bytes.split_at(len);
        *bytes = rest;
        taken
    }

    fn number(bytes: &mut &[u8], len: usize) -> u64 {
        let digits = take(bytes, len).iter();
        digits.fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    fn text(bytes: &mut &[u8], len: u64) -> Json {
        json!(std::str::from_utf8(take(bytes, len as usize)).unwrap())
    }

    fn read_array(bytes: &mut &[u8], len: u64) -> Json {
        (0..len).map(|_| read(bytes)).collect()
    }

    fn read_sized_map(bytes: &mut &[u8], width: usize) -> Json {
        let len = number(bytes, width);
        read_map(bytes, len)
    }

    fn read_map(bytes: &mut &[u8], len: u64) -> Json {
        let pairs = (0..len).map(|_| {
            let key = read(bytes).as_str().unwrap().to_owned();
            (key, read(bytes))
        });
        Json::Object(pairs.collect())
    }

    #[test]
    fn the_reader_here_reads_what_a_real_tracer_wrote() {
        let mut body = &include_bytes!(
            "../../tests/data/datadog/01-ddtrace-python-4.16.0-v04-msgpack.body.bin"
        )[..];
        let expected: Json = serde_json::from_str(include_str!(
            "../../tests/data/datadog/01-ddtrace-python-4.16.0-v04-msgpack.json"
        ))
        .unwrap();
        assert_eq!(read(&mut body), expected);
        assert!(body.is_empty());
    }

    #[test]
    fn spans_are_grouped_by_trace_and_the_first_speaks_for_it() {
        let mut server = full_span();
        server.kind = Kind::Server;
        server.context.carried = [
            (PRIORITY, "2".into()),
            (ORIGIN, "rum".into()),
            (TAGS, "_dd.p.dm=-4".into()),
        ]
        .into_iter()
        .collect();
        server
            .attributes
            .push(Attribute::new("long", "x".repeat(300)));
        let mut old = bare_span();
        old.attributes
            .push(Attribute::new("http.status_code", 404.0));
        let spans = [server, old, full_span()].map(Arc::new);
        let (n_traces, body) = encode(&spans);
        let mut rest = &body[..];
        let traces = read(&mut rest);
        assert!(rest.is_empty());
        assert_eq!((n_traces, traces[0].as_array().unwrap().len()), (2, 2));
        let first = &traces[0][0];
        for (path, expected) in [
            ("/service", json!("svc-a")),
            ("/name", json!("http.server.request")),
            ("/resource", json!("GET /users/{id}")),
            ("/type", json!("web")),
            ("/trace_id", json!(0x8448_eb21_1c80_319c_u64)),
            ("/parent_id", json!(0xb29a_2a6e_589e_f16b_u64)),
            ("/start", json!(1_795_165_654_108_055_538_u64)),
            ("/duration", json!(1_500_000)),
            ("/error", json!(1)),
            ("/meta/_dd.p.tid", json!("0af7651916cd43dd")),
            ("/meta/http.status_code", json!("503")),
            ("/meta/http.method", json!("GET")),
            ("/meta/error.message", json!("boom")),
            ("/meta/_dd.origin", json!("rum")),
            ("/meta/_dd.p.dm", json!("-4")),
            ("/meta/yes", json!("true")),
            ("/meta/long", json!("x".repeat(300))),
            ("/metrics/_sampling_priority_v1", json!(2.0)),
            ("/metrics/_dd.top_level", json!(1.0)),
            ("/metrics/ratio", json!(0.5)),
        ] {
            assert_eq!(first.pointer(path), Some(&expected), "{path}");
        }
        let second = &traces[0][1];
        assert_eq!(second["meta"].get("_dd.p.tid"), None, "said once a trace");
        assert_eq!(traces[1][0]["metrics"]["_sampling_priority_v1"], 1.0);
        assert_eq!(traces[1][0]["meta"]["http.status_code"], "404");
    }
}
