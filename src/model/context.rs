//! What crosses the wire between two processes of one trace.

use std::sync::Arc;

use crate::model::SpanId;
use crate::model::Text;
use crate::model::TraceId;

/// Who decided about sampling, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SamplingState {
    /// Record and report.
    Accept,
    /// Do not record.
    Reject,
    /// Record and report whatever the rates say; downstream samplers must not drop it.
    Debug,
    /// Nobody decided yet: the receiver does.
    Defer,
}

impl SamplingState {
    /// True for `Accept` and `Debug`.
    pub fn is_sampled(self) -> bool {
        matches!(self, Self::Accept | Self::Debug)
    }
}

/// Ids, sampling state, baggage and trace state: what crosses the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpanContext {
    /// The trace.
    pub trace_id: TraceId,
    /// The span that the receiver is to use as parent.
    pub span_id: SpanId,
    /// The sampling decision so far.
    pub state: SamplingState,
    /// W3C Trace Context Level 2 flag 0x02: the low 7 bytes of the trace id are random.
    /// Continued traces copy it, own traces set it.
    pub random: bool,
    /// Jaeger flag 0x08: do not index this trace.
    pub firehose: bool,
    /// The W3C `tracestate` list, validated, in wire form; empty when there is none.
    pub trace_state: TraceState,
    /// Baggage items that came in Jaeger's or W3C's form.
    pub baggage: Baggage,
    /// What the caller's wire said beyond all this and wants to read again further on; empty for most.
    pub carried: Carried,
}

impl SpanContext {
    /// A context that has ids and a state, and nothing else yet.
    pub fn new(trace_id: TraceId, span_id: SpanId, state: SamplingState) -> Self {
        Self {
            trace_id,
            span_id,
            state,
            random: false,
            firehose: false,
            trace_state: TraceState::default(),
            baggage: Baggage::default(),
            carried: Carried::default(),
        }
    }
}

/// A validated W3C `tracestate` in wire form, shared between the spans of a trace; empty when absent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TraceState(pub Option<Arc<str>>);

impl TraceState {
    /// The list as it goes on the wire; empty when there is none.
    pub fn as_str(&self) -> &str {
        self.0.as_deref().unwrap_or("")
    }
}

/// Baggage: ordered key-value pairs, shared; cloning is cheap.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Baggage(pub Option<Arc<[BaggageItem]>>);

/// One baggage item, decoded to text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaggageItem {
    /// The key as received (Jaeger's is lower-cased by HTTP).
    pub key: Text,
    /// The value, percent-decoded.
    pub value: Text,
    /// W3C baggage properties in wire form (`;p1;p2=v` without the leading `;`); empty when none.
    pub properties: Text,
}

impl Baggage {
    /// The items, oldest first.
    pub fn items(&self) -> &[BaggageItem] {
        self.0.as_deref().unwrap_or(&[])
    }

    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.items().is_empty()
    }
}

impl FromIterator<BaggageItem> for Baggage {
    fn from_iter<I: IntoIterator<Item = BaggageItem>>(items: I) -> Self {
        let items: Vec<_> = items.into_iter().collect();
        Self((!items.is_empty()).then(|| items.into()))
    }
}

/// Words of single wires that no other field has a place for: a Datadog priority and origin, X-Ray's `Lineage`, ids that
/// are text. Shared by the spans of a trace; a trace that has none pays for an empty pointer.
///
/// The wire that read an item writes it again; its key is that wire's own.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Carried(pub Option<Arc<[(&'static str, Text)]>>);

impl Carried {
    /// The value under this key.
    pub fn get(&self, key: &str) -> Option<&Text> {
        self.items()
            .iter()
            .find(|(known, _)| *known == key)
            .map(|(_, value)| value)
    }

    /// These items and those of `other` whose keys are not here yet.
    pub fn and(&self, other: &Self) -> Self {
        if other.0.is_none() {
            return self.clone();
        }
        let new = other
            .items()
            .iter()
            .filter(|(key, _)| self.get(key).is_none());
        self.items().iter().chain(new).cloned().collect()
    }

    fn items(&self) -> &[(&'static str, Text)] {
        self.0.as_deref().unwrap_or(&[])
    }
}

impl FromIterator<(&'static str, Text)> for Carried {
    fn from_iter<I: IntoIterator<Item = (&'static str, Text)>>(items: I) -> Self {
        let items: Vec<_> = items.into_iter().collect();
        Self((!items.is_empty()).then(|| items.into()))
    }
}
