//! Attribute values as text, for wires whose tags are texts: numbers and booleans as JSON spells them, lists as JSON.
//!
//! Source: OpenTelemetry specification, `common/mapping-to-non-otlp.md`.

use std::net::SocketAddr;

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
            let port = span.attribute(port).and_then(whole);
            let port = port.and_then(|port| u16::try_from(port).ok());
            // OpenTracing's `peer.address` may be both in one.
            return Some(match name.parse::<SocketAddr>() {
                Ok(both) => (both.ip().to_string(), Some(both.port())),
                Err(_) => (name, port),
            });
        }
    }
    None
}

/// Where the other side's address stands, best first: OpenTelemetry's names of today, its older ones, OpenTracing's.
const PEERS: &[(&str, &str)] = &[
    ("server.address", "server.port"),
    ("net.peer.name", "net.peer.port"),
    ("network.peer.address", "network.peer.port"),
    ("net.sock.peer.name", "net.sock.peer.port"),
    ("net.sock.peer.addr", "net.sock.peer.port"),
    ("peer.hostname", "peer.port"),
    ("peer.address", "peer.port"),
    ("peer.ipv4", "peer.port"),
    ("peer.ipv6", "peer.port"),
    ("service.peer.name", "peer.port"),
    ("peer.service", "peer.port"),
    ("db.name", ""),
];

/// The method of an HTTP request, under today's name or the older one that received spans have.
pub(super) fn http_method(span: &Span) -> Option<String> {
    let old = || text_at(&span.attributes, "http.method");
    text_at(&span.attributes, "http.request.method").or_else(old)
}

/// The URL of an HTTP request, likewise.
pub(super) fn http_url(span: &Span) -> Option<String> {
    let old = || text_at(&span.attributes, "http.url");
    text_at(&span.attributes, "url.full").or_else(old)
}

/// The status of an HTTP response, likewise.
pub(super) fn http_status(span: &Span) -> Option<i64> {
    let old = || span.attribute("http.status_code");
    let status = span.attribute("http.response.status_code").or_else(old);
    status.and_then(whole)
}

/// A number without a fraction, in whatever type: JavaScript knows one alone, and Zipkin's tags are texts.
fn whole(value: &Value) -> Option<i64> {
    match value {
        Value::F64(number) if number.fract() == 0.0 => Some(*number as i64),
        Value::Str(text) => text.parse().ok(),
        other => other.as_i64(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::tests::bare_span;
    use crate::model::Text;

    fn span(attributes: &[(&str, Value)]) -> Span {
        let mut span = bare_span();
        span.attributes = attributes
            .iter()
            .map(|(key, value)| Attribute {
                key: Text::new(key),
                value: value.clone(),
            })
            .collect::<Vec<_>>()
            .into();
        span
    }

    #[test]
    fn the_other_side_is_found_under_every_name_it_had() {
        let text = |text: &str| Value::Str(text.into());
        for (attributes, expected) in [
            (
                &[
                    ("server.address", text("stock")),
                    ("server.port", Value::I64(80)),
                ][..],
                Some(("stock", Some(80))),
            ),
            (
                &[
                    ("peer.hostname", text("db")),
                    ("peer.port", Value::F64(5432.0)),
                ],
                Some(("db", Some(5432))),
            ),
            (
                &[("peer.address", text("10.0.0.9:81"))],
                Some(("10.0.0.9", Some(81))),
            ),
            (
                &[("peer.address", text("[::1]:81"))],
                Some(("::1", Some(81))),
            ),
            (
                &[("peer.ipv4", text("10.0.0.9")), ("peer.port", text("81"))],
                Some(("10.0.0.9", Some(81))),
            ),
            (
                &[
                    ("peer.service", text("db")),
                    ("peer.port", Value::I64(5432)),
                ],
                Some(("db", Some(5432))),
            ),
            (&[("db.name", text("1234"))], Some(("1234", None))),
            (
                &[("db.name", text("orders")), ("peer.port", Value::I64(1))],
                Some(("orders", None)),
            ),
            (
                &[
                    ("peer.hostname", text("")),
                    ("peer.port", Value::I64(70_000)),
                ],
                None,
            ),
        ] {
            let expected = expected.map(|(host, port)| (host.to_owned(), port));
            assert_eq!(peer(&span(attributes)), expected, "{attributes:?}");
        }
    }

    #[test]
    fn http_is_read_under_older_names_and_in_any_type() {
        for status in [Value::I64(503), Value::F64(503.0), Value::Str("503".into())] {
            let old = span(&[
                ("http.method", Value::Str("GET".into())),
                ("http.url", Value::Str("http://a/".into())),
                ("http.status_code", status),
            ]);
            assert_eq!(http_method(&old).as_deref(), Some("GET"));
            assert_eq!(http_url(&old).as_deref(), Some("http://a/"));
            assert_eq!(http_status(&old), Some(503));
        }
        assert_eq!(
            http_status(&span(&[("http.status_code", Value::F64(0.5))])),
            None
        );
    }
}
