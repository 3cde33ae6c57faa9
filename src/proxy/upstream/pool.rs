//! The pool of one worker: idle HTTP/1 connections by destination, shared HTTP/2 connections, one bound on all of them.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use foldhash::fast::RandomState;
use hyper::client::conn::http1;
use hyper::client::conn::http2;
use hyper_util::rt::TokioExecutor;
use hyper_util::rt::TokioIo;
use hyper_util::rt::TokioTimer;
use parking_lot::Mutex;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::Semaphore;
use tracing::debug;

use crate::model::HostPort;
use crate::net::tls::MaybeTls;
use crate::proxy::body::RequestBody;
use crate::proxy::error::ProxyError;
use crate::proxy::flow;
use crate::proxy::metered::Metered;
use crate::proxy::pacing::Pacer;
use crate::proxy::pacing::Side;
use crate::proxy::upstream::ConnectTiming;
use crate::proxy::upstream::Connector;
use crate::proxy::upstream::Destination;
use crate::proxy::upstream::Ends;
use crate::proxy::upstream::Lease;
use crate::proxy::upstream::Sender;
use crate::proxy::upstream::answering::Answering;
use crate::proxy::upstream::answering::Read;
use crate::proxy::upstream::link::Idle;
use crate::proxy::upstream::link::Link;
use crate::proxy::upstream::link::Plain;
use crate::proxy::upstream::link::Speaker;
use crate::proxy::upstream::streams::SharedSender;
use crate::telemetry::metrics::ConnectionMetrics;
use crate::telemetry::metrics::PoolMetrics;

/// How often idle connections are looked over.
const SWEEP: Duration = Duration::from_secs(2);
/// Stands for "no limit": far enough, and no overflow.
const FOREVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// The pool's bounds.
#[derive(Debug, Clone, Copy)]
pub struct PoolLimits {
    /// All connections of this worker.
    pub connections: usize,
    /// Idle connections per destination; zero keeps none.
    pub idle_per_destination: usize,
    /// Idle time; zero: no limit.
    pub idle: Duration,
    /// Waiting for a connection.
    pub wait: Duration,
    /// Largest response head.
    pub head_size: usize,
    /// Most response header fields.
    pub headers: usize,
    /// Streams on an HTTP/2 connection before another is opened.
    pub streams: usize,
}

/// One worker's upstream connections.
pub struct Pool {
    limits: PoolLimits,
    metrics: PoolMetrics,
    connections: Arc<ConnectionMetrics>,
    /// The gate before the program, when this pool's connections lead there and requests are paced.
    pacer: Option<Arc<Pacer>>,
    state: Mutex<State>,
    /// One permit for each connection that may be open.
    permits: Arc<Semaphore>,
    /// Told when an idle connection appears while somebody waits.
    returned: Notify,
    waiting: AtomicUsize,
}

#[derive(Default)]
struct State {
    idle: HashMap<Destination, VecDeque<Idle>, RandomState>,
    shared: HashMap<Destination, Vec<SharedSender>, RandomState>,
    /// One opener at a time for each HTTP/2 destination, so that a burst does not open a connection each.
    opening: HashMap<Destination, Arc<tokio::sync::Mutex<()>>>,
}

/// A stream, its peer, and where the time went.
pub type Opened<IO> = (IO, Ends, ConnectTiming);

/// A connection that is being opened before anybody knows what it will carry.
pub type Opening = Pin<Box<dyn Future<Output = Result<Opened<TcpStream>, ProxyError>> + Send>>;

impl Pool {
    /// An empty pool.
    pub fn new(
        limits: PoolLimits,
        metrics: PoolMetrics,
        connections: Arc<ConnectionMetrics>,
        pacer: Option<Arc<Pacer>>,
    ) -> Arc<Self> {
        Arc::new(Self {
            limits,
            metrics,
            connections,
            pacer,
            state: Mutex::default(),
            permits: Arc::new(Semaphore::new(
                limits.connections.clamp(1, Semaphore::MAX_PERMITS),
            )),
            returned: Notify::new(),
            waiting: AtomicUsize::new(0),
        })
    }

    /// A connection for one exchange on which `speaker` speaks: an idle one, a stream on a shared one, or a new one;
    /// the new one is `opening` when that is given. `now` may be a little late: by it idle connections are too old.
    ///
    /// # Errors
    /// Opening failed, or none became free in time.
    pub async fn lease(
        self: &Arc<Self>,
        destination: &Destination,
        connector: Connector,
        fresh: bool,
        speaker: Speaker,
        opening: Option<Opening>,
        now: Instant,
    ) -> Result<Lease, ProxyError> {
        // Opening needs a large state, which an exchange on an open connection should not carry: hence the boxes.
        if destination.http2 {
            return match self.join(destination) {
                Some(shared) => Ok(self.lend_shared(destination, shared, ConnectTiming::default())),
                None => Box::pin(self.open_http2(destination, connector, opening)).await,
            };
        }
        if !fresh && let Some(idle) = self.take(destination, speaker, now) {
            return Ok(self.lend_idle(destination, idle));
        }
        Box::pin(self.lease_new(destination, connector, speaker, opening)).await
    }

    async fn lease_new(
        self: &Arc<Self>,
        destination: &Destination,
        connector: Connector,
        speaker: Speaker,
        opening: Option<Opening>,
    ) -> Result<Lease, ProxyError> {
        let permit = match self.try_permit() {
            Some(permit) => permit,
            None => {
                self.metrics.waits.increment(1);
                match self.wait(destination, speaker).await? {
                    Waited::Idle(idle) => return Ok(self.lend_idle(destination, idle)),
                    Waited::Permit(permit) => permit,
                }
            }
        };
        self.open_http1(destination, connector, speaker, permit, opening)
            .await
    }

    /// Takes an HTTP/1 connection back. It stays until it is closed, too old or one too many.
    pub(super) fn put(
        &self,
        destination: Destination,
        link: Link,
        peer: Ends,
        idle_limit: Option<Duration>,
        now: Instant,
    ) {
        if link.is_over() || self.limits.idle_per_destination == 0 {
            return;
        }
        let ours = match self.limits.idle {
            Duration::ZERO => FOREVER,
            limit => limit,
        };
        let limit = idle_limit.map_or(ours, |theirs| theirs.min(ours));
        let mut state = self.state.lock();
        let list = state.idle.entry(destination).or_default();
        if list.len() >= self.limits.idle_per_destination {
            list.pop_front();
            self.metrics.idle.decrement(1.0);
        }
        list.push_back(Idle {
            link,
            peer,
            since: now,
            until: now + limit,
        });
        self.metrics.idle.increment(1.0);
        drop(state);
        if self.waiting.load(Ordering::Relaxed) > 0 {
            self.returned.notify_one();
        }
    }

    /// A reused connection turned out to be gone and its request was sent again.
    pub fn count_stale_retry(&self) {
        self.metrics.stale_retries.increment(1);
    }

    /// Closes idle connections whose time is up, for as long as the future is polled.
    pub async fn run_sweep(self: Arc<Self>) {
        loop {
            tokio::time::sleep(SWEEP).await;
            self.sweep(Instant::now());
        }
    }

    fn sweep(&self, now: Instant) {
        let mut removed = 0;
        let mut state = self.state.lock();
        state.idle.retain(|_, list| {
            let before = list.len();
            list.retain_mut(|idle| idle.until > now && !idle.link.is_closed());
            removed += before - list.len();
            !list.is_empty()
        });
        let limit = match self.limits.idle {
            Duration::ZERO => FOREVER,
            limit => limit,
        };
        state.shared.retain(|_, list| {
            list.retain_mut(|shared| !shared.sender.is_closed() && !shared.is_stale(now, limit));
            !list.is_empty()
        });
        state.opening.retain(|_, lock| Arc::strong_count(lock) > 1);
        self.metrics.idle.decrement(removed as f64);
    }

    /// The most recently used idle connection that is still good.
    fn take(&self, destination: &Destination, speaker: Speaker, now: Instant) -> Option<Idle> {
        let mut state = self.state.lock();
        let list = state.idle.get_mut(destination)?;
        let mut at = list.len();
        while at > 0 {
            at -= 1;
            let idle = &mut list[at];
            if idle.link.speaker() != speaker {
                continue;
            }
            if idle.is_gone(now) {
                list.remove(at);
                self.metrics.idle.decrement(1.0);
            } else if idle.link.is_ready() {
                self.metrics.idle.decrement(1.0);
                return list.remove(at);
            }
            // Otherwise its last exchange is still being wound up: leave it for the next caller.
        }
        None
    }

    fn lend_idle(self: &Arc<Self>, destination: &Destination, idle: Idle) -> Lease {
        Lease {
            sender: idle.link.into(),
            pool: self.clone(),
            destination: destination.clone(),
            peer: idle.peer,
            reused: true,
            timing: ConnectTiming::default(),
            idle_limit: None,
            in_use: self.metrics.in_use.enter(),
        }
    }

    /// A permit for one more connection, if need be by closing an idle one.
    fn try_permit(&self) -> Option<OwnedSemaphorePermit> {
        self.permits.clone().try_acquire_owned().ok()
    }

    async fn wait(
        &self,
        destination: &Destination,
        speaker: Speaker,
    ) -> Result<Waited, ProxyError> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let waiting = scopeguard(|| {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
        });
        self.evict_idle();
        let found = async {
            loop {
                if let Some(idle) = self.take(destination, speaker, Instant::now()) {
                    return Waited::Idle(idle);
                }
                tokio::select! {
                    permit = self.permits.clone().acquire_owned() => {
                        if let Ok(permit) = permit {
                            return Waited::Permit(permit);
                        }
                    }
                    () = self.returned.notified() => self.evict_other(destination, speaker),
                }
            }
        };
        let result = match self.limits.wait {
            Duration::ZERO => Ok(found.await),
            limit => tokio::time::timeout(limit, found).await.map_err(|_| limit),
        };
        drop(waiting);
        result.map_err(|limit| {
            self.metrics.rejected.increment(1);
            ProxyError::PoolTimeout(limit)
        })
    }

    /// Closes one idle connection, so that its permit comes free.
    fn evict_idle(&self) {
        let mut state = self.state.lock();
        let Some(list) = state.idle.values_mut().find(|list| !list.is_empty()) else {
            state.evict_shared();
            return;
        };
        list.pop_front();
        self.metrics.idle.decrement(1.0);
    }

    /// An idle connection that this waiter cannot use makes room for one that it can.
    fn evict_other(&self, destination: &Destination, speaker: Speaker) {
        let mut state = self.state.lock();
        let useless = state.idle.iter_mut().find_map(|(other, list)| {
            let is_useless = |idle: &Idle| other != destination || idle.link.speaker() != speaker;
            let at = list.iter().position(is_useless)?;
            list.remove(at)
        });
        if useless.is_some() {
            self.metrics.idle.decrement(1.0);
        }
    }

    async fn open_http1(
        self: &Arc<Self>,
        destination: &Destination,
        connector: Connector,
        speaker: Speaker,
        permit: OwnedSemaphorePermit,
        opening: Option<Opening>,
    ) -> Result<Lease, ProxyError> {
        let (stream, peer, timing) = self.open(destination, connector, opening).await?;
        let open = self.connections.open();
        let io = self.io(stream, peer);
        let sender = match speaker {
            Speaker::Library => {
                let held = (open, permit);
                Sender::Http1(self.handshake(io, peer, held).await?)
            }
            Speaker::Plain => Sender::Plain(Box::new(Plain { io, open, permit })),
        };
        Ok(Lease {
            sender,
            pool: self.clone(),
            destination: destination.clone(),
            peer,
            reused: false,
            timing,
            idle_limit: None,
            in_use: self.metrics.in_use.enter(),
        })
    }

    /// Has the library speak HTTP/1 on a connection; `held` is held for as long as that lasts.
    async fn handshake<IO>(
        &self,
        io: IO,
        peer: Ends,
        held: impl Send + 'static,
    ) -> Result<http1::SendRequest<RequestBody>, ProxyError>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = http1::Builder::new()
            .preserve_header_case(true)
            .max_headers(self.limits.headers)
            .max_buf_size(self.limits.head_size.max(16 * 1024))
            .handshake(TokioIo::new(io))
            .await
            .map_err(ProxyError::Exchange)?;
        tokio::spawn(async move {
            let _held = held;
            if let Err(error) = connection.with_upgrades().await {
                debug!(%error, peer = %peer, "upstream connection ended");
            }
        });
        Ok(sender)
    }

    /// Has the library read the answer to a request that was sent without it: `read` is what came already. The
    /// connection ends with that answer.
    ///
    /// # Errors
    /// Not one of ours.
    pub(in crate::proxy) async fn adopt(
        &self,
        plain: Box<Plain>,
        peer: Ends,
        read: Read,
    ) -> Result<http1::SendRequest<RequestBody>, ProxyError> {
        let Plain { io, open, permit } = *plain;
        self.handshake(Answering::new(io, read), peer, (open, permit))
            .await
    }

    async fn open_http2(
        self: &Arc<Self>,
        destination: &Destination,
        connector: Connector,
        opening: Option<Opening>,
    ) -> Result<Lease, ProxyError> {
        let turn = self
            .state
            .lock()
            .opening
            .entry(destination.clone())
            .or_default()
            .clone();
        let _turn = self.turn(&turn).await?;
        if let Some(shared) = self.join(destination) {
            return Ok(self.lend_shared(destination, shared, ConnectTiming::default()));
        }
        let permit = match self.try_permit() {
            Some(permit) => permit,
            None => {
                self.metrics.waits.increment(1);
                match self.wait(destination, Speaker::Library).await? {
                    Waited::Permit(permit) => permit,
                    Waited::Idle(_) => return Err(ProxyError::PoolTimeout(Duration::ZERO)),
                }
            }
        };
        let (stream, peer, timing) = self.open(destination, connector, opening).await?;
        let streams = u32::try_from(self.limits.streams).unwrap_or(u32::MAX);
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_header_list_size(u32::try_from(self.limits.head_size).unwrap_or(u32::MAX))
            .initial_stream_window_size(flow::STREAM_WINDOW)
            .initial_connection_window_size(flow::connection_window(streams))
            .handshake(TokioIo::new(self.io(stream, peer)))
            .await
            .map_err(ProxyError::Exchange)?;
        let open = self.connections.open();
        let shared = SharedSender::new(sender, peer);
        let running = shared.run(connection);
        tokio::spawn(async move {
            let _held = (open, permit);
            if let Err(error) = running.await {
                debug!(%error, peer = %peer, "upstream connection ended");
            }
        });
        let lent = shared.lend();
        self.state
            .lock()
            .shared
            .entry(destination.clone())
            .or_default()
            .push(shared);
        Ok(self.lend_shared(destination, lent, timing))
    }

    /// A stream on a connection that has room.
    fn join(&self, destination: &Destination) -> Option<SharedSender> {
        let mut state = self.state.lock();
        let list = state.shared.get_mut(destination)?;
        list.retain(|shared| !shared.sender.is_closed());
        let shared = list
            .iter_mut()
            .find(|shared| shared.has_room(self.limits.streams))?;
        shared.idle_since = None;
        Some(shared.lend())
    }

    /// Waits for whoever opens a connection to the same destination, no longer than for any connection.
    async fn turn<'a>(
        &self,
        opening: &'a tokio::sync::Mutex<()>,
    ) -> Result<tokio::sync::MutexGuard<'a, ()>, ProxyError> {
        match self.limits.wait {
            Duration::ZERO => Ok(opening.lock().await),
            limit => tokio::time::timeout(limit, opening.lock())
                .await
                .map_err(|_| {
                    self.metrics.rejected.increment(1);
                    ProxyError::PoolTimeout(limit)
                }),
        }
    }

    fn lend_shared(
        self: &Arc<Self>,
        destination: &Destination,
        shared: SharedSender,
        timing: ConnectTiming,
    ) -> Lease {
        Lease {
            peer: shared.peer,
            reused: shared.used.swap(true, Ordering::Relaxed),
            sender: Sender::Http2(shared),
            pool: self.clone(),
            destination: destination.clone(),
            timing,
            idle_limit: None,
            in_use: self.metrics.in_use.enter(),
        }
    }

    fn io(&self, stream: MaybeTls<TcpStream>, ends: Ends) -> Metered<MaybeTls<TcpStream>> {
        let passage = self
            .pacer
            .as_ref()
            .map(|pacer| pacer.passage(Side::Ours, (ends.address, ends.local)));
        Metered::new(stream, self.connections.clone()).through(passage)
    }

    async fn open(
        &self,
        destination: &Destination,
        connector: Connector,
        opening: Option<Opening>,
    ) -> Result<(MaybeTls<TcpStream>, Ends, ConnectTiming), ProxyError> {
        if let Some(opening) = opening {
            let (stream, peer, timing) = opening.await?;
            return Ok((MaybeTls::Plain(stream), peer, timing));
        }
        let tls = destination.tls.as_ref().map(|tls| &*tls.tls);
        let opened = connector
            .open(&destination.to, tls, destination.http2)
            .await;
        self.count(opened)
    }

    /// Begins to open a connection without HTTP on it, counted as one of this pool's. It goes on while it is polled.
    pub fn begin(self: &Arc<Self>, to: HostPort, connector: Connector) -> Opening {
        let pool = self.clone();
        Box::pin(async move { pool.count(connector.open_plain(&to).await) })
    }

    fn count<IO>(&self, opened: Result<Opened<IO>, ProxyError>) -> Result<Opened<IO>, ProxyError> {
        match opened {
            Ok(opened) => {
                let timing = &opened.2;
                self.metrics
                    .connect_duration
                    .record(timing.resolve + timing.connect + timing.tls);
                Ok(opened)
            }
            Err(error) => {
                if let Some(reason) = error.connect_failure() {
                    self.metrics.connect_failures.count(reason);
                }
                Err(error)
            }
        }
    }
}

enum Waited {
    Idle(Idle),
    Permit(OwnedSemaphorePermit),
}

impl State {
    /// Closes one HTTP/2 connection that carries no stream.
    fn evict_shared(&mut self) {
        for list in self.shared.values_mut() {
            if let Some(at) = list.iter().position(SharedSender::is_idle) {
                list.remove(at);
                return;
            }
        }
    }
}

/// Runs a closure when dropped: waiting must be counted out even when the waiter is cancelled.
fn scopeguard<F: FnMut()>(leave: F) -> impl Drop {
    struct Guard<F: FnMut()>(F);
    impl<F: FnMut()> Drop for Guard<F> {
        fn drop(&mut self) {
            (self.0)();
        }
    }
    Guard(leave)
}
