//! From settings to the parts they describe.

use std::io;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::ToSocketAddrs;
use std::sync::Arc;

use crate::config::Config;
use crate::model::AddrError;
use crate::model::Attribute;
use crate::model::HostPort;
use crate::model::Resource;
use crate::model::Text;
use crate::model::Value;
use crate::net::client::Client;
use crate::net::listen;
use crate::net::listen::BindError;
use crate::net::listen::Reach;
use crate::net::netns::Netns;
use crate::net::tls::Alpn;
use crate::net::tls::ClientTls;
use crate::net::tls::ServerTls;
use crate::net::tls::TlsError;
use crate::propagation::Caller;
use crate::propagation::Propagator;
use crate::proxy::config::Interception;
use crate::proxy::listener::Listener;
use crate::proxy::listener::Role;
use crate::proxy::shared::Snapshot;
use crate::proxy::upstream::PoolLimits;
use crate::reporter::Sink;
use crate::sampling;
use crate::sampling::Sampler;
use crate::telemetry::metrics::Direction;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::metrics::SamplerMetrics;
use crate::tracer::Keep;
use crate::tracer::Ledger;
use crate::tracer::Tracer;
use crate::tracer::Trust;
use crate::tracer::clock::Clock;
use crate::tracer::http::Conventions;
use crate::tracer::http::ConventionsError;

/// Most workers that are started unless the configuration names a number.
const MAX_WORKERS: usize = 4;
/// The values that `sampler.type` can have.
pub(super) const SAMPLER_TYPES: [&str; 4] =
    ["const", "probabilistic", "ratelimiting", "lowerbound"];
const DEFAULT_SERVICE: &str = "unknown_service";

/// Why the settings cannot be put to work.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A listener.
    #[error("`{setting}` cannot be opened")]
    Bind {
        /// The key that says where.
        setting: &'static str,
        /// The address and why not.
        #[source]
        source: BindError,
    },
    /// The sockets that the service manager hands over cannot be used.
    #[error("the sockets handed over by the service manager cannot be used")]
    Inherited(#[source] io::Error),
    /// A listener's name does not resolve.
    #[error("cannot listen on {addr}")]
    Resolve {
        /// As configured.
        addr: HostPort,
        /// What the resolver said.
        #[source]
        source: io::Error,
    },
    /// An address that is none.
    #[error(transparent)]
    Address(#[from] AddrError),
    /// TLS settings.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Span settings.
    #[error(transparent)]
    Conventions(#[from] ConventionsError),
    /// A receiver's port.
    #[error(transparent)]
    Receiver(#[from] crate::receiver::OpenError),
    /// A reporter.
    #[error("reporter cannot be built")]
    Reporter(#[from] crate::reporter::BuildError),
}

/// What outlives every reload.
pub(super) struct Lasting {
    pub(super) clock: Arc<Clock>,
    pub(super) ledger: Arc<Ledger>,
    pub(super) sink: Arc<dyn Sink>,
    pub(super) metrics: Metrics,
    pub(super) sampler_metrics: SamplerMetrics,
    /// The network of the program's own, when it has one.
    pub(super) inside: Option<Netns>,
}

/// How many workers to start.
pub(super) fn workers(config: &Config) -> usize {
    match config.workers {
        0 => std::thread::available_parallelism()
            .map_or(1, usize::from)
            .min(MAX_WORKERS),
        chosen => usize::from(chosen),
    }
}

/// The name of the service in traces.
pub(super) fn service(config: &Config) -> &str {
    config.service.as_deref().unwrap_or(DEFAULT_SERVICE)
}

/// What all spans of this process have in common.
pub(super) fn resource(config: &Config) -> Arc<Resource> {
    let mut attributes: Vec<Attribute> = config
        .resource
        .iter()
        .filter(|(key, _)| *key != "service.name")
        .map(|(key, value)| Attribute {
            key: Text::new(key),
            value: Value::Str(Text::new(value)),
        })
        .collect();
    let mut default = |key: &'static str, value: Text| {
        if !attributes.iter().any(|attribute| attribute.key == key) {
            attributes.push(Attribute::new(key, value));
        }
    };
    default(
        "service.instance.id",
        Text::new(crate::tracer::ids::trace_id(false).hex().as_str()),
    );
    default("telemetry.sdk.name", Text::new_static("pillion"));
    default("telemetry.sdk.language", Text::new_static("rust"));
    default(
        "telemetry.sdk.version",
        Text::new_static(env!("CARGO_PKG_VERSION")),
    );
    if let Ok(host) = std::fs::read_to_string("/proc/sys/kernel/hostname") {
        default("host.name", Text::new(host.trim()));
    }
    Arc::new(Resource {
        service: Text::new(service(config)),
        attributes,
        scope: None,
    })
}

/// What formats call us that name the caller.
fn caller(resource: &Resource) -> Caller {
    let instance = resource
        .attributes
        .iter()
        .find(|attribute| attribute.key == "service.instance.id")
        .and_then(|attribute| attribute.value.as_str());
    let service = Some(resource.service.as_str()).filter(|service| !service.is_empty());
    let unknown = Caller::default();
    Caller {
        service: service.map_or(unknown.service, Text::new),
        instance: instance.map_or(unknown.instance, Text::new),
    }
}

/// The sampler that the settings describe.
pub(super) fn sampler(config: &Config) -> sampling::Built {
    sampling::build(&config.sampling, service(config), &Client::plain())
}

/// Whether traces that start here may come to AWS X-Ray.
fn dated_trace_ids(config: &Config) -> bool {
    let mut injected = config.propagation.inject.iter();
    let mut reporters = config.reporters.iter();
    injected.any(|name| name.as_str() == "xray")
        || reporters.any(|reporter| reporter.wants_dated_ids())
}

/// What a reload replaces.
pub(super) fn snapshot(
    config: &Config,
    lasting: &Lasting,
    sampler: Arc<dyn Sampler>,
    resource: Arc<Resource>,
) -> Result<Snapshot, BuildError> {
    let conventions = Conventions::new(&config.spans, &lasting.metrics)?;
    let tracer = config.spans.enabled.then(|| {
        Arc::new(Tracer {
            propagator: Propagator::new(&config.propagation).with_caller(caller(&resource)),
            sampler,
            sink: lasting.sink.clone(),
            resource,
            clock: lasting.clock.clone(),
            ledger: lasting.ledger.clone(),
            conventions,
            decisions: lasting.sampler_metrics.clone(),
            keep: Keep::new(&config.spans.keep),
            short_trace_ids: !config.spans.trace_id_128bit,
            dated_trace_ids: dated_trace_ids(config),
        })
    });
    let formats: Vec<&'static str> = config
        .propagation
        .extract
        .iter()
        .map(|name| name.as_str())
        .collect();
    Ok(Snapshot {
        tracer,
        correlate: config.linking.clone(),
        trust: Trust::new(config.inbound.trust.clone()),
        limits: config.limits.clone(),
        timeouts: config.timeouts.clone(),
        forwarded: config.inbound.forwarded,
        app_protocol: config.inbound.app_protocol,
        inside: lasting.inside.clone(),
        passthrough: config.passthrough.clone(),
        proxy_protocol: config.inbound.proxy_protocol,
        propagation: lasting.metrics.propagation(&formats),
    })
}

/// A listener with its sockets, one for each worker.
pub(super) struct Bound {
    pub(super) listener: Arc<Listener>,
    pub(super) address: SocketAddr,
    pub(super) sockets: Vec<TcpListener>,
}

/// Where Pillion takes what is to go elsewhere; the listener in front of the program is no such place.
pub(super) fn own_addresses(bound: &[Bound]) -> Vec<SocketAddr> {
    let own = bound
        .iter()
        .filter(|bound| !matches!(bound.listener.role, Role::Inbound { .. }));
    own.map(|bound| bound.address).collect()
}

/// Binds every listener of the data path.
///
/// A socket that the service manager hands over under a listener's role (`inbound`, `outbound`) is used instead of
/// the configured address. The listener for redirected connections of the program is in its own network, when it has
/// one.
pub(super) fn listeners(
    config: &Config,
    workers: usize,
    inside: Option<&Netns>,
) -> Result<Vec<Bound>, BuildError> {
    let mut inherited = listen::inherited().map_err(BuildError::Inherited)?;
    let mut handed_over = |role: &str| {
        let at = inherited.iter().position(|socket| socket.name == role)?;
        Some(inherited.swap_remove(at).listener)
    };
    let mut bound = Vec::new();
    if let Some(app) = &config.app {
        let tls = config
            .inbound
            .tls
            .as_ref()
            .map(|tls| ServerTls::new(tls, Alpn::Http))
            .transpose()?;
        let listener = Listener {
            role: Role::Inbound { app: app.clone() },
            tls,
        };
        bound.push(bind(
            &config.inbound.listen,
            listener,
            workers,
            handed_over("inbound"),
        )?);
    }
    if config.outbound.enabled {
        let tls = Arc::new(ClientTls::new(&config.outbound.tls)?);
        let listener = Listener {
            role: Role::ForwardProxy { tls },
            tls: None,
        };
        bound.push(bind(
            &config.outbound.listen,
            listener,
            workers,
            handed_over("outbound"),
        )?);
    }
    for (at, mode, role) in redirected(config) {
        let reach = match mode {
            Interception::Redirect => Reach::Own,
            Interception::Tproxy => Reach::Transparent,
        };
        let setting = setting(&role);
        let address = resolve(at)?;
        let bind = move || listen::bind_redirected(address, workers, reach);
        let sockets = match inside.filter(|_| matches!(role, Role::RedirectedOutbound { .. })) {
            Some(netns) => netns.run(bind).map_err(BuildError::Inherited)?,
            None => bind(),
        };
        let sockets = sockets.map_err(|source| BuildError::Bind { setting, source })?;
        bound.push(of(at, Listener { role, tls: None }, sockets)?);
    }
    for route in &config.routes {
        let tls = route
            .tls
            .as_ref()
            .map(ClientTls::new)
            .transpose()?
            .map(Arc::new);
        let role = Role::Route {
            to: route.to.clone(),
            tls,
            rewrite_host: route.rewrite_host,
            peer_service: Text::new(&route.peer_service),
        };
        bound.push(bind(
            &route.listen,
            Listener { role, tls: None },
            workers,
            None,
        )?);
    }
    Ok(bound)
}

fn bind(
    at: &HostPort,
    listener: Listener,
    workers: usize,
    handed_over: Option<TcpListener>,
) -> Result<Bound, BuildError> {
    let sockets = match handed_over {
        Some(socket) => listen::share(socket, workers).map_err(BuildError::Inherited)?,
        None => open(setting(&listener.role), at, workers)?,
    };
    of(at, listener, sockets)
}

/// Listeners for redirected connections.
fn redirected(config: &Config) -> impl Iterator<Item = (&HostPort, Interception, Role)> {
    let inbound = config.inbound.redirect.iter().map(|redirect| {
        let role = Role::RedirectedInbound {
            mode: redirect.mode,
            to: redirect.to,
            keep_source: redirect.mode == Interception::Tproxy && redirect.keeps_source(),
        };
        (&redirect.listen, redirect.mode, role)
    });
    let outbound = config.outbound.redirect.iter().map(|redirect| {
        let role = Role::RedirectedOutbound {
            mode: redirect.mode,
        };
        (&redirect.listen, redirect.mode, role)
    });
    inbound.chain(outbound)
}

fn of(at: &HostPort, listener: Listener, sockets: Vec<TcpListener>) -> Result<Bound, BuildError> {
    let address = sockets.first().map(TcpListener::local_addr);
    let address = match address {
        Some(Ok(address)) => address,
        _ => resolve(at)?,
    };
    Ok(Bound {
        listener: Arc::new(listener),
        address,
        sockets,
    })
}

/// Listens where the key `setting` says.
pub(super) fn open(
    setting: &'static str,
    at: &HostPort,
    workers: usize,
) -> Result<Vec<TcpListener>, BuildError> {
    listen::bind_workers(resolve(at)?, workers)
        .map_err(|source| BuildError::Bind { setting, source })
}

/// The key that says where a listener of this role is.
fn setting(role: &Role) -> &'static str {
    match role {
        Role::Inbound { .. } => "inbound.listen",
        Role::ForwardProxy { .. } => "outbound.listen",
        Role::Route { .. } => "routes",
        Role::RedirectedInbound { .. } => "inbound.redirect.listen",
        Role::RedirectedOutbound { .. } => "outbound.redirect.listen",
    }
}

/// A listening address: the first that the name has.
pub(super) fn resolve(at: &HostPort) -> Result<SocketAddr, BuildError> {
    let failed = |source| BuildError::Resolve {
        addr: at.clone(),
        source,
    };
    let mut found = (at.host.as_str(), at.port)
        .to_socket_addrs()
        .map_err(failed)?;
    found.next().ok_or_else(|| {
        failed(io::Error::new(
            io::ErrorKind::NotFound,
            "the name has no address",
        ))
    })
}

/// One worker's share of the limits on upstream connections in this direction.
pub(super) fn pool_limits(config: &Config, workers: usize, direction: Direction) -> PoolLimits {
    let timeouts = &config.timeouts;
    let share = config.limits.upstream_connections.div_ceil(workers.max(1));
    PoolLimits {
        connections: share.max(1),
        idle_per_destination: config.limits.idle_per_destination,
        idle: match direction {
            Direction::Inbound => timeouts.program_idle.0,
            Direction::Outbound => timeouts.upstream_idle.0,
        },
        wait: timeouts.pool.0,
        head_size: config.limits.head_size.as_usize(),
        headers: config.limits.headers,
        streams: usize::try_from(config.limits.http2_streams)
            .unwrap_or(usize::MAX)
            .max(1),
    }
}
