//! W3C Trace Context, rule by rule. The groups follow the names of the cases in w3c/trace-context `test/test.py`.

use pillion::model::SamplingState;
use pillion::model::TraceState;

use super::SPAN;
use super::TRACE;
use super::context;
use super::format;
use super::headers;
use super::lines;
use super::parent;

const GOOD: &str = "00-12345678901234567890123456789012-1234567890123456-01";

#[test]
fn well_formed_traceparents_are_read() {
    for (value, state, random, why) in [
        (GOOD, SamplingState::Accept, false, "version 00, sampled"),
        (
            "00-12345678901234567890123456789012-1234567890123456-00",
            SamplingState::Reject,
            false,
            "not sampled",
        ),
        (
            "00-12345678901234567890123456789012-1234567890123456-02",
            SamplingState::Reject,
            true,
            "random",
        ),
        (
            "00-12345678901234567890123456789012-1234567890123456-03",
            SamplingState::Accept,
            true,
            "both flags",
        ),
        (
            "00-12345678901234567890123456789012-1234567890123456-ff",
            SamplingState::Accept,
            true,
            "unknown flags are ignored",
        ),
        (
            "00-12345678901234567890123456789012-1234567890123456-fc",
            SamplingState::Reject,
            false,
            "only unknown flags",
        ),
        (
            "cc-12345678901234567890123456789012-1234567890123456-01",
            SamplingState::Accept,
            false,
            "later version",
        ),
        (
            "cc-12345678901234567890123456789012-1234567890123456-03",
            SamplingState::Accept,
            false,
            "later version's other flags are unknown",
        ),
        (
            "cc-12345678901234567890123456789012-1234567890123456-01-what-will-be",
            SamplingState::Accept,
            false,
            "later version with more fields",
        ),
        (
            "cc-12345678901234567890123456789012-1234567890123456-01-",
            SamplingState::Accept,
            false,
            "later version with an empty field",
        ),
        (
            " 00-12345678901234567890123456789012-1234567890123456-01",
            SamplingState::Accept,
            false,
            "leading blank",
        ),
        (
            "\t00-12345678901234567890123456789012-1234567890123456-01",
            SamplingState::Accept,
            false,
            "leading tab",
        ),
        (
            "00-12345678901234567890123456789012-1234567890123456-01 ",
            SamplingState::Accept,
            false,
            "trailing blank",
        ),
        (
            "\t 00-12345678901234567890123456789012-1234567890123456-01 \t",
            SamplingState::Accept,
            false,
            "blanks and tabs on both sides",
        ),
    ] {
        for name in ["traceparent", "TraceParent", "TrAcEpArEnT", "TRACEPARENT"] {
            let read = parent("tracecontext", &headers(&[(name, value)]));
            let mut expected = context(
                "12345678901234567890123456789012",
                "1234567890123456",
                state,
            );
            expected.random = random;
            assert_eq!(read, Some(expected), "{why}: {name}: {value}");
        }
    }
}

#[test]
fn malformed_traceparents_are_refused() {
    for (value, why) in [
        ("", "empty"),
        ("00", "version only"),
        (
            "ff-12345678901234567890123456789012-1234567890123456-01",
            "version ff",
        ),
        (
            ".0-12345678901234567890123456789012-1234567890123456-01",
            "version with a dot",
        ),
        (
            "0.-12345678901234567890123456789012-1234567890123456-01",
            "version with a dot",
        ),
        (
            "CC-12345678901234567890123456789012-1234567890123456-01",
            "version in upper case",
        ),
        (
            "000-12345678901234567890123456789012-1234567890123456-01",
            "version of three digits",
        ),
        (
            "0000-12345678901234567890123456789012-1234567890123456-01",
            "version of four digits",
        ),
        (
            "0-12345678901234567890123456789012-1234567890123456-01",
            "version of one digit",
        ),
        (
            "00-12345678901234567890123456789012-1234567890123456-01.",
            "something after version 00",
        ),
        (
            "00-12345678901234567890123456789012-1234567890123456-01-",
            "something after version 00",
        ),
        (
            "00-12345678901234567890123456789012-1234567890123456-01-more",
            "a field after version 00",
        ),
        (
            "cc-12345678901234567890123456789012-1234567890123456-01.what",
            "later version goes on without a dash",
        ),
        (
            "cc-12345678901234567890123456789012-1234567890123456-0",
            "later version too short",
        ),
        (
            "00-00000000000000000000000000000000-1234567890123456-01",
            "zero trace id",
        ),
        (
            "00-.2345678901234567890123456789012-1234567890123456-01",
            "trace id with a dot",
        ),
        (
            "00-1234567890123456789012345678901.-1234567890123456-01",
            "trace id with a dot",
        ),
        (
            "00-ABCDEF78901234567890123456789012-1234567890123456-01",
            "trace id in upper case",
        ),
        (
            "00-123456789012345678901234567890123-1234567890123456-01",
            "trace id too long",
        ),
        (
            "00-1234567890123456789012345678901-1234567890123456-01",
            "trace id too short",
        ),
        (
            "00-12345678901234567890123456789012-0000000000000000-01",
            "zero parent id",
        ),
        (
            "00-12345678901234567890123456789012-.234567890123456-01",
            "parent id with a dot",
        ),
        (
            "00-12345678901234567890123456789012-ABCDEF7890123456-01",
            "parent id in upper case",
        ),
        (
            "00-12345678901234567890123456789012-12345678901234567-01",
            "parent id too long",
        ),
        (
            "00-12345678901234567890123456789012-123456789012345-01",
            "parent id too short",
        ),
        (
            "00-12345678901234567890123456789012-1234567890123456-.0",
            "flags with a dot",
        ),
        (
            "00-12345678901234567890123456789012-1234567890123456-0.",
            "flags with a dot",
        ),
        (
            "00-12345678901234567890123456789012-1234567890123456-001",
            "flags too long",
        ),
        (
            "00-12345678901234567890123456789012-1234567890123456-1",
            "flags too short",
        ),
        (
            "00-12345678901234567890123456789012-1234567890123456-0A",
            "flags in upper case",
        ),
        (
            "00_12345678901234567890123456789012_1234567890123456_01",
            "other separators",
        ),
        (
            "00-12345678901234567890123456789012-1234567890123456 01",
            "other last separator",
        ),
        (
            "00-1234567890123456789012345678901é-1234567890123456-01",
            "beyond ASCII",
        ),
    ] {
        let carrier = headers(&[("traceparent", value), ("tracestate", "a=1")]);
        assert!(
            format("tracecontext").extract(&carrier).is_err(),
            "{why}: {value}"
        );
    }
    let twice = headers(&[("traceparent", GOOD), ("traceparent", GOOD)]);
    assert!(
        format("tracecontext").extract(&twice).is_err(),
        "two headers, even if equal"
    );
}

#[test]
fn other_names_and_a_lone_tracestate_say_nothing() {
    for carrier in [
        headers(&[("trace-parent", GOOD)]),
        headers(&[("trace.parent", GOOD)]),
        headers(&[("tracestate", "foo=1")]),
    ] {
        assert_eq!(
            format("tracecontext").extract(&carrier),
            Ok(None),
            "{carrier:?}"
        );
    }
}

/// What becomes of `tracestate` headers beside a good traceparent.
fn list(values: &[&str]) -> String {
    let mut pairs = vec![("traceparent", GOOD)];
    pairs.extend(values.iter().map(|value| ("tracestate", *value)));
    let context =
        parent("tracecontext", &headers(&pairs)).expect("tracestate never spoils traceparent");
    context.trace_state.as_str().to_owned()
}

#[test]
fn well_formed_tracestates_are_kept() {
    let long_key = "k".repeat(256);
    let long_tenant = format!("{}@{}", "t".repeat(241), "v".repeat(14));
    let full: Vec<_> = (0..32).map(|n| format!("bar{n:02}=0{n}")).collect();
    let full = full.join(",");
    let long_value = format!("a={}", "v".repeat(256));
    for (values, expected, why) in [
        (&["foo=1"][..], "foo=1", "one member"),
        (&["foo=1,bar=2"], "foo=1,bar=2", "order stays"),
        (
            &["foo=1", "bar=2"],
            "foo=1,bar=2",
            "several headers are joined in order",
        ),
        (
            &["foo=1,bar=2", "rojo=1,congo=2", "baz=3"],
            "foo=1,bar=2,rojo=1,congo=2,baz=3",
            "several headers",
        ),
        (
            &["foo=1 \t , \t bar=2, \t baz=3"],
            "foo=1,bar=2,baz=3",
            "blanks around members go",
        ),
        (
            &["foo=1\t \t,\t \tbar=2,\t \tbaz=3"],
            "foo=1,bar=2,baz=3",
            "tabs around members go",
        ),
        (&[" foo=1"], "foo=1", "blank before the list"),
        (&["foo=1,,,bar=2,"], "foo=1,bar=2", "empty members go"),
        (&["foo=1", ""], "foo=1", "an empty header beside another"),
        (&["", "foo=1"], "foo=1", "an empty header first"),
        (
            &["foo=1,foo=1"],
            "foo=1,foo=1",
            "duplicate keys are no error",
        ),
        (
            &["foo=1,foo=2"],
            "foo=1,foo=2",
            "duplicate keys, other values",
        ),
        (&["foo= 1"], "foo= 1", "blank at the start of a value stays"),
        (&["foo=a b"], "foo=a b", "blank inside a value"),
        (&["0foo=1"], "0foo=1", "a digit starts a key (Level 2)"),
        (&["foo@=1,bar=2"], "foo@=1,bar=2", "at sign last (Level 2)"),
        (
            &["foo@@bar=1,bar=2"],
            "foo@@bar=1,bar=2",
            "two at signs (Level 2)",
        ),
        (
            &["foo@bar@baz=1,bar=2"],
            "foo@bar@baz=1,bar=2",
            "two tenants (Level 2)",
        ),
        (
            &["abcdefghijklmnopqrstuvwxyz0123456789_-*/= !\"#$%&'()*+-./:;<>?@[\\]^_`{|}~x"],
            "abcdefghijklmnopqrstuvwxyz0123456789_-*/= !\"#$%&'()*+-./:;<>?@[\\]^_`{|}~x",
            "all characters",
        ),
        (
            &[&format!("{long_key}=1")],
            &format!("{long_key}=1"),
            "key of 256",
        ),
        (
            &[&format!("{long_tenant}=1")],
            &format!("{long_tenant}=1"),
            "longest tenant and system",
        ),
        (&[&long_value], &long_value, "value of 256"),
        (&[&full], &full, "32 members"),
        (
            &["ot=th:8;rv:00000000000001,dd=s:2;o:synthetics"],
            "ot=th:8;rv:00000000000001,dd=s:2;o:synthetics",
            "other vendors' entries",
        ),
    ] {
        assert_eq!(list(values), expected, "{why}");
    }
}

#[test]
fn a_malformed_tracestate_is_discarded_as_a_whole() {
    let many: Vec<_> = (0..33).map(|n| format!("bar{n:02}=0{n}")).collect();
    let long_key = format!("{}=1", "k".repeat(257));
    let long_value = format!("foo={}", "v".repeat(257));
    for (value, why) in [
        ("", "empty header"),
        (" , \t,", "nothing but empty members"),
        ("foo", "no equals sign"),
        ("foo=1,bar", "one member without an equals sign"),
        ("=1", "empty key"),
        ("foo=", "empty value"),
        ("foo=1,bar= ", "value of blanks"),
        ("foo =1", "blank after the key"),
        ("FOO=1", "key in upper case"),
        ("foo.bar=1", "key with a dot"),
        ("@foo=1,bar=2", "key starts with an at sign"),
        ("_foo=1", "key starts with an underscore"),
        ("-foo=1", "key starts with a dash"),
        ("foo=bar=baz", "value with an equals sign"),
        ("foo=,bar=3", "an empty value beside a good member"),
        ("foo=a\tb", "tab inside a value"),
        ("foo=é", "beyond ASCII"),
        (&long_key, "key of 257"),
        (&long_value, "value of 257"),
        (&many.join(","), "33 members"),
    ] {
        assert_eq!(list(&[value]), "", "{why}: {value}");
        assert_eq!(
            list(&["good=1", value]),
            if value.trim_matches([' ', ',', '\t']).is_empty() {
                "good=1"
            } else {
                ""
            },
            "{why}, in a second header"
        );
    }
}

#[test]
fn the_header_is_written_as_version_00_with_own_flags_only() {
    for (state, random, flags) in [
        (SamplingState::Reject, false, "00"),
        (SamplingState::Accept, false, "01"),
        (SamplingState::Debug, false, "01"),
        (SamplingState::Reject, true, "02"),
        (SamplingState::Accept, true, "03"),
    ] {
        let mut context = context(TRACE, SPAN, state);
        context.random = random;
        let mut written = headers(&[]);
        format("tracecontext").inject(&context, &mut written);
        assert_eq!(
            lines(&written),
            [format!("traceparent: 00-{TRACE}-{SPAN}-{flags}")]
        );
    }
}

#[test]
fn tracestate_is_replaced_removed_or_left_as_the_context_says() {
    for (before, list, after, why) in [
        (
            &["foo=1"][..],
            "foo=1",
            &["tracestate: foo=1"][..],
            "the same",
        ),
        (
            &["foo=1,bar=2"],
            "foo=1,bar=2",
            &["tracestate: foo=1,bar=2"],
            "the same, two members",
        ),
        (
            &["foo=1", "bar=2"],
            "foo=1,bar=2",
            &["tracestate: foo=1,bar=2"],
            "several headers become one",
        ),
        (
            &["stale=1", "bar=2"],
            "foo=1",
            &["tracestate: foo=1"],
            "all stale ones go",
        ),
        (&["stale=1"], "", &[], "a new trace takes none over"),
        (&[""], "", &[], "an empty header is never written"),
        (&[], "foo=1", &["tracestate: foo=1"], "added"),
    ] {
        let pairs: Vec<_> = before.iter().map(|value| ("tracestate", *value)).collect();
        let mut written = headers(&pairs);
        let mut context = context(TRACE, SPAN, SamplingState::Accept);
        context.trace_state = TraceState((!list.is_empty()).then(|| list.into()));
        format("tracecontext").inject(&context, &mut written);
        written.remove("traceparent");
        assert_eq!(lines(&written), after, "{why}");
    }
}
