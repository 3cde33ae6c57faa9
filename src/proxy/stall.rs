//! Noticing that nothing moves: a counter that stands still for as long as the limit.
//!
//! Progress is a number that grows. It is looked at when the limit has passed, so that moving costs nothing; whatever
//! stands still is noticed after the limit at the earliest and twice the limit at the latest.

use std::future::Future;
use std::pin::Pin;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;
use tokio::time::Sleep;

/// The watch over one counter, for code that polls.
pub(super) struct Stall {
    limit: Duration,
    timer: Pin<Box<Sleep>>,
    seen: u64,
}

impl Stall {
    /// Watches from now on; `None` without a limit.
    pub(super) fn new(limit: Duration, progress: u64) -> Option<Self> {
        (!limit.is_zero()).then(|| Self {
            limit,
            timer: Box::pin(tokio::time::sleep(limit)),
            seen: progress,
        })
    }

    /// Ready when the counter stood still. To be polled whenever nothing else is ready.
    pub(super) fn poll_stalled(&mut self, cx: &mut Context<'_>, progress: u64) -> Poll<()> {
        while self.timer.as_mut().poll(cx).is_ready() {
            if progress == self.seen {
                return Poll::Ready(());
            }
            self.seen = progress;
            self.timer.as_mut().reset(Instant::now() + self.limit);
        }
        Poll::Pending
    }
}

/// Awaits `work` for as long as the counter moves. `None`: it stood still; the work is dropped.
pub(super) async fn unless_stalled<T>(
    limit: Duration,
    progress: impl Fn() -> u64,
    work: impl Future<Output = T>,
) -> Option<T> {
    let Some(mut stall) = Stall::new(limit, progress()) else {
        return Some(work.await);
    };
    tokio::pin!(work);
    std::future::poll_fn(|cx| match work.as_mut().poll(cx) {
        Poll::Ready(done) => Poll::Ready(Some(done)),
        Poll::Pending => stall.poll_stalled(cx, progress()).map(|()| None),
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn standing_still_is_noticed_and_moving_is_not_disturbed() {
        let counter = Cell::new(0);
        let start = Instant::now();
        let moving = async {
            for _ in 0..10 {
                tokio::time::sleep(LIMIT - Duration::from_secs(1)).await;
                counter.set(counter.get() + 1);
            }
            std::future::pending::<()>().await;
        };
        assert_eq!(unless_stalled(LIMIT, || counter.get(), moving).await, None);
        let stopped = start.elapsed() - 9 * Duration::from_secs(10);
        assert!(stopped >= LIMIT && stopped <= 2 * LIMIT, "{stopped:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_limit_nothing_is_watched() {
        let long = tokio::time::sleep(1000 * LIMIT);
        assert!(unless_stalled(Duration::ZERO, || 0, long).await.is_some());
    }
}
