//! Spans straight to the bytes of an `ExportTraceServiceRequest`: sizes first, then one pass into one buffer.
//!
//! No intermediate tree: a nested message's length stands before its content, so each part has a `*_len` twin that
//! computes exactly what its writer writes; debug builds assert it.

use std::sync::Arc;

use bytes::BufMut;
use bytes::BytesMut;

use crate::codec::otlp::SCOPE_NAME;
use crate::codec::otlp::SCOPE_VERSION;
use crate::codec::otlp::SERVICE_NAME;
use crate::codec::otlp::wire::Wire;
use crate::codec::otlp::wire::delimited_len;
use crate::codec::otlp::wire::put_bytes;
use crate::codec::otlp::wire::put_header;
use crate::codec::otlp::wire::put_tag;
use crate::codec::otlp::wire::put_text;
use crate::codec::otlp::wire::put_varint;
use crate::codec::otlp::wire::text_len;
use crate::codec::otlp::wire::varint_len;
use crate::model::Attribute;
use crate::model::Event;
use crate::model::Kind;
use crate::model::Link;
use crate::model::Resource;
use crate::model::Span;
use crate::model::Status;
use crate::model::Value;

/// Appends the spans as one `ExportTraceServiceRequest`, grouped by resource in order of first appearance.
///
/// Resources are the same when they are the same `Arc` or equal. No spans: nothing is written (such a request should
/// not be sent).
pub fn encode(spans: &[Arc<Span>], out: &mut BytesMut) {
    encode_within(spans, usize::MAX, out);
}

/// Like [`encode`], unless it would append more than `most` bytes: then nothing is written. True: written.
pub fn encode_within(spans: &[Arc<Span>], most: usize, out: &mut BytesMut) -> bool {
    let groups = group(spans);
    let len = groups.iter().map(Group::len).sum();
    if len > most {
        return false;
    }
    out.reserve(len);
    for group in &groups {
        group.put(out);
    }
    true
}

/// Bytes that [`encode`] would append for these spans.
pub fn encoded_len(spans: &[Arc<Span>]) -> usize {
    group(spans).iter().map(Group::len).sum()
}

struct Group<'a> {
    resource: &'a Arc<Resource>,
    /// Each span with its encoded length, so that lengths are computed once.
    spans: Vec<(&'a Span, usize)>,
}

fn group(spans: &[Arc<Span>]) -> Vec<Group<'_>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    for span in spans {
        let same = |group: &&mut Group<'_>| {
            Arc::ptr_eq(group.resource, &span.resource) || group.resource == &span.resource
        };
        // Backwards: neighbours in a batch mostly share their resource.
        match groups.iter_mut().rev().find(same) {
            Some(group) => group.spans.push((span, span_len(span))),
            None => groups.push(Group {
                resource: &span.resource,
                spans: vec![(span, span_len(span))],
            }),
        }
    }
    groups
}

impl Group<'_> {
    fn scope_spans_len(&self) -> usize {
        let spans: usize = self
            .spans
            .iter()
            .map(|(_, len)| delimited_len(2, *len))
            .sum();
        delimited_len(1, scope_len(self.resource)) + spans
    }

    fn resource_spans_len(&self) -> usize {
        delimited_len(1, resource_len(self.resource)) + delimited_len(2, self.scope_spans_len())
    }

    fn len(&self) -> usize {
        delimited_len(1, self.resource_spans_len())
    }

    fn put(&self, out: &mut BytesMut) {
        put_header(out, 1, self.resource_spans_len());
        put_header(out, 1, resource_len(self.resource));
        put_resource(out, self.resource);
        put_header(out, 2, self.scope_spans_len());
        put_header(out, 1, scope_len(self.resource));
        put_scope(out, self.resource);
        for (span, len) in &self.spans {
            put_header(out, 2, *len);
            let before = out.len();
            put_span(out, span);
            debug_assert_eq!(out.len() - before, *len, "span_len agrees with put_span");
        }
    }
}

const SCOPE_LEN: usize = text_len(1, SCOPE_NAME.len()) + text_len(2, SCOPE_VERSION.len());

fn scope_len(resource: &Resource) -> usize {
    match &resource.scope {
        None => SCOPE_LEN,
        Some(scope) => {
            text_len(1, scope.name.len())
                + text_len(2, scope.version.len())
                + attributes_len(3, &scope.attributes)
        }
    }
}

fn put_scope(out: &mut BytesMut, resource: &Resource) {
    match &resource.scope {
        None => {
            put_text(out, 1, SCOPE_NAME);
            put_text(out, 2, SCOPE_VERSION);
        }
        Some(scope) => {
            put_text(out, 1, &scope.name);
            put_text(out, 2, &scope.version);
            put_attributes(out, 3, &scope.attributes);
        }
    }
}

fn resource_len(resource: &Resource) -> usize {
    let service = match resource.service.len() {
        0 => 0,
        len => delimited_len(1, service_len(len)),
    };
    service + attributes_len(1, &resource.attributes)
}

fn service_len(len: usize) -> usize {
    text_len(1, SERVICE_NAME.len()) + delimited_len(2, delimited_len(1, len))
}

fn put_resource(out: &mut BytesMut, resource: &Resource) {
    if !resource.service.is_empty() {
        let len = resource.service.len();
        put_header(out, 1, service_len(len));
        put_text(out, 1, SERVICE_NAME);
        put_header(out, 2, delimited_len(1, len));
        put_bytes(out, 1, resource.service.as_bytes());
    }
    put_attributes(out, 1, &resource.attributes);
}

fn span_len(span: &Span) -> usize {
    let events: usize = span
        .events
        .iter()
        .map(|e| delimited_len(11, event_len(e)))
        .sum();
    let links: usize = span
        .links
        .iter()
        .map(|l| delimited_len(13, link_len(l)))
        .sum();
    delimited_len(1, 16)
        + delimited_len(2, 8)
        + text_len(3, span.context.trace_state.as_str().len())
        + span.parent.map_or(0, |_| delimited_len(4, 8))
        + text_len(5, span.name.len())
        + 2 // kind
        + 9 // start
        + 9 // end
        + attributes_len(9, &span.attributes)
        + events
        + links
        + status_len(&span.status).map_or(0, |len| delimited_len(15, len))
        + 6 // flags
}

fn put_span(out: &mut BytesMut, span: &Span) {
    put_bytes(out, 1, &span.context.trace_id.bytes());
    put_bytes(out, 2, &span.context.span_id.bytes());
    put_text(out, 3, span.context.trace_state.as_str());
    if let Some(parent) = span.parent {
        put_bytes(out, 4, &parent.bytes());
    }
    put_text(out, 5, &span.name);
    put_tag(out, 6, Wire::Varint);
    put_varint(out, kind_number(span.kind) as u64);
    put_fixed64(out, 7, span.start.0);
    put_fixed64(out, 8, span.end.0);
    put_attributes(out, 9, &span.attributes);
    for event in &span.events {
        put_header(out, 11, event_len(event));
        put_fixed64(out, 1, event.time.0);
        put_text(out, 2, &event.name);
        put_attributes(out, 3, &event.attributes);
    }
    for link in &span.links {
        put_header(out, 13, link_len(link));
        put_bytes(out, 1, &link.trace_id.bytes());
        put_bytes(out, 2, &link.span_id.bytes());
        put_attributes(out, 4, &link.attributes);
    }
    if let Some(len) = status_len(&span.status) {
        put_header(out, 15, len);
        put_status(out, &span.status);
    }
    put_tag(out, 16, Wire::Fixed32);
    out.put_u32_le(span_flags(span));
}

/// The number of `SpanKind`; 0 (unspecified) is never written.
pub(super) fn kind_number(kind: Kind) -> i32 {
    match kind {
        Kind::Internal => 1,
        Kind::Server => 2,
        Kind::Client => 3,
        Kind::Producer => 4,
        Kind::Consumer => 5,
    }
}

/// W3C flags of this span in the low byte, 0x100 "remoteness is known", 0x200 "the parent is remote".
pub(super) fn span_flags(span: &Span) -> u32 {
    let sampled = u32::from(span.context.state.is_sampled());
    let random = if span.context.random { 2 } else { 0 };
    let remote = if span.remote_parent { 0x200 } else { 0 };
    sampled | random | 0x100 | remote
}

fn put_fixed64(out: &mut BytesMut, field: u32, value: u64) {
    put_tag(out, field, Wire::Fixed64);
    out.put_u64_le(value);
}

fn event_len(event: &Event) -> usize {
    9 + text_len(2, event.name.len()) + attributes_len(3, &event.attributes)
}

fn link_len(link: &Link) -> usize {
    delimited_len(1, 16) + delimited_len(2, 8) + attributes_len(4, &link.attributes)
}

/// `None`: unset, the message is left out.
fn status_len(status: &Status) -> Option<usize> {
    match status {
        Status::Unset => None,
        Status::Ok => Some(2),
        Status::Error(description) => Some(text_len(2, description.len()) + 2),
    }
}

fn put_status(out: &mut BytesMut, status: &Status) {
    let (description, code) = match status {
        Status::Unset => return,
        Status::Ok => ("", 1),
        Status::Error(description) => (description.as_str(), 2),
    };
    put_text(out, 2, description);
    put_tag(out, 3, Wire::Varint);
    put_varint(out, code);
}

fn attributes_len(field: u32, attributes: &[Attribute]) -> usize {
    attributes
        .iter()
        .map(|attribute| delimited_len(field, attribute_len(attribute)))
        .sum()
}

fn attribute_len(attribute: &Attribute) -> usize {
    text_len(1, attribute.key.len()) + delimited_len(2, value_len(&attribute.value))
}

fn put_attributes(out: &mut BytesMut, field: u32, attributes: &[Attribute]) {
    for attribute in attributes {
        let value = value_len(&attribute.value);
        let len = text_len(1, attribute.key.len()) + delimited_len(2, value);
        put_header(out, field, len);
        put_text(out, 1, &attribute.key);
        put_header(out, 2, value);
        put_value(out, &attribute.value);
    }
}

/// Content of an `AnyValue`. Its fields are a `oneof`, so empty texts are written too: they say which kind it is.
fn value_len(value: &Value) -> usize {
    match value {
        Value::Str(text) => delimited_len(1, text.len()),
        Value::Bool(_) => 2,
        Value::I64(number) => 1 + varint_len(*number as u64),
        Value::F64(_) => 9,
        Value::Bytes(bytes) => delimited_len(7, bytes.len()),
        Value::StrList(_) => delimited_len(5, list_len(value)),
    }
}

fn list_len(value: &Value) -> usize {
    let Value::StrList(texts) = value else {
        return 0;
    };
    texts
        .iter()
        .map(|text| delimited_len(1, delimited_len(1, text.len())))
        .sum()
}

fn put_value(out: &mut BytesMut, value: &Value) {
    match value {
        Value::Str(text) => put_bytes(out, 1, text.as_bytes()),
        Value::Bool(value) => {
            put_tag(out, 2, Wire::Varint);
            put_varint(out, u64::from(*value));
        }
        Value::I64(number) => {
            put_tag(out, 3, Wire::Varint);
            put_varint(out, *number as u64);
        }
        Value::F64(number) => {
            put_tag(out, 4, Wire::Fixed64);
            out.put_f64_le(*number);
        }
        Value::Bytes(bytes) => put_bytes(out, 7, bytes),
        Value::StrList(texts) => {
            put_header(out, 5, list_len(value));
            for text in texts {
                put_header(out, 1, delimited_len(1, text.len()));
                put_bytes(out, 1, text.as_bytes());
            }
        }
    }
}
