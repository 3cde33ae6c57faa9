//! The small HTTP client for collectors and strategy servers. Not for proxied traffic.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http::Response;
use http_body_util::BodyExt;
use http_body_util::Full;
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

/// A pooled client for HTTP/1.1 and HTTP/2 over TCP and TLS. Cloning shares the pool.
#[derive(Debug, Clone)]
pub struct Client {
    inner: legacy::Client<HttpConnector, Full<Bytes>>,
}

/// Why an exchange with a collector or strategy server failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No connection, or it broke.
    #[error("request failed")]
    Exchange(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// No complete answer in time.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// The answer is larger than the caller reads.
    #[error("answer exceeds {0} bytes")]
    TooLarge(usize),
}

impl Client {
    /// A client for plain HTTP.
    pub fn plain() -> Self {
        Self {
            inner: legacy::Client::builder(TokioExecutor::new()).build_http(),
        }
    }

    /// Sends one request and reads the whole answer, at most `max_body` bytes, within `timeout`.
    ///
    /// # Errors
    /// See [`ClientError`]; any HTTP status is an answer, not an error.
    pub async fn send(
        &self,
        request: Request<Full<Bytes>>,
        timeout: Duration,
        max_body: usize,
    ) -> Result<Response<Bytes>, ClientError> {
        let exchange = async {
            let response = self
                .inner
                .request(request)
                .await
                .map_err(|e| ClientError::Exchange(e.into()))?;
            let (parts, body) = response.into_parts();
            let body = http_body_util::Limited::new(body, max_body)
                .collect()
                .await
                .map_err(|_| ClientError::TooLarge(max_body))?
                .to_bytes();
            Ok(Response::from_parts(parts, body))
        };
        tokio::time::timeout(timeout, exchange)
            .await
            .map_err(|_| ClientError::Timeout(timeout))?
    }
}
