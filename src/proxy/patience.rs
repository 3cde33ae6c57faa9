//! How long a downstream HTTP/1 connection may take over a request head, and how long it may idle.
//!
//! hyper has one timer for both, so that a kept-alive connection could not idle longer than a head may take. This
//! wrapper tells the two apart: the first byte after an exchange starts the head's clock. One timer serves a
//! connection for its whole life; a request costs two stores.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::io::ReadBuf;
use tokio::time::Instant;
use tokio::time::Sleep;

use crate::net::rewind::Rewind;
use crate::proxy::guard::Refusal;
use crate::proxy::phase::Cut;
use crate::proxy::phase::Doing;
use crate::proxy::phase::Phase;

/// What goes to a caller whose head did not arrive in time. Nothing else can be under way at that moment.
pub(super) const REQUEST_TIMEOUT: &[u8] = b"HTTP/1.1 408 Request Timeout\r\n\
    content-type: text/plain; charset=utf-8\r\n\
    connection: close\r\n\
    content-length: 57\r\n\r\n\
    pillion: the request head did not arrive within its time\n";
/// Stands for "no limit": far enough, and no overflow.
const FOREVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// How long things may take; zero: as long as they like.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// A head after its first byte.
    pub(super) head: Duration,
    /// Waiting for a head.
    pub(super) idle: Duration,
    /// The peer reading nothing of what it is sent.
    pub(super) stall: Duration,
}

/// The connection under watch.
pub(super) struct Patience<IO> {
    io: IO,
    phase: Phase,
    head: Duration,
    idle: Duration,
    /// When the current wait began.
    since: Instant,
    seen: Doing,
    timer: Pin<Box<Sleep>>,
    /// How long the peer may take to read anything; zero: no limit.
    stall: Duration,
    /// Runs while the peer reads nothing.
    unread: Option<Pin<Box<Sleep>>>,
}

impl<IO> Patience<IO> {
    /// Watches `io`. Zero means no limit.
    pub(super) fn new(io: IO, phase: Phase, limits: Limits) -> Self {
        let Limits { head, idle, stall } = limits;
        let head = if head.is_zero() { FOREVER } else { head };
        let idle = if idle.is_zero() { FOREVER } else { idle };
        let now = Instant::now();
        // The first bytes are there already: detection read them.
        phase.head();
        Self {
            io,
            phase,
            head,
            idle,
            since: now,
            seen: Doing::Head,
            timer: Box::pin(tokio::time::sleep(head.min(idle))),
            stall,
            unread: None,
        }
    }

    fn limit(&self, doing: Doing) -> Option<Duration> {
        match doing {
            Doing::Idle => Some(self.idle),
            Doing::Head => Some(self.head),
            Doing::Busy | Doing::Tunnel => None,
        }
    }
}

impl<IO> Patience<Rewind<IO>> {
    /// Puts bytes that were read in front of what will be read.
    pub(super) fn put_back(&mut self, bytes: Bytes) {
        self.io.put_back(bytes);
    }
}

impl<IO> Patience<IO> {
    /// An exchange was served until `now`: whatever wait comes next begins anew.
    pub(super) fn was_busy(&mut self, now: Instant) {
        (self.seen, self.since) = (Doing::Idle, now);
    }

    /// Ready once `deadline` has passed, by the connection's one timer: for waits in which its own limits do not count.
    pub(super) fn poll_until(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        // A timer that fires early is set anew; one that is set later than needed is moved.
        if self.timer.deadline() > deadline {
            self.timer.as_mut().reset(deadline);
        }
        while self.timer.as_mut().poll(cx).is_ready() {
            if Instant::now() >= deadline {
                return Poll::Ready(());
            }
            self.timer.as_mut().reset(deadline);
        }
        Poll::Pending
    }

    /// Called when the connection has nothing to read: is its time up?
    fn poll_expired(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let doing = self.phase.doing();
        let is_new = std::mem::replace(&mut self.seen, doing) != doing;
        let Some(limit) = self.limit(doing) else {
            return Poll::Pending;
        };
        if is_new {
            self.since = Instant::now();
        }
        self.poll_until(cx, self.since + limit)
    }
}

impl<IO> Patience<IO> {
    /// Passes the outcome of a write on, unless the peer has not read for too long.
    fn while_unread(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.unread = None;
            return written;
        }
        if self.stall.is_zero() {
            return Poll::Pending;
        }
        let stall = self.stall;
        let timer = self
            .unread
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(stall)));
        if timer.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        self.phase.cut(Cut::Stalled);
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for Patience<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        if let Poll::Ready(result) = Pin::new(&mut this.io).poll_read(cx, buf) {
            if buf.filled().len() > before && this.phase.doing() == Doing::Idle {
                this.phase.head();
            }
            return Poll::Ready(result);
        }
        if this.poll_expired(cx).is_pending() {
            return Poll::Pending;
        }
        if this.seen == Doing::Head {
            this.phase.refuse(Refusal::HeadTimeout);
            // Best effort: a caller that does not read gets nothing.
            let _sent = Pin::new(&mut this.io).poll_write(cx, REQUEST_TIMEOUT);
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        this.phase.cut(Cut::Idle);
        // An idle connection ends as if its caller had closed it.
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Patience<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let written = Pin::new(&mut this.io).poll_write(cx, buf);
        this.while_unread(cx, written)
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
        let written = Pin::new(&mut this.io).poll_write_vectored(cx, bufs);
        this.while_unread(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[test]
    fn the_announced_length_is_the_text_s() {
        let text = std::str::from_utf8(REQUEST_TIMEOUT).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(
            head.contains(&format!("content-length: {}", body.len())),
            "{}",
            body.len()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_has_its_own_clock_and_idling_another() {
        let (mut caller, ours) = tokio::io::duplex(1024);
        let phase = Phase::default();
        let mut watched = Patience::new(
            ours,
            phase.clone(),
            Limits {
                head: Duration::from_secs(5),
                idle: Duration::from_secs(60),
                stall: Duration::ZERO,
            },
        );
        let mut buf = [0; 64];
        phase.busy();
        phase.idle();
        let start = Instant::now();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(50)).await;
            caller.write_all(b"GET").await.unwrap();
            let mut answer = String::new();
            caller.read_to_string(&mut answer).await.unwrap();
            assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
        });
        assert_eq!(
            watched.read(&mut buf).await.unwrap(),
            3,
            "idling for 50 s is allowed"
        );
        let error = watched.read(&mut buf).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(
            start.elapsed().as_secs(),
            55,
            "the head's clock began with its first byte"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_busy_connection_is_not_timed_and_an_idle_one_ends_quietly() {
        let (_caller, ours) = tokio::io::duplex(1024);
        let phase = Phase::default();
        let mut watched = Patience::new(
            ours,
            phase.clone(),
            Limits {
                head: Duration::from_secs(5),
                idle: Duration::from_secs(60),
                stall: Duration::ZERO,
            },
        );
        let mut buf = [0; 64];
        phase.busy();
        let busy = tokio::time::timeout(Duration::from_secs(1000), watched.read(&mut buf)).await;
        assert!(busy.is_err());
        phase.idle();
        assert_eq!(watched.read(&mut buf).await.unwrap(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_reads_nothing_is_cut_and_a_slow_one_is_not() {
        let (mut caller, ours) = tokio::io::duplex(16);
        let phase = Phase::default();
        let limits = Limits {
            head: Duration::ZERO,
            idle: Duration::ZERO,
            stall: Duration::from_secs(5),
        };
        let mut watched = Patience::new(ours, phase.clone(), limits);
        let reading = async {
            for _ in 0..10 {
                tokio::time::sleep(Duration::from_secs(4)).await;
                caller.read_exact(&mut [0; 8]).await.unwrap();
            }
        };
        let writing = async {
            watched.write_all(&[0; 80]).await.unwrap();
            let start = Instant::now();
            let error = watched.write_all(&[0; 80]).await.unwrap_err();
            (error.kind(), start.elapsed().as_secs())
        };
        let (outcome, ()) = tokio::join!(writing, reading);
        assert_eq!(outcome.0, io::ErrorKind::TimedOut);
        assert!((5..20).contains(&outcome.1), "{outcome:?}");
        assert_eq!(phase.why_cut(), Some(Cut::Stalled));
    }
}
