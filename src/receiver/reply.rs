//! Answers of the receivers: a body in one piece, and trailers where gRPC wants them.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::Context;
use std::task::Poll;

use bytes::Bytes;
use http::HeaderMap;
use http::HeaderValue;
use http::Response;
use http::StatusCode;
use http::header;
use http_body::Frame;
use http_body::SizeHint;

use crate::net::grpc;
use crate::net::grpc::Code;

/// An answer.
pub(super) type Reply = Response<Body>;

/// At most one piece of data, then at most one set of trailers.
#[derive(Debug, Default)]
pub(super) struct Body {
    data: Option<Bytes>,
    trailers: Option<HeaderMap>,
}

/// An answer under this status.
pub(super) fn of(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Reply {
    let body: Bytes = body.into();
    let mut reply = Response::new(Body {
        data: (!body.is_empty()).then_some(body),
        trailers: None,
    });
    *reply.status_mut() = status;
    if !kind.is_empty() {
        let kind = HeaderValue::from_static(kind);
        reply.headers_mut().insert(header::CONTENT_TYPE, kind);
    }
    reply
}

/// A status without a body.
pub(super) fn empty(status: StatusCode) -> Reply {
    of(status, "", Bytes::new())
}

/// One line of text.
pub(super) fn text(status: StatusCode, text: &str) -> Reply {
    of(status, "text/plain; charset=utf-8", format!("{text}\n"))
}

/// To be tried again in a second.
pub(super) fn retry_after(mut reply: Reply) -> Reply {
    reply
        .headers_mut()
        .insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    reply
}

/// A call that went well, with its answer.
pub(super) fn call(message: &[u8]) -> Reply {
    grpc_reply(Some(grpc::frame(message)), grpc::trailers(Code::Ok, ""))
}

/// A call that failed.
pub(super) fn failed(code: Code, message: &str) -> Reply {
    grpc_reply(None, grpc::trailers(code, message))
}

fn grpc_reply(data: Option<Bytes>, trailers: HeaderMap) -> Reply {
    let mut reply = Response::new(Body {
        data,
        trailers: Some(trailers),
    });
    reply
        .headers_mut()
        .insert(header::CONTENT_TYPE, grpc::CONTENT_TYPE);
    reply
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let data = self.data.take().map(Frame::data);
        let frame = data.or_else(|| self.trailers.take().map(Frame::trailers));
        Poll::Ready(frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_none() && self.trailers.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.data.as_ref().map_or(0, Bytes::len) as u64)
    }
}
