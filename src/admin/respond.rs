//! Answers of the admin port: one constructor per kind of body, the same safety headers on all of them.

use bytes::Bytes;
use http::HeaderMap;
use http::HeaderValue;
use http::Method;
use http::Response;
use http::StatusCode;
use http::header;
use http_body_util::Full;
use serde::Serialize;

/// A whole answer; bodies here are bounded and in memory.
pub(super) type Answer = Response<Full<Bytes>>;

/// Scripts and styles come from this port alone, nothing may frame the page, nothing is loaded from elsewhere.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
     img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

/// Any body under any content type.
pub(super) fn body(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    set(headers, header::CONTENT_TYPE, kind);
    set(headers, header::CACHE_CONTROL, "no-store");
    set(headers, header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    set(headers, header::REFERRER_POLICY, "no-referrer");
    set(
        headers,
        header::CONTENT_SECURITY_POLICY,
        CONTENT_SECURITY_POLICY,
    );
    answer
}

/// Plain text, one line or many, ending in a line break.
pub(super) fn text(status: StatusCode, text: impl Into<String>) -> Answer {
    let mut text = text.into();
    if !text.ends_with('\n') {
        text.push('\n');
    }
    body(status, "text/plain; charset=utf-8", text)
}

/// JSON under 200, pretty when a person may read it.
pub(super) fn json(value: &impl Serialize) -> Answer {
    json_under(StatusCode::OK, value)
}

/// JSON under another status.
pub(super) fn json_under(status: StatusCode, value: &impl Serialize) -> Answer {
    match serde_json::to_vec(value) {
        Ok(bytes) => body(status, "application/json", bytes),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

/// 405 with the methods that this path has.
pub(super) fn wrong_method(allowed: &'static str) -> Answer {
    let mut answer = text(
        StatusCode::METHOD_NOT_ALLOWED,
        format!("method not allowed, use {allowed}"),
    );
    set(answer.headers_mut(), header::ALLOW, allowed);
    answer
}

/// Tags the answer with its version, for [`unchanged`] to recognise.
pub(super) fn tagged(mut answer: Answer, version: &str) -> Answer {
    if let Ok(tag) = HeaderValue::from_str(&format!("\"{version}\"")) {
        let headers = answer.headers_mut();
        set(headers, header::CACHE_CONTROL, "no-cache");
        headers.insert(header::ETAG, tag);
    }
    answer
}

/// 304 when `If-None-Match` names this version, weakly compared (RFC 9110 section 13.1.2); `None`: send it all.
pub(super) fn unchanged(version: &str, request: &HeaderMap) -> Option<Answer> {
    let tag = format!("\"{version}\"");
    let known = request
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|value| value.trim().trim_start_matches("W/"))
        .any(|value| value == "*" || value == tag);
    if !known {
        return None;
    }
    let mut answer = tagged(body(StatusCode::NOT_MODIFIED, "", Bytes::new()), version);
    answer.headers_mut().remove(header::CONTENT_TYPE);
    Some(answer)
}

/// Offers the body as a file.
pub(super) fn attachment(mut answer: Answer, name: &str) -> Answer {
    if let Ok(value) = HeaderValue::from_str(&format!("attachment; filename=\"{name}\"")) {
        answer
            .headers_mut()
            .insert(header::CONTENT_DISPOSITION, value);
    }
    answer
}

/// HEAD gets the headers of GET and no body; the length stays announced.
pub(super) fn for_method(mut answer: Answer, method: &Method) -> Answer {
    if *method == Method::HEAD {
        let len = http_body::Body::size_hint(answer.body()).lower();
        answer
            .headers_mut()
            .insert(header::CONTENT_LENGTH, HeaderValue::from(len));
        *answer.body_mut() = Full::default();
    }
    answer
}

fn set(headers: &mut HeaderMap, name: header::HeaderName, value: &'static str) {
    headers.insert(name, HeaderValue::from_static(value));
}
