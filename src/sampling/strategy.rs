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
    /// Its times mean nothing without the time it was given at.
    #[error("the answer has no date")]
    Undated,
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
mod tests;
