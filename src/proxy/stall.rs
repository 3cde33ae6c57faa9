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

use crate::net::drain::Watch;

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

/// How watching a tunnel ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Watched<T> {
    /// By itself.
    Done(T),
    /// The counter stood still for too long.
    Stalled,
    /// We are stopping, and the counter stood still for a moment.
    Drained,
}

/// Awaits a tunnel, whose ends may have nothing to say for hours: for as long as its counter moves, and from the drain on
/// for as long as it moves every `pause`. What does not end by itself is dropped.
pub(super) async fn watch_tunnel<T>(
    limit: Duration,
    pause: Duration,
    drain: &Watch,
    progress: impl Fn() -> u64,
    work: impl Future<Output = T>,
) -> Watched<T> {
    let idle_in_drain = async {
        drain.signaled().await;
        loop {
            let seen = progress();
            tokio::time::sleep(pause).await;
            if progress() == seen {
                return;
            }
        }
    };
    tokio::select! {
        biased;
        ended = unless_stalled(limit, &progress, work) => match ended {
            Some(done) => Watched::Done(done),
            None => Watched::Stalled,
        },
        () = idle_in_drain => Watched::Drained,
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::net::drain::Drain;

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

    #[tokio::test(start_paused = true)]
    async fn a_drain_ends_tunnels_that_have_nothing_to_say() {
        let pause = Duration::from_secs(5);
        let counter = Cell::new(0);
        let talks_until = |until: u64| {
            let counter = &counter;
            async move {
                for _ in 0..until {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    counter.set(counter.get() + 1);
                }
                std::future::pending::<()>().await;
            }
        };
        for (talks, at_least, why) in [(0, 105, "silent"), (200, 200, "talks on")] {
            let (drain, start) = (Drain::new(), Instant::now());
            let watch = drain.watch();
            let watching = watch_tunnel(
                Duration::ZERO,
                pause,
                &watch,
                || counter.get(),
                talks_until(talks),
            );
            let signal = async {
                tokio::time::sleep(Duration::from_secs(100)).await;
                drain.signal();
            };
            let (ended, ()) = tokio::join!(watching, signal);
            assert_eq!(ended, Watched::Drained, "{why}");
            let took = start.elapsed().as_secs();
            assert!(took >= at_least && took <= at_least + 10, "{why}: {took}");
        }
    }
}
