//! Reads what a sampling backend answers: JSON bytes in, a checked strategy out.
//!
//! Both spellings that servers use are read: `strategyType` as a name or as a number (or absent: the type is never
//! trusted, what is there counts, `operationSampling` first), absent branches as `null` or missing, numbers as numbers
//! or, as protobuf's JSON allows, as text. A missing number is zero, as in protobuf. Unknown keys are skipped. A number
//! outside its range refuses the whole answer, so that a broken backend changes nothing.
//!
//! Source: jaeger-idl `proto/api_v2/sampling.proto`, `thrift/sampling.thrift`; `tests/data/jaeger/sampling-responses.json`.

use serde::Deserialize;

use crate::model::Text;
use crate::sampling::Probability;
use crate::sampling::RangeError;
use crate::sampling::TracesPerSecond;

/// The rules for one service as its backend sent them.
#[derive(Debug, Clone, PartialEq)]
pub enum Strategy {
    /// A share of all traces.
    Probabilistic(Probability),
    /// At most so many traces a second.
    RateLimiting(TracesPerSecond),
    /// Rates by operation.
    PerOperation(OperationRates),
}

/// Rates by operation.
#[derive(Debug, Clone, PartialEq)]
pub struct OperationRates {
    /// The probability of operations that are not listed.
    pub default: Probability,
    /// Traces a second that each operation gets whatever its probability.
    pub lower_bound: TracesPerSecond,
    /// Operation names with their probability, in the order of the answer; of duplicates the last counts.
    pub operations: Vec<(Text, Probability)>,
}

/// Why an answer is not a usable strategy.
#[derive(Debug, thiserror::Error)]
pub enum StrategyError {
    /// Not JSON, or JSON of another shape.
    #[error("the answer is not a sampling strategy")]
    Shape(#[source] serde_json::Error),
    /// None of the three kinds is there.
    #[error("the answer contains no sampling strategy")]
    Empty,
    /// A number outside its range.
    #[error("{field} is out of range")]
    Range {
        /// The JSON key.
        field: &'static str,
        /// The value and what was expected.
        #[source]
        source: RangeError,
    },
    /// A listed operation with an unusable probability.
    #[error("operation {operation:?} has no usable probability")]
    Operation {
        /// The operation's name.
        operation: Text,
        /// The value and what was expected; `None` when there is none.
        #[source]
        source: Option<RangeError>,
    },
}

/// Reads the body of an answer to `GET ...?service=S`.
///
/// # Errors
/// See [`StrategyError`]; the caller keeps the strategy it has.
pub fn parse_strategy(body: &[u8]) -> Result<Strategy, StrategyError> {
    let answer: Answer = serde_json::from_slice(body).map_err(StrategyError::Shape)?;
    if let Some(operations) = answer.operation_sampling {
        return Ok(Strategy::PerOperation(operation_rates(operations)?));
    }
    if let Some(probabilistic) = answer.probabilistic_sampling {
        let rate = probability("samplingRate", probabilistic.sampling_rate)?;
        return Ok(Strategy::Probabilistic(rate));
    }
    if let Some(limit) = answer.rate_limiting_sampling {
        let rate = traces_per_second("maxTracesPerSecond", limit.max_traces_per_second)?;
        return Ok(Strategy::RateLimiting(rate));
    }
    Err(StrategyError::Empty)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    operation_sampling: Option<OperationSampling>,
    probabilistic_sampling: Option<ProbabilisticSampling>,
    rate_limiting_sampling: Option<RateLimitingSampling>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ProbabilisticSampling {
    #[serde(default)]
    sampling_rate: Number,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RateLimitingSampling {
    #[serde(default)]
    max_traces_per_second: Number,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OperationSampling {
    #[serde(default)]
    default_sampling_probability: Number,
    #[serde(default)]
    default_lower_bound_traces_per_second: Number,
    per_operation_strategies: Option<Vec<OperationStrategy>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OperationStrategy {
    #[serde(default)]
    operation: Text,
    probabilistic_sampling: Option<ProbabilisticSampling>,
}

/// A number, a number in quotes, or `null`.
#[derive(Deserialize, Default)]
#[serde(untagged)]
enum Number {
    Plain(f64),
    Quoted(String),
    #[default]
    Absent,
}

impl Number {
    /// Text that is no number becomes NaN, which no range admits.
    fn value(&self) -> f64 {
        match self {
            Self::Plain(number) => *number,
            Self::Quoted(text) => text.parse().unwrap_or(f64::NAN),
            Self::Absent => 0.0,
        }
    }
}

fn operation_rates(answer: OperationSampling) -> Result<OperationRates, StrategyError> {
    let listed = answer.per_operation_strategies.unwrap_or_default();
    let mut operations = Vec::with_capacity(listed.len());
    for OperationStrategy {
        operation,
        probabilistic_sampling,
    } in listed
    {
        let rate = match probabilistic_sampling {
            None => Err(None),
            Some(sampling) => Probability::new(sampling.sampling_rate.value()).map_err(Some),
        };
        match rate {
            Ok(rate) => operations.push((operation, rate)),
            Err(source) => return Err(StrategyError::Operation { operation, source }),
        }
    }
    Ok(OperationRates {
        default: probability(
            "defaultSamplingProbability",
            answer.default_sampling_probability,
        )?,
        lower_bound: traces_per_second(
            "defaultLowerBoundTracesPerSecond",
            answer.default_lower_bound_traces_per_second,
        )?,
        operations,
    })
}

fn probability(field: &'static str, number: Number) -> Result<Probability, StrategyError> {
    Probability::new(number.value()).map_err(|source| StrategyError::Range { field, source })
}

fn traces_per_second(
    field: &'static str,
    number: Number,
) -> Result<TracesPerSecond, StrategyError> {
    TracesPerSecond::new(number.value()).map_err(|source| StrategyError::Range { field, source })
}

#[cfg(test)]
mod tests {
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
            "../../tests/data/jaeger/sampling-responses.json"
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
            let _ = parse_strategy(&body);
        }

        #[test]
        fn damaged_answers_never_panic(at in 0usize..200, byte in any::<u8>()) {
            let mut body = br#"{"strategyType":0,"operationSampling":{"defaultSamplingProbability":0.5,
                "perOperationStrategies":[{"operation":"a","probabilisticSampling":{"samplingRate":0.1}}]}}"#.to_vec();
            let at = at % body.len();
            body[at] = byte;
            let _ = parse_strategy(&body);
        }
    }
}
