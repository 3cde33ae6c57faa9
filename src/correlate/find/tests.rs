//! What each layer asserts, alone and against the others.

use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use http::HeaderValue;

use super::*;
use crate::correlate;
use crate::correlate::Arrival;
use crate::correlate::InboundGuard;
use crate::correlate::Mode;
use crate::model::Baggage;
use crate::model::SamplingState;
use crate::model::SpanId;
use crate::model::TraceId;
use crate::model::TraceState;

mod threads;

const ID: &str = "7b1a4c7e-0f4e-4b8e-9a57-6d1f0a2f9f10";
const OTHER: &str = "9c2b5d8f-1a5f-4c9f-8b68-7e2a1b3a0a21";

fn context(id: u64) -> SpanContext {
    SpanContext {
        trace_id: TraceId::from_halves(0, id).unwrap(),
        span_id: SpanId::from_u64(id).unwrap(),
        state: SamplingState::Accept,
        random: false,
        firehose: false,
        trace_state: TraceState::default(),
        baggage: Baggage::default(),
        carried: crate::model::Carried::default(),
    }
}

/// A request with this path, and this `x-request-id` unless that is empty.
fn enter(in_flight: &Arc<InFlight>, id: u64, path: &str, request_id: &'static str) -> InboundGuard {
    let headers = request_id_header(request_id);
    let arrival = Arrival {
        context: Some(context(id)),
        request_id: headers.get(REQUEST_ID).cloned(),
        values: in_flight
            .fingerprints
            .inbound(&path.parse().unwrap(), &headers),
        operation: in_flight.shapes.of(&Verb::GET, "", path),
    };
    let guard = in_flight.enter(0, arrival, Instant::now());
    guard.inbound().passed_on_from(0, None);
    guard
}

fn request_id_header(value: &'static str) -> HeaderMap {
    let pair = (REQUEST_ID, HeaderValue::from_static(value));
    HeaderMap::from_iter((!value.is_empty()).then_some(pair))
}

/// A call to be judged, in the words of these tests.
struct Given<'a> {
    path: String,
    request_id: &'static str,
    extracted: Option<SpanContext>,
    destination: &'a str,
    carried: Carried,
    served: Option<(u16, Moment)>,
    witnesses: Vec<Witness>,
    is_watched: bool,
    paced: Option<(Arc<Inbound>, f64)>,
}

impl Default for Given<'_> {
    fn default() -> Self {
        Self {
            path: "/".to_owned(),
            request_id: "",
            extracted: None,
            destination: "db",
            carried: Carried::Nothing,
            served: None,
            witnesses: Vec::new(),
            is_watched: false,
            paced: None,
        }
    }
}

type Outcome = (Option<u64>, &'static str, &'static str, usize);

fn outcome(config: &Config, in_flight: &InFlight, given: &Given) -> Outcome {
    let found = found(config, in_flight, given);
    let parent = found.parent.map(|context| context.span_id.to_u64());
    let (method, confidence) = (found.method.name(), found.confidence.name());
    (parent, method, confidence, found.candidates)
}

fn found(config: &Config, in_flight: &InFlight, given: &Given) -> Found {
    let headers = request_id_header(given.request_id);
    let call = Call {
        verb: &Verb::GET,
        uri: &given.path.parse().unwrap(),
        headers: &headers,
        extracted: given.extracted.as_ref(),
        destination: given.destination,
        carried: given.carried,
        served: given.served,
        witnesses: &given.witnesses,
        is_watched: given.is_watched,
        paced: given.paced.as_ref().map(|(inbound, p)| (inbound, *p)),
        now: Instant::now(),
    };
    find(config, in_flight, &call)
}

fn shims() -> Config {
    Config {
        shims: true,
        ..Config::default()
    }
}

fn carried(guard: &InboundGuard) -> Carried {
    Carried::Token(guard.token().unwrap())
}

#[test]
fn a_trace_header_on_the_call_is_the_parent_whatever_is_in_flight() {
    let in_flight = InFlight::new(2);
    let a = enter(&in_flight, 1, "/", "");
    let _b = enter(&in_flight, 2, "/", "");
    let given = Given {
        extracted: Some(context(2)),
        carried: carried(&a),
        ..Given::default()
    };
    let expected = (Some(2), "forwarded", "exact", 1);
    assert_eq!(outcome(&shims(), &in_flight, &given), expected);
}

#[test]
fn a_request_id_counts_only_while_it_is_unique() {
    let in_flight = InFlight::new(2);
    let given = Given {
        request_id: "b",
        ..Given::default()
    };
    let call = || outcome(&Config::default(), &in_flight, &given);
    let _a = enter(&in_flight, 1, "/", "a");
    let b = enter(&in_flight, 2, "/", "b");
    assert_eq!(call(), (Some(2), "forwarded", "high", 1));
    let _twin = enter(&in_flight, 3, "/", "b");
    assert_eq!(call(), (None, "none", "none", 2));
    drop(b);
    assert_eq!(call(), (Some(3), "forwarded", "high", 1));
}

#[test]
fn a_value_points_at_its_request_while_nobody_else_had_it() {
    let in_flight = InFlight::new(2);
    let call = |path: String| {
        let given = Given {
            path,
            ..Given::default()
        };
        outcome(&Config::default(), &in_flight, &given)
    };
    let a = enter(&in_flight, 1, &format!("/orders/{ID}"), "");
    let b = enter(&in_flight, 2, &format!("/orders?id={OTHER}"), "");
    let found = (Some(1), "value", "high", 1);
    assert_eq!(call(format!("/items?of={ID}&n=1")), found);
    assert_eq!(
        call(format!("/{OTHER}")),
        (Some(2), "value", "high", 1),
        "query to path"
    );
    assert_eq!(
        call("/orders".to_owned()),
        (None, "none", "none", 2),
        "a word in common is nothing"
    );
    assert_eq!(
        call(format!("/{ID}/{OTHER}")),
        (None, "none", "none", 2),
        "values of two requests"
    );
    let again = enter(&in_flight, 3, &format!("/orders/{ID}"), "");
    assert_eq!(
        call(format!("/{ID}")),
        (None, "none", "none", 2),
        "two have it"
    );
    drop((a, b));
    assert_eq!(
        call(format!("/{ID}")),
        (None, "none", "none", 1),
        "one has it, but another had it before"
    );
    drop(again);
    assert_eq!(call(format!("/{ID}")), (None, "none", "none", 0), "ended");
}

#[test]
fn a_value_in_the_body_points_at_its_request_too() {
    let in_flight = InFlight::new(2);
    let call = |id: &str| {
        let given = Given {
            path: format!("/items/{id}"),
            ..Given::default()
        };
        outcome(&Config::default(), &in_flight, &given)
    };
    let body = |text: String| in_flight.fingerprints.body(text.as_bytes());
    let a = enter(&in_flight, 1, "/orders", "");
    let b = enter(&in_flight, 2, "/orders", "");
    assert_eq!(
        call(ID),
        (None, "none", "none", 2),
        "its body is not there yet"
    );
    a.inbound().begins_with(body(format!(r#"{{"id":"{ID}"}}"#)));
    b.inbound().begins_with(body(format!("id={OTHER}")));
    assert_eq!(call(ID), (Some(1), "value", "high", 1));
    assert_eq!(call(OTHER), (Some(2), "value", "high", 1));
    let again = enter(&in_flight, 3, &format!("/orders/{ID}"), "");
    assert_eq!(call(ID), (None, "none", "none", 2), "another's head has it");
    drop((a, again));
    let late = enter(&in_flight, 4, "/orders", "");
    late.inbound().begins_with(body(ID.to_owned()));
    assert_eq!(call(ID), (None, "none", "none", 1), "others had it before");
}

#[test]
fn a_shared_value_does_not_hide_an_own_one() {
    let in_flight = InFlight::new(1);
    let _a = enter(&in_flight, 1, &format!("/{ID}"), "");
    let _b = enter(&in_flight, 2, &format!("/{ID}/{OTHER}"), "");
    let given = Given {
        path: format!("/{ID}/{OTHER}"),
        ..Given::default()
    };
    let expected = (Some(2), "value", "high", 1);
    assert_eq!(outcome(&Config::default(), &in_flight, &given), expected);
}

#[test]
fn a_token_names_its_request_and_never_another() {
    let in_flight = InFlight::new(2);
    let a = enter(&in_flight, 1, "/", "");
    let b = enter(&in_flight, 2, "/", "");
    let mut given = Given {
        carried: carried(&a),
        ..Given::default()
    };
    let call = |given: &Given| outcome(&shims(), &in_flight, given);
    assert_eq!(call(&given), (Some(1), "shim", "high", 1));
    assert_eq!(
        outcome(&Config::default(), &in_flight, &given),
        (None, "none", "none", 2),
        "off"
    );
    drop(a);
    assert_eq!(
        call(&given),
        (None, "ended", "none", 0),
        "although one request alone is in flight"
    );
    given.carried = Carried::Nothing;
    assert_eq!(
        call(&given),
        (None, "none", "none", 1),
        "the shim would have named the only request"
    );
    drop(b);
    let probe = in_flight.enter(0, Arrival::default(), Instant::now());
    given.carried = carried(&probe);
    assert_eq!(
        call(&given),
        (None, "none", "none", 1),
        "a request without a span"
    );
}

#[test]
fn a_layer_that_contradicts_forwarded_headers_is_not_believed_for_that_operation() {
    let in_flight = InFlight::new(1);
    let a = enter(&in_flight, 1, "/", "");
    let _b = enter(&in_flight, 2, "/", "");
    let one = carried(&a);
    let from_a = Given {
        carried: one,
        ..Given::default()
    };
    assert_eq!(
        outcome(&shims(), &in_flight, &from_a),
        (Some(1), "shim", "high", 1)
    );
    let forwarded = Given {
        extracted: Some(context(2)),
        carried: one,
        ..Given::default()
    };
    let exact = (Some(2), "forwarded", "exact", 1);
    assert_eq!(outcome(&shims(), &in_flight, &forwarded), exact);
    let shim = &in_flight.audit()[0];
    assert_eq!((shim.right, shim.wrong, shim.demoted_operations), (0, 1, 1));
    assert_eq!(
        outcome(&shims(), &in_flight, &from_a),
        (None, "none", "none", 1)
    );
}

#[test]
fn layers_that_disagree_assert_nothing() {
    let in_flight = InFlight::new(1);
    let a = enter(&in_flight, 1, &format!("/{ID}"), "a");
    let _b = enter(&in_flight, 2, &format!("/{OTHER}"), "b");
    let contradiction = (None, "contradicted", "none", 2);
    for (path, request_id, expected, why) in [
        (OTHER, "", contradiction, "token against value"),
        ("", "b", contradiction, "token against request id"),
        (ID, "a", (Some(1), "shim", "high", 1), "all agree"),
    ] {
        let given = Given {
            path: format!("/{path}"),
            request_id,
            carried: carried(&a),
            ..Given::default()
        };
        assert_eq!(outcome(&shims(), &in_flight, &given), expected, "{why}");
    }
}

#[test]
fn exclusive_needs_exactly_one_and_doubts_overlap_and_background_work() {
    let in_flight = InFlight::new(2);
    let eager = Config {
        mode: Mode::Eager,
        ..Config::default()
    };
    let call = |config: &Config, destination| {
        let given = Given {
            destination,
            ..Given::default()
        };
        outcome(config, &in_flight, &given)
    };
    let strict = Config::default();
    assert_eq!(call(&strict, "cron"), (None, "none", "none", 0));
    // That is long ago when a request comes.
    let arrival = Arrival {
        context: Some(context(1)),
        operation: in_flight.shapes.of(&Verb::GET, "", "/"),
        ..Arrival::default()
    };
    let a = in_flight.enter(0, arrival, Instant::now() + Duration::from_secs(1));
    a.inbound().passed_on_from(0, None);
    assert_eq!(call(&strict, "db"), (Some(1), "exclusive", "high", 1));
    let candidate = (None, "none", "none", 1);
    for config in [&strict, &eager] {
        assert_eq!(call(config, "cron"), candidate, "called without a request");
    }
    let b = enter(&in_flight, 2, "/", "");
    let both = found(&strict, &in_flight, &Given::default());
    assert_eq!((both.candidates, both.links.len()), (2, 2));
    assert_eq!(both.agreed, Some(SamplingState::Accept));
    drop(b);
    assert_eq!(call(&eager, "db"), candidate, "it overlapped with another");
    drop(a);
    assert_eq!(
        call(&eager, "db"),
        (None, "none", "none", 0),
        "a finished request is never a parent"
    );
}

#[test]
fn a_layer_that_is_off_asserts_nothing() {
    let in_flight = InFlight::new(1);
    let a = enter(&in_flight, 1, &format!("/{ID}"), "a");
    let off = Config {
        forwarded: false,
        exclusive: false,
        values: false,
        shims: false,
        preload: false,
        preload_socket: None,
        kernel: correlate::Kernel::Off,
        mode: Mode::Eager,
        pacing: correlate::Pacing::default(),
    };
    let given = Given {
        path: format!("/{ID}"),
        request_id: "a",
        extracted: Some(context(1)),
        carried: carried(&a),
        ..Given::default()
    };
    assert_eq!(outcome(&off, &in_flight, &given), (None, "none", "none", 1));
}

#[test]
fn candidates_that_disagree_about_sampling_leave_it_to_the_sampler() {
    let in_flight = InFlight::new(1);
    let _a = enter(&in_flight, 1, "/", "");
    let mut rejected = context(2);
    rejected.state = SamplingState::Reject;
    let arrival = Arrival {
        context: Some(rejected),
        ..Arrival::default()
    };
    let _b = in_flight.enter(0, arrival, Instant::now());
    let found = found(&Config::default(), &in_flight, &Given::default());
    assert_eq!(found.agreed, None);
}

fn of_class(class: correlate::Class) -> Arc<InFlight> {
    let in_flight = InFlight::new(1);
    in_flight.is_of(class);
    in_flight
}

#[test]
fn what_pacing_says_counts_where_rest_can_be_seen_and_audits_the_others() {
    let in_flight = of_class(correlate::Class::EventLoop);
    let a = enter(&in_flight, 1, "/", "");
    let b = enter(&in_flight, 2, "/", "");
    let paced = |by: &InboundGuard, p| Given {
        paced: Some((by.inbound().clone(), p)),
        ..Given::default()
    };
    let strict = Config::default();
    let call = |given: &Given| outcome(&strict, &in_flight, given);
    assert_eq!(call(&paced(&a, 1.0)), (Some(1), "pacing", "low", 1));
    let nothing = (None, "none", "none", 1);
    assert_eq!(call(&paced(&a, 0.9)), nothing, "too many strays");
    let given = Given {
        carried: carried(&b),
        ..paced(&a, 1.0)
    };
    let contradicted = (None, "contradicted", "none", 2);
    assert_eq!(outcome(&shims(), &in_flight, &given), contradicted);
    assert_eq!(in_flight.audit()[0].wrong, 1, "the shim's word");
    let late = paced(&a, 1.0);
    drop(a);
    assert_eq!(call(&late).0, None, "it has ended");
    in_flight.is_of(correlate::Class::GreenThreads);
    assert_eq!(call(&paced(&b, 1.0)).0, None, "the kind of program");
}

#[test]
fn likelihood_stands_beside_each_parent_and_decides_by_mode() {
    let in_flight = InFlight::new(1);
    let a = enter(&in_flight, 1, "/", "");
    let _b = enter(&in_flight, 2, "/", "");
    a.inbound().passed_on_from(40_001, Some(Moment::now()));
    let given = Given {
        witnesses: vec![Witness {
            method: Method::Lineage,
            port: 40_001,
            at: Moment::now(),
        }],
        ..Given::default()
    };
    let modes = || {
        [Mode::Strict, Mode::Balanced, Mode::Eager].map(|mode| {
            let config = Config {
                mode,
                ..Config::default()
            };
            found(&config, &in_flight, &given).p
        })
    };
    assert_eq!(modes(), [0.0, 0.0, 0.99]);
    let operation = a.inbound().arrival.operation;
    for _ in 0..1_500 {
        in_flight.audit.tell(operation, Method::Lineage, true);
    }
    let [strict, balanced, eager] = modes();
    assert_eq!((strict, balanced), (0.0, eager));
    assert!((0.995..0.999).contains(&eager), "{eager}");
}
