//! Zipkin v2: spans as its JSON or proto3 lists.
//!
//! Both spellings are written from one translation: times in microseconds, tags as text, events as annotations, and the
//! name of the other side where a client span knows it, which is what Zipkin draws its service graph from. A span of ours
//! is never `shared`; a received one stays it. Links and trace state have no place.
//! Source: openzipkin/zipkin-api `zipkin2-api.yaml`, `zipkin.proto`; OpenTelemetry specification, `trace/sdk_exporters/zipkin.md`.

mod proto;
mod received;
mod v1;
mod v1_write;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use serde::Serialize;

use crate::codec::otlp::SCOPE_NAME;
use crate::codec::otlp::SCOPE_VERSION;
use crate::codec::text_value::peer;
use crate::codec::text_value::text_of;
use crate::model;
use crate::model::Kind;
use crate::model::Status;

pub use proto::encode_proto;
pub use received::{decode_json, decode_proto};
pub use v1::{decode_v1_json, decode_v1_thrift, received_v1};
pub use v1_write::encode_v1_thrift;

/// The attribute of a received span that shares its id with the other side of its call.
pub(super) const SHARED: &str = "zipkin.shared";

/// The spans as a JSON list.
pub fn encode_json(spans: &[Arc<model::Span>]) -> Vec<u8> {
    let spans: Vec<_> = spans.iter().map(|span| Span::of(span)).collect();
    // Writing plain structs into a Vec cannot fail.
    serde_json::to_vec(&spans).unwrap_or_default()
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Span<'a> {
    trace_id: String,
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    name: &'a str,
    timestamp: u64,
    duration: u64,
    local_endpoint: Endpoint,
    #[serde(skip_serializing_if = "Option::is_none")]
    remote_endpoint: Option<Endpoint>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    annotations: Vec<Annotation>,
    tags: BTreeMap<&'a str, String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    debug: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    shared: bool,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Endpoint {
    #[serde(skip_serializing_if = "String::is_empty")]
    service_name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    ipv4: Option<std::net::Ipv4Addr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ipv6: Option<std::net::Ipv6Addr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
}

#[derive(Serialize)]
struct Annotation {
    timestamp: u64,
    value: String,
}

impl<'a> Span<'a> {
    fn of(span: &'a model::Span) -> Self {
        let context = &span.context;
        Self {
            // Old servers know no others; today's take 16 leading zeros away themselves.
            trace_id: if context.trace_id.high() == 0 {
                context.trace_id.low_hex().to_string()
            } else {
                context.trace_id.to_string()
            },
            id: context.span_id.to_string(),
            parent_id: span.parent.map(|id| id.to_string()),
            kind: kind_of(span.kind),
            name: &span.name,
            timestamp: span.start.micros(),
            // Zero would mean that the duration is unknown.
            duration: (span.duration_nanos() / 1_000).max(1),
            local_endpoint: Endpoint {
                service_name: span.resource.service.to_string(),
                ..Endpoint::default()
            },
            remote_endpoint: remote_endpoint(span),
            annotations: span.events.iter().map(annotation).collect(),
            tags: tags(span),
            debug: span.is_debug(),
            shared: span.attribute(SHARED) == Some(&model::Value::Bool(true)),
        }
    }
}

fn kind_of(kind: Kind) -> Option<&'static str> {
    match kind {
        Kind::Internal => None,
        Kind::Server => Some("SERVER"),
        Kind::Client => Some("CLIENT"),
        Kind::Producer => Some("PRODUCER"),
        Kind::Consumer => Some("CONSUMER"),
    }
}

fn tags(span: &model::Span) -> BTreeMap<&str, String> {
    let mut tags = BTreeMap::new();
    for attribute in span.resource.attributes.iter().chain(&span.attributes) {
        tags.insert(attribute.key.as_str(), text_of(&attribute.value));
    }
    tags.remove(SHARED);
    // A tag of this name means failure, whatever it says.
    if tags.get("error").is_some_and(|value| value == "false") {
        tags.remove("error");
    }
    match &span.status {
        Status::Unset => {}
        Status::Ok => {
            tags.insert("otel.status_code", "OK".to_owned());
        }
        Status::Error(description) => {
            tags.insert("otel.status_code", "ERROR".to_owned());
            tags.insert("error", description.to_string());
        }
    }
    let (name, version) = match &span.resource.scope {
        None => (SCOPE_NAME, SCOPE_VERSION),
        Some(scope) => (scope.name.as_str(), scope.version.as_str()),
    };
    for (key, text) in [("otel.scope.name", name), ("otel.scope.version", version)] {
        if !text.is_empty() {
            tags.insert(key, text.to_owned());
        }
    }
    tags
}

/// The other side of a call that went out: its service where that is known, else its host.
fn remote_endpoint(span: &model::Span) -> Option<Endpoint> {
    if !matches!(span.kind, Kind::Client | Kind::Producer) {
        return None;
    }
    let named = |key| span.attribute(key).and_then(|value| value.as_str());
    let service = named("service.peer.name").or_else(|| named("peer.service"));
    let (host, port) = match peer(span) {
        Some((host, port)) => (host, port),
        None => (String::new(), None),
    };
    let address: Option<IpAddr> = host.parse().ok();
    let service_name = service.map_or_else(
        || {
            if address.is_none() {
                host
            } else {
                String::new()
            }
        },
        str::to_owned,
    );
    let (ipv4, ipv6) = match address {
        Some(IpAddr::V4(address)) => (Some(address), None),
        Some(IpAddr::V6(address)) => (None, Some(address)),
        None => (None, None),
    };
    let endpoint = Endpoint {
        service_name,
        ipv4,
        ipv6,
        port: port.filter(|port| *port != 0),
    };
    (endpoint != Endpoint::default()).then_some(endpoint)
}

/// The event's name, or `"name": {attributes}` where it has any.
fn annotation(event: &model::Event) -> Annotation {
    let name = &event.name;
    let fields: BTreeMap<_, _> = event
        .attributes
        .iter()
        .map(|attribute| (attribute.key.as_str(), text_of(&attribute.value)))
        .collect();
    let fields = serde_json::to_string(&fields).unwrap_or_default();
    let value = if event.attributes.is_empty() {
        name.to_string()
    } else {
        format!("{}: {fields}", serde_json::Value::from(name.as_str()))
    };
    Annotation {
        timestamp: event.time.micros(),
        value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::tests::bare_span;
    use crate::codec::tests::full_span;
    use crate::model::Attribute;

    fn json(span: model::Span) -> serde_json::Value {
        let body = encode_json(&[Arc::new(span)]);
        let mut list: Vec<serde_json::Value> = serde_json::from_slice(&body).unwrap();
        list.remove(0)
    }

    #[test]
    fn a_span_in_zipkins_words() {
        let mut span = full_span();
        span.attributes
            .push(Attribute::new("server.address", "stock"));
        span.attributes
            .push(Attribute::new("server.port", 8080_i64));
        let span = json(span);
        for (path, expected) in [
            ("/traceId", "0af7651916cd43dd8448eb211c80319c"),
            ("/id", "bda7d714c4652197"),
            ("/parentId", "b29a2a6e589ef16b"),
            ("/kind", "CLIENT"),
            ("/localEndpoint/serviceName", "svc-a"),
            ("/remoteEndpoint/serviceName", "stock"),
            ("/tags/http.response.status_code", "503"),
            ("/tags/list", r#"["a","b",""]"#),
            ("/tags/bytes", "AP8B"),
            ("/tags/host.name", "demo"),
            ("/tags/error", "boom"),
            ("/tags/otel.status_code", "ERROR"),
            (
                "/annotations/0/value",
                "\"step\\nwith a line break\": {\"n\":\"-1\"}",
            ),
        ] {
            assert_eq!(
                span.pointer(path).and_then(|v| v.as_str()),
                Some(expected),
                "{path}"
            );
        }
        assert_eq!(span["timestamp"], 1_795_165_654_108_055_u64);
        assert_eq!(span["duration"], 1_500);
        assert_eq!(span["remoteEndpoint"]["port"], 8080);
        assert_eq!(span.get("debug"), None);
        assert_eq!(span.get("shared"), None);
    }

    #[test]
    fn what_is_absent_is_left_out() {
        let mut bare = bare_span();
        bare.attributes.push(Attribute::new("error", false));
        let span = json(bare);
        for key in ["parentId", "kind", "remoteEndpoint", "annotations", "debug"] {
            assert_eq!(span.get(key), None, "{key}");
        }
        assert_eq!(span["traceId"], "0000000000000001", "a 64-bit id");
        assert_eq!(span["duration"], 1, "zero would mean unknown");
        assert_eq!(span["tags"].get("error"), None, "would mean failure");
    }

    #[test]
    fn an_address_is_no_service() {
        let mut span = bare_span();
        span.kind = Kind::Client;
        span.attributes
            .push(Attribute::new("server.address", "10.0.0.9"));
        assert_eq!(
            json(span.clone())["remoteEndpoint"],
            serde_json::json!({ "ipv4": "10.0.0.9" })
        );
        span.attributes
            .push(Attribute::new("service.peer.name", "stock"));
        assert_eq!(json(span)["remoteEndpoint"]["serviceName"], "stock");
    }
}
