//! Which inbound request caused this outbound one?
//!
//! Owns the table of inbound requests in flight and the layers of evidence that search it, cheapest and surest first.
//! A finished request is never a parent. A wrong parent is worse than none: contradiction and doubt give candidates,
//! not a parent. Knows contexts and header values, not sockets.

mod in_flight;

use std::sync::Arc;

use http::HeaderMap;
use http::HeaderName;
use schemars::JsonSchema;
use serde::Deserialize;
use serde::Serialize;

use crate::model::SamplingState;
use crate::model::SpanContext;

pub use in_flight::InFlight;
pub use in_flight::Inbound;
pub use in_flight::InboundGuard;

/// The header that many programs already pass on by themselves.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Most candidates a span links to.
const MAX_LINKS: usize = 3;
/// Beyond this many requests in flight the request-id layer does not search: its cost must stay bounded.
const MAX_SEARCH: usize = 1_024;

/// Which evidence may assert a parent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Trace headers or `x-request-id` of an inbound request that reappear on the outbound one.
    ///
    /// Default: `true`. Reload: new connections.
    pub forwarded: bool,
    /// Exactly one inbound request is in flight.
    ///
    /// Default: `true`. Reload: new connections.
    pub exclusive: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            forwarded: true,
            exclusive: true,
        }
    }
}

/// The evidence that asserted the parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// A trace header or request id that the program passed on.
    Forwarded,
    /// Exactly one request in flight.
    Exclusive,
    /// Nothing asserted a parent.
    None,
}

/// How sure the evidence is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confidence {
    /// The program said so.
    Exact,
    /// Wrong only if the program also works in the background.
    High,
    /// Likely; other explanations were seen.
    Low,
    /// No parent asserted.
    None,
}

/// What the layers found.
#[derive(Debug, Clone)]
pub struct Found {
    /// The parent, when one is asserted.
    pub parent: Option<SpanContext>,
    /// By which evidence.
    pub method: Method,
    /// How sure.
    pub confidence: Confidence,
    /// Inbound requests that were possible parents.
    pub candidates: usize,
    /// Possible parents, oldest first, at most three; empty when a parent is asserted.
    pub links: Vec<SpanContext>,
    /// The decision that all candidates share, when no parent is asserted.
    pub agreed: Option<SamplingState>,
}

impl Method {
    /// Every method, for metrics.
    pub const ALL: [Self; 3] = [Self::Forwarded, Self::Exclusive, Self::None];

    /// The label value.
    pub fn name(self) -> &'static str {
        match self {
            Self::Forwarded => "forwarded",
            Self::Exclusive => "exclusive",
            Self::None => "none",
        }
    }
}

impl Confidence {
    /// The label value.
    pub fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::High => "high",
            Self::Low => "low",
            Self::None => "none",
        }
    }
}

/// Finds the cause of an outbound request.
///
/// `extracted` is the context that the request's own trace headers carry, if any; `destination` is its authority, used
/// to learn which destinations the program also calls by itself.
pub fn find(
    config: &Config,
    in_flight: &InFlight,
    headers: &HeaderMap,
    extracted: Option<&SpanContext>,
    destination: &str,
) -> Found {
    if config.forwarded {
        if let Some(context) = extracted {
            return asserted(context.clone(), Confidence::Exact, Method::Forwarded, 1);
        }
        if let Some(found) = by_request_id(in_flight, headers) {
            return found;
        }
    }
    let total = in_flight.len();
    if total == 0 {
        in_flight.learn_background(destination);
        return nothing(Vec::new(), 0);
    }
    if config.exclusive
        && let Some((inbound, overlapped)) = in_flight.only()
        && let Some(context) = &inbound.context
    {
        let doubtful = overlapped || in_flight.calls_in_background(destination);
        let confidence = if doubtful {
            Confidence::Low
        } else {
            Confidence::High
        };
        return asserted(context.clone(), confidence, Method::Exclusive, 1);
    }
    let oldest = in_flight.oldest(MAX_LINKS);
    // Somebody may have come since the count, or the one request in flight would have been found.
    let total = total.max(in_flight.len()).max(oldest.len());
    nothing(oldest, total)
}

/// The inbound requests whose `x-request-id` reappears: one is a parent, several are candidates.
fn by_request_id(in_flight: &InFlight, headers: &HeaderMap) -> Option<Found> {
    let id = headers.get(REQUEST_ID)?;
    if in_flight.len() > MAX_SEARCH {
        return None;
    }
    let same: Vec<Arc<Inbound>> =
        in_flight.matching(|inbound| inbound.request_id.as_ref() == Some(id));
    match same.as_slice() {
        [] => None,
        [one] => {
            let context = one.context.clone()?;
            Some(asserted(context, Confidence::High, Method::Forwarded, 1))
        }
        several => Some(nothing(
            several.iter().take(MAX_LINKS).cloned().collect(),
            several.len(),
        )),
    }
}

fn asserted(
    parent: SpanContext,
    confidence: Confidence,
    method: Method,
    candidates: usize,
) -> Found {
    Found {
        parent: Some(parent),
        method,
        confidence,
        candidates,
        links: Vec::new(),
        agreed: None,
    }
}

fn nothing(candidates: Vec<Arc<Inbound>>, total: usize) -> Found {
    let links: Vec<SpanContext> = candidates
        .iter()
        .filter_map(|inbound| inbound.context.clone())
        .collect();
    let agreed = match links.as_slice() {
        [first, rest @ ..]
            if links.len() == total && rest.iter().all(|c| c.state == first.state) =>
        {
            Some(first.state)
        }
        _ => None,
    };
    Found {
        parent: None,
        method: Method::None,
        confidence: Confidence::None,
        candidates: total,
        links,
        agreed,
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::model::Baggage;
    use crate::model::Carried;
    use crate::model::SpanId;
    use crate::model::TraceId;
    use crate::model::TraceState;

    fn context(id: u64) -> SpanContext {
        SpanContext {
            trace_id: TraceId::from_halves(0, id).unwrap(),
            span_id: SpanId::from_u64(id).unwrap(),
            state: SamplingState::Accept,
            random: false,
            firehose: false,
            trace_state: TraceState::default(),
            baggage: Baggage::default(),
            carried: Carried::default(),
        }
    }

    fn enter(in_flight: &Arc<InFlight>, id: u64, request_id: Option<&'static str>) -> InboundGuard {
        in_flight.enter(
            0,
            Some(context(id)),
            request_id.map(HeaderValue::from_static),
        )
    }

    fn request_id(value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(REQUEST_ID, HeaderValue::from_static(value))])
    }

    fn outcome(found: &Found) -> (Option<u64>, &'static str, &'static str, usize) {
        let parent = found
            .parent
            .as_ref()
            .map(|context| context.span_id.to_u64());
        (
            parent,
            found.method.name(),
            found.confidence.name(),
            found.candidates,
        )
    }

    #[test]
    fn a_trace_header_on_the_call_is_the_parent_whatever_is_in_flight() {
        let in_flight = InFlight::new(2);
        let _a = enter(&in_flight, 1, None);
        let _b = enter(&in_flight, 2, None);
        let found = find(
            &Config::default(),
            &in_flight,
            &HeaderMap::new(),
            Some(&context(2)),
            "x",
        );
        assert_eq!(outcome(&found), (Some(2), "forwarded", "exact", 1));
    }

    #[test]
    fn a_request_id_counts_only_while_it_is_unique() {
        let in_flight = InFlight::new(2);
        let _a = enter(&in_flight, 1, Some("a"));
        let b = enter(&in_flight, 2, Some("b"));
        let found = find(&Config::default(), &in_flight, &request_id("b"), None, "x");
        assert_eq!(outcome(&found), (Some(2), "forwarded", "high", 1));
        let _twin = enter(&in_flight, 3, Some("b"));
        let found = find(&Config::default(), &in_flight, &request_id("b"), None, "x");
        assert_eq!(outcome(&found), (None, "none", "none", 2));
        drop(b);
        let found = find(&Config::default(), &in_flight, &request_id("b"), None, "x");
        assert_eq!(outcome(&found), (Some(3), "forwarded", "high", 1));
    }

    #[test]
    fn exclusive_needs_exactly_one_and_doubts_overlap_and_background_work() {
        let in_flight = InFlight::new(2);
        let call = |destination| {
            find(
                &Config::default(),
                &in_flight,
                &HeaderMap::new(),
                None,
                destination,
            )
        };
        assert_eq!(outcome(&call("cron")), (None, "none", "none", 0));
        let a = enter(&in_flight, 1, None);
        assert_eq!(outcome(&call("db")), (Some(1), "exclusive", "high", 1));
        assert_eq!(
            outcome(&call("cron")),
            (Some(1), "exclusive", "low", 1),
            "called without a request before"
        );
        let b = enter(&in_flight, 2, None);
        let found = call("db");
        assert_eq!(outcome(&found), (None, "none", "none", 2));
        assert_eq!(found.links.len(), 2);
        assert_eq!(found.agreed, Some(SamplingState::Accept));
        drop(b);
        assert_eq!(
            outcome(&call("db")),
            (Some(1), "exclusive", "low", 1),
            "it overlapped with another"
        );
        drop(a);
        assert_eq!(
            outcome(&call("db")),
            (None, "none", "none", 0),
            "a finished request is never a parent"
        );
    }

    #[test]
    fn a_layer_that_is_off_asserts_nothing() {
        let in_flight = InFlight::new(1);
        let _a = enter(&in_flight, 1, Some("a"));
        let off = Config {
            forwarded: false,
            exclusive: false,
        };
        let found = find(&off, &in_flight, &request_id("a"), Some(&context(1)), "x");
        assert_eq!(outcome(&found), (None, "none", "none", 1));
    }

    #[test]
    fn candidates_that_disagree_about_sampling_leave_it_to_the_sampler() {
        let in_flight = InFlight::new(1);
        let _a = enter(&in_flight, 1, None);
        let mut rejected = context(2);
        rejected.state = SamplingState::Reject;
        let _b = in_flight.enter(0, Some(rejected), None);
        let found = find(&Config::default(), &in_flight, &HeaderMap::new(), None, "x");
        assert_eq!(found.agreed, None);
    }
}
