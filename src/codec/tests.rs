//! Spans that the codecs' tests share.

use std::sync::Arc;

use crate::model::Attribute;
use crate::model::Baggage;
use crate::model::Carried;
use crate::model::Event;
use crate::model::Kind;
use crate::model::Link;
use crate::model::Resource;
use crate::model::SamplingState;
use crate::model::Span;
use crate::model::SpanContext;
use crate::model::SpanId;
use crate::model::Status;
use crate::model::Text;
use crate::model::Timestamp;
use crate::model::TraceId;
use crate::model::TraceState;
use crate::model::Value;

/// A span that uses every part of the model.
pub(crate) fn full_span() -> Span {
    let trace_id = TraceId::from_hex(b"0af7651916cd43dd8448eb211c80319c").unwrap();
    Span {
        context: SpanContext {
            trace_id,
            span_id: SpanId::from_hex(b"bda7d714c4652197").unwrap(),
            state: SamplingState::Accept,
            random: true,
            firehose: false,
            trace_state: TraceState(Some("vendor=1".into())),
            baggage: Baggage::default(),
            carried: Carried::default(),
        },
        parent: SpanId::from_u64(0xb29a_2a6e_589e_f16b),
        remote_parent: true,
        name: Text::new_static("GET /users/{id}"),
        kind: Kind::Client,
        start: Timestamp(1_795_165_654_108_055_538),
        end: Timestamp(1_795_165_654_109_555_538),
        attributes: vec![
            Attribute::new("http.request.method", "GET"),
            Attribute::new("http.response.status_code", 503_i64),
            Attribute::new("negative", -1_i64),
            Attribute::new("big", i64::MAX),
            Attribute::new("ratio", 0.5),
            Attribute::new("yes", true),
            Attribute::new("no", false),
            Attribute::new("empty", ""),
            Attribute::new("bytes", Value::Bytes([0, 255, 1].into())),
            Attribute::new(
                "list",
                Value::StrList(["a".into(), "b".into(), "".into()].into()),
            ),
        ]
        .into(),
        events: vec![Event {
            time: Timestamp(1_795_165_654_108_255_538),
            name: Text::new_static("step\nwith a line break"),
            attributes: vec![Attribute::new("n", -1_i64)],
        }],
        links: vec![Link {
            trace_id: TraceId::from_halves(0, 1).unwrap(),
            span_id: SpanId::from_u64(2).unwrap(),
            attributes: vec![Attribute::new("k", "v")],
        }],
        status: Status::Error(Text::new_static("boom")),
        resource: Arc::new(Resource {
            service: Text::new_static("svc-a"),
            attributes: vec![Attribute::new("host.name", "demo")],
            scope: None,
        }),
    }
}

/// The least a span can be: a root without anything optional.
pub(crate) fn bare_span() -> Span {
    Span {
        context: SpanContext {
            trace_id: TraceId::from_halves(0, 1).unwrap(),
            span_id: SpanId::from_u64(1).unwrap(),
            state: SamplingState::Accept,
            random: false,
            firehose: false,
            trace_state: TraceState::default(),
            baggage: Baggage::default(),
            carried: Carried::default(),
        },
        parent: None,
        remote_parent: false,
        name: Text::default(),
        kind: Kind::Internal,
        start: Timestamp(1),
        end: Timestamp(1),
        attributes: Vec::new().into(),
        events: Vec::new(),
        links: Vec::new(),
        status: Status::Unset,
        resource: Arc::default(),
    }
}
