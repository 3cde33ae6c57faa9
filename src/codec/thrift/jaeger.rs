//! The structs of `jaeger.thrift` and how each is written. Reading is `read`'s.

use bytes::Bytes;
use thrift::protocol::TListIdentifier;
use thrift::protocol::TOutputProtocol;
use thrift::protocol::TType;

use crate::codec::thrift::BatchRef;
use crate::codec::thrift::write_field;
use crate::codec::thrift::write_struct;
use crate::model::Text;

/// Spans of one process.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Batch {
    /// Who made them.
    pub process: Process,
    /// The spans.
    pub spans: Vec<Span>,
    /// Number of this batch, counted by the client from 1; only Go's client sends it.
    pub sequence: Option<i64>,
    /// What the client lost so far; only Go's client sends it.
    pub stats: Option<ClientStats>,
}

/// A service and its tags.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Process {
    /// The service's name.
    pub service: Text,
    /// What else is known of it.
    pub tags: Vec<Tag>,
}

/// Cumulative losses of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ClientStats {
    /// Lost because the queue was full.
    pub full_queue: i64,
    /// Lost because they were larger than a datagram.
    pub too_large: i64,
    /// Lost because sending failed.
    pub failed_to_emit: i64,
}

/// A span.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Span {
    /// Low half of the trace id.
    pub trace_id_low: u64,
    /// High half; zero for 64-bit ids.
    pub trace_id_high: u64,
    /// Own id.
    pub span_id: u64,
    /// Parent's id; zero for none.
    pub parent_span_id: u64,
    /// The operation.
    pub operation: Text,
    /// Other spans; the parent need not be among them.
    pub references: Vec<SpanRef>,
    /// 1 sampled, 2 debug, 8 firehose.
    pub flags: i32,
    /// Microseconds since the epoch.
    pub start: i64,
    /// Microseconds.
    pub duration: i64,
    /// Tags.
    pub tags: Vec<Tag>,
    /// Logs.
    pub logs: Vec<Log>,
}

/// A reference to another span.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpanRef {
    /// How it is related.
    pub kind: RefType,
    /// Low half of its trace id.
    pub trace_id_low: u64,
    /// High half.
    pub trace_id_high: u64,
    /// Its id.
    pub span_id: u64,
}

/// How a referenced span is related.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefType {
    /// It is the parent and waits.
    ChildOf,
    /// It came before and does not wait.
    FollowsFrom,
}

/// Something that happened at one instant.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Log {
    /// Microseconds since the epoch.
    pub timestamp: i64,
    /// What, in fields; the name is the field `event`.
    pub fields: Vec<Tag>,
}

/// A named value.
#[derive(Debug, Clone, PartialEq)]
pub struct Tag {
    /// The key.
    pub key: Text,
    /// The value.
    pub value: TagValue,
}

/// A tag's value, chosen by its declared type.
#[derive(Debug, Clone, PartialEq)]
pub enum TagValue {
    /// Text.
    Str(Text),
    /// 64-bit float.
    Double(f64),
    /// Boolean.
    Bool(bool),
    /// 64-bit integer.
    Long(i64),
    /// Bytes.
    Binary(Bytes),
}

impl Tag {
    /// A tag under a static key.
    pub fn new(key: &'static str, value: TagValue) -> Self {
        Self {
            key: Text::new_static(key),
            value,
        }
    }

    /// A text tag under a static key.
    pub fn text(key: &'static str, text: impl Into<Text>) -> Self {
        Self::new(key, TagValue::Str(text.into()))
    }

    fn write(&self, output: &mut dyn TOutputProtocol) -> thrift::Result<()> {
        write_struct(output, |output| {
            write_text(output, 1, &self.key)?;
            let number = match &self.value {
                TagValue::Str(_) => 0,
                TagValue::Double(_) => 1,
                TagValue::Bool(_) => 2,
                TagValue::Long(_) => 3,
                TagValue::Binary(_) => 4,
            };
            write_field(output, 2, TType::I32, |output| output.write_i32(number))?;
            match &self.value {
                TagValue::Str(text) => write_text(output, 3, text),
                TagValue::Double(number) => write_field(output, 4, TType::Double, |output| {
                    output.write_double(*number)
                }),
                TagValue::Bool(value) => {
                    write_field(output, 5, TType::Bool, |output| output.write_bool(*value))
                }
                TagValue::Long(number) => write_i64(output, 6, *number),
                TagValue::Binary(bytes) => {
                    write_field(output, 7, TType::String, |output| output.write_bytes(bytes))
                }
            }
        })
    }
}

impl BatchRef<'_> {
    pub(super) fn write(&self, output: &mut dyn TOutputProtocol) -> thrift::Result<()> {
        write_struct(output, |output| {
            write_field(output, 1, TType::Struct, |output| {
                self.process.write(output)
            })?;
            write_list(output, 2, self.spans, Span::write)?;
            if let Some(sequence) = self.sequence {
                write_i64(output, 3, sequence)?;
            }
            match self.stats {
                Some(stats) => write_field(output, 4, TType::Struct, |output| stats.write(output)),
                None => Ok(()),
            }
        })
    }
}

impl Process {
    pub(super) fn write(&self, output: &mut dyn TOutputProtocol) -> thrift::Result<()> {
        write_struct(output, |output| {
            write_text(output, 1, &self.service)?;
            write_optional_list(output, 2, &self.tags, Tag::write)
        })
    }
}

impl ClientStats {
    fn write(&self, output: &mut dyn TOutputProtocol) -> thrift::Result<()> {
        write_struct(output, |output| {
            write_i64(output, 1, self.full_queue)?;
            write_i64(output, 2, self.too_large)?;
            write_i64(output, 3, self.failed_to_emit)
        })
    }
}

impl Span {
    pub(super) fn write(&self, output: &mut dyn TOutputProtocol) -> thrift::Result<()> {
        write_struct(output, |output| {
            // Unsigned ids travel as the same 64 bits read as signed.
            write_i64(output, 1, self.trace_id_low as i64)?;
            write_i64(output, 2, self.trace_id_high as i64)?;
            write_i64(output, 3, self.span_id as i64)?;
            write_i64(output, 4, self.parent_span_id as i64)?;
            write_text(output, 5, &self.operation)?;
            write_optional_list(output, 6, &self.references, SpanRef::write)?;
            write_field(output, 7, TType::I32, |output| output.write_i32(self.flags))?;
            write_i64(output, 8, self.start)?;
            write_i64(output, 9, self.duration)?;
            write_optional_list(output, 10, &self.tags, Tag::write)?;
            write_optional_list(output, 11, &self.logs, Log::write)
        })
    }
}

impl SpanRef {
    fn write(&self, output: &mut dyn TOutputProtocol) -> thrift::Result<()> {
        write_struct(output, |output| {
            let number = match self.kind {
                RefType::ChildOf => 0,
                RefType::FollowsFrom => 1,
            };
            write_field(output, 1, TType::I32, |output| output.write_i32(number))?;
            write_i64(output, 2, self.trace_id_low as i64)?;
            write_i64(output, 3, self.trace_id_high as i64)?;
            write_i64(output, 4, self.span_id as i64)
        })
    }
}

impl Log {
    fn write(&self, output: &mut dyn TOutputProtocol) -> thrift::Result<()> {
        write_struct(output, |output| {
            write_i64(output, 1, self.timestamp)?;
            write_list(output, 2, &self.fields, Tag::write)
        })
    }
}

pub(super) fn write_i64(
    output: &mut dyn TOutputProtocol,
    id: i16,
    number: i64,
) -> thrift::Result<()> {
    write_field(output, id, TType::I64, |output| output.write_i64(number))
}

pub(super) fn write_text(
    output: &mut dyn TOutputProtocol,
    id: i16,
    text: &str,
) -> thrift::Result<()> {
    write_field(output, id, TType::String, |output| {
        output.write_string(text)
    })
}

fn write_optional_list<T>(
    output: &mut dyn TOutputProtocol,
    id: i16,
    items: &[T],
    write: fn(&T, &mut dyn TOutputProtocol) -> thrift::Result<()>,
) -> thrift::Result<()> {
    if items.is_empty() {
        return Ok(());
    }
    write_list(output, id, items, write)
}

pub(super) fn write_list<T>(
    output: &mut dyn TOutputProtocol,
    id: i16,
    items: &[T],
    write: fn(&T, &mut dyn TOutputProtocol) -> thrift::Result<()>,
) -> thrift::Result<()> {
    let size = i32::try_from(items.len()).map_err(|_| thrift::Error::from("list too long"))?;
    write_field(output, id, TType::List, |output| {
        output.write_list_begin(&TListIdentifier::new(TType::Struct, size))?;
        for item in items {
            write(item, output)?;
        }
        output.write_list_end()
    })
}
