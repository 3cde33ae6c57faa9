//! Asks the backend for strategies, at once and then at a jittered interval, and hands them to the remote sampler.
//!
//! A failure of any kind (no connection, time-out, status, size, nonsense) leaves the last good strategy in force. Until
//! the first success the waits are short and double, so that a sidecar that starts before its backend does not sample
//! blindly for a minute.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use bytes::Bytes;
use http::Request;
use http::Response;
use http::StatusCode;
use http::Uri;
use http::header;
use http_body_util::Full;
use parking_lot::Mutex;
use percent_encoding::NON_ALPHANUMERIC;
use percent_encoding::utf8_percent_encode;
use tokio_util::sync::CancellationToken;
use tracing::info;
use tracing::warn;

use crate::net::client::Client;
use crate::net::client::ClientError;
use crate::sampling::Parts;
use crate::sampling::Sampler;
use crate::sampling::StrategyError;
use crate::sampling::parse_strategy;
use crate::sampling::remote::Config;
use crate::sampling::remote::Remote;

/// Largest answer that is read: some ten thousand operations.
const MAX_ANSWER: usize = 4 << 20;
/// First wait after a failure while nothing has ever been fetched.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// Intervals vary by this share either way.
const JITTER: f64 = 0.1;

/// The task behind a remote sampler. Dropping it leaves the last strategy in force.
#[derive(Debug)]
pub struct Poller {
    target: Uri,
    service: String,
    interval: Duration,
    timeout: Duration,
    client: Client,
    status: Arc<Status>,
    random: fastrand::Rng,
    failures: u32,
}

/// What the poller has done so far and what is in force. Shared with metrics and admin pages.
#[derive(Debug)]
pub struct Status {
    remote: Arc<Remote>,
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
    /// The backend answered with something that is no strategy.
    #[error("sampling backend sent nonsense")]
    Strategy(#[source] StrategyError),
}

impl Poller {
    pub(super) fn new(config: &Config, parts: Parts<'_>, remote: Arc<Remote>) -> Self {
        Self {
            target: config.endpoint.uri().clone(),
            service: parts.service.to_owned(),
            interval: config.poll_interval.0,
            timeout: config.timeout.0,
            client: parts.client.clone(),
            status: Arc::new(Status {
                remote,
                counts: Mutex::default(),
            }),
            random: fastrand::Rng::new(),
            failures: 0,
        }
    }

    /// The handle for metrics and admin pages; outlives the task.
    pub fn status(&self) -> Arc<Status> {
        Arc::clone(&self.status)
    }

    /// Polls until cancelled.
    pub async fn run(self, cancel: CancellationToken) {
        let client = self.client.clone();
        let timeout = self.timeout;
        let fetch = move |request| {
            let client = client.clone();
            async move { client.send(request, timeout, MAX_ANSWER).await }
        };
        cancel.run_until_cancelled(self.poll_forever(fetch)).await;
    }

    async fn poll_forever<F, A>(mut self, fetch: F)
    where
        F: Fn(Request<Full<Bytes>>) -> A,
        A: Future<Output = Result<Response<Bytes>, ClientError>>,
    {
        loop {
            let answer = match self.request() {
                Ok(request) => fetch(request).await.map_err(PollError::Exchange),
                Err(error) => Err(PollError::Request(error)),
            };
            self.take(answer, tokio::time::Instant::now().into_std());
            let wait = self.wait();
            tokio::time::sleep(wait).await;
        }
    }

    fn request(&self) -> Result<Request<Full<Bytes>>, http::Error> {
        let joint = if self.target.query().is_some() {
            '&'
        } else {
            '?'
        };
        let service = utf8_percent_encode(&self.service, NON_ALPHANUMERIC);
        Request::get(format!("{}{joint}service={service}", self.target))
            .header(header::ACCEPT, "application/json")
            .header(
                header::USER_AGENT,
                concat!("pillion/", env!("CARGO_PKG_VERSION")),
            )
            .body(Full::default())
    }

    fn take(&mut self, answer: Result<Response<Bytes>, PollError>, now: Instant) {
        let result = self.status.take(answer, now);
        let Err(error) = result else {
            self.failures = 0;
            return;
        };
        self.failures = self.failures.saturating_add(1);
        // The first failure and then ever fewer, so that a long outage does not fill the log.
        if self.failures.is_power_of_two() {
            warn!(
                error,
                endpoint = %self.target,
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
            strategy: self.remote.description(),
            operations: self.remote.operations(),
            ..self.counts.lock().clone()
        }
    }

    /// Takes over an answer and counts it; an error comes back as text with its causes.
    fn take(&self, answer: Result<Response<Bytes>, PollError>, now: Instant) -> Result<(), String> {
        let strategy = answer.and_then(|answer| {
            if !answer.status().is_success() {
                return Err(PollError::Refused(answer.status()));
            }
            parse_strategy(answer.body()).map_err(PollError::Strategy)
        });
        if let Ok(strategy) = &strategy {
            let before = self.remote.description();
            self.remote.apply(strategy, now);
            let after = self.remote.description();
            if after != before {
                info!(strategy = after, "sampling strategy changed");
            }
        }
        let mut counts = self.counts.lock();
        match strategy {
            Ok(_) => {
                counts.queries_ok += 1;
                counts.updates_ok += 1;
                counts.last_success = Some(now);
                counts.last_error = None;
                Ok(())
            }
            Err(error) => {
                match error {
                    PollError::Strategy(_) => {
                        counts.queries_ok += 1;
                        counts.updates_err += 1;
                    }
                    _ => counts.queries_err += 1,
                }
                let text = with_causes(&error);
                counts.last_error = Some(text.clone());
                Err(text)
            }
        }
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
