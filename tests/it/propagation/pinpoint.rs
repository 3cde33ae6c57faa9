//! Pinpoint: the caller's span is the parent, roots have none, a transaction leaves under its name.

use pillion::model::SamplingState;
use pillion::propagation::Found;

use super::assert_malformed;
use super::format;
use super::headers;
use super::parent;
use super::passed_on;

/// What the Node agent sends.
const AGENT: [(&str, &str); 5] = [
    ("pinpoint-traceid", "test_agent^1604291677381^0"),
    ("pinpoint-spanid", "7694488966104147"),
    ("pinpoint-pspanid", "-5429579909826115"),
    ("pinpoint-pappname", "cx-test-service"),
    ("pinpoint-papptype", "1400"),
];

#[test]
fn the_callers_own_span_is_the_parent() {
    let context = parent("pinpoint", &headers(&AGENT)).unwrap();
    assert_eq!(context.span_id.to_u64() as i64, -5_429_579_909_826_115);
    assert_eq!(context.state, SamplingState::Accept, "no word against it");
    let root = headers(&[
        AGENT[0],
        AGENT[1],
        ("pinpoint-pspanid", "-1"),
        ("pinpoint-sampled", "s0"),
    ]);
    let context = parent("pinpoint", &root).unwrap();
    assert_eq!(context.span_id.to_u64(), 7_694_488_966_104_147);
    assert_eq!(context.state, SamplingState::Reject);
    let alone = format("pinpoint").extract(&headers(&[("pinpoint-sampled", "s0")]));
    assert_eq!(alone, Ok(Some(Found::Decision(SamplingState::Reject))));
}

#[test]
fn a_transaction_leaves_under_its_name() {
    let written = passed_on("pinpoint", &headers(&AGENT), "ffffffffffffffff");
    assert!(written.contains(&"pinpoint-traceid: test_agent^1604291677381^0".to_owned()));
    assert!(
        written.contains(&"pinpoint-sampled: s1".to_owned()),
        "{written:?}"
    );
    let written = passed_on("pinpoint", &headers(&AGENT), "2");
    assert!(
        written.contains(&"pinpoint-pspanid: 2".to_owned()),
        "{written:?}"
    );
}

#[test]
fn malformed_headers_are_refused() {
    assert_malformed(
        "pinpoint",
        &[
            (&[("pinpoint-traceid", "a^1")], "two parts"),
            (
                &[("pinpoint-traceid", "a^1^2^3"), ("pinpoint-spanid", "1")],
                "four parts",
            ),
            (
                &[("pinpoint-traceid", "^1^2"), ("pinpoint-spanid", "1")],
                "no agent",
            ),
            (
                &[("pinpoint-traceid", "a^x^2"), ("pinpoint-spanid", "1")],
                "start is no number",
            ),
            (
                &[
                    ("pinpoint-traceid", "pillion^0^0"),
                    ("pinpoint-spanid", "1"),
                ],
                "zero",
            ),
            (&[("pinpoint-traceid", "a^1^2")], "no span"),
            (
                &[("pinpoint-traceid", "a^1^2"), ("pinpoint-pspanid", "b7")],
                "hex span",
            ),
        ],
    );
}
