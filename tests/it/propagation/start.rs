//! A trace id without a span beside other formats: who outranks whom, and what travels on.

use pillion::model::SamplingState;
use pillion::propagation::Config;
use pillion::propagation::Extraction;
use pillion::propagation::Propagator;

use super::headers;

const W3C: (&str, &str) = (
    "traceparent",
    "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
);
const SAME: &str = "Root=1-0af76519-16cd43dd8448eb211c80319c;Sampled=0;Lineage=1:a:0";
const OTHER: &str = "Root=1-00000000-000000000000000000000abc;Sampled=0";

fn extract(order: &str, pairs: &[(&str, &str)]) -> Extraction {
    Propagator::new(&Config::from_list(order).0).extract(&headers(pairs))
}

#[test]
fn a_start_gives_the_id_and_the_decision_when_nobody_is_the_parent() {
    let answer = extract("tracecontext,xray", &[("x-amzn-trace-id", OTHER)]);
    assert_eq!(answer.format, Some("xray"));
    assert_eq!(answer.extracted.start.unwrap().trace_id.low(), 0xabc);
    assert_eq!(answer.extracted.decision, Some(SamplingState::Reject));
    assert_eq!(answer.extracted.parent, None);
}

#[test]
fn a_parent_outranks_a_start_in_any_order() {
    for order in ["tracecontext,xray", "xray,tracecontext"] {
        let answer = extract(order, &[W3C, ("x-amzn-trace-id", OTHER)]);
        assert_eq!(answer.format, Some("tracecontext"), "{order}");
        let parent = answer.extracted.parent.unwrap();
        assert_eq!(parent.state, SamplingState::Accept, "{order}");
        assert_eq!(parent.carried.get("xray"), None, "{order}");
        assert_eq!((answer.extracted.start, answer.conflict), (None, false));

        let answer = extract(order, &[W3C, ("x-amzn-trace-id", SAME)]);
        let parent = answer.extracted.parent.unwrap();
        assert_eq!(
            parent.carried.get("xray").unwrap(),
            ";Lineage=1:a:0",
            "{order}"
        );
    }
}

#[test]
fn what_two_formats_carry_of_one_trace_travels_together() {
    let answer = extract(
        "tracecontext,datadog,xray",
        &[
            W3C,
            ("x-datadog-trace-id", "9532127138774266268"),
            ("x-datadog-parent-id", "13235353014750950193"),
            ("x-datadog-sampling-priority", "2"),
            ("x-amzn-trace-id", SAME),
        ],
    );
    assert!(!answer.conflict);
    let carried = answer.extracted.parent.unwrap().carried;
    assert_eq!(carried.get("datadog.priority").unwrap(), "2");
    assert_eq!(carried.get("xray").unwrap(), ";Lineage=1:a:0");
}
