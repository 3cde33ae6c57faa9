//! OTLP over HTTP: which of its encodings a request is in, what it holds, and the answers in that encoding.
//!
//! An empty message or a partial success under 200, `google.rpc.Status` otherwise; 503 with `Retry-After` when busy.
//! Source: opentelemetry-proto `docs/specification.md`, section "OTLP/HTTP".

use http::HeaderMap;
use http::StatusCode;
use prost::Message;
use serde::Serialize;

use crate::codec::Decoded;
use crate::codec::Limits;
use crate::codec::otlp;
use crate::codec::otlp::message::ExportTracePartialSuccess;
use crate::codec::otlp::message::ExportTraceServiceResponse;
use crate::receiver::body;
use crate::receiver::body::Refusal;

/// The path that exporters append.
pub const PATH: &str = "/v1/traces";

/// The two encodings of OTLP/HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// `application/x-protobuf`.
    Protobuf,
    /// `application/json`.
    Json,
}

/// Status, content type and body of an answer.
pub type Answer = (StatusCode, &'static str, Vec<u8>);

/// `google.rpc.Status`, the body of every refusal.
#[derive(Clone, PartialEq, Message, Serialize)]
struct Status {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
}

const INVALID_ARGUMENT: i32 = 3;
const UNAVAILABLE: i32 = 14;

/// The encoding of a request.
///
/// # Errors
/// [`Refusal::ContentType`].
pub fn encoding(headers: &HeaderMap) -> Result<Encoding, Refusal> {
    match body::content_type(headers).as_str() {
        "application/x-protobuf" => Ok(Encoding::Protobuf),
        "application/json" => Ok(Encoding::Json),
        _ => Err(Refusal::ContentType(
            "application/x-protobuf or application/json",
        )),
    }
}

/// The spans of a request whose body, once inflated, has at most `most` bytes.
///
/// # Errors
/// [`Refusal`]: nothing of it is kept.
pub fn decode(headers: &HeaderMap, bytes: &[u8], most: usize) -> Result<Decoded, Refusal> {
    let encoding = encoding(headers)?;
    let bytes = body::inflated(bytes, body::is_gzip(headers)?, most)?;
    Ok(match encoding {
        Encoding::Protobuf => otlp::decode(&bytes, Limits::default())?,
        Encoding::Json => otlp::decode_json(&bytes, Limits::default())?,
    })
}

/// The answer to a request that was taken, with the number of its spans that were not.
pub fn accept(encoding: Encoding, rejected: u64) -> Answer {
    written(StatusCode::OK, encoding, &response(rejected))
}

/// The message of that answer.
pub(super) fn response(rejected: u64) -> ExportTraceServiceResponse {
    let partial_success = (rejected > 0).then(|| ExportTracePartialSuccess {
        rejected_spans: i64::try_from(rejected).unwrap_or(i64::MAX),
        error_message: "spans without valid trace or span id".to_owned(),
    });
    ExportTraceServiceResponse { partial_success }
}

/// The answer to a request that was refused. One that was refused as busy may come again: `Retry-After` says so.
pub fn refuse(encoding: Encoding, refusal: &Refusal) -> Answer {
    let code = match refusal {
        Refusal::Busy => UNAVAILABLE,
        _ => INVALID_ARGUMENT,
    };
    let status = Status {
        code,
        message: refusal.to_string(),
    };
    written(refusal.status(), encoding, &status)
}

fn written<M: Message + Serialize>(status: StatusCode, encoding: Encoding, message: &M) -> Answer {
    match encoding {
        Encoding::Protobuf => (status, "application/x-protobuf", message.encode_to_vec()),
        // Writing plain structs into a Vec cannot fail.
        Encoding::Json => (
            status,
            "application/json",
            serde_json::to_vec(message).unwrap_or_default(),
        ),
    }
}
