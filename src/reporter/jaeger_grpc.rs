//! The `jaeger_grpc` reporter: `jaeger.api_v2.CollectorService/PostSpans`, what jaeger-agent spoke to its collector.
//!
//! A collector whose queue is full is asked again, as the agent did.
//! Source: jaegertracing/jaeger-idl `proto/api_v2/collector.proto`; jaeger@v1.76.0 `cmd/collector/app/handler/grpc_handler.go`;
//! jaeger@v1.67.0 `cmd/agent/app/reporter/grpc/builder.go`.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::codec::jaeger;
use crate::codec::jaeger_proto;
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
use crate::reporter::jaeger_http::by_resource;
use crate::reporter::post::Compression;
use crate::reporter::post::Connector;
use crate::reporter::post::Target;
use crate::reporter::post::Versions;
use crate::reporter::post::header_map;
use crate::reporter::queue;
use crate::reporter::retry;
use crate::reporter::sender::Delivery;
use crate::reporter::sender::SendError;
use crate::reporter::sender::Sender;
use crate::reporter::sender::Sending;

/// Settings of the `jaeger_grpc` reporter.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The collector; a path is ignored.
    ///
    /// Unit: URL. Default: `http://localhost:14250`. Reload: live.
    pub endpoint: Option<Endpoint>,

    /// Further headers, such as `x-tenant`. Their values are never shown.
    ///
    /// Unit: name and value. Default: none. Reload: live.
    pub headers: BTreeMap<String, Secret>,

    /// How messages are compressed.
    ///
    /// Values: `none`, `gzip`. Default: `none`. Reload: live.
    pub compression: Compression,

    /// Longest wait for the answer to one send.
    ///
    /// Unit: duration. Default: `5s`. Reload: live.
    #[serde(deserialize_with = "HumanDuration::above_zero")]
    pub timeout: HumanDuration,

    /// Largest message before compression; larger batches go out in halves, a larger span is dropped (`too_large`).
    ///
    /// Unit: size. Default: `4MiB`, the collector's limit. Reload: live.
    #[serde(deserialize_with = "ByteSize::above_zero")]
    pub max_request_size: ByteSize,

    /// How to speak TLS, where the endpoint is `https`. Reload: live.
    pub tls: tls::ClientConfig,

    /// How spans wait. Reload: live.
    pub queue: queue::Config,

    /// How failed sends are repeated. Reload: live.
    pub retry: retry::Config,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            endpoint: None,
            headers: BTreeMap::new(),
            compression: Compression::default(),
            timeout: HumanDuration::from_secs(5),
            max_request_size: ByteSize(4 << 20),
            tls: tls::ClientConfig::default(),
            queue: queue::Config::default(),
            retry: retry::Config::default(),
        }
    }
}

const DEFAULT_ENDPOINT: &str = "http://localhost:14250";
const PATH: &str = "/jaeger.api_v2.CollectorService/PostSpans";

impl Settings for Config {
    const EXAMPLE: &'static str = "jaeger_grpc: { endpoint: 'http://jaeger:14250' }";

    fn queue(&self) -> &queue::Config {
        &self.queue
    }

    fn collector(&self) -> Option<HostPort> {
        let endpoint = Endpoint::or_default(&self.endpoint, DEFAULT_ENDPOINT).ok()?;
        Some(endpoint.host_port())
    }

    fn retry(&self) -> retry::Config {
        self.retry.clone()
    }

    fn sender(&self) -> Result<Box<dyn Sender>, BuildError> {
        let endpoint = Endpoint::or_default(&self.endpoint, DEFAULT_ENDPOINT)?;
        Ok(Box::new(JaegerGrpc {
            target: Target {
                connector: Connector::new(&endpoint, &self.tls, Versions::Http2)?,
                uri: endpoint.with_path(PATH),
                headers: header_map(&self.headers)?,
                compression: self.compression,
                timeout: self.timeout.0,
            },
            max_request: self.max_request_size.as_usize(),
        }))
    }
}

struct JaegerGrpc {
    target: Target,
    max_request: usize,
}

impl Sender for JaegerGrpc {
    fn send<'a>(&'a mut self, batch: &'a [Arc<Span>]) -> Sending<'a> {
        Box::pin(self.call(batch))
    }

    fn refresh(&mut self) -> Result<(), String> {
        self.target.connector.refresh()
    }
}

impl JaegerGrpc {
    async fn call(&self, batch: &[Arc<Span>]) -> Result<Delivery, SendError> {
        // A message holds the spans of one process.
        let parts = by_resource(batch);
        if parts.len() > 1 {
            return Err(SendError::Split(parts));
        }
        let groups = jaeger::groups(batch);
        let Some(group) = groups.first() else {
            return Ok(Delivery::default());
        };
        let message = jaeger_proto::encode(group);
        if message.len() > self.max_request {
            return Err(SendError::too_large(batch));
        }
        grpc::call(&self.target, Bytes::from(message), Exhausted::Later).await?;
        Ok(Delivery::all(batch.len()))
    }
}
