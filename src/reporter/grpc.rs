//! One gRPC call over the shared HTTP/2 client: the frame, the status, and what it means for the batch.
//!
//! Written by hand because calls with whole messages need none of what a gRPC framework brings. Sources: gRPC
//! "PROTOCOL-HTTP2.md"; opentelemetry-proto `docs/specification.md`, section "OTLP/gRPC"; `google/rpc/error_details.proto`.

use std::time::Duration;

use base64::Engine;
use base64::engine::DecodePaddingMode;
use base64::engine::GeneralPurpose;
use base64::engine::GeneralPurposeConfig;
use bytes::BufMut;
use bytes::Bytes;
use bytes::BytesMut;
use http::HeaderMap;
use http::HeaderValue;
use http::Request;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use http::header::TE;
use http::header::USER_AGENT;
use http_body_util::Full;
use prost::Message;

use crate::reporter::post::AGENT;
use crate::reporter::post::Compression;
use crate::reporter::post::MAX_ANSWER;
use crate::reporter::post::Target;
use crate::reporter::post::client_error;
use crate::reporter::post::compressed;
use crate::reporter::post::encode_error;
use crate::reporter::post::first_line;
use crate::reporter::post::refused;
use crate::reporter::sender::SendError;

/// The path of `TraceService.Export`.
pub(super) const EXPORT_PATH: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

/// What RESOURCE_EXHAUSTED means when the server does not say how long to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exhausted {
    /// OTLP: the batch is refused.
    Refused,
    /// Jaeger's collector: its queue is full now.
    Later,
}

/// Calls the target's method with one message; answers the response message.
pub(super) async fn call(
    target: &Target,
    message: Bytes,
    exhausted: Exhausted,
) -> Result<Bytes, SendError> {
    exchange(target, frame(target.compression, message)?, exhausted).await
}

/// Calls the target's client-streaming method with these messages and the end of the stream behind them.
pub(super) async fn call_with_stream(
    target: &Target,
    messages: Vec<Vec<u8>>,
) -> Result<Bytes, SendError> {
    let mut frames = BytesMut::new();
    for message in messages {
        frames.put(frame(target.compression, message.into())?);
    }
    exchange(target, frames.freeze(), Exhausted::Refused).await
}

async fn exchange(
    target: &Target,
    frames: Bytes,
    exhausted: Exhausted,
) -> Result<Bytes, SendError> {
    let mut request = Request::post(target.uri.clone())
        .body(Full::new(frames))
        .map_err(|error| encode_error(&error))?;
    *request.headers_mut() = headers(target);
    let answer = target
        .connector
        .client
        .send_with_trailers(request, target.timeout, MAX_ANSWER)
        .await
        .map_err(|error| client_error(&target.uri, &error))?;
    if answer.response.status() != StatusCode::OK {
        // A proxy in between answered; its status follows the same rules as over HTTP.
        return Err(refused(&answer.response, None));
    }
    // A server that fails at once puts its status into the headers.
    let status = if answer.trailers.contains_key("grpc-status") {
        &answer.trailers
    } else {
        answer.response.headers()
    };
    match failure(status, exhausted) {
        Some(error) => Err(error),
        None => Ok(unframed(answer.response.body())),
    }
}

fn headers(target: &Target) -> HeaderMap {
    let mut headers = target.headers.clone();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(TE, HeaderValue::from_static("trailers"));
    if target.compression == Compression::Gzip {
        headers.insert("grpc-encoding", HeaderValue::from_static("gzip"));
    }
    // At most eight digits are allowed.
    let millis = target.timeout.as_millis().clamp(1, 99_999_999);
    if let Ok(timeout) = HeaderValue::try_from(format!("{millis}m")) {
        headers.insert("grpc-timeout", timeout);
    }
    headers
        .entry(USER_AGENT)
        .or_insert(HeaderValue::from_static(AGENT));
    headers
}

fn frame(compression: Compression, message: Bytes) -> Result<Bytes, SendError> {
    let message = compressed(compression, message)?;
    let len = u32::try_from(message.len()).map_err(|error| encode_error(&error))?;
    let mut frame = BytesMut::with_capacity(FRAME_HEAD + message.len());
    frame.put_u8(u8::from(compression == Compression::Gzip));
    frame.put_u32(len);
    frame.put_slice(&message);
    Ok(frame.freeze())
}

const FRAME_HEAD: usize = 5;

/// The message of an answer; empty when it is absent or compressed, which reads as "everything accepted".
fn unframed(body: &Bytes) -> Bytes {
    match body.first() {
        Some(0) if body.len() >= FRAME_HEAD => body.slice(FRAME_HEAD..),
        _ => Bytes::new(),
    }
}

/// `None`: status 0.
fn failure(status: &HeaderMap, exhausted: Exhausted) -> Option<SendError> {
    let code = status
        .get("grpc-status")
        .and_then(|code| code.to_str().ok()?.parse().ok())
        .unwrap_or(UNKNOWN);
    if code == 0 {
        return None;
    }
    let message = message(status);
    let cause = format!("grpc status {code}: {message}");
    let delay = retry_delay(status);
    let retry = match code {
        // CANCELLED, DEADLINE_EXCEEDED, ABORTED, OUT_OF_RANGE, UNAVAILABLE, DATA_LOSS.
        1 | 4 | 10 | 11 | 14 | 15 => true,
        // RESOURCE_EXHAUSTED is also what the library of a server says by itself of a message that no time makes smaller.
        8 if exhausted == Exhausted::Later => !message.contains("larger than max"),
        // Only a server that says when expects us back.
        8 => delay.is_some(),
        _ => false,
    };
    Some(if retry {
        SendError::Retry {
            after: delay,
            cause,
        }
    } else {
        SendError::rejected(cause)
    })
}

/// What a missing or unreadable status counts as.
const UNKNOWN: u32 = 2;

fn message(status: &HeaderMap) -> String {
    let Some(message) = status.get("grpc-message") else {
        return String::new();
    };
    let decoded: Vec<u8> = percent_encoding::percent_decode(message.as_bytes()).collect();
    first_line(&decoded)
}

/// The delay of the `RetryInfo` in `grpc-status-details-bin`.
fn retry_delay(status: &HeaderMap) -> Option<Duration> {
    let details = status.get("grpc-status-details-bin")?;
    let details = BASE64.decode(details.as_bytes()).ok()?;
    let status = RpcStatus::decode(details.as_slice()).ok()?;
    let info = status
        .details
        .iter()
        .find(|detail| detail.type_url.ends_with("/google.rpc.RetryInfo"))?;
    let delay = RetryInfo::decode(info.value.as_slice())
        .ok()?
        .retry_delay
        .unwrap_or_default();
    let seconds = u64::try_from(delay.seconds).unwrap_or(0);
    let nanos = u32::try_from(delay.nanos).unwrap_or(0).min(999_999_999);
    Some(Duration::new(seconds, nanos))
}

/// Binary headers come with or without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// `google.rpc.Status`: the body of an HTTP error answer, and the content of `grpc-status-details-bin`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct RpcStatus {
    #[prost(int32, tag = "1")]
    pub(super) code: i32,
    #[prost(string, tag = "2")]
    pub(super) message: String,
    #[prost(message, repeated, tag = "3")]
    pub(super) details: Vec<Any>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Any {
    #[prost(string, tag = "1")]
    pub(super) type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) value: Vec<u8>,
}

/// `google.rpc.RetryInfo`.
#[derive(Clone, PartialEq, prost::Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<ProtoDuration>,
}

/// `google.protobuf.Duration`.
#[derive(Clone, PartialEq, prost::Message)]
struct ProtoDuration {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(code: &str, details: Option<RpcStatus>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-status", code.parse().unwrap());
        headers.insert("grpc-message", "too%20much".parse().unwrap());
        if let Some(details) = details {
            let details = BASE64.encode(details.encode_to_vec());
            headers.insert(
                "grpc-status-details-bin",
                details.trim_end_matches('=').parse().unwrap(),
            );
        }
        headers
    }

    fn retry_info(seconds: i64) -> Option<RpcStatus> {
        let info = RetryInfo {
            retry_delay: Some(ProtoDuration {
                seconds,
                nanos: 500_000_000,
            }),
        };
        Some(RpcStatus {
            code: 8,
            message: String::new(),
            details: vec![Any {
                type_url: "type.googleapis.com/google.rpc.RetryInfo".to_owned(),
                value: info.encode_to_vec(),
            }],
        })
    }

    #[test]
    fn codes_say_whether_to_come_back_and_when() {
        for (code, details, expected, why) in [
            ("14", None, Some(None), "unavailable"),
            ("4", None, Some(None), "deadline exceeded"),
            (
                "14",
                retry_info(3),
                Some(Some(3_500)),
                "unavailable with a delay",
            ),
            ("8", None, None, "exhausted without a delay"),
            (
                "8",
                retry_info(1),
                Some(Some(1_500)),
                "exhausted with a delay",
            ),
            ("8", retry_info(-1), Some(Some(500)), "a negative delay"),
            ("3", None, None, "invalid argument"),
            (
                "16",
                retry_info(1),
                None,
                "unauthenticated, whatever else it says",
            ),
            ("12", None, None, "unimplemented"),
            ("x", None, None, "no number"),
        ] {
            match (
                failure(&status(code, details), Exhausted::Refused).unwrap(),
                expected,
            ) {
                (SendError::Retry { after, cause }, Some(delay)) => {
                    assert_eq!(after, delay.map(Duration::from_millis), "{why}");
                    assert!(cause.ends_with("too much"), "{cause}");
                }
                (SendError::Drop { .. }, None) => {}
                (other, _) => panic!("{why}: {other:?}"),
            }
        }
        assert_eq!(failure(&status("0", None), Exhausted::Refused), None);
        assert!(
            failure(&HeaderMap::new(), Exhausted::Refused).is_some(),
            "no status at all"
        );
    }

    #[test]
    fn a_full_queue_is_asked_again_and_too_large_a_message_is_not() {
        for (text, expected) in [
            ("server%20busy", true),
            (
                "grpc:%20received%20message%20larger%20than%20max%20(9%20vs.%208)",
                false,
            ),
        ] {
            let mut status = status("8", None);
            status.insert("grpc-message", text.parse().unwrap());
            let error = failure(&status, Exhausted::Later).unwrap();
            let again = matches!(error, SendError::Retry { after: None, .. });
            assert_eq!(again, expected, "{text}: {error:?}");
        }
    }

    #[test]
    fn frames_say_their_length_and_whether_they_are_compressed() {
        let message = Bytes::from_static(b"abc");
        let plain = frame(Compression::None, message.clone()).unwrap();
        assert_eq!(plain.as_ref(), b"\0\0\0\0\x03abc");
        assert_eq!(unframed(&plain), message);
        let gzip = frame(Compression::Gzip, message).unwrap();
        assert_eq!(gzip[0], 1);
        assert_eq!(gzip.len(), 5 + usize::from(gzip[4]));
        assert!(
            unframed(&Bytes::from_static(b"\0\0")).is_empty(),
            "cut short"
        );
    }
}
