//! OpenTelemetry spans in Jaeger's words: attributes become tags, events logs, links references, a resource a process.
//!
//! Source: OpenTelemetry specification, `trace/sdk_exporters/jaeger.md` (last version) and `common/mapping-to-non-otlp.md`.

mod received;

use std::sync::Arc;

use bytes::Bytes;

use crate::codec::otlp::SCOPE_NAME;
use crate::codec::otlp::SCOPE_VERSION;
use crate::codec::thrift::Log;
use crate::codec::thrift::Process;
use crate::codec::thrift::RefType;
use crate::codec::thrift::Span;
use crate::codec::thrift::SpanRef;
use crate::codec::thrift::Tag;
use crate::codec::thrift::TagValue;
use crate::model;
use crate::model::Attribute;
use crate::model::Kind;
use crate::model::Resource;
use crate::model::SamplingState;
use crate::model::Status;
use crate::model::Text;
use crate::model::Value;

pub use received::{Interner, received};

/// The attribute of a link that says which type of reference it was. Source: OpenTelemetry semantic conventions,
/// OpenTracing.
const REF_TYPE: &str = "opentracing.ref_type";
const CHILD_OF: &str = "child_of";
const FOLLOWS_FROM: &str = "follows_from";

/// Spans of one process, in the order in which they came.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// The process.
    pub process: Process,
    /// Its spans.
    pub spans: Vec<Span>,
}

/// Translates spans, grouped by resource in order of first appearance.
pub fn groups(spans: &[Arc<model::Span>]) -> Vec<Group> {
    let mut groups: Vec<(&Arc<Resource>, Group)> = Vec::new();
    for span in spans {
        let same = |(resource, _): &&mut (&Arc<Resource>, Group)| {
            Arc::ptr_eq(resource, &span.resource) || *resource == &span.resource
        };
        match groups.iter_mut().rev().find(same) {
            Some((_, group)) => group.spans.push(span_of(span)),
            None => {
                let group = Group {
                    process: process_of(&span.resource),
                    spans: vec![span_of(span)],
                };
                groups.push((&span.resource, group));
            }
        }
    }
    groups.into_iter().map(|(_, group)| group).collect()
}

/// The process of a resource.
pub fn process_of(resource: &Resource) -> Process {
    Process {
        service: resource.service.clone(),
        tags: resource.attributes.iter().map(tag).collect(),
    }
}

/// One span. Times are cut to microseconds.
pub fn span_of(span: &model::Span) -> Span {
    let context = &span.context;
    Span {
        trace_id_low: context.trace_id.low(),
        trace_id_high: context.trace_id.high(),
        span_id: context.span_id.to_u64(),
        parent_span_id: span.parent.map_or(0, model::SpanId::to_u64),
        operation: span.name.clone(),
        references: span.links.iter().map(reference).collect(),
        flags: flags(context),
        start: span.start.micros() as i64,
        duration: (span.duration_nanos() / 1_000) as i64,
        tags: tags(span),
        logs: span.events.iter().map(log).collect(),
    }
}

/// 1 sampled, 2 debug (which implies sampled), 8 firehose.
fn flags(context: &model::SpanContext) -> i32 {
    let state = match context.state {
        SamplingState::Accept => 1,
        SamplingState::Debug => 3,
        SamplingState::Reject | SamplingState::Defer => 0,
    };
    state | if context.firehose { 8 } else { 0 }
}

fn tags(span: &model::Span) -> Vec<Tag> {
    let mut tags = Vec::with_capacity(span.attributes.len() + 6);
    tags.extend(span.attributes.iter().map(tag));
    if span.kind != Kind::Internal {
        tags.push(Tag::text("span.kind", Text::new_static(span.kind.name())));
    }
    match &span.status {
        Status::Unset => {}
        Status::Ok => tags.push(Tag::text("otel.status_code", Text::new_static("OK"))),
        Status::Error(description) => {
            // Only `error=true` means failed in Jaeger; an attribute of that name must not say otherwise.
            tags.retain(|tag| tag.key != "error");
            tags.push(Tag::new("error", TagValue::Bool(true)));
            tags.push(Tag::text("otel.status_code", Text::new_static("ERROR")));
            if !description.is_empty() {
                tags.push(Tag::text("otel.status_description", description.clone()));
            }
        }
    }
    if !span.context.trace_state.as_str().is_empty() {
        tags.push(Tag::text(
            "w3c.tracestate",
            span.context.trace_state.as_str(),
        ));
    }
    let (name, version) = match &span.resource.scope {
        None => (
            Text::new_static(SCOPE_NAME),
            Text::new_static(SCOPE_VERSION),
        ),
        Some(scope) => (scope.name.clone(), scope.version.clone()),
    };
    for (key, text) in [("otel.scope.name", name), ("otel.scope.version", version)] {
        if !text.is_empty() {
            tags.push(Tag::text(key, text));
        }
    }
    tags
}

fn tag(attribute: &Attribute) -> Tag {
    let value = match &attribute.value {
        Value::Str(text) => TagValue::Str(text.clone()),
        Value::Bool(value) => TagValue::Bool(*value),
        Value::I64(number) => TagValue::Long(*number),
        Value::F64(number) => TagValue::Double(*number),
        Value::Bytes(bytes) => TagValue::Binary(Bytes::copy_from_slice(bytes)),
        // Jaeger has no lists: their JSON text stands in.
        Value::StrList(texts) => {
            TagValue::Str(serde_json::to_string(texts).unwrap_or_default().into())
        }
    };
    Tag {
        key: attribute.key.clone(),
        value,
    }
}

/// Links follow, unless they came as references of the other type.
fn reference(link: &model::Link) -> SpanRef {
    let is_child = |attribute: &Attribute| {
        attribute.key == REF_TYPE && attribute.value.as_str() == Some(CHILD_OF)
    };
    SpanRef {
        kind: if link.attributes.iter().any(is_child) {
            RefType::ChildOf
        } else {
            RefType::FollowsFrom
        },
        trace_id_low: link.trace_id.low(),
        trace_id_high: link.trace_id.high(),
        span_id: link.span_id.to_u64(),
    }
}

/// The event's name goes into the field `event`, unless an attribute has taken that key.
fn log(event: &model::Event) -> Log {
    let mut fields = Vec::with_capacity(event.attributes.len() + 1);
    let taken = event
        .attributes
        .iter()
        .any(|attribute| attribute.key == "event");
    if !taken && !event.name.is_empty() {
        fields.push(Tag::text("event", event.name.clone()));
    }
    fields.extend(event.attributes.iter().map(tag));
    Log {
        timestamp: event.time.micros() as i64,
        fields,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::tests::bare_span;
    use crate::codec::tests::full_span;

    #[test]
    fn a_span_in_jaegers_words() {
        let span = span_of(&full_span());
        assert_eq!(span.trace_id_high, 0x0af7_6519_16cd_43dd);
        assert_eq!(span.trace_id_low, 0x8448_eb21_1c80_319c);
        assert_eq!(span.parent_span_id, 0xb29a_2a6e_589e_f16b);
        assert_eq!((span.start, span.duration), (1_795_165_654_108_055, 1_500));
        assert_eq!(span.flags, 1);
        assert_eq!(span.references[0].kind, RefType::FollowsFrom);
        let tag = |key: &str| {
            span.tags
                .iter()
                .find(|tag| tag.key == key)
                .map(|tag| &tag.value)
        };
        for (key, value) in [
            ("http.response.status_code", TagValue::Long(503)),
            ("span.kind", TagValue::Str("client".into())),
            ("error", TagValue::Bool(true)),
            ("otel.status_code", TagValue::Str("ERROR".into())),
            ("otel.status_description", TagValue::Str("boom".into())),
            ("w3c.tracestate", TagValue::Str("vendor=1".into())),
            ("list", TagValue::Str(r#"["a","b",""]"#.into())),
            ("ratio", TagValue::Double(0.5)),
            ("bytes", TagValue::Binary(vec![0, 255, 1].into())),
            ("otel.scope.name", TagValue::Str("pillion".into())),
        ] {
            assert_eq!(tag(key), Some(&value), "{key}");
        }
        assert_eq!(span.logs[0].fields[0].key, "event");
    }

    #[test]
    fn flags_follow_the_sampling_state() {
        for (state, firehose, expected) in [
            (SamplingState::Accept, false, 1),
            (SamplingState::Debug, false, 3),
            (SamplingState::Accept, true, 9),
            (SamplingState::Debug, true, 11),
            (SamplingState::Reject, false, 0),
        ] {
            let mut span = bare_span();
            span.context.state = state;
            span.context.firehose = firehose;
            assert_eq!(span_of(&span).flags, expected, "{state:?} {firehose}");
        }
    }

    #[test]
    fn what_is_absent_leaves_no_tag() {
        let span = span_of(&bare_span());
        let keys: Vec<_> = span.tags.iter().map(|tag| tag.key.as_str()).collect();
        assert_eq!(keys, ["otel.scope.name", "otel.scope.version"]);
        assert_eq!(span.parent_span_id, 0);
    }
}
