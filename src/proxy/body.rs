//! Bodies on their way through: frames pass untouched, sizes and ends are noted.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::task::Poll;
use std::task::ready;
use std::time::Instant;

use bytes::Bytes;
use http::HeaderMap;
use http::StatusCode;
use http::Version;
use http::header;
use http::response::Parts;
use http_body::Body;
use http_body::Frame;
use http_body::SizeHint;
use hyper::body::Incoming;

use crate::correlate::InFlight;
use crate::correlate::Inbound;
use crate::proxy::error::ProxyError;
use crate::proxy::exchange::Exchange;
use crate::proxy::expect::Gate;
use crate::proxy::stall::Stall;

/// Whatever broke a body, on its way to the other side.
pub(super) type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// A request body on its way upstream.
pub struct RequestBody {
    incoming: Option<Incoming>,
    progress: Option<Arc<Progress>>,
    /// Holds the body back until the upstream asked for it (`Expect: 100-continue`).
    gate: Option<Gate>,
    /// Bytes that may still pass; `None`: no limit.
    left: Option<u64>,
    /// Whoever looks at what comes first.
    reader: Option<Reader>,
}

/// Looks at the start of a request's body, for the calls that the request causes.
pub struct Reader {
    in_flight: Arc<InFlight>,
    inbound: Arc<Inbound>,
}

/// How far a request body got; read by the exchange, written by the upstream connection.
#[derive(Debug, Default)]
pub struct Progress {
    bytes: AtomicU64,
    ended: OnceLock<Instant>,
    too_large: AtomicBool,
    broken: AtomicBool,
}

/// A response body on its way downstream. Ending or dropping it ends the exchange.
pub(super) struct ResponseBody {
    source: Source,
    exchange: Option<Box<Exchange>>,
    /// Frames that passed.
    n_frames: u64,
    stall: Option<Stall>,
}

enum Source {
    Upstream(Incoming),
    Local(Option<Bytes>),
    /// An HTTP/1 response without content whose head announces a length (`Content-Length: 0`, or what HEAD and 304
    /// would have had). hyper writes that length where it stood only when it does not know how long the body is.
    Announced,
}

/// The request body exceeded its limit.
#[derive(Debug, thiserror::Error)]
#[error("the request body exceeds its limit")]
struct TooLarge;

impl Progress {
    /// Bytes that passed so far.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// True when the body has passed whole.
    pub fn ended(&self) -> bool {
        self.ended.get().is_some()
    }

    /// When the body had passed whole; `None` while it has not.
    pub fn ended_at(&self) -> Option<Instant> {
        self.ended.get().copied()
    }

    /// Of a body that is there whole.
    pub(super) fn whole(bytes: u64) -> Arc<Self> {
        let progress = Self::default();
        progress.bytes.store(bytes, Ordering::Relaxed);
        progress.end();
        Arc::new(progress)
    }

    fn end(&self) {
        self.ended.get_or_init(Instant::now);
    }

    /// True when the body was cut because of its size.
    pub fn too_large(&self) -> bool {
        self.too_large.load(Ordering::Relaxed)
    }

    /// True when the caller did not send all of it, or nothing that can be understood.
    pub fn broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }
}

impl Reader {
    /// Of the body of this inbound request, where its type is text that may hold ids; `None` otherwise.
    pub fn of(
        in_flight: &Arc<InFlight>,
        inbound: &Arc<Inbound>,
        headers: &HeaderMap,
    ) -> Option<Self> {
        let is_plain = !headers.contains_key(header::CONTENT_ENCODING);
        let content_type = headers.get(header::CONTENT_TYPE).filter(|_| is_plain)?;
        is_text(content_type.as_bytes()).then(|| Self {
            in_flight: in_flight.clone(),
            inbound: inbound.clone(),
        })
    }

    /// Looks at what comes first.
    pub fn read(self, start: &[u8]) {
        let values = self.in_flight.fingerprints.body(start);
        self.inbound.begins_with(values);
    }
}

/// True for JSON, XML, forms and text.
fn is_text(content_type: &[u8]) -> bool {
    let essence = content_type.split(|byte| *byte == b';').next();
    let essence = essence.unwrap_or_default().trim_ascii();
    let ends_in = |suffix: &[u8]| {
        let at = essence.len().checked_sub(suffix.len());
        at.is_some_and(|at| essence[at..].eq_ignore_ascii_case(suffix))
    };
    let begins_with = |prefix: &[u8]| {
        let start = essence.get(..prefix.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(prefix))
    };
    ends_in(b"/json")
        || ends_in(b"+json")
        || ends_in(b"/xml")
        || ends_in(b"+xml")
        || ends_in(b"/x-www-form-urlencoded")
        || begins_with(b"text/")
}

impl RequestBody {
    /// Nothing to send.
    pub fn empty() -> Self {
        Self {
            incoming: None,
            progress: None,
            gate: None,
            left: None,
            reader: None,
        }
    }

    /// A body that is noted in `progress`, cut beyond `limit` (0: none) and held back by `gate`; `reader` sees its start.
    pub fn streaming(
        incoming: Incoming,
        progress: Arc<Progress>,
        gate: Option<Gate>,
        limit: u64,
        reader: Option<Reader>,
    ) -> Self {
        let left = (limit > 0).then_some(limit);
        Self {
            incoming: Some(incoming),
            progress: Some(progress),
            gate,
            left,
            reader,
        }
    }

    fn note(&mut self, frame: &Frame<Bytes>) -> Result<(), TooLarge> {
        let (Some(data), Some(progress)) = (frame.data_ref(), &self.progress) else {
            return Ok(());
        };
        let size = data.len() as u64;
        if let Some(reader) = self.reader.take() {
            reader.read(data);
        }
        progress.bytes.fetch_add(size, Ordering::Relaxed);
        if let Some(left) = &mut self.left {
            *left = left.checked_sub(size).ok_or_else(|| {
                progress.too_large.store(true, Ordering::Relaxed);
                TooLarge
            })?;
        }
        Ok(())
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let Some(incoming) = &mut this.incoming else {
            return Poll::Ready(None);
        };
        if let Some(gate) = &mut this.gate {
            ready!(gate.poll_open(cx));
            this.gate = None;
        }
        match ready!(Pin::new(&mut *incoming).poll_frame(cx)) {
            Some(Ok(frame)) => {
                let ended = incoming.is_end_stream();
                if let Err(error) = this.note(&frame) {
                    this.incoming = None;
                    return Poll::Ready(Some(Err(error.into())));
                }
                if ended && let Some(progress) = &this.progress {
                    progress.end();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => {
                if let Some(progress) = &this.progress {
                    progress.broken.store(true, Ordering::Relaxed);
                }
                Poll::Ready(Some(Err(error.into())))
            }
            None => {
                if let Some(progress) = &this.progress {
                    progress.end();
                }
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming
            .as_ref()
            .map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl ResponseBody {
    /// Text of our own, without an exchange to end.
    pub(super) fn local(bytes: Bytes) -> Self {
        Self {
            source: Source::Local((!bytes.is_empty()).then_some(bytes)),
            exchange: None,
            n_frames: 0,
            stall: None,
        }
    }

    /// The upstream's body on its way to a response with this head; `exchange` ends with it.
    pub(super) fn upstream(incoming: Incoming, head: &Parts, mut exchange: Box<Exchange>) -> Self {
        let source = if !incoming.is_end_stream() {
            Source::Upstream(incoming)
        } else {
            exchange.complete();
            // 204 must not announce anything (RFC 9110 section 8.6); hyper sees to that.
            let announces = head.version != Version::HTTP_2
                && head.status != StatusCode::NO_CONTENT
                && head.headers.contains_key(header::CONTENT_LENGTH);
            match announces {
                true => Source::Announced,
                false => Source::Local(None),
            }
        };
        let stall = match source {
            Source::Upstream(_) => Stall::new(exchange.stall_limit(), exchange.request_bytes()),
            _ => None,
        };
        Self {
            source,
            exchange: Some(exchange),
            n_frames: 0,
            stall,
        }
    }

    /// Nothing comes from the upstream: for how long?
    fn poll_stalled(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let (Some(stall), Some(exchange)) = (&mut self.stall, &mut self.exchange) else {
            return Poll::Pending;
        };
        let progress = self.n_frames + exchange.request_bytes();
        ready!(stall.poll_stalled(cx, progress));
        let limit = exchange.stall_limit();
        exchange.stalled();
        self.exchange = None;
        Poll::Ready(Some(Err(ProxyError::Stalled(limit).into())))
    }

    /// Makes an exchange end together with a text of our own.
    pub(super) fn attach(&mut self, mut exchange: Box<Exchange>) {
        exchange.complete();
        self.exchange = Some(exchange);
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let incoming = match &mut this.source {
            Source::Local(bytes) => {
                return Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes))));
            }
            Source::Announced => {
                this.source = Source::Local(None);
                return Poll::Ready(None);
            }
            Source::Upstream(incoming) => incoming,
        };
        let Poll::Ready(polled) = Pin::new(&mut *incoming).poll_frame(cx) else {
            return this.poll_stalled(cx);
        };
        this.n_frames += 1;
        let ended = incoming.is_end_stream();
        if let Some(exchange) = &mut this.exchange {
            match &polled {
                Some(Ok(frame)) => {
                    exchange.frame(frame);
                    if ended {
                        exchange.complete();
                    }
                }
                Some(Err(error)) => exchange.break_off(error),
                None => exchange.complete(),
            }
            if ended || !matches!(polled, Some(Ok(_))) {
                this.exchange = None;
            }
        }
        Poll::Ready(polled.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Local(bytes) => bytes.is_none(),
            Source::Announced => false,
            Source::Upstream(incoming) => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Local(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64))
            }
            Source::Announced => SizeHint::default(),
            Source::Upstream(incoming) => incoming.size_hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_text_is_looked_at() {
        for (content_type, expected) in [
            ("application/json", true),
            ("Application/JSON; charset=utf-8", true),
            ("application/vnd.api+json", true),
            ("application/xml", true),
            ("application/soap+xml;action=x", true),
            ("application/x-www-form-urlencoded", true),
            ("text/plain", true),
            ("application/octet-stream", false),
            ("multipart/form-data; boundary=x", false),
            ("image/png", false),
            ("application/grpc+proto", false),
            ("json", false),
            ("", false),
        ] {
            assert_eq!(is_text(content_type.as_bytes()), expected, "{content_type}");
        }
    }
}
