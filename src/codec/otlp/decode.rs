//! Foreign `ExportTraceServiceRequest` bytes to spans, under limits, without an intermediate tree.
//!
//! A tree would let a few megabytes of two-byte empty messages grow into hundreds of megabytes of structs; reading
//! straight into spans lets every element be charged against the limits as it appears.

use std::sync::Arc;

use crate::codec::limits::Budget;
use crate::codec::limits::DecodeError;
use crate::codec::limits::Decoded;
use crate::codec::limits::Limits;
use crate::codec::limits::cut_resource;
use crate::codec::otlp::SCOPE_NAME;
use crate::codec::otlp::resource_of;
use crate::codec::otlp::wire::BadWire;
use crate::codec::otlp::wire::Field;
use crate::codec::otlp::wire::Reader;
use crate::model::Attribute;
use crate::model::Baggage;
use crate::model::Carried;
use crate::model::Event;
use crate::model::Kind;
use crate::model::Link;
use crate::model::Resource;
use crate::model::SamplingState;
use crate::model::Scope;
use crate::model::Span;
use crate::model::SpanContext;
use crate::model::SpanId;
use crate::model::Status;
use crate::model::Text;
use crate::model::Timestamp;
use crate::model::TraceId;
use crate::model::TraceState;
use crate::model::Value;

impl From<BadWire> for DecodeError {
    fn from(_: BadWire) -> Self {
        Self::Malformed("protobuf message")
    }
}

/// Reads an `ExportTraceServiceRequest` in protobuf form.
///
/// Values that the model does not have (lists of other things than text, maps) become JSON text; received spans count as
/// sampled. Invalid UTF-8 is replaced rather than refused.
///
/// # Errors
/// [`DecodeError`]: the whole request is refused.
pub fn decode(bytes: &[u8], limits: Limits) -> Result<Decoded, DecodeError> {
    let mut budget = Budget::new(limits);
    let mut decoded = Decoded::default();
    let mut reader = Reader::new(bytes);
    while let Some((number, field)) = reader.next()? {
        if let (1, Field::Delimited(bytes)) = (number, field) {
            resource_spans(bytes, &mut budget, &mut decoded)?;
        }
    }
    Ok(decoded)
}

fn resource_spans(
    bytes: &[u8],
    budget: &mut Budget,
    decoded: &mut Decoded,
) -> Result<(), DecodeError> {
    // The resource may stand behind its spans on the wire: read it first.
    let mut attributes = Vec::new();
    let mut reader = Reader::new(bytes);
    while let Some((number, field)) = reader.next()? {
        if let (1, Field::Delimited(bytes)) = (number, field) {
            let mut resource = Reader::new(bytes);
            while let Some((number, field)) = resource.next()? {
                if let (1, Field::Delimited(bytes)) = (number, field) {
                    attributes.extend(attribute(bytes, budget)?);
                }
            }
        }
    }
    let mut resource = resource_of(attributes);
    cut_resource(&mut resource);
    let resource = Arc::new(resource);
    let mut reader = Reader::new(bytes);
    while let Some((number, field)) = reader.next()? {
        if let (2, Field::Delimited(bytes)) = (number, field) {
            scope_spans(bytes, &resource, budget, decoded)?;
        }
    }
    Ok(())
}

fn scope_spans(
    bytes: &[u8],
    resource: &Arc<Resource>,
    budget: &mut Budget,
    decoded: &mut Decoded,
) -> Result<(), DecodeError> {
    let mut scope = Scope::default();
    let mut reader = Reader::new(bytes);
    while let Some((number, field)) = reader.next()? {
        if let (1, Field::Delimited(bytes)) = (number, field) {
            let mut fields = Reader::new(bytes);
            while let Some((number, field)) = fields.next()? {
                match (number, field) {
                    (1, Field::Delimited(name)) => scope.name = text(name),
                    (2, Field::Delimited(version)) => scope.version = text(version),
                    (3, Field::Delimited(bytes)) => {
                        scope.attributes.extend(attribute(bytes, budget)?);
                    }
                    _ => {}
                }
            }
        }
    }
    let scope = (scope.name != SCOPE_NAME).then_some(scope);
    // Made for the first span: a scope without spans must not cost a copy of its resource.
    let mut origin = None;
    let mut reader = Reader::new(bytes);
    while let Some((number, field)) = reader.next()? {
        if let (2, Field::Delimited(bytes)) = (number, field) {
            budget.span()?;
            let resource = match &origin {
                Some(origin) => origin,
                None => origin.insert(with_scope(resource, &scope, budget)?),
            };
            match span(bytes, resource, budget)? {
                Some(span) => decoded.spans.push(span),
                None => decoded.rejected += 1,
            }
        }
    }
    Ok(())
}

/// The resource with the scope in it. Its copy is charged: one large resource may hold many scopes.
fn with_scope(
    resource: &Arc<Resource>,
    scope: &Option<Scope>,
    budget: &mut Budget,
) -> Result<Arc<Resource>, DecodeError> {
    if scope.is_none() {
        return Ok(Arc::clone(resource));
    }
    for _ in &resource.attributes {
        budget.part()?;
    }
    let mut resource = Resource {
        scope: scope.clone(),
        ..Resource::clone(resource)
    };
    cut_resource(&mut resource);
    Ok(Arc::new(resource))
}

/// Reads a span that [`encode_span`](super::encode_span) wrote; `None`: no such bytes. What OTLP has no word for is as
/// received spans have it.
pub fn decode_span(bytes: &[u8], resource: &Arc<Resource>) -> Option<Span> {
    span(bytes, resource, &mut Budget::new(Limits::default())).ok()?
}

/// `Ok(None)`: the ids are not valid.
fn span(
    bytes: &[u8],
    resource: &Arc<Resource>,
    budget: &mut Budget,
) -> Result<Option<Span>, DecodeError> {
    let (mut trace_id, mut span_id, mut parent) = (None, None, Some(None));
    let mut trace_state = TraceState::default();
    let (mut start, mut end, mut kind, mut flags) = (0, 0, 0, 0);
    let (mut name, mut status) = (Text::default(), Status::Unset);
    let (mut attributes, mut events, mut links) = (Vec::new(), Vec::new(), Vec::new());
    let mut reader = Reader::new(bytes);
    while let Some((number, field)) = reader.next()? {
        match (number, field) {
            (1, Field::Delimited(id)) => trace_id = trace_id_of(id),
            (2, Field::Delimited(id)) => span_id = span_id_of(id),
            (3, Field::Delimited(list)) => trace_state = trace_state_of(list),
            (4, Field::Delimited(id)) => parent = parent_of(id),
            (5, Field::Delimited(bytes)) => name = text(bytes),
            (6, Field::Varint(number)) => kind = number,
            (7, Field::Fixed64(nanos)) => start = nanos,
            (8, Field::Fixed64(nanos)) => end = nanos,
            (9, Field::Delimited(bytes)) => attributes.extend(attribute(bytes, budget)?),
            (11, Field::Delimited(bytes)) => events.push(event(bytes, budget)?),
            (13, Field::Delimited(bytes)) => links.extend(link(bytes, budget)?),
            (15, Field::Delimited(bytes)) => status = status_of(bytes)?,
            (16, Field::Fixed32(bits)) => flags = bits,
            _ => {}
        }
    }
    let (Some(trace_id), Some(span_id), Some(parent)) = (trace_id, span_id, parent) else {
        return Ok(None);
    };
    let kind = kind_of(kind);
    Ok(Some(Span {
        context: received_context(trace_id, span_id, flags, trace_state),
        parent,
        // Exporters before these flags, and many since, do not say it.
        remote_parent: match flags & 0x100 {
            0 => parent.is_some() && kind.is_entry(),
            _ => flags & 0x200 != 0,
        },
        name,
        kind,
        start: Timestamp(start),
        end: Timestamp(end.max(start)),
        attributes: attributes.into(),
        events,
        links,
        status,
        resource: Arc::clone(resource),
    }))
}

/// The context of a span that somebody exported, hence sampled.
pub(super) fn received_context(
    trace_id: TraceId,
    span_id: SpanId,
    flags: u32,
    trace_state: TraceState,
) -> SpanContext {
    SpanContext {
        trace_id,
        span_id,
        state: SamplingState::Accept,
        random: flags & 2 != 0,
        firehose: false,
        trace_state,
        baggage: Baggage::default(),
        carried: Carried::default(),
    }
}

/// `SpanKind`; unspecified and unknown numbers count as internal, as the specification asks.
pub(super) fn kind_of(number: u64) -> Kind {
    match number {
        2 => Kind::Server,
        3 => Kind::Client,
        4 => Kind::Producer,
        5 => Kind::Consumer,
        _ => Kind::Internal,
    }
}

pub(super) fn trace_id_of(bytes: &[u8]) -> Option<TraceId> {
    TraceId::from_bytes(bytes.try_into().ok()?)
}

pub(super) fn span_id_of(bytes: &[u8]) -> Option<SpanId> {
    SpanId::from_bytes(bytes.try_into().ok()?)
}

/// An empty or zero parent is a root; the outer `None` is a parent of the wrong length.
pub(super) fn parent_of(bytes: &[u8]) -> Option<Option<SpanId>> {
    if bytes.iter().all(|byte| *byte == 0) {
        return Some(None);
    }
    span_id_of(bytes).map(Some)
}

pub(super) fn trace_state_of(bytes: &[u8]) -> TraceState {
    // Beyond W3C's 512 characters nobody is bound to keep it, and it is multiplied by every span.
    let list = std::str::from_utf8(bytes).unwrap_or_default();
    TraceState((!list.is_empty() && list.len() <= 512).then(|| list.into()))
}

fn event(bytes: &[u8], budget: &mut Budget) -> Result<Event, DecodeError> {
    budget.part()?;
    let mut event = Event {
        time: Timestamp(0),
        name: Text::default(),
        attributes: Vec::new(),
    };
    let mut reader = Reader::new(bytes);
    while let Some((number, field)) = reader.next()? {
        match (number, field) {
            (1, Field::Fixed64(nanos)) => event.time = Timestamp(nanos),
            (2, Field::Delimited(bytes)) => event.name = text(bytes),
            (3, Field::Delimited(bytes)) => event.attributes.extend(attribute(bytes, budget)?),
            _ => {}
        }
    }
    Ok(event)
}

/// `Ok(None)`: a link without valid ids says nothing and is left out.
fn link(bytes: &[u8], budget: &mut Budget) -> Result<Option<Link>, DecodeError> {
    budget.part()?;
    let (mut trace_id, mut span_id, mut attributes) = (None, None, Vec::new());
    let mut reader = Reader::new(bytes);
    while let Some((number, field)) = reader.next()? {
        match (number, field) {
            (1, Field::Delimited(id)) => trace_id = trace_id_of(id),
            (2, Field::Delimited(id)) => span_id = span_id_of(id),
            (4, Field::Delimited(bytes)) => attributes.extend(attribute(bytes, budget)?),
            _ => {}
        }
    }
    let (Some(trace_id), Some(span_id)) = (trace_id, span_id) else {
        return Ok(None);
    };
    Ok(Some(Link {
        trace_id,
        span_id,
        attributes,
    }))
}

fn status_of(bytes: &[u8]) -> Result<Status, DecodeError> {
    let (mut description, mut code) = (Text::default(), 0);
    let mut reader = Reader::new(bytes);
    while let Some((number, field)) = reader.next()? {
        match (number, field) {
            (2, Field::Delimited(bytes)) => description = text(bytes),
            (3, Field::Varint(number)) => code = number,
            _ => {}
        }
    }
    Ok(status_from(code, description))
}

pub(super) fn status_from(code: u64, description: Text) -> Status {
    match code {
        1 => Status::Ok,
        2 => Status::Error(description),
        _ => Status::Unset,
    }
}

/// `Ok(None)`: a key without a value.
pub(super) fn attribute(
    bytes: &[u8],
    budget: &mut Budget,
) -> Result<Option<Attribute>, DecodeError> {
    budget.part()?;
    let (mut key, mut value) = (Text::default(), None);
    let mut reader = Reader::new(bytes);
    while let Some((number, field)) = reader.next()? {
        match (number, field) {
            (1, Field::Delimited(bytes)) => key = text(bytes),
            (2, Field::Delimited(bytes)) => value = any_value(bytes, budget)?,
            _ => {}
        }
    }
    Ok(value.map(|value| Attribute { key, value }))
}

fn any_value(bytes: &[u8], budget: &mut Budget) -> Result<Option<Value>, DecodeError> {
    let mut value = None;
    let mut reader = Reader::new(bytes);
    while let Some((number, field)) = reader.next()? {
        value = match (number, field) {
            (1, Field::Delimited(bytes)) => Some(Value::Str(text(bytes))),
            (2, Field::Varint(number)) => Some(Value::Bool(number != 0)),
            (3, Field::Varint(number)) => Some(Value::I64(number as i64)),
            (4, Field::Fixed64(bits)) => Some(Value::F64(f64::from_bits(bits))),
            (5, Field::Delimited(bytes)) => Some(array(bytes, budget)?),
            (6, Field::Delimited(_)) => Some(Value::Str(json_value(number, field, budget, 0)?)),
            (7, Field::Delimited(bytes)) => Some(Value::Bytes(bytes.into())),
            _ => continue,
        };
    }
    Ok(value)
}

/// A list of texts stays a list; any other list becomes JSON text.
fn array(bytes: &[u8], budget: &mut Budget) -> Result<Value, DecodeError> {
    let mut texts = Vec::new();
    let mut items = Reader::new(bytes);
    while let Some((number, field)) = items.next()? {
        let (1, Field::Delimited(item)) = (number, field) else {
            continue;
        };
        match Reader::new(item).next()? {
            Some((1, Field::Delimited(bytes))) => {
                budget.part()?;
                texts.push(text(bytes));
            }
            _ => {
                let json = json_value(5, Field::Delimited(bytes), budget, 0)?;
                return Ok(Value::Str(json));
            }
        }
    }
    Ok(Value::StrList(texts.into()))
}

const MAX_DEPTH: usize = 16;

fn json_value(
    number: u32,
    field: Field<'_>,
    budget: &mut Budget,
    depth: usize,
) -> Result<Text, DecodeError> {
    Ok(json_tree(number, field, budget, depth)?.to_string().into())
}

/// One member of the `AnyValue` oneof as JSON.
fn json_tree(
    number: u32,
    field: Field<'_>,
    budget: &mut Budget,
    depth: usize,
) -> Result<serde_json::Value, DecodeError> {
    use base64::Engine;
    use serde_json::Value as Json;

    if depth > MAX_DEPTH {
        return Err(DecodeError::TooDeep);
    }
    budget.part()?;
    Ok(match (number, field) {
        (1, Field::Delimited(bytes)) => Json::String(text(bytes).to_string()),
        (2, Field::Varint(number)) => Json::Bool(number != 0),
        (3, Field::Varint(number)) => Json::from(number as i64),
        (4, Field::Fixed64(bits)) => Json::from(f64::from_bits(bits)),
        (5, Field::Delimited(bytes)) => {
            let mut items = Vec::new();
            let mut reader = Reader::new(bytes);
            while let Some((number, field)) = reader.next()? {
                if let (1, Field::Delimited(item)) = (number, field) {
                    items.push(json_member(item, budget, depth)?);
                }
            }
            Json::Array(items)
        }
        (6, Field::Delimited(bytes)) => {
            let mut members = serde_json::Map::new();
            let mut reader = Reader::new(bytes);
            while let Some((number, field)) = reader.next()? {
                let (1, Field::Delimited(pair)) = (number, field) else {
                    continue;
                };
                let (mut key, mut value) = (Text::default(), Json::Null);
                let mut pair = Reader::new(pair);
                while let Some((number, field)) = pair.next()? {
                    match (number, field) {
                        (1, Field::Delimited(bytes)) => key = text(bytes),
                        (2, Field::Delimited(bytes)) => value = json_member(bytes, budget, depth)?,
                        _ => {}
                    }
                }
                members.insert(key.to_string(), value);
            }
            Json::Object(members)
        }
        (7, Field::Delimited(bytes)) => {
            Json::String(base64::engine::general_purpose::STANDARD.encode(bytes))
        }
        _ => Json::Null,
    })
}

fn json_member(
    any_value: &[u8],
    budget: &mut Budget,
    depth: usize,
) -> Result<serde_json::Value, DecodeError> {
    match Reader::new(any_value).next()? {
        Some((number, field)) => json_tree(number, field, budget, depth + 1),
        None => Ok(serde_json::Value::Null),
    }
}

fn text(bytes: &[u8]) -> Text {
    String::from_utf8_lossy(bytes).into()
}
