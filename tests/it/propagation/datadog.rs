//! Datadog: the high half in a tag, priorities that say more than yes and no, what is passed on.

use http::HeaderMap;

use pillion::model::SamplingState;
use pillion::propagation::Found;

use super::assert_malformed;
use super::format;
use super::headers;
use super::lines;
use super::parent;
use super::passed_on;

fn carrier(priority: &str, tags: &str) -> HeaderMap {
    headers(&[
        ("x-datadog-trace-id", "9532127138774266268"),
        ("x-datadog-parent-id", "13235353014750950193"),
        ("x-datadog-sampling-priority", priority),
        ("x-datadog-origin", "synthetics"),
        ("x-datadog-tags", tags),
    ])
}

#[test]
fn everything_a_tracer_wrote_leaves_again() {
    for priority in ["-1", "0", "1", "2"] {
        let carrier = carrier(priority, "_dd.p.dm=-4,_dd.p.tid=0af7651916cd43dd,other=1");
        assert_eq!(
            passed_on("datadog", &carrier, "1"),
            [
                "x-datadog-origin: synthetics".to_owned(),
                "x-datadog-parent-id: 1".to_owned(),
                format!("x-datadog-sampling-priority: {priority}"),
                "x-datadog-tags: _dd.p.dm=-4,_dd.p.tid=0af7651916cd43dd".to_owned(),
                "x-datadog-trace-id: 9532127138774266268".to_owned(),
            ]
        );
    }
}

#[test]
fn a_changed_decision_changes_the_priority() {
    for (priority, state, expected) in [
        ("2", SamplingState::Reject, Some("0")),
        ("-1", SamplingState::Accept, Some("1")),
        ("1", SamplingState::Debug, Some("2")),
        ("2", SamplingState::Defer, None),
    ] {
        let mut context = parent("datadog", &carrier(priority, "")).unwrap();
        context.state = state;
        let mut written = HeaderMap::new();
        format("datadog").inject(&context, &mut written);
        let line = expected.map(|number| format!("x-datadog-sampling-priority: {number}"));
        let written = lines(&written);
        let found = written.iter().find(|line| line.contains("priority"));
        assert_eq!(found, line.as_ref(), "{priority} {state:?}");
    }
}

#[test]
fn a_high_half_that_is_malformed_is_left_out() {
    for (tags, why) in [
        ("_dd.p.tid=af7651916cd43dd", "15 digits"),
        ("_dd.p.tid=0AF7651916CD43DD", "upper case"),
        ("_dd.p.tid=zzzzzzzzzzzzzzzz", "no hex"),
        ("", "absent"),
        (&"x".repeat(600), "too long"),
    ] {
        let context = parent("datadog", &carrier("1", tags)).unwrap();
        assert_eq!(context.trace_id.high(), 0, "{why}");
        assert_eq!(context.trace_id.low(), 0x8448_eb21_1c80_319c, "{why}");
    }
}

#[test]
fn without_a_parent_the_trace_starts_here() {
    for parent_id in [None, Some("0")] {
        let mut carrier = headers(&[("x-datadog-trace-id", "7"), ("x-datadog-origin", "rum")]);
        if let Some(id) = parent_id {
            carrier.append("x-datadog-parent-id", id.parse().unwrap());
        }
        let found = format("datadog").extract(&carrier);
        let Ok(Some(Found::Start(start))) = found else {
            panic!("{found:?}");
        };
        assert_eq!(
            (start.trace_id.low(), start.state),
            (7, SamplingState::Defer)
        );
        assert_eq!(start.carried.get("datadog.origin").unwrap(), "rum");
    }
    let alone = format("datadog").extract(&headers(&[("x-datadog-sampling-priority", "-1")]));
    assert_eq!(alone, Ok(Some(Found::Decision(SamplingState::Reject))));
}

#[test]
fn malformed_headers_are_refused() {
    assert_malformed(
        "datadog",
        &[
            (&[("x-datadog-trace-id", "0")], "zero"),
            (&[("x-datadog-trace-id", "-1")], "negative"),
            (
                &[("x-datadog-trace-id", "18446744073709551616")],
                "over 64 bits",
            ),
            (&[("x-datadog-trace-id", "8448eb211c80319c")], "hex"),
            (
                &[("x-datadog-trace-id", "1"), ("x-datadog-parent-id", "x")],
                "parent",
            ),
            (
                &[
                    ("x-datadog-trace-id", "1"),
                    ("x-datadog-sampling-priority", "yes"),
                ],
                "priority",
            ),
            (
                &[("x-datadog-trace-id", "1"), ("x-datadog-trace-id", "2")],
                "twice",
            ),
        ],
    );
}
