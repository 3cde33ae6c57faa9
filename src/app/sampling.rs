//! The sampler in force and the task behind it.

use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use serde_json::json;
use tokio_util::sync::CancellationToken;
use tokio_util::sync::DropGuard;

use crate::app::build;
use crate::app::build::Lasting;
use crate::config::Config;
use crate::sampling;
use crate::sampling::PollOutcome;
use crate::sampling::Sampler;
use crate::sampling::Status;
use crate::telemetry::metrics::Outcome;

/// A sampler with its poller, if it has one. Dropping it ends the poller; the last strategy stays in force.
pub(super) struct Sampling {
    pub(super) sampler: Arc<dyn Sampler>,
    config: sampling::Config,
    service: String,
    status: Option<Arc<Status>>,
    _poller: DropGuard,
}

impl Sampling {
    /// Builds the configured sampler and starts its poller.
    pub(super) fn start(config: &Config, lasting: &Lasting, cancel: &CancellationToken) -> Self {
        let built = build::sampler(config);
        let stop = cancel.child_token();
        let status = built.poller.as_ref().map(|poller| poller.status());
        if let Some(poller) = built.poller {
            let metrics = lasting.sampler_metrics.clone();
            let clock = lasting.clock.clone();
            let poller = poller.observed_by(move |outcome, status| {
                let (query, update) = match outcome {
                    PollOutcome::Updated => (Outcome::Success, Some(Outcome::Success)),
                    PollOutcome::Nonsense => (Outcome::Success, Some(Outcome::Failure)),
                    PollOutcome::Failed => (Outcome::Failure, None),
                };
                metrics.queries.count(query);
                if let Some(update) = update {
                    metrics.updates.count(update);
                }
                if outcome == PollOutcome::Updated {
                    let now = Duration::from_nanos(clock.timestamp(Instant::now()).0);
                    metrics.last_update.set(now.as_secs_f64());
                    metrics.operations.set(status.snapshot().operations as f64);
                }
            });
            tokio::spawn(poller.run(stop.clone()));
        }
        Self {
            sampler: built.sampler,
            config: config.sampling.clone(),
            service: build::service(config).to_owned(),
            status,
            _poller: stop.drop_guard(),
        }
    }

    /// What a new configuration needs instead; `None` when this one goes on with what it has learned.
    pub(super) fn successor(
        &self,
        config: &Config,
        lasting: &Lasting,
        cancel: &CancellationToken,
    ) -> Option<Self> {
        let changed = self.config != config.sampling || self.service != build::service(config);
        changed.then(|| Self::start(config, lasting, cancel))
    }

    /// For people: what decides, and how the last questions went.
    pub(super) fn state(&self) -> serde_json::Value {
        let mut state = json!({ "sampler": self.sampler.description(), "service": self.service });
        if let Some(status) = &self.status {
            let status = status.snapshot();
            state[self.config.kind()] = json!({
                "strategy": status.strategy,
                "operations": status.operations,
                "queries_ok": status.queries_ok,
                "queries_failed": status.queries_err,
                "updates_ok": status.updates_ok,
                "updates_refused": status.updates_err,
                "seconds_since_update": status.last_success.map(|at| at.elapsed().as_secs()),
                "last_error": status.last_error,
            });
        }
        state
    }
}
