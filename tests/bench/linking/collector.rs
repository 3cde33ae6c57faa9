//! Receives the spans that Pillion reports and keeps what the judge needs.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;

use bytes::Bytes;
use http::Request;
use http::Response;
use http_body_util::BodyExt;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1 as theirs;
use prost::Message;
use tokio::net::TcpListener;

/// A reported span.
#[derive(Debug, Clone)]
pub(crate) struct Span {
    /// It is a request to the program, not a call of it.
    pub(crate) is_server: bool,
    /// `pillion.link.paced`: what was for it was delivered alone.
    pub(crate) is_paced: bool,
    /// Its id.
    pub(crate) id: Vec<u8>,
    /// Its parent's; empty for none.
    pub(crate) parent: Vec<u8>,
    /// Path and query of the request.
    pub(crate) path: String,
    /// `pillion.link.method`.
    pub(crate) method: String,
    /// `pillion.link.confidence`.
    pub(crate) confidence: String,
    /// `pillion.link.p`: how likely it says that the parent is right.
    pub(crate) p: Option<f64>,
}

/// A running collector; it ends with the runtime.
pub(crate) struct Collector {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    spans: Arc<Mutex<Vec<Span>>>,
}

impl Collector {
    /// Starts it.
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let spans = Arc::<Mutex<Vec<Span>>>::default();
        let kept = spans.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let spans = spans.clone();
                let service = service_fn(move |request| receive(spans.clone(), request));
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        Self {
            address,
            spans: kept,
        }
    }

    /// How many calls of the program were reported.
    pub(crate) fn n_calls(&self, counts: impl Fn(&Span) -> bool) -> usize {
        let spans = self.spans.lock().unwrap();
        spans
            .iter()
            .filter(|span| !span.is_server && counts(span))
            .count()
    }

    /// Takes everything that was reported.
    pub(crate) fn take(&self) -> Vec<Span> {
        std::mem::take(&mut self.spans.lock().unwrap())
    }
}

async fn receive(
    spans: Arc<Mutex<Vec<Span>>>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    if let Ok(body) = request.into_body().collect().await {
        let message = ExportTraceServiceRequest::decode(body.to_bytes()).unwrap();
        let scopes = message
            .resource_spans
            .into_iter()
            .flat_map(|resource| resource.scope_spans);
        let received = scopes.flat_map(|scope| scope.spans).map(read);
        spans.lock().unwrap().extend(received);
    }
    Ok(Response::new(Full::default()))
}

fn read(span: theirs::Span) -> Span {
    let is_server = span.kind == theirs::span::SpanKind::Server as i32;
    let path = match is_server {
        true => text(&span, "url.path"),
        false => after_authority(&text(&span, "url.full")).to_owned(),
    };
    Span {
        is_server,
        is_paced: truth_of(&span, "pillion.link.paced"),
        path,
        method: text(&span, "pillion.link.method"),
        confidence: text(&span, "pillion.link.confidence"),
        p: number(&span, "pillion.link.p"),
        id: span.span_id,
        parent: span.parent_span_id,
    }
}

fn truth_of(span: &theirs::Span, key: &str) -> bool {
    let mut pairs = span.attributes.iter();
    let pair = pairs.find(|attribute| attribute.key == key);
    let value = pair.and_then(|pair| pair.value.clone()?.value);
    value == Some(Value::BoolValue(true))
}

fn after_authority(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.find('/').and_then(|at| rest.get(at..)).unwrap_or("/")
}

fn text(span: &theirs::Span, key: &str) -> String {
    match value(span, key) {
        Some(Value::StringValue(text)) => text,
        _ => String::new(),
    }
}

fn number(span: &theirs::Span, key: &str) -> Option<f64> {
    match value(span, key)? {
        Value::DoubleValue(number) => Some(number),
        Value::IntValue(number) => Some(number as f64),
        _ => None,
    }
}

fn value(span: &theirs::Span, key: &str) -> Option<Value> {
    let mut attributes = span.attributes.iter();
    let pair = attributes.find(|attribute| attribute.key == key)?;
    pair.value.clone()?.value
}
