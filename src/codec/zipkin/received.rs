//! Zipkin's spans back into the model's: its JSON and proto3 lists, and its first version through [`super::v1`].
//!
//! The local endpoint becomes the resource, the remote one attributes under OpenTelemetry's names; a tag `error` marks
//! failure whatever it says; the half of a call that shares its id with the other half keeps `zipkin.shared`.
//! Source: openzipkin/zipkin-api `zipkin2-api.yaml`, `zipkin.proto`; OpenTelemetry specification,
//! `trace/sdk_exporters/zipkin.md`.

use std::net::IpAddr;

use prost::Message;
use serde::Deserialize;

use crate::codec::DecodeError;
use crate::codec::Decoded;
use crate::codec::Limits;
use crate::codec::jaeger::Interner;
use crate::codec::limits::Budget;
use crate::codec::limits::check_json;
use crate::codec::otlp::wire::Field;
use crate::codec::otlp::wire::Reader;
use crate::codec::zipkin::SHARED;
use crate::codec::zipkin::proto;
use crate::model::Attribute;
use crate::model::Event;
use crate::model::Kind;
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
use crate::model::Value;

/// Reads a JSON list of version 2.
///
/// # Errors
/// [`DecodeError`]: the whole list is refused.
pub fn decode_json(
    bytes: &[u8],
    limits: Limits,
    intern: Interner<'_>,
) -> Result<Decoded, DecodeError> {
    check_json(bytes, limits)?;
    let list: Vec<JsonSpan> = serde_json::from_slice(bytes)
        .map_err(|_| DecodeError::Malformed("JSON_V2 encoded list"))?;
    let mut budget = Budget::new(limits);
    let mut decoded = Decoded::default();
    for span in list {
        budget.span()?;
        decoded.add(span.plain(), intern);
    }
    Ok(decoded)
}

/// Reads a `ListOfSpans` in proto3.
///
/// # Errors
/// [`DecodeError`]: the whole list is refused.
pub fn decode_proto(
    bytes: &[u8],
    limits: Limits,
    intern: Interner<'_>,
) -> Result<Decoded, DecodeError> {
    let mut budget = Budget::new(limits);
    let mut decoded = Decoded::default();
    let mut reader = Reader::new(bytes);
    while let Some((number, field)) = reader.next()? {
        let (1, Field::Delimited(bytes)) = (number, field) else {
            continue;
        };
        budget.span()?;
        let mut fields = Reader::new(bytes);
        while fields.next()?.is_some() {
            budget.part()?;
        }
        let span = proto::Span::decode(bytes)
            .map_err(|_| DecodeError::Malformed("PROTO3 encoded list"))?;
        decoded.add(proto_plain(span), intern);
    }
    Ok(decoded)
}

/// A span with what both versions have in common; `None` in its place when its ids are missing or malformed.
#[derive(Debug)]
pub(super) struct Plain {
    pub(super) trace_id: TraceId,
    pub(super) id: SpanId,
    pub(super) parent: Option<SpanId>,
    pub(super) kind: Kind,
    pub(super) name: Text,
    /// Microseconds since the epoch.
    pub(super) start: u64,
    /// Microseconds.
    pub(super) duration: u64,
    pub(super) local: Endpoint,
    pub(super) remote: Endpoint,
    pub(super) annotations: Vec<(u64, String)>,
    pub(super) tags: Vec<Attribute>,
    pub(super) debug: bool,
    pub(super) shared: bool,
}

/// A service and its address; any part may be missing.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Endpoint {
    pub(super) service: Text,
    pub(super) address: Option<IpAddr>,
    pub(super) port: u16,
}

impl Decoded {
    /// Takes a span over, or counts it as refused.
    pub(super) fn add(&mut self, plain: Option<Plain>, intern: Interner<'_>) {
        match plain {
            Some(plain) => self.spans.push(plain.span(intern)),
            None => self.rejected += 1,
        }
    }
}

impl Plain {
    fn span(self, intern: Interner<'_>) -> Span {
        let state = if self.debug {
            SamplingState::Debug
        } else {
            SamplingState::Accept
        };
        let mut attributes = Vec::with_capacity(self.tags.len() + 3);
        let (mut status, mut scope) = (Status::Unset, Scope::default());
        for tag in self.tags {
            match (tag.key.as_str(), tag.value.as_str().map(Text::new)) {
                ("error", text) => {
                    let text = text.filter(|text| text != "true").unwrap_or_default();
                    status = Status::Error(text);
                }
                ("otel.status_code", Some(text)) if text == "OK" => status = Status::Ok,
                ("otel.status_code", Some(text)) if text == "ERROR" => {
                    if status == Status::Unset {
                        status = Status::Error(Text::default());
                    }
                }
                ("otel.scope.name" | "otel.library.name", Some(name)) => scope.name = name,
                ("otel.scope.version" | "otel.library.version", Some(version)) => {
                    scope.version = version;
                }
                _ => attributes.push(tag),
            }
        }
        if self.shared {
            attributes.push(Attribute::new(SHARED, true));
        }
        self.remote.note(
            &mut attributes,
            ["peer.service", "network.peer.address", "network.peer.port"],
        );
        let mut resource = Resource {
            service: self.local.service.clone(),
            attributes: Vec::new(),
            scope: Some(scope),
        };
        let names = ["", "net.host.ip", "net.host.port"];
        self.local.note(&mut resource.attributes, names);
        let start = self.start.saturating_mul(1_000);
        Span {
            context: SpanContext::new(self.trace_id, self.id, state),
            parent: self.parent,
            // A shared span's parent is in the other process, as is the parent of a server's span.
            remote_parent: self.parent.is_some() && self.kind.is_entry(),
            name: self.name,
            kind: self.kind,
            start: Timestamp(start),
            end: Timestamp(start.saturating_add(self.duration.saturating_mul(1_000))),
            attributes: attributes.into(),
            events: self
                .annotations
                .into_iter()
                .map(|(micros, text)| event(micros, &text))
                .collect(),
            links: Vec::new(),
            status,
            resource: intern(resource),
        }
    }
}

impl Endpoint {
    /// Adds what is known under the names for service, address and port; an empty name leaves that part out.
    fn note(&self, attributes: &mut Vec<Attribute>, [service, address, port]: [&'static str; 3]) {
        let has = |key: &str, attributes: &[Attribute]| attributes.iter().any(|a| a.key == key);
        if !service.is_empty() && !self.service.is_empty() && !has(service, attributes) {
            attributes.push(Attribute::new(service, self.service.clone()));
        }
        if let Some(ip) = self.address
            && !has(address, attributes)
        {
            attributes.push(Attribute::new(address, ip.to_string()));
        }
        if self.port != 0 && !has(port, attributes) {
            attributes.push(Attribute::new(port, i64::from(self.port)));
        }
    }
}

/// `"name": {attributes}` as exporters write it; any other text is a name.
fn event(micros: u64, text: &str) -> Event {
    let mut event = Event {
        time: Timestamp(micros.saturating_mul(1_000)),
        name: Text::new(text),
        attributes: Vec::new(),
    };
    if text.starts_with('"')
        && let Some((name, attributes)) = named_event(text)
    {
        (event.name, event.attributes) = (name, attributes);
    }
    event
}

fn named_event(text: &str) -> Option<(Text, Vec<Attribute>)> {
    let mut names = serde_json::Deserializer::from_str(text).into_iter::<String>();
    let name = names.next()?.ok()?;
    let rest = text.get(names.byte_offset()..)?.strip_prefix(": ")?;
    let fields: serde_json::Map<String, serde_json::Value> = serde_json::from_str(rest).ok()?;
    let attributes = fields.into_iter().map(|(key, value)| Attribute {
        key: key.into(),
        value: value_of(value),
    });
    Some((name.into(), attributes.collect()))
}

fn value_of(json: serde_json::Value) -> Value {
    use serde_json::Value as Json;
    match json {
        Json::String(text) => Value::Str(text.into()),
        Json::Bool(value) => Value::Bool(value),
        Json::Number(number) => match number.as_i64() {
            Some(number) => Value::I64(number),
            None => Value::F64(number.as_f64().unwrap_or_default()),
        },
        other => Value::Str(other.to_string().into()),
    }
}

/// 16 or 32 digits, or fewer.
pub(super) fn trace_id_of(hex: &str) -> Option<TraceId> {
    TraceId::from_hex(hex.as_bytes())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct JsonSpan {
    trace_id: String,
    id: String,
    parent_id: Option<String>,
    kind: Option<String>,
    name: Option<Text>,
    timestamp: Option<u64>,
    duration: Option<u64>,
    local_endpoint: Option<JsonEndpoint>,
    remote_endpoint: Option<JsonEndpoint>,
    annotations: Option<Vec<JsonAnnotation>>,
    tags: Option<serde_json::Map<String, serde_json::Value>>,
    debug: Option<bool>,
    shared: Option<bool>,
}

/// The endpoint of both versions.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct JsonEndpoint {
    service_name: Option<Text>,
    ipv4: Option<String>,
    ipv6: Option<String>,
    port: Option<i32>,
}

#[derive(Deserialize)]
struct JsonAnnotation {
    timestamp: u64,
    value: String,
}

impl From<JsonEndpoint> for Endpoint {
    fn from(json: JsonEndpoint) -> Self {
        let address = json.ipv4.or(json.ipv6).and_then(|text| text.parse().ok());
        Self {
            service: json.service_name.unwrap_or_default(),
            address,
            port: json
                .port
                .and_then(|port| u16::try_from(port).ok())
                .unwrap_or(0),
        }
    }
}

/// The endpoint, empty when there is none.
pub(super) fn endpoint(json: Option<JsonEndpoint>) -> Endpoint {
    json.map(Endpoint::from).unwrap_or_default()
}

impl JsonSpan {
    fn plain(self) -> Option<Plain> {
        let parent = self.parent_id.filter(|id| !id.is_empty());
        let tags = self.tags.unwrap_or_default().into_iter();
        Some(Plain {
            trace_id: trace_id_of(&self.trace_id)?,
            id: SpanId::from_hex(self.id.as_bytes())?,
            parent: match parent {
                Some(id) => Some(SpanId::from_hex(id.as_bytes())?),
                None => None,
            },
            kind: match self.kind.as_deref() {
                Some("CLIENT") => Kind::Client,
                Some("SERVER") => Kind::Server,
                Some("PRODUCER") => Kind::Producer,
                Some("CONSUMER") => Kind::Consumer,
                _ => Kind::Internal,
            },
            name: self.name.unwrap_or_default(),
            start: self.timestamp.unwrap_or(0),
            duration: self.duration.unwrap_or(0),
            local: endpoint(self.local_endpoint),
            remote: endpoint(self.remote_endpoint),
            annotations: self
                .annotations
                .unwrap_or_default()
                .into_iter()
                .map(|annotation| (annotation.timestamp, annotation.value))
                .collect(),
            // Tags are texts; what some clients write as numbers is taken as the text that it is.
            tags: tags
                .map(|(key, value)| Attribute {
                    key: key.into(),
                    value: Value::Str(match value {
                        serde_json::Value::String(text) => text.into(),
                        other => other.to_string().into(),
                    }),
                })
                .collect(),
            debug: self.debug.unwrap_or(false),
            shared: self.shared.unwrap_or(false),
        })
    }
}

fn proto_plain(span: proto::Span) -> Option<Plain> {
    let id = |bytes: &[u8]| SpanId::from_bytes(bytes.try_into().ok()?);
    let trace_id = match span.trace_id.as_slice().try_into() {
        Ok(bytes) => TraceId::from_bytes(bytes)?,
        Err(_) => {
            let low: [u8; 8] = span.trace_id.as_slice().try_into().ok()?;
            TraceId::from_halves(0, u64::from_be_bytes(low))?
        }
    };
    Some(Plain {
        trace_id,
        id: id(&span.id)?,
        parent: match span.parent_id.as_slice() {
            [] => None,
            bytes => Some(id(bytes)?),
        },
        kind: match span.kind {
            1 => Kind::Client,
            2 => Kind::Server,
            3 => Kind::Producer,
            4 => Kind::Consumer,
            _ => Kind::Internal,
        },
        name: span.name.into(),
        start: span.timestamp,
        duration: span.duration,
        local: span.local_endpoint.map(proto_endpoint).unwrap_or_default(),
        remote: span.remote_endpoint.map(proto_endpoint).unwrap_or_default(),
        annotations: span
            .annotations
            .into_iter()
            .map(|annotation| (annotation.timestamp, annotation.value))
            .collect(),
        tags: {
            let mut tags: Vec<_> = span.tags.into_iter().collect();
            tags.sort_unstable();
            tags.into_iter()
                .map(|(key, value)| Attribute {
                    key: key.into(),
                    value: Value::Str(value.into()),
                })
                .collect()
        },
        debug: span.debug,
        shared: span.shared,
    })
}

fn proto_endpoint(endpoint: proto::Endpoint) -> Endpoint {
    Endpoint {
        service: endpoint.service_name.into(),
        address: address(&endpoint.ipv4).or_else(|| address(&endpoint.ipv6)),
        port: u16::try_from(endpoint.port).unwrap_or(0),
    }
}

/// 4 or 16 bytes as an address.
pub(super) fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(bytes) = <[u8; 4]>::try_from(bytes) {
        return Some(IpAddr::from(bytes));
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::codec::zipkin;

    #[test]
    fn captured_lists_of_both_spellings_say_the_same() {
        let json =
            include_bytes!("../../../tests/data/zipkin/01-otel-python-1.21.0-v2-json.body.json");
        let proto =
            include_bytes!("../../../tests/data/zipkin/02-otel-python-1.21.0-v2-proto3.body.bin");
        let json = decode_json(json, Limits::default(), &mut Arc::new).unwrap();
        let proto = decode_proto(proto, Limits::default(), &mut Arc::new).unwrap();
        for decoded in [&json, &proto] {
            assert_eq!((decoded.spans.len(), decoded.rejected), (2, 0));
            let [client, server] = &decoded.spans[..] else {
                panic!("{decoded:?}");
            };
            assert_eq!((client.kind, server.kind), (Kind::Client, Kind::Server));
            assert_eq!(client.parent, Some(server.context.span_id));
            assert!(client.is_debug() && client.start < client.end);
            let spans: Vec<_> = decoded.spans.iter().cloned().map(Arc::new).collect();
            for again in [
                decode_json(
                    &zipkin::encode_json(&spans),
                    Limits::default(),
                    &mut Arc::new,
                ),
                decode_proto(
                    &zipkin::encode_proto(&spans),
                    Limits::default(),
                    &mut Arc::new,
                ),
            ] {
                let again = again.unwrap().spans;
                for (before, after) in decoded.spans.iter().zip(&again) {
                    assert_eq!(before.context, after.context);
                    assert_eq!((before.parent, before.kind), (after.parent, after.kind));
                    assert_eq!((before.start, before.end), (after.start, after.end));
                    assert_eq!(before.events.len(), after.events.len());
                    assert_eq!(before.status, after.status);
                    assert_eq!(before.resource.scope, after.resource.scope);
                    for attribute in &before.attributes {
                        assert!(after.attribute(&attribute.key).is_some(), "{attribute:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn malformed_lists_are_refused_and_spans_without_ids_counted() {
        for (body, why) in [
            ("", "empty"),
            ("{}", "no list"),
            ("[1]", "no spans"),
            (r#"[{"traceId":"1"}]"#, "no id"),
            (r#"[{"traceId":"1","id":"1","tags":[]}]"#, "tags are no map"),
        ] {
            let result = decode_json(body.as_bytes(), Limits::default(), &mut Arc::new);
            assert!(result.is_err(), "{why}");
        }
        let body =
            r#"[{"traceId":"0","id":"1"},{"traceId":"1","id":"2","shared":true,"tags":{"a":1}}]"#;
        let decoded = decode_json(body.as_bytes(), Limits::default(), &mut Arc::new).unwrap();
        assert_eq!((decoded.spans.len(), decoded.rejected), (1, 1));
        assert_eq!(decoded.spans[0].attribute(SHARED), Some(&Value::Bool(true)));
        let limits = Limits { spans: 2, parts: 9 };
        for (bytes, why) in [
            (&[0x0a, 0x02, 0x5a][..], "a length beyond the end"),
            (&[0x0a, 0, 0x0a, 0, 0x0a, 0], "three spans"),
            (
                &[
                    0x0a, 20, 0x52, 0, 0x52, 0, 0x52, 0, 0x52, 0, 0x52, 0, 0x52, 0, 0x52, 0, 0x52,
                    0, 0x52, 0, 0x52, 0,
                ],
                "ten annotations",
            ),
        ] {
            assert!(decode_proto(bytes, limits, &mut Arc::new).is_err(), "{why}");
        }
    }
}
