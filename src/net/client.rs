//! The small HTTP client for collectors and strategy servers. Not for proxied traffic.
//!
//! Whole requests and whole answers, both in memory. It repeats nothing and follows no redirect: what to do about a
//! failure is the caller's to know.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http::Request;
use http::Response;
use http::Uri;
use http_body_util::BodyExt;
use http_body_util::Full;
use http_body_util::LengthLimitError;
use http_body_util::Limited;
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use hyper_util::rt::TokioIo;
use hyper_util::rt::TokioTimer;
use tokio::net::TcpStream;
use tower_service::Service;

use crate::net::tls::Alpn;
use crate::net::tls::ClientTls;
use crate::net::tls::MaybeTls;
use crate::net::tls::TlsError;

/// Longest wait for one address to accept, where a name has several.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest wait for a connection to be usable, names and TLS included.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Shorter than the idle timeouts of the usual collectors and load balancers.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
const IDLE_PER_HOST: usize = 4;
/// How an HTTP/2 connection that lost its peer is noticed.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// A pooled client for HTTP/1.1 and HTTP/2 over TCP and TLS. Cloning shares the pool.
///
/// Connections live on the runtime that the first request over them ran on. Names are resolved for each connection.
#[derive(Debug, Clone)]
pub struct Client {
    inner: legacy::Client<Connector, Full<Bytes>>,
}

/// A whole answer with what came after its body.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Status, headers and body.
    pub response: Response<Bytes>,
    /// The trailers; empty when there are none. gRPC servers that fail at once have their status in the headers.
    pub trailers: HeaderMap,
}

/// Why an exchange with a collector or strategy server failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No connection: nothing was sent.
    #[error("connection failed")]
    Connect(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The connection broke: what was sent may have been received.
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
        Self::new(None)
    }

    /// A client for `http:` and, with `tls`, for `https:`. HTTP/2 is spoken where the TLS handshake settles on it.
    pub fn new(tls: Option<&ClientTls>) -> Self {
        Self::build(tls, Alpn::Http)
    }

    /// A client that speaks HTTP/2 alone, as gRPC needs it: with prior knowledge over `http:`, by ALPN over `https:`.
    pub fn h2_only(tls: Option<&ClientTls>) -> Self {
        Self::build(tls, Alpn::Http2)
    }

    fn build(tls: Option<&ClientTls>, alpn: Alpn) -> Self {
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_connect_timeout(Some(CONNECT_TIMEOUT));
        http.set_keepalive(Some(IDLE_TIMEOUT));
        let inner = legacy::Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(IDLE_PER_HOST)
            .retry_canceled_requests(false)
            .http2_only(alpn == Alpn::Http2)
            .http2_keep_alive_interval(PING_INTERVAL)
            .http2_keep_alive_timeout(PING_TIMEOUT)
            .build(Connector {
                http,
                tls: tls.cloned(),
                alpn,
            });
        Self { inner }
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
        let answer = self.send_with_trailers(request, timeout, max_body).await?;
        Ok(answer.response)
    }

    /// Like [`Client::send`], with the trailers.
    ///
    /// # Errors
    /// See [`ClientError`]; any HTTP status is an answer, not an error.
    pub async fn send_with_trailers(
        &self,
        request: Request<Full<Bytes>>,
        timeout: Duration,
        max_body: usize,
    ) -> Result<Answer, ClientError> {
        tokio::time::timeout(timeout, self.exchange(request, max_body))
            .await
            .map_err(|_| ClientError::Timeout(timeout))?
    }

    async fn exchange(
        &self,
        request: Request<Full<Bytes>>,
        max_body: usize,
    ) -> Result<Answer, ClientError> {
        let response = self.inner.request(request).await.map_err(|error| {
            if error.is_connect() {
                ClientError::Connect(error.into())
            } else {
                ClientError::Exchange(error.into())
            }
        })?;
        let (parts, body) = response.into_parts();
        let collected = Limited::new(body, max_body)
            .collect()
            .await
            .map_err(|error| {
                if error.is::<LengthLimitError>() {
                    ClientError::TooLarge(max_body)
                } else {
                    ClientError::Exchange(error)
                }
            })?;
        let trailers = collected.trailers().cloned().unwrap_or_default();
        Ok(Answer {
            response: Response::from_parts(parts, collected.to_bytes()),
            trailers,
        })
    }
}

/// Opens connections: names and addresses by hyper-util's connector, TLS on top.
#[derive(Debug, Clone)]
struct Connector {
    http: HttpConnector,
    tls: Option<ClientTls>,
    alpn: Alpn,
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type Connecting =
    Pin<Box<dyn Future<Output = Result<TokioIo<MaybeTls<TcpStream>>, BoxError>> + Send>>;

impl Service<Uri> for Connector {
    type Response = TokioIo<MaybeTls<TcpStream>>;
    type Error = BoxError;
    type Future = Connecting;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.http.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Connecting {
        let connector = self.clone();
        Box::pin(async move {
            let connect = connector.connect(uri);
            let io = tokio::time::timeout(HANDSHAKE_TIMEOUT, connect)
                .await
                .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
            Ok(TokioIo::new(io))
        })
    }
}

impl Connector {
    async fn connect(mut self, uri: Uri) -> Result<MaybeTls<TcpStream>, BoxError> {
        let secure = uri.scheme() == Some(&http::uri::Scheme::HTTPS);
        if secure && self.tls.is_none() {
            return Err("https needs TLS to be set up".into());
        }
        let tcp = self.http.call(uri.clone()).await?.into_inner();
        let Some(tls) = self.tls.filter(|_| secure) else {
            return Ok(MaybeTls::Plain(tcp));
        };
        let host = uri.host().unwrap_or_default();
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let stream = tls.connect(bare, tcp, self.alpn).await?;
        if self.alpn == Alpn::Http2 && stream.get_ref().1.alpn_protocol() != Some(b"h2") {
            return Err(TlsError::NotHttp2(bare.to_owned()).into());
        }
        Ok(MaybeTls::Tls(Box::new(stream.into())))
    }
}

#[cfg(test)]
mod tests;
