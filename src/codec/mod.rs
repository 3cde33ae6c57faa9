//! Bytes for spans: pure encoders and decoders of each wire, without sockets or clocks.

pub mod datadog;
pub mod jaeger;
pub mod jaeger_json;
pub mod jaeger_proto;
pub mod jaeger_strategy;
pub mod json_span;
pub mod kafka;
mod limits;
pub mod otlp;
pub mod skywalking;
mod text_value;
pub mod thrift;
pub mod xray;
pub mod zipkin;

pub use limits::{DecodeError, Decoded, Limits, cut_resource};

#[cfg(test)]
pub(crate) mod tests;
