//! Google Cloud's header: decimal spans, optional parts, and a trace without a span.

use pillion::model::SamplingState;
use pillion::propagation::Found;

use super::SPAN;
use super::TRACE;
use super::assert_malformed;
use super::format;
use super::headers;
use super::parent;
use super::passed_on;

const IDS: &str = "0af7651916cd43dd8448eb211c80319c/13235353014750950193";

#[test]
fn parts_are_optional() {
    for (options, state) in [
        (";o=1", SamplingState::Accept),
        (";o=0", SamplingState::Reject),
        (";o=3", SamplingState::Accept),
        (";o=", SamplingState::Defer),
        (";", SamplingState::Defer),
        ("", SamplingState::Defer),
    ] {
        let value = format!("{IDS}{options}");
        let context = parent("google", &headers(&[("x-cloud-trace-context", &value)])).unwrap();
        assert_eq!(context.span_id.hex().as_str(), SPAN, "{options}");
        assert_eq!(context.state, state, "{options}");
    }
    for ids in [TRACE, &format!("{TRACE}/"), &format!("{TRACE}/0")] {
        let value = format!("{ids};o=1");
        let found = format("google").extract(&headers(&[("x-cloud-trace-context", &value)]));
        let Ok(Some(Found::Start(start))) = found else {
            panic!("{value}: {found:?}");
        };
        assert_eq!(start.trace_id.hex().as_str(), TRACE);
        assert_eq!(start.state, SamplingState::Accept);
    }
}

#[test]
fn spans_are_written_in_decimal() {
    let value = format!("{IDS};o=1");
    let written = passed_on(
        "google",
        &headers(&[("x-cloud-trace-context", &value)]),
        "ff",
    );
    assert_eq!(written, [format!("x-cloud-trace-context: {TRACE}/255;o=1")]);
}

#[test]
fn malformed_headers_are_refused() {
    assert_malformed(
        "google",
        &[
            (&[("x-cloud-trace-context", "")], "empty"),
            (
                &[(
                    "x-cloud-trace-context",
                    "0af7651916cd43dd8448eb211c80319/1;o=1",
                )],
                "31 digits",
            ),
            (
                &[(
                    "x-cloud-trace-context",
                    "00000000000000000000000000000000/1;o=1",
                )],
                "zero trace",
            ),
            (
                &[(
                    "x-cloud-trace-context",
                    "0af7651916cd43dd8448eb211c80319c/b7ad;o=1",
                )],
                "hex span",
            ),
            (
                &[(
                    "x-cloud-trace-context",
                    "0af7651916cd43dd8448eb211c80319c/+1;o=1",
                )],
                "sign",
            ),
            (
                &[(
                    "x-cloud-trace-context",
                    "0af7651916cd43dd8448eb211c80319c/18446744073709551616",
                )],
                "over 64 bits",
            ),
            (
                &[(
                    "x-cloud-trace-context",
                    "0af7651916cd43dd8448eb211c80319c/1;p=1",
                )],
                "other option",
            ),
        ],
    );
}
