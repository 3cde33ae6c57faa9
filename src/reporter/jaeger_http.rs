//! The `jaeger_http` reporter: Thrift batches posted to a Jaeger collector's `/api/traces`.
//!
//! Success is 202; anything else at or above 400 is failure, repeated for the statuses that say "later".
//! Source: jaeger@v1.67.0 `cmd/collector/app/handler/http_thrift_handler.go`.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::AUTHORIZATION;

use crate::codec::jaeger;
use crate::codec::thrift;
use crate::codec::thrift::BatchRef;
use crate::codec::thrift::Protocol;
use crate::model::ByteSize;
use crate::model::HostPort;
use crate::model::HumanDuration;
use crate::model::Resource;
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
use crate::reporter::post::header_value;
use crate::reporter::post::refused;
use crate::reporter::queue;
use crate::reporter::retry;
use crate::reporter::sender::Delivery;
use crate::reporter::sender::SendError;
use crate::reporter::sender::Sender;
use crate::reporter::sender::Sending;

/// Settings of the `jaeger_http` reporter.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The collector. Without a path, `/api/traces` is used; without a query, `format=jaeger.thrift`.
    ///
    /// Unit: URL. Default: `http://localhost:14268`. Reload: live.
    pub endpoint: Option<Endpoint>,

    /// User and password for HTTP Basic authentication.
    ///
    /// Default: none. Reload: live.
    pub basic_auth: Option<BasicAuth>,

    /// Token for `Authorization: Bearer`. Excludes `basic_auth`.
    ///
    /// Default: none. Reload: live.
    pub bearer_token: Option<Secret>,

    /// Further headers. Their values are never shown.
    ///
    /// Unit: name and value. Default: none. Reload: live.
    pub headers: BTreeMap<String, Secret>,

    /// Longest wait for the answer to one send.
    ///
    /// Unit: duration. Default: `5s`. Reload: live.
    #[serde(deserialize_with = "HumanDuration::above_zero")]
    pub timeout: HumanDuration,

    /// Largest body; larger batches go out in halves, a larger span is dropped (`too_large`).
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

/// User and password.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BasicAuth {
    /// The user. Reload: live.
    pub user: String,
    /// The password. Reload: live.
    pub password: Secret,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            endpoint: None,
            basic_auth: None,
            bearer_token: None,
            headers: BTreeMap::new(),
            timeout: HumanDuration::from_secs(5),
            max_request_size: ByteSize(4 << 20),
            tls: tls::ClientConfig::default(),
            queue: queue::Config::default(),
            retry: retry::Config::default(),
        }
    }
}

impl Settings for Config {
    const EXAMPLE: &'static str =
        "jaeger_http: { endpoint: 'http://jaeger:14268', bearer_token: t }";

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
        let mut headers = header_map(&self.headers)?;
        if let Some(authorization) = self.authorization()? {
            let value = header_value(&authorization);
            let value = value.ok_or_else(|| BuildError::Header(AUTHORIZATION.to_string()))?;
            headers.insert(AUTHORIZATION, value);
        }
        Ok(Box::new(JaegerHttp {
            target: Target {
                connector: Connector::new(&endpoint, &self.tls, Versions::Any)?,
                uri: endpoint.with_default_path("/api/traces", Some("format=jaeger.thrift")),
                headers,
                compression: Compression::None,
                timeout: self.timeout.0,
            },
            max_request: self.max_request_size.as_usize(),
        }))
    }
}

const DEFAULT_ENDPOINT: &str = "http://localhost:14268";

impl Config {
    fn endpoint(&self) -> Result<Endpoint, BuildError> {
        match &self.endpoint {
            Some(endpoint) => Ok(endpoint.clone()),
            None => DEFAULT_ENDPOINT
                .parse()
                .map_err(|error| BuildError::Client(Box::new(error))),
        }
    }

    fn authorization(&self) -> Result<Option<Secret>, BuildError> {
        match (&self.basic_auth, &self.bearer_token) {
            (Some(_), Some(_)) => Err(BuildError::Conflict(
                "basic_auth and bearer_token exclude each other",
            )),
            (Some(basic), None) => {
                if basic.user.contains(':') {
                    return Err(BuildError::Conflict(
                        "basic_auth.user must not contain a colon",
                    ));
                }
                let pair = format!("{}:{}", basic.user, basic.password.expose());
                Ok(Some(Secret::new(format!(
                    "Basic {}",
                    STANDARD.encode(pair)
                ))))
            }
            (None, Some(token)) => Ok(Some(Secret::new(format!("Bearer {}", token.expose())))),
            (None, None) => Ok(None),
        }
    }
}

struct JaegerHttp {
    target: Target,
    max_request: usize,
}

impl Sender for JaegerHttp {
    fn send<'a>(&'a mut self, batch: &'a [Arc<Span>]) -> Sending<'a> {
        Box::pin(self.post(batch))
    }

    fn refresh(&mut self) -> Result<(), String> {
        self.target.connector.refresh()
    }
}

impl JaegerHttp {
    async fn post(&self, batch: &[Arc<Span>]) -> Result<Delivery, SendError> {
        let body = self.encode(batch)?;
        let response = self
            .target
            .post("application/x-thrift", body.into())
            .await?;
        if response.status().is_success() {
            return Ok(Delivery::all(batch.len()));
        }
        Err(refused(&response, Some(first_line(response.body()))))
    }

    /// A body holds the spans of one process: mixed batches are split.
    fn encode(&self, batch: &[Arc<Span>]) -> Result<Vec<u8>, SendError> {
        let mut parts = by_resource(batch);
        if parts.len() > 1 {
            return Err(SendError::Split(std::mem::take(&mut parts)));
        }
        let groups = jaeger::groups(batch);
        let Some(group) = groups.first() else {
            return Ok(Vec::new());
        };
        let body = BatchRef {
            process: &group.process,
            spans: &group.spans,
            sequence: None,
            stats: None,
        };
        let body = thrift::encode_batch(&body, Protocol::Binary).map_err(|e| encode_error(&e))?;
        if body.len() > self.max_request {
            return Err(SendError::too_large(batch));
        }
        Ok(body)
    }
}

/// The batch in parts of one resource each.
pub(super) fn by_resource(batch: &[Arc<Span>]) -> Vec<Vec<Arc<Span>>> {
    let mut parts: Vec<(&Arc<Resource>, Vec<Arc<Span>>)> = Vec::new();
    for span in batch {
        match parts
            .iter_mut()
            .rev()
            .find(|(resource, _)| *resource == &span.resource)
        {
            Some((_, part)) => part.push(Arc::clone(span)),
            None => parts.push((&span.resource, vec![Arc::clone(span)])),
        }
    }
    parts.into_iter().map(|(_, part)| part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Limits;
    use crate::codec::tests::full_span;
    use crate::reporter::tests::span;

    fn config(yaml: &str) -> Config {
        serde_saphyr::from_str(yaml).unwrap()
    }

    #[test]
    fn credentials_become_one_authorization_header() {
        for (yaml, expected) in [
            ("bearer_token: abc", Some("Bearer abc")),
            ("basic_auth: { user: u, password: p }", Some("Basic dTpw")),
            ("timeout: 1s", None),
        ] {
            let header = config(yaml).authorization().unwrap();
            assert_eq!(header.as_ref().map(Secret::expose), expected);
        }
        for (yaml, why) in [
            (
                "{ bearer_token: t, basic_auth: { user: u, password: p } }",
                "both",
            ),
            (
                "basic_auth: { user: 'a:b', password: p }",
                "colon in the user",
            ),
            ("bearer_token: \"a\\nb\"", "line break in the token"),
        ] {
            assert!(config(yaml).sender().is_err(), "{why}");
        }
        let shown = format!("{:?}", config("basic_auth: { user: u, password: hunter2 }"));
        assert!(!shown.contains("hunter2"), "{shown}");
    }

    fn reporter(max_request: usize) -> JaegerHttp {
        let endpoint: Endpoint = DEFAULT_ENDPOINT.parse().unwrap();
        let tls = tls::ClientConfig::default();
        JaegerHttp {
            target: Target {
                connector: Connector::new(&endpoint, &tls, Versions::Any).unwrap(),
                uri: endpoint.uri().clone(),
                headers: http::HeaderMap::new(),
                compression: Compression::None,
                timeout: std::time::Duration::from_secs(1),
            },
            max_request,
        }
    }

    #[test]
    fn a_body_is_one_process_and_no_larger_than_allowed() {
        let mut other = full_span();
        other.resource = Arc::new(Resource {
            service: "other".into(),
            attributes: Vec::new(),
            scope: None,
        });
        let mixed = [span(1), Arc::new(other), span(2)];
        let Err(SendError::Split(parts)) = reporter(1 << 20).encode(&mixed) else {
            panic!("a mixed batch is split");
        };
        let sizes: Vec<_> = parts.iter().map(Vec::len).collect();
        assert_eq!(sizes, [2, 1]);
        let body = reporter(1 << 20).encode(&parts[0]).unwrap();
        let read = thrift::decode_batch(&body, Protocol::Binary, Limits::default()).unwrap();
        assert_eq!(read.spans.len(), 2);
        assert_eq!(read.process.service, "svc-a");
        let halves = reporter(body.len() - 1).encode(&parts[0]);
        assert!(matches!(halves, Err(SendError::Split(parts)) if parts.len() == 2));
        let one = reporter(10).encode(&[span(1)]);
        assert!(
            matches!(one, Err(SendError::Drop { .. })),
            "a single span cannot be halved"
        );
    }
}
