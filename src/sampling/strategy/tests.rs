//! Every answer that servers give, what protobuf allows besides, and what is refused.

use proptest::prelude::any;
use proptest::prelude::prop;
use proptest::proptest;
use serde_json::Value;

use super::*;

fn probabilistic(rate: f64) -> Strategy {
    Strategy::Probabilistic(Probability::new(rate).unwrap())
}

fn rate_limiting(rate: f64) -> Strategy {
    Strategy::RateLimiting(TracesPerSecond::new(rate).unwrap())
}

fn per_operation(default: f64, lower_bound: f64, operations: &[(&str, f64)]) -> Strategy {
    Strategy::PerOperation(OperationRates {
        default: Probability::new(default).unwrap(),
        lower_bound: TracesPerSecond::new(lower_bound).unwrap(),
        operations: operations
            .iter()
            .map(|(name, rate)| (Text::new(name), Probability::new(*rate).unwrap()))
            .collect(),
    })
}

#[test]
fn reads_every_answer_that_servers_give() {
    let vectors: serde_json::Map<String, Value> = serde_json::from_str(include_str!(
        "../../../tests/data/jaeger/sampling-responses.json"
    ))
    .unwrap();
    let services = [("op1", 0.2), ("op2", 0.4), ("/health", 0.0)];
    let expected = [
        ("legacy-int-enum (agent", probabilistic(0.5)),
        ("legacy-int-enum-ratelimiting", rate_limiting(42.0)),
        ("string-enum-probabilistic", probabilistic(0.42)),
        ("string-enum-ratelimiting", rate_limiting(42.0)),
        (
            "per-operation-adaptive",
            per_operation(0.001, 1.0 / 60.0, &[]),
        ),
        ("per-operation-null-list", per_operation(0.001, 0.01, &[])),
        (
            "per-operation-with-service-default",
            per_operation(0.8, 0.0, &services),
        ),
        (
            "ratelimiting-service-with-inherited",
            per_operation(0.5, 0.0, &[("/health", 0.0)]),
        ),
    ];
    assert_eq!(
        vectors.len(),
        expected.len(),
        "a vector without expectation"
    );
    for (name, strategy) in expected {
        let (_, answer) = vectors
            .iter()
            .find(|(key, _)| key.starts_with(name))
            .unwrap_or_else(|| panic!("no vector {name}"));
        assert_eq!(
            parse_strategy(answer.to_string().as_bytes()).unwrap(),
            strategy,
            "{name}"
        );
    }
}

#[test]
fn reads_what_protobuf_json_allows() {
    for (body, strategy, why) in [
        (
            r#"{"probabilisticSampling":{"samplingRate":"0.5"}}"#,
            probabilistic(0.5),
            "quoted number",
        ),
        (
            r#"{"probabilisticSampling":{}}"#,
            probabilistic(0.0),
            "zero left out",
        ),
        (
            r#"{"rateLimitingSampling":{"maxTracesPerSecond":null}}"#,
            rate_limiting(0.0),
            "null is zero",
        ),
        (
            r#"{"rateLimitingSampling":{"maxTracesPerSecond":7},"new":[1]}"#,
            rate_limiting(7.0),
            "unknown key",
        ),
        (
            r#"{"operationSampling":{"perOperationStrategies":[{"operation":"a","probabilisticSampling":{}}]}}"#,
            per_operation(0.0, 0.0, &[("a", 0.0)]),
            "zeros left out",
        ),
        (
            r#"{"strategyType":"RATE_LIMITING","probabilisticSampling":{"samplingRate":1}}"#,
            probabilistic(1.0),
            "the type is not trusted",
        ),
    ] {
        assert_eq!(parse_strategy(body.as_bytes()).unwrap(), strategy, "{why}");
    }
}

#[test]
fn nonsense_is_refused_with_the_field_named() {
    for (body, message) in [
        ("", "the answer is not a sampling strategy"),
        ("<html>", "the answer is not a sampling strategy"),
        ("[]", "the answer is not a sampling strategy"),
        ("null", "the answer is not a sampling strategy"),
        (
            r#"{"probabilisticSampling":0.5}"#,
            "the answer is not a sampling strategy",
        ),
        (
            r#"{"probabilisticSampling":{"samplingRate":1e999}}"#,
            "the answer is not a sampling strategy",
        ),
        (
            r#"{"probabilisticSampling":{"samplingRate":true}}"#,
            "the answer is not a sampling strategy",
        ),
        ("{}", "the answer contains no sampling strategy"),
        (
            r#"{"strategyType":"PROBABILISTIC"}"#,
            "the answer contains no sampling strategy",
        ),
        (
            r#"{"probabilisticSampling":{"samplingRate":-0.1}}"#,
            "samplingRate is out of range",
        ),
        (
            r#"{"probabilisticSampling":{"samplingRate":1.1}}"#,
            "samplingRate is out of range",
        ),
        (
            r#"{"probabilisticSampling":{"samplingRate":"NaN"}}"#,
            "samplingRate is out of range",
        ),
        (
            r#"{"probabilisticSampling":{"samplingRate":"much"}}"#,
            "samplingRate is out of range",
        ),
        (
            r#"{"rateLimitingSampling":{"maxTracesPerSecond":-1}}"#,
            "maxTracesPerSecond is out of range",
        ),
        (
            r#"{"rateLimitingSampling":{"maxTracesPerSecond":"Infinity"}}"#,
            "maxTracesPerSecond is out of range",
        ),
        (
            r#"{"operationSampling":{"defaultSamplingProbability":2}}"#,
            "defaultSamplingProbability is out of range",
        ),
        (
            r#"{"operationSampling":{"defaultLowerBoundTracesPerSecond":-2}}"#,
            "defaultLowerBoundTracesPerSecond is out of range",
        ),
        (
            r#"{"operationSampling":{"perOperationStrategies":[{"operation":"a"}]}}"#,
            r#"operation "a" has no usable probability"#,
        ),
        (
            r#"{"operationSampling":{"perOperationStrategies":[{"operation":"a","probabilisticSampling":{"samplingRate":9}}]}}"#,
            r#"operation "a" has no usable probability"#,
        ),
    ] {
        let error = parse_strategy(body.as_bytes()).unwrap_err();
        assert_eq!(error.to_string(), message, "{body}");
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
        drop(parse_strategy(&body));
    }

    #[test]
    fn damaged_answers_never_panic(at in 0usize..200, byte in any::<u8>()) {
        let mut body = br#"{"strategyType":0,"operationSampling":{"defaultSamplingProbability":0.5,
            "perOperationStrategies":[{"operation":"a","probabilisticSampling":{"samplingRate":0.1}}]}}"#.to_vec();
        let at = at % body.len();
        body[at] = byte;
        drop(parse_strategy(&body));
    }
}
