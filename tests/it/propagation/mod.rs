//! The family of trace header formats: what holds for every one of them, and the headers real propagators wrote.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use proptest::prelude::*;

use pillion::model::SamplingState;
use pillion::model::SpanContext;
use pillion::model::SpanId;
use pillion::model::TraceId;
use pillion::propagation;
use pillion::propagation::FORMATS;
use pillion::propagation::Format;
use pillion::propagation::Found;
use pillion::propagation::Items;
use pillion::propagation::is_trace_header;

mod b3;
mod baggage;
mod cat;
mod datadog;
mod eagleeye;
mod google;
mod jaeger;
mod matrix;
mod opencensus;
mod ottrace;
mod pinpoint;
mod propagator;
mod skywalking;
mod sofatracer;
mod start;
mod tracecontext;
mod xray;

/// The trace and span most tables use.
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SPAN: &str = "b7ad6b7169203331";

/// Headers from `name: value` pairs; a name may repeat.
fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    headers
}

/// Every header as `name: value`, sorted by name, values of one name in order.
fn lines(headers: &HeaderMap) -> Vec<String> {
    let mut lines: Vec<_> = headers
        .keys()
        .flat_map(|name| headers.get_all(name).iter().map(move |value| (name, value)))
        .map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value.as_bytes())))
        .collect();
    lines.sort_by(|a, b| a.split(':').next().cmp(&b.split(':').next()));
    lines
}

fn format(name: &str) -> &'static dyn Format {
    propagation::format(name).unwrap()
}

fn context(trace: &str, span: &str, state: SamplingState) -> SpanContext {
    SpanContext {
        trace_id: TraceId::from_hex(trace.as_bytes()).unwrap(),
        span_id: SpanId::from_hex(span.as_bytes()).unwrap(),
        state,
        random: false,
        firehose: false,
        trace_state: Default::default(),
        baggage: Default::default(),
        carried: Default::default(),
    }
}

/// The parent one format reads; `None` when absent, malformed, or a mere decision.
fn parent(name: &str, headers: &HeaderMap) -> Option<SpanContext> {
    match format(name).extract(headers) {
        Ok(Some(Found::Parent(context))) => Some(context),
        _ => None,
    }
}

/// What one format writes for a context it read: the way through Pillion with another span.
fn passed_on(name: &str, headers: &HeaderMap, span: &str) -> Vec<String> {
    let mut context = parent(name, headers).unwrap();
    context.span_id = SpanId::from_hex(span.as_bytes()).unwrap();
    let mut written = HeaderMap::new();
    format(name).inject(&context, &mut written);
    lines(&written)
}

/// Every row's headers must be refused by the format, for the reason beside them.
fn assert_malformed(name: &str, rows: &[(&[(&str, &str)], &str)]) {
    for (pairs, why) in rows {
        let found = format(name).extract(&headers(pairs));
        assert!(found.is_err(), "{name}: {why}: {found:?}");
    }
}

/// The baggage one format reads, as `key=value;properties`, and whether all of it was well-formed.
fn baggage_of(name: &str, headers: &HeaderMap) -> (Vec<String>, bool) {
    let mut items = Items::default();
    items.begin_source();
    let result = format(name).baggage(headers, &mut items);
    let texts = items.as_slice().iter().map(|item| {
        let separator = if item.properties.is_empty() { "" } else { ";" };
        format!("{}={}{separator}{}", item.key, item.value, item.properties)
    });
    (texts.collect(), result.is_ok())
}

#[test]
fn names_are_unique_and_known_to_operators() {
    let names: BTreeSet<_> = FORMATS.iter().map(|format| format.name()).collect();
    assert_eq!(names.len(), FORMATS.len());
    assert!(FORMATS.len() <= 32, "the propagator keeps one bit a format");
    for name in [
        "tracecontext",
        "baggage",
        "b3",
        "b3multi",
        "jaeger",
        "xray",
        "ottrace",
    ] {
        assert!(names.contains(name), "{name} is in OTEL_PROPAGATORS");
    }
    for format in FORMATS {
        assert!(propagation::format(format.name()).is_some());
    }
}

#[test]
fn every_header_of_every_format_is_a_trace_header() {
    for format in FORMATS {
        assert!(!format.reads().is_empty(), "{}", format.name());
        for name in format
            .reads()
            .iter()
            .chain(format.writes())
            .chain(format.companions())
        {
            assert!(is_trace_header(name), "{}: {name}", format.name());
        }
        for prefix in format.prefixes() {
            let name = HeaderName::from_bytes(format!("{prefix}x").as_bytes()).unwrap();
            assert!(is_trace_header(&name), "{}: {name}", format.name());
        }
    }
    for name in [
        "host",
        "cookie",
        "x-request-id",
        "traceparents",
        "uberctx",
        "user-agent",
    ] {
        assert!(
            !is_trace_header(&HeaderName::from_bytes(name.as_bytes()).unwrap()),
            "{name}"
        );
    }
}

#[test]
fn no_headers_are_absent_not_malformed() {
    let unrelated = headers(&[("host", "a"), ("x-request-id", "1"), ("user-agent", "curl")]);
    for format in FORMATS {
        for headers in [&HeaderMap::new(), &unrelated] {
            assert_eq!(format.extract(headers), Ok(None), "{}", format.name());
            assert_eq!(format.debug_id(headers), None, "{}", format.name());
            assert_eq!(
                baggage_of(format.name(), headers),
                (vec![], true),
                "{}",
                format.name()
            );
        }
    }
}

#[test]
fn injection_replaces_all_values_and_writes_what_it_says() {
    for format in FORMATS {
        let mut headers = HeaderMap::new();
        for name in format.writes() {
            headers.append(*name, HeaderValue::from_static("stale"));
            headers.append(*name, HeaderValue::from_static("staler"));
        }
        format.inject(&context(TRACE, SPAN, SamplingState::Accept), &mut headers);
        for (name, value) in &headers {
            assert!(
                format.writes().contains(&name),
                "{} wrote {name}",
                format.name()
            );
            assert!(
                !value.as_bytes().starts_with(b"stale"),
                "{} kept {name}",
                format.name()
            );
            assert_eq!(
                headers.get_all(name).iter().count(),
                1,
                "{}: {name}",
                format.name()
            );
        }
    }
}

#[test]
fn a_huge_header_is_refused_by_its_length() {
    let huge = HeaderValue::from_bytes(&vec![b'0'; 1 << 20]).unwrap();
    for format in FORMATS {
        for name in format.reads() {
            let mut headers = HeaderMap::new();
            headers.insert(*name, huge.clone());
            assert!(
                parent(format.name(), &headers).is_none(),
                "{}: {name}",
                format.name()
            );
            assert!(
                baggage_of(format.name(), &headers).0.is_empty(),
                "{}: {name}",
                format.name()
            );
            if let Some(id) = format.debug_id(&headers) {
                assert_eq!(id.len(), 256, "{}: {name}", format.name());
            }
        }
    }
}

/// One entry of `headers.json`.
#[derive(Debug, serde::Deserialize)]
struct Vector {
    case: String,
    propagator: String,
    source: String,
    headers: BTreeMap<String, String>,
    trace_id: Option<String>,
    span_id: Option<String>,
    #[serde(default)]
    baggage: BTreeMap<String, String>,
}

fn vectors() -> Vec<Vector> {
    #[derive(serde::Deserialize)]
    struct File {
        vectors: Vec<Vector>,
    }
    let text = include_str!("../../data/propagation/headers.json");
    serde_json::from_str::<File>(text).unwrap().vectors
}

#[test]
fn headers_written_by_real_propagators_are_understood() {
    let mut n_checked = 0;
    for vector in vectors() {
        let name = match vector.propagator.trim_end_matches("-native") {
            "gcp" => "google",
            name => name,
        };
        let Some(format) = propagation::format(name) else {
            continue;
        };
        n_checked += 1;
        let what = format!("{} {} by {}", vector.case, vector.propagator, vector.source);
        let carrier = carrier(&vector);
        let expected_items: Vec<_> = vector
            .baggage
            .iter()
            .map(|(key, value)| match name {
                // Its author writes blanks as `+`, which in W3C baggage is a plus.
                "baggage" => format!("{key}={}", value.replace(' ', "+")),
                _ => format!("{key}={value}"),
            })
            .collect();
        if matches!(name, "baggage") {
            assert_eq!(baggage_of(name, &carrier), (expected_items, true), "{what}");
            continue;
        }
        let parent = parent(name, &carrier).unwrap_or_else(|| panic!("{what}: not read"));
        if let Some(trace_id) = &vector.trace_id {
            let expected = match name {
                "ottrace" => format!("{:0>32}", &trace_id[16..]),
                _ => trace_id.clone(),
            };
            assert_eq!(parent.trace_id.hex().as_str(), expected, "{what}");
        }
        if let Some(span_id) = &vector.span_id {
            assert_eq!(parent.span_id.hex().as_str(), span_id, "{what}");
        }
        assert_eq!(parent.state, expected_state(&vector), "{what}");
        let tracestate = vector.headers.get("tracestate").map_or("", String::as_str);
        assert_eq!(parent.trace_state.as_str(), tracestate, "{what}");
        if name == "jaeger" && !expected_items.is_empty() {
            assert_eq!(baggage_of(name, &carrier), (expected_items, true), "{what}");
        }
        let mut written = HeaderMap::new();
        format.inject(&parent, &mut written);
        let Ok(Some(Found::Parent(mut read_back))) = format.extract(&written) else {
            panic!("{what}: {written:?}");
        };
        if name == "skywalking" {
            // The caller is another now.
            read_back.span_id = parent.span_id;
            read_back.carried = parent.carried.clone();
        }
        assert_eq!(read_back, parent, "{what}");
    }
    assert!(
        n_checked >= 48,
        "{n_checked} vectors were found for the formats here"
    );
}

/// The vector's headers, without those that no HTTP library can carry (Node's client leaves blanks in baggage keys).
fn carrier(vector: &Vector) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in &vector.headers {
        if let Ok(name) = HeaderName::from_bytes(name.as_bytes()) {
            headers.append(name, HeaderValue::from_str(value).unwrap());
        }
    }
    headers
}

fn expected_state(vector: &Vector) -> SamplingState {
    let from_opentelemetry_python = vector.source.starts_with("opentelemetry-python");
    match (vector.case.as_str(), vector.propagator.as_str()) {
        ("sampled" | "high64-zero", "jaeger") if from_opentelemetry_python => SamplingState::Debug,
        ("sampling-priority 2", "b3" | "b3multi") => SamplingState::Debug,
        ("not-sampled" | "sampling-priority 0" | "sampling-priority -1", _) => {
            SamplingState::Reject
        }
        _ => SamplingState::Accept,
    }
}

fn any_state() -> impl Strategy<Value = SamplingState> {
    prop_oneof![
        Just(SamplingState::Accept),
        Just(SamplingState::Reject),
        Just(SamplingState::Debug),
        Just(SamplingState::Defer),
    ]
}

fn any_context() -> impl Strategy<Value = SpanContext> {
    let high = prop_oneof![Just(0), any::<u64>()];
    (high, 1..=u64::MAX, 1..=u64::MAX, any_state()).prop_map(|(high, low, span, state)| {
        SpanContext {
            trace_id: TraceId::from_halves(high, low).unwrap(),
            span_id: SpanId::from_u64(span).unwrap(),
            state,
            random: false,
            firehose: false,
            trace_state: Default::default(),
            baggage: Default::default(),
            carried: Default::default(),
        }
    })
}

/// Bytes a header value may have.
fn any_value() -> impl Strategy<Value = HeaderValue> {
    let plausible = "[0-9a-fA-FgG:;=,%+ d-]{0,80}";
    let arbitrary = proptest::collection::vec(any::<u8>(), 0..200);
    prop_oneof![plausible.prop_map(String::into_bytes), arbitrary].prop_map(|mut bytes| {
        bytes.retain(|byte| *byte == b'\t' || *byte >= 0x20 && *byte != 0x7f);
        HeaderValue::from_bytes(&bytes).unwrap()
    })
}

proptest! {
    #![proptest_config(ProptestConfig {
        rng_seed: proptest::test_runner::RngSeed::Fixed(0x9e37_79b9),
        ..ProptestConfig::default()
    })]

    #[test]
    fn every_format_round_trips_ids_and_decision(context in any_context()) {
        for format in FORMATS.iter().filter(|format| !format.writes().is_empty()) {
            let mut headers = HeaderMap::new();
            format.inject(&context, &mut headers);
            let Ok(Some(Found::Parent(read))) = format.extract(&headers) else {
                panic!("{} does not read {headers:?}", format.name());
            };
            let keeps_all_digits = format.name() != "ottrace";
            if keeps_all_digits {
                prop_assert_eq!(read.trace_id, context.trace_id, "{}", format.name());
            }
            prop_assert_eq!(read.trace_id.low(), context.trace_id.low(), "{}", format.name());
            prop_assert_eq!(read.span_id, context.span_id, "{}", format.name());
            if format.name() == "cat" {
                prop_assert_eq!(read.state, SamplingState::Defer, "no word for the decision");
                continue;
            }
            let is_sampled = read.state.is_sampled();
            prop_assert_eq!(is_sampled, context.state.is_sampled(), "{}", format.name());
            let has_a_word_for_debug = ["b3", "b3multi", "jaeger"].contains(&format.name());
            if has_a_word_for_debug && context.state == SamplingState::Debug {
                prop_assert_eq!(read.state, SamplingState::Debug, "{}", format.name());
            }
        }
    }

    #[test]
    fn no_format_panics_on_arbitrary_values(values in proptest::collection::vec(any_value(), 1..8)) {
        for format in FORMATS {
            let suffixed = format.prefixes().iter().map(|prefix| format!("{prefix}k"));
            let names = format.reads().iter().map(|name| name.as_str().to_owned()).chain(suffixed);
            let mut headers = HeaderMap::new();
            for (name, value) in names.zip(values.iter().cycle()) {
                headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.clone());
            }
            for value in &values {
                headers.append(format.reads()[0], value.clone());
            }
            let found = format.extract(&headers);
            baggage_of(format.name(), &headers);
            format.debug_id(&headers);
            if let Ok(Some(Found::Parent(context))) = found {
                format.inject(&context, &mut headers);
                prop_assert!(parent(format.name(), &headers).is_some());
            }
        }
    }
}
