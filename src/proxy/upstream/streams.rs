//! HTTP/2 connections that several exchanges share: a stream each.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use hyper::client::conn::http2;

use crate::proxy::body::RequestBody;
use crate::proxy::upstream::Ends;

/// A handle on a shared HTTP/2 connection; dropping it frees its stream.
pub(super) struct SharedSender {
    pub(super) sender: http2::SendRequest<RequestBody>,
    pub(super) peer: Ends,
    pub(super) streams: Arc<AtomicUsize>,
    pub(super) used: Arc<AtomicBool>,
    counted: bool,
    /// Since when the pool's own handle has seen no stream.
    pub(super) idle_since: Option<Instant>,
}

impl Drop for SharedSender {
    fn drop(&mut self) {
        if self.counted {
            self.streams.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl SharedSender {
    /// The pool's own handle on a new connection.
    pub(super) fn new(sender: http2::SendRequest<RequestBody>, peer: Ends) -> Self {
        Self {
            sender,
            peer,
            streams: Arc::default(),
            used: Arc::new(AtomicBool::new(false)),
            counted: false,
            idle_since: None,
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.streams.load(Ordering::Relaxed) == 0
    }

    /// True when it has carried no stream for so long; to be asked now and then.
    pub(super) fn is_stale(&mut self, now: Instant, limit: Duration) -> bool {
        if !self.is_idle() {
            self.idle_since = None;
            return false;
        }
        let since = *self.idle_since.get_or_insert(now);
        now.saturating_duration_since(since) >= limit
    }

    /// One stream.
    pub(super) fn lend(&self) -> Self {
        self.streams.fetch_add(1, Ordering::Relaxed);
        Self {
            sender: self.sender.clone(),
            peer: self.peer,
            streams: self.streams.clone(),
            used: self.used.clone(),
            counted: true,
            idle_since: None,
        }
    }
}
