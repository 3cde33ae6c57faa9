//! Which traces a question is about, and what a list says of each: pure functions over spans.
//!
//! A trace is found when one of its spans meets every condition at once, as in Jaeger; [`Scope::Trace`] measures
//! the durations of whole traces instead, which is what a person without an operation in mind means.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::collections::HashSet;
use std::sync::Arc;

use crate::admin::store::Trace;
use crate::model::Attribute;
use crate::model::Span;
use crate::model::Status;
use crate::model::Text;
use crate::model::Timestamp;
use crate::model::Value;

/// Conditions; an absent one is met by every span.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Query {
    /// `service.name`, exact.
    pub(super) service: Option<String>,
    /// The span name, exact.
    pub(super) operation: Option<String>,
    /// Attributes of the span, its events or its resource. A missing value asks for presence alone.
    pub(super) tags: Vec<(String, Option<String>)>,
    /// Only spans whose status is an error.
    pub(super) errors: bool,
    /// Shortest duration in nanoseconds.
    pub(super) min_duration: Option<u64>,
    /// Longest duration in nanoseconds.
    pub(super) max_duration: Option<u64>,
    /// Spans that start at or after this.
    pub(super) from: Option<Timestamp>,
    /// Spans that start at or before this.
    pub(super) until: Option<Timestamp>,
    /// What the durations measure.
    pub(super) scope: Scope,
}

/// What durations measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Scope {
    /// The span that meets the other conditions.
    #[default]
    Span,
    /// From the first start to the last end of the trace.
    Trace,
}

/// What a list of traces says about one.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Summary {
    /// The first span without a parent here: an entry into the trace.
    pub(super) root: Arc<Span>,
    /// The first start.
    pub(super) start: Timestamp,
    /// The last end.
    pub(super) end: Timestamp,
    /// Spans.
    pub(super) spans: usize,
    /// Spans whose status is an error.
    pub(super) errors: usize,
    /// Spans that name a parent which is not here.
    pub(super) orphans: usize,
    /// Spans and errors by service, sorted by name.
    pub(super) services: BTreeMap<Text, (usize, usize)>,
}

impl Query {
    /// True when the trace with these spans is meant.
    pub(super) fn matches(&self, spans: &[Arc<Span>]) -> bool {
        if self.scope == Scope::Trace && !self.duration_matches(extent(spans)) {
            return false;
        }
        spans.iter().any(|span| self.matches_span(span))
    }

    fn matches_span(&self, span: &Span) -> bool {
        let named = |wanted: &Option<String>, name: &str| {
            wanted.as_deref().is_none_or(|wanted| wanted == name)
        };
        named(&self.service, &span.resource.service)
            && named(&self.operation, &span.name)
            && (!self.errors || is_error(span))
            && (self.scope == Scope::Trace || self.duration_matches(span.duration_nanos()))
            && self.from.is_none_or(|from| span.start >= from)
            && self.until.is_none_or(|until| span.start <= until)
            && self
                .tags
                .iter()
                .all(|(key, value)| has_tag(span, key, value.as_deref()))
    }

    fn duration_matches(&self, nanos: u64) -> bool {
        self.min_duration.is_none_or(|min| nanos >= min)
            && self.max_duration.is_none_or(|max| nanos <= max)
    }
}

impl Summary {
    /// Sums up a trace; `None` for one without spans.
    pub(super) fn of(trace: &Trace) -> Option<Self> {
        let ids: HashSet<_> = trace
            .spans
            .iter()
            .map(|span| span.context.span_id)
            .collect();
        let lacks_parent = |span: &&Arc<Span>| span.parent.is_none_or(|id| !ids.contains(&id));
        let mut services = BTreeMap::<Text, (usize, usize)>::new();
        for span in &trace.spans {
            let counts = services.entry(span.resource.service.clone()).or_default();
            counts.0 += 1;
            counts.1 += usize::from(is_error(span));
        }
        let root = trace
            .spans
            .iter()
            .find(|span| span.parent.is_none())
            .or_else(|| trace.spans.iter().find(lacks_parent))
            .or(trace.spans.first())?;
        Some(Self {
            root: Arc::clone(root),
            start: trace.start(),
            end: trace.end(),
            spans: trace.spans.len(),
            errors: services.values().map(|counts| counts.1).sum(),
            orphans: trace
                .spans
                .iter()
                .filter(|span| span.parent.is_some() && lacks_parent(span))
                .count(),
            services,
        })
    }
}

/// True when the span's status is an error.
pub(super) fn is_error(span: &Span) -> bool {
    matches!(span.status, Status::Error(_))
}

/// An attribute value as people type it in a search.
pub(super) fn display(value: &Value) -> Cow<'_, str> {
    match value {
        Value::Str(text) => Cow::Borrowed(text),
        Value::Bool(value) => Cow::Borrowed(if *value { "true" } else { "false" }),
        Value::I64(value) => Cow::Owned(value.to_string()),
        Value::F64(value) => Cow::Owned(value.to_string()),
        Value::StrList(list) => {
            Cow::Owned(list.iter().map(Text::as_str).collect::<Vec<_>>().join(","))
        }
        Value::Bytes(bytes) => Cow::Owned(format!("{} bytes", bytes.len())),
    }
}

fn extent(spans: &[Arc<Span>]) -> u64 {
    let start = spans.iter().map(|span| span.start.0).min().unwrap_or(0);
    let end = spans.iter().map(|span| span.end.0).max().unwrap_or(0);
    end.saturating_sub(start)
}

/// Jaeger's names for kind and status are understood besides the attributes themselves.
fn has_tag(span: &Span, key: &str, wanted: Option<&str>) -> bool {
    match key {
        "error" if wanted.is_none_or(|wanted| wanted == "true") && is_error(span) => return true,
        "error" if wanted == Some("false") && !is_error(span) => return true,
        "span.kind" if wanted.is_none_or(|wanted| wanted == span.kind.name()) => return true,
        "service.name" if wanted.is_none_or(|wanted| wanted == span.resource.service) => {
            return true;
        }
        _ => {}
    }
    holds(&span.attributes, key, wanted)
        || holds(&span.resource.attributes, key, wanted)
        || span
            .events
            .iter()
            .any(|event| holds(&event.attributes, key, wanted))
}

fn holds(attributes: &[Attribute], key: &str, wanted: Option<&str>) -> bool {
    attributes.iter().any(|attribute| {
        attribute.key == key && wanted.is_none_or(|wanted| display(&attribute.value) == wanted)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::store::tests::resource;
    use crate::admin::store::tests::span;
    use crate::model::Event;
    use crate::model::Kind;
    use crate::model::Resource;
    use crate::model::SpanId;
    use crate::model::TraceId;

    /// A caller of 10 ms whose callee fails within 2 ms.
    fn spans() -> Vec<Arc<Span>> {
        let web = resource("web");
        let api = Arc::new(Resource {
            service: "api".into(),
            attributes: vec![Attribute::new("k8s.pod.name", "api-1")],
            scope: None,
        });
        let mut call = span(1, 1, &web, "GET");
        call.kind = Kind::Client;
        (call.start, call.end) = (Timestamp(1_000), Timestamp(10_001_000));
        let mut serve = span(1, 2, &api, "GET /users/{id}");
        serve.parent = Some(call.context.span_id);
        (serve.start, serve.end) = (Timestamp(2_000), Timestamp(2_002_000));
        serve.status = Status::Error("boom".into());
        serve.attributes = vec![
            Attribute::new("http.response.status_code", 503),
            Attribute::new("retried", true),
            Attribute::new("names", Value::StrList(["a".into(), "b".into()].into())),
        ]
        .into();
        serve.events = vec![Event {
            time: Timestamp(3_000),
            name: "exception".into(),
            attributes: vec![Attribute::new("exception.type", "Broken")],
        }];
        vec![Arc::new(call), Arc::new(serve)]
    }

    fn tag(key: &str, value: Option<&str>) -> Query {
        Query {
            tags: vec![(key.to_owned(), value.map(str::to_owned))],
            ..Query::default()
        }
    }

    #[test]
    fn one_span_has_to_meet_every_condition() {
        let spans = spans();
        let named = |service: &str, operation: &str| Query {
            service: Some(service.to_owned()),
            operation: Some(operation.to_owned()),
            ..Query::default()
        };
        assert!(Query::default().matches(&spans));
        assert!(named("api", "GET /users/{id}").matches(&spans));
        assert!(
            !named("web", "GET /users/{id}").matches(&spans),
            "of another service"
        );
        let failing = |service: &str| Query {
            service: Some(service.to_owned()),
            errors: true,
            ..Query::default()
        };
        assert!(failing("api").matches(&spans));
        assert!(!failing("web").matches(&spans), "the caller did not fail");
    }

    #[test]
    fn tags_are_looked_up_in_spans_events_and_resources() {
        for (key, value, found, why) in [
            ("http.response.status_code", Some("503"), true, "number"),
            (
                "http.response.status_code",
                Some("50"),
                false,
                "no prefix match",
            ),
            ("retried", Some("true"), true, "boolean"),
            ("names", Some("a,b"), true, "list"),
            ("exception.type", Some("Broken"), true, "on an event"),
            ("k8s.pod.name", Some("api-1"), true, "on the resource"),
            ("k8s.pod.name", None, true, "presence"),
            ("absent", None, false, "absence"),
            ("error", Some("true"), true, "status"),
            ("span.kind", Some("client"), true, "kind"),
            ("span.kind", Some("producer"), false, "another kind"),
            ("service.name", Some("web"), true, "service"),
        ] {
            assert_eq!(tag(key, value).matches(&spans()), found, "{key}: {why}");
        }
    }

    #[test]
    fn durations_measure_the_span_or_the_trace() {
        let query = |min: Option<u64>, max: Option<u64>, scope| Query {
            min_duration: min,
            max_duration: max,
            scope,
            ..Query::default()
        };
        let spans = spans();
        assert!(query(None, Some(3_000_000), Scope::Span).matches(&spans));
        assert!(!query(None, Some(3_000_000), Scope::Trace).matches(&spans));
        assert!(query(Some(10_000_000), None, Scope::Trace).matches(&spans));
        assert!(!query(Some(10_000_001), None, Scope::Trace).matches(&spans));
    }

    #[test]
    fn a_summary_counts_spans_errors_and_missing_parents() {
        let mut spans = spans();
        let mut orphan = span(1, 9, &resource("web"), "late");
        orphan.parent = SpanId::from_u64(77);
        spans.push(Arc::new(orphan));
        let trace = Trace {
            id: TraceId::from_halves(0, 1).unwrap(),
            spans,
            refused: 0,
        };
        let summary = Summary::of(&trace).unwrap();
        assert_eq!(summary.root.name, "GET");
        assert_eq!((summary.spans, summary.errors, summary.orphans), (3, 1, 1));
        assert_eq!(summary.services["api"], (1, 1));
        assert_eq!(summary.services["web"], (2, 0));
        let empty = Trace {
            spans: Vec::new(),
            ..trace
        };
        assert_eq!(Summary::of(&empty), None);
    }
}
