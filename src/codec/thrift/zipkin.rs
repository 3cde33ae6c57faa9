//! Reading Zipkin's first Thrift structs (`zipkincore.thrift`): what a datagram `emitZipkinBatch` and the body of
//! `/api/v1/spans` hold; and writing them for such a body.

use bytes::Bytes;
use thrift::protocol::TListIdentifier;
use thrift::protocol::TOutputProtocol;
use thrift::protocol::TType;

use crate::codec::DecodeError;
use crate::codec::thrift::jaeger::write_i64;
use crate::codec::thrift::jaeger::write_list;
use crate::codec::thrift::jaeger::write_text;
use crate::codec::thrift::read::Source;
use crate::codec::thrift::read::fields;
use crate::codec::thrift::read::list;
use crate::codec::thrift::read::text;
use crate::codec::thrift::write_field;
use crate::codec::thrift::write_struct;
use crate::model::Text;

/// A span as Zipkin's first version knew it: a name, moments, and values, each at a host.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ZipkinSpan {
    /// Low half of the trace id.
    pub trace_id: u64,
    /// High half; zero for 64-bit ids.
    pub trace_id_high: u64,
    /// Own id; both sides of a call may share it.
    pub id: u64,
    /// Parent's id; zero for none.
    pub parent_id: u64,
    /// The operation.
    pub name: Text,
    /// Moments.
    pub annotations: Vec<Annotation>,
    /// Values.
    pub values: Vec<BinaryAnnotation>,
    /// Forced by debug.
    pub debug: bool,
    /// Microseconds since the epoch; zero when only the annotations tell.
    pub timestamp: i64,
    /// Microseconds; zero when only the annotations tell.
    pub duration: i64,
}

/// Something that happened at one instant; `cs`, `cr`, `ss`, `sr`, `ms` and `mr` are the edges of calls and messages.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Annotation {
    /// Microseconds since the epoch.
    pub timestamp: i64,
    /// What.
    pub value: Text,
    /// Where.
    pub host: Option<Host>,
}

/// A named value; `sa`, `ca` and `ma` name the other side by their host.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct BinaryAnnotation {
    /// The key.
    pub key: Text,
    /// The value, numbers big-endian.
    pub value: Bytes,
    /// 0 boolean, 1 bytes, 2 16-bit, 3 32-bit, 4 64-bit, 5 double, 6 text.
    pub kind: i32,
    /// Where.
    pub host: Option<Host>,
}

/// A service and its address.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Host {
    /// The service's name.
    pub service: Text,
    /// The IPv4 address; zero for none.
    pub ipv4: u32,
    /// The 16 bytes of the IPv6 address; empty for none.
    pub ipv6: Bytes,
    /// The port; zero for none.
    pub port: u16,
}

type Result<T> = std::result::Result<T, DecodeError>;

/// Appends the spans of a list of structs.
pub(super) fn spans(source: &mut Source<'_>, spans: &mut Vec<ZipkinSpan>) -> Result<()> {
    list(source, spans, |source| {
        source.budget.span()?;
        span(source)
    })
}

fn span(source: &mut Source<'_>) -> Result<ZipkinSpan> {
    let mut span = ZipkinSpan::default();
    fields(source, |source, id, field_type| {
        match (id, field_type) {
            (1, TType::I64) => span.trace_id = source.input.read_i64()? as u64,
            (3, TType::String) => span.name = text(source)?,
            (4, TType::I64) => span.id = source.input.read_i64()? as u64,
            (5, TType::I64) => span.parent_id = source.input.read_i64()? as u64,
            (6, TType::List) => list(source, &mut span.annotations, annotation)?,
            (8, TType::List) => list(source, &mut span.values, binary_annotation)?,
            (9, TType::Bool) => span.debug = source.input.read_bool()?,
            (10, TType::I64) => span.timestamp = source.input.read_i64()?,
            (11, TType::I64) => span.duration = source.input.read_i64()?,
            (12, TType::I64) => span.trace_id_high = source.input.read_i64()? as u64,
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    Ok(span)
}

fn annotation(source: &mut Source<'_>) -> Result<Annotation> {
    source.budget.part()?;
    let mut annotation = Annotation::default();
    fields(source, |source, id, field_type| {
        match (id, field_type) {
            (1, TType::I64) => annotation.timestamp = source.input.read_i64()?,
            (2, TType::String) => annotation.value = text(source)?,
            (3, TType::Struct) => annotation.host = Some(host(source)?),
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    Ok(annotation)
}

fn binary_annotation(source: &mut Source<'_>) -> Result<BinaryAnnotation> {
    source.budget.part()?;
    let mut annotation = BinaryAnnotation::default();
    fields(source, |source, id, field_type| {
        match (id, field_type) {
            (1, TType::String) => annotation.key = text(source)?,
            (2, TType::String) => annotation.value = source.input.read_bytes()?.into(),
            (3, TType::I32) => annotation.kind = source.input.read_i32()?,
            (4, TType::Struct) => annotation.host = Some(host(source)?),
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    Ok(annotation)
}

fn host(source: &mut Source<'_>) -> Result<Host> {
    let mut host = Host::default();
    fields(source, |source, id, field_type| {
        match (id, field_type) {
            (1, TType::I32) => host.ipv4 = source.input.read_i32()?.cast_unsigned(),
            (2, TType::I16) => host.port = source.input.read_i16()?.cast_unsigned(),
            (3, TType::String) => host.service = text(source)?,
            (4, TType::String) => host.ipv6 = source.input.read_bytes()?.into(),
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    Ok(host)
}

/// Writes a bare list of spans.
pub(super) fn write_spans(
    spans: &[ZipkinSpan],
    output: &mut dyn TOutputProtocol,
) -> thrift::Result<()> {
    let len = i32::try_from(spans.len()).unwrap_or(i32::MAX);
    output.write_list_begin(&TListIdentifier::new(TType::Struct, len))?;
    for span in spans {
        span.write(output)?;
    }
    output.write_list_end()
}

impl ZipkinSpan {
    fn write(&self, output: &mut dyn TOutputProtocol) -> thrift::Result<()> {
        write_struct(output, |output| {
            // Unsigned ids travel as the same 64 bits read as signed.
            write_i64(output, 1, self.trace_id.cast_signed())?;
            write_text(output, 3, &self.name)?;
            write_i64(output, 4, self.id.cast_signed())?;
            if self.parent_id != 0 {
                write_i64(output, 5, self.parent_id.cast_signed())?;
            }
            write_list(output, 6, &self.annotations, Annotation::write)?;
            write_list(output, 8, &self.values, BinaryAnnotation::write)?;
            write_field(output, 9, TType::Bool, |output| {
                output.write_bool(self.debug)
            })?;
            write_i64(output, 10, self.timestamp)?;
            write_i64(output, 11, self.duration)?;
            match self.trace_id_high {
                0 => Ok(()),
                high => write_i64(output, 12, high.cast_signed()),
            }
        })
    }
}

impl Annotation {
    fn write(&self, output: &mut dyn TOutputProtocol) -> thrift::Result<()> {
        write_struct(output, |output| {
            write_i64(output, 1, self.timestamp)?;
            write_text(output, 2, &self.value)?;
            write_host(output, 3, self.host.as_ref())
        })
    }
}

impl BinaryAnnotation {
    fn write(&self, output: &mut dyn TOutputProtocol) -> thrift::Result<()> {
        write_struct(output, |output| {
            write_text(output, 1, &self.key)?;
            write_field(output, 2, TType::String, |output| {
                output.write_bytes(&self.value)
            })?;
            write_field(output, 3, TType::I32, |output| output.write_i32(self.kind))?;
            write_host(output, 4, self.host.as_ref())
        })
    }
}

fn write_host(
    output: &mut dyn TOutputProtocol,
    id: i16,
    host: Option<&Host>,
) -> thrift::Result<()> {
    let Some(host) = host else { return Ok(()) };
    write_field(output, id, TType::Struct, |output| {
        write_struct(output, |output| {
            let ipv4 = host.ipv4.cast_signed();
            write_field(output, 1, TType::I32, |output| output.write_i32(ipv4))?;
            let port = host.port.cast_signed();
            write_field(output, 2, TType::I16, |output| output.write_i16(port))?;
            write_text(output, 3, &host.service)?;
            if host.ipv6.is_empty() {
                return Ok(());
            }
            write_field(output, 4, TType::String, |output| {
                output.write_bytes(&host.ipv6)
            })
        })
    })
}
