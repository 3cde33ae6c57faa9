//! Bytes for spans: pure encoders and decoders of each wire, without sockets or clocks.

pub mod json_span;
pub mod otlp;

#[cfg(test)]
pub(crate) mod tests;
