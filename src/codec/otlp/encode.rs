//! Spans straight to the bytes of an `ExportTraceServiceRequest`.
//!
//! A nested message's length stands before its content. What is short, which is nearly everything, is written behind
//! one byte that gets its length afterwards; the two outer messages, which hold all spans of a resource, are put in
//! front of their content when that is complete. No intermediate tree, nothing is measured before it is written.

use std::sync::Arc;

use bytes::BufMut;
use bytes::BytesMut;

use crate::codec::otlp::SCOPE_NAME;
use crate::codec::otlp::SCOPE_VERSION;
use crate::codec::otlp::SERVICE_NAME;
use crate::codec::otlp::pack;
use crate::codec::otlp::wire::Wire;
use crate::codec::otlp::wire::delimited_len;
use crate::codec::otlp::wire::put_bytes;
use crate::codec::otlp::wire::put_header;
use crate::codec::otlp::wire::put_long;
use crate::codec::otlp::wire::put_nested;
use crate::codec::otlp::wire::put_tag;
use crate::codec::otlp::wire::put_text;
use crate::codec::otlp::wire::put_varint;
use crate::model::Attribute;
use crate::model::Kind;
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
    let mut groups: Vec<Group<'_>> = Vec::new();
    let mut len = 0;
    for span in spans {
        let same = |group: &Group<'_>| {
            Arc::ptr_eq(group.resource, &span.resource) || group.resource == &span.resource
        };
        // Backwards: neighbours in a batch mostly share their resource.
        let at = groups.iter().rposition(same).unwrap_or_else(|| {
            groups.push(Group::new(&span.resource));
            groups.len() - 1
        });
        let Some(group) = groups.get_mut(at) else {
            continue;
        };
        let before = group.spans.len();
        put_long(&mut group.spans, 2, |out| encode_span(out, span));
        len += group.spans.len() - before;
        if len > most {
            return false;
        }
    }
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

/// The spans of one resource.
struct Group<'a> {
    /// The resource, written.
    head: Vec<u8>,
    resource: &'a Arc<Resource>,
    /// Its scope and its spans, written.
    spans: Vec<u8>,
}

impl<'a> Group<'a> {
    fn new(resource: &'a Arc<Resource>) -> Self {
        let (mut head, mut spans) = (Vec::new(), Vec::new());
        put_nested(&mut head, 1, |out| put_resource(out, resource));
        put_nested(&mut spans, 1, |out| put_scope(out, resource));
        Self {
            head,
            resource,
            spans,
        }
    }

    fn resource_spans_len(&self) -> usize {
        self.head.len() + delimited_len(2, self.spans.len())
    }

    fn len(&self) -> usize {
        delimited_len(1, self.resource_spans_len())
    }

    fn put(&self, out: &mut BytesMut) {
        put_header(out, 1, self.resource_spans_len());
        out.put_slice(&self.head);
        put_header(out, 2, self.spans.len());
        out.put_slice(&self.spans);
    }
}

fn put_scope(out: &mut Vec<u8>, resource: &Resource) {
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

fn put_resource(out: &mut Vec<u8>, resource: &Resource) {
    if !resource.service.is_empty() {
        put_nested(out, 1, |out| {
            put_text(out, 1, SERVICE_NAME);
            put_nested(out, 2, |out| put_bytes(out, 1, resource.service.as_bytes()));
        });
    }
    put_attributes(out, 1, &resource.attributes);
}

/// Appends a span's own bytes, its resource left out: what [`decode_span`](super::decode_span) reads.
pub fn encode_span(out: &mut Vec<u8>, span: &Span) {
    // Several fields at a time where their lengths are known: one look for room instead of one for each byte.
    let mut ids = [0; 28];
    ids[..2].copy_from_slice(&[tag(1, Wire::Delimited), 16]);
    ids[2..18].copy_from_slice(&span.context.trace_id.bytes());
    ids[18..20].copy_from_slice(&[tag(2, Wire::Delimited), 8]);
    ids[20..].copy_from_slice(&span.context.span_id.bytes());
    out.extend_from_slice(&ids);
    put_text(out, 3, span.context.trace_state.as_str());
    if let Some(parent) = span.parent {
        put_bytes(out, 4, &parent.bytes());
    }
    put_text(out, 5, &span.name);
    let mut times = [0; 20];
    times[..3].copy_from_slice(&[
        tag(6, Wire::Varint),
        kind_number(span.kind) as u8,
        tag(7, Wire::Fixed64),
    ]);
    times[3..11].copy_from_slice(&span.start.0.to_le_bytes());
    times[11] = tag(8, Wire::Fixed64);
    times[12..].copy_from_slice(&span.end.0.to_le_bytes());
    out.extend_from_slice(&times);
    match span.attributes.bytes() {
        Some(packed) => out.extend_from_slice(packed),
        None => put_attributes(out, pack::FIELD, &span.attributes),
    }
    for event in &span.events {
        put_nested(out, 11, |out| {
            put_fixed64(out, 1, event.time.0);
            put_text(out, 2, &event.name);
            put_attributes(out, 3, &event.attributes);
        });
    }
    for link in &span.links {
        put_nested(out, 13, |out| {
            put_bytes(out, 1, &link.trace_id.bytes());
            put_bytes(out, 2, &link.span_id.bytes());
            put_attributes(out, 4, &link.attributes);
        });
    }
    if span.status != Status::Unset {
        put_nested(out, 15, |out| put_status(out, &span.status));
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

/// A tag that takes one byte.
const fn tag(field: u32, wire: Wire) -> u8 {
    (field << 3) as u8 | wire as u8
}

fn put_fixed64(out: &mut Vec<u8>, field: u32, value: u64) {
    put_tag(out, field, Wire::Fixed64);
    out.put_u64_le(value);
}

/// An unset status is left out.
fn put_status(out: &mut Vec<u8>, status: &Status) {
    let (description, code) = match status {
        Status::Unset => return,
        Status::Ok => ("", 1),
        Status::Error(description) => (description.as_str(), 2),
    };
    put_text(out, 2, description);
    put_tag(out, 3, Wire::Varint);
    put_varint(out, code);
}

fn put_attributes(out: &mut Vec<u8>, field: u32, attributes: &[Attribute]) {
    for attribute in attributes {
        put_attribute(out, field, attribute);
    }
}

pub(super) fn put_attribute(out: &mut Vec<u8>, field: u32, attribute: &Attribute) {
    if !put_short(out, field, attribute) {
        put_nested(out, field, |out| {
            put_text(out, 1, &attribute.key);
            put_nested(out, 2, |out| put_value(out, &attribute.value));
        });
    }
}

/// Writes what most attributes are, a short text under a short key, in the same form as the general way. False: it is
/// none.
fn put_short(out: &mut Vec<u8>, field: u32, attribute: &Attribute) -> bool {
    /// Tags and lengths of the key, the value and the value's text.
    const AROUND: usize = 6;
    let (key, Value::Str(text)) = (attribute.key.as_bytes(), &attribute.value) else {
        return false;
    };
    let text = text.as_bytes();
    let len = AROUND + key.len() + text.len();
    if len > 0x7f || field > 15 || key.is_empty() {
        return false;
    }
    let (key_len, text_len) = (key.len() as u8, text.len() as u8);
    let tag = |field| tag(field, Wire::Delimited);
    out.reserve(2 + len);
    out.extend_from_slice(&[tag(field), len as u8, tag(1), key_len]);
    out.extend_from_slice(key);
    out.extend_from_slice(&[tag(2), text_len + 2, tag(1), text_len]);
    out.extend_from_slice(text);
    true
}

/// The content of an `AnyValue`. Its fields are a `oneof`, so empty texts are written too: they say which kind it is.
fn put_value(out: &mut Vec<u8>, value: &Value) {
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
        Value::StrList(texts) => put_nested(out, 5, |out| {
            for text in texts.iter() {
                put_nested(out, 1, |out| put_bytes(out, 1, text.as_bytes()));
            }
        }),
    }
}
