//! The `datadog` reporter: traces in msgpack put to a Datadog agent's `/v0.4/traces`.
//!
//! The agent's answer holds sampling rates for its own tracers; Pillion's samplers decide here, so it is not read.
//! Source: dd-trace-py `ddtrace/internal/writer/`; a captured request.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use http::HeaderName;
use http::HeaderValue;

use crate::codec::datadog;
use crate::model::ByteSize;
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
use crate::reporter::post::first_line;
use crate::reporter::post::header_map;
use crate::reporter::post::refused;
use crate::reporter::queue;
use crate::reporter::retry;
use crate::reporter::sender::Delivery;
use crate::reporter::sender::SendError;
use crate::reporter::sender::Sender;
use crate::reporter::sender::Sending;

/// Settings of the `datadog` reporter.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The agent. Without a path, `/v0.4/traces` is used.
    ///
    /// Unit: URL. Default: `http://localhost:8126`. Reload: live.
    pub endpoint: Option<Endpoint>,

    /// Further headers, such as an authorization. Their values are never shown.
    ///
    /// Unit: name and value. Default: none. Reload: live.
    pub headers: BTreeMap<String, Secret>,

    /// Longest wait for the answer to one send.
    ///
    /// Unit: duration. Default: `10s`. Reload: live.
    #[serde(deserialize_with = "HumanDuration::above_zero")]
    pub timeout: HumanDuration,

    /// Largest body; larger batches go out in halves, a larger span is dropped (`too_large`).
    ///
    /// Unit: size. Default: `8MiB`. Reload: live.
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
            timeout: HumanDuration::from_secs(10),
            max_request_size: ByteSize(8 << 20),
            tls: tls::ClientConfig::default(),
            queue: queue::Config::default(),
            retry: retry::Config::default(),
        }
    }
}

impl Settings for Config {
    const EXAMPLE: &'static str = "datadog: { endpoint: 'http://datadog-agent:8126' }";

    fn queue(&self) -> &queue::Config {
        &self.queue
    }

    fn retry(&self) -> retry::Config {
        self.retry.clone()
    }

    fn sender(&self) -> Result<Box<dyn Sender>, BuildError> {
        let endpoint = Endpoint::or_default(&self.endpoint, "http://localhost:8126")?;
        let mut headers = header_map(&self.headers)?;
        for (name, value) in FIXED {
            headers.insert(
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            );
        }
        Ok(Box::new(Datadog {
            target: Target {
                connector: Connector::new(&endpoint, &self.tls, Versions::Any)?,
                uri: endpoint.with_default_path("/v0.4/traces", None),
                headers,
                compression: Compression::None,
                timeout: self.timeout.0,
            },
            max_request: self.max_request_size.as_usize(),
        }))
    }
}

/// Who we are, that statuses are to be true, and that top-level spans are marked already.
const FIXED: [(&str, &str); 4] = [
    ("datadog-meta-lang", "rust"),
    ("datadog-meta-tracer-version", env!("CARGO_PKG_VERSION")),
    ("datadog-client-computed-top-level", "true"),
    ("datadog-send-real-http-status", "1"),
];

static TRACE_COUNT: HeaderName = HeaderName::from_static("x-datadog-trace-count");

struct Datadog {
    target: Target,
    max_request: usize,
}

impl Sender for Datadog {
    fn send<'a>(&'a mut self, batch: &'a [Arc<Span>]) -> Sending<'a> {
        Box::pin(self.post(batch))
    }

    fn refresh(&mut self) -> Result<(), String> {
        self.target.connector.refresh()
    }
}

impl Datadog {
    async fn post(&mut self, batch: &[Arc<Span>]) -> Result<Delivery, SendError> {
        let (n_traces, body) = datadog::encode(batch);
        if body.len() > self.max_request {
            return Err(SendError::too_large(batch));
        }
        let count = HeaderValue::from(n_traces);
        self.target.headers.insert(&TRACE_COUNT, count);
        let body = Bytes::from(body);
        let response = self.target.post("application/msgpack", body).await?;
        if response.status().is_success() {
            return Ok(Delivery::all(batch.len()));
        }
        Err(refused(&response, Some(first_line(response.body()))))
    }
}
