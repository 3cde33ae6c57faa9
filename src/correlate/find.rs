//! From evidence to a parent: the layers, asked from the surest down, and what becomes of their answers.

use std::sync::Arc;
use std::time::Instant;

use http::HeaderMap;
use http::Method as Verb;
use http::Uri;
use smallvec::SmallVec;

use crate::correlate::Class;
use crate::correlate::Confidence;
use crate::correlate::Config;
use crate::correlate::Found;
use crate::correlate::Method;
use crate::correlate::REQUEST_ID;
use crate::correlate::audit::Audit;
use crate::correlate::in_flight::InFlight;
use crate::correlate::in_flight::Inbound;
use crate::correlate::shape::Shape;
use crate::correlate::token::Carried;
use crate::correlate::values::Recurring;
use crate::correlate::windows::Told;
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
    /// The port of the inbound connection that the sending thread was serving, and when.
    pub served: Option<(u16, Moment)>,
    /// What the kernel says.
    pub witnesses: &'a [Witness],
    /// Somebody looks at the threads that send on its connection.
    pub is_watched: bool,
    /// Nothing but what is for this request had been delivered to the program when the call came, and how likely the
    /// call is not one that the program makes by itself.
    pub paced: Option<(&'a Arc<Inbound>, f64)>,
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
    /// The requests that were pointed at, surest layer first, by what, and how likely rightly.
    pointed: SmallVec<[(Arc<Inbound>, Method, f64); 2]>,
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
        let p = Method::Forwarded.prior();
        let exact = Confidence::Exact;
        return asserted(context.clone(), Method::Forwarded, exact, p);
    }
    let mut evidence = Evidence::default();
    if config.shims
        && let Carried::Token(token) = call.carried
    {
        in_flight.learn_shim();
        match in_flight.holder(token) {
            Some(inbound) => evidence.point(inbound, Method::Shim),
            None => return nothing(Method::Ended, Vec::new(), 0),
        }
    }
    let total = in_flight.len();
    if total <= MAX_SEARCH {
        if config.forwarded {
            by_request_id(in_flight, call, &mut evidence);
        }
        let class = in_flight.class();
        if class.allows(Method::Thread) {
            if config.preload {
                by_thread(in_flight, call, &mut evidence);
            }
            by_kernel(in_flight, call, Method::Thread, &mut evidence);
        }
        by_kernel(in_flight, call, Method::Runtime, &mut evidence);
        if config.values {
            by_values(in_flight, call, &mut evidence);
        }
        if let Some((inbound, _)) = call.paced
            && class.allows(Method::Pacing)
            && !inbound.has_ended()
        {
            evidence.point(inbound.clone(), Method::Pacing);
        }
        if config.mode.follows_events()
            && class.allows(Method::Lineage)
            && evidence.pointed.is_empty()
        {
            by_kernel(in_flight, call, Method::Lineage, &mut evidence);
        }
    }
    let alone = match config.exclusive && total == 1 {
        true => Alone::of(config, in_flight, call, &evidence),
        false => None,
    };
    let proofs = evidence.held_against(call, alone.as_ref());
    evidence.heed(config, call, &in_flight.audit);
    for (operation, method, right) in proofs {
        in_flight.audit.tell(operation, method, right);
    }
    if let Some(found) = evidence.verdict() {
        return found;
    }
    if total == 0 {
        in_flight.call_without_request(call.destination, call.now);
    } else if let Some(found) = alone.and_then(|alone| alone.verdict(config, in_flight, call)) {
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
        evidence.point(inbound, Method::Shim);
    }
    if let Some((inbound, _)) = call.paced {
        evidence.point(inbound.clone(), Method::Pacing);
    }
    if config.preload {
        by_thread(in_flight, call, &mut evidence);
    }
    for method in [Method::Thread, Method::Runtime, Method::Lineage] {
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
    let Some((port, at)) = call.served else {
        return;
    };
    // One that came later over the same connection is not meant.
    let same = in_flight.matching(|inbound| inbound.was_on(port, at));
    evidence.unique(same, Method::Thread);
}

/// The inbound requests that were being worked on when the call was sent, as far as the kernel saw.
fn by_kernel(in_flight: &InFlight, call: &Call, method: Method, evidence: &mut Evidence) {
    let witnesses = call.witnesses.iter();
    for witness in witnesses.filter(|witness| witness.method == method) {
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
    let meeting = in_flight.matching(|inbound| inbound.meets(&values));
    match values.owner(meeting) {
        Recurring::Nothing => {}
        Recurring::Of(inbound) => evidence.point(inbound, Method::Values),
        Recurring::Doubtful(mut several) => evidence.doubtful.append(&mut several),
    }
}

/// Of which operation a request was, which layer pointed at it, and whether rightly.
type Proofs = SmallVec<[(Shape, Method, bool); 2]>;

/// The only request in flight, and what its window says of the call.
struct Alone {
    inbound: Arc<Inbound>,
    told: Told,
    /// Another explanation was seen.
    is_doubtful: bool,
}

impl Alone {
    fn of(config: &Config, in_flight: &InFlight, call: &Call, evidence: &Evidence) -> Option<Self> {
        let (inbound, overlapped) = in_flight.only()?;
        inbound.arrival.context.as_ref()?;
        let is_new = !in_flight.calls_in_background(call.destination);
        // Where each request has a thread that is looked at, a call from elsewhere needs more than one sighting.
        let by_thread = |(_, method, _): &(Arc<Inbound>, Method, f64)| *method == Method::Thread;
        let at_sight = !call.is_watched
            || in_flight.class() != Class::Threads
            || evidence.pointed.iter().any(by_thread);
        let told = match overlapped {
            true => Told::Doubtful,
            false => {
                let kind = in_flight
                    .shapes
                    .of(call.verb, call.destination, call.uri.path());
                in_flight.call_while_alone(&inbound, (kind, call.destination), at_sight, call.now)
            }
        };
        // A shim that is at work would have named the request.
        let is_named = matches!(call.carried, Carried::Token(_));
        let unnamed = config.shims && in_flight.shim_speaks() && !is_named;
        Some(Self {
            inbound,
            told,
            is_doubtful: unnamed || !is_new,
        })
    }

    fn verdict(self, config: &Config, in_flight: &InFlight, call: &Call) -> Option<Found> {
        // Where there are other explanations these are the more likely ones, in every mode.
        if self.told != Told::Its
            || self.is_doubtful
            || in_flight.calls_in_background(call.destination)
        {
            return None;
        }
        let operation = self.inbound.arrival.operation;
        let p = in_flight.audit.p(operation, Method::Exclusive);
        let context = self.inbound.arrival.context.clone()?;
        let confidence = Confidence::of(p);
        let accepted = config.mode.accepts(Method::Exclusive, p);
        accepted.then(|| asserted(context, Method::Exclusive, confidence, p))
    }
}

impl Evidence {
    fn point(&mut self, inbound: Arc<Inbound>, method: Method) {
        self.pointed.push((inbound, method, method.prior()));
    }

    /// Which layers were right, as far as is known otherwise: which request alone could do anything, or what one that is
    /// alone usually does.
    fn held_against(&self, call: &Call, alone: Option<&Alone>) -> Proofs {
        let told = alone.filter(|alone| !alone.is_doubtful);
        let audited = self.pointed.iter();
        let audited =
            audited.filter(|(_, method, _)| !matches!(method, Method::Forwarded | Method::Pacing));
        let proofs = audited.filter_map(|(inbound, method, _)| {
            let right = match (call.paced, told) {
                (Some((paced, _)), _) => Arc::ptr_eq(paced, inbound),
                (None, Some(alone)) => match alone.told {
                    Told::Its => Arc::ptr_eq(&alone.inbound, inbound),
                    Told::OneTooMany => false,
                    Told::Doubtful => return None,
                },
                (None, None) => return None,
            };
            Some((inbound.arrival.operation, *method, right))
        });
        proofs.collect()
    }

    /// What is not likely enough asserts nothing; what a layer says that lost its word is a candidate.
    fn heed(&mut self, config: &Config, call: &Call, audit: &Audit) {
        let doubtful = &mut self.doubtful;
        self.pointed.retain_mut(|(inbound, method, p)| {
            *p = audit.p(inbound.arrival.operation, *method);
            if let (Method::Pacing, Some((_, paced))) = (*method, call.paced) {
                *p = p.min(paced);
            }
            let accepted = config.mode.accepts(*method, *p);
            if !accepted && *p < method.prior() {
                doubtful.push(inbound.clone());
            }
            accepted
        });
    }

    /// One request is meant, several cannot be told apart.
    fn unique(&mut self, mut same: Vec<Arc<Inbound>>, method: Method) {
        match (same.pop(), same.is_empty()) {
            (Some(one), true) => self.point(one, method),
            (last, _) => {
                self.doubtful.append(&mut same);
                self.doubtful.extend(last);
            }
        }
    }

    /// What follows; `None` when no layer knew anything.
    fn verdict(self) -> Option<Found> {
        let mut pointed = self.pointed.into_iter();
        let Some((inbound, method, p)) = pointed.next() else {
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
        Some(asserted(context, method, Confidence::of(p), p))
    }
}

fn asserted(parent: SpanContext, method: Method, confidence: Confidence, p: f64) -> Found {
    Found {
        parent: Some(parent),
        method,
        confidence,
        p,
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
        p: 0.0,
        candidates: total,
        links,
        agreed,
    }
}

#[cfg(test)]
mod tests;
