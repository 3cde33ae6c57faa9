//! The words every layer shares: identifiers, span contexts, spans, resources.
//!
//! Owns data and its invariants, nothing that does input or output, nothing that reads a clock. Names follow the
//! OpenTelemetry data model; Jaeger's words (tag, log, process) appear only inside the Jaeger codecs.

mod addr;
mod attributes;
mod context;
mod id;
mod secret;
mod span;
mod units;

pub use addr::AddrError;
pub use addr::HostPort;
pub use attributes::Attributes;
pub use context::{Baggage, BaggageItem, Carried, SamplingState, SpanContext, TraceState};
pub use id::{Hex, SpanId, TraceId};
pub use secret::Secret;
pub use span::{Attribute, Event, Kind, Link, Resource, Scope, Span, Status, Timestamp, Value};
pub use units::{ByteSize, HumanDuration};

/// Text that is usually static or short: cheap to clone, no allocation up to 23 bytes.
pub type Text = smol_str::SmolStr;
