//! Every format beside every other: who wins, what conflicts, what travels from one into the other.

use http::HeaderMap;

use pillion::model::SamplingState;
use pillion::model::SpanContext;
use pillion::propagation::Config;
use pillion::propagation::FORMATS;
use pillion::propagation::Format;
use pillion::propagation::Propagator;

use super::SPAN;
use super::TRACE;
use super::context;
use super::parent;

const OTHER_TRACE: &str = "11112222333344445555666677778888";
const OTHER_SPAN: &str = "9999aaaabbbbcccc";

/// The formats that carry ids.
fn carriers() -> impl Iterator<Item = &'static dyn Format> {
    let all = FORMATS.iter().copied();
    all.filter(|format| !format.writes().is_empty())
}

/// True when the two write headers that the other reads: the forms of B3, and SOFATracer with them.
fn share_headers(one: &dyn Format, other: &dyn Format) -> bool {
    let reads = |reader: &dyn Format, writer: &dyn Format| {
        let mut names = writer.writes().iter();
        names.any(|name| reader.reads().contains(name))
    };
    reads(one, other) || reads(other, one)
}

fn written(format: &dyn Format, context: &SpanContext) -> HeaderMap {
    let mut headers = HeaderMap::new();
    format.inject(context, &mut headers);
    headers
}

#[test]
fn of_two_that_disagree_the_first_wins_and_one_conflict_is_noted() {
    let mut n_pairs = 0;
    for first in carriers() {
        for second in carriers().filter(|second| !share_headers(first, *second)) {
            n_pairs += 1;
            let pair = format!("{},{}", first.name(), second.name());
            let mut headers = written(first, &context(TRACE, SPAN, SamplingState::Accept));
            let other = context(OTHER_TRACE, OTHER_SPAN, SamplingState::Reject);
            headers.extend(written(second, &other));
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
    assert!(n_pairs >= 12 * 11, "{n_pairs}");
}

#[test]
fn a_trace_travels_through_every_pair_and_comes_back_to_its_name() {
    for first in carriers() {
        let headers = written(first, &context(TRACE, SPAN, SamplingState::Accept));
        let read = parent(first.name(), &headers).unwrap();
        for second in carriers().filter(|second| !share_headers(first, *second)) {
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
