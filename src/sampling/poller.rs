//! Has a backend asked for its strategies, at once and then at a jittered interval, on behalf of the sampler that follows it.
//!
//! A failure of any kind (no connection, time-out, status, size, nonsense) leaves the last good strategy in force. Until
//! the first success the waits are short and double, so that a sidecar that starts before its backend does not sample
//! blindly for a minute.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use http::StatusCode;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tracing::info;
use tracing::warn;

use crate::net::client::ClientError;
use crate::sampling::Follow;
use crate::sampling::Sampler;
use crate::sampling::StrategyError;

/// First wait after a failure while nothing has ever been fetched.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// Intervals vary by this share either way.
const JITTER: f64 = 0.1;

/// The task behind a sampler that follows a backend. Dropping it leaves the last strategy in force.
pub struct Poller {
    follow: Box<dyn Follow>,
    interval: Duration,
    status: Arc<Status>,
    random: fastrand::Rng,
    failures: u32,
    observer: Box<Observe>,
}

/// What came of one question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PollOutcome {
    /// A strategy was taken over, changed or not.
    Updated,
    /// The answer was no valid strategy.
    Nonsense,
    /// No usable answer: no connection, time-out, status, size.
    Failed,
}

type Observe = dyn Fn(PollOutcome, &Status) + Send + Sync;

/// What the poller has done so far and what is in force. Shared with metrics and admin pages.
#[derive(Debug)]
pub struct Status {
    sampler: Arc<dyn Sampler>,
    counts: Mutex<StatusSnapshot>,
}

/// [`Status`] at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StatusSnapshot {
    /// Questions that were answered with success.
    pub queries_ok: u64,
    /// Questions without a usable answer: no connection, time-out, status, size.
    pub queries_err: u64,
    /// Answers that were taken over, changed or not.
    pub updates_ok: u64,
    /// Answers that were not a valid strategy.
    pub updates_err: u64,
    /// When a strategy was last taken over; `None` before the first.
    pub last_success: Option<Instant>,
    /// Why the last question failed; `None` after a success.
    pub last_error: Option<String>,
    /// What is in force, in one line.
    pub strategy: String,
    /// Operations with rates or credits of their own.
    pub operations: usize,
}

/// Why a question brought no strategy.
#[derive(Debug, thiserror::Error)]
pub enum PollError {
    /// The service name makes no valid URL.
    #[error("cannot ask for this service")]
    Request(#[source] http::Error),
    /// No answer.
    #[error("sampling backend unreachable")]
    Exchange(#[source] ClientError),
    /// The backend answered with an error.
    #[error("sampling backend answered {0}")]
    Refused(StatusCode),
    /// The backend answered with an error of gRPC.
    #[error("sampling backend answered grpc status {code}: {message}")]
    Call {
        /// The status.
        code: u32,
        /// What it said.
        message: String,
    },
    /// The backend answered with something that is no strategy.
    #[error("sampling backend sent nonsense")]
    Strategy(#[source] StrategyError),
}

impl Poller {
    /// Asks by `follow`, which changes `sampler`.
    pub(super) fn new(
        interval: Duration,
        follow: Box<dyn Follow>,
        sampler: Arc<dyn Sampler>,
    ) -> Self {
        Self {
            follow,
            interval,
            status: Arc::new(Status {
                sampler,
                counts: Mutex::default(),
            }),
            random: fastrand::Rng::new(),
            failures: 0,
            observer: Box::new(|_, _| {}),
        }
    }

    /// Calls this after each question, on the task that polls. Replaces an earlier observer.
    pub fn observed_by(
        mut self,
        observer: impl Fn(PollOutcome, &Status) + Send + Sync + 'static,
    ) -> Self {
        self.observer = Box::new(observer);
        self
    }

    /// The handle for metrics and admin pages; outlives the task.
    pub fn status(&self) -> Arc<Status> {
        Arc::clone(&self.status)
    }

    /// Polls until cancelled.
    pub async fn run(mut self, cancel: CancellationToken) {
        cancel.run_until_cancelled(self.poll_forever()).await;
    }

    async fn poll_forever(&mut self) {
        loop {
            self.poll().await;
            let wait = self.wait();
            tokio::time::sleep(wait).await;
        }
    }

    async fn poll(&mut self) {
        let before = self.status.sampler.description();
        let answer = self.follow.ask().await;
        let outcome = self
            .status
            .note(answer, tokio::time::Instant::now().into_std());
        (self.observer)(outcome, &self.status);
        if outcome == PollOutcome::Updated {
            self.failures = 0;
            let after = self.status.sampler.description();
            if after != before {
                info!(strategy = after, "sampling strategy changed");
            }
            return;
        }
        self.failures = self.failures.saturating_add(1);
        // The first failure and then ever fewer, so that a long outage does not fill the log.
        if self.failures.is_power_of_two() {
            let counts = self.status.counts.lock();
            warn!(
                error = counts.last_error,
                endpoint = %self.follow.target(),
                failures = self.failures,
                "no new sampling strategy, the last one stays"
            );
        }
    }

    /// The pause before the next question.
    fn wait(&mut self) -> Duration {
        let never_succeeded = self.status.counts.lock().last_success.is_none();
        let pause = if never_succeeded {
            let doublings = self.failures.saturating_sub(1).min(20);
            self.interval.min(FIRST_RETRY * (1 << doublings))
        } else {
            self.interval
        };
        pause.mul_f64(1.0 + JITTER * (2.0 * self.random.f64() - 1.0))
    }
}

impl Status {
    /// Everything at this moment.
    pub fn snapshot(&self) -> StatusSnapshot {
        StatusSnapshot {
            strategy: self.sampler.description(),
            operations: self.sampler.operations(),
            ..self.counts.lock().clone()
        }
    }

    /// Counts an answer.
    fn note(&self, answer: Result<(), PollError>, now: Instant) -> PollOutcome {
        let mut counts = self.counts.lock();
        counts.last_error = answer.as_ref().err().map(|error| with_causes(error));
        match answer {
            Ok(()) => {
                counts.queries_ok += 1;
                counts.updates_ok += 1;
                counts.last_success = Some(now);
                PollOutcome::Updated
            }
            Err(PollError::Strategy(_)) => {
                counts.queries_ok += 1;
                counts.updates_err += 1;
                PollOutcome::Nonsense
            }
            Err(_) => {
                counts.queries_err += 1;
                PollOutcome::Failed
            }
        }
    }
}

impl fmt::Debug for Poller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Poller").field(self.follow.target()).finish()
    }
}

fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests;
