//! Several formats at once: order, conflicts, what is rewritten, what passes byte for byte.

use pillion::model::Baggage;
use pillion::model::BaggageItem;
use pillion::model::SamplingState;
use pillion::model::Text;
use pillion::propagation::Config;
use pillion::propagation::Extraction;
use pillion::propagation::Propagator;

use super::SPAN;
use super::TRACE;
use super::context;
use super::headers;
use super::lines;

const W3C: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const UBER: &str = "0af7651916cd43dd8448eb211c80319c:b7ad6b7169203331:0:1";

fn default_propagator() -> Propagator {
    Propagator::new(&Config::default())
}

fn propagator(extract: &str, inject: &str) -> Propagator {
    let names = |list| Config::from_list(list).0.extract;
    Propagator::new(&Config {
        extract: names(extract),
        inject: names(inject),
    })
}

fn extract(pairs: &[(&str, &str)]) -> Extraction {
    default_propagator().extract(&headers(pairs))
}

fn item(key: &str, value: &str) -> BaggageItem {
    BaggageItem {
        key: Text::new(key),
        value: Text::new(value),
        properties: Text::default(),
    }
}

#[test]
fn nothing_is_found_where_nothing_is() {
    let unrelated = [
        ("host", "a"),
        ("x-request-id", "b"),
        ("user-agent", "t"),
        ("b", "c"),
    ];
    assert_eq!(extract(&unrelated), Extraction::default());
    let off = propagator("none", "none");
    let mut carrier = headers(&[("traceparent", W3C), ("b3", "0")]);
    let before = carrier.clone();
    assert_eq!(off.extract(&carrier), Extraction::default());
    off.inject(&context(TRACE, SPAN, SamplingState::Accept), &mut carrier);
    assert_eq!(carrier, before, "chosen: nothing");
}

#[test]
fn the_first_valid_format_in_the_configured_order_gives_the_parent() {
    let carrier = headers(&[
        ("b3", "00000000000000000000000000000b3b-00000000000000b3-1"),
        (
            "uber-trace-id",
            "00000000000000000000000000000abe:00000000000000ae:0:1",
        ),
        (
            "traceparent",
            "00-00000000000000000000000000000c0c-00000000000000cc-01",
        ),
    ]);
    for (order, format, span) in [
        ("tracecontext,jaeger,b3", "tracecontext", "cc"),
        ("jaeger,tracecontext,b3", "jaeger", "ae"),
        ("b3,jaeger,tracecontext", "b3", "b3"),
        ("b3multi", "b3multi", "b3"),
    ] {
        let answer = propagator(order, "none").extract(&carrier);
        assert_eq!(answer.format, Some(format), "{order}");
        let parent = answer.extracted.parent.unwrap();
        assert_eq!(
            parent.span_id.to_u64(),
            u64::from_str_radix(span, 16).unwrap(),
            "{order}"
        );
        assert_eq!(answer.conflict, order.contains(','), "{order}");
    }
}

#[test]
fn malformed_formats_are_noted_and_the_next_is_tried() {
    let answer = extract(&[
        ("traceparent", "00-bad"),
        ("tracestate", "a=1"),
        ("uber-trace-id", UBER),
    ]);
    assert_eq!(answer.format, Some("jaeger"));
    assert_eq!(answer.malformed.as_slice(), ["tracecontext"]);
    assert!(!answer.conflict);
    let parent = answer.extracted.parent.unwrap();
    assert_eq!(
        parent.trace_state.as_str(),
        "",
        "a tracestate goes with its own traceparent"
    );

    let answer = extract(&[
        ("traceparent", W3C),
        ("uber-trace-id", "x"),
        ("b3", "x"),
        ("baggage", "x"),
    ]);
    assert_eq!(answer.format, Some("tracecontext"));
    assert_eq!(
        answer.malformed.as_slice(),
        ["jaeger", "b3", "baggage"],
        "later ones are noted too"
    );

    let answer = extract(&[
        ("traceparent", "x"),
        ("uber-trace-id", "y"),
        ("uberctx-", "z"),
    ]);
    assert_eq!(answer.extracted.parent, None);
    assert_eq!(
        answer.malformed.as_slice(),
        ["tracecontext", "jaeger"],
        "each once"
    );
}

#[test]
fn only_different_traces_conflict() {
    for (other, conflict, why) in [
        (
            "0af7651916cd43dd8448eb211c80319c:b7ad6b7169203331:0:1",
            false,
            "the same",
        ),
        (
            "0af7651916cd43dd8448eb211c80319c:1:0:1",
            false,
            "an older span of the trace",
        ),
        (
            "8448eb211c80319c:b7ad6b7169203331:0:1",
            false,
            "the low half from a 64-bit peer",
        ),
        (
            "1af7651916cd43dd8448eb211c80319c:b7ad6b7169203331:0:1",
            true,
            "other high half",
        ),
        (
            "8448eb211c80319d:b7ad6b7169203331:0:1",
            true,
            "other low half",
        ),
    ] {
        let answer = extract(&[("traceparent", W3C), ("uber-trace-id", other)]);
        assert_eq!(answer.conflict, conflict, "{why}");
        assert_eq!(answer.format, Some("tracecontext"), "{why}");
    }
}

#[test]
fn other_headers_of_the_same_trace_complete_the_parent() {
    let carrier = headers(&[
        (
            "traceparent",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-03",
        ),
        ("tracestate", "vendor=1"),
        (
            "uber-trace-id",
            "0af7651916cd43dd8448eb211c80319c:b7ad6b7169203331:0:b",
        ),
    ]);
    for order in ["tracecontext,jaeger", "jaeger,tracecontext"] {
        let parent = propagator(order, "none")
            .extract(&carrier)
            .extracted
            .parent
            .unwrap();
        assert_eq!(parent.trace_state.as_str(), "vendor=1", "{order}");
        assert!(parent.random && parent.firehose, "{order}");
        assert_eq!(
            parent.state,
            SamplingState::Debug,
            "{order}: debug survives beside traceparent"
        );
    }
    let other_span = extract(&[
        ("traceparent", W3C),
        ("b3", &format!("{TRACE}-0000000000000001-d")),
    ]);
    let parent = other_span.extracted.parent.unwrap();
    assert_eq!(
        parent.state,
        SamplingState::Accept,
        "an older span's debug is not the parent's"
    );
    let refused = extract(&[
        (
            "traceparent",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
        ),
        ("b3", &format!("{TRACE}-{SPAN}-d")),
    ]);
    assert_eq!(
        refused.extracted.parent.unwrap().state,
        SamplingState::Reject,
        "first wins"
    );
    let other_trace = propagator("jaeger,tracecontext", "none").extract(&headers(&[
        ("uber-trace-id", "abc:abc:0:1"),
        ("traceparent", W3C),
        ("tracestate", "vendor=1"),
    ]));
    assert_eq!(
        other_trace.extracted.parent.unwrap().trace_state.as_str(),
        "",
        "not its own trace"
    );
}

#[test]
fn a_decision_without_ids_binds_the_trace_that_starts_or_follows() {
    let answer = extract(&[("b3", "0")]);
    assert_eq!(answer.extracted.decision, Some(SamplingState::Reject));
    assert_eq!((answer.extracted.parent, answer.format), (None, Some("b3")));

    let carrier = headers(&[("b3", "0"), ("traceparent", W3C)]);
    let first = propagator("b3,tracecontext", "none")
        .extract(&carrier)
        .extracted;
    assert_eq!(
        first.parent.unwrap().state,
        SamplingState::Reject,
        "said first"
    );
    assert_eq!(first.decision, None);
    let later = propagator("tracecontext,b3", "none")
        .extract(&carrier)
        .extracted;
    assert_eq!(
        later.parent.unwrap().state,
        SamplingState::Accept,
        "said later"
    );
    assert_eq!(later.decision, None);
}

#[test]
fn a_debug_id_forces_a_root_and_is_ignored_beside_a_parent() {
    let answer = extract(&[("jaeger-debug-id", "ticket-42"), ("jaeger-baggage", "a=1")]);
    assert_eq!(answer.extracted.debug_id.as_deref(), Some("ticket-42"));
    assert_eq!(answer.extracted.decision, Some(SamplingState::Debug));
    assert_eq!(answer.extracted.baggage.items(), [item("a", "1")]);

    let answer = extract(&[("jaeger-debug-id", "ticket-42"), ("b3", "0")]);
    assert_eq!(
        answer.extracted.decision,
        Some(SamplingState::Debug),
        "a person asked for it"
    );

    let answer = extract(&[
        ("jaeger-debug-id", "ticket-42"),
        ("uber-trace-id", "broken"),
    ]);
    assert_eq!(
        answer.extracted.debug_id.as_deref(),
        Some("ticket-42"),
        "no valid context"
    );

    for context in [("uber-trace-id", UBER), ("traceparent", W3C)] {
        let answer = extract(&[("jaeger-debug-id", "ticket-42"), context]);
        assert_eq!(answer.extracted.debug_id, None);
        assert_eq!(answer.extracted.decision, None);
        assert!(answer.extracted.parent.is_some());
    }
}

#[test]
fn baggage_comes_from_every_format_with_or_without_a_parent() {
    let baggage = [
        ("baggage", "userId=w3c,only=w3c"),
        ("uberctx-userid", "jaeger"),
        ("jaeger-baggage", "userid=adhoc,debug=1"),
    ];
    let alone = extract(&baggage);
    let expected = [
        item("userid", "jaeger"),
        item("debug", "1"),
        item("only", "w3c"),
    ];
    assert_eq!(
        alone.extracted.baggage.items(),
        expected,
        "the first in order counts, without case"
    );
    assert_eq!((alone.extracted.parent, alone.format), (None, None));

    let answer = extract(&[&baggage[..], &[("b3", &format!("{TRACE}-{SPAN}-1"))]].concat());
    assert_eq!(
        answer.extracted.parent.unwrap().baggage,
        answer.extracted.baggage
    );
    let answer = extract(&[("uberctx-a", "1"), ("uber-trace-id", "broken")]);
    assert_eq!(
        answer.extracted.baggage.items(),
        [item("a", "1")],
        "broken ids do not take it along"
    );
}

#[test]
fn every_header_of_a_written_format_is_replaced() {
    let mut carrier = headers(&[
        ("traceparent", "stale"),
        ("traceparent", "staler"),
        ("tracestate", "stale=1"),
        ("uber-trace-id", "stale"),
        ("uber-trace-id", "staler"),
        ("cookie", "b"),
        ("cookie", "a"),
    ]);
    let propagator = default_propagator();
    propagator.inject(&context(TRACE, SPAN, SamplingState::Accept), &mut carrier);
    let expected = [
        "cookie: b".to_owned(),
        "cookie: a".to_owned(),
        format!("traceparent: {W3C}"),
        format!("uber-trace-id: {UBER}"),
    ];
    assert_eq!(lines(&carrier), expected);
    let fields: Vec<_> = propagator.fields().map(|name| name.as_str()).collect();
    assert_eq!(fields, ["traceparent", "tracestate", "uber-trace-id"]);
    let formats: Vec<_> = propagator.formats().collect();
    assert_eq!(formats, ["tracecontext", "jaeger", "b3", "baggage"]);
}

#[test]
fn formats_that_are_not_written_pass_byte_for_byte() {
    let foreign = [
        ("b3", "0AF7-odd -1"),
        ("x-b3-traceid", "whatever"),
        ("x-b3-sampled", "1"),
        ("x-datadog-trace-id", "42"),
        (
            "x-amzn-trace-id",
            "Root=1-5759e988-bd862e3fe1be46a994272793;Sampled=?",
        ),
        ("sw8", "1-a-b-c"),
        ("jaeger-debug-id", "ticket"),
        ("jaeger-baggage", "a=1"),
        ("uberctx-own", "x+y"),
        ("baggage", "own=x+y , broken"),
        ("baggage-own", "x"),
        ("ot-tracer-traceid", "1"),
    ];
    let mut carrier = headers(&foreign);
    default_propagator().inject(&context(TRACE, SPAN, SamplingState::Accept), &mut carrier);
    for (name, value) in foreign {
        assert_eq!(carrier[name].as_bytes(), value.as_bytes(), "{name}");
    }
    assert_eq!(carrier.len(), foreign.len() + 2);
}

#[test]
fn one_form_of_b3_never_leaves_the_other_stale() {
    let stale = [
        ("b3", "00000000000000000000000000000abc-0000000000000abc-1"),
        ("x-b3-traceid", "00000000000000000000000000000abc"),
        ("x-b3-spanid", "0000000000000abc"),
        ("x-b3-parentspanid", "0000000000000abd"),
        ("x-b3-sampled", "1"),
        ("x-b3-flags", "1"),
    ];
    for (inject, expected) in [
        ("b3", &["b3"][..]),
        ("b3multi", &["x-b3-sampled", "x-b3-spanid", "x-b3-traceid"]),
        (
            "b3,b3multi",
            &["b3", "x-b3-sampled", "x-b3-spanid", "x-b3-traceid"],
        ),
    ] {
        let propagator = propagator(inject, inject);
        let mut carrier = headers(&stale);
        propagator.inject(&context(TRACE, SPAN, SamplingState::Reject), &mut carrier);
        let mut names: Vec<_> = carrier.keys().map(|name| name.as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, expected, "{inject}");
        let parent = propagator.extract(&carrier).extracted.parent.unwrap();
        assert_eq!(
            parent,
            context(TRACE, SPAN, SamplingState::Reject),
            "{inject}"
        );
    }
}

#[test]
fn baggage_is_added_in_the_forms_a_request_lacks() {
    let mut context = context(TRACE, SPAN, SamplingState::Accept);
    let propagator = default_propagator();
    let baggage_lines = |carrier: &http::HeaderMap| -> Vec<String> {
        let mut lines = lines(carrier);
        lines.retain(|line| !line.starts_with("traceparent") && !line.starts_with("uber-trace"));
        lines
    };

    let mut carrier = headers(&[("baggage", "own=1")]);
    propagator.inject(&context, &mut carrier);
    assert_eq!(
        baggage_lines(&carrier),
        ["baggage: own=1"],
        "a context without baggage adds none"
    );

    context.baggage = Baggage::from_iter([item("user", "a b")]);
    for (own, expected, why) in [
        (
            &[][..],
            &["baggage: user=a%20b", "uberctx-user: a%20b"][..],
            "both forms",
        ),
        (
            &[("baggage", "user=a+b")],
            &["baggage: user=a+b", "uberctx-user: a%2Bb"],
            "its own W3C form",
        ),
        (
            &[("uberctx-user", "a+b")],
            &["baggage: user=a%20b", "uberctx-user: a+b"],
            "its own Jaeger form",
        ),
        (
            &[("baggage", "other=1")],
            &["baggage: other=1", "uberctx-other: 1"],
            "the program's word, in every form",
        ),
        (
            &[("jaeger-baggage", "k=1")],
            &["baggage: k=1", "jaeger-baggage: k=1", "uberctx-k: 1"],
            "ad-hoc pairs",
        ),
    ] {
        let mut carrier = headers(own);
        propagator.inject(&context, &mut carrier);
        assert_eq!(baggage_lines(&carrier), expected, "{why}");
    }
}

#[test]
fn what_is_written_is_read_back_without_conflict() {
    let every_format = "tracecontext,b3,b3multi,jaeger,baggage";
    let propagator = propagator(every_format, every_format);
    for state in [
        SamplingState::Accept,
        SamplingState::Reject,
        SamplingState::Debug,
    ] {
        for trace in [TRACE, "abc"] {
            let mut context = context(trace, SPAN, state);
            context.baggage = Baggage::from_iter([item("user", "Amélie & co=1")]);
            let mut carrier =
                headers(&[("b3", "stale"), ("x-b3-flags", "1"), ("tracestate", "x=1")]);
            propagator.inject(&context, &mut carrier);
            let answer = propagator.extract(&carrier);
            assert!(
                !answer.conflict && answer.malformed.is_empty(),
                "{answer:?}"
            );
            assert_eq!(answer.extracted.parent, Some(context));
        }
    }
}
