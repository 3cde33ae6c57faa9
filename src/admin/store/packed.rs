//! A span as the store keeps it: the bytes that a collector would get, a quarter of what the span takes in memory.
//!
//! Recent spans are kept by the thousand and read by the dozen. Among the connections that come and go, small and
//! closely packed memory also leaves whole pages to give back.

use std::sync::Arc;

use crate::codec::otlp;
use crate::model::Kind;
use crate::model::Resource;
use crate::model::SamplingState;
use crate::model::Span;
use crate::model::Text;

/// A packed span.
#[derive(Debug)]
pub(super) struct Packed {
    bytes: Box<[u8]>,
    /// Shared with the other spans of its process.
    pub(super) resource: Arc<Resource>,
    /// Asked for when it leaves the store.
    pub(super) name: Text,
    /// So is this.
    pub(super) kind: Kind,
    /// What OTLP has no word for.
    state: SamplingState,
    firehose: bool,
}

impl Packed {
    /// Packs a span. Its baggage stays behind: nobody asks a store for that.
    pub(super) fn of(span: &Span, scratch: &mut Vec<u8>) -> Self {
        scratch.clear();
        otlp::encode_span(scratch, span);
        Self {
            bytes: scratch.as_slice().into(),
            resource: Arc::clone(&span.resource),
            name: span.name.clone(),
            kind: span.kind,
            state: span.context.state,
            firehose: span.context.firehose,
        }
    }

    /// The span. `None` cannot be: it reads what it wrote.
    pub(super) fn span(&self) -> Option<Span> {
        let mut span = otlp::decode_span(&self.bytes, &self.resource)?;
        span.context.state = self.state;
        span.context.firehose = self.firehose;
        Some(span)
    }

    /// What it takes in memory, its resource left out.
    pub(super) fn size(&self) -> usize {
        let name = match self.name.is_heap_allocated() {
            true => self.name.len() + ALLOCATION,
            false => 0,
        };
        size_of::<Self>() + self.bytes.len() + ALLOCATION + name
    }
}

/// What the allocator adds to a piece of memory.
const ALLOCATION: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::store::tests::resource;
    use crate::admin::store::tests::span;
    use crate::model::Attribute;
    use crate::model::Event;
    use crate::model::Link;
    use crate::model::Status;
    use crate::model::Timestamp;
    use crate::model::Value;

    #[test]
    fn what_is_read_is_what_was_packed() {
        let service = resource("a");
        let mut full = span(
            7,
            8,
            &service,
            "GET /a/route/that/is/longer/than/a/text/holds",
        );
        full.context.state = SamplingState::Debug;
        full.context.firehose = true;
        full.parent = Some(full.context.span_id);
        full.kind = Kind::Client;
        full.status = Status::Error("broken".into());
        full.attributes = vec![
            Attribute::new("text", "x".repeat(1_000)),
            Attribute::new("empty", ""),
            Attribute::new("number", -3),
            Attribute::new("share", 0.25),
            Attribute::new("yes", true),
            Attribute::new("bytes", Value::Bytes([0, 255].into())),
            Attribute::new("list", Value::StrList(["a".into(), "".into()].into())),
        ]
        .into();
        full.events = vec![Event {
            time: Timestamp(5),
            name: "exception".into(),
            attributes: vec![Attribute::new("exception.type", "Broken")],
        }];
        full.links = vec![Link {
            trace_id: full.context.trace_id,
            span_id: full.context.span_id,
            attributes: vec![Attribute::new("why", "candidate")],
        }];
        for span in [full, span(1, 2, &service, "")] {
            let packed = Packed::of(&span, &mut Vec::new());
            assert!(packed.size() > packed.bytes.len());
            assert_eq!(packed.span(), Some(span));
        }
    }
}
