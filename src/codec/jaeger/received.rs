//! Jaeger's words back into the model's: what clients of a Jaeger agent or collector sent.
//!
//! Tags keep their types, except those that the model has a place for (`span.kind`, `error`, the status, the scope). The
//! parent is the span's own field or the first `CHILD_OF` reference to its trace; every other reference becomes a link that
//! remembers its type. Source: OpenTelemetry specification, `trace/sdk_exporters/jaeger.md`; Jaeger v1.62
//! `model/converter/thrift/jaeger/to_domain.go`.

use std::sync::Arc;

use crate::codec::Decoded;
use crate::codec::jaeger::CHILD_OF;
use crate::codec::jaeger::FOLLOWS_FROM;
use crate::codec::jaeger::REF_TYPE;
use crate::codec::thrift::Batch;
use crate::codec::thrift::Log;
use crate::codec::thrift::Process;
use crate::codec::thrift::RefType;
use crate::codec::thrift::Span;
use crate::codec::thrift::SpanRef;
use crate::codec::thrift::Tag;
use crate::codec::thrift::TagValue;
use crate::model;
use crate::model::Attribute;
use crate::model::Event;
use crate::model::Kind;
use crate::model::Link;
use crate::model::Resource;
use crate::model::SamplingState;
use crate::model::Scope;
use crate::model::SpanContext;
use crate::model::SpanId;
use crate::model::Status;
use crate::model::Text;
use crate::model::Timestamp;
use crate::model::TraceId;
use crate::model::TraceState;
use crate::model::Value;

/// Finds the shared copy of a resource that has been seen before, or keeps this one.
pub type Interner<'a> = &'a mut dyn FnMut(Resource) -> Arc<Resource>;

/// Each span of the batch, under the resource that its process is.
///
/// Spans without a trace or span id are left out and counted; nothing else is refused.
pub fn received(batch: Batch, intern: Interner<'_>) -> Decoded {
    let mut origins = Origins {
        process: batch.process,
        known: Vec::new(),
        intern,
    };
    let mut decoded = Decoded::default();
    for span in batch.spans {
        match span_from(span, &mut origins) {
            Some(span) => decoded.spans.push(span),
            None => decoded.rejected += 1,
        }
    }
    decoded
}

/// The resources of one batch: its process under each scope that a span names.
struct Origins<'a> {
    process: Process,
    known: Vec<(Scope, Arc<Resource>)>,
    intern: Interner<'a>,
}

/// Scopes of one batch that get a resource of their own: each copies the process's tags.
const MAX_SCOPES: usize = 16;

impl Origins<'_> {
    fn of(&mut self, scope: Scope) -> Arc<Resource> {
        if let Some((_, resource)) = self.known.iter().find(|(known, _)| *known == scope) {
            return Arc::clone(resource);
        }
        if self.known.len() >= MAX_SCOPES
            && let Some((_, resource)) = self.known.first()
        {
            return Arc::clone(resource);
        }
        let resource = (self.intern)(Resource {
            service: self.process.service.clone(),
            attributes: self.process.tags.iter().cloned().map(attribute).collect(),
            scope: Some(scope.clone()),
        });
        self.known.push((scope, Arc::clone(&resource)));
        resource
    }
}

fn span_from(span: Span, origins: &mut Origins<'_>) -> Option<model::Span> {
    let trace_id = TraceId::from_halves(span.trace_id_high, span.trace_id_low)?;
    let span_id = SpanId::from_u64(span.span_id)?;
    let parent = SpanId::from_u64(span.parent_span_id).or_else(|| parent_among(&span));
    let mut parts = Parts::default();
    parts.attributes.reserve(span.tags.len());
    for tag in span.tags {
        parts.take(tag);
    }
    let mut context = SpanContext::new(trace_id, span_id, state(span.flags));
    context.firehose = span.flags & 8 != 0;
    context.trace_state = parts.trace_state;
    let start = nanos(span.start);
    Some(model::Span {
        context,
        parent,
        // Which process the parent ran in is not said, but what kind of span this is.
        remote_parent: parent.is_some() && parts.kind.is_entry(),
        name: span.operation,
        kind: parts.kind,
        start: Timestamp(start),
        end: Timestamp(start.saturating_add(nanos(span.duration))),
        attributes: parts.attributes.into(),
        events: span.logs.into_iter().map(event).collect(),
        links: span
            .references
            .iter()
            .filter(|other| !is_parent(other, trace_id, parent))
            .filter_map(link)
            .collect(),
        status: match parts.failed {
            Some(true) => Status::Error(parts.description),
            Some(false) => Status::Ok,
            None => Status::Unset,
        },
        resource: origins.of(parts.scope),
    })
}

/// Clients report what is sampled; one that says otherwise is believed, but its span is forwarded as an agent does.
fn state(flags: i32) -> SamplingState {
    match (flags & 2 != 0, flags & 1 != 0) {
        (true, _) => SamplingState::Debug,
        (false, true) => SamplingState::Accept,
        (false, false) => SamplingState::Reject,
    }
}

fn nanos(micros: i64) -> u64 {
    u64::try_from(micros).unwrap_or(0).saturating_mul(1_000)
}

fn parent_among(span: &Span) -> Option<SpanId> {
    let is_child = |other: &&SpanRef| {
        other.kind == RefType::ChildOf
            && (other.trace_id_high, other.trace_id_low) == (span.trace_id_high, span.trace_id_low)
    };
    let parent = span.references.iter().find(is_child)?;
    SpanId::from_u64(parent.span_id)
}

fn is_parent(other: &SpanRef, trace_id: TraceId, parent: Option<SpanId>) -> bool {
    other.kind == RefType::ChildOf
        && TraceId::from_halves(other.trace_id_high, other.trace_id_low) == Some(trace_id)
        && SpanId::from_u64(other.span_id) == parent
}

fn link(other: &SpanRef) -> Option<Link> {
    let ref_type = match other.kind {
        RefType::ChildOf => CHILD_OF,
        RefType::FollowsFrom => FOLLOWS_FROM,
    };
    Some(Link {
        trace_id: TraceId::from_halves(other.trace_id_high, other.trace_id_low)?,
        span_id: SpanId::from_u64(other.span_id)?,
        attributes: vec![Attribute::new(REF_TYPE, ref_type)],
    })
}

/// The field `event` is the event's name.
fn event(log: Log) -> Event {
    let mut event = Event {
        time: Timestamp(nanos(log.timestamp)),
        name: Text::default(),
        attributes: Vec::with_capacity(log.fields.len()),
    };
    for field in log.fields {
        match field.value {
            TagValue::Str(name) if field.key == "event" && event.name.is_empty() => {
                event.name = name;
            }
            value => event.attributes.push(attribute(Tag {
                key: field.key,
                value,
            })),
        }
    }
    event
}

/// What the tags of a span say.
struct Parts {
    attributes: Vec<Attribute>,
    kind: Kind,
    /// `Some(true)`: failed; `Some(false)`: asserted success.
    failed: Option<bool>,
    description: Text,
    trace_state: TraceState,
    scope: Scope,
}

impl Default for Parts {
    fn default() -> Self {
        Self {
            attributes: Vec::new(),
            kind: Kind::Internal,
            failed: None,
            description: Text::default(),
            trace_state: TraceState::default(),
            scope: Scope::default(),
        }
    }
}

impl Parts {
    fn take(&mut self, tag: Tag) {
        let Tag { key, value } = tag;
        match (key.as_str(), value) {
            ("span.kind", TagValue::Str(word)) => match kind(&word) {
                Some(kind) => self.kind = kind,
                None => self.keep(key, TagValue::Str(word)),
            },
            ("error", TagValue::Bool(true)) => self.failed = Some(true),
            ("error", TagValue::Str(word)) if word == "true" => self.failed = Some(true),
            ("otel.status_code", TagValue::Str(word)) if word == "ERROR" => {
                self.failed = Some(true);
            }
            ("otel.status_code", TagValue::Str(word)) if word == "OK" => {
                self.failed.get_or_insert(false);
            }
            ("otel.status_description", TagValue::Str(text)) => self.description = text,
            ("otel.scope.name" | "otel.library.name", TagValue::Str(name)) => {
                self.scope.name = name;
            }
            ("otel.scope.version" | "otel.library.version", TagValue::Str(version)) => {
                self.scope.version = version;
            }
            ("w3c.tracestate", TagValue::Str(list)) if (1..=512).contains(&list.len()) => {
                self.trace_state = TraceState(Some(list.as_str().into()));
            }
            (_, value) => self.keep(key, value),
        }
    }

    fn keep(&mut self, key: Text, value: TagValue) {
        self.attributes.push(attribute(Tag { key, value }));
    }
}

fn kind(word: &str) -> Option<Kind> {
    Some(match word {
        "server" => Kind::Server,
        "client" => Kind::Client,
        "producer" => Kind::Producer,
        "consumer" => Kind::Consumer,
        "internal" => Kind::Internal,
        _ => return None,
    })
}

fn attribute(tag: Tag) -> Attribute {
    let value = match tag.value {
        TagValue::Str(text) => Value::Str(text),
        TagValue::Double(number) => Value::F64(number),
        TagValue::Bool(value) => Value::Bool(value),
        TagValue::Long(number) => Value::I64(number),
        TagValue::Binary(bytes) => Value::Bytes(bytes[..].into()),
    };
    Attribute {
        key: tag.key,
        value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::jaeger::process_of;
    use crate::codec::jaeger::span_of;
    use crate::codec::tests::full_span;

    fn taken(process: Process, spans: Vec<Span>) -> Decoded {
        let batch = Batch {
            process,
            spans,
            ..Batch::default()
        };
        received(batch, &mut Arc::new)
    }

    #[test]
    fn a_span_of_ours_comes_back_as_it_left() {
        let mut span = full_span();
        // Neither has a place in Jaeger: nanoseconds, lists, whether the parent is remote or the id random.
        span.start = Timestamp(span.start.0 / 1_000 * 1_000);
        span.end = Timestamp(span.end.0 / 1_000 * 1_000);
        span.events[0].time = Timestamp(span.events[0].time.0 / 1_000 * 1_000);
        span.attributes.retain(|attribute| attribute.key != "list");
        span.links[0].attributes = vec![Attribute::new(REF_TYPE, FOLLOWS_FROM)];
        (span.remote_parent, span.context.random) = (false, false);
        let mut decoded = taken(process_of(&span.resource), vec![span_of(&span)]);
        let mut back = decoded.spans.remove(0);
        let scope = back.resource.scope.clone().unwrap();
        assert_eq!(scope.name, "pillion");
        back.resource = Arc::clone(&span.resource);
        assert_eq!(back, span);
    }

    #[test]
    fn references_other_than_the_parent_are_links_and_keep_their_type() {
        let reference = |kind, trace_id_low, span_id| SpanRef {
            kind,
            trace_id_low,
            trace_id_high: 0,
            span_id,
        };
        let span = Span {
            trace_id_low: 1,
            span_id: 2,
            references: vec![
                reference(RefType::FollowsFrom, 1, 5),
                reference(RefType::ChildOf, 9, 3),
                reference(RefType::ChildOf, 1, 3),
                reference(RefType::ChildOf, 1, 4),
            ],
            ..Span::default()
        };
        let back = taken(Process::default(), vec![span]).spans.remove(0);
        assert_eq!(back.parent, SpanId::from_u64(3), "the first of its trace");
        let again = span_of(&back);
        let left: Vec<_> = again
            .references
            .iter()
            .map(|other| (other.kind, other.trace_id_low, other.span_id))
            .collect();
        assert_eq!(
            left,
            [
                (RefType::FollowsFrom, 1, 5),
                (RefType::ChildOf, 9, 3),
                (RefType::ChildOf, 1, 4),
            ]
        );
        assert_eq!(again.parent_span_id, 3);
    }

    #[test]
    fn what_enters_a_process_has_its_parent_in_another() {
        for (kind, parent, expected) in [
            ("server", 3, true),
            ("consumer", 3, true),
            ("client", 3, false),
            ("internal", 3, false),
            ("server", 0, false),
        ] {
            let span = Span {
                trace_id_low: 1,
                span_id: 2,
                parent_span_id: parent,
                tags: vec![Tag::text("span.kind", kind)],
                ..Span::default()
            };
            let back = taken(Process::default(), vec![span]).spans.remove(0);
            assert_eq!(back.remote_parent, expected, "{kind} below {parent}");
        }
    }

    #[test]
    fn tags_with_a_place_in_the_model_go_there_and_others_keep_their_types() {
        let text = |key: &str, value: &str| Tag {
            key: key.into(),
            value: TagValue::Str(value.into()),
        };
        let span = |tags| Span {
            trace_id_low: 1,
            span_id: 2,
            flags: 3,
            tags,
            ..Span::default()
        };
        let tags = vec![
            text("span.kind", "server"),
            Tag::new("error", TagValue::Bool(true)),
            text("otel.library.name", "lib"),
            text("w3c.tracestate", "a=b"),
            Tag::new("sampler.param", TagValue::Bool(true)),
            Tag::new("http.status_code", TagValue::Long(200)),
        ];
        let odd = vec![
            text("span.kind", "elsewhere"),
            Tag::new("error", TagValue::Bool(false)),
        ];
        let decoded = taken(
            Process::default(),
            vec![span(tags), span(odd), Span::default()],
        );
        assert_eq!(decoded.rejected, 1, "no ids");
        let [first, second] = &decoded.spans[..] else {
            panic!("{decoded:?}");
        };
        assert_eq!(first.kind, Kind::Server);
        assert_eq!(first.status, Status::Error(Text::default()));
        assert_eq!(first.context.state, SamplingState::Debug);
        assert_eq!(first.context.trace_state.as_str(), "a=b");
        assert_eq!(first.resource.scope.as_ref().unwrap().name, "lib");
        assert_eq!(first.attributes.len(), 2);
        assert_eq!(first.attributes[1].value, Value::I64(200));
        assert_eq!(
            second.attributes.len(),
            2,
            "unknown words stay as they came"
        );
        assert_eq!(second.status, Status::Unset);
    }

    #[test]
    fn a_batch_of_many_scopes_copies_its_process_only_so_often() {
        let spans = (1..=1_000).map(|n| Span {
            trace_id_low: 1,
            span_id: n,
            tags: vec![Tag::text("otel.scope.name", n.to_string())],
            ..Span::default()
        });
        let batch = Batch {
            spans: spans.collect(),
            ..Batch::default()
        };
        let mut made = 0;
        let decoded = received(batch, &mut |resource| {
            made += 1;
            Arc::new(resource)
        });
        assert_eq!((decoded.spans.len(), made), (1_000, MAX_SCOPES));
    }
}
