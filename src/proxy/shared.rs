//! What all connections share: the process-wide state, one worker's state, one configuration snapshot.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::Semaphore;

use crate::correlate;
use crate::correlate::InFlight;
use crate::net::evidence::Evidence;
use crate::net::kernel::Kernel;
use crate::net::netns::Netns;
use crate::proxy::config::AppProtocol;
use crate::proxy::config::Forwarded;
use crate::proxy::config::Limits;
use crate::proxy::config::Passthrough;
use crate::proxy::config::Timeouts;
use crate::proxy::habits::Habits;
use crate::proxy::pacing::Pacer;
use crate::proxy::upstream::Connector;
use crate::proxy::upstream::Inside;
use crate::proxy::upstream::Pool;
use crate::telemetry::logs::RateLimit;
use crate::telemetry::metrics::ConnectionMetrics;
use crate::telemetry::metrics::Direction;
use crate::telemetry::metrics::LinkMetrics;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::metrics::Peer;
use crate::telemetry::metrics::PropagationMetrics;
use crate::telemetry::metrics::RequestMetrics;
use crate::telemetry::metrics::ServerMetrics;
use crate::telemetry::metrics::TlsMetrics;
use crate::telemetry::metrics::TrafficMetrics;
use crate::tracer::Tracer;
use crate::tracer::Trust;

/// What a reload replaces. Every connection keeps the snapshot it was accepted with.
pub struct Snapshot {
    /// Absent: tracing is off, headers are not touched.
    pub tracer: Option<Arc<Tracer>>,
    /// Which evidence links.
    pub correlate: correlate::Config,
    /// Whom to believe inbound.
    pub trust: Trust,
    /// Upper bounds.
    pub limits: Limits,
    /// How long things may take.
    pub timeouts: Timeouts,
    /// What the program learns about its callers.
    pub forwarded: Forwarded,
    /// The version spoken to the program.
    pub app_protocol: AppProtocol,
    /// The network of the program's own, when it has one.
    pub inside: Option<Netns>,
    /// How redirected connections are told apart and passed on.
    pub passthrough: Passthrough,
    /// Inbound connections begin with a PROXY protocol header.
    pub proxy_protocol: bool,
    /// Counts what extraction finds.
    pub propagation: PropagationMetrics,
}

impl Snapshot {
    /// How to open upstream connections.
    pub fn connector(&self, direction: Direction) -> Connector {
        Connector {
            inside: self.inside.as_ref().map(|netns| Inside {
                netns: netns.clone(),
                else_outside: direction == Direction::Outbound,
            }),
            connect: self.timeouts.connect.0,
            tls_handshake: self.timeouts.tls_handshake.0,
            from: None,
        }
    }
}

/// Between two warnings of connections to ourselves.
const LOOP_WARNING: Duration = Duration::from_secs(60);

/// Process-wide state.
pub struct Shared {
    /// The configuration in force.
    pub snapshot: ArcSwap<Snapshot>,
    /// Inbound requests in flight; empty where no calls of the program come that one of them could have caused.
    pub in_flight: Arc<InFlight>,
    /// Requests in flight, both directions.
    requests: AtomicUsize,
    /// One permit for each downstream connection that may be served, all listeners together.
    connections: Arc<Semaphore>,
    /// How many permits there are.
    most_connections: usize,
    /// Metrics by direction.
    inbound: DirectionMetrics,
    outbound: DirectionMetrics,
    /// How causes were found.
    pub links: LinkMetrics,
    /// What a library in the program says about the threads that send its calls.
    pub evidence: Option<Evidence>,
    /// What the kernel says about who sends the program's calls, once it does.
    pub kernel: OnceLock<Kernel>,
    /// Why it does not, once that is known.
    pub kernel_refusal: OnceLock<String>,
    /// The gate before the program, when requests are paced.
    pub pacer: Option<Arc<Pacer>>,
    /// Addresses where Pillion takes what is to go elsewhere: never a destination. The one that leads to the program is
    /// not among them, for a program may call itself as others call it.
    pub own_addresses: Vec<SocketAddr>,
    /// Ports for the program alone, on loopback as a rule: nobody who arrives is led there.
    pub private_ports: Vec<u16>,
    /// Lets one warning of connections to ourselves through in a while: whoever reaches a port can make them.
    pub(super) loop_warnings: RateLimit,
}

/// The metrics of one direction.
pub struct DirectionMetrics {
    /// Requests.
    pub traffic: TrafficMetrics,
    /// Connections from below.
    pub downstream: Arc<ConnectionMetrics>,
    /// Connections upwards.
    pub upstream: Arc<ConnectionMetrics>,
    /// Accepting.
    pub server: ServerMetrics,
    /// TLS from below.
    pub tls: TlsMetrics,
}

/// One worker thread's own state.
pub struct Worker {
    /// Its number, from 0.
    pub index: usize,
    /// What it shares with the others.
    pub shared: Arc<Shared>,
    /// Its connections to the program.
    pub inbound_pool: Arc<Pool>,
    /// Its connections to other services.
    pub outbound_pool: Arc<Pool>,
    /// Its handles of the request metrics.
    pub requests: RequestMetrics,
    /// Who speaks first where.
    pub habits: Habits,
}

/// One request's share of the limit on requests in flight.
pub struct RequestSlot(Arc<Shared>);

impl Shared {
    /// The state that every worker of a process shares.
    pub fn new(
        snapshot: Snapshot,
        workers: usize,
        metrics: &Metrics,
        own_addresses: Vec<SocketAddr>,
        private_ports: Vec<u16>,
        evidence: Option<Evidence>,
        pacer: Option<Arc<Pacer>>,
    ) -> Arc<Self> {
        let methods = correlate::Method::ALL.map(correlate::Method::name);
        let connections = snapshot.limits.connections.clamp(1, Semaphore::MAX_PERMITS);
        let most_connections = connections;
        let connections = Arc::new(Semaphore::new(connections));
        Arc::new(Self {
            snapshot: ArcSwap::from_pointee(snapshot),
            in_flight: InFlight::new(workers),
            requests: AtomicUsize::new(0),
            connections,
            most_connections,
            inbound: DirectionMetrics::new(metrics, Direction::Inbound),
            outbound: DirectionMetrics::new(metrics, Direction::Outbound),
            links: metrics.links(&methods),
            evidence,
            kernel: OnceLock::new(),
            kernel_refusal: OnceLock::new(),
            pacer,
            own_addresses,
            private_ports,
            loop_warnings: RateLimit::new(LOOP_WARNING),
        })
    }

    /// A place for one more downstream connection; dropping it frees the place. `None` never comes: nobody closes the
    /// semaphore.
    pub(super) async fn place(&self) -> Option<OwnedSemaphorePermit> {
        self.connections.clone().acquire_owned().await.ok()
    }

    /// Takes a place among the requests in flight; `None` beyond the limit.
    pub fn admit(self: &Arc<Self>, limit: usize) -> Option<RequestSlot> {
        if self.requests.fetch_add(1, Ordering::AcqRel) >= limit {
            self.requests.fetch_sub(1, Ordering::AcqRel);
            return None;
        }
        Some(RequestSlot(self.clone()))
    }

    /// How many inbound requests are in flight.
    pub fn inbound_requests(&self) -> usize {
        match self.in_flight.expects_calls() {
            true => self.in_flight.len(),
            // There are no others.
            false => self.requests(),
        }
    }

    /// How many requests are in flight, both directions.
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    /// How many downstream connections there are.
    pub fn connections(&self) -> usize {
        self.most_connections
            .saturating_sub(self.connections.available_permits())
    }

    /// The metrics of one direction.
    pub fn metrics(&self, direction: Direction) -> &DirectionMetrics {
        match direction {
            Direction::Inbound => &self.inbound,
            Direction::Outbound => &self.outbound,
        }
    }
}

impl Drop for RequestSlot {
    fn drop(&mut self) {
        self.0.requests.fetch_sub(1, Ordering::AcqRel);
    }
}

impl DirectionMetrics {
    fn new(metrics: &Metrics, direction: Direction) -> Self {
        Self {
            traffic: metrics.traffic(direction),
            downstream: metrics.connections(direction, Peer::Downstream),
            upstream: metrics.connections(direction, Peer::Upstream),
            server: metrics.server(direction),
            tls: metrics.tls(Peer::Downstream),
        }
    }
}
