//! Answers of our own, written where the request was read.

use std::io;
use std::sync::Arc;

use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::io::AsyncWriteExt;

use super::Caller;
use super::Handover;
use super::How;
use super::Instead;
use crate::proxy::error::ProxyError;
use crate::proxy::listener::Conn;
use crate::proxy::respond;

/// What came of it.
pub(super) enum Answered {
    /// The connection waits for the next request.
    Next,
    /// So does nobody any more; whether it ended well.
    Over(bool),
    /// The library is to answer.
    Not(Option<Handover>),
}

/// Answers a request to which there is no response, unless that is for the library to do.
pub(super) async fn answer<IO>(conn: &Arc<Conn>, io: &mut Caller<IO>, instead: Instead) -> Answered
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let (error, closes, exchange) = match instead {
        Instead::Away(error, closes) => (error, closes, None),
        // What the caller did wrong ends its connection in any case.
        Instead::Library(Some(Handover {
            mut exchange,
            how: How::Failed(error),
            closes,
        })) if !error.is_callers() => {
            exchange.refused(&error, respond::status_of(&error));
            (error, closes, Some(exchange))
        }
        Instead::Library(handover) => return Answered::Not(handover),
    };
    let closes = closes || conn.drain.is_signaled();
    let written = write(io, &error, closes).await;
    drop(exchange);
    match (written, closes) {
        (Ok(()), false) => Answered::Next,
        (written, _) => Answered::Over(written.is_ok()),
    }
}

async fn write<IO>(io: &mut Caller<IO>, error: &ProxyError, closes: bool) -> io::Result<()>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    io.write_all(&respond::failure_bytes(error, closes)).await?;
    io.flush().await
}
