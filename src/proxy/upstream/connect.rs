//! Opening one upstream connection: name, TCP, TLS.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;
use std::time::Instant;

use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::io::ReadBuf;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::model::HostPort;
use crate::net::tls::ClientConfig;
use crate::proxy::error::ProxyError;
use crate::proxy::upstream::ConnectTiming;

/// How long an address gets before the next one is tried beside it.
const HEAD_START: Duration = Duration::from_millis(250);
/// Most addresses of a name that are tried.
const MAX_ADDRESSES: usize = 8;

/// Limits for opening connections.
#[derive(Debug, Clone, Copy)]
pub struct Connector {
    /// Name and TCP together; zero: no limit.
    pub connect: Duration,
    /// TLS handshake; zero: no limit.
    pub tls_handshake: Duration,
}

/// An open upstream connection.
pub enum Stream {
    /// Without TLS.
    Plain(TcpStream),
    /// With TLS.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connector {
    /// Opens a connection.
    ///
    /// # Errors
    /// Name, connect, time-out or TLS failures, each with the destination.
    pub async fn open(
        &self,
        to: &HostPort,
        tls: Option<&ClientConfig>,
        http2: bool,
    ) -> Result<(Stream, SocketAddr, ConnectTiming), ProxyError> {
        let (tcp, mut timing) = within(self.connect, open_tcp(to)).await.unwrap_or_else(|after| {
            Err(ProxyError::ConnectTimeout { to: to.to_string(), after })
        })?;
        let peer = tcp.peer_addr().map_err(|source| ProxyError::Connect { to: to.to_string(), source })?;
        let Some(tls) = tls else { return Ok((Stream::Plain(tcp), peer, timing)) };
        let begun = Instant::now();
        let stream = within(self.tls_handshake, tls.connect(&to.host, tcp, http2))
            .await
            .unwrap_or_else(|after| {
                Err(io::Error::new(io::ErrorKind::TimedOut, format!("no handshake within {after:?}")))
            })
            .map_err(|source| ProxyError::Tls { to: to.to_string(), source })?;
        timing.tls = begun.elapsed();
        Ok((Stream::Tls(Box::new(stream)), peer, timing))
    }

    /// Opens a TCP connection for a tunnel.
    ///
    /// # Errors
    /// Name, connect and time-out failures.
    pub async fn open_tcp(&self, to: &HostPort) -> Result<(TcpStream, ConnectTiming), ProxyError> {
        within(self.connect, open_tcp(to)).await.unwrap_or_else(|after| {
            Err(ProxyError::ConnectTimeout { to: to.to_string(), after })
        })
    }
}

async fn open_tcp(to: &HostPort) -> Result<(TcpStream, ConnectTiming), ProxyError> {
    let begun = Instant::now();
    let addresses = resolve(to).await?;
    let resolved = Instant::now();
    let tcp = race(&addresses)
        .await
        .map_err(|source| ProxyError::Connect { to: to.to_string(), source })?;
    tcp.set_nodelay(true).map_err(|source| ProxyError::Connect { to: to.to_string(), source })?;
    let timing = ConnectTiming { resolve: resolved - begun, connect: resolved.elapsed(), tls: Duration::ZERO };
    Ok((tcp, timing))
}

async fn resolve(to: &HostPort) -> Result<Vec<SocketAddr>, ProxyError> {
    if let Some(ip) = to.ip() {
        return Ok(vec![SocketAddr::new(ip, to.port)]);
    }
    let failed = |source| ProxyError::Resolve { host: to.host.to_string(), source };
    let found = tokio::net::lookup_host((to.host.as_str(), to.port)).await.map_err(failed)?;
    let addresses: Vec<_> = found.take(MAX_ADDRESSES).collect();
    if addresses.is_empty() {
        return Err(failed(io::Error::new(io::ErrorKind::NotFound, "the name has no address")));
    }
    Ok(addresses)
}

/// Tries the addresses in order, the next one beside the last after a head start or at once when it failed; the first
/// connection wins. After RFC 8305, without its sorting: the resolver sorts.
async fn race(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    if let [only] = addresses {
        return TcpStream::connect(only).await;
    }
    let mut attempts = tokio::task::JoinSet::new();
    let mut last = io::Error::new(io::ErrorKind::NotFound, "no address");
    let mut waiting = addresses.iter().copied();
    loop {
        let more = match waiting.next() {
            Some(address) => {
                attempts.spawn(TcpStream::connect(address));
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

async fn within<T>(limit: Duration, work: impl Future<Output = T>) -> Result<T, Duration> {
    if limit.is_zero() {
        return Ok(work.await);
    }
    tokio::time::timeout(limit, work).await.map_err(|_| limit)
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }
}
