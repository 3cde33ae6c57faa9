//! One row: a pattern at a concurrency through a running program, and what it costs.

use std::time::Duration;
use std::time::Instant;

use serde::Deserialize;
use serde::Serialize;

use super::collector::Collector;
use super::load;
use super::process::Reuse;
use super::process::Running;
use super::score;
use super::score::Score;
use super::truth::Ids;
use super::truth::Moment;
use super::truth::Pattern;
use super::truth::Truth;

/// Longest wait for spans that are still on their way.
const SPANS_WITHIN: Duration = Duration::from_secs(20);
/// Rest before a row: a program that never rests shows nothing of what its operations do.
const REST: Duration = Duration::from_millis(400);

/// What is measured together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    /// What the program does.
    pub(crate) pattern: Pattern,
    /// Requests in flight.
    pub(crate) concurrency: usize,
    /// Requests in all.
    pub(crate) n_requests: usize,
    /// What calls carry.
    pub(crate) ids: Ids,
    /// Which of several runs of the same this is.
    pub(crate) run: usize,
}

/// A row of the table.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Row {
    /// The program.
    pub(crate) app: String,
    /// The layers.
    pub(crate) profile: String,
    /// What the program did.
    pub(crate) pattern: String,
    /// Requests in flight.
    pub(crate) concurrency: usize,
    /// Its connections to the backend.
    pub(crate) reuse: Reuse,
    /// What calls carried.
    pub(crate) ids: Ids,
    /// Which of several runs of the same this is.
    pub(crate) run: usize,
    /// What the judge says.
    pub(crate) score: Score,
    /// Requests that failed.
    pub(crate) failures: usize,
    /// Requests a second.
    pub(crate) rate: f64,
    /// Half of the requests were faster, in milliseconds.
    pub(crate) p50_ms: f64,
    /// 99 of 100 were faster, in milliseconds.
    pub(crate) p99_ms: f64,
    /// Processor time of Pillion for each request with its calls, in microseconds.
    pub(crate) cpu_us: f64,
}

/// Runs one.
pub(crate) async fn run(
    names: (&str, &str, Reuse),
    running: &Running,
    collector: &Collector,
    plan: Plan,
) -> Row {
    let (app, profile, reuse) = names;
    let truth = Truth::new(plan.pattern, plan.ids, plan.n_requests);
    let jobs = plan.pattern.moment == Moment::BesideJobs;
    let client = load::client();
    if jobs {
        load::get(&client, running.app, "/jobs/on").await;
    }
    // Jobs run in it: as in life, they are older than the requests.
    tokio::time::sleep(REST).await;
    collector.take();
    let before = running.processor_time();
    let seen = load::drive(running.inbound, truth.targets.clone(), plan.concurrency).await;
    let used = running.processor_time().saturating_sub(before);
    if jobs {
        load::get(&client, running.app, "/jobs/off").await;
    }
    let expected = plan.n_requests * plan.pattern.spans();
    let deadline = Instant::now() + SPANS_WITHIN;
    while collector.n_calls(|span| truth.request(&span.path).is_some()) < expected
        && Instant::now() < deadline
    {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // The server spans end after the calls below them.
    tokio::time::sleep(Duration::from_millis(150)).await;
    let spans = collector.take();
    Row {
        app: app.to_owned(),
        profile: profile.to_owned(),
        pattern: plan.pattern.name.to_owned(),
        concurrency: plan.concurrency,
        reuse,
        ids: plan.ids,
        run: plan.run,
        score: score::judge(plan.pattern, &truth, &spans),
        failures: seen.failures,
        rate: plan.n_requests as f64 / seen.took.as_secs_f64(),
        p50_ms: seen.quantile(0.5).as_secs_f64() * 1e3,
        p99_ms: seen.quantile(0.99).as_secs_f64() * 1e3,
        cpu_us: used.as_secs_f64() * 1e6 / plan.n_requests as f64,
    }
}
