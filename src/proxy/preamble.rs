//! What may come before a connection's own first byte: the header of the PROXY protocol.

use std::time::Duration;

use bytes::Buf;
use bytes::BytesMut;
use tokio::io::AsyncRead;
use tracing::debug;

use crate::detect;
use crate::detect::ProxyHeader;
use crate::net::original_dst::canonical;
use crate::net::rewind::Rewind;
use crate::proxy::listener::Conn;
use crate::telemetry::metrics::CloseReason;
use crate::telemetry::metrics::Direction;
use crate::telemetry::metrics::Rejection;

/// Takes the header off where one is expected; the caller is then who it names.
///
/// # Errors
/// Why the connection is to be closed: no header, a malformed one, or none in time.
pub(super) async fn read<IO>(conn: &mut Conn, mut io: IO) -> Result<Rewind<IO>, CloseReason>
where
    IO: AsyncRead + Unpin,
{
    let mut prefix = BytesMut::new();
    if !conn.snapshot.proxy_protocol || conn.listener.direction() != Direction::Inbound {
        return Ok(Rewind::new(io, prefix.freeze()));
    }
    let limit = match conn.snapshot.timeouts.detect.0 {
        Duration::ZERO => Duration::MAX,
        limit => limit,
    };
    let header = tokio::time::timeout(limit, header(&mut io, &mut prefix));
    let drain = conn.drain.clone();
    let header = tokio::select! {
        header = header => header.map_err(|_| CloseReason::Timeout)??,
        () = drain.signaled() => return Err(CloseReason::Drain),
    };
    let ProxyHeader::Whole { len, source } = header else {
        debug!(peer = %conn.peer, "connection without a PROXY protocol header");
        let rejections = &conn.metrics().traffic.rejections;
        rejections.count(Rejection::Malformed);
        return Err(CloseReason::Protocol);
    };
    prefix.advance(len);
    if let Some(source) = source {
        conn.peer = canonical(source);
    }
    Ok(Rewind::new(io, prefix.freeze()))
}

async fn header<IO>(io: &mut IO, prefix: &mut BytesMut) -> Result<ProxyHeader, CloseReason>
where
    IO: AsyncRead + Unpin,
{
    loop {
        match detect::read_more(io, prefix).await {
            Ok(0) if prefix.is_empty() => return Err(CloseReason::Peer),
            Ok(0) => return Ok(ProxyHeader::Malformed),
            Ok(_) => {}
            Err(_) => return Err(CloseReason::Error),
        }
        match detect::proxy_header(prefix) {
            ProxyHeader::NeedMore => {}
            header => return Ok(header),
        }
    }
}
