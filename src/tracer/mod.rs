//! Starts and finishes spans: who the parent is, who decides about sampling, what is counted.
//!
//! Reads contexts through `propagation`, asks `sampling` for local roots, hands finished spans to a [`Sink`]. An
//! unsampled span costs its ids and two counters: no attribute is built for it. The HTTP conventions live in `http`.

mod address;
pub mod clock;
mod forwarded;
mod glance;
mod grpc_code;
pub mod http;
pub mod ids;
mod keep;
mod ledger;
mod redact;
mod routes;
mod span;
mod trust;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use ::http::HeaderMap;
use schemars::JsonSchema;
use serde::Deserialize;
use serde::Serialize;

use crate::codec::skywalking;
use crate::model::Attribute;
use crate::model::Baggage;
use crate::model::ByteSize;
use crate::model::Carried;
use crate::model::Kind;
use crate::model::Link;
use crate::model::Resource;
use crate::model::SamplingState;
use crate::model::SpanContext;
use crate::model::Text;
use crate::model::TraceId;
use crate::model::TraceState;
use crate::propagation::Extraction;
use crate::propagation::Propagator;
use crate::propagation::Start;
use crate::reporter::Sink;
use crate::sampling::Decision;
use crate::sampling::Head;
use crate::sampling::Sampler;
use crate::telemetry::metrics::SamplerMetrics;

pub use glance::Glance;
pub use keep::Keep;
pub use keep::Kept;
pub use keep::Late;
pub use ledger::Ledger;
pub use ledger::LedgerSnapshot;
pub use redact::Redaction;
pub use routes::Route;
pub use routes::RouteError;
pub use routes::Routes;
pub use span::ActiveSpan;
pub use trust::Cidr;
pub use trust::PeerTrust;
pub use trust::Policy;
pub use trust::Trust;
pub use trust::TrustConfig;

/// What spans contain beyond the standard attributes, and which requests get none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Record spans and touch trace headers at all. `false` makes Pillion a plain proxy.
    ///
    /// Default: `true`. Reload: new connections.
    pub enabled: bool,
    /// Route templates of the program, most specific first wins: `/users/{id}`, `/files/{*path}`. A request that
    /// matches is named `METHOD TEMPLATE`, any other `METHOD`.
    ///
    /// Default: none. Reload: new connections.
    pub routes: Vec<String>,
    /// Request headers recorded as `http.request.header.<name>`. Credentials are never recorded.
    ///
    /// Default: none. Reload: new connections.
    pub request_headers: Vec<String>,
    /// Response headers recorded as `http.response.header.<name>`. Cookies are never recorded.
    ///
    /// Default: none. Reload: new connections.
    pub response_headers: Vec<String>,
    /// Constant attributes put on every span.
    ///
    /// Default: none. Reload: new connections.
    pub attributes: BTreeMap<String, String>,
    /// Query parameters whose values are replaced by `REDACTED`, besides the standard signature parameters. `*` means
    /// all of them.
    ///
    /// Default: none. Reload: new connections.
    pub redact_query: Vec<String>,
    /// Requests whose `User-Agent` starts with one of these get no span: they pass untouched.
    ///
    /// Default: `["kube-probe/"]`. Reload: new connections.
    pub ignore_user_agents: Vec<String>,
    /// Requests whose path equals one of these get no span: they pass untouched.
    ///
    /// Default: none. Reload: new connections.
    pub ignore_paths: Vec<String>,
    /// New trace ids have 128 random bits; `false` makes 64-bit ones for old 64-bit-only systems.
    ///
    /// Default: `true`. Reload: new connections.
    pub trace_id_128bit: bool,
    /// Longest attribute value taken from a request or response; longer ones are cut.
    ///
    /// Unit: size. Default: `1KiB`. Reload: new connections.
    pub max_value_length: ByteSize,
    /// Requests that are reported although their trace is not sampled.
    pub keep: keep::Config,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            enabled: true,
            routes: Vec::new(),
            request_headers: Vec::new(),
            response_headers: Vec::new(),
            attributes: BTreeMap::new(),
            redact_query: Vec::new(),
            ignore_user_agents: vec!["kube-probe/".to_owned()],
            ignore_paths: Vec::new(),
            trace_id_128bit: true,
            max_value_length: ByteSize(1024),
            keep: keep::Config::default(),
        }
    }
}

/// Everything a span needs from around it. One per configuration snapshot; connections hold it by `Arc`.
pub struct Tracer {
    /// Reads and writes context headers.
    pub propagator: Propagator,
    /// Decides local roots.
    pub sampler: Arc<dyn Sampler>,
    /// Takes finished, sampled spans.
    pub sink: Arc<dyn Sink>,
    /// Put on every span.
    pub resource: Arc<Resource>,
    /// Shared with every other snapshot.
    pub clock: Arc<clock::Clock>,
    /// Shared with every other snapshot: counts must survive a reload.
    pub ledger: Arc<Ledger>,
    /// What spans contain.
    pub conventions: http::Conventions,
    /// Counts decisions.
    pub decisions: SamplerMetrics,
    /// What is reported although it is not sampled; `None`: nothing.
    pub keep: Option<Keep>,
    /// Draw 64-bit instead of 128-bit trace ids.
    pub short_trace_ids: bool,
    /// Begin 128-bit trace ids with the seconds since 1970, as AWS X-Ray does.
    pub dated_trace_ids: bool,
}

/// What a span is begun with: what samplers decide by.
#[derive(Debug, Clone)]
pub struct Opening<'a> {
    /// The span's name.
    pub operation: Text,
    /// The request, where one was read.
    pub request: Option<Head<'a>>,
}

impl From<Text> for Opening<'_> {
    fn from(operation: Text) -> Self {
        Self {
            operation,
            request: None,
        }
    }
}

/// Where a client span hangs: what `correlate` found, in the tracer's terms.
#[derive(Debug, Clone)]
pub struct Cause {
    /// The parent's context, when one is asserted.
    pub parent: Option<SpanContext>,
    /// `forwarded`, `exclusive`, ... or `none`.
    pub method: &'static str,
    /// `exact`, `high`, `low` or `none`.
    pub confidence: &'static str,
    /// How likely the parent is right; 0 when none is asserted.
    pub p: f64,
    /// How many inbound requests were possible parents.
    pub candidates: usize,
    /// Possible parents, when none is asserted: at most three.
    pub links: Vec<SpanContext>,
    /// The decision all candidates agree on, when none is asserted.
    pub agreed: Option<SamplingState>,
    /// What the program's own headers decide without naming a span: binding for a root. Below a parent only a no
    /// counts: the trace's decision is made, but a call that is not to be seen is not shown.
    pub decision: Option<SamplingState>,
    /// The program's `jaeger-debug-id`.
    pub debug_id: Option<Text>,
}

impl Tracer {
    /// Starts the server span of an inbound request.
    ///
    /// A foreign context is handled as `policy` says.
    pub fn start_server<'a>(
        self: &Arc<Self>,
        extraction: &Extraction,
        policy: Policy,
        opening: impl Into<Opening<'a>>,
        start: Instant,
    ) -> ActiveSpan {
        let opening = opening.into();
        if !self.propagator.names_endpoint() {
            return self.server(extraction, policy, opening, start);
        }
        let endpoint = [(skywalking::ENDPOINT, opening.operation.clone())].into_iter();
        let mut span = self.server(extraction, policy, opening, start);
        span.context.carried = span.context.carried.and(&endpoint.collect());
        span
    }

    fn server(
        self: &Arc<Self>,
        extraction: &Extraction,
        policy: Policy,
        opening: Opening<'_>,
        start: Instant,
    ) -> ActiveSpan {
        let extracted = &extraction.extracted;
        match (&extracted.parent, policy) {
            (Some(parent), Policy::Trust) => self.child(parent, true, Kind::Server, opening, start),
            (Some(parent), Policy::Undecided) => {
                let mut undecided = parent.clone();
                undecided.state = SamplingState::Defer;
                self.child(&undecided, true, Kind::Server, opening, start)
            }
            (Some(foreign), Policy::Restart) => {
                let mut span = self.root(Root::default(), Kind::Server, opening, start);
                span.link(Link {
                    trace_id: foreign.trace_id,
                    span_id: foreign.span_id,
                    attributes: vec![Attribute::new(
                        "pillion.link.reason",
                        "restarted_at_trust_boundary",
                    )],
                });
                span
            }
            (_, Policy::Ignore | Policy::Restart) => {
                self.root(Root::default(), Kind::Server, opening, start)
            }
            (None, Policy::Undecided) => {
                let root = Root {
                    baggage: extracted.baggage.clone(),
                    start: extracted.start.clone(),
                    ..Root::default()
                };
                self.root(root, Kind::Server, opening, start)
            }
            (None, Policy::Trust) => {
                let root = Root {
                    decision: extracted.decision,
                    debug_id: extracted.debug_id.clone(),
                    baggage: extracted.baggage.clone(),
                    start: extracted.start.clone(),
                };
                self.root(root, Kind::Server, opening, start)
            }
        }
    }

    /// Starts the client span of an outbound request and labels it with how its parent was found.
    pub fn start_client<'a>(
        self: &Arc<Self>,
        cause: &Cause,
        opening: impl Into<Opening<'a>>,
        start: Instant,
    ) -> ActiveSpan {
        let opening = opening.into();
        let mut span = match &cause.parent {
            Some(parent) => match cause.decision {
                Some(no @ SamplingState::Reject) => {
                    let mut parent = parent.clone();
                    parent.state = no;
                    let mut span = self.child(&parent, false, Kind::Client, opening, start);
                    span.label_decision(None, "caller");
                    span
                }
                _ => self.child(parent, false, Kind::Client, opening, start),
            },
            None => {
                let root = Root {
                    decision: cause.decision.or(cause.agreed),
                    debug_id: cause.debug_id.clone(),
                    ..Root::default()
                };
                self.root(root, Kind::Client, opening, start)
            }
        };
        if let Some(late) = span.late() {
            late.linked(cause);
        }
        if span.is_recording() {
            span.label_link(cause.method, cause.confidence, cause.p, cause.candidates);
            for candidate in &cause.links {
                span.link(Link {
                    trace_id: candidate.trace_id,
                    span_id: candidate.span_id,
                    attributes: vec![Attribute::new("pillion.link.reason", "candidate")],
                });
            }
        }
        span
    }

    /// Writes a span's context into the headers of the request that leaves.
    pub fn inject(&self, context: &SpanContext, headers: &mut HeaderMap) {
        self.propagator.inject(context, headers);
    }

    fn child(
        self: &Arc<Self>,
        parent: &SpanContext,
        remote: bool,
        kind: Kind,
        opening: Opening<'_>,
        start: Instant,
    ) -> ActiveSpan {
        let mut context = SpanContext {
            span_id: ids::span_id(),
            ..parent.clone()
        };
        let mut decided = None;
        if parent.state == SamplingState::Defer {
            let decision = self.decide(context.trace_id, &opening, start);
            context.state = state_of(decision.sampled);
            decided = Some(decision);
        }
        let mut span = ActiveSpan::new(
            self.clone(),
            context,
            Some((parent.span_id, remote)),
            kind,
            opening.operation,
            start,
        );
        span.label_decision(decided, "parent");
        span
    }

    fn new_trace_id(&self, start: Instant) -> TraceId {
        let random = ids::trace_id(self.short_trace_ids);
        if self.dated_trace_ids && !self.short_trace_ids {
            return ids::dated(random, self.clock.timestamp(start));
        }
        random
    }

    fn decide(&self, trace_id: TraceId, opening: &Opening<'_>, now: Instant) -> Decision {
        let operation = &opening.operation;
        let decision = match opening.request {
            Some(request) => self
                .sampler
                .sample_request(trace_id, operation, request, now),
            None => self.sampler.sample(trace_id, operation, now),
        };
        self.decisions.decided(decision.kind, decision.sampled);
        decision
    }

    fn root(
        self: &Arc<Self>,
        root: Root,
        kind: Kind,
        opening: Opening<'_>,
        start: Instant,
    ) -> ActiveSpan {
        let (trace_id, carried, random) = match root.start {
            Some(start) => (start.trace_id, start.carried, false),
            None => (self.new_trace_id(start), Carried::default(), true),
        };
        let mut decided = None;
        let (state, by) = match (&root.debug_id, root.decision) {
            (Some(_), _) => (SamplingState::Debug, "debug_id"),
            (None, Some(state)) if state != SamplingState::Defer => (state, "caller"),
            _ => {
                let decision = self.decide(trace_id, &opening, start);
                decided = Some(decision);
                (state_of(decision.sampled), "sampler")
            }
        };
        let context = SpanContext {
            trace_id,
            span_id: ids::span_id(),
            state,
            random,
            firehose: false,
            trace_state: TraceState::default(),
            baggage: root.baggage,
            carried,
        };
        let mut span = ActiveSpan::new(self.clone(), context, None, kind, opening.operation, start);
        span.label_decision(decided, by);
        if let Some(debug_id) = root.debug_id {
            span.set("jaeger-debug-id", debug_id);
        }
        span
    }
}

/// What a trace that starts here inherits although it has no parent.
#[derive(Default)]
struct Root {
    decision: Option<SamplingState>,
    debug_id: Option<Text>,
    baggage: Baggage,
    start: Option<Start>,
}

fn state_of(sampled: bool) -> SamplingState {
    if sampled {
        SamplingState::Accept
    } else {
        SamplingState::Reject
    }
}
