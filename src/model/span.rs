//! A finished span, its parts, and the resource it belongs to.

use std::sync::Arc;

use crate::model::Attributes;
use crate::model::SamplingState;
use crate::model::SpanContext;
use crate::model::SpanId;
use crate::model::Text;
use crate::model::TraceId;

/// Nanoseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// Whole microseconds since the Unix epoch: Jaeger's and Zipkin's unit.
    pub fn micros(self) -> u64 {
        self.0 / 1_000
    }
}

/// Which side of a call a span describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Work inside one process.
    Internal,
    /// An inbound request.
    Server,
    /// An outbound request.
    Client,
    /// A message sent.
    Producer,
    /// A message received.
    Consumer,
}

impl Kind {
    /// The lower-case word that Jaeger's `span.kind` and the admin pages use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Internal => "internal",
            Self::Server => "server",
            Self::Client => "client",
            Self::Producer => "producer",
            Self::Consumer => "consumer",
        }
    }

    /// True where what causes such a span is in another process, unless somebody who knows says otherwise.
    pub fn is_entry(self) -> bool {
        matches!(self, Self::Server | Self::Consumer)
    }
}

/// How the operation ended, after the OpenTelemetry status rules.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Status {
    /// No error; nobody asserted success.
    #[default]
    Unset,
    /// Asserted success.
    Ok,
    /// Failed; the description may be empty.
    Error(Text),
}

/// An attribute value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// UTF-8 text.
    Str(Text),
    /// Boolean.
    Bool(bool),
    /// 64-bit integer.
    I64(i64),
    /// 64-bit float.
    F64(f64),
    /// Raw bytes. Like the list, without room to grow: a value is no larger than a text, and spans have many.
    Bytes(Box<[u8]>),
    /// List of texts (captured headers).
    StrList(Box<[Text]>),
}

/// A named value on a span, event, link or resource. Keys are unique within their owner.
#[derive(Debug, Clone, PartialEq)]
pub struct Attribute {
    /// The dotted OpenTelemetry name.
    pub key: Text,
    /// The value.
    pub value: Value,
}

/// Something that happened at one instant inside a span.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// When.
    pub time: Timestamp,
    /// What.
    pub name: Text,
    /// Details.
    pub attributes: Vec<Attribute>,
}

/// A span that is related without being the parent.
#[derive(Debug, Clone, PartialEq)]
pub struct Link {
    /// The related trace.
    pub trace_id: TraceId,
    /// The related span.
    pub span_id: SpanId,
    /// Details, such as why and how sure.
    pub attributes: Vec<Attribute>,
}

/// What produced the spans: service name and the other resource attributes. Shared by all spans of a process.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Resource {
    /// `service.name`; also present nowhere else.
    pub service: Text,
    /// The other attributes (`service.instance.id`, `k8s.pod.name`, ...), without `service.name`.
    pub attributes: Vec<Attribute>,
    /// The library that recorded the spans there; `None`: Pillion itself.
    pub scope: Option<Scope>,
}

/// The library that recorded foreign spans; its name is empty where the wire has none.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Scope {
    /// The library's name.
    pub name: Text,
    /// Its version; may be empty.
    pub version: Text,
    /// What else is known of it.
    pub attributes: Vec<Attribute>,
}

/// A finished span.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    /// Own ids, final sampling state, trace state.
    pub context: SpanContext,
    /// The parent span in the same trace; `None` on roots.
    pub parent: Option<SpanId>,
    /// True when the parent lives in another process.
    pub remote_parent: bool,
    /// Low-cardinality name: method and route template.
    pub name: Text,
    /// Side of the call.
    pub kind: Kind,
    /// First edge.
    pub start: Timestamp,
    /// Last edge; never before `start`.
    pub end: Timestamp,
    /// Attributes, unique keys.
    pub attributes: Attributes,
    /// Events in time order.
    pub events: Vec<Event>,
    /// Links, at most a handful.
    pub links: Vec<Link>,
    /// Outcome.
    pub status: Status,
    /// Who produced it.
    pub resource: Arc<Resource>,
}

impl Span {
    /// Nanoseconds between the first and the last edge.
    pub fn duration_nanos(&self) -> u64 {
        self.end.0.saturating_sub(self.start.0)
    }

    /// True when the trace is forced by debug.
    pub fn is_debug(&self) -> bool {
        self.context.state == SamplingState::Debug
    }

    /// The value of an attribute, if present.
    pub fn attribute(&self, key: &str) -> Option<&Value> {
        self.attributes
            .iter()
            .find(|attribute| attribute.key == key)
            .map(|attribute| &attribute.value)
    }
}

impl Attribute {
    /// An attribute under a static key: no allocation for the key.
    #[inline]
    pub fn new(key: &'static str, value: impl Into<Value>) -> Self {
        Self {
            key: Text::new_static(key),
            value: value.into(),
        }
    }
}

impl Value {
    /// The text of a `Str`.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::Str(text) => Some(text),
            _ => None,
        }
    }

    /// The number of an `I64`.
    pub fn as_i64(&self) -> Option<i64> {
        match self {
            Self::I64(number) => Some(*number),
            _ => None,
        }
    }
}

impl From<Text> for Value {
    fn from(text: Text) -> Self {
        Self::Str(text)
    }
}

impl From<&'static str> for Value {
    fn from(text: &'static str) -> Self {
        Self::Str(Text::new_static(text))
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Str(text.into())
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Self::I64(value)
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::F64(value)
    }
}
