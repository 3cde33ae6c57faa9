//! Who calls whom: the service graph over a set of traces. Pure functions over spans.
//!
//! A call is a span whose parent belongs to another service. A client span that nobody answered with a span of
//! their own points at something outside: a database, a service without tracing.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::collections::HashSet;
use std::sync::Arc;

use serde::Serialize;

use crate::admin::search;
use crate::admin::store::Trace;
use crate::model::Kind;
use crate::model::Span;
use crate::model::Text;
use crate::model::Value;

/// Peers outside that are told apart; the rest is one node.
const MAX_OUTSIDE: usize = 100;
/// Ways of linking that are told apart on an edge.
const MAX_LINKED: usize = 16;

/// The service graph, sorted by name.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub(super) struct Graph {
    /// Services, and peers outside that they call.
    pub(super) nodes: Vec<Node>,
    /// Calls from one to another.
    pub(super) edges: Vec<Edge>,
}

/// One service or peer outside.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Node {
    /// `service.name`, or the address of a peer outside.
    pub(super) name: Text,
    /// True for a peer that sent no spans.
    pub(super) outside: bool,
    /// Spans of this service.
    pub(super) spans: u64,
    /// Requests it served: server and consumer spans.
    #[serde(flatten)]
    pub(super) served: Calls,
}

/// Calls from one service to another.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Edge {
    /// The caller.
    pub(super) parent: Text,
    /// The callee.
    pub(super) child: Text,
    /// The calls, with the caller's durations where the caller recorded them.
    #[serde(flatten)]
    pub(super) calls: Calls,
    /// How many of them were linked to their cause by which method and with which confidence, as `thread high`.
    pub(super) linked: BTreeMap<Text, u64>,
}

/// A number of calls.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Calls {
    /// How many.
    pub(super) calls: u64,
    /// How many failed, as the callee or the caller says.
    pub(super) errors: u64,
    /// Median duration in nanoseconds.
    pub(super) p50_nanos: u64,
    /// 95th percentile of the durations in nanoseconds.
    pub(super) p95_nanos: u64,
}

#[derive(Default)]
struct Tally {
    errors: u64,
    nanos: Vec<u64>,
    linked: BTreeMap<Text, u64>,
}

#[derive(Default)]
struct Builder {
    spans: BTreeMap<Text, (u64, Tally)>,
    edges: BTreeMap<(Text, Text), Tally>,
    outside: HashSet<Text>,
}

/// Builds the graph of these traces.
pub(super) fn build(traces: &[Trace]) -> Graph {
    let mut builder = Builder::default();
    for trace in traces {
        builder.add(trace);
    }
    builder.finish()
}

impl Builder {
    fn add(&mut self, trace: &Trace) {
        let by_id: HashMap<_, _> = trace
            .spans
            .iter()
            .map(|span| (span.context.span_id, span))
            .collect();
        let mut answered = HashSet::new();
        for span in &trace.spans {
            self.add_served(span);
            let Some(parent) = span.parent.and_then(|id| by_id.get(&id)) else {
                continue;
            };
            if parent.resource.service == span.resource.service {
                // A local child of the same name answers nothing, but a service that calls itself does.
                if span.kind != Kind::Server || parent.kind != Kind::Client {
                    continue;
                }
            }
            answered.insert(parent.context.span_id);
            self.add_call(parent, &span.resource.service, Some(span));
        }
        for span in &trace.spans {
            if matches!(span.kind, Kind::Client | Kind::Producer)
                && !answered.contains(&span.context.span_id)
                && let Some(peer) = self.peer(span)
            {
                self.add_call(span, &peer, None);
                self.outside.insert(peer);
            }
        }
    }

    fn add_served(&mut self, span: &Arc<Span>) {
        let (count, served) = self.spans.entry(span.resource.service.clone()).or_default();
        *count += 1;
        if matches!(span.kind, Kind::Server | Kind::Consumer) {
            served.add(span.duration_nanos(), search::is_error(span));
        }
    }

    fn add_call(&mut self, caller: &Span, callee: &Text, answer: Option<&Arc<Span>>) {
        let timed = match answer {
            Some(answer) if caller.kind != Kind::Client => answer.duration_nanos(),
            _ => caller.duration_nanos(),
        };
        let failed = match answer {
            Some(answer) => {
                search::is_error(answer)
                    || (caller.kind == Kind::Client && search::is_error(caller))
            }
            None => search::is_error(caller),
        };
        let key = (caller.resource.service.clone(), callee.clone());
        let tally = self.edges.entry(key).or_default();
        tally.add(timed, failed);
        tally.add_link(caller);
    }

    fn peer(&self, span: &Span) -> Option<Text> {
        let text = |key| {
            span.attribute(key)
                .and_then(Value::as_str)
                .filter(|name| !name.is_empty())
        };
        let port = span.attribute("server.port").and_then(Value::as_i64);
        let named = text("service.peer.name").or_else(|| text("peer.service"));
        let name = match (named, text("server.address"), port) {
            (Some(name), ..) => Text::from(name),
            (None, Some(address), Some(port)) => Text::from(format!("{address}:{port}")),
            (None, Some(address), None) => Text::from(address),
            (None, None, _) => Text::from(text("network.peer.address")?),
        };
        if self.outside.len() >= MAX_OUTSIDE && !self.outside.contains(&name) {
            return Some(Text::new_static("others"));
        }
        Some(name)
    }

    fn finish(self) -> Graph {
        let mut nodes: Vec<_> = self
            .spans
            .into_iter()
            .map(|(name, (spans, served))| Node {
                name,
                outside: false,
                spans,
                served: served.finish(),
            })
            .collect();
        for name in self.outside {
            if !nodes.iter().any(|node| node.name == name) {
                nodes.push(Node {
                    name,
                    outside: true,
                    spans: 0,
                    served: Calls::default(),
                });
            }
        }
        nodes.sort_by(|a, b| a.name.cmp(&b.name));
        let edges = self
            .edges
            .into_iter()
            .map(|((parent, child), mut tally)| Edge {
                parent,
                child,
                linked: std::mem::take(&mut tally.linked),
                calls: tally.finish(),
            })
            .collect();
        Graph { nodes, edges }
    }
}

impl Tally {
    fn add(&mut self, nanos: u64, failed: bool) {
        self.nanos.push(nanos);
        self.errors += u64::from(failed);
    }

    fn add_link(&mut self, caller: &Span) {
        let text = |key| caller.attribute(key).and_then(Value::as_str);
        let Some(method) = text("pillion.link.method") else {
            return;
        };
        let name = match text("pillion.link.confidence") {
            None | Some("none") => Text::from(method),
            Some(confidence) => Text::from(format!("{method} {confidence}")),
        };
        let is_known = self.linked.len() < MAX_LINKED || self.linked.contains_key(&name);
        let name = if is_known { name } else { "others".into() };
        *self.linked.entry(name).or_default() += 1;
    }

    fn finish(mut self) -> Calls {
        self.nanos.sort_unstable();
        let at = |part: usize| {
            let last = self.nanos.len().saturating_sub(1);
            self.nanos.get(last * part / 100).copied().unwrap_or(0)
        };
        Calls {
            calls: self.nanos.len() as u64,
            errors: self.errors,
            p50_nanos: at(50),
            p95_nanos: at(95),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::store::tests::resource;
    use crate::admin::store::tests::span;
    use crate::model::Attribute;
    use crate::model::Status;
    use crate::model::Timestamp;
    use crate::model::TraceId;

    fn trace(spans: Vec<Span>) -> Trace {
        Trace {
            id: TraceId::from_halves(0, 1).unwrap(),
            spans: spans.into_iter().map(Arc::new).collect(),
            refused: 0,
        }
    }

    /// `id` below `parent`, lasting `nanos`.
    fn place(id: u64, parent: u64, service: &str, kind: Kind, nanos: u64) -> Span {
        let mut span = span(1, id, &resource(service), "GET");
        span.parent = crate::model::SpanId::from_u64(parent);
        span.kind = kind;
        span.end = Timestamp(span.start.0 + nanos);
        span
    }

    #[test]
    fn a_call_is_counted_once_with_the_callers_duration() {
        let mut failed = place(3, 2, "api", Kind::Server, 40);
        failed.status = Status::Error("".into());
        let graph = build(&[trace(vec![
            place(1, 0, "web", Kind::Server, 100),
            place(2, 1, "web", Kind::Client, 50),
            failed,
        ])]);
        let [edge] = graph.edges.as_slice() else {
            panic!("{graph:?}");
        };
        assert_eq!((edge.parent.as_str(), edge.child.as_str()), ("web", "api"));
        let expected = Calls {
            calls: 1,
            errors: 1,
            p50_nanos: 50,
            p95_nanos: 50,
        };
        assert_eq!(edge.calls, expected);
        let names: Vec<_> = graph
            .nodes
            .iter()
            .map(|node| (node.name.as_str(), node.spans))
            .collect();
        assert_eq!(names, [("api", 1), ("web", 2)]);
        assert_eq!(
            graph.nodes[1].served.calls, 1,
            "only the server span is a request"
        );
    }

    #[test]
    fn a_call_that_nobody_answered_points_outside() {
        let mut call = place(2, 1, "web", Kind::Client, 50);
        call.attributes = vec![
            Attribute::new("server.address", "db"),
            Attribute::new("server.port", 5432),
        ]
        .into();
        let nameless = place(3, 1, "web", Kind::Client, 50);
        let graph = build(&[trace(vec![
            place(1, 0, "web", Kind::Server, 100),
            call,
            nameless,
        ])]);
        let outside: Vec<_> = graph.nodes.iter().filter(|node| node.outside).collect();
        assert_eq!(outside.len(), 1, "a call to nowhere known makes no node");
        assert_eq!(outside[0].name, "db:5432");
        assert_eq!(graph.edges.len(), 1);
    }

    #[test]
    fn an_edge_tells_how_its_calls_were_linked() {
        let call = |id, method, confidence| {
            let mut call = place(id, 1, "web", Kind::Client, 50);
            call.attributes = vec![
                Attribute::new("server.address", "db"),
                Attribute::new("pillion.link.method", method),
                Attribute::new("pillion.link.confidence", confidence),
            ]
            .into();
            call
        };
        let mut spans = vec![
            call(2, "thread", "high"),
            call(3, "thread", "high"),
            call(4, "contradicted", "none"),
        ];
        spans.extend((0..40).map(|n| call(5 + n, "made up", "by others")));
        let graph = build(&[trace(spans)]);
        let linked = &graph.edges[0].linked;
        assert_eq!(linked.get("thread high"), Some(&2));
        assert_eq!(linked.get("contradicted"), Some(&1));
        assert!(linked.len() <= MAX_LINKED + 1);
    }

    #[test]
    fn a_service_that_calls_itself_has_an_edge_to_itself() {
        let graph = build(&[trace(vec![
            place(1, 0, "web", Kind::Client, 100),
            place(2, 1, "web", Kind::Server, 50),
            place(3, 2, "web", Kind::Internal, 10),
        ])]);
        let [edge] = graph.edges.as_slice() else {
            panic!("local work is no call: {graph:?}");
        };
        assert_eq!(edge.parent, edge.child);
    }
}
