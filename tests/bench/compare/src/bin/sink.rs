//! Counts spans exactly: OTLP over HTTP and gRPC, Zipkin JSON. Answers as a healthy collector does.
//!
//! `sink --listen ADDR`; `GET /count` says `spans posts bytes bad`. `GET /sampling` answers as Jaeger's sampling service
//! with a rate for each of `--operations` operations.

use std::cell::RefCell;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Context;
use std::task::Poll;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::HeaderMap;
use hyper::Request;
use hyper::Response;
use hyper::body::Body;
use hyper::body::Frame;
use hyper::body::Incoming;
use hyper::header;
use hyper::header::HeaderValue;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

#[derive(Default)]
struct Counts {
    spans: u64,
    posts: u64,
    bytes: u64,
    bad: u64,
}

/// Bytes, then perhaps gRPC's status.
struct Answer {
    bytes: Option<Bytes>,
    grpc: bool,
}

/// Tasks that stay on this thread.
#[derive(Clone)]
struct Local;

fn main() -> io::Result<()> {
    pillion_compare::run(async {
        let counts: Rc<RefCell<Counts>> = Rc::default();
        let address: SocketAddr = pillion_compare::required("--listen");
        let strategy = strategy(pillion_compare::argument("--operations", 1));
        let listener = TcpListener::bind(address).await?;
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                continue;
            };
            let (counts, strategy) = (counts.clone(), strategy.clone());
            let service =
                service_fn(move |request| answer(counts.clone(), strategy.clone(), request));
            tokio::task::spawn_local(async move {
                let builder = hyper_util::server::conn::auto::Builder::new(Local);
                // A broken connection shows in the counts.
                let _ = builder
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    })
}

/// Jaeger's JSON: everything sampled, by operation.
fn strategy(operations: usize) -> Bytes {
    let list: Vec<String> = (0..operations)
        .map(|index| {
            let name = if index == 0 {
                "GET".to_owned()
            } else {
                format!("GET /o{index}")
            };
            format!(r#"{{"operation":"{name}","probabilisticSampling":{{"samplingRate":1.0}}}}"#)
        })
        .collect();
    format!(
        r#"{{"strategyType":"PROBABILISTIC","operationSampling":{{"defaultSamplingProbability":1.0,"defaultLowerBoundTracesPerSecond":1.0,"perOperationStrategies":[{}]}}}}"#,
        list.join(",")
    )
    .into()
}

async fn answer(
    counts: Rc<RefCell<Counts>>,
    strategy: Bytes,
    request: Request<Incoming>,
) -> Result<Response<Answer>, Infallible> {
    let (head, body) = request.into_parts();
    match head.uri.path() {
        "/count" => {
            let counts = counts.borrow();
            let text = format!(
                "{} {} {} {}",
                counts.spans, counts.posts, counts.bytes, counts.bad
            );
            return Ok(respond("text/plain", text.into(), false));
        }
        "/sampling" => return Ok(respond("application/json", strategy, false)),
        _ => {}
    }
    let kind = head
        .headers
        .get(header::CONTENT_TYPE)
        .map_or(&b""[..], HeaderValue::as_bytes);
    let (json, grpc) = (
        kind.starts_with(b"application/json"),
        kind.starts_with(b"application/grpc"),
    );
    let body = match body.collect().await {
        Ok(body) => body.to_bytes(),
        Err(_) => Bytes::new(),
    };
    let spans = if json {
        Some(objects(&body))
    } else if grpc {
        // One uncompressed message behind its five-byte prefix.
        body.get(5..).and_then(spans)
    } else {
        spans(&body)
    };
    let mut counts = counts.borrow_mut();
    counts.posts += 1;
    counts.bytes += body.len() as u64;
    counts.bad += u64::from(spans.is_none());
    counts.spans += spans.unwrap_or(0);
    Ok(if grpc {
        respond("application/grpc", Bytes::from_static(&[0; 5]), true)
    } else if json {
        respond("application/json", Bytes::new(), false)
    } else {
        respond("application/x-protobuf", Bytes::new(), false)
    })
}

fn respond(kind: &'static str, bytes: Bytes, grpc: bool) -> Response<Answer> {
    let bytes = (!bytes.is_empty()).then_some(bytes);
    let mut response = Response::new(Answer { bytes, grpc });
    let kind = HeaderValue::from_static(kind);
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// Spans of an `ExportTraceServiceRequest`: `resource_spans`, their `scope_spans`, their `spans`. `None`: malformed.
fn spans(message: &[u8]) -> Option<u64> {
    let mut count = 0;
    for resource in fields(message, 1)? {
        for scope in fields(resource, 2)? {
            count += fields(scope, 2)?.len() as u64;
        }
    }
    Some(count)
}

/// The length-delimited fields of this number. `None`: not protobuf.
fn fields(mut message: &[u8], wanted: u64) -> Option<Vec<&[u8]>> {
    let mut found = Vec::new();
    while !message.is_empty() {
        let key = varint(&mut message)?;
        let length = match key & 7 {
            0 => {
                varint(&mut message)?;
                continue;
            }
            1 => 8,
            2 => usize::try_from(varint(&mut message)?).ok()?,
            5 => 4,
            _ => return None,
        };
        let (field, rest) = message.split_at_checked(length)?;
        if key >> 3 == wanted && key & 7 == 2 {
            found.push(field);
        }
        message = rest;
    }
    Some(found)
}

fn varint(message: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (first, rest) = message.split_first()?;
        *message = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// Objects directly within the outermost array.
fn objects(json: &[u8]) -> u64 {
    let (mut depth, mut count, mut text, mut escaped) = (0, 0, false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if text => escaped = true,
            b'"' => text = !text,
            _ if text => {}
            b'{' | b'[' => {
                count += u64::from(*byte == b'{' && depth == 1);
                depth += 1;
            }
            b'}' | b']' => depth -= 1,
            _ => {}
        }
    }
    count
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(bytes) = self.bytes.take() {
            return Poll::Ready(Some(Ok(Frame::data(bytes))));
        }
        if !std::mem::take(&mut self.grpc) {
            return Poll::Ready(None);
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_none() && !self.grpc
    }
}

impl<F> hyper::rt::Executor<F> for Local
where
    F: Future<Output: 'static> + 'static,
{
    fn execute(&self, task: F) {
        tokio::task::spawn_local(task);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_counted_where_they_are() {
        // Two resources; the first has one scope with two spans, the second two scopes with one each.
        let scope = |count: u8| {
            let mut bytes = vec![0x0a, 1, b'x'];
            (0..count).for_each(|_| bytes.extend([0x12, 2, 0x0a, 0]));
            bytes
        };
        let wrap = |key: u8, parts: &[Vec<u8>]| {
            let mut bytes = Vec::new();
            for part in parts {
                bytes.extend([key, part.len() as u8]);
                bytes.extend(part);
            }
            bytes
        };
        let first = wrap(0x12, &[scope(2)]);
        let second = wrap(0x12, &[scope(1), scope(1)]);
        assert_eq!(spans(&wrap(0x0a, &[first, second])), Some(4));
        assert_eq!(spans(&[0x0a, 5, 1]), None, "cut off");
    }

    #[test]
    fn only_the_outermost_objects_are_spans() {
        assert_eq!(objects(br#"[{"a":{"b":[{}]}},{"c":"[{\"{"}]"#), 2);
        assert_eq!(objects(b"[]"), 0);
    }
}
