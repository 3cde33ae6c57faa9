//! Reading Jaeger's structs from foreign bytes: known fields of the right type are taken, everything else is skipped.

use thrift::TConfiguration;
use thrift::protocol::TBinaryInputProtocol;
use thrift::protocol::TCompactInputProtocol;
use thrift::protocol::TInputProtocol;
use thrift::protocol::TType;

use crate::codec::DecodeError;
use crate::codec::limits::Budget;
use crate::codec::thrift::Batch;
use crate::codec::thrift::ClientStats;
use crate::codec::thrift::Log;
use crate::codec::thrift::Process;
use crate::codec::thrift::Protocol;
use crate::codec::thrift::RefType;
use crate::codec::thrift::Span;
use crate::codec::thrift::SpanRef;
use crate::codec::thrift::Tag;
use crate::codec::thrift::TagValue;
use crate::codec::thrift::ZipkinSpan;
use crate::codec::thrift::zipkin;
use crate::model::Text;

/// Bytes being read and what may still be taken from them.
pub(super) struct Source<'a> {
    pub(super) input: &'a mut dyn TInputProtocol,
    pub(super) budget: &'a mut Budget,
}

type Result<T> = std::result::Result<T, DecodeError>;

impl From<thrift::Error> for DecodeError {
    fn from(error: thrift::Error) -> Self {
        match error {
            thrift::Error::Protocol(error)
                if error.kind == thrift::ProtocolErrorKind::DepthLimit =>
            {
                Self::TooDeep
            }
            _ => Self::Malformed("Thrift message"),
        }
    }
}

/// Reads with a protocol that takes no length or count the bytes cannot back: those are allocated before being filled.
pub(super) fn with<T>(
    bytes: &[u8],
    protocol: Protocol,
    read: impl FnOnce(&mut dyn TInputProtocol) -> Result<T>,
) -> Result<T> {
    let config = TConfiguration::builder()
        .max_message_size(Some(bytes.len()))
        .max_frame_size(Some(bytes.len()))
        .max_string_size(Some(bytes.len()))
        .max_container_size(Some(bytes.len()))
        .max_recursion_depth(Some(MAX_DEPTH))
        .build()?;
    match protocol {
        Protocol::Compact => read(&mut TCompactInputProtocol::with_config(bytes, config)),
        Protocol::Binary => read(&mut TBinaryInputProtocol::with_config(bytes, false, config)),
    }
}

/// Known structs nest five deep; unknown ones that are skipped may go somewhat further.
const MAX_DEPTH: usize = 16;

/// The argument struct of `emitBatch`: field 1 is the batch.
pub(super) fn arguments(source: &mut Source<'_>) -> Result<Option<Batch>> {
    let mut found = None;
    fields(source, |source, id, field_type| {
        match (id, field_type) {
            (1, TType::Struct) => found = Some(batch(source)?),
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    Ok(found)
}

/// The argument struct of `emitZipkinBatch`: field 1 is the list of spans.
pub(super) fn zipkin_arguments(source: &mut Source<'_>) -> Result<Option<Vec<ZipkinSpan>>> {
    let mut found = None;
    fields(source, |source, id, field_type| {
        match (id, field_type) {
            (1, TType::List) => zipkin::spans(source, found.get_or_insert_default())?,
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    Ok(found)
}

pub(super) fn batch(source: &mut Source<'_>) -> Result<Batch> {
    let mut batch = Batch::default();
    fields(source, |source, id, field_type| {
        match (id, field_type) {
            (1, TType::Struct) => batch.process = process(source)?,
            (2, TType::List) => list(source, &mut batch.spans, |source| {
                source.budget.span()?;
                span(source)
            })?,
            (3, TType::I64) => batch.sequence = Some(source.input.read_i64()?),
            (4, TType::Struct) => batch.stats = Some(stats(source)?),
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    Ok(batch)
}

fn process(source: &mut Source<'_>) -> Result<Process> {
    let mut process = Process::default();
    fields(source, |source, id, field_type| {
        match (id, field_type) {
            (1, TType::String) => process.service = text(source)?,
            (2, TType::List) => list(source, &mut process.tags, tag)?,
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    Ok(process)
}

fn stats(source: &mut Source<'_>) -> Result<ClientStats> {
    let mut stats = ClientStats::default();
    fields(source, |source, id, field_type| {
        match (id, field_type) {
            (1, TType::I64) => stats.full_queue = source.input.read_i64()?,
            (2, TType::I64) => stats.too_large = source.input.read_i64()?,
            (3, TType::I64) => stats.failed_to_emit = source.input.read_i64()?,
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    Ok(stats)
}

fn span(source: &mut Source<'_>) -> Result<Span> {
    let mut span = Span::default();
    fields(source, |source, id, field_type| {
        match (id, field_type) {
            (1, TType::I64) => span.trace_id_low = source.input.read_i64()? as u64,
            (2, TType::I64) => span.trace_id_high = source.input.read_i64()? as u64,
            (3, TType::I64) => span.span_id = source.input.read_i64()? as u64,
            (4, TType::I64) => span.parent_span_id = source.input.read_i64()? as u64,
            (5, TType::String) => span.operation = text(source)?,
            (6, TType::List) => list(source, &mut span.references, reference)?,
            (7, TType::I32) => span.flags = source.input.read_i32()?,
            (8, TType::I64) => span.start = source.input.read_i64()?,
            (9, TType::I64) => span.duration = source.input.read_i64()?,
            (10, TType::List) => list(source, &mut span.tags, tag)?,
            (11, TType::List) => list(source, &mut span.logs, log)?,
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    Ok(span)
}

fn reference(source: &mut Source<'_>) -> Result<SpanRef> {
    source.budget.part()?;
    let mut reference = SpanRef {
        kind: RefType::ChildOf,
        trace_id_low: 0,
        trace_id_high: 0,
        span_id: 0,
    };
    fields(source, |source, id, field_type| {
        match (id, field_type) {
            (1, TType::I32) => {
                reference.kind = match source.input.read_i32()? {
                    1 => RefType::FollowsFrom,
                    _ => RefType::ChildOf,
                }
            }
            (2, TType::I64) => reference.trace_id_low = source.input.read_i64()? as u64,
            (3, TType::I64) => reference.trace_id_high = source.input.read_i64()? as u64,
            (4, TType::I64) => reference.span_id = source.input.read_i64()? as u64,
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    Ok(reference)
}

fn log(source: &mut Source<'_>) -> Result<Log> {
    source.budget.part()?;
    let mut log = Log::default();
    fields(source, |source, id, field_type| {
        match (id, field_type) {
            (1, TType::I64) => log.timestamp = source.input.read_i64()?,
            (2, TType::List) => list(source, &mut log.fields, tag)?,
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    Ok(log)
}

/// Node's client writes all five value fields of every tag, so the value is chosen by the declared type, never by
/// presence; an unknown type becomes a text that says so, as in Jaeger's collector.
fn tag(source: &mut Source<'_>) -> Result<Tag> {
    source.budget.part()?;
    let (mut key, mut number) = (Text::default(), 0);
    let (mut string, mut double, mut bool, mut long) = (Text::default(), 0.0, false, 0);
    let mut binary = Vec::new();
    fields(source, |source, id, field_type| {
        match (id, field_type) {
            (1, TType::String) => key = text(source)?,
            (2, TType::I32) => number = source.input.read_i32()?,
            (3, TType::String) => string = text(source)?,
            (4, TType::Double) => double = source.input.read_double()?,
            (5, TType::Bool) => bool = source.input.read_bool()?,
            (6, TType::I64) => long = source.input.read_i64()?,
            (7, TType::String) => binary = source.input.read_bytes()?,
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    let value = match number {
        0 => TagValue::Str(string),
        1 => TagValue::Double(double),
        2 => TagValue::Bool(bool),
        3 => TagValue::Long(long),
        4 => TagValue::Binary(binary.into()),
        _ => TagValue::Str(format!("Unknown VType: {number}").into()),
    };
    Ok(Tag { key, value })
}

/// Reads a struct: `read` takes a field and answers true, or answers false and the field is skipped.
pub(super) fn fields(
    source: &mut Source<'_>,
    mut read: impl FnMut(&mut Source<'_>, i16, TType) -> Result<bool>,
) -> Result<()> {
    source.input.read_struct_begin()?;
    loop {
        let field = source.input.read_field_begin()?;
        if field.field_type == TType::Stop {
            break;
        }
        let known = match field.id {
            Some(id) => read(source, id, field.field_type)?,
            None => false,
        };
        if !known {
            source.input.skip(field.field_type)?;
        }
        source.input.read_field_end()?;
    }
    source.input.read_struct_end()?;
    Ok(())
}

/// Appends a list of structs; items of another type are skipped. Grows as items appear, not by the announced count.
pub(super) fn list<T>(
    source: &mut Source<'_>,
    items: &mut Vec<T>,
    read: impl Fn(&mut Source<'_>) -> Result<T>,
) -> Result<()> {
    let list = source.input.read_list_begin()?;
    for _ in 0..list.size {
        if list.element_type == TType::Struct {
            items.push(read(source)?);
        } else {
            source.input.skip(list.element_type)?;
        }
    }
    source.input.read_list_end()?;
    Ok(())
}

pub(super) fn text(source: &mut Source<'_>) -> Result<Text> {
    let bytes = source.input.read_bytes()?;
    Ok(String::from_utf8_lossy(&bytes).into())
}
