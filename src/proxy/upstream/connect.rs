//! Opening one upstream connection: name, TCP, TLS.

use std::io;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::time::Duration;
use std::time::Instant;

use tokio::net::TcpStream;

use crate::model::HostPort;
use crate::net::netns::Netns;
use crate::net::source;
use crate::net::tls::Alpn;
use crate::net::tls::ClientTls;
use crate::net::tls::MaybeTls;
use crate::proxy::error::ProxyError;
use crate::proxy::upstream::ConnectTiming;
use crate::proxy::upstream::Ends;

/// How long an address gets before the next one is tried beside it.
const HEAD_START: Duration = Duration::from_millis(250);
/// Most addresses of a name that are tried.
const MAX_ADDRESSES: usize = 8;

/// Limits for opening connections.
#[derive(Debug, Clone)]
pub struct Connector {
    /// Name and TCP together; zero: no limit.
    pub connect: Duration,
    /// TLS handshake; zero: no limit.
    pub tls_handshake: Duration,
    /// The network of the program's own, when it has one.
    pub inside: Option<Inside>,
    /// The address to connect from, where it is not ours.
    pub from: Option<IpAddr>,
}

/// Loopback addresses mean the program's own network first.
#[derive(Debug, Clone)]
pub struct Inside {
    /// That network.
    pub netns: Netns,
    /// Where nobody listens there, the machine's loopback is meant.
    pub else_outside: bool,
}

impl Connector {
    /// Opens a connection.
    ///
    /// # Errors
    /// Name, connect, time-out or TLS failures, each with the destination.
    pub async fn open(
        &self,
        to: &HostPort,
        tls: Option<&ClientTls>,
        http2: bool,
    ) -> Result<(MaybeTls<TcpStream>, Ends, ConnectTiming), ProxyError> {
        let (tcp, peer, mut timing) = self.open_plain(to).await?;
        let Some(tls) = tls else {
            return Ok((MaybeTls::Plain(tcp), peer, timing));
        };
        let begun = Instant::now();
        let alpn = if http2 { Alpn::Http2 } else { Alpn::Http1 };
        let stream = within(self.tls_handshake, tls.connect(&to.host, tcp, alpn))
            .await
            .map_err(|after| ProxyError::ConnectTimeout {
                to: to.to_string(),
                after,
            })?
            .map_err(|source| ProxyError::Tls {
                to: to.to_string(),
                source,
            })?;
        timing.tls = begun.elapsed();
        Ok((MaybeTls::Tls(Box::new(stream.into())), peer, timing))
    }

    /// Opens a TCP connection; its peer comes with it.
    ///
    /// # Errors
    /// Name, connect and time-out failures.
    pub async fn open_plain(
        &self,
        to: &HostPort,
    ) -> Result<(TcpStream, Ends, ConnectTiming), ProxyError> {
        let since = Instant::now();
        let (tcp, timing) = self.open_tcp(to).await?;
        let ends = || {
            Ok(Ends {
                address: tcp.peer_addr()?,
                local: tcp.local_addr()?,
                since,
            })
        };
        let peer = ends().map_err(|source| ProxyError::Connect {
            to: to.to_string(),
            source,
        })?;
        Ok((tcp, peer, timing))
    }

    /// Opens a TCP connection for a tunnel.
    ///
    /// # Errors
    /// Name, connect and time-out failures.
    pub async fn open_tcp(&self, to: &HostPort) -> Result<(TcpStream, ConnectTiming), ProxyError> {
        within(self.connect, self.dial_name(to))
            .await
            .unwrap_or_else(|after| {
                Err(ProxyError::ConnectTimeout {
                    to: to.to_string(),
                    after,
                })
            })
    }

    async fn dial_name(&self, to: &HostPort) -> Result<(TcpStream, ConnectTiming), ProxyError> {
        let failed = |source| ProxyError::Connect {
            to: to.to_string(),
            source,
        };
        let begun = Instant::now();
        let addresses = resolve(to).await?;
        let resolved = Instant::now();
        let tcp = match (self.from, &addresses[..]) {
            (Some(from), [only]) if from.is_ipv4() == only.is_ipv4() => {
                source::connect(from, *only).await
            }
            _ => race(&addresses, self.inside.as_ref()).await,
        };
        let tcp = tcp.map_err(failed)?;
        tcp.set_nodelay(true).map_err(failed)?;
        let timing = ConnectTiming {
            resolve: resolved - begun,
            connect: resolved.elapsed(),
            tls: Duration::ZERO,
        };
        Ok((tcp, timing))
    }
}

async fn resolve(to: &HostPort) -> Result<Vec<SocketAddr>, ProxyError> {
    if let Some(ip) = to.ip() {
        return Ok(vec![SocketAddr::new(ip, to.port)]);
    }
    let failed = |source| ProxyError::Resolve {
        host: to.host.to_string(),
        source,
    };
    let found = tokio::net::lookup_host((to.host.as_str(), to.port))
        .await
        .map_err(failed)?;
    let addresses: Vec<_> = found.take(MAX_ADDRESSES).collect();
    if addresses.is_empty() {
        return Err(failed(io::Error::new(
            io::ErrorKind::NotFound,
            "the name has no address",
        )));
    }
    Ok(addresses)
}

/// Tries the addresses in order, the next one beside the last after a head start or at once when it failed; the first
/// connection wins. After RFC 8305, without its sorting: the resolver sorts.
async fn race(addresses: &[SocketAddr], inside: Option<&Inside>) -> io::Result<TcpStream> {
    if let [only] = addresses {
        return dial(*only, inside.cloned()).await;
    }
    let mut attempts = tokio::task::JoinSet::new();
    let mut last = io::Error::new(io::ErrorKind::NotFound, "no address");
    let mut waiting = addresses.iter().copied();
    loop {
        let more = match waiting.next() {
            Some(address) => {
                attempts.spawn(dial(address, inside.cloned()));
                waiting.len() > 0
            }
            None => false,
        };
        let head_start = async {
            if more {
                tokio::time::sleep(HEAD_START).await;
            } else {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            attempt = attempts.join_next() => match attempt {
                Some(Ok(Ok(stream))) => return Ok(stream),
                Some(Ok(Err(error))) => last = error,
                Some(Err(_)) => {}
                None => return Err(last),
            },
            () = head_start => {}
        }
    }
}

async fn dial(to: SocketAddr, inside: Option<Inside>) -> io::Result<TcpStream> {
    if let Some(inside) = inside.filter(|_| to.ip().is_loopback()) {
        match inside.netns.connect(to).await {
            Err(error)
                if inside.else_outside && error.kind() == io::ErrorKind::ConnectionRefused => {}
            answer => return answer,
        }
    }
    TcpStream::connect(to).await
}

async fn within<T>(limit: Duration, work: impl Future<Output = T>) -> Result<T, Duration> {
    if limit.is_zero() {
        return Ok(work.await);
    }
    tokio::time::timeout(limit, work).await.map_err(|_| limit)
}
