//! Connecting from an address of somebody else, so that the far side sees who really calls.
//!
//! Answers go to that address, so rules must bring them back here: `net::rules` does so by [`KEPT`].

use std::io;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::ops::RangeInclusive;

use tokio::net::TcpStream;

use crate::net::rules::KEPT;

/// Systems choose the ports of their callers above these, so that a caller's own connection, which ends at the same
/// address and port as ours, has another one (RFC 6335, and Linux's default from 32768).
const PORTS: RangeInclusive<u16> = 10_240..=32_767;
/// How many ports are tried.
const TRIES: usize = 16;

/// Connects to `to` from the address `from` and a port of our choice. Both are of one family.
///
/// # Errors
/// `PermissionDenied` without the capability `NET_ADMIN`; `AddrInUse` when no port is found; whatever connecting says;
/// `Unsupported` off Linux.
#[cfg(target_os = "linux")]
pub async fn connect(from: IpAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let mut tries = 0;
    loop {
        tries += 1;
        let from = SocketAddr::new(from, fastrand::u16(PORTS));
        let connected = match bind(from) {
            Ok(socket) => {
                let stream = std::net::TcpStream::from(socket);
                tokio::net::TcpSocket::from_std_stream(stream)
                    .connect(to)
                    .await
            }
            Err(error) => Err(error),
        };
        match connected {
            Err(error) if tries < TRIES && is_taken(&error) => {}
            connected => return connected,
        }
    }
}

/// Off Linux nobody can.
///
/// # Errors
/// `Unsupported`.
#[cfg(not(target_os = "linux"))]
pub async fn connect(_: IpAddr, _: SocketAddr) -> io::Result<TcpStream> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(target_os = "linux")]
fn bind(from: SocketAddr) -> io::Result<socket2::Socket> {
    use socket2::Domain;
    use socket2::Protocol;
    use socket2::Socket;
    use socket2::Type;

    let socket = Socket::new(Domain::for_address(from), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    // The same address and port may lead to several destinations.
    socket.set_reuse_address(true)?;
    let permitted = match from {
        SocketAddr::V4(_) => socket.set_ip_transparent_v4(true),
        SocketAddr::V6(_) => socket.set_ip_transparent_v6(true),
    };
    permitted
        .and_then(|()| socket.set_mark(KEPT))
        .map_err(explained)?;
    socket.bind(&from.into())?;
    Ok(socket)
}

#[cfg(target_os = "linux")]
fn explained(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::PermissionDenied => io::Error::new(
            error.kind(),
            "calling from the caller's address needs the capability NET_ADMIN; inbound.redirect.keep_source: false does without",
        ),
        _ => error,
    }
}

#[cfg(target_os = "linux")]
fn is_taken(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable
    )
}
