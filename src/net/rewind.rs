//! A connection with some of its bytes put back.

use std::io;
use std::pin::Pin;
use std::task::Context;
use std::task::Poll;

use bytes::Buf;
use bytes::Bytes;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::io::ReadBuf;

/// Reads `prefix` first, then the connection. Writes go straight through.
#[derive(Debug)]
pub struct Rewind<IO> {
    prefix: Bytes,
    io: IO,
}

impl<IO> Rewind<IO> {
    /// Puts `prefix` in front of what `io` will read.
    pub fn new(io: IO, prefix: Bytes) -> Self {
        Self { prefix, io }
    }

    /// Puts bytes that were read in front of what will be read.
    pub fn put_back(&mut self, bytes: Bytes) {
        self.prefix = match self.prefix.is_empty() {
            true => bytes,
            false => [&bytes[..], &self.prefix[..]].concat().into(),
        };
    }

    /// The bytes that were put back and not yet read again.
    pub fn prefix(&self) -> &Bytes {
        &self.prefix
    }

    /// The connection underneath.
    pub fn inner(&self) -> &IO {
        &self.io
    }

    /// The bytes that were not yet read again, and the connection.
    pub fn into_parts(self) -> (Bytes, IO) {
        (self.prefix, self.io)
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Rewind<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.prefix.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buf);
        }
        let len = self.prefix.len().min(buf.remaining());
        buf.put_slice(&self.prefix[..len]);
        self.prefix.advance(len);
        if self.prefix.is_empty() {
            // Frees the buffer that detection read into.
            self.prefix = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Rewind<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test]
    async fn the_prefix_is_read_first_through_buffers_of_any_size() {
        for size in [1, 2, 5, 64] {
            let io = tokio_test::io::Builder::new().read(b" world").build();
            let mut rewind = Rewind::new(io, Bytes::from_static(b"hello"));
            let mut all = Vec::new();
            let mut buf = vec![0; size];
            loop {
                match rewind.read(&mut buf).await.unwrap() {
                    0 => break,
                    n => all.extend_from_slice(&buf[..n]),
                }
            }
            assert_eq!(all, b"hello world", "{size}");
        }
    }

    #[tokio::test]
    async fn an_empty_buffer_reads_nothing_and_loses_nothing() {
        let io = tokio_test::io::Builder::new().build();
        let mut rewind = Rewind::new(io, Bytes::from_static(b"x"));
        assert_eq!(rewind.read(&mut []).await.unwrap(), 0);
        assert_eq!(rewind.prefix(), "x");
    }

    #[tokio::test]
    async fn writes_pass_while_the_prefix_waits() {
        let io = tokio_test::io::Builder::new().write(b"answer").build();
        let mut rewind = Rewind::new(io, Bytes::from_static(b"question"));
        rewind.write_all(b"answer").await.unwrap();
        assert_eq!(rewind.into_parts().0, "question");
    }

    #[test]
    fn vectored_writes_reach_a_connection_that_has_them() {
        /// Accepts vectored writes only.
        #[derive(Default)]
        struct Vectored(Vec<u8>);
        impl AsyncWrite for Vectored {
            fn poll_write(
                self: Pin<&mut Self>,
                _: &mut Context<'_>,
                _: &[u8],
            ) -> Poll<io::Result<usize>> {
                Poll::Ready(Err(io::Error::other("not vectored")))
            }
            fn poll_write_vectored(
                mut self: Pin<&mut Self>,
                _: &mut Context<'_>,
                bufs: &[io::IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                let before = self.0.len();
                bufs.iter().for_each(|buf| self.0.extend_from_slice(buf));
                Poll::Ready(Ok(self.0.len() - before))
            }
            fn is_write_vectored(&self) -> bool {
                true
            }
            fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
                Poll::Ready(Ok(()))
            }
            fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
                Poll::Ready(Ok(()))
            }
        }
        let mut rewind = Rewind::new(Vectored::default(), Bytes::new());
        assert!(rewind.is_write_vectored());
        let bufs = [io::IoSlice::new(b"one "), io::IoSlice::new(b"two")];
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let written = Pin::new(&mut rewind).poll_write_vectored(&mut cx, &bufs);
        assert!(matches!(written, Poll::Ready(Ok(7))));
        assert_eq!(rewind.inner().0, b"one two");
    }
}
