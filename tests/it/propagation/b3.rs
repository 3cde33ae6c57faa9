//! B3 in both forms, rule by rule.

use pillion::model::SamplingState;
use pillion::propagation::Config;
use pillion::propagation::Found;
use pillion::propagation::Propagator;

use super::SPAN;
use super::TRACE;
use super::context;
use super::format;
use super::headers;
use super::lines;

const LOW: &str = "8448eb211c80319c";

/// Both formats read the same.
fn check(pairs: &[(&str, &str)], expected: Option<Found>, why: &str) {
    for name in ["b3", "b3multi"] {
        assert_eq!(
            format(name).extract(&headers(pairs)),
            Ok(expected.clone()),
            "{name}: {why}"
        );
    }
}

fn found(trace: &str, state: SamplingState) -> Option<Found> {
    Some(Found::Parent(context(trace, SPAN, state)))
}

fn decided(state: SamplingState) -> Option<Found> {
    Some(Found::Decision(state))
}

#[test]
fn the_single_header_is_read() {
    use SamplingState::*;
    for (value, expected, why) in [
        (
            "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-1",
            found(TRACE, Accept),
            "sampled",
        ),
        (
            "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0",
            found(TRACE, Reject),
            "not sampled",
        ),
        (
            "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-d",
            found(TRACE, Debug),
            "debug",
        ),
        (
            "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            found(TRACE, Defer),
            "no state: we decide",
        ),
        (
            "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-1-00f067aa0ba902b7",
            found(TRACE, Accept),
            "with a parent",
        ),
        (
            "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-1-0000000000000000",
            found(TRACE, Accept),
            "with a zero parent",
        ),
        (
            "8448eb211c80319c-b7ad6b7169203331-1",
            found(LOW, Accept),
            "64 bit",
        ),
        (
            "00000000000000008448eb211c80319c-b7ad6b7169203331-1",
            found(LOW, Accept),
            "64 bit in 32 digits",
        ),
        (
            " 8448eb211c80319c-b7ad6b7169203331 ",
            found(LOW, Defer),
            "blanks around",
        ),
        ("0", decided(Reject), "only a no"),
        ("1", decided(Accept), "only a yes"),
        ("d", decided(Debug), "only debug"),
    ] {
        check(&[("b3", value)], expected, why);
    }
}

#[test]
fn the_multiple_headers_are_read() {
    use SamplingState::*;
    let ids = [("X-B3-TraceId", TRACE), ("X-B3-SpanId", SPAN)];
    for (more, expected, why) in [
        (&[][..], found(TRACE, Defer), "no state: we decide"),
        (&[("x-b3-sampled", "1")], found(TRACE, Accept), "sampled"),
        (
            &[("x-b3-sampled", "true")],
            found(TRACE, Accept),
            "sampled, old spelling",
        ),
        (
            &[("x-b3-sampled", "0")],
            found(TRACE, Reject),
            "not sampled",
        ),
        (
            &[("x-b3-sampled", "False")],
            found(TRACE, Reject),
            "not sampled, old spelling",
        ),
        (&[("x-b3-flags", "1")], found(TRACE, Debug), "debug"),
        (
            &[("x-b3-flags", "1"), ("x-b3-sampled", "0")],
            found(TRACE, Debug),
            "debug wins",
        ),
        (
            &[("x-b3-flags", "1"), ("x-b3-sampled", "1")],
            found(TRACE, Debug),
            "debug besides sampled (Java)",
        ),
        (
            &[("x-b3-flags", "0"), ("x-b3-sampled", "1")],
            found(TRACE, Accept),
            "other flags mean nothing",
        ),
        (
            &[("x-b3-sampled", "1"), ("x-b3-sampled", "0")],
            found(TRACE, Accept),
            "the first of repeated states",
        ),
        (
            &[("x-b3-parentspanid", "00f067aa0ba902b7")],
            found(TRACE, Defer),
            "with a parent",
        ),
        (
            &[("x-b3-parentspanid", "0000000000000000")],
            found(TRACE, Defer),
            "with a zero parent",
        ),
    ] {
        check(&[&ids[..], more].concat(), expected, why);
    }
    for (pairs, expected, why) in [
        (&[("x-b3-sampled", "0")][..], decided(Reject), "only a no"),
        (&[("x-b3-sampled", "1")], decided(Accept), "only a yes"),
        (&[("x-b3-flags", "1")], decided(Debug), "only debug"),
        (&[("x-b3-flags", "0")], None, "flags that mean nothing"),
        (
            &[("x-b3-traceid", LOW), ("x-b3-spanid", SPAN)],
            found(LOW, Defer),
            "64 bit",
        ),
    ] {
        check(pairs, expected, why);
    }
}

#[test]
fn the_single_header_wins_and_the_others_are_the_fallback() {
    use SamplingState::*;
    let other = "00000000000000000000000000000abc";
    let multi = [
        ("x-b3-traceid", other),
        ("x-b3-spanid", SPAN),
        ("x-b3-sampled", "0"),
    ];
    for (single, expected, why) in [
        (
            "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-1",
            found(TRACE, Accept),
            "single wins",
        ),
        ("nonsense", found(other, Reject), "single malformed"),
        ("", found(other, Reject), "single empty"),
    ] {
        check(&[&multi[..], &[("b3", single)]].concat(), expected, why);
    }
}

#[test]
fn where_both_forms_are_read_each_format_reads_its_own() {
    let other = "00000000000000000000000000000abc";
    let multi = [("x-b3-traceid", other), ("x-b3-spanid", SPAN)];
    let single = format!("{TRACE}-{SPAN}-1");
    let both = headers(&[&multi[..], &[("b3", &single)]].concat());
    for (list, winner, trace, conflict) in [
        ("b3", "b3", TRACE, false),
        ("b3multi", "b3multi", TRACE, false),
        ("b3,b3multi", "b3", TRACE, true),
        ("b3multi,b3", "b3multi", other, true),
        // SOFATracer knows some of the names, not the form.
        ("b3,sofatracer", "b3", TRACE, false),
    ] {
        let answer = Propagator::new(&Config::from_list(list).0).extract(&both);
        assert_eq!(answer.format, Some(winner), "{list}");
        let parent = answer.extracted.parent.unwrap();
        assert_eq!(parent.trace_id.to_string(), trace, "{list}");
        assert_eq!(answer.conflict, conflict, "{list}");
    }
    let fallback = Propagator::new(&Config::from_list("b3,sofatracer").0).extract(&headers(&multi));
    assert_eq!(fallback.format, Some("b3"), "nobody else reads them");
}

#[test]
fn malformed_headers_are_refused() {
    let long = "0".repeat(1000);
    for (pairs, why) in [
        (&[("b3", "")][..], "empty"),
        (&[("b3", "2")], "unknown state"),
        (&[("b3", "D")], "state in upper case"),
        (&[("b3", "true")], "state of the multiple headers"),
        (
            &[("b3", "0af7651916cd43dd8448eb211c80319c")],
            "trace id alone",
        ),
        (
            &[("b3", "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-")],
            "trailing dash",
        ),
        (
            &[("b3", "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-1-")],
            "empty parent",
        ),
        (
            &[(
                "b3",
                "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00f067aa0ba902b7",
            )],
            "parent without state",
        ),
        (
            &[(
                "b3",
                "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-1-00f067aa0ba902b",
            )],
            "parent of 15 digits",
        ),
        (
            &[(
                "b3",
                "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-1-00f067aa0ba902b7-1",
            )],
            "a fifth field",
        ),
        (
            &[("b3", "0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-1")],
            "upper case",
        ),
        (
            &[("b3", "0af7651916cd43dd8448eb211c80319-b7ad6b7169203331-1")],
            "trace id of 31 digits",
        ),
        (
            &[("b3", "448eb211c80319c-b7ad6b7169203331-1")],
            "trace id of 15 digits",
        ),
        (
            &[("b3", "0af7651916cd43dd8448eb211c80319c-7ad6b7169203331-1")],
            "span id of 15 digits",
        ),
        (
            &[("b3", "00000000000000000000000000000000-b7ad6b7169203331-1")],
            "zero trace id",
        ),
        (
            &[("b3", "0af7651916cd43dd8448eb211c80319c-0000000000000000-1")],
            "zero span id",
        ),
        (&[("b3", "-b7ad6b7169203331-1")], "empty trace id"),
        (&[("b3", &long)], "over-long"),
        (
            &[("b3", "nonsense"), ("x-b3-traceid", TRACE)],
            "both malformed",
        ),
        (&[("x-b3-traceid", TRACE)], "no span id"),
        (&[("x-b3-spanid", SPAN)], "no trace id"),
        (
            &[("x-b3-traceid", TRACE), ("x-b3-sampled", "1")],
            "no span id, with a state",
        ),
        (&[("x-b3-parentspanid", SPAN)], "parent without ids"),
        (
            &[("x-b3-parentspanid", SPAN), ("x-b3-sampled", "0")],
            "parent without ids, with a state",
        ),
        (
            &[("x-b3-traceid", ""), ("x-b3-spanid", SPAN)],
            "empty trace id",
        ),
        (
            &[("x-b3-traceid", "0000000000000000"), ("x-b3-spanid", SPAN)],
            "zero trace id",
        ),
        (
            &[("x-b3-traceid", TRACE), ("x-b3-spanid", "zzzzzzzzzzzzzzzz")],
            "span id is not hexadecimal",
        ),
        (
            &[
                ("x-b3-traceid", TRACE),
                ("x-b3-spanid", SPAN),
                ("x-b3-sampled", "yes"),
            ],
            "unknown state",
        ),
        (
            &[
                ("x-b3-traceid", TRACE),
                ("x-b3-spanid", SPAN),
                ("x-b3-parentspanid", "x"),
            ],
            "nonsense parent",
        ),
        (&[("x-b3-sampled", "")], "empty state"),
        (
            &[("x-b3-traceid", &long), ("x-b3-spanid", SPAN)],
            "over-long",
        ),
    ] {
        for name in ["b3", "b3multi"] {
            assert!(
                format(name).extract(&headers(pairs)).is_err(),
                "{name}: {why}"
            );
        }
    }
}

#[test]
fn each_form_is_written_with_its_word_for_the_state() {
    use SamplingState::*;
    for (trace, state, single, multi) in [
        (TRACE, Accept, "-1", &["x-b3-sampled: 1"][..]),
        (TRACE, Reject, "-0", &["x-b3-sampled: 0"]),
        (TRACE, Debug, "-d", &["x-b3-flags: 1"]),
        (TRACE, Defer, "", &[]),
        (LOW, Accept, "-1", &["x-b3-sampled: 1"]),
    ] {
        let context = context(trace, SPAN, state);
        let mut written = headers(&[("b3", "stale")]);
        format("b3").inject(&context, &mut written);
        assert_eq!(lines(&written), [format!("b3: {trace}-{SPAN}{single}")]);

        let stale = [
            "x-b3-traceid",
            "x-b3-spanid",
            "x-b3-parentspanid",
            "x-b3-sampled",
            "x-b3-flags",
        ];
        let mut written = headers(&stale.map(|name| (name, "stale")));
        format("b3multi").inject(&context, &mut written);
        let ids = [
            format!("x-b3-spanid: {SPAN}"),
            format!("x-b3-traceid: {trace}"),
        ];
        let multi = multi.iter().map(|line| (*line).to_owned());
        assert_eq!(lines(&written), multi.chain(ids).collect::<Vec<_>>());
    }
}
