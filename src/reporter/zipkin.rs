//! The `zipkin` reporter: span lists posted to `/api/v2/spans`, as JSON or proto3, or to `/api/v1/spans`, as Thrift.
//!
//! Success is 202, or 200 from those that speak Zipkin besides; what is repeated follows OTLP's rules, for Zipkin has
//! none. Source: openzipkin/zipkin `ZipkinHttpCollector.java`; openzipkin/b3-propagation, README.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use http::HeaderName;
use http::HeaderValue;

use crate::codec::zipkin;
use crate::model::ByteSize;
use crate::model::HostPort;
use crate::model::HumanDuration;
use crate::model::Secret;
use crate::model::Span;
use crate::net::tls;
use crate::reporter::BuildError;
use crate::reporter::Endpoint;
use crate::reporter::Settings;
use crate::reporter::post::Compression;
use crate::reporter::post::Connector;
use crate::reporter::post::Target;
use crate::reporter::post::Versions;
use crate::reporter::post::encode_error;
use crate::reporter::post::first_line;
use crate::reporter::post::header_map;
use crate::reporter::post::refused;
use crate::reporter::queue;
use crate::reporter::retry;
use crate::reporter::sender::Delivery;
use crate::reporter::sender::SendError;
use crate::reporter::sender::Sender;
use crate::reporter::sender::Sending;

/// Settings of the `zipkin` reporter.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The server. Without a path, `/api/v2/spans` is used, for Thrift `/api/v1/spans`.
    ///
    /// Unit: URL. Default: `http://localhost:9411`. Reload: live.
    pub endpoint: Option<Endpoint>,

    /// How spans are written.
    ///
    /// Values: `json`, `proto3`, `thrift` (Zipkin's first version). Default: `json`. Reload: live.
    pub encoding: Encoding,

    /// Further headers, such as an authorization. Their values are never shown.
    ///
    /// Unit: name and value. Default: none. Reload: live.
    pub headers: BTreeMap<String, Secret>,

    /// How bodies are compressed.
    ///
    /// Values: `none`, `gzip`. Default: `none`. Reload: live.
    pub compression: Compression,

    /// Longest wait for the answer to one send.
    ///
    /// Unit: duration. Default: `10s`. Reload: live.
    #[serde(deserialize_with = "HumanDuration::above_zero")]
    pub timeout: HumanDuration,

    /// Largest body before compression; larger batches go out in halves, a larger span is dropped (`too_large`).
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

/// Zipkin's spellings.
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
pub enum Encoding {
    /// JSON.
    #[default]
    Json,
    /// Protobuf.
    Proto3,
    /// The first version's Thrift.
    Thrift,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            endpoint: None,
            encoding: Encoding::default(),
            headers: BTreeMap::new(),
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
    const EXAMPLE: &'static str = "zipkin: { endpoint: 'http://zipkin:9411', encoding: proto3 }";

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
        let endpoint = self.endpoint()?;
        let path = match self.encoding {
            Encoding::Json | Encoding::Proto3 => "/api/v2/spans",
            Encoding::Thrift => "/api/v1/spans",
        };
        let mut headers = header_map(&self.headers)?;
        // Whoever traces what passes is not to trace this.
        headers.entry(&B3).or_insert(HeaderValue::from_static("0"));
        Ok(Box::new(Zipkin {
            target: Target {
                connector: Connector::new(&endpoint, &self.tls, Versions::Any)?,
                uri: endpoint.with_default_path(path, None),
                headers,
                compression: self.compression,
                timeout: self.timeout.0,
            },
            encoding: self.encoding,
            max_request: self.max_request_size.as_usize(),
        }))
    }
}

static B3: HeaderName = HeaderName::from_static("b3");

impl Config {
    fn endpoint(&self) -> Result<Endpoint, BuildError> {
        Endpoint::or_default(&self.endpoint, "http://localhost:9411")
    }
}

struct Zipkin {
    target: Target,
    encoding: Encoding,
    max_request: usize,
}

impl Sender for Zipkin {
    fn send<'a>(&'a mut self, batch: &'a [Arc<Span>]) -> Sending<'a> {
        Box::pin(self.post(batch))
    }

    fn refresh(&mut self) -> Result<(), String> {
        self.target.connector.refresh()
    }
}

impl Zipkin {
    async fn post(&self, batch: &[Arc<Span>]) -> Result<Delivery, SendError> {
        let (content_type, body) = match self.encoding {
            Encoding::Json => ("application/json", zipkin::encode_json(batch)),
            Encoding::Proto3 => ("application/x-protobuf", zipkin::encode_proto(batch)),
            Encoding::Thrift => {
                let body = zipkin::encode_v1_thrift(batch).map_err(|error| encode_error(&error))?;
                ("application/x-thrift", body)
            }
        };
        if body.len() > self.max_request {
            return Err(SendError::too_large(batch));
        }
        let response = self.target.post(content_type, Bytes::from(body)).await?;
        if response.status().is_success() {
            return Ok(Delivery::all(batch.len()));
        }
        Err(refused(&response, Some(first_line(response.body()))))
    }
}
