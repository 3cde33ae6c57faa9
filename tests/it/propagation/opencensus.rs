//! OpenCensus's binary metadata: the published example, padding, unknown fields.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use pillion::model::SamplingState;

use super::assert_malformed;
use super::headers;
use super::parent;
use super::passed_on;

/// The example of OpenCensus's BinaryEncoding.md.
const EXAMPLE: [u8; 29] = [
    0, 0, 64, 65, 66, 67, 68, 69, 70, 71, 72, 73, 74, 75, 76, 77, 78, 79, 1, 97, 98, 99, 100, 101,
    102, 103, 104, 2, 1,
];

#[test]
fn the_published_example_is_read_with_and_without_padding() {
    let padded = STANDARD.encode(EXAMPLE);
    for value in [padded.as_str(), padded.trim_end_matches('=')] {
        let context = parent("opencensus", &headers(&[("grpc-trace-bin", value)])).unwrap();
        assert_eq!(context.trace_id.bytes(), EXAMPLE[2..18]);
        assert_eq!(context.span_id.bytes(), EXAMPLE[19..27]);
        assert_eq!(context.state, SamplingState::Accept);
    }
    let written = passed_on(
        "opencensus",
        &headers(&[("grpc-trace-bin", &padded)]),
        "6162636465666768",
    );
    assert_eq!(
        written,
        [format!("grpc-trace-bin: {}", padded.trim_end_matches('='))]
    );
}

#[test]
fn fields_behind_an_unknown_one_are_not_looked_at() {
    for (bytes, state, why) in [
        (EXAMPLE[..27].to_vec(), SamplingState::Reject, "no options"),
        (
            [&EXAMPLE[..27], &[9, 7, 2, 1]].concat(),
            SamplingState::Reject,
            "unknown before options",
        ),
        (
            [&EXAMPLE[..], &[9, 7]].concat(),
            SamplingState::Accept,
            "unknown behind options",
        ),
    ] {
        let value = STANDARD.encode(bytes);
        let context = parent("opencensus", &headers(&[("grpc-trace-bin", &value)])).unwrap();
        assert_eq!(context.state, state, "{why}");
    }
}

#[test]
fn malformed_metadata_is_refused() {
    let version = STANDARD.encode([&[1], &EXAMPLE[1..]].concat());
    let short = STANDARD.encode(&EXAMPLE[..20]);
    let zero = STANDARD.encode([&[0; 18], &EXAMPLE[18..]].concat());
    assert_malformed(
        "opencensus",
        &[
            (&[("grpc-trace-bin", "%%%")], "no base64"),
            (&[("grpc-trace-bin", "")], "empty"),
            (&[("grpc-trace-bin", &version)], "version 1"),
            (&[("grpc-trace-bin", &short)], "cut short"),
            (&[("grpc-trace-bin", &zero)], "zero trace id"),
        ],
    );
}
