//! What the HTTP reporters share: building the request, and what an answer means for the batch.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::Request;
use http::Response;
use http::StatusCode;
use http::Uri;
use http::header::CONTENT_ENCODING;
use http::header::CONTENT_TYPE;
use http::header::USER_AGENT;
use http_body_util::Full;

use crate::model::Secret;
use crate::net::client::Client;
use crate::net::client::ClientError;
use crate::net::tls;
use crate::net::tls::ClientTls;
use crate::reporter::BuildError;
use crate::reporter::Endpoint;
use crate::reporter::ledger::Reason;
use crate::reporter::retry::retry_after;
use crate::reporter::sender::SendError;
use crate::reporter::sender::chain;

/// How bodies are compressed.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Default,
    serde::Serialize,
    serde::Deserialize,
    schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    /// As they are.
    #[default]
    None,
    /// gzip, fast level.
    Gzip,
}

pub(super) const AGENT: &str = concat!("pillion/", env!("CARGO_PKG_VERSION"));

/// A client with the files its TLS was set up from.
pub(super) struct Connector {
    pub(super) client: Client,
    tls: Option<ClientTls>,
    versions: Versions,
    refreshes: u32,
}

impl Connector {
    /// TLS files are read only where the endpoint is `https`.
    pub(super) fn new(
        endpoint: &Endpoint,
        tls: &tls::ClientConfig,
        versions: Versions,
    ) -> Result<Self, BuildError> {
        let tls = if endpoint.is_tls() {
            let tls = ClientTls::new(tls).map_err(|error| BuildError::Client(error.into()))?;
            Some(tls)
        } else {
            None
        };
        Ok(Self {
            client: client(versions, tls.as_ref()),
            tls,
            versions,
            refreshes: 0,
        })
    }

    /// Reads certificate files again, and now and then begins with new connections: one that is always in use would
    /// otherwise never notice that the name leads elsewhere now, or to more addresses.
    pub(super) fn refresh(&mut self) -> Result<(), String> {
        self.refreshes += 1;
        if self.refreshes.is_multiple_of(REFRESHES_PER_CONNECTION) {
            self.client = client(self.versions, self.tls.as_ref());
        }
        match &self.tls {
            Some(tls) => tls.reload().map(drop).map_err(|error| chain(&error)),
            None => Ok(()),
        }
    }
}

/// With a refresh each minute: every five minutes.
const REFRESHES_PER_CONNECTION: u32 = 5;

fn client(versions: Versions, tls: Option<&ClientTls>) -> Client {
    match versions {
        Versions::Any => Client::new(tls),
        Versions::Http2 => Client::h2_only(tls),
    }
}

/// HTTP versions to speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Versions {
    Any,
    Http2,
}

/// Where and how to post.
pub(super) struct Target {
    pub(super) connector: Connector,
    pub(super) uri: Uri,
    pub(super) headers: HeaderMap,
    pub(super) compression: Compression,
    pub(super) timeout: Duration,
}

impl Target {
    /// Posts one body; any status is an answer.
    pub(super) async fn post(
        &self,
        content_type: &'static str,
        body: Bytes,
    ) -> Result<Response<Bytes>, SendError> {
        let body = compressed(self.compression, body)?;
        let mut request = Request::post(self.uri.clone())
            .body(Full::new(body))
            .map_err(|error| encode_error(&error))?;
        let headers = request.headers_mut();
        *headers = self.headers.clone();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        if self.compression == Compression::Gzip {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        headers
            .entry(USER_AGENT)
            .or_insert(HeaderValue::from_static(AGENT));
        self.connector
            .client
            .send(request, self.timeout, MAX_ANSWER)
            .await
            .map_err(|error| client_error(&self.uri, &error))
    }
}

/// What OpenTelemetry asks clients to read at most.
pub(super) const MAX_ANSWER: usize = 4 << 20;

pub(super) fn compressed(compression: Compression, body: Bytes) -> Result<Bytes, SendError> {
    if compression == Compression::None {
        return Ok(body);
    }
    let buffer = Vec::with_capacity(body.len() / 4);
    let mut encoder = flate2::write::GzEncoder::new(buffer, flate2::Compression::fast());
    encoder
        .write_all(&body)
        .and_then(|()| encoder.finish())
        .map(Bytes::from)
        .map_err(|error| encode_error(&error))
}

pub(super) fn encode_error(error: &dyn std::error::Error) -> SendError {
    SendError::Drop {
        reason: Reason::Encode,
        cause: chain(error),
    }
}

/// With several reporters of a kind the address tells which.
pub(super) fn client_error(uri: &Uri, error: &ClientError) -> SendError {
    match error {
        ClientError::Connect(source) => {
            let at = uri.authority().map_or("", |authority| authority.as_str());
            let cause: &dyn std::error::Error = source.as_ref();
            SendError::retry(format!("connection to {at} failed: {}", chain(cause)))
        }
        // It did answer, only too much: sending again would deliver the spans twice.
        ClientError::TooLarge(_) => SendError::rejected(chain(error)),
        _ => SendError::retry(chain(error)),
    }
}

/// What a status that is not success means, after OTLP's rules.
///
/// Source: opentelemetry-proto `docs/specification.md`, sections "Retryable Response Codes" and "OTLP/HTTP Throttling".
pub(super) fn refused(response: &Response<Bytes>, message: Option<String>) -> SendError {
    let status = response.status();
    let cause = match message.filter(|message| !message.is_empty()) {
        Some(message) => format!("{status}: {message}"),
        None => status.to_string(),
    };
    match status {
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => SendError::Retry {
            after: retry_after(response.headers(), wall_clock(response.headers())),
            cause,
        },
        StatusCode::PAYLOAD_TOO_LARGE => SendError::Drop {
            reason: Reason::TooLarge,
            cause,
        },
        _ => SendError::rejected(cause),
    }
}

/// The clock against which a `Retry-After` date counts: the answer's own `Date`, so that clocks need not agree.
fn wall_clock(headers: &HeaderMap) -> std::time::SystemTime {
    headers
        .get(http::header::DATE)
        .and_then(|date| httpdate::parse_http_date(date.to_str().ok()?).ok())
        .unwrap_or(std::time::SystemTime::UNIX_EPOCH)
}

/// The first line of an answer's text, cut to what a log line can bear.
pub(super) fn first_line(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body.get(..512).unwrap_or(body));
    let line = text.lines().next().unwrap_or_default();
    line.chars().filter(|c| !c.is_control()).take(200).collect()
}

/// Configured headers in wire form, marked as never to be shown.
pub(super) fn header_map(headers: &BTreeMap<String, Secret>) -> Result<HeaderMap, BuildError> {
    let mut map = HeaderMap::with_capacity(headers.len());
    for (name, value) in headers {
        let error = || BuildError::Header(name.clone());
        let header = HeaderName::try_from(name.as_str()).map_err(|_| error())?;
        map.append(header, header_value(value).ok_or_else(error)?);
    }
    Ok(map)
}

pub(super) fn header_value(secret: &Secret) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(secret.expose()).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, headers: &[(&str, &str)]) -> Response<Bytes> {
        let mut builder = Response::builder().status(status);
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        builder.body(Bytes::new()).unwrap()
    }

    #[test]
    fn only_overload_and_gateways_are_asked_again() {
        for status in [429, 502, 503, 504] {
            let error = refused(&answer(status, &[("retry-after", "7")]), None);
            let SendError::Retry { after, .. } = error else {
                panic!("{status} is to be repeated");
            };
            assert_eq!(after, Some(Duration::from_secs(7)), "{status}");
        }
        for (status, reason) in [
            (400, Reason::Rejected),
            (401, Reason::Rejected),
            (404, Reason::Rejected),
            (413, Reason::TooLarge),
            (500, Reason::Rejected),
            (301, Reason::Rejected),
        ] {
            let error = refused(&answer(status, &[]), None);
            let SendError::Drop { reason: said, .. } = error else {
                panic!("{status} is not to be repeated");
            };
            assert_eq!(said, reason, "{status}");
        }
    }

    #[test]
    fn a_retry_date_counts_from_the_answers_own_date() {
        let headers = [
            ("date", "Sun, 06 Nov 1994 08:49:37 GMT"),
            ("retry-after", "Sun, 06 Nov 1994 08:49:47 GMT"),
        ];
        let SendError::Retry { after, .. } = refused(&answer(503, &headers), None) else {
            panic!("503 is to be repeated");
        };
        assert_eq!(after, Some(Duration::from_secs(10)));
    }

    #[test]
    fn header_names_and_values_are_checked_when_built() {
        for (name, value, why) in [
            ("x y", "v", "space in a name"),
            ("", "v", "empty name"),
            ("x", "a\nb", "line break in a value"),
        ] {
            let headers = BTreeMap::from([(name.to_owned(), Secret::new(value))]);
            assert!(header_map(&headers).is_err(), "{why}");
        }
    }
}
