//! Jaeger's headers, rule by rule, with what each client library really writes.

use pillion::model::BaggageItem;
use pillion::model::SamplingState;
use pillion::model::Text;

use super::SPAN;
use super::TRACE;
use super::baggage_of;
use super::context;
use super::format;
use super::headers;
use super::lines;
use super::parent;

#[test]
fn every_way_clients_write_the_context_is_read() {
    let all_encoded: String = format!("{TRACE}:{SPAN}:{SPAN}:01")
        .bytes()
        .map(|byte| format!("%{byte:02x}"))
        .collect();
    for (value, trace, span, state, why) in [
        (
            "0af7651916cd43dd8448eb211c80319c:b7ad6b7169203331:0:1",
            TRACE,
            SPAN,
            SamplingState::Accept,
            "OpenTelemetry Go",
        ),
        (
            "0af7651916cd43dd8448eb211c80319c:b7ad6b7169203331:0:01",
            TRACE,
            SPAN,
            SamplingState::Accept,
            "OpenTelemetry JavaScript",
        ),
        (
            "0af7651916cd43dd8448eb211c80319c:b7ad6b7169203331:0000000000000000:03",
            TRACE,
            SPAN,
            SamplingState::Debug,
            "OpenTelemetry Python",
        ),
        (
            "8448eb211c80319c:b7ad6b7169203331:be9743e7ec58008:1",
            "8448eb211c80319c",
            SPAN,
            SamplingState::Accept,
            "64 bit, parent of 15 digits",
        ),
        (
            "448eb211c80319c:7ad6b7169203331:0:1",
            "448eb211c80319c",
            "7ad6b7169203331",
            SamplingState::Accept,
            "unpadded ids of 15 digits",
        ),
        (
            "af7651916cd43dd8448eb211c80319c:1:1:0",
            "af7651916cd43dd8448eb211c80319c",
            "1",
            SamplingState::Reject,
            "unpadded 128 bit",
        ),
        (
            "1:2:0:0",
            "1",
            "2",
            SamplingState::Reject,
            "flags 0 are a binding no",
        ),
        (
            "AF:BC:DE:1",
            "af",
            "bc",
            SamplingState::Accept,
            "upper case",
        ),
        (
            "af%3Abc%3A0%3A1",
            "af",
            "bc",
            SamplingState::Accept,
            "encoded colons",
        ),
        (
            "af%3abc%3a0%3a1",
            "af",
            "bc",
            SamplingState::Accept,
            "encoded colons, lower case",
        ),
        (
            &all_encoded,
            TRACE,
            SPAN,
            SamplingState::Accept,
            "everything encoded",
        ),
        (
            " af:bc:0:1 ",
            "af",
            "bc",
            SamplingState::Accept,
            "blanks around",
        ),
        (
            "af:bc:0:3",
            "af",
            "bc",
            SamplingState::Debug,
            "debug and sampled",
        ),
        (
            "af:bc:0:2",
            "af",
            "bc",
            SamplingState::Reject,
            "debug counts only with sampled",
        ),
        ("af:bc:0:4", "af", "bc", SamplingState::Reject, "unused bit"),
        (
            "af:bc:0:5",
            "af",
            "bc",
            SamplingState::Accept,
            "unused bit beside sampled",
        ),
        (
            "af:bc:0:10",
            "af",
            "bc",
            SamplingState::Reject,
            "flags are hexadecimal, 0x10",
        ),
        ("af:bc:0:ff", "af", "bc", SamplingState::Debug, "all bits"),
        (
            "00000000000000008448eb211c80319c:1:0:1",
            "8448eb211c80319c",
            "1",
            SamplingState::Accept,
            "64-bit id in 32 digits",
        ),
    ] {
        let read = parent("jaeger", &headers(&[("Uber-Trace-Id", value)]));
        let mut expected = context(trace, span, state);
        expected.firehose = read.as_ref().is_some_and(|read| read.firehose);
        assert_eq!(read, Some(expected), "{why}: {value}");
    }
    let firehose = parent("jaeger", &headers(&[("uber-trace-id", "af:bc:0:9")])).unwrap();
    assert!(firehose.firehose && firehose.state == SamplingState::Accept);
}

#[test]
fn malformed_contexts_are_refused() {
    for (value, why) in [
        ("", "empty"),
        ("af:bc:0", "three parts"),
        ("af:bc:0:1:0", "five parts"),
        ("af:bc:0:1:", "five parts, the last empty"),
        ("0:bc:0:1", "zero trace id"),
        (
            "00000000000000000000000000000000:bc:0:1",
            "zero trace id, padded",
        ),
        ("af:0:0:1", "zero span id"),
        (":bc:0:1", "empty trace id"),
        ("af::0:1", "empty span id"),
        ("af:bc::1", "empty parent"),
        ("af:bc:0:", "empty flags"),
        (
            "10af7651916cd43dd8448eb211c80319c:bc:0:1",
            "trace id of 33 digits",
        ),
        ("af:1b7ad6b7169203331:0:1", "span id of 17 digits"),
        ("af:bc:1b7ad6b7169203331:1", "parent of 17 digits"),
        ("af:bc:0:001", "flags of three digits"),
        ("ag:bc:0:1", "trace id is not hexadecimal"),
        ("af:bg:0:1", "span id is not hexadecimal"),
        ("af:bc:g:1", "parent is not hexadecimal"),
        ("af:bc:0:g", "flags are not hexadecimal"),
        ("af:bc:0:-1", "negative flags"),
        ("+af:bc:0:1", "sign"),
        ("0xaf:bc:0:1", "0x"),
        ("af%3Abc%3A0%3", "broken encoding"),
        ("af bc 0 1", "other separators"),
        ("af:bc:0:é", "beyond ASCII"),
    ] {
        let result = format("jaeger").extract(&headers(&[("uber-trace-id", value)]));
        assert!(result.is_err(), "{why}: {value}");
    }
    let twice = headers(&[
        ("uber-trace-id", "af:bc:0:1"),
        ("uber-trace-id", "af:bd:0:1"),
    ]);
    assert!(
        format("jaeger").extract(&twice).is_err(),
        "two headers: which one?"
    );
}

#[test]
fn written_are_16_or_32_digits_parent_0_and_flags_go_reads() {
    for (trace, state, firehose, expected) in [
        (
            TRACE,
            SamplingState::Accept,
            false,
            "0af7651916cd43dd8448eb211c80319c:b7ad6b7169203331:0:1",
        ),
        (
            TRACE,
            SamplingState::Reject,
            false,
            "0af7651916cd43dd8448eb211c80319c:b7ad6b7169203331:0:0",
        ),
        (
            TRACE,
            SamplingState::Debug,
            false,
            "0af7651916cd43dd8448eb211c80319c:b7ad6b7169203331:0:3",
        ),
        (
            TRACE,
            SamplingState::Accept,
            true,
            "0af7651916cd43dd8448eb211c80319c:b7ad6b7169203331:0:9",
        ),
        (
            TRACE,
            SamplingState::Debug,
            true,
            "0af7651916cd43dd8448eb211c80319c:b7ad6b7169203331:0:3",
        ),
        (
            "af",
            SamplingState::Accept,
            false,
            "00000000000000af:b7ad6b7169203331:0:1",
        ),
        (
            "100000000000000af",
            SamplingState::Accept,
            false,
            "000000000000000100000000000000af:b7ad6b7169203331:0:1",
        ),
    ] {
        let mut context = context(trace, SPAN, state);
        context.firehose = firehose;
        let mut written = headers(&[("uber-trace-id", "stale"), ("jaeger-debug-id", "x")]);
        format("jaeger").inject(&context, &mut written);
        let expected = format!("uber-trace-id: {expected}");
        assert_eq!(
            lines(&written),
            ["jaeger-debug-id: x", &expected],
            "the debug id passes"
        );
    }
}

#[test]
fn baggage_is_read_from_both_kinds_of_header() {
    let long = "x".repeat(9000);
    for (pairs, expected, is_good, why) in [
        (
            &[("uberctx-user", "alice%20%26%20bob")][..],
            &["user=alice & bob"][..],
            true,
            "Python, Node",
        ),
        (
            &[("Uberctx-User-Id", "alice+%26+bob%2B")],
            &["user-id=alice & bob+"],
            true,
            "Go, Java: plus for blank",
        ),
        (
            &[("uberctx-a", "1"), ("uberctx-b", "")],
            &["a=1", "b="],
            true,
            "several items, an empty value",
        ),
        (
            &[("uberctx-a", "Am%C3%A9lie")],
            &["a=Amélie"],
            true,
            "UTF-8",
        ),
        (
            &[("uberctx-a", "%ff%zz")],
            &["a=\u{fffd}%zz"],
            true,
            "bad UTF-8 and bad encoding",
        ),
        (&[("uberctx-", "1")], &[], false, "no key"),
        (&[("uberctx-a", &long)], &[], false, "over-long"),
        (
            &[("jaeger-baggage", "k1=v1, k2=v2")],
            &["k1=v1", "k2=v2"],
            true,
            "ad-hoc pairs",
        ),
        (
            &[("jaeger-baggage", "k1%3Dv1%2Ck2%3Dv2")],
            &["k1=v1", "k2=v2"],
            true,
            "ad-hoc pairs, encoded as a whole",
        ),
        (
            &[("jaeger-baggage", "k1=v1, k2, k3=a=b, =c, k4=")],
            &["k1=v1", "k4="],
            false,
            "malformed pairs are left out",
        ),
        (
            &[("jaeger-baggage", "user=x, b=2"), ("uberctx-user", "y")],
            &["user=y", "b=2"],
            true,
            "the context's item counts",
        ),
    ] {
        let expected: Vec<_> = expected.iter().map(|text| (*text).to_owned()).collect();
        assert_eq!(
            baggage_of("jaeger", &headers(pairs)),
            (expected, is_good),
            "{why}"
        );
    }
}

#[test]
fn baggage_is_written_encoded_where_it_is_missing() {
    let items: Vec<_> = [
        ("User-Id", "Amélie & co=1+1"),
        ("bad key", "x"),
        ("", "x"),
        ("own", "ours"),
    ]
    .map(|(key, value)| BaggageItem {
        key: Text::new(key),
        value: Text::new(value),
        properties: Text::new_static("p=1"),
    })
    .into();
    let mut written = headers(&[("uberctx-own", "its%2bs")]);
    format("jaeger").inject_baggage(&items, &mut written);
    let expected = [
        "uberctx-own: its%2bs",
        "uberctx-user-id: Am%C3%A9lie%20%26%20co%3D1%2B1",
    ];
    assert_eq!(lines(&written), expected);
}

#[test]
fn the_debug_id_is_text_of_bounded_length() {
    let long = "é".repeat(200);
    for (value, expected, why) in [
        ("ticket-42", Some("ticket-42".to_owned()), "as it is"),
        (
            " ticket 42 ",
            Some("ticket 42".to_owned()),
            "blanks around go",
        ),
        ("", None, "empty"),
        (" ", None, "blank"),
        (&long, Some("é".repeat(128)), "256 bytes"),
        (
            &format!("x{long}"),
            Some(format!("x{}", "é".repeat(127))),
            "no half character",
        ),
    ] {
        let id = format("jaeger").debug_id(&headers(&[("jaeger-debug-id", value)]));
        assert_eq!(id.as_deref(), expected.as_deref(), "{why}");
    }
}
