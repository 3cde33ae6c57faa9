//! Connections that are not understood: bytes both ways, half-closed as their ends are, and at most one span for all.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::task::Poll;
use std::task::ready;
use std::time::Instant;

use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::io::ReadBuf;
use tokio::net::TcpStream;
use tracing::debug;

use crate::detect::ClientHello;
use crate::model::Text;
use crate::net::original_dst;
use crate::net::rewind::Rewind;
use crate::proxy::listener::Conn;
use crate::proxy::metered::Metered;
use crate::proxy::stall::unless_stalled;
use crate::proxy::traced;
use crate::proxy::upstream::Opening;
use crate::telemetry::metrics::CloseReason;
use crate::telemetry::metrics::Direction;
use crate::tracer::ActiveSpan;
use crate::tracer::http::PassedConnection;

/// Bytes in one direction at a time.
const BUFFER: usize = 16 * 1024;

/// What passes unread.
#[derive(Debug)]
pub(super) enum Content {
    /// TLS that begins like this.
    Tls(ClientHello),
    /// Anything.
    Opaque,
}

/// Passes a connection on to its end and says why it ended.
pub(super) async fn forward(
    conn: Conn,
    downstream: Rewind<Metered<TcpStream>>,
    opening: Opening,
    content: Content,
    begun: Instant,
) -> CloseReason {
    let mut span = span(&conn, &content, begun);
    let (upstream, peer, timing) = match opening.await {
        Ok(opened) => opened,
        Err(error) => {
            debug!(%error, peer = %conn.peer, "a connection cannot be passed on");
            if let Some(span) = &mut span {
                span.fail(error.span_error_type());
            }
            original_dst::reset_on_close(downstream.inner().inner());
            return CloseReason::Error;
        }
    };
    if let Some(span) = &mut span {
        span.tracer().clone().conventions.peer(span, peer.address);
        span.set("pillion.time.connect_us", timing.connect.as_micros() as i64);
    }
    let metrics = &conn.metrics().upstream;
    let mut open = metrics.open();
    let mut below = Side::new(downstream);
    let mut above = Side::new(Metered::new(upstream, metrics.clone()));
    let (sent, received) = (below.read.clone(), above.read.clone());
    let moved = || sent.load(Ordering::Relaxed) + received.load(Ordering::Relaxed);
    let copying = tokio::io::copy_bidirectional_with_sizes(&mut below, &mut above, BUFFER, BUFFER);
    let copied = unless_stalled(conn.snapshot.timeouts.stall.0, moved, copying).await;
    let end = match copied {
        None => End::Stall,
        Some(Ok(_)) if above.ended <= below.ended && above.ended.is_some() => End::Server,
        Some(Ok(_)) => End::Client,
        Some(Err(_)) if below.failed => End::ClientReset,
        Some(Err(_)) => End::ServerReset,
    };
    match end {
        // The other side is to see what happened.
        End::ClientReset => original_dst::reset_on_close(above.io.inner()),
        End::ServerReset => original_dst::reset_on_close(below.io.inner().inner()),
        End::Client | End::Server | End::Stall => {}
    }
    if let Some(span) = &mut span {
        span.set(
            "pillion.tunnel.bytes_sent",
            sent.load(Ordering::Relaxed) as i64,
        );
        span.set(
            "pillion.tunnel.bytes_received",
            received.load(Ordering::Relaxed) as i64,
        );
        span.set("pillion.connection.end", end.name());
        match end {
            End::ServerReset => span.fail("connection_reset"),
            End::Stall => span.fail("timeout"),
            End::Client | End::ClientReset | End::Server => {}
        }
    }
    open.reason = match end {
        End::Server => CloseReason::Peer,
        End::ServerReset => CloseReason::Error,
        End::Client | End::ClientReset => CloseReason::Local,
        End::Stall => CloseReason::Timeout,
    };
    match end {
        End::Client => CloseReason::Peer,
        End::ClientReset => CloseReason::Error,
        End::Server | End::ServerReset => CloseReason::Local,
        End::Stall => CloseReason::Timeout,
    }
}

/// The span of a connection of the program, where one is wanted.
fn span(conn: &Conn, content: &Content, begun: Instant) -> Option<ActiveSpan> {
    let wanted = match content {
        Content::Tls(_) => conn.snapshot.passthrough.tls_spans,
        Content::Opaque => conn.snapshot.passthrough.tcp_spans,
    };
    if !wanted || conn.listener.direction() != Direction::Outbound {
        return None;
    }
    let tracer = conn.snapshot.tracer.as_ref()?;
    let redirected = conn.redirected.as_ref()?;
    let (name, hello) = match content {
        Content::Tls(hello) => ("TLS", Some(hello)),
        Content::Opaque => ("TCP", None),
    };
    let server_name = hello.and_then(|hello| hello.server_name.as_deref());
    let address = server_name.unwrap_or(&redirected.to.host);
    let cause = traced::cause_of_connection(conn, address);
    let mut span = tracer.start_client(&cause, Text::new_static(name), begun);
    let passed = PassedConnection {
        address,
        port: redirected.addr.port(),
        server_name,
        alpn: hello.map_or(&[], |hello| &hello.alpn),
    };
    tracer.conventions.connection(&mut span, &passed);
    Some(span)
}

/// Who ended the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Client,
    ClientReset,
    Server,
    ServerReset,
    /// Nothing moved for too long.
    Stall,
}

impl End {
    fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::ClientReset => "client_reset",
            Self::Server => "server",
            Self::ServerReset => "server_reset",
            Self::Stall => "timeout",
        }
    }
}

/// One of the two connections: how much came from it and how it ended.
struct Side<IO> {
    io: IO,
    read: Arc<AtomicU64>,
    ended: Option<Instant>,
    failed: bool,
}

impl<IO> Side<IO> {
    fn new(io: IO) -> Self {
        Self {
            io,
            read: Arc::default(),
            ended: None,
            failed: false,
        }
    }

    fn note<T>(&mut self, result: io::Result<T>) -> Poll<io::Result<T>> {
        self.failed |= result.is_err();
        Poll::Ready(result)
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Side<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = ready!(Pin::new(&mut self.io).poll_read(cx, buf));
        let n = buf.filled().len() - before;
        self.read.fetch_add(n as u64, Ordering::Relaxed);
        if n == 0 && result.is_ok() {
            self.ended.get_or_insert_with(Instant::now);
        }
        self.note(result)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Side<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = ready!(Pin::new(&mut self.io).poll_write(cx, buf));
        self.note(result)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match ready!(Pin::new(&mut self.io).poll_shutdown(cx)) {
            // It is gone already: what it sent is still to be passed on.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
            result => self.note(result),
        }
    }
}
