//! Counts the bytes that a socket reads and writes; those for the program pass the gate of `pacing`, where there is one.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::task::ready;

use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::io::ReadBuf;

use crate::proxy::pacing::Passage;
use crate::telemetry::metrics::ConnectionMetrics;

/// A socket whose traffic is counted; one addition for each system call.
pub(crate) struct Metered<IO> {
    io: IO,
    metrics: Arc<ConnectionMetrics>,
    /// Absent: nobody is paced, or it does not lead to the program.
    passage: Option<Box<Passage>>,
}

impl<IO> Metered<IO> {
    /// Counts into the connection metrics of one direction and peer.
    pub(crate) fn new(io: IO, metrics: Arc<ConnectionMetrics>) -> Self {
        Self {
            io,
            metrics,
            passage: None,
        }
    }

    /// Its writes pass a gate, if there is one.
    pub(crate) fn through(mut self, passage: Option<Passage>) -> Self {
        self.passage = passage.map(Box::new);
        self
    }

    /// The socket.
    pub(crate) fn inner(&self) -> &IO {
        &self.io
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Metered<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        self.metrics
            .received
            .increment((buf.filled().len() - before) as u64);
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Metered<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let _pass = match &this.passage {
            Some(passage) => Some(ready!(passage.poll_pass(cx))),
            None => None,
        };
        let written = ready!(Pin::new(&mut this.io).poll_write(cx, buf))?;
        this.metrics.sent.increment(written as u64);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let _pass = match &this.passage {
            Some(passage) => Some(ready!(passage.poll_pass(cx))),
            None => None,
        };
        let written = ready!(Pin::new(&mut this.io).poll_write_vectored(cx, bufs))?;
        this.metrics.sent.increment(written as u64);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
