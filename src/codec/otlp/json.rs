//! OTLP's JSON form: hex ids, integers for enums, decimal text for 64-bit integers, base64 for bytes.
//!
//! Source: opentelemetry-proto `docs/specification.md`, section "JSON Protobuf Encoding".

use std::sync::Arc;

use serde::Deserialize;
use serde::Serialize;

use crate::codec::limits::DecodeError;
use crate::codec::limits::Decoded;
use crate::codec::limits::Limits;
use crate::codec::otlp::decode::decode;
use crate::codec::otlp::message;
use crate::codec::otlp::message::ExportTraceServiceRequest;
use crate::codec::otlp::message::any_value::Value;
use crate::model::Span;

/// The spans as one `TracesData` (the same shape as an export request) in OTLP JSON.
pub fn encode_json(spans: &[Arc<Span>]) -> Vec<u8> {
    // Writing plain structs into a Vec cannot fail; an empty answer would be the visible sign if it ever did.
    serde_json::to_vec(&ExportTraceServiceRequest::of(spans)).unwrap_or_default()
}

/// The same as a JSON value, for answers that wrap it.
pub fn to_json(spans: &[Arc<Span>]) -> serde_json::Value {
    serde_json::to_value(ExportTraceServiceRequest::of(spans)).unwrap_or_default()
}

/// Reads an `ExportTraceServiceRequest` in JSON form.
///
/// Unknown keys are ignored, 64-bit integers may be text or numbers, hex may be of any case.
///
/// # Errors
/// [`DecodeError`]: the whole request is refused.
pub fn decode_json(bytes: &[u8], limits: Limits) -> Result<Decoded, DecodeError> {
    // An empty object takes two bytes and becomes a struct of hundreds: bound the number of objects beforehand.
    let objects = bytes.iter().filter(|byte| **byte == b'{').count();
    if objects / 2 > limits.parts.min(OBJECTS_LIMIT) {
        return Err(DecodeError::TooMany("objects"));
    }
    let request: ExportTraceServiceRequest =
        serde_json::from_slice(bytes).map_err(|_| DecodeError::Malformed("JSON"))?;
    // One set of rules for both forms: what JSON said goes through the protobuf reader.
    decode(&prost::Message::encode_to_vec(&request), limits)
}

/// Far above what 20,000 spans with usual attributes need, far below what would hurt.
const OBJECTS_LIMIT: usize = 500_000;

/// `AnyValue` as JSON spells it: an object with one member.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct AnyValue {
    #[serde(skip_serializing_if = "Option::is_none")]
    string_value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bool_value: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    int_value: Option<IntText>,
    #[serde(skip_serializing_if = "Option::is_none")]
    double_value: Option<DoubleText>,
    #[serde(skip_serializing_if = "Option::is_none")]
    array_value: Option<message::ArrayValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kvlist_value: Option<message::KeyValueList>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes_value: Option<Base64>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct IntText(#[serde(with = "i64_text")] i64);

#[derive(Debug, Clone, Serialize, Deserialize)]
struct DoubleText(#[serde(with = "f64_text")] f64);

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Base64(#[serde(with = "base64_text")] Vec<u8>);

impl From<AnyValue> for message::AnyValue {
    fn from(json: AnyValue) -> Self {
        let value = json
            .string_value
            .map(Value::String)
            .or(json.bool_value.map(Value::Bool))
            .or(json.int_value.map(|number| Value::Int(number.0)))
            .or(json.double_value.map(|number| Value::Double(number.0)))
            .or(json.array_value.map(Value::Array))
            .or(json.kvlist_value.map(Value::Kvlist))
            .or(json.bytes_value.map(|bytes| Value::Bytes(bytes.0)));
        Self { value }
    }
}

impl From<message::AnyValue> for AnyValue {
    fn from(message: message::AnyValue) -> Self {
        let mut json = Self::default();
        match message.value {
            Some(Value::String(text)) => json.string_value = Some(text),
            Some(Value::Bool(value)) => json.bool_value = Some(value),
            Some(Value::Int(number)) => json.int_value = Some(IntText(number)),
            Some(Value::Double(number)) => json.double_value = Some(DoubleText(number)),
            Some(Value::Array(list)) => json.array_value = Some(list),
            Some(Value::Kvlist(map)) => json.kvlist_value = Some(map),
            Some(Value::Bytes(bytes)) => json.bytes_value = Some(Base64(bytes)),
            None => {}
        }
        json
    }
}

/// 64-bit integers: written as text, read as text or number.
macro_rules! integer_text {
    ($module:ident, $type:ty) => {
        pub(super) mod $module {
            use serde::Deserialize;

            #[derive(Deserialize)]
            #[serde(untagged)]
            enum Either {
                Number($type),
                Text(String),
            }

            pub(in crate::codec::otlp) fn serialize<S: serde::Serializer>(
                number: &$type,
                serializer: S,
            ) -> Result<S::Ok, S::Error> {
                serializer.collect_str(number)
            }

            pub(in crate::codec::otlp) fn deserialize<'de, D: serde::Deserializer<'de>>(
                deserializer: D,
            ) -> Result<$type, D::Error> {
                match Either::deserialize(deserializer)? {
                    Either::Number(number) => Ok(number),
                    Either::Text(text) => text.parse().map_err(serde::de::Error::custom),
                }
            }
        }
    };
}

integer_text!(i64_text, i64);
integer_text!(u64_text, u64);

/// Floats: numbers, and the texts `NaN`, `Infinity` and `-Infinity` where JSON has no number.
mod f64_text {
    use serde::Deserialize;

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Number(f64),
        Text(String),
    }

    pub(super) fn serialize<S: serde::Serializer>(
        number: &f64,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        if number.is_nan() {
            serializer.serialize_str("NaN")
        } else if number.is_infinite() {
            serializer.serialize_str(if *number > 0.0 {
                "Infinity"
            } else {
                "-Infinity"
            })
        } else {
            serializer.serialize_f64(*number)
        }
    }

    pub(super) fn deserialize<'de, D: serde::Deserializer<'de>>(
        deserializer: D,
    ) -> Result<f64, D::Error> {
        match Either::deserialize(deserializer)? {
            Either::Number(number) => Ok(number),
            Either::Text(text) => text.parse().map_err(serde::de::Error::custom),
        }
    }
}

/// Ids: lower-case hex out, any case in.
pub(super) mod hex {
    use std::fmt::Write;

    use serde::Deserialize;

    pub(in crate::codec::otlp) fn serialize<S: serde::Serializer>(
        bytes: &[u8],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let mut text = String::with_capacity(bytes.len() * 2);
        for byte in bytes {
            write!(text, "{byte:02x}").map_err(serde::ser::Error::custom)?;
        }
        serializer.serialize_str(&text)
    }

    pub(in crate::codec::otlp) fn deserialize<'de, D: serde::Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        let digit = |digit: u8| {
            (digit as char)
                .to_digit(16)
                .map(|value| value as u8)
                .ok_or_else(|| serde::de::Error::custom("an id is not hexadecimal"))
        };
        let (pairs, odd) = text.as_bytes().as_chunks::<2>();
        if !odd.is_empty() {
            return Err(serde::de::Error::custom(
                "an id has an odd number of digits",
            ));
        }
        pairs
            .iter()
            .map(|[high, low]| Ok(digit(*high)? << 4 | digit(*low)?))
            .collect()
    }
}

mod base64_text {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use serde::Deserialize;

    pub(super) fn serialize<S: serde::Serializer>(
        bytes: &[u8],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: serde::Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD.decode(text).map_err(serde::de::Error::custom)
    }
}
