//! A span that has begun and not ended. Dropping it ends it: no path out of an exchange can lose a span.

use std::sync::Arc;
use std::time::Instant;

use ::http::Request;

use crate::codec::otlp::pack;
use crate::codec::otlp::pack::Pack;
use crate::model::Attribute;
use crate::model::Attributes;
use crate::model::Event;
use crate::model::Kind;
use crate::model::Link;
use crate::model::SamplingState;
use crate::model::Span;
use crate::model::SpanContext;
use crate::model::SpanId;
use crate::model::Status;
use crate::model::Text;
use crate::model::Value;
use crate::sampling::Decision;
use crate::sampling::Param;
use crate::tracer::Late;
use crate::tracer::Tracer;
use crate::tracer::http::Operation;

/// An open span. Attribute setters do nothing when it is not recording.
pub struct ActiveSpan {
    tracer: Arc<Tracer>,
    /// Own ids and sampling state: what is injected into requests that this span causes.
    pub context: SpanContext,
    parent: Option<(SpanId, bool)>,
    kind: Kind,
    name: Text,
    start: Instant,
    end: Option<Instant>,
    /// Present only on sampled spans; taken when the span ends.
    recording: Option<Box<Recording>>,
    /// Present only on spans that are not sampled and may be kept.
    late: Option<Box<Late>>,
}

#[derive(Default)]
struct Recording {
    /// See [`pack`].
    attributes: Vec<u8>,
    keys: KeySet,
    events: Vec<Event>,
    links: Vec<Link>,
    status: Status,
}

impl Recording {
    fn boxed() -> Box<Self> {
        Box::new(Self {
            attributes: Attributes::buffer(),
            ..Self::default()
        })
    }

    /// Appends an attribute whose key is of this kind, in the place of one with the same key.
    #[inline(always)]
    fn put(&mut self, kind: u32, key: &str, value: impl Pack) {
        if !self.keys.mark(kind) {
            pack::remove(&mut self.attributes, key);
        }
        value.pack(key, &mut self.attributes);
    }
}

/// Which keys a span may have already: a bit for each of 256 kinds of key. Without it each new attribute would be
/// compared with all before it.
#[derive(Default)]
struct KeySet([u64; 4]);

impl KeySet {
    /// Adds a key. True: it is new for certain; false: it, or another of its kind, was there.
    fn add(&mut self, key: &str) -> bool {
        self.mark(Self::kind(key))
    }

    /// The kind of a key: the compiler's work where the key is written out.
    #[inline(always)]
    fn kind(key: &str) -> u32 {
        let bytes = key.as_bytes();
        let at = |index: usize| bytes.get(index).map_or(0, |byte| u32::from(*byte));
        // Told apart by their ends, a byte inside and their lengths; the factor spreads ours best.
        let mixed: u32 = (at(bytes.len().wrapping_sub(1)) | at(bytes.len() / 3) << 8)
            .wrapping_add((bytes.len() as u32) << 16)
            .wrapping_mul(0x85EB_CA6B);
        mixed >> 24
    }

    #[inline(always)]
    fn mark(&mut self, kind: u32) -> bool {
        let (word, bit) = ((kind >> 6 & 3) as usize, 1 << (kind & 63));
        let is_new = self.0[word] & bit == 0;
        self.0[word] |= bit;
        is_new
    }
}

impl ActiveSpan {
    pub(super) fn new(
        tracer: Arc<Tracer>,
        context: SpanContext,
        parent: Option<(SpanId, bool)>,
        kind: Kind,
        name: Text,
        start: Instant,
    ) -> Self {
        let recording = context.state.is_sampled().then(Recording::boxed);
        let late = match &tracer.keep {
            Some(_) if recording.is_none() => Some(Box::default()),
            _ => None,
        };
        tracer.ledger.start(recording.is_some() || late.is_some());
        Self {
            tracer,
            context,
            parent,
            kind,
            name,
            start,
            end: None,
            recording,
            late,
        }
    }

    /// What is held until it is known whether the span is kept; `None` for one that is recorded, or surely not.
    pub(super) fn late(&mut self) -> Option<&mut Late> {
        self.late.as_deref_mut()
    }

    /// Holds the beginning of a request whose span is not recorded but may be kept.
    pub fn hold<B>(&mut self, operation: Operation, request: &Request<B>) {
        if let Some(late) = &mut self.late {
            late.hold(operation, request);
        }
    }

    /// Decides at the end whether a span that was not recorded is kept. With an answer it records from now on, and what
    /// was held of the request is to be put on it.
    pub fn keep(&mut self, end: Instant) -> Option<Box<Late>> {
        let (late, keep) = (self.late.as_ref()?, self.tracer.keep.as_ref()?);
        let took = end.saturating_duration_since(self.start);
        let reason = keep.reason(late.failed.is_some(), took)?;
        if !keep.admit(end) {
            self.tracer.ledger.turn_away();
            return None;
        }
        let late = self.late.take()?;
        self.tracer.ledger.keep(reason);
        self.recording = Some(Recording::boxed());
        self.set("pillion.sampling.kept", reason.name());
        Some(late)
    }

    /// True when somebody will read the attributes.
    pub fn is_recording(&self) -> bool {
        self.recording.is_some()
    }

    /// The tracer that started it.
    pub fn tracer(&self) -> &Arc<Tracer> {
        &self.tracer
    }

    /// Sets an attribute; a second value under the same key replaces the first.
    #[inline(always)]
    pub fn set(&mut self, key: &'static str, value: impl Pack) {
        if let Some(recording) = &mut self.recording {
            recording.put(KeySet::kind(key), key, value);
        }
    }

    /// Sets an attribute whose key is not static.
    pub fn set_text(&mut self, key: &str, value: Value) {
        if let Some(recording) = &mut self.recording {
            recording.put(KeySet::kind(key), key, value);
        }
    }

    /// Sets several attributes.
    pub fn extend(&mut self, attributes: &[Attribute]) {
        for Attribute { key, value } in attributes {
            self.set_text(key, value.clone());
        }
    }

    /// Adds an event at `time`.
    pub fn event(&mut self, time: Instant, name: &'static str, attributes: Vec<Attribute>) {
        let time = self.tracer.clock.timestamp(time);
        if let Some(recording) = &mut self.recording {
            recording.events.push(Event {
                time,
                name: Text::new_static(name),
                attributes,
            });
        }
    }

    /// Adds a link.
    pub fn link(&mut self, link: Link) {
        if let Some(recording) = &mut self.recording {
            recording.links.push(link);
        }
    }

    /// Marks the span failed. `error.type` is set unless it is already.
    pub fn fail(&mut self, error_type: impl Into<Text>) {
        let Some(recording) = &mut self.recording else {
            if let Some(late) = &mut self.late {
                late.failed.get_or_insert(error_type.into());
            }
            return;
        };
        recording.status = Status::Error(Text::default());
        let key = "error.type";
        if recording.keys.add(key) || !pack::contains(&recording.attributes, key) {
            error_type.into().pack(key, &mut recording.attributes);
        }
    }

    /// True once [`ActiveSpan::fail`] was called on a recording span.
    pub fn has_failed(&self) -> bool {
        self.recording
            .as_ref()
            .is_some_and(|recording| matches!(recording.status, Status::Error(_)))
    }

    /// Ends the span at `end` and hands it to the reporters.
    pub fn finish_at(mut self, end: Instant) {
        self.end = Some(end);
    }

    pub(super) fn label_link(
        &mut self,
        method: &'static str,
        confidence: &'static str,
        p: f64,
        candidates: usize,
    ) {
        self.set("pillion.link.method", method);
        self.set("pillion.link.confidence", confidence);
        if p > 0.0 {
            self.set("pillion.link.p", p);
        }
        self.set("pillion.link.candidates", candidates as i64);
    }

    /// Notes who decided about sampling, and Jaeger's sampler tags when a sampler did.
    pub(super) fn label_decision(&mut self, decision: Option<Decision>, by: &'static str) {
        if self.recording.is_none() {
            return;
        }
        let by = if decision.is_some() { "sampler" } else { by };
        self.set("pillion.sampling.decided_by", by);
        let Some(decision) = decision else { return };
        self.set("sampler.type", decision.kind);
        match decision.param {
            Param::Bool(param) => self.set("sampler.param", param),
            Param::F64(param) => self.set("sampler.param", param),
        }
    }
}

impl Drop for ActiveSpan {
    fn drop(&mut self) {
        if self.late.is_some() {
            self.tracer.ledger.end_unsampled();
        }
        let Some(recording) = self.recording.take() else {
            return;
        };
        let end = self.end.unwrap_or_else(Instant::now);
        let (start, end) = self.tracer.clock.edges(self.start, end);
        let recording = *recording;
        let mut context = self.context.clone();
        if !context.state.is_sampled() {
            // Kept: who reads reports is to take it for sampled. Whom it called was told otherwise.
            context.state = SamplingState::Accept;
        }
        let span = Span {
            context,
            parent: self.parent.map(|(id, _)| id),
            remote_parent: self.parent.is_some_and(|(_, remote)| remote),
            name: self.name.clone(),
            kind: self.kind,
            start,
            end,
            attributes: Attributes::packed(recording.attributes, pack::unpack),
            events: recording.events,
            links: recording.links,
            status: recording.status,
            resource: self.tracer.resource.clone(),
        };
        // Counted first: a reporter may have exported it before the next line runs.
        self.tracer.ledger.report();
        self.tracer.sink.report(Arc::new(span));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_was_there_is_never_new() {
        let keys: Vec<String> = (0..1000).map(|index| format!("key.{index}")).collect();
        let mut set = KeySet::default();
        for key in &keys {
            set.add(key);
        }
        assert!(keys.iter().all(|key| !set.add(key)));
        assert!(KeySet::default().add(""), "an empty one nothing");
    }
}
