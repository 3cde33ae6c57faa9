//! Jaeger's Thrift wires: the compact and the binary protocol, as a datagram's message or as a bare batch.
//!
//! The structs (`jaeger`) are written by hand over the `thrift` crate's protocols; reading foreign bytes is bounded by
//! their length and by [`Limits`]. Sources: jaeger-idl v0.11.1 `thrift/jaeger.thrift`, `thrift/agent.thrift`.

mod jaeger;
mod read;
mod zipkin;

use std::io;

use thrift::protocol::TBinaryOutputProtocol;
use thrift::protocol::TCompactOutputProtocol;
use thrift::protocol::TFieldIdentifier;
use thrift::protocol::TInputProtocol;
use thrift::protocol::TMessageIdentifier;
use thrift::protocol::TMessageType;
use thrift::protocol::TOutputProtocol;
use thrift::protocol::TStructIdentifier;
use thrift::protocol::TType;

use crate::codec::DecodeError;
use crate::codec::Limits;
use crate::codec::limits::Budget;

pub use jaeger::{Batch, ClientStats, Log, Process, RefType, Span, SpanRef, Tag, TagValue};
pub use zipkin::{Annotation, BinaryAnnotation, Host, ZipkinSpan};

/// The two encodings of the same structs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// UDP 6831, what most clients send.
    Compact,
    /// UDP 6832 and HTTP 14268.
    Binary,
}

/// A batch could not be written. With well-formed structs this cannot happen; it exists so that nothing panics.
#[derive(Debug, thiserror::Error)]
#[error("thrift encoding failed")]
pub struct EncodeError(#[source] thrift::Error);

/// A datagram's content.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// True for `ONEWAY`, false for `CALL`; receivers accept both and never answer.
    pub oneway: bool,
    /// The sequence number of the call.
    pub sequence: i32,
    /// The batch.
    pub batch: Batch,
}

/// Writes a bare batch, as the HTTP body is.
///
/// # Errors
/// [`EncodeError`], in theory.
pub fn encode_batch(batch: &BatchRef<'_>, protocol: Protocol) -> Result<Vec<u8>, EncodeError> {
    let mut bytes = Vec::new();
    write_with(&mut bytes, protocol, |output| batch.write(output)).map_err(EncodeError)?;
    Ok(bytes)
}

/// Writes an `emitBatch` message of type `ONEWAY`, as one datagram is.
///
/// # Errors
/// [`EncodeError`], in theory.
pub fn encode_message(
    batch: &BatchRef<'_>,
    sequence: i32,
    protocol: Protocol,
) -> Result<Vec<u8>, EncodeError> {
    let mut bytes = Vec::new();
    write_with(&mut bytes, protocol, |output| {
        let id = TMessageIdentifier::new(EMIT_BATCH, TMessageType::OneWay, sequence);
        output.write_message_begin(&id)?;
        write_struct(output, |output| {
            write_field(output, 1, TType::Struct, |output| batch.write(output))
        })?;
        output.write_message_end()
    })
    .map_err(EncodeError)?;
    Ok(bytes)
}

/// Bytes that one span takes inside a batch.
///
/// # Errors
/// [`EncodeError`], in theory.
pub fn span_len(span: &Span, protocol: Protocol) -> Result<usize, EncodeError> {
    let mut count = Count(0);
    write_with(&mut count, protocol, |output| span.write(output)).map_err(EncodeError)?;
    Ok(count.0)
}

/// Bytes that the process takes inside a batch.
///
/// # Errors
/// [`EncodeError`], in theory.
pub fn process_len(process: &Process, protocol: Protocol) -> Result<usize, EncodeError> {
    let mut count = Count(0);
    write_with(&mut count, protocol, |output| process.write(output)).map_err(EncodeError)?;
    Ok(count.0)
}

/// Writes a bare list of Zipkin's first spans, as the body of `/api/v1/spans` is.
///
/// # Errors
/// [`EncodeError`], in theory.
pub fn encode_zipkin_list(spans: &[ZipkinSpan]) -> Result<Vec<u8>, EncodeError> {
    let mut bytes = Vec::new();
    write_with(&mut bytes, Protocol::Binary, |output| {
        zipkin::write_spans(spans, output)
    })
    .map_err(EncodeError)?;
    Ok(bytes)
}

/// Reads a bare batch. Unknown fields and types are skipped, invalid UTF-8 is replaced.
///
/// # Errors
/// [`DecodeError`]: nothing of the bytes is kept.
pub fn decode_batch(
    bytes: &[u8],
    protocol: Protocol,
    limits: Limits,
) -> Result<Batch, DecodeError> {
    read::with(bytes, protocol, |input| {
        let mut budget = Budget::new(limits);
        read::batch(&mut read::Source {
            input,
            budget: &mut budget,
        })
    })
}

/// Reads a datagram: `emitBatch`, `CALL` or `ONEWAY`, strict or not.
///
/// # Errors
/// [`DecodeError`]; another method (`emitZipkinBatch`) is `Malformed("method name")`.
pub fn decode_message(
    bytes: &[u8],
    protocol: Protocol,
    limits: Limits,
) -> Result<Message, DecodeError> {
    match decode_datagram(bytes, protocol, limits)? {
        Datagram::Jaeger(message) => Ok(message),
        Datagram::Zipkin(_) => Err(DecodeError::Malformed("method name")),
    }
}

/// What an agent can be told in a datagram.
#[derive(Debug, Clone, PartialEq)]
pub enum Datagram {
    /// `emitBatch`.
    Jaeger(Message),
    /// `emitZipkinBatch`.
    Zipkin(Vec<ZipkinSpan>),
}

/// Reads a datagram: `emitBatch` or `emitZipkinBatch`, `CALL` or `ONEWAY`, strict or not.
///
/// # Errors
/// [`DecodeError`]: nothing of the bytes is kept.
pub fn decode_datagram(
    bytes: &[u8],
    protocol: Protocol,
    limits: Limits,
) -> Result<Datagram, DecodeError> {
    read::with(bytes, protocol, |input: &mut dyn TInputProtocol| {
        let id = input.read_message_begin()?;
        let oneway = match id.message_type {
            TMessageType::OneWay => true,
            TMessageType::Call => false,
            _ => return Err(DecodeError::Malformed("message type")),
        };
        let mut budget = Budget::new(limits);
        let source = &mut read::Source {
            input,
            budget: &mut budget,
        };
        let missing = DecodeError::Malformed("arguments");
        match id.name.as_str() {
            EMIT_BATCH => Ok(Datagram::Jaeger(Message {
                oneway,
                sequence: id.sequence_number,
                batch: read::arguments(source)?.ok_or(missing)?,
            })),
            EMIT_ZIPKIN_BATCH => {
                let spans = read::zipkin_arguments(source)?;
                Ok(Datagram::Zipkin(spans.ok_or(missing)?))
            }
            _ => Err(DecodeError::Malformed("method name")),
        }
    })
}

/// Reads a bare list of Zipkin's first structs in binary form, as the body of `/api/v1/spans` is.
///
/// # Errors
/// [`DecodeError`]: nothing of the bytes is kept.
pub fn decode_zipkin_list(bytes: &[u8], limits: Limits) -> Result<Vec<ZipkinSpan>, DecodeError> {
    read::with(bytes, Protocol::Binary, |input| {
        let mut budget = Budget::new(limits);
        let source = &mut read::Source {
            input,
            budget: &mut budget,
        };
        let mut spans = Vec::new();
        zipkin::spans(source, &mut spans)?;
        Ok(spans)
    })
}

const EMIT_BATCH: &str = "emitBatch";
const EMIT_ZIPKIN_BATCH: &str = "emitZipkinBatch";

/// A batch about to be written, borrowing its spans.
#[derive(Debug, Clone, Copy)]
pub struct BatchRef<'a> {
    /// Who made the spans.
    pub process: &'a Process,
    /// The spans.
    pub spans: &'a [Span],
    /// Number of this batch, counted by the client from 1.
    pub sequence: Option<i64>,
    /// What the client lost so far.
    pub stats: Option<&'a ClientStats>,
}

/// Counts instead of keeping.
struct Count(usize);

impl io::Write for Count {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write_with<W: io::Write>(
    out: W,
    protocol: Protocol,
    write: impl FnOnce(&mut dyn TOutputProtocol) -> thrift::Result<()>,
) -> thrift::Result<()> {
    match protocol {
        Protocol::Compact => write(&mut TCompactOutputProtocol::new(out)),
        Protocol::Binary => write(&mut TBinaryOutputProtocol::new(out, true)),
    }
}

fn write_struct(
    output: &mut dyn TOutputProtocol,
    fields: impl FnOnce(&mut dyn TOutputProtocol) -> thrift::Result<()>,
) -> thrift::Result<()> {
    // Neither protocol puts names on the wire.
    output.write_struct_begin(&TStructIdentifier {
        name: String::new(),
    })?;
    fields(output)?;
    output.write_field_stop()?;
    output.write_struct_end()
}

fn write_field(
    output: &mut dyn TOutputProtocol,
    id: i16,
    field_type: TType,
    value: impl FnOnce(&mut dyn TOutputProtocol) -> thrift::Result<()>,
) -> thrift::Result<()> {
    output.write_field_begin(&TFieldIdentifier {
        name: None,
        field_type,
        id: Some(id),
    })?;
    value(output)?;
    output.write_field_end()
}

#[cfg(test)]
mod tests;
