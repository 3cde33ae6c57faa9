//! The beginning of an exchange: context read, sampling asked, cause found, span started, context written.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use http::HeaderMap;
use http::HeaderName;
use http::Method;
use http::Request;
use http::Response;
use http::StatusCode;
use http::Uri;
use http::Version;
use hyper::body::Incoming;
use smallvec::SmallVec;

use crate::correlate;
use crate::correlate::Arrival;
use crate::correlate::Call;
use crate::correlate::Carried;
use crate::correlate::Confidence;
use crate::correlate::Found;
use crate::correlate::InboundGuard;
use crate::correlate::Shape;
use crate::correlate::Token;
use crate::correlate::Values;
use crate::correlate::Witness;
use crate::model::Kind;
use crate::model::SamplingState;
use crate::model::SpanContext;
use crate::net::kernel::Moment;
use crate::propagation::Extraction;
use crate::propagation::Lines;
use crate::proxy::body::ResponseBody;
use crate::proxy::error::ProxyError;
use crate::proxy::exchange::Exchange;
use crate::proxy::forward;
use crate::proxy::headers;
use crate::proxy::listener::Conn;
use crate::proxy::listener::Role;
use crate::proxy::pacing::Heard;
use crate::proxy::pacing::Pacer;
use crate::proxy::pacing::Side;
use crate::proxy::pacing::Verdict;
use crate::proxy::respond;
use crate::proxy::shared::RequestSlot;
use crate::proxy::target;
use crate::sampling::Head;
use crate::telemetry::metrics::ExtractResult;
use crate::telemetry::metrics::LinkOutcome;
use crate::telemetry::metrics::PropagationMetrics;
use crate::telemetry::metrics::RequestLabels;
use crate::telemetry::metrics::RouteId;
use crate::tracer::ActiveSpan;
use crate::tracer::Cause;
use crate::tracer::Glance;
use crate::tracer::Opening;
use crate::tracer::Policy;
use crate::tracer::http::Connection;
use crate::tracer::http::Operation;

/// Begins the exchange of a request: its span, its place in the table of requests in flight, its trace headers. `paced`:
/// what the gate before the program told of it.
pub(super) fn begin<B>(
    conn: &Arc<Conn>,
    request: &mut Request<B>,
    slot: RequestSlot,
    paced: Option<Heard>,
    start: Instant,
) -> Box<Exchange> {
    let exchange = begin_unwritten(conn, request, slot, paced, start);
    if let Some(span) = &exchange.span {
        inject(span, request);
    }
    exchange
}

/// Like [`begin`], but its trace headers are still to be written: see [`lines`].
pub(super) fn begin_unwritten<B>(
    conn: &Arc<Conn>,
    request: &mut Request<B>,
    slot: RequestSlot,
    paced: Option<Heard>,
    start: Instant,
) -> Box<Exchange> {
    let kind = forward::kind(&conn.listener.role);
    let carried = match kind {
        Kind::Client => take_token(conn, request),
        _ => Carried::Nothing,
    };
    let mut labels = labels_of(conn, request);
    let tracer = conn.snapshot.tracer.as_ref();
    let mut glance = match tracer {
        Some(_) => Glance::of(request.headers()),
        None => Glance::default(),
    };
    let tracer = tracer.filter(|tracer| !tracer.conventions.ignores(request.uri(), &glance));
    let Some(tracer) = tracer else {
        let mut exchange = Exchange::new(conn.clone(), labels, kind, start, None, slot);
        if conn.snapshot.tracer.is_some() && is_entered(conn, kind) {
            // A probe may call out too: its calls must not be taken for another request's.
            let guard = enter(conn, request, None, (Shape::NONE, true), start);
            exchange.guard = Some(guard);
        }
        return exchange;
    };
    let paced = paced.and_then(|heard| believed(conn, request, heard));
    let extraction = tracer.propagator.extract(request.headers());
    count_extraction(conn, &extraction);
    let conventions = &tracer.conventions;
    let operation = conventions.operation(kind, request.method(), request.uri(), &glance);
    labels.route = operation
        .route
        .as_ref()
        .map_or(RouteId::NONE, |route| route.id);
    let mut span = match kind {
        Kind::Server => {
            let policy = policy_of(conn, &extraction, start);
            if matches!(policy, Policy::Restart | Policy::Ignore) {
                tracer.propagator.forget(request.headers_mut());
                glance = Glance::of(request.headers());
            }
            tracer.start_server(&extraction, policy, opening(&operation, request), start)
        }
        _ => tracer.start_client(
            &cause_of(conn, request, &extraction, (carried, paced.as_ref()), start),
            opening(&operation, request),
            start,
        ),
    };
    let may_have_ids = glance.may_have_ids;
    let shape = is_entered(conn, kind).then(|| {
        let (method, path) = (request.method(), request.uri().path());
        let route = operation.route.as_ref().map(|route| &*route.template);
        let in_flight = &conn.worker.shared.in_flight;
        let shape = in_flight.shapes.of(method, "", route.unwrap_or(path));
        in_flight.learn_name(shape, (method, route, path));
        shape
    });
    if span.is_recording() {
        describe(conn, &mut span, &operation, (request, &glance));
    } else {
        span.hold(operation, request);
    }
    let guard = shape.map(|shape| {
        let context = Some(span.context.clone());
        enter(conn, request, context, (shape, may_have_ids), start)
    });
    if guard.is_none() && kind == Kind::Server {
        strip_token(conn, request);
    }
    let is_recording = span.is_recording();
    let mut exchange = Exchange::new(conn.clone(), labels, kind, start, Some(span), slot);
    exchange.guard = guard;
    if let Some(pacer) = &conn.worker.shared.pacer {
        pace(conn, pacer, request, is_recording, &mut exchange, paced);
    }
    exchange
}

fn opening<'a, B>(operation: &Operation, request: &'a Request<B>) -> Opening<'a> {
    Opening {
        operation: operation.name.clone(),
        request: Some(Head {
            method: request.method(),
            uri: request.uri(),
            headers: request.headers(),
        }),
    }
}

/// The request that caused a call, when the gate before the program can be believed of such calls.
fn believed<B>(conn: &Conn, request: &Request<B>, heard: Heard) -> Option<Verdict> {
    let shared = &conn.worker.shared;
    let shapes = &shared.in_flight.shapes;
    let destination = destination_of(conn, request);
    let kind = shapes.of(request.method(), destination, request.uri().path());
    shared.pacer.as_ref()?.believe(heard, kind)
}

/// What the gate before the program is told of an exchange: an inbound request may be paced, and so is the response to a
/// call of one that is.
fn pace<B>(
    conn: &Conn,
    pacer: &Arc<Pacer>,
    request: &Request<B>,
    is_recording: bool,
    exchange: &mut Exchange,
    cause: Option<Verdict>,
) {
    let in_flight = &conn.worker.shared.in_flight;
    if let Some(guard) = &exchange.guard {
        let share = conn.snapshot.correlate.pacing.share;
        let allowed = in_flight.class().allows(correlate::Method::Pacing);
        if is_recording && allowed && pacer.wants(share) {
            guard.inbound().pace(true);
            exchange.is_paced = pacer.is_sure();
        }
        return;
    }
    let owner = cause.as_ref().map(|(inbound, _)| inbound);
    // Several share a connection of HTTP/2.
    let is_alone = request.version() != Version::HTTP_2;
    let port = conn.peer.port();
    pacer.deliver(Side::Theirs, port, owner.filter(|_| is_alone));
    let destination = destination_of(conn, request);
    exchange.busy = Some(pacer.calls(destination, is_alone.then_some(port), in_flight.len()));
}

/// Puts on a span what is known when the request's head has arrived.
fn describe<B>(
    conn: &Conn,
    span: &mut ActiveSpan,
    operation: &Operation,
    (request, glance): (&Request<B>, &Glance<'_>),
) {
    let kind = forward::kind(&conn.listener.role);
    let to = rewritten_host(conn);
    let connection = Connection {
        peer: (kind == Kind::Server).then_some(conn.peer),
        scheme: scheme_of(conn),
        to: to.as_deref(),
        kind,
    };
    let tracer = span.tracer().clone();
    tracer
        .conventions
        .request(span, operation, (request, glance), connection);
    if let Role::Route { peer_service, .. } = &conn.listener.role
        && !peer_service.is_empty()
    {
        span.set("service.peer.name", peer_service.as_str());
    }
}

/// Decides at the end of an exchange whether a span that was not recorded is kept, and puts on it what is still known.
/// False: it is not.
pub(super) fn keep(
    conn: &Conn,
    span: &mut ActiveSpan,
    status: Option<StatusCode>,
    end: Instant,
) -> bool {
    let Some(mut late) = span.keep(end) else {
        return false;
    };
    if let Some((operation, request)) = late.request() {
        let glance = Glance::of(request.headers());
        describe(conn, span, &operation, (&request, &glance));
    }
    let tracer = span.tracer().clone();
    tracer.conventions.kept(span, *late, status);
    true
}

/// Answers a request before an exchange begins: it finds no place, or it is none.
pub(super) fn turn_away(
    conn: &Arc<Conn>,
    request: &Request<Incoming>,
    error: &ProxyError,
    start: Instant,
) -> Response<ResponseBody> {
    let mut response = respond::failure(error);
    if error.is_callers() && request.version() != Version::HTTP_2 {
        respond::close_after(&mut response);
    }
    count_away(conn, request, error, start);
    response
}

/// Counts a request that is answered before an exchange begins.
pub(super) fn count_away<B>(conn: &Conn, request: &Request<B>, error: &ProxyError, start: Instant) {
    let mut labels = labels_of(conn, request);
    labels.status = Some(respond::status_of(error));
    labels.error = Some(error.error_type());
    if let Some(reason) = error.rejection() {
        conn.metrics().traffic.rejections.count(reason);
    }
    conn.worker.requests.record(&labels, start.elapsed());
    conn.phase.idle();
}

/// The scheme of a request that does not name one: the connection's, or that of the leg upwards.
fn scheme_of(conn: &Conn) -> &'static str {
    match &conn.listener.role {
        Role::Route { tls: Some(_), .. } => "https",
        _ => conn.scheme,
    }
}

/// The host that a route puts in the place of the one its requests name.
fn rewritten_host(conn: &Conn) -> Option<String> {
    match &conn.listener.role {
        Role::Route {
            to,
            rewrite_host: true,
            ..
        } => Some(to.to_string()),
        _ => None,
    }
}

fn labels_of<B>(conn: &Conn, request: &Request<B>) -> RequestLabels {
    RequestLabels {
        direction: conn.listener.direction(),
        method: request.method().into(),
        route: RouteId::NONE,
        status: None,
        version: request.version().into(),
        error: None,
    }
}

/// A tunnel's bytes are not ours to change: CONNECT gets a span but no headers.
fn inject<B>(span: &ActiveSpan, request: &mut Request<B>) {
    if request.method() != Method::CONNECT {
        span.tracer().inject(&span.context, request.headers_mut());
    }
}

/// The trace headers of a request that goes out as text. `None`: it has those it is to have, maybe since now.
pub(super) fn lines<'a, B>(exchange: &'a Exchange, request: &mut Request<B>) -> Option<Lines<'a>> {
    let span = exchange.span.as_ref()?;
    let lines = span
        .tracer()
        .propagator
        .lines(&span.context, request.headers());
    if lines.is_none() {
        inject(span, request);
    }
    lines
}

fn policy_of(conn: &Conn, extraction: &Extraction, now: Instant) -> Policy {
    let policy = conn.snapshot.trust.of(conn.peer.ip());
    if policy == Policy::Trust
        && forces_sampling(extraction)
        && !conn.snapshot.trust.admit_forced(now)
    {
        return Policy::Undecided;
    }
    policy
}

/// True when the caller's headers alone would have the trace recorded.
fn forces_sampling(extraction: &Extraction) -> bool {
    let extracted = &extraction.extracted;
    let by_parent = extracted.parent.as_ref().map(|parent| parent.state);
    by_parent
        .or(extracted.decision)
        .is_some_and(SamplingState::is_sampled)
        || extracted.debug_id.is_some()
}

/// True when an inbound request belongs into the table: where no call of the program can come nobody would look there.
fn is_entered(conn: &Conn, kind: Kind) -> bool {
    let shared = &conn.worker.shared;
    kind == Kind::Server && (shared.in_flight.expects_calls() || shared.pacer.is_some())
}

/// Takes a shim's token off an inbound request that gets none of ours: it is nobody's.
fn strip_token<B>(conn: &Conn, request: &mut Request<B>) {
    let is_token = |name: &HeaderName| *name == correlate::TOKEN;
    if conn.snapshot.correlate.shims && request.headers().keys().any(is_token) {
        headers::remove(request.headers_mut(), &correlate::TOKEN);
    }
}

/// Puts an inbound request into the table of requests in flight, and the shim's token on it.
fn enter<B>(
    conn: &Conn,
    request: &mut Request<B>,
    context: Option<SpanContext>,
    (operation, may_have_ids): (Shape, bool),
    start: Instant,
) -> InboundGuard {
    let (in_flight, layers) = (&conn.worker.shared.in_flight, &conn.snapshot.correlate);
    let none = HeaderMap::new();
    let headers = match may_have_ids {
        true => request.headers(),
        false => &none,
    };
    let values = match context.is_some() && layers.values {
        true => in_flight.fingerprints.inbound(request.uri(), headers),
        false => Values::default(),
    };
    let arrival = Arrival {
        context,
        request_id: headers.get(correlate::REQUEST_ID).cloned(),
        values,
        operation,
    };
    let guard = in_flight.enter(conn.worker.index, arrival, start);
    if layers.shims {
        headers::remove(request.headers_mut(), &correlate::TOKEN);
        if let Some(token) = guard.token().and_then(Token::header) {
            request.headers_mut().insert(correlate::TOKEN, token);
        }
    }
    guard
}

/// Takes the shim's token off a call of the program.
fn take_token<B>(conn: &Conn, request: &mut Request<B>) -> Carried {
    if !conn.snapshot.correlate.shims {
        return Carried::Nothing;
    }
    let carried = Carried::read(request.headers());
    headers::remove(request.headers_mut(), &correlate::TOKEN);
    carried
}

/// The port of the inbound connection that the thread that sent this request was serving, and when.
fn served_by_sender(conn: &Conn) -> Option<(u16, Moment)> {
    let evidence = conn.worker.shared.evidence.as_ref()?;
    let sent = evidence.of(conn.peer.port(), conn.dialled()?)?;
    // What was written for an earlier request says nothing about this one: it was sent unseen.
    let at = sent.at.bits();
    let is_new = conn.evidence.swap(at, Ordering::Relaxed) != at;
    Some((sent.inbound.filter(|_| is_new)?, sent.at))
}

/// What the kernel says of the one that sent this request.
fn witnesses(conn: &Conn) -> SmallVec<[Witness; 2]> {
    let found = || {
        let kernel = conn.worker.shared.kernel.get()?;
        let sent = kernel.slots.of(conn.peer.port(), conn.dialled()?)?;
        // As with threads: what was seen of an earlier request says nothing about this one.
        let at = sent.at.bits();
        (conn.witnessed.swap(at, Ordering::Relaxed) != at).then_some(sent)
    };
    let Some(sent) = found() else {
        return SmallVec::new();
    };
    let kinds = [
        (correlate::Method::Thread, sent.thread),
        (correlate::Method::Runtime, sent.runtime),
        (correlate::Method::Lineage, sent.lineage),
    ];
    let sure = kinds
        .into_iter()
        .filter_map(|(method, word)| Some((method, word.filter(|word| word.is_sure)?)));
    sure.map(|(method, word)| Witness {
        method,
        port: word.inbound,
        at: sent.at,
    })
    .collect()
}

fn cause_of<B>(
    conn: &Conn,
    request: &Request<B>,
    extraction: &Extraction,
    (carried, paced): (Carried, Option<&Verdict>),
    now: Instant,
) -> Cause {
    let extracted = &extraction.extracted;
    // Of a connection that carries several requests at a time nobody can say for which of them it sent.
    let is_alone = request.version() != Version::HTTP_2;
    let (served, witnesses) = match is_alone {
        true => (served_by_sender(conn), witnesses(conn)),
        false => (None, SmallVec::new()),
    };
    let call = Call {
        verb: request.method(),
        uri: request.uri(),
        headers: request.headers(),
        extracted: extracted.parent.as_ref(),
        destination: destination_of(conn, request),
        carried,
        served,
        witnesses: &witnesses,
        is_watched: is_watched(conn),
        paced: paced.map(|(inbound, p)| (inbound, *p)),
        now,
    };
    let mut cause = cause(conn, &call);
    cause.decision = extracted.decision;
    cause.debug_id = extracted.debug_id.clone();
    cause
}

fn destination_of<'a, B>(conn: &'a Conn, request: &'a Request<B>) -> &'a str {
    match &conn.listener.role {
        Role::Route { to, .. } => to.host.as_str(),
        _ => target::host(request).unwrap_or_default(),
    }
}

/// True when somebody looks at the threads that send on this connection.
fn is_watched(conn: &Conn) -> bool {
    let shared = &conn.worker.shared;
    (shared.evidence.is_some() || shared.kernel.get().is_some()) && conn.dialled().is_some()
}

/// The cause of a connection that is not understood.
pub(super) fn cause_of_connection(conn: &Conn, destination: &str) -> Cause {
    let call = Call {
        verb: &Method::CONNECT,
        uri: &Uri::default(),
        headers: &HeaderMap::new(),
        extracted: None,
        destination,
        carried: Carried::Nothing,
        served: served_by_sender(conn),
        witnesses: &witnesses(conn),
        is_watched: is_watched(conn),
        paced: None,
        now: Instant::now(),
    };
    cause(conn, &call)
}

fn cause(conn: &Conn, call: &Call<'_>) -> Cause {
    let shared = &conn.worker.shared;
    let found = correlate::find(&conn.snapshot.correlate, &shared.in_flight, call);
    shared.links.count(found.method.name(), outcome_of(&found));
    Cause {
        parent: found.parent,
        method: found.method.name(),
        confidence: found.confidence.name(),
        p: found.p,
        candidates: found.candidates,
        links: found.links,
        agreed: found.agreed,
        decision: None,
        debug_id: None,
    }
}

fn outcome_of(found: &Found) -> LinkOutcome {
    match found.confidence {
        Confidence::Exact => LinkOutcome::Exact,
        Confidence::High => LinkOutcome::High,
        Confidence::Low => LinkOutcome::Low,
        Confidence::None => LinkOutcome::None,
    }
}

fn count_extraction(conn: &Conn, extraction: &Extraction) {
    let metrics = &conn.snapshot.propagation;
    if let Some(found) = extraction.format {
        count(metrics, found, ExtractResult::Found);
    }
    for malformed in &extraction.malformed {
        count(metrics, malformed, ExtractResult::Malformed);
    }
    if extraction.conflict {
        metrics.conflicts.increment(1);
    }
}

fn count(metrics: &PropagationMetrics, format: &str, result: ExtractResult) {
    if let Some(format) = metrics.formats.iter().find(|known| known.format == format) {
        format.extracted.count(result);
    }
}
