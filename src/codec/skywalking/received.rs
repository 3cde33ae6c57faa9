//! SkyWalking's segments back into the model's spans.
//!
//! Ids are found by the rules by which `sw8` headers are read, so that a segment's spans hang on the spans of ours that its
//! agent was called by. The trace's own text is carried along, for a report to SkyWalking must name it as it came.
//! Source: apache/skywalking-data-collect-protocol `language-agent/Tracing.proto`.

use prost::Message;

use crate::codec::DecodeError;
use crate::codec::Decoded;
use crate::codec::Limits;
use crate::codec::jaeger::Interner;
use crate::codec::limits::Budget;
use crate::codec::limits::check_json;
use crate::codec::otlp::wire::Field;
use crate::codec::otlp::wire::Reader;
use crate::codec::skywalking::Reference;
use crate::codec::skywalking::SW8;
use crate::codec::skywalking::segment;
use crate::codec::skywalking::segment::Segment;
use crate::model;
use crate::model::Attribute;
use crate::model::Event;
use crate::model::Kind;
use crate::model::Link;
use crate::model::Resource;
use crate::model::SamplingState;
use crate::model::Scope;
use crate::model::SpanContext;
use crate::model::Status;
use crate::model::Text;
use crate::model::Timestamp;
use crate::model::Value;

/// Reads one protobuf `SegmentObject`.
///
/// # Errors
/// [`DecodeError`]: the whole segment is refused.
pub fn decode_segment(
    bytes: &[u8],
    limits: Limits,
    intern: Interner<'_>,
) -> Result<Decoded, DecodeError> {
    let mut decoded = Decoded::default();
    let segment = read(bytes, &mut Budget::new(limits))?;
    take(segment, &mut decoded, intern)?;
    Ok(decoded)
}

/// Reads a protobuf `SegmentCollection`.
///
/// # Errors
/// [`DecodeError`]: the whole collection is refused.
pub fn decode_collection(
    bytes: &[u8],
    limits: Limits,
    intern: Interner<'_>,
) -> Result<Decoded, DecodeError> {
    let mut decoded = Decoded::default();
    let mut budget = Budget::new(limits);
    let mut reader = Reader::new(bytes);
    while let Some((number, field)) = reader.next()? {
        if let (1, Field::Delimited(bytes)) = (number, field) {
            budget.part()?;
            take(read(bytes, &mut budget)?, &mut decoded, intern)?;
        }
    }
    Ok(decoded)
}

/// Reads a segment or a list of segments in JSON.
///
/// # Errors
/// [`DecodeError`]: all of it is refused.
pub fn decode_json(
    bytes: &[u8],
    limits: Limits,
    intern: Interner<'_>,
) -> Result<Decoded, DecodeError> {
    check_json(bytes, limits)?;
    let is_list = bytes.trim_ascii_start().starts_with(b"[");
    let segments: Vec<Segment> = if is_list {
        serde_json::from_slice(bytes)
    } else {
        serde_json::from_slice(bytes).map(|segment| vec![segment])
    }
    .map_err(|_| DecodeError::Malformed("JSON segment"))?;
    let mut budget = Budget::new(limits);
    let mut decoded = Decoded::default();
    for segment in segments {
        for _ in &segment.spans {
            budget.span()?;
        }
        take(segment, &mut decoded, intern)?;
    }
    Ok(decoded)
}

/// Charges every element before the structs are made.
fn read(bytes: &[u8], budget: &mut Budget) -> Result<Segment, DecodeError> {
    let mut reader = Reader::new(bytes);
    while let Some((number, field)) = reader.next()? {
        let (3, Field::Delimited(span)) = (number, field) else {
            continue;
        };
        budget.span()?;
        let mut parts = Reader::new(span);
        while let Some((number, field)) = parts.next()? {
            budget.part()?;
            let (13, Field::Delimited(log)) = (number, field) else {
                continue;
            };
            let mut pairs = Reader::new(log);
            while pairs.next()?.is_some() {
                budget.part()?;
            }
        }
    }
    Segment::decode(bytes).map_err(|_| DecodeError::Malformed("segment"))
}

/// Each span carries its segment's names: together no longer than this. The backend itself takes 50 characters of each.
const MAX_NAMES: usize = 2 << 10;

fn take(segment: Segment, decoded: &mut Decoded, intern: Interner<'_>) -> Result<(), DecodeError> {
    if segment.trace_id.is_empty() || segment.trace_segment_id.is_empty() {
        decoded.rejected += segment.spans.len() as u64;
        return Ok(());
    }
    let names = [
        &segment.trace_id,
        &segment.trace_segment_id,
        &segment.service,
        &segment.service_instance,
    ];
    if names.map(String::len).iter().sum::<usize>() > MAX_NAMES {
        return Err(DecodeError::TooMany("bytes in a segment's names"));
    }
    let mut attributes = Vec::new();
    if !segment.service_instance.is_empty() {
        let instance = Text::new(&segment.service_instance);
        attributes.push(Attribute::new("service.instance.id", instance));
    }
    let resource = intern(Resource {
        service: Text::new(&segment.service),
        attributes,
        scope: Some(Scope::default()),
    });
    let place = |span: i32| Reference {
        sampled: true,
        trace: segment.trace_id.clone(),
        segment: segment.trace_segment_id.clone(),
        span,
        service: segment.service.clone(),
        instance: segment.service_instance.clone(),
        endpoint: String::new(),
        peer: String::new(),
    };
    for span in segment.spans {
        let own = place(span.span_id);
        let Some(trace_id) = own.trace_id() else {
            decoded.rejected += 1;
            continue;
        };
        let callers: Vec<Reference> = span.refs.iter().map(caller).collect();
        let is_first = span.parent_span_id < 0;
        let (parent, links) = match callers.split_first() {
            Some((first, rest)) if is_first && first.trace_id() == Some(trace_id) => {
                (Some(first.clone()), rest)
            }
            _ if !is_first => (Some(place(span.parent_span_id)), &callers[..]),
            _ => (None, &callers[..]),
        };
        let mut context = SpanContext::new(trace_id, own.span_id(), SamplingState::Accept);
        let carried = parent.as_ref().unwrap_or(&own).header();
        context.carried = [(SW8, Text::from(carried))].into_iter().collect();
        let start = nanos(span.start_time);
        decoded.spans.push(model::Span {
            context,
            parent: parent.as_ref().map(Reference::span_id),
            remote_parent: is_first && parent.is_some(),
            kind: kind(&span),
            start: Timestamp(start),
            end: Timestamp(nanos(span.end_time).max(start)),
            attributes: attributes_of(&span).into(),
            events: span.logs.into_iter().map(event).collect(),
            links: links.iter().filter_map(link).collect(),
            status: if span.is_error {
                Status::Error(Text::default())
            } else {
                Status::Unset
            },
            name: span.operation_name.into(),
            resource: resource.clone(),
        });
    }
    Ok(())
}

fn nanos(millis: i64) -> u64 {
    u64::try_from(millis).unwrap_or(0).saturating_mul(1_000_000)
}

fn caller(reference: &segment::Reference) -> Reference {
    Reference {
        sampled: true,
        trace: reference.trace_id.clone(),
        segment: reference.parent_trace_segment_id.clone(),
        span: reference.parent_span_id,
        service: reference.parent_service.clone(),
        instance: reference.parent_service_instance.clone(),
        endpoint: reference.parent_endpoint.clone(),
        peer: reference.network_address_used_at_peer.clone(),
    }
}

fn link(caller: &Reference) -> Option<Link> {
    Some(Link {
        trace_id: caller.trace_id()?,
        span_id: caller.span_id(),
        attributes: Vec::new(),
    })
}

const MESSAGING: i32 = 4;

fn kind(span: &segment::Span) -> Kind {
    match (span.span_type, span.span_layer) {
        (0, MESSAGING) => Kind::Consumer,
        (0, _) => Kind::Server,
        (1, MESSAGING) => Kind::Producer,
        (1, _) => Kind::Client,
        _ => Kind::Internal,
    }
}

/// Tags stay texts under their own keys; the peer of an exit span is the server's address.
fn attributes_of(span: &segment::Span) -> Vec<Attribute> {
    let tags = span.tags.iter().map(|tag| Attribute {
        key: Text::new(&tag.key),
        value: Value::Str(Text::new(&tag.value)),
    });
    let mut attributes: Vec<Attribute> = tags.collect();
    if span.span_type == 1 && !span.peer.is_empty() {
        let (host, port) = match span.peer.rsplit_once(':') {
            Some((host, port)) => (host, port.parse::<u16>().ok()),
            None => (span.peer.as_str(), None),
        };
        let host = if port.is_some() { host } else { &span.peer };
        attributes.push(Attribute::new("server.address", Text::new(host)));
        if let Some(port) = port {
            attributes.push(Attribute::new("server.port", i64::from(port)));
        }
    }
    if span.component_id != 0 {
        let component = i64::from(span.component_id);
        attributes.push(Attribute::new("skywalking.component_id", component));
    }
    attributes
}

fn event(log: segment::Log) -> Event {
    let mut event = Event {
        time: Timestamp(nanos(log.time)),
        name: Text::default(),
        attributes: Vec::new(),
    };
    for pair in log.data {
        if pair.key == "event" && event.name.is_empty() {
            event.name = pair.value.into();
        } else {
            event.attributes.push(Attribute {
                key: pair.key.into(),
                value: Value::Str(pair.value.into()),
            });
        }
    }
    event
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::codec::skywalking;
    use crate::codec::tests::full_span;
    use crate::model::SpanId;

    const AGENT: &[u8] =
        include_bytes!("../../../tests/data/skywalking/01-python-agent-1.2.0-segmentobject.bin");

    #[test]
    fn a_real_agents_segment_becomes_spans_that_hang_together() {
        let decoded = decode_segment(AGENT, Limits::default(), &mut Arc::new).unwrap();
        let [exit, entry] = &decoded.spans[..] else {
            panic!("{decoded:?}");
        };
        assert_eq!((exit.kind, entry.kind), (Kind::Client, Kind::Server));
        assert_eq!(exit.parent, Some(entry.context.span_id));
        assert_eq!(exit.context.trace_id, entry.context.trace_id);
        assert_eq!(entry.name, "GET:/users");
        assert_eq!(entry.resource.service, "sw-demo");
        assert!(exit.attribute("server.address").is_some());
        // Written for SkyWalking again they are still one trace of the same name.
        let spans: Vec<_> = decoded.spans.iter().cloned().map(Arc::new).collect();
        for segment in skywalking::encode_segments(&spans) {
            let again = decode_segment(&segment, Limits::default(), &mut Arc::new).unwrap();
            assert_eq!(again.spans[0].context.trace_id, entry.context.trace_id);
        }
    }

    #[test]
    fn what_agents_post_is_read_with_absent_texts_and_numbers_as_text() {
        let posted =
            include_str!("../../../tests/data/skywalking/02-python-agent-1.2.0-v3-segment.json");
        // Protobuf's own JSON writes large numbers as text.
        let start = r#""startTime": 1795198719360"#;
        let spelt = posted.replace(start, r#""startTime": "1795198719360""#);
        assert_ne!(spelt, posted);
        for text in [posted, &spelt] {
            let decoded = decode_json(text.as_bytes(), Limits::default(), &mut Arc::new).unwrap();
            let [work, stock, orders] = &decoded.spans[..] else {
                panic!("{decoded:?}");
            };
            assert_eq!(orders.start, Timestamp(1_795_198_719_360_000_000));
            assert_eq!(work.parent, Some(orders.context.span_id));
            assert_eq!(stock.parent, Some(orders.context.span_id));
            assert!(orders.remote_parent && orders.parent.is_some());
            assert_eq!((orders.kind, stock.kind), (Kind::Server, Kind::Client));
        }
        for (start, why) in [
            (r#""startTime": "soon""#, "no number"),
            (r#""startTime": 1e300"#, "too large"),
        ] {
            let text = posted.replace(r#""startTime": 1795198719360"#, start);
            let result = decode_json(text.as_bytes(), Limits::default(), &mut Arc::new);
            assert!(result.is_err(), "{why}");
        }
    }

    #[test]
    fn spans_of_ours_come_back_with_their_ids_in_both_spellings() {
        let mut root = full_span();
        (root.parent, root.remote_parent) = (None, false);
        let mut child = full_span();
        child.parent = Some(root.context.span_id);
        child.context.span_id = SpanId::from_u64(77).unwrap();
        child.remote_parent = false;
        let spans = [Arc::new(root), Arc::new(child)];
        let json = skywalking::encode_json(&spans);
        let json = decode_json(&json, Limits::default(), &mut Arc::new).unwrap();
        let mut protobuf = Vec::new();
        for segment in skywalking::encode_segments(&spans) {
            let decoded = decode_segment(&segment, Limits::default(), &mut Arc::new).unwrap();
            protobuf.extend(decoded.spans);
        }
        for (before, (json, protobuf)) in spans.iter().zip(json.spans.iter().zip(&protobuf)) {
            for after in [json, protobuf] {
                assert_eq!(after.context.trace_id, before.context.trace_id);
                assert_eq!(after.context.span_id, before.context.span_id);
                assert_eq!(after.parent, before.parent);
                assert_eq!(after.kind, before.kind);
                assert_eq!(after.name, before.name);
            }
        }
    }

    #[test]
    fn names_that_every_span_repeats_do_not_multiply_into_memory() {
        let named = |length: usize| {
            let spans = vec!["{}"; 100].join(",");
            let name = "n".repeat(length);
            format!(
                r#"{{"traceId":"t","traceSegmentId":"s","service":"{name}","spans":[{spans}]}}"#
            )
        };
        let read =
            |text: &str| decode_json(text.as_bytes(), Limits::default(), &mut Arc::new).err();
        assert_eq!(read(&named(200)), None);
        let refused = Some(DecodeError::TooMany("bytes in a segment's names"));
        assert_eq!(read(&named(1 << 20)), refused);
        let mut segment = Segment {
            trace_id: "t".into(),
            trace_segment_id: "s".into(),
            service_instance: "i".repeat(1 << 20),
            ..Segment::default()
        };
        segment.spans.resize_with(100, Default::default);
        let bytes = segment.encode_to_vec();
        let result = decode_segment(&bytes, Limits::default(), &mut Arc::new);
        assert_eq!(result.err(), refused);
    }

    #[test]
    fn what_is_no_segment_is_refused_and_one_without_ids_counted() {
        let limits = Limits { spans: 2, parts: 9 };
        for (bytes, why) in [
            (&[0x0a, 9][..], "a length beyond the end"),
            (&[0x1a, 0, 0x1a, 0, 0x1a, 0], "three spans"),
            (
                &[
                    0x1a, 20, 0x62, 0, 0x62, 0, 0x62, 0, 0x62, 0, 0x62, 0, 0x62, 0, 0x62, 0, 0x62,
                    0, 0x62, 0, 0x62, 0,
                ],
                "ten tags",
            ),
        ] {
            assert!(
                decode_segment(bytes, limits, &mut Arc::new).is_err(),
                "{why}"
            );
        }
        for (text, why) in [("", "empty"), ("[{]", "cut"), ("[1]", "a number")] {
            let result = decode_json(text.as_bytes(), limits, &mut Arc::new);
            assert!(result.is_err(), "{why}");
        }
        let decoded = decode_segment(&[0x1a, 0], limits, &mut Arc::new).unwrap();
        assert_eq!((decoded.spans.len(), decoded.rejected), (0, 1));
    }
}
