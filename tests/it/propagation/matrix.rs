//! Every format beside every other: who wins, what conflicts, what travels from one into the other.

use std::collections::BTreeSet;

use http::HeaderMap;

use pillion::model::SamplingState;
use pillion::model::SpanContext;
use pillion::propagation;
use pillion::propagation::Config;
use pillion::propagation::FORMATS;
use pillion::propagation::Format;
use pillion::propagation::Items;
use pillion::propagation::Propagator;

use super::SPAN;
use super::TRACE;
use super::baggage_of;
use super::context;
use super::headers;
use super::parent;

const OTHER_TRACE: &str = "11112222333344445555666677778888";
const OTHER_SPAN: &str = "9999aaaabbbbcccc";

/// The formats that carry ids.
fn carriers() -> impl Iterator<Item = &'static dyn Format> {
    let all = FORMATS.iter().copied();
    all.filter(|format| !format.writes().is_empty())
}

fn written(format: &dyn Format, context: &SpanContext) -> HeaderMap {
    let mut headers = HeaderMap::new();
    format.inject(context, &mut headers);
    headers
}

/// The headers that are this format's alone: SOFATracer writes those of B3 besides, of which a request has one set.
fn own(format: &dyn Format, context: &SpanContext) -> HeaderMap {
    let mut headers = written(format, context);
    if format.name() == "sofatracer" {
        for name in propagation::format("b3multi").unwrap().writes() {
            headers.remove(*name);
        }
    }
    headers
}

#[test]
fn of_two_that_disagree_the_first_wins_and_one_conflict_is_noted() {
    let mut n_pairs = 0;
    for first in carriers() {
        for second in carriers().filter(|second| second.name() != first.name()) {
            n_pairs += 1;
            let pair = format!("{},{}", first.name(), second.name());
            let mut headers = own(first, &context(TRACE, SPAN, SamplingState::Accept));
            let other = context(OTHER_TRACE, OTHER_SPAN, SamplingState::Reject);
            headers.extend(own(second, &other));
            let answer = Propagator::new(&Config::from_list(&pair).0).extract(&headers);
            assert_eq!(answer.format, Some(first.name()), "{pair}");
            assert!(
                answer.conflict && answer.malformed.is_empty(),
                "{pair}: {answer:?}"
            );
            let parent = answer.extracted.parent.unwrap();
            assert_eq!(parent.span_id.to_string(), SPAN, "{pair}");
        }
    }
    assert_eq!(n_pairs, carriers().count() * (carriers().count() - 1));
    assert_eq!(
        carriers().count(),
        FORMATS.len() - 1,
        "all but W3C's baggage"
    );
}

#[test]
fn a_trace_travels_through_every_pair_and_comes_back_to_its_name() {
    for first in carriers() {
        let headers = written(first, &context(TRACE, SPAN, SamplingState::Accept));
        let read = parent(first.name(), &headers).unwrap();
        for second in carriers() {
            let pair = format!("{} through {}", first.name(), second.name());
            let between = parent(second.name(), &written(second, &read)).expect(&pair);
            assert_eq!(between.trace_id.low(), read.trace_id.low(), "{pair}");
            assert_eq!(between.span_id, read.span_id, "{pair}");
            let back = parent(first.name(), &written(first, &between)).expect(&pair);
            assert_eq!(back.trace_id.low(), read.trace_id.low(), "{pair}");
            if ![first.name(), second.name()].contains(&"ottrace") {
                assert_eq!(back.trace_id, read.trace_id, "{pair}");
            }
            assert_eq!(back.span_id, read.span_id, "{pair}");
        }
    }
}

/// What is left of a decision that travels in this format, for each that a wire may carry.
fn spoken(name: &str, state: SamplingState) -> SamplingState {
    match (name, state) {
        ("cat", _) => SamplingState::Defer,
        (_, SamplingState::Debug) if !["b3", "b3multi", "jaeger"].contains(&name) => {
            SamplingState::Accept
        }
        (name, SamplingState::Defer) if NO_DEFER.contains(&name) => SamplingState::Reject,
        (_, state) => state,
    }
}

/// These have a bit and nothing else: no decision is written as a negative one.
const NO_DEFER: [&str; 5] = [
    "tracecontext",
    "jaeger",
    "opencensus",
    "skywalking",
    "pinpoint",
];

#[test]
fn a_decision_survives_wherever_the_wire_has_a_word_for_it() {
    for first in carriers() {
        for second in carriers() {
            for state in [
                SamplingState::Accept,
                SamplingState::Reject,
                SamplingState::Debug,
                SamplingState::Defer,
            ] {
                let pair = format!("{state:?} in {} and {}", first.name(), second.name());
                let read = parent(first.name(), &written(first, &context(TRACE, SPAN, state)));
                let read = read.expect(&pair);
                assert_eq!(read.state, spoken(first.name(), state), "{pair}");
                let on = parent(second.name(), &written(second, &read)).expect(&pair);
                assert_eq!(on.state, spoken(second.name(), read.state), "{pair}");
            }
        }
    }
}

/// The baggage this format reads here.
fn items(name: &str, headers: &HeaderMap) -> Items {
    let mut items = Items::default();
    items.begin_source();
    let format = propagation::format(name).unwrap();
    format.baggage(headers, &mut items).unwrap();
    items
}

#[test]
fn baggage_survives_every_pair_that_has_a_place_for_it() {
    let sent = headers(&[("baggage", "user=ann,tier=gold")]);
    let (expected, _) = baggage_of("baggage", &sent);
    let has_place = |format: &&'static dyn Format| {
        let mut headers = HeaderMap::new();
        format.inject_baggage(items("baggage", &sent).as_slice(), &mut headers);
        !headers.is_empty()
    };
    let formats: Vec<_> = FORMATS.iter().copied().filter(has_place).collect();
    assert_eq!(formats.len(), 6);
    for first in &formats {
        for second in &formats {
            let pair = format!("{} through {}", first.name(), second.name());
            let mut carried = items("baggage", &sent);
            for format in [first, second, first] {
                let mut headers = HeaderMap::new();
                format.inject(&context(TRACE, SPAN, SamplingState::Accept), &mut headers);
                format.inject_baggage(carried.as_slice(), &mut headers);
                let (read, is_good) = baggage_of(format.name(), &headers);
                assert!(is_good, "{pair}");
                let (read, expected) = (BTreeSet::from_iter(read), BTreeSet::from_iter(&expected));
                assert_eq!(read.iter().collect::<BTreeSet<_>>(), expected, "{pair}");
                carried = items(format.name(), &headers);
            }
        }
    }
}

#[test]
fn all_formats_written_at_once_agree() {
    let names: Vec<_> = FORMATS.iter().map(|format| format.name()).collect();
    let propagator = Propagator::new(&Config::from_list(&names.join(",")).0);
    let mut headers = HeaderMap::new();
    propagator.inject(&context(TRACE, SPAN, SamplingState::Accept), &mut headers);
    let answer = propagator.extract(&headers);
    assert!(!answer.conflict, "{answer:?}");
    assert_eq!(answer.extracted.parent.unwrap().trace_id.to_string(), TRACE);
}
