//! X-Ray: fields in any order, what must leave again, and load balancers that name a trace without a span.

use pillion::model::SamplingState;
use pillion::propagation::Found;

use super::TRACE;
use super::assert_malformed;
use super::format;
use super::headers;
use super::parent;
use super::passed_on;

const ROOT: &str = "Root=1-0af76519-16cd43dd8448eb211c80319c";

#[test]
fn fields_come_in_any_order_and_say_who_decides() {
    for (value, state, why) in [
        (
            "{root};Parent=b7ad6b7169203331;Sampled=1",
            SamplingState::Accept,
            "as SDKs write it",
        ),
        (
            "Sampled=0;Parent=b7ad6b7169203331;{root}",
            SamplingState::Reject,
            "backwards",
        ),
        (
            "{root}; Parent=b7ad6b7169203331; Sampled=?",
            SamplingState::Defer,
            "blanks, asked",
        ),
        (
            "{root};Parent=b7ad6b7169203331",
            SamplingState::Defer,
            "no decision",
        ),
        (
            ";{root};;Parent=b7ad6b7169203331;",
            SamplingState::Defer,
            "empty fields",
        ),
    ] {
        let value = value.replace("{root}", ROOT);
        let context = parent("xray", &headers(&[("x-amzn-trace-id", &value)]));
        let context = context.unwrap_or_else(|| panic!("{why}: {value}"));
        assert_eq!(context.trace_id.hex().as_str(), TRACE, "{why}");
        assert_eq!(context.state, state, "{why}");
    }
}

#[test]
fn other_fields_leave_as_they_came() {
    let value = format!(
        "Self=1-67891234-12456789abcdef012345678a;{ROOT};Parent=b7ad6b7169203331;Sampled=1;Lineage=1:e8a0f1a2:0;k=v"
    );
    let written = passed_on("xray", &headers(&[("x-amzn-trace-id", &value)]), "1");
    let expected = format!(
        "x-amzn-trace-id: {ROOT};Parent=0000000000000001;Sampled=1;Self=1-67891234-12456789abcdef012345678a;\
         Lineage=1:e8a0f1a2:0;k=v"
    );
    assert_eq!(written, [expected]);
}

#[test]
fn a_root_alone_names_the_trace_that_starts_here() {
    let value = format!("{ROOT};Sampled=1;Lineage=1:a:0");
    let found = format("xray").extract(&headers(&[("x-amzn-trace-id", &value)]));
    let Ok(Some(Found::Start(start))) = found else {
        panic!("{found:?}");
    };
    assert_eq!(start.trace_id.hex().as_str(), TRACE);
    assert_eq!(start.state, SamplingState::Accept);
    assert_eq!(start.carried.get("xray").unwrap(), ";Lineage=1:a:0");
    for (value, expected, why) in [
        (
            "Self=1-67891234-12456789abcdef012345678a",
            None,
            "a load balancer's own id",
        ),
        (
            "Sampled=0",
            Some(Found::Decision(SamplingState::Reject)),
            "a decision alone",
        ),
        ("Lineage=1:a:0", None, "nothing about the trace"),
    ] {
        let found = format("xray").extract(&headers(&[("x-amzn-trace-id", value)]));
        assert_eq!(found, Ok(expected), "{why}");
    }
}

#[test]
fn malformed_headers_are_refused() {
    assert_malformed(
        "xray",
        &[
            (&[("x-amzn-trace-id", "x")], "no field"),
            (
                &[(
                    "x-amzn-trace-id",
                    "Root=2-0af76519-16cd43dd8448eb211c80319c",
                )],
                "version",
            ),
            (
                &[("x-amzn-trace-id", "Root=1-0af7651916cd43dd8448eb211c80319c")],
                "no dash",
            ),
            (
                &[("x-amzn-trace-id", "Root=1-0af76519-16cd43dd8448eb211c80319")],
                "too short",
            ),
            (
                &[(
                    "x-amzn-trace-id",
                    "Root=1-00000000-000000000000000000000000",
                )],
                "zero",
            ),
            (
                &[(
                    "x-amzn-trace-id",
                    "Root=1-0af76519-16cd43dd8448eb211c80319g",
                )],
                "no hex",
            ),
            (
                &[(
                    "x-amzn-trace-id",
                    "Root=1-0af76519-16cd43dd8448eb211c80319c;Parent=1",
                )],
                "short parent",
            ),
            (
                &[(
                    "x-amzn-trace-id",
                    "Root=1-0af76519-16cd43dd8448eb211c80319c;Sampled=yes",
                )],
                "no decision",
            ),
            (
                &[
                    ("x-amzn-trace-id", "Sampled=1"),
                    ("x-amzn-trace-id", "Sampled=0"),
                ],
                "two headers",
            ),
        ],
    );
}
