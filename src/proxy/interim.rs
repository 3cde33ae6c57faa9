//! Interim responses (102, 103 and the like) on their way to an HTTP/1.1 caller.
//!
//! The HTTP library reads them but cannot send them, so they are written beside it, at the only moments when none of
//! its own bytes are under way: right after a flush that left nothing behind. Names of fields are in lower case, which
//! is how the library shows them. Callers over HTTP/2 get none; 100 is `expect`'s, 101 is an upgrade.

use std::io;
use std::io::Write;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::task::Poll;
use std::task::Waker;
use std::task::ready;

use http::HeaderMap;
use http::StatusCode;
use parking_lot::Mutex;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::io::ReadBuf;

use crate::proxy::headers;

/// Most interim responses of one exchange; further ones are dropped, as any of them may be.
const MAX_INTERIMS: u32 = 32;
/// Bytes that may wait to be written.
const MAX_WAITING: usize = 64 * 1024;

/// What waits to be written on one connection. Cloning shares it.
#[derive(Debug, Clone, Default)]
pub struct Interims(Arc<Shared>);

/// A connection and its exchanges live on one thread, so nothing here orders anything else.
#[derive(Debug, Default)]
struct Shared {
    /// Grows when an exchange has its final response: what comes later is too late.
    exchange: AtomicU32,
    is_waiting: AtomicBool,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    bytes: Vec<u8>,
    waker: Option<Waker>,
}

/// The interim responses of one exchange.
pub(super) struct Sink {
    interims: Interims,
    exchange: u32,
    n_taken: AtomicU32,
}

impl Interims {
    /// For the exchange that is under way.
    pub(super) fn sink(&self) -> Sink {
        Sink {
            interims: self.clone(),
            exchange: self.0.exchange.load(Ordering::Relaxed),
            n_taken: AtomicU32::new(0),
        }
    }

    /// The exchange has its final response.
    pub(super) fn close(&self) {
        self.0.exchange.fetch_add(1, Ordering::Relaxed);
    }
}

impl Sink {
    /// Passes an interim response on.
    pub(super) fn take(&self, status: StatusCode, fields: &HeaderMap) {
        let shared = &self.interims.0;
        let is_late = shared.exchange.load(Ordering::Relaxed) != self.exchange;
        if is_late || self.n_taken.fetch_add(1, Ordering::Relaxed) >= MAX_INTERIMS {
            return;
        }
        let mut fields = fields.clone();
        headers::remove_hop_by_hop(&mut fields, false);
        let mut waiting = shared.waiting.lock();
        let before = waiting.bytes.len();
        // Writing to memory does not fail.
        if write_head(&mut waiting.bytes, status, &fields).is_err()
            || waiting.bytes.len() > MAX_WAITING
        {
            waiting.bytes.truncate(before);
            return;
        }
        shared.is_waiting.store(true, Ordering::Relaxed);
        if let Some(waker) = &waiting.waker {
            waker.wake_by_ref();
        }
    }
}

fn write_head(to: &mut Vec<u8>, status: StatusCode, fields: &HeaderMap) -> io::Result<()> {
    let reason = status.canonical_reason().unwrap_or_default();
    write!(to, "HTTP/1.1 {} {reason}\r\n", status.as_str())?;
    for (name, value) in fields {
        write!(to, "{name}: ")?;
        to.write_all(value.as_bytes())?;
        to.write_all(b"\r\n")?;
    }
    to.write_all(b"\r\n")
}

/// A connection on which interim responses can be written between the library's bytes.
pub(super) struct WithInterims<IO> {
    io: IO,
    interims: Interims,
    /// The library's last word was a flush: none of its bytes are under way.
    is_clean: bool,
    /// Taken over, to be written whole before anything else.
    writing: Vec<u8>,
    n_written: usize,
    /// Whom `interims` wakes.
    waker: Option<Waker>,
}

impl<IO> WithInterims<IO> {
    pub(super) fn new(io: IO, interims: Interims) -> Self {
        Self {
            io,
            interims,
            is_clean: true,
            writing: Vec::new(),
            n_written: 0,
            waker: None,
        }
    }
}

impl<IO: AsyncWrite + Unpin> WithInterims<IO> {
    /// Writes what waits, when it may be written now.
    fn poll_interims(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shared = &self.interims.0;
        loop {
            while let Some(rest) = self
                .writing
                .get(self.n_written..)
                .filter(|rest| !rest.is_empty())
            {
                match ready!(Pin::new(&mut self.io).poll_write(cx, rest))? {
                    0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    len => self.n_written += len,
                }
            }
            if !self.is_clean || !shared.is_waiting.load(Ordering::Relaxed) {
                return Poll::Ready(Ok(()));
            }
            shared.is_waiting.store(false, Ordering::Relaxed);
            self.writing = std::mem::take(&mut shared.waiting.lock().bytes);
            self.n_written = 0;
        }
    }

    /// Whoever passes an interim response on wakes this task.
    fn register(&mut self, cx: &Context<'_>) {
        let is_known = |known: &Waker| known.will_wake(cx.waker());
        if !self.waker.as_ref().is_some_and(is_known) {
            self.waker = Some(cx.waker().clone());
            self.interims.0.waiting.lock().waker = Some(cx.waker().clone());
        }
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for WithInterims<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        ready!(this.poll_interims(cx))?;
        this.is_clean = false;
        Pin::new(&mut this.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        ready!(this.poll_interims(cx))?;
        this.is_clean = false;
        Pin::new(&mut this.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        // The library flushes what is below it only when it has nothing left to write.
        this.is_clean = true;
        this.register(cx);
        ready!(this.poll_interims(cx))?;
        Pin::new(&mut this.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for WithInterims<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}
