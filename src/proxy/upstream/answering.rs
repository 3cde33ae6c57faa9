//! A connection on which a request was sent without the library, which is now to read the answer.

use std::io;
use std::pin::Pin;
use std::task::Context;
use std::task::Poll;
use std::task::Waker;

use bytes::Buf;
use bytes::Bytes;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::io::ReadBuf;

/// What was read of an answer before the library took over.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Read {
    /// The bytes.
    pub(in crate::proxy) bytes: Bytes,
    /// How reading ended behind them, if it did.
    pub(in crate::proxy) error: Option<io::Error>,
}

/// Swallows what the library writes, for it is what was sent already, and gives it the answer to read.
pub(super) struct Answering<IO> {
    io: IO,
    read: Read,
    /// The library has asked: only from then on does it expect an answer.
    asked: bool,
    waker: Option<Waker>,
}

impl<IO> Answering<IO> {
    pub(super) fn new(io: IO, read: Read) -> Self {
        Self {
            io,
            read,
            asked: false,
            waker: None,
        }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Answering<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !this.asked {
            this.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let bytes = &mut this.read.bytes;
        if !bytes.is_empty() {
            let len = bytes.len().min(buf.remaining());
            buf.put_slice(&bytes[..len]);
            bytes.advance(len);
            return Poll::Ready(Ok(()));
        }
        match this.read.error.take() {
            Some(error) => Poll::Ready(Err(error)),
            None => Pin::new(&mut this.io).poll_read(cx, buf),
        }
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Answering<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.asked = true;
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
