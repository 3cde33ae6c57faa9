//! The OpenTelemetry protocol's trace export: protobuf both ways, JSON both ways, and the answers of collectors.
//!
//! Encoding to protobuf writes bytes straight from spans (`encode`), decoding foreign bytes reads straight into spans
//! under limits (`decode`); `pack` writes attributes while a span is recorded; the message structs (`message`) serve
//! JSON, answers and tests. Follows opentelemetry-proto v1.11.0, `trace.proto`, `common.proto`, `trace_service.proto`
//! and `docs/specification.md`.

mod decode;
mod encode;
mod json;
pub mod message;
pub mod pack;
pub(in crate::codec) mod wire;

use crate::model::Attribute;
use crate::model::Resource;

pub use decode::{decode, decode_span};
pub use encode::{encode, encode_span, encode_within};
pub use json::{decode_json, encode_json, to_json};

/// The instrumentation scope under which spans leave.
pub const SCOPE_NAME: &str = "pillion";

/// The version written beside the scope's name.
pub const SCOPE_VERSION: &str = env!("CARGO_PKG_VERSION");

const SERVICE_NAME: &str = "service.name";

/// Splits `service.name` off a resource's attributes, as the model wants it.
fn resource_of(attributes: Vec<Attribute>) -> Resource {
    let mut resource = Resource::default();
    for attribute in attributes {
        match attribute.value.as_str() {
            Some(name) if attribute.key == SERVICE_NAME => resource.service = name.into(),
            _ => resource.attributes.push(attribute),
        }
    }
    resource
}

#[cfg(test)]
mod tests;
