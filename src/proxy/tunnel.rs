//! Bytes both ways without being understood: CONNECT and upgraded connections.
//!
//! A tunnel is a task of its own that outlives its HTTP connection, holds the drain open, and ends the exchange.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::task::Poll;
use std::task::ready;
use std::time::Duration;

use http::Request;
use http::Response;
use http::StatusCode;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::io::ReadBuf;
use tokio::net::TcpStream;
use tracing::debug;

use crate::net::drain::Watch;
use crate::proxy::error::ProxyError;
use crate::proxy::exchange::Exchange;
use crate::proxy::listener::Conn;
use crate::proxy::phase::Phase;
use crate::proxy::stall::Watched;
use crate::proxy::stall::watch_tunnel;
use crate::proxy::target;
use crate::telemetry::metrics::ErrorType;

/// Bytes in one direction at a time.
const BUFFER: usize = 16 * 1024;

/// A tunnel whose two ends are about to be there.
pub(super) struct Pending {
    downstream: OnUpgrade,
    upstream: Upstream,
    drain: Watch,
    /// How long it may be silent once we stop.
    pause: Duration,
    phase: Phase,
}

enum Upstream {
    Upgraded(OnUpgrade),
    Connected(TcpStream),
}

/// Opens the destination of a CONNECT request; the tunnel begins when the caller has its 200.
pub(super) async fn connect(
    conn: &Arc<Conn>,
    mut request: Request<Incoming>,
    exchange: &mut Exchange,
) -> Result<(Response<()>, Pending), ProxyError> {
    let to = target::of_connect(conn, &request)?;
    let (upstream, timing) = conn
        .snapshot
        .connector(conn.listener.direction())
        .open_tcp(&to)
        .await?;
    let peer = upstream.peer_addr().map_err(|source| ProxyError::Connect {
        to: to.to_string(),
        source,
    })?;
    exchange.tunnel_opened(peer, timing);
    let pending = Pending {
        downstream: hyper::upgrade::on(&mut request),
        upstream: Upstream::Connected(upstream),
        drain: conn.drain.clone(),
        pause: conn.snapshot.timeouts.tunnel_drain.0,
        phase: conn.phase.clone(),
    };
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::OK;
    Ok((response, pending))
}

impl Pending {
    /// A tunnel between the two connections of an upgraded exchange.
    pub(super) fn upgrade(conn: &Conn, downstream: OnUpgrade, upstream: OnUpgrade) -> Self {
        Self {
            downstream,
            upstream: Upstream::Upgraded(upstream),
            drain: conn.drain.clone(),
            pause: conn.snapshot.timeouts.tunnel_drain.0,
            phase: conn.phase.clone(),
        }
    }

    /// Runs the tunnel in its own task; the exchange ends with it.
    pub(super) fn start(self, mut exchange: Box<Exchange>) {
        self.phase.tunnel();
        exchange.becomes_tunnel();
        tokio::spawn(self.run(exchange));
    }

    async fn run(self, mut exchange: Box<Exchange>) {
        let end = (&self.drain, self.pause);
        let copying = async {
            let downstream = TokioIo::new(self.downstream.await.map_err(io::Error::other)?);
            match self.upstream {
                Upstream::Upgraded(upstream) => {
                    let upstream = TokioIo::new(upstream.await.map_err(io::Error::other)?);
                    copy(downstream, upstream, end, &mut exchange).await
                }
                Upstream::Connected(upstream) => {
                    copy(downstream, upstream, end, &mut exchange).await
                }
            }
        };
        match copying.await {
            Ok(()) => exchange.complete(),
            Err(error) if is_ordinary_end(&error) => exchange.complete(),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => exchange.stalled(),
            Err(error) => {
                debug!(%error, "tunnel broke");
                exchange.fail_as(ErrorType::Reset, "connection_reset");
            }
        }
    }
}

/// `end`: when we stop, and how long the tunnel may then be silent.
async fn copy<A, B>(
    downstream: A,
    mut upstream: B,
    end: (&Watch, Duration),
    exchange: &mut Exchange,
) -> io::Result<()>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let bytes = Arc::new(Bytes::default());
    let mut downstream = Counted {
        io: downstream,
        bytes: bytes.clone(),
    };
    let copying =
        tokio::io::copy_bidirectional_with_sizes(&mut downstream, &mut upstream, BUFFER, BUFFER);
    let (drain, pause) = end;
    let limit = exchange.stall_limit();
    let copied = watch_tunnel(limit, pause, drain, || bytes.sum(), copying).await;
    exchange.tunneled(bytes.up(), bytes.down());
    match copied {
        Watched::Done(copied) => copied.map(|_| ()),
        Watched::Stalled => Err(io::ErrorKind::TimedOut.into()),
        Watched::Drained => Ok(()),
    }
}

/// Bytes that passed a tunnel.
#[derive(Debug, Default)]
struct Bytes {
    up: AtomicU64,
    down: AtomicU64,
}

impl Bytes {
    fn up(&self) -> u64 {
        self.up.load(Ordering::Relaxed)
    }

    fn down(&self) -> u64 {
        self.down.load(Ordering::Relaxed)
    }

    fn sum(&self) -> u64 {
        self.up() + self.down()
    }
}

/// The downstream end, whose bytes are counted also when the tunnel breaks.
struct Counted<IO> {
    io: IO,
    bytes: Arc<Bytes>,
}

impl<IO: AsyncRead + Unpin> AsyncRead for Counted<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(cx, buf);
        let read = (buf.filled().len() - before) as u64;
        self.bytes.up.fetch_add(read, Ordering::Relaxed);
        polled
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Counted<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write(cx, buf))?;
        self.bytes.down.fetch_add(written as u64, Ordering::Relaxed);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// WebSocket peers often close without the TCP courtesies; that is no failure.
fn is_ordinary_end(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotConnected | io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof
    )
}
