//! Attribute values as text, for wires whose tags are texts: numbers and booleans as JSON spells them, lists as JSON.
//!
//! Source: OpenTelemetry specification, `common/mapping-to-non-otlp.md`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::model::Attribute;
use crate::model::Span;
use crate::model::Value;

/// The value as text; bytes are base64.
pub(super) fn text_of(value: &Value) -> String {
    match value {
        Value::Str(text) => text.to_string(),
        Value::Bool(value) => value.to_string(),
        Value::I64(number) => number.to_string(),
        Value::F64(number) => number.to_string(),
        Value::Bytes(bytes) => STANDARD.encode(bytes),
        Value::StrList(texts) => serde_json::to_string(texts).unwrap_or_default(),
    }
}

/// The attribute of a span or of its resource as text.
pub(super) fn text_at(attributes: &[Attribute], key: &str) -> Option<String> {
    let found = attributes.iter().find(|attribute| attribute.key == key);
    found.map(|attribute| text_of(&attribute.value))
}

/// The host that a span's call went to, and its port.
pub(super) fn peer(span: &Span) -> Option<(String, Option<u16>)> {
    for (host, port) in PEERS {
        if let Some(name) = text_at(&span.attributes, host).filter(|name| !name.is_empty()) {
            let port = span.attribute(port).and_then(Value::as_i64);
            return Some((name, port.and_then(|port| u16::try_from(port).ok())));
        }
    }
    None
}

/// Where the other side's address stands, best first.
const PEERS: &[(&str, &str)] = &[
    ("server.address", "server.port"),
    ("net.peer.name", "net.peer.port"),
    ("network.peer.address", "network.peer.port"),
    ("net.sock.peer.addr", "net.sock.peer.port"),
];
