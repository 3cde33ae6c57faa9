//! The question to a tracing backend for a service's strategy, over HTTP or gRPC.
//!
//! Over gRPC the answer is turned into the JSON that the same backend would give over HTTP, so that one set of rules reads
//! both. Source: jaeger-idl `proto/api_v2/sampling.proto`.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http::Response;
use http::Uri;
use http::header;
use http::uri::Scheme;
use http_body_util::Full;
use percent_encoding::NON_ALPHANUMERIC;
use percent_encoding::utf8_percent_encode;

use crate::codec::jaeger_strategy;
use crate::codec::jaeger_strategy::Answer;
use crate::codec::jaeger_strategy::Spelling;
use crate::net::client::Client;
use crate::net::grpc;
use crate::net::tls::ClientConfig;
use crate::net::tls::ClientTls;
use crate::sampling::PollError;
use crate::sampling::remote::Config;
use crate::sampling::remote::Transport;

/// Largest answer that is read: some ten thousand operations.
pub(super) const MAX_ANSWER: usize = 4 << 20;
const AGENT: &str = concat!("pillion/", env!("CARGO_PKG_VERSION"));

/// A backend that knows strategies. Cloning shares its connections.
#[derive(Debug, Clone)]
pub struct Source {
    target: Uri,
    transport: Transport,
    client: Client,
    timeout: Duration,
}

impl Source {
    /// The backend that these settings name.
    pub fn new(config: &Config, plain: &Client) -> Self {
        let (transport, target) = config.endpoint.target();
        // Without the system's certificates the connection fails and says so.
        let tls = (target.scheme() == Some(&Scheme::HTTPS))
            .then(|| ClientTls::new(&ClientConfig::default()).ok())
            .flatten();
        let client = match (transport, tls) {
            (Transport::Http, None) => plain.clone(),
            (Transport::Http, tls) => Client::new(tls.as_ref()),
            (Transport::Grpc, tls) => Client::h2_only(tls.as_ref()),
        };
        Self {
            target,
            transport,
            client,
            timeout: config.timeout.0,
        }
    }

    /// Where it is.
    pub fn target(&self) -> &Uri {
        &self.target
    }

    /// Asks for this service's strategy. The answer is JSON, whatever the wire.
    ///
    /// # Errors
    /// [`PollError`], except that a status of HTTP is part of the answer.
    pub async fn ask(&self, service: &str) -> Result<Response<Bytes>, PollError> {
        match self.transport {
            Transport::Http => {
                let request = http_request(&self.target, service).map_err(PollError::Request)?;
                let answer = self.client.send(request, self.timeout, MAX_ANSWER).await;
                answer.map_err(PollError::Exchange)
            }
            Transport::Grpc => self.call(service).await,
        }
    }

    async fn call(&self, service: &str) -> Result<Response<Bytes>, PollError> {
        let frame = grpc::frame(&jaeger_strategy::question(service));
        let request = Request::post(&self.target)
            .header(header::CONTENT_TYPE, grpc::CONTENT_TYPE)
            .header(header::TE, "trailers")
            .header(header::USER_AGENT, AGENT)
            .body(Full::new(frame))
            .map_err(PollError::Request)?;
        let answer = self
            .client
            .send_with_trailers(request, self.timeout, MAX_ANSWER)
            .await
            .map_err(PollError::Exchange)?;
        let (code, message) = grpc::status(answer.response.headers(), &answer.trailers);
        if code != 0 {
            return Err(PollError::Call { code, message });
        }
        let mut frames = grpc::Frames::new(MAX_ANSWER);
        frames.push(answer.response.body());
        let message = frames
            .pop()
            .ok()
            .flatten()
            .unwrap_or_else(|| grpc::Message {
                compressed: false,
                bytes: Bytes::new(),
            });
        // What is no strategy stays what it is: the reader of the JSON says so.
        let json = Answer::from_proto(&message.bytes).map(|answer| answer.to_json(Spelling::Name));
        Ok(Response::new(json.unwrap_or_default().into()))
    }
}

/// `GET {target}?service={service}`.
pub(super) fn http_request(
    target: &Uri,
    service: &str,
) -> Result<Request<Full<Bytes>>, http::Error> {
    let joint = if target.query().is_some() { '&' } else { '?' };
    let service = utf8_percent_encode(service, NON_ALPHANUMERIC);
    Request::get(format!("{target}{joint}service={service}"))
        .header(header::ACCEPT, "application/json")
        .header(header::USER_AGENT, AGENT)
        .body(Full::default())
}
