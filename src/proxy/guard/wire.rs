//! The rule applied to a connection: the HTTP library reads only what the rule let pass.
//!
//! Usually a head comes in one piece and is looked at where it was read. What cannot pass yet (half a head, bytes
//! behind an upgrade request) waits here, bounded by the size of a head and one read.

use std::io;
use std::pin::Pin;
use std::task::Context;
use std::task::Poll;
use std::task::ready;

use bytes::Buf;
use bytes::BytesMut;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::io::ReadBuf;

use super::Bounds;
use super::Refusal;
use super::STAND_IN;
use super::scan::Scanner;
use super::scan::Stop;
use crate::proxy::phase::Doing;
use crate::proxy::phase::Phase;

/// Bytes that are read at a time while others wait.
const READ: usize = 4096;

/// A connection whose HTTP/1 requests are looked at before anybody reads them.
pub(in crate::proxy) struct Guarded<IO> {
    io: IO,
    phase: Phase,
    scanner: Scanner,
    /// What was read and not yet handed out.
    held: BytesMut,
    /// So many of them may be handed out.
    passed: usize,
    end: End,
}

/// What comes after the bytes that may pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// More.
    Open,
    /// Nothing: as if the peer had closed.
    Closed,
    /// An error: the body is not to be taken for whole.
    Broken,
}

impl<IO> Guarded<IO> {
    /// Watches `io` from its first byte on.
    pub(in crate::proxy) fn new(io: IO, phase: Phase, bounds: Bounds) -> Self {
        Self {
            io,
            phase,
            scanner: Scanner::new(bounds),
            held: BytesMut::new(),
            passed: 0,
            end: End::Open,
        }
    }

    /// Scans what is held beyond what passed already.
    fn scan_held(&mut self) {
        let scanned = self.scanner.scan(&self.held[self.passed..]);
        self.passed += scanned.pass;
        if let Some(Stop::Head(refusal) | Stop::Body(refusal)) = scanned.stop {
            let is_head = matches!(scanned.stop, Some(Stop::Head(_)));
            self.held.truncate(self.passed);
            self.refuse(refusal, is_head);
        }
    }

    /// Nothing of what follows is read. A refused head gets a stand-in, so that it is answered in its turn.
    fn refuse(&mut self, refusal: Refusal, is_head: bool) {
        self.phase.refuse(refusal);
        if !is_head {
            self.end = End::Broken;
            return;
        }
        self.end = End::Closed;
        let stand_in = format!("{STAND_IN} / HTTP/1.1\r\nhost: -\r\nconnection: close\r\n\r\n");
        self.held.extend_from_slice(stand_in.as_bytes());
        self.passed = self.held.len();
    }

    /// Hands out what passed; true when that was something.
    fn hand_out(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        let len = self.passed.min(buf.remaining());
        if len == 0 {
            return false;
        }
        buf.put_slice(&self.held[..len]);
        self.held.advance(len);
        self.passed -= len;
        if self.held.is_empty() {
            // An idle connection holds no buffer.
            self.held = BytesMut::new();
        }
        true
    }

    /// After a request that wants to upgrade: what is the connection now?
    fn decide(&mut self, cx: &Context<'_>) -> Poll<()> {
        if self.phase.doing() == Doing::Busy {
            self.phase.wait(cx.waker());
        }
        // Asked again behind the registration: the answer may have come in between.
        match self.phase.doing() {
            Doing::Busy => Poll::Pending,
            Doing::Tunnel => Poll::Ready(()),
            Doing::Idle | Doing::Head => {
                self.scanner.stay();
                if !self.held.is_empty() {
                    self.phase.head();
                }
                self.scan_held();
                Poll::Ready(())
            }
        }
    }
}

impl<IO: AsyncRead + Unpin> Guarded<IO> {
    /// Reads and scans where the reader wants the bytes. Ready with nothing: the peer closed.
    fn read_in_place(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<bool>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        let fresh = buf.filled().get(before..).unwrap_or_default();
        if fresh.is_empty() {
            return Poll::Ready(Ok(true));
        }
        let scanned = self.scanner.scan(fresh);
        if scanned.stop.is_none() {
            return Poll::Ready(Ok(true));
        }
        match scanned.stop {
            Some(Stop::Head(refusal)) => self.refuse(refusal, true),
            Some(Stop::Body(refusal)) => self.refuse(refusal, false),
            _ => self
                .held
                .extend_from_slice(fresh.get(scanned.pass..).unwrap_or_default()),
        }
        buf.set_filled(before + scanned.pass);
        Poll::Ready(Ok(scanned.pass > 0))
    }

    /// Reads behind what is held. Ready with `false`: the peer closed.
    fn read_behind(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let mut space = [std::mem::MaybeUninit::uninit(); READ];
        let mut fresh = ReadBuf::uninit(&mut space);
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut fresh))?;
        self.held.extend_from_slice(fresh.filled());
        let more = !fresh.filled().is_empty();
        if more {
            self.scan_held();
        }
        Poll::Ready(Ok(more))
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Guarded<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            if this.hand_out(buf) {
                return Poll::Ready(Ok(()));
            }
            match this.end {
                End::Open => {}
                End::Closed => return Poll::Ready(Ok(())),
                End::Broken => return Poll::Ready(Err(io::ErrorKind::InvalidData.into())),
            }
            if buf.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            if this.phase.doing() == Doing::Tunnel {
                if this.held.is_empty() {
                    return Pin::new(&mut this.io).poll_read(cx, buf);
                }
                this.passed = this.held.len();
            } else if this.scanner.is_undecided() {
                ready!(this.decide(cx));
            } else if this.held.is_empty() {
                if ready!(this.read_in_place(cx, buf))? {
                    return Poll::Ready(Ok(()));
                }
            } else if !ready!(this.read_behind(cx))? {
                // Half a head, then nothing: there is no request to answer.
                this.held.clear();
                this.end = End::Closed;
            }
        }
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Guarded<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
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
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
