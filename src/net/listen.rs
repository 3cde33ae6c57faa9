//! Listening sockets: one for each worker on the same address, or those that the service manager hands over.

use std::io;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::time::Duration;

use socket2::Domain;
use socket2::Protocol;
use socket2::SockRef;
use socket2::Socket;
use socket2::Type;

use crate::net::original_dst::canonical;

/// Connections that wait to be accepted. The system caps it (`net.core.somaxconn`).
const BACKLOG: i32 = 4096;

/// An address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {addr}")]
pub struct BindError {
    /// The address as configured.
    pub addr: SocketAddr,
    /// Why; `AddrInUse` when another socket has it, whatever that socket's options.
    #[source]
    pub source: io::Error,
}

/// A listening socket from the service manager.
#[derive(Debug)]
pub struct Inherited {
    /// Its `FileDescriptorName=`, or the name of the socket unit.
    pub name: String,
    /// The socket, not blocking.
    pub listener: TcpListener,
}

/// Listens on `addr` with `workers` sockets (at least one) among which the system spreads connections.
///
/// Port 0 takes a free port, the same for all. `[::]` takes IPv4 connections too. The sockets do not block, and none
/// of them accepts before all are bound. Off Linux the sockets share one queue.
///
/// # Errors
/// [`BindError`] names the address. An address in use is an error although the sockets share it among themselves:
/// a second process would silently take a part of the connections.
pub fn bind_workers(addr: SocketAddr, workers: usize) -> Result<Vec<TcpListener>, BindError> {
    bind_all(addr, workers, Reach::Own).map_err(|source| BindError { addr, source })
}

/// [`bind_workers`] for redirected connections of both families: where there is no IPv6, `[::]` means `0.0.0.0`.
///
/// # Errors
/// As for [`bind_workers`]; with [`Reach::Transparent`] also `PermissionDenied`, without `CAP_NET_ADMIN` or
/// `CAP_NET_RAW`.
pub fn bind_redirected(
    addr: SocketAddr,
    workers: usize,
    reach: Reach,
) -> Result<Vec<TcpListener>, BindError> {
    let failed = |source| BindError { addr, source };
    match bind_all(addr, workers, reach) {
        Err(error) if is_no_ipv6(&error) && addr.ip() == Ipv6Addr::UNSPECIFIED => {
            let addr = SocketAddr::from((Ipv4Addr::UNSPECIFIED, addr.port()));
            bind_all(addr, workers, reach).map_err(failed)
        }
        bound => bound.map_err(failed),
    }
}

fn is_no_ipv6(error: &io::Error) -> bool {
    rustix::io::Errno::from_io_error(error) == Some(rustix::io::Errno::AFNOSUPPORT)
}

/// Which connections a socket may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Those to its own address.
    Own,
    /// Those to any address that a TPROXY rule leads to it (`IP_TRANSPARENT`).
    Transparent,
}

#[cfg(target_os = "linux")]
fn bind_all(addr: SocketAddr, workers: usize, reach: Reach) -> io::Result<Vec<TcpListener>> {
    // Bound while it shares with nobody, so that the system says whether the address is free; then opened to the
    // others. It stays bound in between, so nobody else can slip in.
    let first = bind(addr, false, reach)?;
    let local = first
        .local_addr()?
        .as_socket()
        .ok_or_else(|| io::Error::other("not an internet address"))?;
    let mut sockets = vec![first];
    if workers > 1 {
        sockets[0].set_reuse_port(true)?;
        for _ in 1..workers {
            sockets.push(bind(SocketAddr::new(addr.ip(), local.port()), true, reach)?);
        }
    }
    sockets.into_iter().map(listen).collect()
}

#[cfg(not(target_os = "linux"))]
fn bind_all(addr: SocketAddr, workers: usize, reach: Reach) -> io::Result<Vec<TcpListener>> {
    share(listen(bind(addr, false, reach)?)?, workers)
}

fn bind(addr: SocketAddr, shared: bool, reach: Reach) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    // Connections of a former process in TIME_WAIT do not hold the address; a listening socket still does.
    socket.set_reuse_address(true)?;
    if addr.is_ipv6() {
        socket.set_only_v6(!addr.ip().is_unspecified())?;
    }
    #[cfg(target_os = "linux")]
    socket.set_reuse_port(shared)?;
    #[cfg(not(target_os = "linux"))]
    debug_assert!(!shared);
    if reach == Reach::Transparent {
        make_transparent(&socket, addr).map_err(explained)?;
    }
    socket.bind(&addr.into())?;
    Ok(socket)
}

fn explained(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::PermissionDenied => io::Error::new(
            error.kind(),
            "TPROXY needs the capability NET_ADMIN or NET_RAW; `mode: redirect` needs none",
        ),
        _ => error,
    }
}

#[cfg(target_os = "linux")]
fn make_transparent(socket: &Socket, addr: SocketAddr) -> io::Result<()> {
    if addr.is_ipv6() {
        socket.set_ip_transparent_v6(true)?;
        if !addr.ip().is_unspecified() {
            return Ok(());
        }
    }
    socket.set_ip_transparent_v4(true)
}

#[cfg(not(target_os = "linux"))]
fn make_transparent(_: &Socket, _: SocketAddr) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

fn listen(socket: Socket) -> io::Result<TcpListener> {
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Copies of one socket for `workers` workers (at least one), which then share its queue.
///
/// # Errors
/// No file descriptor is left.
pub fn share(listener: TcpListener, workers: usize) -> io::Result<Vec<TcpListener>> {
    let mut listeners = Vec::with_capacity(workers);
    for _ in 1..workers {
        listeners.push(listener.try_clone()?);
    }
    listeners.push(listener);
    Ok(listeners)
}

/// Accepts one connection and sets `TCP_NODELAY`. An IPv4 peer is told by its IPv4 address. Connections that were gone before they were accepted are skipped.
///
/// # Errors
/// The system is out of something; see [`accept_pause`].
pub async fn accept(
    listener: &tokio::net::TcpListener,
) -> io::Result<(tokio::net::TcpStream, SocketAddr)> {
    loop {
        match listener.accept().await {
            // The option fails on connections that are gone already; reading will say so.
            Ok((stream, peer)) => {
                stream.set_nodelay(true).unwrap_or_default();
                return Ok((stream, canonical(peer)));
            }
            Err(error) if is_connection_error(&error) => {}
            Err(error) => return Err(error),
        }
    }
}

/// How long to wait before accepting again after an error: file descriptors or memory are short, and asking again at
/// once would only burn processor time.
pub fn accept_pause(failures_in_a_row: u32) -> Duration {
    Duration::from_millis(10 << failures_in_a_row.min(6))
}

fn is_connection_error(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

/// Takes over the sockets of systemd's socket activation (`LISTEN_FDS`, sd_listen_fds(3)). Empty when there are none.
/// To be called once, at the start.
///
/// # Errors
/// The environment is malformed, or a descriptor is no listening TCP socket.
pub fn inherited() -> io::Result<Vec<Inherited>> {
    sd_notify::listen_fds_with_names()?
        .map(|(fd, name)| adopt(fd, name))
        .collect()
}

#[allow(unsafe_code)]
fn adopt(fd: std::os::fd::RawFd, name: String) -> io::Result<Inherited> {
    use std::os::fd::FromRawFd;
    use std::os::fd::OwnedFd;

    // SAFETY: the service manager opened this descriptor for us, as LISTEN_PID says, and nothing else in the program
    // knows of it; `inherited` is called once.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let checked = |fd: &OwnedFd| {
        let socket = SockRef::from(fd);
        let is_tcp = socket.r#type()? == Type::STREAM && socket.local_addr()?.as_socket().is_some();
        if !is_tcp || !socket.is_listener()? {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        socket.set_nonblocking(true)
    };
    match checked(&fd) {
        Ok(()) => Ok(Inherited {
            name,
            listener: TcpListener::from(fd),
        }),
        Err(_) => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("inherited socket {name:?} is no listening TCP socket"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::io::Read;
    use std::os::fd::IntoRawFd;

    use super::*;

    fn loopback(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    #[test]
    fn all_workers_share_the_port_that_the_system_chose() {
        let listeners = bind_workers(loopback(0), 4).unwrap();
        assert_eq!(listeners.len(), 4);
        let ports: BTreeSet<u16> = listeners
            .iter()
            .map(|listener| listener.local_addr().unwrap().port())
            .collect();
        assert_eq!(ports.len(), 1, "{ports:?}");
        assert!(!ports.contains(&0));
    }

    #[test]
    fn an_address_in_use_is_refused_whatever_the_number_of_workers() {
        for (theirs, ours) in [(1, 1), (1, 3), (3, 1), (3, 3)] {
            let held = bind_workers(loopback(0), theirs).unwrap();
            let addr = held[0].local_addr().unwrap();
            let error = bind_workers(addr, ours).unwrap_err();
            assert_eq!(error.source.kind(), io::ErrorKind::AddrInUse);
            assert_eq!(error.to_string(), format!("cannot listen on {addr}"));
            drop(held);
            bind_workers(addr, ours).unwrap();
        }
    }

    #[test]
    fn an_address_of_another_machine_is_refused() {
        let addr = SocketAddr::from(([192, 0, 2, 1], 0));
        let error = bind_workers(addr, 2).unwrap_err();
        assert_eq!(error.source.kind(), io::ErrorKind::AddrNotAvailable);
    }

    #[tokio::test]
    async fn every_worker_gets_connections() {
        let listeners = bind_workers(loopback(0), 2).unwrap();
        let addr = listeners[0].local_addr().unwrap();
        let listeners: Vec<_> = listeners
            .into_iter()
            .map(|listener| tokio::net::TcpListener::from_std(listener).unwrap())
            .collect();
        let mut counts = [0; 2];
        // The system spreads by a hash of the addresses: 64 in a row on one side do not happen.
        let mut clients = Vec::new();
        for _ in 0..64 {
            clients.push(tokio::net::TcpStream::connect(addr).await.unwrap());
            let worker = tokio::select! {
                accepted = accept(&listeners[0]) => { assert!(accepted.unwrap().0.nodelay().unwrap()); 0 }
                accepted = accept(&listeners[1]) => { assert!(accepted.unwrap().0.nodelay().unwrap()); 1 }
            };
            counts[worker] += 1;
        }
        assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
    }

    #[test]
    fn ipv6_is_bound_alone_on_an_address_and_with_ipv4_on_all() {
        let Ok(one) = bind_workers("[::1]:0".parse().unwrap(), 2) else {
            println!("skipped: no IPv6 loopback");
            return;
        };
        let addr = one[0].local_addr().unwrap();
        std::net::TcpStream::connect(addr).unwrap();
        let all = bind_workers("[::]:0".parse().unwrap(), 2).unwrap();
        let port = all[0].local_addr().unwrap().port();
        std::net::TcpStream::connect(loopback(port)).unwrap();
    }

    #[test]
    fn inherited_sockets_are_checked_before_use() {
        let listener = TcpListener::bind(loopback(0)).unwrap();
        let addr = listener.local_addr().unwrap();
        let adopted = adopt(listener.into_raw_fd(), "inbound".into()).unwrap();
        assert_eq!(adopted.name, "inbound");
        let shared = share(adopted.listener, 3).unwrap();
        assert_eq!(shared.len(), 3);
        let mut client = std::net::TcpStream::connect(addr).unwrap();
        drop(shared.iter().find_map(|listener| listener.accept().ok()));
        assert_eq!(client.read(&mut [0]).unwrap(), 0, "accepted and closed");

        let connected = std::net::TcpStream::connect(addr).unwrap();
        let udp = std::net::UdpSocket::bind(loopback(0)).unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        for (fd, why) in [
            (connected.into_raw_fd(), "a connection"),
            (udp.into_raw_fd(), "UDP"),
            (file.into_raw_fd(), "no socket"),
        ] {
            let error = adopt(fd, "odd".into()).unwrap_err();
            assert!(error.to_string().contains("\"odd\""), "{why}: {error}");
        }
    }

    #[test]
    fn without_a_service_manager_nothing_is_inherited() {
        assert!(inherited().unwrap().is_empty());
    }

    #[test]
    fn the_pause_grows_and_stays_below_a_second() {
        let pauses: Vec<_> = [0, 1, 6, 7, u32::MAX].map(accept_pause).into();
        assert_eq!(pauses[0], Duration::from_millis(10));
        assert!(pauses.is_sorted());
        assert!(pauses.iter().all(|pause| *pause < Duration::from_secs(1)));
    }
}
