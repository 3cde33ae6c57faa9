//! Finishing what is open: one side says when, the other side says when it is done.
//!
//! Whoever starts connections owns a [`Drain`]; every task that must not be cut off holds a [`Watch`] for as long as
//! it works, upgraded connections included. On [`Drain::signal`] tasks stop taking new work; [`Drain::wait_all`]
//! returns when the last `Watch` is gone. A listener that can go away by itself has a [`Drain::child`]: it hears the
//! parent's signal, and the parent waits for its tasks.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

/// The side that decides. Cloning shares it.
#[derive(Debug, Clone)]
pub struct Drain {
    signal: CancellationToken,
    tracker: TaskTracker,
    /// The trackers of the parents, nearest first.
    ancestors: Vec<TaskTracker>,
}

/// Held by a task while it works. Dropping it says that the task is done.
#[derive(Debug, Clone)]
pub struct Watch {
    signal: CancellationToken,
    /// Counted for as long as they exist.
    _held: smallvec::SmallVec<[TaskTrackerToken; 2]>,
}

/// The time ran out before every task was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{remaining} tasks were not done within {after:?}")]
pub struct Unfinished {
    /// Tasks that were still working.
    pub remaining: usize,
    /// The time they had.
    pub after: Duration,
}

impl Default for Drain {
    fn default() -> Self {
        Self::new()
    }
}

impl Drain {
    /// Nothing is signaled, nobody watches.
    pub fn new() -> Self {
        Self {
            signal: CancellationToken::new(),
            tracker: TaskTracker::new(),
            ancestors: Vec::new(),
        }
    }

    /// A part that can be drained by itself and is drained with the whole.
    pub fn child(&self) -> Self {
        let ancestors = [&self.tracker].into_iter().chain(&self.ancestors);
        Self {
            signal: self.signal.child_token(),
            tracker: TaskTracker::new(),
            ancestors: ancestors.cloned().collect(),
        }
    }

    /// For one more task.
    pub fn watch(&self) -> Watch {
        let trackers = [&self.tracker].into_iter().chain(&self.ancestors);
        Watch {
            signal: self.signal.clone(),
            _held: trackers.map(TaskTracker::token).collect(),
        }
    }

    /// Tells every task, those of children too, to finish. Telling twice is telling once.
    pub fn signal(&self) {
        self.signal.cancel();
    }

    /// True after [`Drain::signal`].
    pub fn is_signaled(&self) -> bool {
        self.signal.is_cancelled()
    }

    /// Tasks that hold a [`Watch`].
    pub fn active(&self) -> usize {
        self.tracker.len()
    }

    /// Waits for the signal, then until no [`Watch`] is left, at most `grace` after the signal.
    ///
    /// # Errors
    /// [`Unfinished`] says how many tasks are left; they are the caller's to abort.
    pub async fn wait_all(&self, grace: Duration) -> Result<(), Unfinished> {
        self.signal.cancelled().await;
        // Only a closed tracker is ever done waiting; tokens can still be taken.
        self.tracker.close();
        tokio::time::timeout(grace, self.tracker.wait())
            .await
            .map_err(|_| Unfinished {
                remaining: self.tracker.len(),
                after: grace,
            })
    }
}

impl Watch {
    /// Waits until the task is to finish. May be awaited again and again.
    pub async fn signaled(&self) {
        self.signal.cancelled().await;
    }

    /// True when the task is to finish.
    pub fn is_signaled(&self) -> bool {
        self.signal.is_cancelled()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn waiting_ends_with_the_last_watch() {
        let drain = Drain::new();
        for seconds in [1, 5] {
            let watch = drain.watch();
            tokio::spawn(async move {
                watch.signaled().await;
                tokio::time::sleep(Duration::from_secs(seconds)).await;
            });
        }
        assert_eq!(drain.active(), 2);
        assert!(!drain.is_signaled());
        drain.signal();
        let start = tokio::time::Instant::now();
        drain.wait_all(GRACE).await.unwrap();
        assert_eq!(start.elapsed().as_secs(), 5);
        assert_eq!(drain.active(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_does_not_finish_is_counted() {
        let drain = Drain::new();
        let watch = drain.watch();
        let copy = watch.clone();
        drain.signal();
        assert!(copy.is_signaled());
        let error = drain.wait_all(GRACE).await.unwrap_err();
        assert_eq!(error.remaining, 2, "a clone counts for itself");
        assert_eq!(error.to_string(), "2 tasks were not done within 30s");
        drop((watch, copy));
        drain.wait_all(GRACE).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_watching_is_done_at_once_but_only_after_the_signal() {
        let drain = Drain::new();
        let early = tokio::time::timeout(GRACE, drain.wait_all(GRACE)).await;
        assert!(early.is_err(), "not signaled");
        drain.signal();
        drain.wait_all(Duration::ZERO).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_childs_tasks_hear_the_parent_and_hold_it_up() {
        let parent = Drain::new();
        let (one, other) = (parent.child(), parent.child().child());
        let (first, second) = (one.watch(), other.watch());
        one.signal();
        assert!(first.is_signaled());
        assert!(!second.is_signaled() && !parent.is_signaled());
        drop(first);
        one.wait_all(GRACE).await.unwrap();

        parent.signal();
        assert!(second.is_signaled());
        assert_eq!(parent.wait_all(GRACE).await.unwrap_err().remaining, 1);
        drop(second);
        parent.wait_all(GRACE).await.unwrap();
    }
}
