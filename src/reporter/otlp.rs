//! The `otlp` reporter: OTLP over HTTP with protobuf bodies, or over gRPC.
//!
//! Follows opentelemetry-proto `docs/specification.md` v1.11.0: partial success is final, 429, 502, 503 and 504 are
//! repeated (after `Retry-After` when given), lost connections are repeated, everything else is not.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use bytes::BytesMut;
use http::Response;
use http::header::AUTHORIZATION;
use prost::Message;

use crate::codec::otlp;
use crate::codec::otlp::message::ExportTraceServiceResponse;
use crate::model::ByteSize;
use crate::model::HostPort;
use crate::model::HumanDuration;
use crate::model::Secret;
use crate::model::Span;
use crate::net::tls;
use crate::reporter::BuildError;
use crate::reporter::Endpoint;
use crate::reporter::Settings;
use crate::reporter::grpc;
use crate::reporter::grpc::Exhausted;
use crate::reporter::ledger::Reason;
use crate::reporter::post::Compression;
use crate::reporter::post::Connector;
use crate::reporter::post::Target;
use crate::reporter::post::Versions;
use crate::reporter::post::first_line;
use crate::reporter::post::header_map;
use crate::reporter::post::header_value;
use crate::reporter::post::refused;
use crate::reporter::queue;
use crate::reporter::retry;
use crate::reporter::sender::Delivery;
use crate::reporter::sender::SendError;
use crate::reporter::sender::Sender;
use crate::reporter::sender::Sending;

/// Settings of the `otlp` reporter.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The collector. Without a path, `/v1/traces` is used over HTTP; gRPC ignores the path.
    ///
    /// Unit: URL. Default: `http://localhost:4318`, for gRPC `http://localhost:4317`. Reload: live.
    pub endpoint: Option<Endpoint>,

    /// The transport.
    ///
    /// Values: `http_protobuf`, `grpc`. Default: `http_protobuf`. Reload: live.
    pub protocol: Protocol,

    /// Further headers, such as an authorization. Their values are never shown.
    ///
    /// Unit: name and value. Default: none. Reload: live.
    pub headers: BTreeMap<String, Secret>,

    /// File with a bearer token for the `authorization` header, read again each minute: for tokens that expire, such as
    /// Google Cloud's.
    ///
    /// Unit: path. Default: none. Reload: live.
    pub bearer_token_file: Option<PathBuf>,

    /// How bodies are compressed.
    ///
    /// Values: `none`, `gzip`. Default: `none`. Reload: live.
    pub compression: Compression,

    /// Longest wait for the answer to one send.
    ///
    /// Unit: duration. Default: `10s`. Reload: live.
    #[serde(deserialize_with = "HumanDuration::above_zero")]
    pub timeout: HumanDuration,

    /// Largest message before compression; larger batches go out in halves, a larger span is dropped (`too_large`).
    ///
    /// Unit: size. Default: `4MiB`, the usual limit of gRPC servers. Reload: live.
    #[serde(deserialize_with = "ByteSize::above_zero")]
    pub max_request_size: ByteSize,

    /// How to speak TLS, where the endpoint is `https`. Reload: live.
    pub tls: tls::ClientConfig,

    /// How spans wait. Reload: live.
    pub queue: queue::Config,

    /// How failed sends are repeated. Reload: live.
    pub retry: retry::Config,
}

/// OTLP's transports.
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
pub enum Protocol {
    /// Protobuf over HTTP/1.1.
    #[default]
    #[serde(alias = "http/protobuf")]
    HttpProtobuf,
    /// gRPC.
    Grpc,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            endpoint: None,
            protocol: Protocol::default(),
            headers: BTreeMap::new(),
            bearer_token_file: None,
            compression: Compression::default(),
            timeout: HumanDuration::from_secs(10),
            max_request_size: ByteSize(4 << 20),
            tls: tls::ClientConfig::default(),
            queue: queue::Config::default(),
            retry: retry::Config::default(),
        }
    }
}

impl Settings for Config {
    const EXAMPLE: &'static str = "otlp: { endpoint: 'http://collector:4318', compression: gzip }";

    fn queue(&self) -> &queue::Config {
        &self.queue
    }

    fn retry(&self) -> retry::Config {
        self.retry.clone()
    }

    fn collector(&self) -> Option<HostPort> {
        Some(self.endpoint().ok()?.host_port())
    }

    fn sender(&self) -> Result<Box<dyn Sender>, BuildError> {
        let endpoint = self.endpoint()?;
        let (versions, uri) = match self.protocol {
            Protocol::HttpProtobuf => (
                Versions::Any,
                endpoint.with_default_path("/v1/traces", None),
            ),
            Protocol::Grpc => (Versions::Http2, endpoint.with_path(grpc::EXPORT_PATH)),
        };
        let mut target = Target {
            connector: Connector::new(&endpoint, &self.tls, versions)?,
            uri,
            headers: header_map(&self.headers)?,
            compression: self.compression,
            timeout: self.timeout.0,
        };
        let token = self.bearer_token_file.clone().map(TokenFile);
        if let Some(token) = &token {
            if target.headers.contains_key(AUTHORIZATION) {
                return Err(BuildError::Conflict(
                    "bearer_token_file and an authorization header exclude each other",
                ));
            }
            token
                .read(&mut target)
                .map_err(|error| BuildError::Client(error.into()))?;
        }
        let max_request = self.max_request_size.as_usize();
        Ok(match self.protocol {
            Protocol::HttpProtobuf => Box::new(OtlpHttp {
                token,
                target,
                max_request,
            }),
            Protocol::Grpc => Box::new(OtlpGrpc {
                token,
                target,
                max_request,
            }),
        })
    }
}

impl Config {
    fn endpoint(&self) -> Result<Endpoint, BuildError> {
        if let Some(endpoint) = &self.endpoint {
            return Ok(endpoint.clone());
        }
        let default = match self.protocol {
            Protocol::HttpProtobuf => "http://localhost:4318",
            Protocol::Grpc => "http://localhost:4317",
        };
        default
            .parse()
            .map_err(|error| BuildError::Client(Box::new(error)))
    }
}

/// Where the token stands.
struct TokenFile(PathBuf);

impl TokenFile {
    /// Takes the token that stands there now.
    fn read(&self, target: &mut Target) -> Result<(), String> {
        let path = self.0.display();
        let text = std::fs::read_to_string(&self.0).map_err(|error| format!("{path}: {error}"))?;
        let token = text.trim();
        if token.is_empty() {
            return Err(format!("{path} holds no token"));
        }
        let value = header_value(&Secret::new(format!("Bearer {token}")));
        let value = value.ok_or_else(|| format!("{path} holds no token that HTTP allows"))?;
        target.headers.insert(AUTHORIZATION, value);
        Ok(())
    }
}

/// Reads again what changes beneath a sender; a file that cannot be read leaves the rest in force.
fn refreshed(target: &mut Target, token: Option<&TokenFile>) -> Result<(), String> {
    let read = token.map_or(Ok(()), |token| token.read(target));
    target.connector.refresh().and(read)
}

struct OtlpHttp {
    token: Option<TokenFile>,
    target: Target,
    max_request: usize,
}

impl Sender for OtlpHttp {
    fn send<'a>(&'a mut self, batch: &'a [Arc<Span>]) -> Sending<'a> {
        Box::pin(async move {
            let body = encoded(batch, self.max_request)?;
            let response = self.target.post("application/x-protobuf", body).await?;
            if !response.status().is_success() {
                return Err(refused(&response, status_message(&response)));
            }
            Ok(accepted(response.body(), batch.len()))
        })
    }

    fn refresh(&mut self) -> Result<(), String> {
        refreshed(&mut self.target, self.token.as_ref())
    }
}

struct OtlpGrpc {
    token: Option<TokenFile>,
    target: Target,
    max_request: usize,
}

impl Sender for OtlpGrpc {
    fn send<'a>(&'a mut self, batch: &'a [Arc<Span>]) -> Sending<'a> {
        Box::pin(async move {
            let request = encoded(batch, self.max_request)?;
            let answer = grpc::call(&self.target, request, Exhausted::Refused).await?;
            Ok(accepted(&answer, batch.len()))
        })
    }

    fn refresh(&mut self) -> Result<(), String> {
        refreshed(&mut self.target, self.token.as_ref())
    }
}

/// The batch as one request, or the wish to halve it.
fn encoded(batch: &[Arc<Span>], max: usize) -> Result<Bytes, SendError> {
    let mut body = BytesMut::new();
    if !otlp::encode_within(batch, max, &mut body) {
        return Err(SendError::too_large(batch));
    }
    Ok(body.freeze())
}

/// What a successful answer says about the batch. An answer that cannot be read is still a success.
fn accepted(body: &[u8], spans: usize) -> Delivery {
    let mut delivery = Delivery::all(spans);
    let answer = ExportTraceServiceResponse::decode(body).unwrap_or_default();
    if let Some(partial) = answer.partial_success {
        let rejected = usize::try_from(partial.rejected_spans).unwrap_or(0);
        delivery.lose(Reason::Rejected, rejected);
        if rejected > 0 || !partial.error_message.is_empty() {
            delivery.remark = Some(first_line(partial.error_message.as_bytes()));
        }
    }
    delivery
}

fn status_message(response: &Response<Bytes>) -> Option<String> {
    let content_type = response.headers().get(http::header::CONTENT_TYPE)?;
    if content_type
        .as_bytes()
        .starts_with(b"application/x-protobuf")
    {
        let status = grpc::RpcStatus::decode(response.body().as_ref()).ok()?;
        return Some(first_line(status.message.as_bytes()));
    }
    Some(first_line(response.body()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::otlp::message::ExportTracePartialSuccess;

    #[test]
    fn partial_success_never_loses_more_than_was_sent() {
        for (rejected, exported, why) in [
            (0, 3, "a warning"),
            (1, 2, "one rejected"),
            (3, 0, "all rejected"),
            (9, 0, "more than were sent"),
            (-5, 3, "nonsense"),
        ] {
            let answer = ExportTraceServiceResponse {
                partial_success: Some(ExportTracePartialSuccess {
                    rejected_spans: rejected,
                    error_message: "quota".to_owned(),
                }),
            };
            let delivery = accepted(&answer.encode_to_vec(), 3);
            assert_eq!(delivery.exported, exported, "{why}");
            let dropped: usize = delivery.dropped.iter().map(|(_, spans)| spans).sum();
            assert_eq!(exported + dropped, 3, "{why}");
            assert_eq!(delivery.remark.as_deref(), Some("quota"));
        }
        assert_eq!(accepted(b"\xff\xff", 3), Delivery::all(3), "unreadable");
    }
    #[test]
    fn a_token_is_read_again_and_a_bad_file_is_told() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let config = Config {
            bearer_token_file: Some(file.path().to_owned()),
            ..Config::default()
        };
        let shown = |target: &Target| target.headers[AUTHORIZATION].to_str().unwrap().to_owned();
        for (text, why) in [("", "empty"), (" \n", "blank"), ("a\nb", "two lines")] {
            std::fs::write(file.path(), text).unwrap();
            assert!(config.sender().is_err(), "{why}");
        }
        std::fs::write(file.path(), "one\n").unwrap();
        config.sender().unwrap();
        let endpoint = config.endpoint().unwrap();
        let mut target = Target {
            connector: Connector::new(&endpoint, &config.tls, Versions::Any).unwrap(),
            uri: endpoint.uri().clone(),
            headers: http::HeaderMap::new(),
            compression: Compression::None,
            timeout: std::time::Duration::from_secs(1),
        };
        let token = TokenFile(file.path().to_owned());
        refreshed(&mut target, Some(&token)).unwrap();
        assert_eq!(shown(&target), "Bearer one");
        std::fs::write(file.path(), "two").unwrap();
        refreshed(&mut target, Some(&token)).unwrap();
        assert_eq!(shown(&target), "Bearer two");
        std::fs::remove_file(file.path()).unwrap();
        assert!(refreshed(&mut target, Some(&token)).is_err());
        assert_eq!(shown(&target), "Bearer two", "what was in force stays");
        let both = Config {
            headers: BTreeMap::from([("Authorization".to_owned(), Secret::new("x"))]),
            ..config
        };
        assert!(both.sender().is_err(), "two authorizations");
    }
}
