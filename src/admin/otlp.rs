//! `POST /v1/traces`: spans of other sidecars and programs, over OTLP/HTTP, for the view alone.
//!
//! Protobuf and JSON, plain or gzip, within limits on every size before and after decompression. Answers follow the
//! OTLP specification: an empty message or a partial success under 200, `google.rpc.Status` otherwise, in the
//! request's own content type; 503 with `Retry-After` when busy.
//!
//! Source: field sheet on OTLP, sections 2.2 and 2.3.

use std::borrow::Cow;
use std::io::Read;
use std::sync::Arc;

use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use http::HeaderMap;
use http::HeaderValue;
use http::Request;
use http::StatusCode;
use http::header;
use prost::Message;
use serde::Serialize;

use crate::admin::Store;
use crate::admin::respond;
use crate::admin::respond::Answer;
use crate::codec::DecodeError;
use crate::codec::Limits;
use crate::codec::otlp;
use crate::codec::otlp::message::ExportTracePartialSuccess;
use crate::codec::otlp::message::ExportTraceServiceResponse;

/// The path that OTLP exporters append.
pub(super) const PATH: &str = "/v1/traces";
/// Requests read at once.
pub(super) const CONCURRENT: usize = 4;
/// A request body as it arrives, in bytes.
pub(super) const MAX_BODY: usize = 4 << 20;
/// A request body after decompression, in bytes.
const MAX_INFLATED: usize = 16 << 20;

/// The two encodings of OTLP/HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encoding {
    Protobuf,
    Json,
}

/// Why spans were refused.
#[derive(Debug, thiserror::Error)]
enum ReceiveError {
    #[error("content type must be application/x-protobuf or application/json")]
    ContentType,
    #[error("content encoding must be gzip or identity")]
    ContentEncoding,
    #[error("malformed gzip")]
    Gzip,
    #[error("body exceeds {0} bytes after decompression")]
    TooLarge(usize),
    #[error("{0}")]
    Decode(#[from] DecodeError),
}

/// `google.rpc.Status`, the body of every refusal.
#[derive(Clone, PartialEq, Message, Serialize)]
struct Status {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
}

/// Takes one export request. Holds decoding memory, so the caller bounds how many run at once.
pub(super) async fn receive(request: Request<Bytes>, store: &Arc<Store>) -> Answer {
    let (parts, body) = request.into_parts();
    let encoding = match encoding(&parts.headers) {
        Ok(encoding) => encoding,
        Err(error) => return refuse(Encoding::Json, &error),
    };
    let gzip = match is_gzip(&parts.headers) {
        Ok(gzip) => gzip,
        Err(error) => return refuse(encoding, &error),
    };
    let store = Arc::clone(store);
    let work = move || {
        let body = inflate(&body, gzip)?;
        let decoded = match encoding {
            Encoding::Protobuf => otlp::decode(&body, Limits::default())?,
            Encoding::Json => otlp::decode_json(&body, Limits::default())?,
        };
        store.insert(decoded.spans.into_iter().map(Arc::new));
        Ok::<_, ReceiveError>(decoded.rejected)
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(rejected)) => accept(encoding, rejected),
        Ok(Err(error)) => refuse(encoding, &error),
        Err(error) => respond::text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

/// 503, to be tried again in a second.
pub(super) fn busy(headers: &HeaderMap) -> Answer {
    let encoding = encoding(headers).unwrap_or(Encoding::Json);
    let status = Status {
        code: 14,
        message: "busy with other span batches".to_owned(),
    };
    let mut answer = answer(StatusCode::SERVICE_UNAVAILABLE, encoding, &status);
    answer
        .headers_mut()
        .insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    answer
}

fn encoding(headers: &HeaderMap) -> Result<Encoding, ReceiveError> {
    let kind = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or("");
    let kind = kind.split(';').next().unwrap_or("").trim();
    match kind.to_ascii_lowercase().as_str() {
        "application/x-protobuf" => Ok(Encoding::Protobuf),
        "application/json" => Ok(Encoding::Json),
        _ => Err(ReceiveError::ContentType),
    }
}

fn is_gzip(headers: &HeaderMap) -> Result<bool, ReceiveError> {
    let Some(value) = headers.get(header::CONTENT_ENCODING) else {
        return Ok(false);
    };
    match value.as_bytes().to_ascii_lowercase().as_slice() {
        b"gzip" | b"x-gzip" => Ok(true),
        b"identity" | b"" => Ok(false),
        _ => Err(ReceiveError::ContentEncoding),
    }
}

fn inflate(body: &[u8], gzip: bool) -> Result<Cow<'_, [u8]>, ReceiveError> {
    if !gzip {
        return Ok(Cow::Borrowed(body));
    }
    let mut inflated = Vec::new();
    let limit = MAX_INFLATED as u64 + 1;
    MultiGzDecoder::new(body)
        .take(limit)
        .read_to_end(&mut inflated)
        .map_err(|_| ReceiveError::Gzip)?;
    if inflated.len() > MAX_INFLATED {
        return Err(ReceiveError::TooLarge(MAX_INFLATED));
    }
    Ok(Cow::Owned(inflated))
}

fn accept(encoding: Encoding, rejected: u64) -> Answer {
    let partial_success = (rejected > 0).then(|| ExportTracePartialSuccess {
        rejected_spans: i64::try_from(rejected).unwrap_or(i64::MAX),
        error_message: "spans without valid trace or span id".to_owned(),
    });
    answer(
        StatusCode::OK,
        encoding,
        &ExportTraceServiceResponse { partial_success },
    )
}

fn refuse(encoding: Encoding, error: &ReceiveError) -> Answer {
    let status = match error {
        ReceiveError::ContentType | ReceiveError::ContentEncoding => {
            StatusCode::UNSUPPORTED_MEDIA_TYPE
        }
        ReceiveError::TooLarge(_) | ReceiveError::Decode(DecodeError::TooMany(_)) => {
            StatusCode::PAYLOAD_TOO_LARGE
        }
        ReceiveError::Gzip | ReceiveError::Decode(_) => StatusCode::BAD_REQUEST,
    };
    let body = Status {
        // INVALID_ARGUMENT
        code: 3,
        message: error.to_string(),
    };
    answer(status, encoding, &body)
}

fn answer<M: Message + Serialize>(status: StatusCode, encoding: Encoding, message: &M) -> Answer {
    match encoding {
        Encoding::Protobuf => {
            respond::body(status, "application/x-protobuf", message.encode_to_vec())
        }
        Encoding::Json => respond::json_under(status, message),
    }
}
