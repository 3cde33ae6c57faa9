//! Opens the receivers' ports, before anything is served on them.

use std::io;
use std::net::SocketAddr;
use std::net::ToSocketAddrs;

use socket2::Domain;
use socket2::Protocol;
use socket2::Socket;
use socket2::Type;

use crate::model::HostPort;
use crate::net::listen;
use crate::receiver::Config;
use crate::receiver::Listen;
use crate::receiver::server::Service;
use crate::telemetry::metrics::Door;

/// A receiver's port that cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("`{setting}` cannot be opened: {at}")]
pub struct OpenError {
    /// The key that says where.
    pub setting: &'static str,
    /// The address.
    pub at: HostPort,
    /// Why not.
    #[source]
    pub source: io::Error,
}

/// Open ports that nobody serves yet.
#[derive(Debug, Default)]
pub struct Bound {
    pub(super) tcp: Vec<(Service, std::net::TcpListener)>,
    pub(super) udp: Vec<(Door, std::net::UdpSocket)>,
    /// Where each port really is, under the name of what it serves.
    pub addresses: Vec<(&'static str, SocketAddr)>,
}

/// Opens every port of the receivers that are switched on.
///
/// # Errors
/// [`OpenError`] for the first that is taken or not allowed; nothing stays open then.
pub fn open(config: &Config) -> Result<Bound, OpenError> {
    let mut bound = Bound::default();
    for (on, setting, at, door) in config.udp() {
        let Some(at) = at.0.as_ref().filter(|_| on) else {
            continue;
        };
        let failed = |source| OpenError {
            setting,
            at: at.clone(),
            source,
        };
        let buffer = config.jaeger.receive_buffer.as_usize();
        let socket = resolve(at).and_then(|at| udp(at, buffer)).map_err(failed)?;
        let address = socket.local_addr().map_err(failed)?;
        bound.addresses.push((role(setting), address));
        bound.udp.push((door, socket));
    }
    for (on, setting, at, service) in config.tcp() {
        let Some(at) = at.0.as_ref().filter(|_| on) else {
            continue;
        };
        let failed = |source| OpenError {
            setting,
            at: at.clone(),
            source,
        };
        let sockets =
            resolve(at).and_then(|at| listen::bind_workers(at, 1).map_err(|error| error.source));
        for socket in sockets.map_err(failed)? {
            let address = socket.local_addr().map_err(failed)?;
            bound.addresses.push((role(setting), address));
            bound.tcp.push((service, socket));
        }
    }
    Ok(bound)
}

type Port<'a, T> = (bool, &'static str, &'a Listen, T);

impl Config {
    /// The UDP ports, with the key of each.
    pub(super) fn udp(&self) -> [Port<'_, Door>; 3] {
        let on = self.jaeger.enabled;
        let Self { jaeger, .. } = self;
        [
            (
                on,
                "receivers.jaeger.compact",
                &jaeger.compact,
                Door::JaegerCompact,
            ),
            (
                on,
                "receivers.jaeger.binary",
                &jaeger.binary,
                Door::JaegerBinary,
            ),
            (
                on,
                "receivers.jaeger.zipkin_compact",
                &jaeger.zipkin_compact,
                Door::JaegerZipkin,
            ),
        ]
    }

    /// The TCP ports, with the key of each.
    fn tcp(&self) -> [Port<'_, Service>; 9] {
        let Self {
            jaeger,
            otlp,
            zipkin,
            skywalking,
            ..
        } = self;
        let on = jaeger.enabled;
        [
            (
                on,
                "receivers.jaeger.sampling",
                &jaeger.sampling,
                Service::Sampling,
            ),
            (
                on,
                "receivers.jaeger.sampling_grpc",
                &jaeger.sampling_grpc,
                Service::SamplingGrpc,
            ),
            (
                on,
                "receivers.jaeger.grpc",
                &jaeger.grpc,
                Service::JaegerGrpc,
            ),
            (
                on,
                "receivers.jaeger.http",
                &jaeger.http,
                Service::JaegerHttp,
            ),
            (
                otlp.enabled,
                "receivers.otlp.grpc",
                &otlp.grpc,
                Service::OtlpGrpc,
            ),
            (
                otlp.enabled,
                "receivers.otlp.http",
                &otlp.http,
                Service::OtlpHttp,
            ),
            (
                zipkin.enabled,
                "receivers.zipkin.listen",
                &zipkin.listen,
                Service::Zipkin,
            ),
            (
                skywalking.enabled,
                "receivers.skywalking.grpc",
                &skywalking.grpc,
                Service::SkyWalkingGrpc,
            ),
            (
                skywalking.enabled,
                "receivers.skywalking.http",
                &skywalking.http,
                Service::SkyWalkingHttp,
            ),
        ]
    }

    /// The TCP addresses that will be listened on, with the key of each.
    pub fn listens(&self) -> impl Iterator<Item = (&'static str, &HostPort)> {
        let ports = self.tcp().into_iter();
        ports.filter_map(|(on, setting, at, _)| Some((setting, at.0.as_ref().filter(|_| on)?)))
    }

    /// The UDP addresses that will be listened on, with the key of each.
    pub fn datagram_listens(&self) -> impl Iterator<Item = (&'static str, &HostPort)> {
        let ports = self.udp().into_iter();
        ports.filter_map(|(on, setting, at, _)| Some((setting, at.0.as_ref().filter(|_| on)?)))
    }
}

/// The setting without its first word and dots: what logs call the port.
fn role(setting: &'static str) -> &'static str {
    setting.strip_prefix("receivers.").unwrap_or(setting)
}

fn resolve(at: &HostPort) -> io::Result<SocketAddr> {
    let mut found = (at.host.as_str(), at.port).to_socket_addrs()?;
    found
        .next()
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no address"))
}

/// A socket with as much memory for waiting datagrams as the system gives.
fn udp(at: SocketAddr, buffer: usize) -> io::Result<std::net::UdpSocket> {
    let socket = Socket::new(Domain::for_address(at), Type::DGRAM, Some(Protocol::UDP))?;
    if at.is_ipv6() {
        socket.set_only_v6(!at.ip().is_unspecified())?;
    }
    socket.set_recv_buffer_size(buffer)?;
    socket.set_nonblocking(true)?;
    socket.bind(&at.into())?;
    Ok(socket.into())
}
