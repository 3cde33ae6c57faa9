//! Spans for the reporters' tests.

use std::sync::Arc;

use pillion::model::Attribute;
use pillion::model::Baggage;
use pillion::model::Kind;
use pillion::model::Resource;
use pillion::model::SamplingState;
use pillion::model::Span;
use pillion::model::SpanContext;
use pillion::model::SpanId;
use pillion::model::Status;
use pillion::model::Timestamp;
use pillion::model::TraceId;
use pillion::model::TraceState;

/// Server spans of the service `svc` with these ids plus one and an attribute of this size.
pub(crate) fn spans(ids: std::ops::Range<u64>, size: usize) -> Vec<Arc<Span>> {
    let resource = Arc::new(Resource {
        service: "svc".into(),
        attributes: vec![Attribute::new("service.instance.id", "1")],
        scope: None,
    });
    let filler = "x".repeat(size);
    ids.map(|id| {
        Arc::new(Span {
            context: SpanContext {
                trace_id: TraceId::from_halves(7, id + 1).unwrap(),
                span_id: SpanId::from_u64(id + 1).unwrap(),
                state: SamplingState::Accept,
                random: false,
                firehose: false,
                trace_state: TraceState::default(),
                baggage: Baggage::default(),
                carried: pillion::model::Carried::default(),
            },
            parent: None,
            remote_parent: false,
            name: "GET".into(),
            kind: Kind::Server,
            start: Timestamp(1_795_165_654_000_000_000),
            end: Timestamp(1_795_165_654_001_000_000),
            attributes: vec![Attribute::new("filler", filler.clone())].into(),
            events: Vec::new(),
            links: Vec::new(),
            status: Status::Unset,
            resource: Arc::clone(&resource),
        })
    })
    .collect()
}
