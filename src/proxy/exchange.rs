//! One request with its outcome: what is counted and what goes on its span, from the first byte to the last.
//!
//! Held by the response body (or the tunnel) of the exchange; when that ends or is dropped, the exchange ends: the span
//! finishes, the metrics are counted, the upstream connection goes back to its pool. No path can forget it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use bytes::Bytes;
use http::HeaderMap;
use http::StatusCode;
use http_body::Frame;

use crate::correlate::InboundGuard;
use crate::model::Kind;
use crate::net::kernel::Moment;
use crate::proxy::body::Progress;
use crate::proxy::body::Reader;
use crate::proxy::error::ProxyError;
use crate::proxy::listener::Conn;
use crate::proxy::pacing::Busy;
use crate::proxy::pacing::Side;
use crate::proxy::phase::Cut;
use crate::proxy::shared::RequestSlot;
use crate::proxy::traced;
use crate::proxy::upstream::ConnectTiming;
use crate::proxy::upstream::Lease;
use crate::telemetry::metrics::ActiveGuard;
use crate::telemetry::metrics::ErrorType;
use crate::telemetry::metrics::RequestLabels;
use crate::tracer::ActiveSpan;

/// An exchange that has begun.
pub(super) struct Exchange {
    conn: Arc<Conn>,
    labels: RequestLabels,
    kind: Kind,
    start: Instant,
    /// Absent when tracing is off or the request is ignored.
    pub span: Option<ActiveSpan>,
    /// Keeps an inbound request findable by `correlate`.
    pub guard: Option<InboundGuard>,
    /// The request body, when there is one.
    pub request: Option<Arc<Progress>>,
    /// It is paced, and not to learn alone.
    pub is_paced: bool,
    /// A call of the program that is under way, where requests are paced.
    pub busy: Option<Busy>,
    /// The upstream connection, while the response is under way.
    pub lease: Option<Lease>,
    response_bytes: u64,
    /// What passes is no HTTP message: there is no body to give the size of.
    is_tunnel: bool,
    times: Times,
    outcome: Outcome,
    /// When it was over; otherwise that is when this is dropped.
    end: Option<Instant>,
    _active: ActiveGuard,
    _slot: RequestSlot,
}

/// Where the time went.
#[derive(Debug, Clone, Copy, Default)]
struct Times {
    connect: ConnectTiming,
    reused: bool,
    /// The request was handed to an upstream connection.
    sent: Option<Instant>,
    /// The response head was there.
    first_byte: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// Still under way: if it ends like this, the downstream went away.
    Open,
    /// Ran to its end.
    Complete,
    /// Broke.
    Failed,
}

impl Exchange {
    /// Begins.
    pub(super) fn new(
        conn: Arc<Conn>,
        labels: RequestLabels,
        kind: Kind,
        start: Instant,
        span: Option<ActiveSpan>,
        slot: RequestSlot,
    ) -> Box<Self> {
        let active = conn.metrics().traffic.active.enter();
        Box::new(Self {
            conn,
            labels,
            kind,
            start,
            span,
            guard: None,
            request: None,
            is_paced: false,
            busy: None,
            lease: None,
            response_bytes: 0,
            is_tunnel: false,
            times: Times::default(),
            outcome: Outcome::Open,
            end: None,
            _active: active,
            _slot: slot,
        })
    }

    /// Whoever looks for ids at the start of the request's body, where that is asked for.
    pub(super) fn body_reader(&self, headers: &HeaderMap) -> Option<Reader> {
        let guard = self.guard.as_ref()?;
        let is_wanted = self.conn.snapshot.correlate.values && self.span.is_some();
        let in_flight = &self.conn.worker.shared.in_flight;
        is_wanted.then(|| Reader::of(in_flight, guard.inbound(), headers))?
    }

    /// An upstream connection was found.
    pub(super) fn connected(&mut self, lease: &Lease) {
        self.times.connect = lease.timing;
        self.times.reused = lease.reused;
        if let Some(guard) = &self.guard {
            let shared = &self.conn.worker.shared;
            let is_watched = shared.evidence.is_some() || shared.kernel.get().is_some();
            let at = is_watched.then(Moment::now);
            let (inbound, port) = (guard.inbound(), lease.peer.local.port());
            inbound.passed_on_from(port, at);
            if let Some(pacer) = &shared.pacer {
                // Several share the other ones.
                let alone = (!lease.is_http2()).then_some(inbound);
                pacer.deliver(Side::Ours, port, alone);
            }
        }
        if self.kind == Kind::Client
            && let Some(span) = &mut self.span
        {
            span.tracer()
                .clone()
                .conventions
                .peer(span, lease.peer.address);
        }
    }

    /// The destination of a CONNECT tunnel was reached.
    pub(super) fn tunnel_opened(&mut self, peer: SocketAddr, timing: ConnectTiming) {
        let now = Instant::now();
        self.times = Times {
            connect: timing,
            reused: false,
            sent: Some(now),
            first_byte: Some(now),
        };
        self.labels.status = Some(StatusCode::OK);
        if let Some(span) = &mut self.span {
            span.set("http.response.status_code", 200_i64);
            span.tracer().clone().conventions.peer(span, peer);
        }
    }

    /// The request was handed to the upstream connection.
    pub(super) fn sent(&mut self, now: Instant) {
        self.times.sent = Some(now);
    }

    /// The response head is here.
    pub(super) fn responded(&mut self, status: StatusCode, headers: &HeaderMap, now: Instant) {
        self.times.first_byte = Some(now);
        self.labels.status = Some(status);
        if let Some(guard) = &self.guard {
            guard.inbound().answered();
            if let Some(pacer) = &self.conn.worker.shared.pacer {
                pacer.answered(guard.inbound().port());
            }
        }
        let failed =
            status.is_server_error() || (self.kind == Kind::Client && status.is_client_error());
        if failed {
            self.labels.error = Some(ErrorType::Status);
        }
        if let Some(span) = &mut self.span {
            let tracer = span.tracer().clone();
            tracer
                .conventions
                .response(span, self.kind, status, headers);
            span.set("pillion.response.origin", "upstream");
            tracer.conventions.grpc_status(span, self.kind, headers);
        }
    }

    /// So many bytes of the response body passed.
    pub(super) fn passed(&mut self, len: usize) {
        self.response_bytes += len as u64;
    }

    /// A frame of the response body passed.
    pub(super) fn frame(&mut self, frame: &Frame<Bytes>) {
        if let Some(data) = frame.data_ref() {
            self.response_bytes += data.len() as u64;
        } else if let (Some(trailers), Some(span)) = (frame.trailers_ref(), &mut self.span) {
            span.tracer()
                .clone()
                .conventions
                .grpc_status(span, self.kind, trailers);
        }
    }

    /// The connection carries something else from now on.
    pub(super) fn becomes_tunnel(&mut self) {
        self.is_tunnel = true;
    }

    /// Bytes that went through a tunnel.
    pub(super) fn tunneled(&mut self, up: u64, down: u64) {
        if let Some(span) = &mut self.span {
            span.set("pillion.tunnel.bytes_sent", up as i64);
            span.set("pillion.tunnel.bytes_received", down as i64);
        }
    }

    /// The response has passed whole.
    pub(super) fn complete(&mut self) {
        if self.outcome == Outcome::Open {
            self.outcome = Outcome::Complete;
        }
    }

    /// The response has passed whole, now; the connection that it came on can carry another one.
    pub(super) fn complete_on(&mut self, lease: Option<Lease>, now: Instant) {
        self.complete();
        self.end = Some(now);
        if let Some(lease) = lease {
            self.give_back(lease, now);
        }
    }

    /// The upstream broke off in the middle of the response.
    pub(super) fn break_off(&mut self, error: &hyper::Error) {
        let (label, name) = if error.is_timeout() {
            (ErrorType::Timeout, "timeout")
        } else if error.is_parse() {
            (ErrorType::Protocol, "malformed_response")
        } else {
            (ErrorType::Reset, "connection_reset")
        };
        self.fail_as(label, name);
    }

    /// Neither side made progress.
    pub(super) fn stalled(&mut self) {
        self.fail_as(ErrorType::Timeout, "stalled");
    }

    /// Bytes of the request body so far.
    pub(super) fn request_bytes(&self) -> u64 {
        self.request.as_ref().map_or(0, |progress| progress.bytes())
    }

    /// How long neither side may make progress; zero: no limit.
    pub(super) fn stall_limit(&self) -> Duration {
        self.conn.snapshot.timeouts.stall.0
    }

    /// The exchange failed in a way that has a name but no answer of ours.
    pub(super) fn fail_as(&mut self, label: ErrorType, name: &'static str) {
        self.outcome = Outcome::Failed;
        self.labels.error = Some(label);
        if let Some(span) = &mut self.span {
            span.fail(name);
        }
    }

    /// Pillion answers itself, with this status.
    pub(super) fn refused(&mut self, error: &ProxyError, status: StatusCode) {
        self.outcome = Outcome::Failed;
        self.labels.status = Some(status);
        self.labels.error = Some(error.error_type());
        if let Some(reason) = error.rejection() {
            self.conn.metrics().traffic.rejections.count(reason);
        }
        let Some(span) = &mut self.span else { return };
        if self.kind == Kind::Server {
            span.set("http.response.status_code", i64::from(status.as_u16()));
        }
        span.set("pillion.response.origin", "pillion");
        if self.kind == Kind::Client || status.is_server_error() {
            span.fail(error.span_error_type());
        }
    }

    fn finish_span(&mut self, end: Instant) {
        let Some(mut span) = self.span.take() else {
            return;
        };
        if !span.is_recording() {
            if !traced::keep(&self.conn, &mut span, self.labels.status, end) {
                return;
            }
            if self.labels.status.is_some() {
                let by_upstream = self.times.first_byte.is_some();
                let origin = if by_upstream { "upstream" } else { "pillion" };
                span.set("pillion.response.origin", origin);
            }
        }
        let request_bytes = self.request_bytes();
        if request_bytes > 0 {
            span.set("http.request.body.size", request_bytes as i64);
        }
        if self.times.first_byte.is_some() && !self.is_tunnel {
            span.set("http.response.body.size", self.response_bytes as i64);
        }
        if self.outcome == Outcome::Open {
            span.set("pillion.exchange.canceled", true);
        }
        let inbound = self.guard.as_ref().map(InboundGuard::inbound);
        if self.is_paced && inbound.is_some_and(|inbound| inbound.is_paced()) {
            span.set("pillion.link.paced", true);
        }
        if self.kind == Kind::Client {
            self.label_times(&mut span, end);
        }
        span.finish_at(end);
    }

    fn label_times(&self, span: &mut ActiveSpan, end: Instant) {
        let Times {
            connect,
            reused,
            sent,
            first_byte,
        } = self.times;
        span.set("pillion.connection.reused", reused);
        if !reused {
            for (key, time) in [
                ("pillion.time.resolve_us", connect.resolve),
                ("pillion.time.connect_us", connect.connect),
                ("pillion.time.tls_us", connect.tls),
            ] {
                if !time.is_zero() {
                    span.set(key, micros(time));
                }
            }
        }
        let Some(sent) = sent else { return };
        span.set(
            "pillion.time.send_us",
            micros(sent.saturating_duration_since(self.start)),
        );
        let Some(first_byte) = first_byte else { return };
        span.set(
            "pillion.time.first_byte_us",
            micros(first_byte.saturating_duration_since(sent)),
        );
        span.set(
            "pillion.time.body_us",
            micros(end.saturating_duration_since(first_byte)),
        );
    }

    /// The kernel says nothing of this connection to the program, and would of a new one.
    fn is_unseen(&self, lease: &Lease) -> bool {
        let kernel = self.conn.worker.shared.kernel.get();
        self.kind == Kind::Server && kernel.is_some_and(|kernel| kernel.is_older(lease.peer.since))
    }

    fn give_back(&self, lease: Lease, now: Instant) {
        let request_over = self
            .request
            .as_ref()
            .is_none_or(|progress| progress.ended());
        if self.outcome == Outcome::Complete && request_over && !self.is_unseen(&lease) {
            lease.give_back(now);
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let end = self.end.unwrap_or_else(Instant::now);
        if let Some(guard) = &mut self.guard {
            guard.ended_at(end);
        }
        self.conn.phase.idle();
        if self.outcome == Outcome::Open && self.conn.phase.why_cut() == Some(Cut::Stalled) {
            self.stalled();
        }
        if let Some(lease) = self.lease.take() {
            self.give_back(lease, end);
        }
        if self.outcome == Outcome::Open && self.labels.error.is_none() {
            self.labels.error = Some(ErrorType::Canceled);
        }
        self.finish_span(end);
        let duration = end.saturating_duration_since(self.start);
        self.conn.worker.requests.record(&self.labels, duration);
        if let (Some(sent), Some(first_byte)) = (self.times.sent, self.times.first_byte) {
            // What is left when the upstream's own time is taken away: up to the hand-over of the request head.
            let added = sent.min(first_byte).saturating_duration_since(self.start);
            self.conn.metrics().traffic.added.record(added);
        }
    }
}

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}
