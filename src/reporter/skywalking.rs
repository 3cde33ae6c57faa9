//! The `skywalking` reporter: segments streamed to `TraceSegmentReportService/collect`, or posted to `/v3/segments`.
//!
//! Each send is one stream: its segments, then its end, upon which the server answers. Instance properties and keep-alives
//! are not sent; traces show without them.
//! Source: apache/skywalking `docs/en/api/trace-data-protocol-v3.md`, `docs/en/setup/backend/backend-token-auth.md`.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use http::HeaderName;

use crate::codec::skywalking;
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

/// Settings of the `skywalking` reporter.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The server. Over HTTP `/v3/segments` is used where there is no path; gRPC ignores the path.
    ///
    /// Unit: URL. Default: `http://localhost:11800`, for HTTP `http://localhost:12800`. Reload: live.
    pub endpoint: Option<Endpoint>,

    /// The transport.
    ///
    /// Values: `grpc`, `http`. Default: `grpc`. Reload: live.
    pub protocol: Protocol,

    /// The server's token, sent as `authentication`. Never shown.
    ///
    /// Default: none. Reload: live.
    pub token: Option<Secret>,

    /// Further headers, such as an authorization. Their values are never shown.
    ///
    /// Unit: name and value. Default: none. Reload: live.
    pub headers: BTreeMap<String, Secret>,

    /// Longest wait for the answer to one send.
    ///
    /// Unit: duration. Default: `10s`. Reload: live.
    #[serde(deserialize_with = "HumanDuration::above_zero")]
    pub timeout: HumanDuration,

    /// Largest body or stream; larger batches go out in halves, a larger span is dropped (`too_large`).
    ///
    /// Unit: size. Default: `4MiB`. Reload: live.
    #[serde(deserialize_with = "ByteSize::above_zero")]
    pub max_request_size: ByteSize,

    /// How to speak TLS, where the endpoint is `https`. Reload: live.
    pub tls: tls::ClientConfig,

    /// How spans wait. Reload: live.
    pub queue: queue::Config,

    /// How failed sends are repeated. Reload: live.
    pub retry: retry::Config,
}

/// SkyWalking's transports.
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
    /// gRPC, port 11800.
    #[default]
    Grpc,
    /// JSON over HTTP, port 12800.
    Http,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            endpoint: None,
            protocol: Protocol::default(),
            token: None,
            headers: BTreeMap::new(),
            timeout: HumanDuration::from_secs(10),
            max_request_size: ByteSize(4 << 20),
            tls: tls::ClientConfig::default(),
            queue: queue::Config::default(),
            retry: retry::Config::default(),
        }
    }
}

static AUTHENTICATION: HeaderName = HeaderName::from_static("authentication");
const COLLECT: &str = "/skywalking.v3.TraceSegmentReportService/collect";

impl Settings for Config {
    const EXAMPLE: &'static str = "skywalking: { endpoint: 'http://oap:11800', token: t }";

    fn queue(&self) -> &queue::Config {
        &self.queue
    }

    fn destinations(&self) -> Vec<HostPort> {
        let endpoint = self.endpoint().ok();
        endpoint.iter().map(Endpoint::host_port).collect()
    }

    fn retry(&self) -> retry::Config {
        self.retry.clone()
    }

    fn sender(&self) -> Result<Box<dyn Sender>, BuildError> {
        let versions = match self.protocol {
            Protocol::Grpc => Versions::Http2,
            Protocol::Http => Versions::Any,
        };
        let endpoint = self.endpoint()?;
        let mut headers = header_map(&self.headers)?;
        if let Some(token) = &self.token {
            let value = header_value(token);
            let value = value.ok_or_else(|| BuildError::Header(AUTHENTICATION.to_string()))?;
            headers.insert(&AUTHENTICATION, value);
        }
        Ok(Box::new(SkyWalking {
            target: Target {
                connector: Connector::new(&endpoint, &self.tls, versions)?,
                uri: match self.protocol {
                    Protocol::Grpc => endpoint.with_path(COLLECT),
                    Protocol::Http => endpoint.with_default_path("/v3/segments", None),
                },
                headers,
                compression: Compression::None,
                timeout: self.timeout.0,
            },
            protocol: self.protocol,
            max_request: self.max_request_size.as_usize(),
        }))
    }
}

impl Config {
    fn endpoint(&self) -> Result<Endpoint, BuildError> {
        let default = match self.protocol {
            Protocol::Grpc => "http://localhost:11800",
            Protocol::Http => "http://localhost:12800",
        };
        Endpoint::or_default(&self.endpoint, default)
    }
}

struct SkyWalking {
    target: Target,
    protocol: Protocol,
    max_request: usize,
}

impl Sender for SkyWalking {
    fn send<'a>(&'a mut self, batch: &'a [Arc<Span>]) -> Sending<'a> {
        match self.protocol {
            Protocol::Grpc => Box::pin(self.stream(batch)),
            Protocol::Http => Box::pin(self.post(batch)),
        }
    }

    fn refresh(&mut self) -> Result<(), String> {
        self.target.connector.refresh()
    }
}

impl SkyWalking {
    async fn stream(&self, batch: &[Arc<Span>]) -> Result<Delivery, SendError> {
        let segments = skywalking::encode_segments(batch);
        if segments.iter().map(Vec::len).sum::<usize>() > self.max_request {
            return Err(SendError::too_large(batch));
        }
        grpc::call_with_stream(&self.target, segments).await?;
        Ok(Delivery::all(batch.len()))
    }

    async fn post(&self, batch: &[Arc<Span>]) -> Result<Delivery, SendError> {
        let body = skywalking::encode_json(batch);
        if body.len() > self.max_request {
            return Err(SendError::too_large(batch));
        }
        let body = Bytes::from(body);
        let response = self.target.post("application/json", body).await?;
        if response.status().is_success() {
            return Ok(Delivery::all(batch.len()));
        }
        Err(refused(&response, Some(first_line(response.body()))))
    }
}
