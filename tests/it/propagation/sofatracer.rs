//! SOFATracer: B3's names with places for spans, MOSN's names, and real B3 that is none of its business.

use pillion::model::SamplingState;

use super::assert_malformed;
use super::format;
use super::headers;
use super::parent;
use super::passed_on;

const TRACE: &str = "0a0fe93f1488349732342100153695";

#[test]
fn both_spellings_are_read_and_written() {
    for names in [
        ["sofa-traceid", "sofa-rpcid"],
        ["x-b3-traceid", "x-b3-spanid"],
    ] {
        let carrier = headers(&[
            (names[0], TRACE),
            (names[1], "0.1"),
            ("x-b3-sampled", "true"),
        ]);
        let context = parent("sofatracer", &carrier).unwrap();
        assert_eq!(context.trace_id.to_string(), format!("00{TRACE}"));
        assert_eq!(context.state, SamplingState::Accept);
        assert_eq!(
            passed_on("sofatracer", &carrier, "a"),
            [
                "sofa-rpcid: 0.1.00000000000000000010".to_owned(),
                format!("sofa-traceid: {TRACE}"),
                "x-b3-parentspanid: 0.1".to_owned(),
                "x-b3-sampled: true".to_owned(),
                "x-b3-spanid: 0.1.00000000000000000010".to_owned(),
                format!("x-b3-traceid: {TRACE}"),
            ]
        );
    }
}

#[test]
fn real_b3_is_nothing_here() {
    let b3 = headers(&[
        ("x-b3-traceid", "0af7651916cd43dd8448eb211c80319c"),
        ("x-b3-spanid", "b7ad6b7169203331"),
    ]);
    assert_eq!(format("sofatracer").extract(&b3), Ok(None));
}

#[test]
fn malformed_headers_are_refused() {
    assert_malformed(
        "sofatracer",
        &[
            (&[("sofa-traceid", "x")], "no hex"),
            (&[("sofa-traceid", "0")], "zero"),
            (&[("sofa-traceid", "1"), ("sofa-rpcid", "a")], "no place"),
            (
                &[
                    ("sofa-traceid", "1"),
                    ("sofa-rpcid", "0.00000000000000000000"),
                ],
                "our place, zero",
            ),
        ],
    );
}
