//! OpenTracing's basic headers: unpadded and long ids, words for the decision, plain baggage.

use pillion::model::SamplingState;

use super::assert_malformed;
use super::baggage_of;
use super::headers;
use super::parent;
use super::passed_on;

#[test]
fn ids_come_padded_or_not_and_long_or_not() {
    for (trace, span, expected) in [
        (
            "8448eb211c80319c",
            "b7ad6b7169203331",
            "00000000000000008448eb211c80319c",
        ),
        ("abc", "1", "00000000000000000000000000000abc"),
        (
            "0af7651916cd43dd8448eb211c80319c",
            "1",
            "0af7651916cd43dd8448eb211c80319c",
        ),
    ] {
        let carrier = headers(&[
            ("ot-tracer-traceid", trace),
            ("ot-tracer-spanid", span),
            ("ot-tracer-sampled", "1"),
        ]);
        let context = parent("ottrace", &carrier).unwrap();
        assert_eq!(context.trace_id.hex().as_str(), expected);
        assert_eq!(context.state, SamplingState::Accept);
        let low = &expected[16..];
        assert_eq!(
            passed_on("ottrace", &carrier, "2"),
            [
                "ot-tracer-sampled: true".to_owned(),
                "ot-tracer-spanid: 0000000000000002".to_owned(),
                format!("ot-tracer-traceid: {low}"),
            ]
        );
    }
}

#[test]
fn baggage_is_plain() {
    let carrier = headers(&[("ot-baggage-user", "a b%20c"), ("ot-baggage-", "x")]);
    assert_eq!(
        baggage_of("ottrace", &carrier),
        (vec!["user=a b%20c".to_owned()], false)
    );
}

#[test]
fn malformed_headers_are_refused() {
    assert_malformed(
        "ottrace",
        &[
            (&[("ot-tracer-traceid", "1")], "no span"),
            (&[("ot-tracer-spanid", "1")], "no trace"),
            (
                &[("ot-tracer-traceid", "0"), ("ot-tracer-spanid", "1")],
                "zero",
            ),
            (
                &[("ot-tracer-traceid", "1"), ("ot-tracer-spanid", "g")],
                "no hex",
            ),
            (&[("ot-tracer-sampled", "maybe")], "no decision"),
        ],
    );
}
