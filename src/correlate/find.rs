//! From evidence to a parent: the layers, asked from the surest down, and what becomes of their answers.

use std::sync::Arc;
use std::time::Instant;

use http::HeaderMap;
use http::Method as Verb;
use http::Uri;
use smallvec::SmallVec;

use crate::correlate::Confidence;
use crate::correlate::Config;
use crate::correlate::Found;
use crate::correlate::Method;
use crate::correlate::REQUEST_ID;
use crate::correlate::audit::Audit;
use crate::correlate::in_flight::InFlight;
use crate::correlate::in_flight::Inbound;
use crate::correlate::token::Carried;
use crate::correlate::values::Recurring;
use crate::model::SpanContext;
use crate::net::kernel::Moment;

/// Most candidates a span links to.
const MAX_LINKS: usize = 3;
/// Beyond this many requests in flight no layer searches them all: its cost must stay bounded.
const MAX_SEARCH: usize = 1_024;

/// An outbound request whose cause is wanted.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// What it asks for; of a connection that is not understood, CONNECT.
    pub verb: &'a Verb,
    /// Where it goes.
    pub uri: &'a Uri,
    /// Its headers, the shim's taken off.
    pub headers: &'a HeaderMap,
    /// The context that its own trace headers carry.
    pub extracted: Option<&'a SpanContext>,
    /// Its authority: the program may also call it by itself.
    pub destination: &'a str,
    /// What a shim said.
    pub carried: Carried,
    /// The port of the inbound connection that the sending thread was serving.
    pub served: Option<u16>,
    /// What the kernel says.
    pub witnesses: &'a [Witness],
    /// When it came.
    pub now: Instant,
}

/// What the kernel says of the one that sent a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Witness {
    /// By which evidence.
    pub method: Method,
    /// The port of the inbound connection that it was working on.
    pub port: u16,
    /// When the call was sent.
    pub at: Moment,
}

/// What the layers above the last said.
#[derive(Default)]
struct Evidence {
    /// The requests that were pointed at, surest layer first, and by what.
    pointed: SmallVec<[(Arc<Inbound>, Method, Confidence); 2]>,
    /// Requests that could not be told apart.
    doubtful: Vec<Arc<Inbound>>,
}

/// Finds the cause of a call.
///
/// Trace headers that the program sends are its own word and end the search. The other layers are all asked: when two
/// point at different requests, neither is believed.
pub fn find(config: &Config, in_flight: &InFlight, call: &Call) -> Found {
    if config.forwarded
        && let Some(context) = call.extracted
    {
        if in_flight.audit.wants_next() {
            audit(config, in_flight, call, context);
        }
        return asserted(context.clone(), Method::Forwarded, Confidence::Exact);
    }
    let mut evidence = Evidence::default();
    if config.shims
        && let Carried::Token(token) = call.carried
    {
        in_flight.learn_shim();
        match in_flight.holder(token) {
            Some(inbound) => evidence.point(inbound, Method::Shim, Confidence::High),
            None => return nothing(Method::Ended, Vec::new(), 0),
        }
    }
    let total = in_flight.len();
    if total <= MAX_SEARCH {
        if config.forwarded {
            by_request_id(in_flight, call, &mut evidence);
        }
        if config.preload {
            by_thread(in_flight, call, &mut evidence);
        }
        by_kernel(in_flight, call, Method::Thread, &mut evidence);
        if config.values {
            by_values(in_flight, call, &mut evidence);
        }
        if config.mode.follows_events() && evidence.pointed.is_empty() {
            by_kernel(in_flight, call, Method::Lineage, &mut evidence);
        }
    }
    evidence.heed(&in_flight.audit);
    if let Some(found) = evidence.verdict() {
        return found;
    }
    if total == 0 {
        in_flight.call_without_request(call.destination, call.now);
    } else if config.exclusive
        && let Some(found) = by_exclusion(config, in_flight, call)
    {
        return found;
    }
    let oldest = in_flight.oldest(MAX_LINKS);
    // Somebody may have come since the count, or the one request in flight would have been found.
    let total = total.max(in_flight.len()).max(oldest.len());
    nothing(Method::None, oldest, total)
}

/// Holds the other layers against what the program says itself.
fn audit(config: &Config, in_flight: &InFlight, call: &Call, context: &SpanContext) {
    if in_flight.len() > MAX_SEARCH {
        return;
    }
    let same = in_flight.matching(|inbound| {
        let own = inbound.arrival.context.as_ref();
        own.is_some_and(|own| own.trace_id == context.trace_id)
    });
    // A trace that comes in twice at once says too little.
    let [truth] = same.as_slice() else {
        return;
    };
    let mut evidence = Evidence::default();
    if config.shims
        && let Carried::Token(token) = call.carried
        && let Some(inbound) = in_flight.holder(token)
    {
        evidence.point(inbound, Method::Shim, Confidence::High);
    }
    if config.preload {
        by_thread(in_flight, call, &mut evidence);
    }
    for method in [Method::Thread, Method::Lineage] {
        by_kernel(in_flight, call, method, &mut evidence);
    }
    if config.values {
        by_values(in_flight, call, &mut evidence);
    }
    for (inbound, method, _) in &evidence.pointed {
        let right = Arc::ptr_eq(inbound, truth);
        let operation = inbound.arrival.operation;
        in_flight.audit.tell(operation, *method, right);
    }
}

/// The inbound requests whose `x-request-id` reappears.
fn by_request_id(in_flight: &InFlight, call: &Call, evidence: &mut Evidence) {
    let Some(id) = call.headers.get(REQUEST_ID) else {
        return;
    };
    let same = in_flight.matching(|inbound| inbound.arrival.request_id.as_ref() == Some(id));
    evidence.unique(same, Method::Forwarded);
}

/// The inbound requests that were passed on over the connection that the sending thread was serving.
fn by_thread(in_flight: &InFlight, call: &Call, evidence: &mut Evidence) {
    let Some(port) = call.served else {
        return;
    };
    let same = in_flight.matching(|inbound| inbound.port() == port);
    evidence.unique(same, Method::Thread);
}

/// The inbound requests that were being worked on when the call was sent, as far as the kernel saw.
fn by_kernel(in_flight: &InFlight, call: &Call, method: Method, evidence: &mut Evidence) {
    let witnesses = call.witnesses.iter();
    for witness in witnesses.filter(|witness| witness.method == method) {
        // One that came later over the same connection is not meant.
        let same = in_flight.matching(|inbound| inbound.was_on(witness.port, witness.at));
        evidence.unique(same, method);
    }
}

/// The inbound requests whose identifiers recur.
fn by_values(in_flight: &InFlight, call: &Call, evidence: &mut Evidence) {
    let values = in_flight.fingerprints.outbound(call.uri, call.headers);
    if values.is_empty() {
        return;
    }
    let meeting = in_flight.matching(|inbound| values.meet(&inbound.arrival.values));
    match values.owner(meeting) {
        Recurring::Nothing => {}
        Recurring::Of(inbound) => evidence.point(inbound, Method::Values, Confidence::High),
        Recurring::Doubtful(mut several) => evidence.doubtful.append(&mut several),
    }
}

/// The only request in flight, when that says enough.
fn by_exclusion(config: &Config, in_flight: &InFlight, call: &Call) -> Option<Found> {
    let (inbound, overlapped) = in_flight.only()?;
    let context = inbound.arrival.context.clone()?;
    let kind = in_flight
        .shapes
        .of(call.verb, call.destination, call.uri.path());
    let believed =
        !overlapped && in_flight.call_while_alone(&inbound, (kind, call.destination), call.now);
    // A shim that is at work would have named the request.
    let unnamed = config.shims && in_flight.shim_speaks();
    let doubtful = !believed || unnamed || in_flight.calls_in_background(call.destination);
    let confidence = match doubtful {
        true => Confidence::Low,
        false => Confidence::High,
    };
    config
        .mode
        .accepts(confidence)
        .then(|| asserted(context, Method::Exclusive, confidence))
}

impl Evidence {
    fn point(&mut self, inbound: Arc<Inbound>, method: Method, confidence: Confidence) {
        self.pointed.push((inbound, method, confidence));
    }

    /// What a layer says that was wrong too often is a candidate at best.
    fn heed(&mut self, audit: &Audit) {
        let doubtful = &mut self.doubtful;
        self.pointed.retain(|(inbound, method, _)| {
            let believed = audit.believes(inbound.arrival.operation, *method);
            if !believed {
                doubtful.push(inbound.clone());
            }
            believed
        });
    }

    /// One request is meant, several cannot be told apart.
    fn unique(&mut self, mut same: Vec<Arc<Inbound>>, method: Method) {
        match (same.pop(), same.is_empty()) {
            (Some(one), true) => self.point(one, method, method.confidence()),
            (last, _) => {
                self.doubtful.append(&mut same);
                self.doubtful.extend(last);
            }
        }
    }

    /// What follows; `None` when no layer knew anything.
    fn verdict(self) -> Option<Found> {
        let mut pointed = self.pointed.into_iter();
        let Some((inbound, method, confidence)) = pointed.next() else {
            let n_doubtful = self.doubtful.len();
            return (n_doubtful > 0).then(|| nothing(Method::None, self.doubtful, n_doubtful));
        };
        let others = pointed.map(|(other, ..)| other);
        let mut all: Vec<Arc<Inbound>> = others
            .filter(|other| !Arc::ptr_eq(other, &inbound))
            .collect();
        if !all.is_empty() {
            all.insert(0, inbound);
            let total = all.len();
            return Some(nothing(Method::Contradicted, all, total));
        }
        let Some(context) = inbound.arrival.context.clone() else {
            // A request without a span: its calls have no parent, and no other request's span will do.
            return Some(nothing(Method::None, Vec::new(), 1));
        };
        Some(asserted(context, method, confidence))
    }
}

fn asserted(parent: SpanContext, method: Method, confidence: Confidence) -> Found {
    Found {
        parent: Some(parent),
        method,
        confidence,
        candidates: 1,
        links: Vec::new(),
        agreed: None,
    }
}

fn nothing(method: Method, candidates: Vec<Arc<Inbound>>, total: usize) -> Found {
    let links: Vec<SpanContext> = candidates
        .iter()
        .take(MAX_LINKS)
        .filter_map(|inbound| inbound.arrival.context.clone())
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
        method,
        confidence: Confidence::None,
        candidates: total,
        links,
        agreed,
    }
}

#[cfg(test)]
mod tests;
