//! HTTP/2 connections that several exchanges share: a stream each.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use hyper::client::conn::http2;
use hyper_util::rt::TokioExecutor;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::net::tls::MaybeTls;
use crate::proxy::body::RequestBody;
use crate::proxy::metered::Metered;
use crate::proxy::upstream::Ends;

/// What carries the streams.
pub(super) type Connection =
    http2::Connection<TokioIo<Metered<MaybeTls<TcpStream>>>, RequestBody, TokioExecutor>;

/// A handle on a shared HTTP/2 connection; dropping it frees its stream.
pub(super) struct SharedSender {
    pub(super) sender: http2::SendRequest<RequestBody>,
    pub(super) peer: Ends,
    streams: Arc<AtomicUsize>,
    /// So many its peer takes, as far as that is known.
    most: Arc<AtomicUsize>,
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
            most: Arc::new(AtomicUsize::new(usize::MAX)),
            used: Arc::new(AtomicBool::new(false)),
            counted: false,
            idle_since: None,
        }
    }

    /// True when it takes another stream: there are fewer than `limit`, and one more would not have to wait for another
    /// one's end.
    pub(super) fn has_room(&self, limit: usize) -> bool {
        let most = self.most.load(Ordering::Relaxed).clamp(1, limit.max(1));
        self.streams.load(Ordering::Relaxed) < most
    }

    /// Runs the connection until it ends. With each request it is noted anew how many streams its peer takes.
    pub(super) fn run(
        &self,
        connection: Connection,
    ) -> impl Future<Output = hyper::Result<()>> + use<> {
        let most = self.most.clone();
        async move {
            let mut connection = pin!(connection);
            poll_fn(|cx| {
                let polled = connection.as_mut().poll(cx);
                most.store(connection.current_max_send_streams(), Ordering::Relaxed);
                polled
            })
            .await
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
            most: self.most.clone(),
            used: self.used.clone(),
            counted: true,
            idle_since: None,
        }
    }
}
