//! Pillion's own answers: the only place where a failure becomes a status and a text.

use bytes::Bytes;
use http::HeaderValue;
use http::Response;
use http::StatusCode;
use http::header;

use crate::proxy::body::ResponseBody;
use crate::proxy::error::ProxyError;
use crate::proxy::guard::Refusal;

/// When to come again, in seconds.
const RETRY_AFTER: &str = "1";
const PLAIN: &str = "text/plain; charset=utf-8";

/// The answer for a failure: a status by its side and kind, one short line of text that says who answers and why.
pub(super) fn failure(error: &ProxyError) -> Response<ResponseBody> {
    let status = status_of(error);
    let mut response = text(status, reason_of(error));
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER));
    }
    response
}

/// The same as the library writes it to a caller of HTTP/1.1; `closes`: nothing will follow on its connection.
pub(super) fn failure_bytes(error: &ProxyError, closes: bool) -> Vec<u8> {
    let (status, reason) = (status_of(error), reason_of(error));
    let words = status.canonical_reason().unwrap_or_default();
    let retry = match status {
        StatusCode::SERVICE_UNAVAILABLE => format!("retry-after: {RETRY_AFTER}\r\n"),
        _ => String::new(),
    };
    let close = if closes { "connection: close\r\n" } else { "" };
    let (code, len) = (status.as_str(), reason.len());
    format!(
        "HTTP/1.1 {code} {words}\r\ncontent-type: {PLAIN}\r\n{retry}{close}content-length: {len}\r\n\r\n{reason}"
    )
    .into_bytes()
}

/// Who answers, why, and what caused that.
fn reason_of(error: &ProxyError) -> String {
    let mut reason = format!("pillion: {error}");
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        reason.push_str(": ");
        reason.push_str(&cause.to_string());
        source = cause.source();
    }
    reason.push('\n');
    reason
}

/// Ends an HTTP/1 connection with this response.
pub(super) fn close_after(response: &mut Response<ResponseBody>) {
    let close = HeaderValue::from_static("close");
    response.headers_mut().insert(header::CONNECTION, close);
}

/// A plain-text answer of our own.
pub(super) fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::local(body.into()));
    *response.status_mut() = status;
    let plain = HeaderValue::from_static(PLAIN);
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response
}

/// The status of that answer.
pub(super) fn status_of(error: &ProxyError) -> StatusCode {
    match error {
        ProxyError::Resolve { .. }
        | ProxyError::Connect { .. }
        | ProxyError::Tls { .. }
        | ProxyError::Exchange(_)
        | ProxyError::BadResponse(_) => StatusCode::BAD_GATEWAY,
        ProxyError::ConnectTimeout { .. }
        | ProxyError::ResponseTimeout(_)
        | ProxyError::Stalled(_) => StatusCode::GATEWAY_TIMEOUT,
        ProxyError::PoolTimeout(_) | ProxyError::Overload(_) => StatusCode::SERVICE_UNAVAILABLE,
        ProxyError::BodyTooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
        ProxyError::BadRequest(_) | ProxyError::BodyBroken => StatusCode::BAD_REQUEST,
        ProxyError::Refused(refusal) => match refusal {
            Refusal::Malformed(_) => StatusCode::BAD_REQUEST,
            Refusal::HeadTimeout => StatusCode::REQUEST_TIMEOUT,
            Refusal::Version => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            Refusal::Coding => StatusCode::NOT_IMPLEMENTED,
            Refusal::TargetTooLong => StatusCode::URI_TOO_LONG,
            Refusal::HeadTooLarge | Refusal::TooManyFields => {
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
            }
        },
        ProxyError::Loop { .. } => StatusCode::LOOP_DETECTED,
    }
}
