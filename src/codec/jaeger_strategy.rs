//! Sampling strategies between servers and clients: read in any spelling, written in the one that the asker expects.
//!
//! `strategyType` is a name for the clients of Go, Python and Node and for OpenTelemetry's samplers, a number for the
//! paths that old clients poll; over gRPC all of it is protobuf. What a strategy means is `sampling`'s to know.
//! Source: jaeger-idl `proto/api_v2/sampling.proto`; jaeger v1.67 `internal/sampling/http/handler.go`.

use prost::Message;
use serde::Deserialize;
use serde_json::Value as Json;
use serde_json::json;

use crate::codec::DecodeError;

/// The method that clients call over gRPC.
pub const METHOD: &str = "/jaeger.api_v2.SamplingManager/GetSamplingStrategy";

/// How `strategyType` is written in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spelling {
    /// `"PROBABILISTIC"`; absent branches are left out.
    Name,
    /// `0`; absent branches are null.
    Number,
}

/// A server's answer.
#[derive(Clone, PartialEq, prost::Message, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Answer {
    #[prost(int32, tag = "1")]
    #[serde(skip)]
    kind: i32,
    #[prost(message, optional, tag = "2")]
    #[serde(rename = "probabilisticSampling")]
    probabilistic: Option<Probabilistic>,
    #[prost(message, optional, tag = "3")]
    #[serde(rename = "rateLimitingSampling")]
    rate_limiting: Option<RateLimiting>,
    #[prost(message, optional, tag = "4")]
    #[serde(rename = "operationSampling")]
    operations: Option<Operations>,
}

#[derive(Clone, PartialEq, prost::Message, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Probabilistic {
    #[prost(double, tag = "1")]
    sampling_rate: f64,
}

#[derive(Clone, PartialEq, prost::Message, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RateLimiting {
    #[prost(int32, tag = "1")]
    max_traces_per_second: i32,
}

#[derive(Clone, PartialEq, prost::Message, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Operations {
    #[prost(double, tag = "1")]
    default_sampling_probability: f64,
    #[prost(double, tag = "2")]
    default_lower_bound_traces_per_second: f64,
    #[prost(message, repeated, tag = "3")]
    #[serde(deserialize_with = "list_or_null")]
    per_operation_strategies: Vec<Operation>,
    #[prost(double, tag = "4")]
    default_upper_bound_traces_per_second: f64,
}

#[derive(Clone, PartialEq, prost::Message, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Operation {
    #[prost(string, tag = "1")]
    operation: String,
    #[prost(message, optional, tag = "2")]
    #[serde(rename = "probabilisticSampling")]
    probabilistic: Option<Probabilistic>,
}

/// What a client sends over gRPC.
#[derive(Clone, PartialEq, prost::Message)]
struct Question {
    #[prost(string, tag = "1")]
    service_name: String,
}

fn list_or_null<'de, D: serde::Deserializer<'de>>(list: D) -> Result<Vec<Operation>, D::Error> {
    Ok(Option::deserialize(list)?.unwrap_or_default())
}

const PROBABILISTIC: i32 = 0;
const RATE_LIMITING: i32 = 1;

impl Answer {
    /// A share of all traces.
    pub fn probabilistic(sampling_rate: f64) -> Self {
        Self {
            probabilistic: Some(Probabilistic { sampling_rate }),
            ..Self::default()
        }
    }

    /// So many traces a second. The wire has whole numbers alone: fractions are cut, and less than one becomes one.
    pub fn rate_limiting(traces_per_second: f64) -> Self {
        let whole = if traces_per_second > 0.0 {
            (traces_per_second as i32).max(1)
        } else {
            0
        };
        Self {
            kind: RATE_LIMITING,
            rate_limiting: Some(RateLimiting {
                max_traces_per_second: whole,
            }),
            ..Self::default()
        }
    }

    /// Reads the answer over HTTP, in either spelling.
    ///
    /// # Errors
    /// [`DecodeError::Malformed`]: no JSON of this shape, or without any strategy.
    pub fn from_json(body: &[u8]) -> Result<Self, DecodeError> {
        let answer = serde_json::from_slice(body)
            .map_err(|_| DecodeError::Malformed("sampling strategy"))?;
        Self::checked(answer)
    }

    /// Reads the answer over gRPC.
    ///
    /// # Errors
    /// [`DecodeError::Malformed`]: no such message, or without any strategy.
    pub fn from_proto(message: &[u8]) -> Result<Self, DecodeError> {
        let answer =
            Self::decode(message).map_err(|_| DecodeError::Malformed("sampling strategy"))?;
        Self::checked(answer)
    }

    /// The type is what is there, never what it says: that of the service's own strategy, beside which operations may
    /// have rates.
    fn checked(mut answer: Self) -> Result<Self, DecodeError> {
        answer.kind = match (&answer.probabilistic, &answer.rate_limiting) {
            (None, Some(_)) => RATE_LIMITING,
            (None, None) if answer.operations.is_none() => {
                return Err(DecodeError::Malformed("sampling strategy"));
            }
            _ => PROBABILISTIC,
        };
        Ok(answer)
    }

    /// The answer as protobuf.
    pub fn to_proto(&self) -> Vec<u8> {
        self.encode_to_vec()
    }

    /// The answer as JSON.
    pub fn to_json(&self, spelling: Spelling) -> Vec<u8> {
        let rates = |rates: &Probabilistic| json!({ "samplingRate": rates.sampling_rate });
        let branches = [
            (
                "probabilisticSampling",
                self.probabilistic.as_ref().map(rates),
            ),
            (
                "rateLimitingSampling",
                self.rate_limiting
                    .as_ref()
                    .map(|limit| json!({ "maxTracesPerSecond": limit.max_traces_per_second })),
            ),
            (
                "operationSampling",
                self.operations.as_ref().map(|operations| {
                    let list = operations.per_operation_strategies.iter();
                    let list: Vec<Json> = list
                        .map(|operation| {
                            json!({
                                "operation": operation.operation,
                                "probabilisticSampling": operation.probabilistic.as_ref().map(rates),
                            })
                        })
                        .collect();
                    json!({
                        "defaultSamplingProbability": operations.default_sampling_probability,
                        "defaultLowerBoundTracesPerSecond": operations.default_lower_bound_traces_per_second,
                        "perOperationStrategies": list,
                        "defaultUpperBoundTracesPerSecond": operations.default_upper_bound_traces_per_second,
                    })
                }),
            ),
        ];
        let kind = match (spelling, self.kind) {
            (Spelling::Number, number) => json!(number),
            (Spelling::Name, RATE_LIMITING) => json!("RATE_LIMITING"),
            (Spelling::Name, _) => json!("PROBABILISTIC"),
        };
        let mut answer = json!({ "strategyType": kind });
        for (key, branch) in branches {
            match (branch, spelling) {
                (Some(branch), _) => answer[key] = branch,
                (None, Spelling::Number) => answer[key] = Json::Null,
                (None, Spelling::Name) => {}
            }
        }
        answer.to_string().into_bytes()
    }
}

/// The question for this service's strategy, as protobuf.
pub fn question(service: &str) -> Vec<u8> {
    Question {
        service_name: service.to_owned(),
    }
    .encode_to_vec()
}

/// The service that a question over gRPC is about.
///
/// # Errors
/// [`DecodeError::Malformed`]: no such message.
pub fn asked_for(message: &[u8]) -> Result<String, DecodeError> {
    let question =
        Question::decode(message).map_err(|_| DecodeError::Malformed("sampling question"))?;
    Ok(question.service_name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESPONSES: &[u8] = include_bytes!("../../tests/data/jaeger/sampling-responses.json");

    #[test]
    fn every_known_answer_is_read_and_written_in_each_spelling() {
        let known: serde_json::Map<String, Json> = serde_json::from_slice(RESPONSES).unwrap();
        let mut read = 0;
        for (name, body) in known {
            let Ok(answer) = Answer::from_json(body.to_string().as_bytes()) else {
                continue;
            };
            read += 1;
            let again = Answer::from_proto(&answer.to_proto()).unwrap();
            assert_eq!(again, answer, "{name}");
            for spelling in [Spelling::Name, Spelling::Number] {
                let again = Answer::from_json(&answer.to_json(spelling)).unwrap();
                assert_eq!(again, answer, "{name}");
            }
        }
        assert!(read >= 5, "{read}");
    }

    #[test]
    fn each_asker_gets_its_spelling() {
        let answer = Answer::probabilistic(0.5);
        assert_eq!(
            answer.to_json(Spelling::Name),
            br#"{"probabilisticSampling":{"samplingRate":0.5},"strategyType":"PROBABILISTIC"}"#
        );
        assert_eq!(
            answer.to_json(Spelling::Number),
            br#"{"operationSampling":null,"probabilisticSampling":{"samplingRate":0.5},"rateLimitingSampling":null,"strategyType":0}"#
        );
        let limit = Answer::rate_limiting(0.2);
        let json: Json = serde_json::from_slice(&limit.to_json(Spelling::Name)).unwrap();
        assert_eq!(json["strategyType"], "RATE_LIMITING");
        assert_eq!(json["rateLimitingSampling"]["maxTracesPerSecond"], 1);
        assert_eq!(asked_for(&question("shop")).unwrap(), "shop");
    }

    #[test]
    fn a_limit_beside_rates_of_operations_stays_a_limit() {
        // As Jaeger 1.62 answers for a service with a limit and one operation.
        let told = br#"{"strategyType":"RATE_LIMITING","rateLimitingSampling":{"maxTracesPerSecond":7},"operationSampling":{
            "defaultSamplingProbability":0.001,"defaultLowerBoundTracesPerSecond":0,"perOperationStrategies":[
            {"operation":"o","probabilisticSampling":{"samplingRate":0.25}}],"defaultUpperBoundTracesPerSecond":0}}"#;
        let answer = Answer::from_json(told).unwrap();
        let answers = [Answer::from_proto(&answer.to_proto()).unwrap(), answer];
        for answer in answers {
            let passed_on: Json = serde_json::from_slice(&answer.to_json(Spelling::Name)).unwrap();
            assert_eq!(passed_on["strategyType"], "RATE_LIMITING");
            assert_eq!(passed_on["rateLimitingSampling"]["maxTracesPerSecond"], 7);
            assert!(passed_on["operationSampling"].is_object());
        }
    }

    #[test]
    fn what_holds_no_strategy_is_refused() {
        for (body, why) in [
            ("", "empty"),
            ("{}", "nothing in it"),
            (r#"{"strategyType":"PROBABILISTIC"}"#, "a type alone"),
            (r#"{"probabilisticSampling":7}"#, "another shape"),
        ] {
            assert!(Answer::from_json(body.as_bytes()).is_err(), "{why}");
        }
        assert!(Answer::from_proto(&[]).is_err(), "nothing in it");
        assert!(Answer::from_proto(&[0x12, 0x09]).is_err(), "cut short");
    }
}
