//! Sampling strategies for programs that ask: those of the backend that this sidecar follows, or its own settings.
//!
//! Answers of the backend are kept for a while, and beyond that for as long as the backend gives no better one.

use std::collections::HashMap;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use tokio::sync::Mutex;

use crate::codec::jaeger_strategy::Answer;
use crate::model::Text;
use crate::sampling;
use crate::sampling::Source;
use crate::sampling::Told;
use crate::telemetry::metrics::CounterSet;
use crate::telemetry::metrics::StrategyAnswer;

/// How old an answer may be before the backend is asked again.
const FRESH: Duration = Duration::from_secs(10);
/// How long a failure stands before the backend is asked again for the same service.
const QUIET: Duration = Duration::from_secs(1);
/// How long somebody waits for whom there is an older answer. Jaeger's client for Go gives up after ten seconds.
const PATIENCE: Duration = Duration::from_secs(5);
/// Services remembered; programs choose the names.
const MAX_SERVICES: usize = 256;

/// Who answers.
pub struct Strategies {
    origin: Origin,
    counts: CounterSet<StrategyAnswer>,
}

enum Origin {
    Own(Answer),
    Backend {
        source: Box<Source>,
        known: Mutex<HashMap<Text, Arc<Mutex<Known>>>>,
    },
}

/// What is known of one service.
#[derive(Default)]
struct Known {
    answer: Option<Answer>,
    asked: Option<Instant>,
    failure: Option<String>,
}

impl Strategies {
    /// What programs are told under these settings.
    pub fn new(config: &sampling::Config, counts: CounterSet<StrategyAnswer>) -> Self {
        let origin = match config.told() {
            Told::Probability(rate) => Origin::Own(Answer::probabilistic(rate.value())),
            Told::Limit(rate) => Origin::Own(Answer::rate_limiting(rate.value())),
            Told::Backend(remote) => Origin::Backend {
                source: Box::new(Source::new(remote, &crate::net::client::Client::plain())),
                known: Mutex::default(),
            },
        };
        Self { origin, counts }
    }

    /// The strategy of this service.
    ///
    /// # Errors
    /// Why there is none: the backend gave no answer and never did.
    pub(super) async fn of(&self, service: &str) -> Result<Answer, String> {
        let (source, known) = match &self.origin {
            Origin::Own(answer) => {
                self.counts.count(StrategyAnswer::Own);
                return Ok(answer.clone());
            }
            Origin::Backend { source, known } => (source, known),
        };
        let Some(entry) = entry(&mut *known.lock().await, service) else {
            self.counts.count(StrategyAnswer::None);
            return Err("too many services".to_owned());
        };
        // Whoever asks meanwhile waits for this answer.
        let mut known = entry.lock().await;
        let now = Instant::now();
        let good_for = if known.failure.is_some() {
            QUIET
        } else {
            FRESH
        };
        let asked = known
            .asked
            .map(|asked| now.saturating_duration_since(asked));
        if asked.is_some_and(|since| since < good_for) {
            return self.say(&known, StrategyAnswer::Cached);
        }
        let asking = ask(source, service);
        match patiently(known.answer.is_some(), asking).await {
            Ok(answer) => {
                (known.answer, known.failure) = (Some(answer), None);
            }
            Err(failure) => known.failure = Some(failure),
        }
        known.asked = Some(Instant::now());
        self.say(&known, StrategyAnswer::Backend)
    }

    fn say(&self, known: &Known, source: StrategyAnswer) -> Result<Answer, String> {
        match (&known.answer, &known.failure) {
            (Some(answer), failure) => {
                let stale = failure.is_some();
                let source = if stale { StrategyAnswer::Stale } else { source };
                self.counts.count(source);
                Ok(answer.clone())
            }
            (None, failure) => {
                self.counts.count(StrategyAnswer::None);
                Err(failure.clone().unwrap_or_default())
            }
        }
    }
}

/// Waits for the backend; with an older answer at hand not so long that who asks gives up before getting that.
async fn patiently(
    has_older: bool,
    asking: impl Future<Output = Result<Answer, String>>,
) -> Result<Answer, String> {
    if !has_older {
        return asking.await;
    }
    let silent = || Err(format!("no answer within {PATIENCE:?}"));
    let answer = tokio::time::timeout(PATIENCE, asking).await;
    answer.unwrap_or_else(|_| silent())
}

async fn ask(source: &Source, service: &str) -> Result<Answer, String> {
    let answer = source.ask(service).await.map_err(|error| {
        let cause = error.source().map(|cause| format!(": {cause}"));
        format!("{error}{}", cause.unwrap_or_default())
    })?;
    if !answer.status().is_success() {
        return Err(format!("sampling backend answered {}", answer.status()));
    }
    Answer::from_json(answer.body()).map_err(|error| error.to_string())
}

/// The place of a service; the one that was asked for longest ago makes room. `None`: all are in use this moment.
fn entry(known: &mut HashMap<Text, Arc<Mutex<Known>>>, service: &str) -> Option<Arc<Mutex<Known>>> {
    if let Some(entry) = known.get(service) {
        return Some(Arc::clone(entry));
    }
    if known.len() >= MAX_SERVICES {
        let idle = known.iter().filter_map(|(name, entry)| {
            let entry = entry.try_lock().ok()?;
            Some((entry.asked, name.clone()))
        });
        let oldest = idle.min()?.1;
        known.remove(&oldest);
    }
    let entry = Arc::<Mutex<Known>>::default();
    known.insert(Text::new(service), Arc::clone(&entry));
    Some(entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn whoever_can_have_an_older_answer_does_not_wait_for_a_silent_backend() {
        let after = |seconds| async move {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            Ok(Answer::probabilistic(0.5))
        };
        for (has_older, seconds, expected) in [(true, 4, true), (true, 6, false), (false, 9, true)]
        {
            let start = tokio::time::Instant::now();
            let answer = patiently(has_older, after(seconds)).await;
            assert_eq!(answer.is_ok(), expected, "{has_older} {seconds}");
            let most = if has_older {
                PATIENCE
            } else {
                Duration::from_secs(9)
            };
            assert!(start.elapsed() <= most, "{has_older} {seconds}");
        }
    }
}
