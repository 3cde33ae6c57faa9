//! Connections that are not understood: bytes both ways, half-closed as their ends are, and at most one span for all.

use std::time::Instant;

use bytes::Bytes;
use tokio::net::TcpStream;
use tracing::debug;

use crate::detect::ClientHello;
use crate::model::Text;
use crate::net::original_dst;
use crate::net::rewind::Rewind;
use crate::propagation::Extraction;
use crate::proxy::listener::Conn;
use crate::proxy::metered::Metered;
use crate::proxy::relay;
use crate::proxy::relay::Broken;
use crate::proxy::relay::Way;
use crate::proxy::stall::Watched;
use crate::proxy::stall::watch_tunnel;
use crate::proxy::traced;
use crate::proxy::upstream::Opening;
use crate::telemetry::metrics::CloseReason;
use crate::telemetry::metrics::Direction;
use crate::tracer::ActiveSpan;
use crate::tracer::Policy;
use crate::tracer::http::PassedConnection;

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
        if conn.listener.direction() == Direction::Outbound {
            span.tracer().clone().conventions.peer(span, peer.address);
        }
        span.set("pillion.time.connect_us", timing.connect.as_micros() as i64);
    }
    let pacer = conn.worker.shared.pacer.as_ref();
    let _bypass = pacer.map(|pacer| pacer.bypass());
    let metrics = conn.metrics();
    let mut open = metrics.upstream.open();
    let (prefix, downstream) = downstream.into_parts();
    let below = relay::End {
        stream: downstream.inner(),
        metrics: &metrics.downstream,
    };
    let above = relay::End {
        stream: &upstream,
        metrics: &metrics.upstream,
    };
    let splice = conn.snapshot.passthrough.splice;
    let up = Way::new(below, above, splice);
    let down = Way::new(above, below, splice);
    let moved = || up.passed() + down.passed();
    let copying = async {
        tokio::try_join!(
            async {
                up.run(prefix)
                    .await
                    .map_err(|broken| broken == Broken::From)
            },
            async {
                down.run(Bytes::new())
                    .await
                    .map_err(|broken| broken == Broken::To)
            },
        )
    };
    let timeouts = &conn.snapshot.timeouts;
    let (limit, pause) = (timeouts.stall.0, timeouts.tunnel_drain.0);
    let copied = watch_tunnel(limit, pause, &conn.drain, moved, copying).await;
    let end = match copied {
        Watched::Stalled => End::Stall,
        Watched::Drained => End::Drain,
        Watched::Done(Ok(_)) if down.ended() <= up.ended() => End::Server,
        Watched::Done(Ok(_)) => End::Client,
        Watched::Done(Err(true)) => End::ClientReset,
        Watched::Done(Err(false)) => End::ServerReset,
    };
    match end {
        // The other side is to see what happened.
        End::ClientReset => original_dst::reset_on_close(&upstream),
        End::ServerReset => original_dst::reset_on_close(downstream.inner()),
        End::Client | End::Server | End::Stall | End::Drain => {}
    }
    if let Some(span) = &mut span {
        span.set("pillion.tunnel.bytes_sent", up.passed() as i64);
        span.set("pillion.tunnel.bytes_received", down.passed() as i64);
        span.set("pillion.connection.end", end.name());
        match end {
            End::ServerReset => span.fail("connection_reset"),
            End::Stall => span.fail("timeout"),
            End::Client | End::ClientReset | End::Server | End::Drain => {}
        }
    }
    open.reason = match end {
        End::Server => CloseReason::Peer,
        End::ServerReset => CloseReason::Error,
        End::Client | End::ClientReset => CloseReason::Local,
        End::Stall => CloseReason::Timeout,
        End::Drain => CloseReason::Drain,
    };
    match end {
        End::Client => CloseReason::Peer,
        End::ClientReset => CloseReason::Error,
        End::Server | End::ServerReset => CloseReason::Local,
        End::Stall => CloseReason::Timeout,
        End::Drain => CloseReason::Drain,
    }
}

/// The span of a connection, where one is wanted.
fn span(conn: &Conn, content: &Content, begun: Instant) -> Option<ActiveSpan> {
    let chosen = &conn.snapshot.passthrough;
    let direction = conn.listener.direction();
    let wanted = match (direction, content) {
        (Direction::Inbound, _) => chosen.inbound_spans,
        (Direction::Outbound, Content::Tls(_)) => chosen.tls_spans,
        (Direction::Outbound, Content::Opaque) => chosen.tcp_spans,
    };
    let tracer = conn.snapshot.tracer.as_ref().filter(|_| wanted)?;
    let redirected = conn.redirected.as_ref()?;
    let (name, hello) = match content {
        Content::Tls(hello) => ("TLS", Some(hello)),
        Content::Opaque => ("TCP", None),
    };
    let server_name = hello.and_then(|hello| hello.server_name.as_deref());
    let ip = redirected.addr.ip().to_string();
    let address = server_name.unwrap_or(&ip);
    let name = Text::new_static(name);
    let mut span = match direction {
        Direction::Outbound => {
            let cause = traced::cause_of_connection(conn, address);
            tracer.start_client(&cause, name, begun)
        }
        // Nothing is read that could name a parent.
        Direction::Inbound => {
            tracer.start_server(&Extraction::default(), Policy::Ignore, name, begun)
        }
    };
    let passed = PassedConnection {
        address,
        port: redirected.addr.port(),
        client: (direction == Direction::Inbound).then_some(conn.peer),
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
    /// We, who stop, as nothing moved.
    Drain,
}

impl End {
    fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::ClientReset => "client_reset",
            Self::Server => "server",
            Self::ServerReset => "server_reset",
            Self::Stall => "timeout",
            Self::Drain => "drain",
        }
    }
}
