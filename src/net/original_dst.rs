//! Where a redirected connection was going before rules of the system led it here.
//!
//! REDIRECT rewrites the destination, and connection tracking remembers it (`SO_ORIGINAL_DST`); asking needs no
//! privilege. TPROXY rewrites nothing: the local address of the accepted socket is the original destination.

use std::io;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::net::UdpSocket;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::TcpStream;

/// The destination that the caller dialled, of a connection that REDIRECT led here. `None`: it was dialled as it
/// arrived, or connection tracking has forgotten it.
///
/// # Errors
/// The connection is gone.
///
/// Source: Linux `SO_ORIGINAL_DST` and `IP6T_SO_ORIGINAL_DST`, which answer `ENOENT` for an unknown connection and
/// `ENOPROTOOPT` where connection tracking is absent.
#[cfg(target_os = "linux")]
pub fn redirected(stream: &TcpStream) -> io::Result<Option<SocketAddr>> {
    use rustix::io::Errno;

    let local = canonical(stream.local_addr()?);
    let socket = SockRef::from(stream);
    // A caller with an IPv4 address on a socket for both families is asked about with IPv4's option.
    let found = match local {
        SocketAddr::V4(_) => socket.original_dst_v4(),
        SocketAddr::V6(_) => socket.original_dst_v6(),
    };
    match found {
        Ok(addr) => Ok(addr
            .as_socket()
            .map(canonical)
            .filter(|addr| *addr != local)),
        Err(error) => match Errno::from_io_error(&error) {
            Some(Errno::NOENT | Errno::NOPROTOOPT) => Ok(None),
            _ => Err(error),
        },
    }
}

/// Off Linux nothing is redirected.
///
/// # Errors
/// None.
#[cfg(not(target_os = "linux"))]
pub fn redirected(_: &TcpStream) -> io::Result<Option<SocketAddr>> {
    Ok(None)
}

/// An IPv4 address in IPv6's form becomes IPv4; anything else stays, without flow and scope where they mean nothing.
pub fn canonical(addr: SocketAddr) -> SocketAddr {
    let ip = addr.ip().to_canonical();
    match (addr, ip) {
        (SocketAddr::V6(v6), IpAddr::V6(ip)) if ip.is_unicast_link_local() => v6.into(),
        _ => SocketAddr::new(ip, addr.port()),
    }
}

/// True for addresses of this machine (or container): one can be bound.
pub fn is_local(ip: IpAddr) -> bool {
    ip.is_loopback() || ip.is_unspecified() || UdpSocket::bind((ip, 0)).is_ok()
}

/// The loopback address of the same family.
pub fn loopback_like(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
    }
}

/// Makes closing this connection a reset: its other side is gone, and nobody is to take that for an orderly end.
pub fn reset_on_close(stream: &TcpStream) {
    // A connection that is gone already needs none.
    SockRef::from(stream)
        .set_linger(Some(Duration::ZERO))
        .unwrap_or_default();
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_connection_dialled_directly_has_no_original_destination() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let _client = TcpStream::connect(addr).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        assert_eq!(redirected(&accepted).unwrap(), None);
    }

    #[test]
    fn addresses_in_ipv6_form_are_recognised() {
        for (text, expected) in [
            ("[::ffff:10.0.0.1]:80", "10.0.0.1:80"),
            ("10.0.0.1:80", "10.0.0.1:80"),
            ("[2001:db8::1]:80", "[2001:db8::1]:80"),
            ("[fe80::1%3]:80", "[fe80::1%3]:80"),
        ] {
            assert_eq!(canonical(text.parse().unwrap()).to_string(), expected);
        }
    }

    #[test]
    fn own_addresses_are_known() {
        assert!(is_local([127, 9, 9, 9].into()));
        assert!(is_local([0, 0, 0, 0].into()));
        assert!(!is_local([192, 0, 2, 1].into()), "reserved for documents");
        assert_eq!(loopback_like([10, 0, 0, 1].into()).to_string(), "127.0.0.1");
    }
}
