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

use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::io::ReadBuf;
use tokio::time::Instant;
use tokio::time::Sleep;

use crate::proxy::guard::Refusal;
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
}

impl<IO> Patience<IO> {
    /// Watches `io`. Zero means no limit.
    pub(super) fn new(io: IO, phase: Phase, head: Duration, idle: Duration) -> Self {
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

impl<IO: AsyncRead + AsyncWrite + Unpin> Patience<IO> {
    /// Called when the connection has nothing to read: is its time up?
    fn poll_expired(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let doing = self.phase.doing();
        if doing != self.seen {
            self.seen = doing;
            self.since = Instant::now();
        }
        let Some(limit) = self.limit(doing) else {
            return Poll::Pending;
        };
        let deadline = self.since + limit;
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
            Duration::from_secs(5),
            Duration::from_secs(60),
        );
        let mut buf = [0; 64];
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
            Duration::from_secs(5),
            Duration::from_secs(60),
        );
        let mut buf = [0; 64];
        phase.busy();
        let busy = tokio::time::timeout(Duration::from_secs(1000), watched.read(&mut buf)).await;
        assert!(busy.is_err());
        phase.idle();
        assert_eq!(watched.read(&mut buf).await.unwrap(), 0);
    }
}
