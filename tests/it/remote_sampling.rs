//! The remote sampler against a real Jaeger v2: strategies files, adaptive mode, and a backend that goes away.

use std::time::Duration;
use std::time::Instant;

use pillion::model::TraceId;
use pillion::net::client::Client;
use pillion::sampling;
use pillion::sampling::Sampler;
use pillion::sampling::Status;
use pillion::sampling::StatusSnapshot;
use pillion::sampling::remote;
use serde_json::Value;
use serde_json::json;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::support::http;
use crate::support::jaeger::Jaeger;
use crate::support::jaeger::Sampling;

const SERVICE: &str = "shop";
const POLL_INTERVAL: Duration = Duration::from_millis(200);
const LIMIT: Duration = Duration::from_secs(20);

/// A remote sampler whose poller runs beside the test.
struct Following {
    sampler: std::sync::Arc<dyn Sampler>,
    status: std::sync::Arc<Status>,
    cancel: CancellationToken,
    task: JoinHandle<()>,
}

impl Following {
    fn start(endpoint: String) -> Self {
        let config = sampling::Config::Remote(remote::Config {
            endpoint: endpoint.try_into().unwrap(),
            poll_interval: pillion::model::HumanDuration(POLL_INTERVAL),
            ..remote::Config::default()
        });
        let built = sampling::build(&config, SERVICE, &Client::plain());
        let poller = built.poller.unwrap();
        let cancel = CancellationToken::new();
        Self {
            sampler: built.sampler,
            status: poller.status(),
            task: tokio::spawn(poller.run(cancel.clone())),
            cancel,
        }
    }

    /// Waits on the poller's state.
    async fn wait(&self, why: &str, condition: impl Fn(&StatusSnapshot) -> bool) -> StatusSnapshot {
        let deadline = Instant::now() + LIMIT;
        loop {
            let snapshot = self.status.snapshot();
            if condition(&snapshot) {
                return snapshot;
            }
            assert!(Instant::now() < deadline, "not {why}: {snapshot:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until a question that was asked after this call has been answered.
    async fn one_poll(&self) -> StatusSnapshot {
        let before = self.status.snapshot().queries_ok;
        self.wait("polled again", |now| now.queries_ok >= before + 2)
            .await
    }

    /// How many of 10,000 random traces are sampled, at a clock that stands still.
    fn sampled_of_10_000(&self, operation: &str) -> usize {
        let now = Instant::now();
        let mut random = fastrand::Rng::with_seed(42);
        (0..10_000)
            .filter(|_| {
                let trace_id = TraceId::from_halves(random.u64(..), random.u64(..)).unwrap();
                self.sampler.sample(trace_id, operation, now).sampled
            })
            .count()
    }

    async fn stop(self) {
        self.cancel.cancel();
        self.task.await.unwrap();
    }
}

fn probabilistic(rate: f64) -> Value {
    json!({ "service_strategies": [{ "service": SERVICE, "type": "probabilistic", "param": rate }] })
}

/// Four standard deviations around what a probability gives in 10,000 trials.
fn assert_binomial(sampled: usize, probability: f64, what: &str) {
    let mean = 10_000.0 * probability;
    let allowed = 4.0 * (mean * (1.0 - probability)).sqrt();
    let off = (sampled as f64 - mean).abs();
    assert!(
        off <= allowed,
        "{what}: {sampled} of 10000 at {probability}"
    );
}

#[tokio::test]
async fn a_changed_strategies_file_is_followed_within_one_poll() {
    let Some(jaeger) = Jaeger::start(Sampling::File(probabilistic(0.25))).await else {
        return;
    };
    let following = Following::start(jaeger.sampling_url());
    let first = following
        .wait("first strategy", |now| now.updates_ok > 0)
        .await;
    assert_eq!(first.strategy, "probabilistic 0.25");
    assert_binomial(following.sampled_of_10_000("GET"), 0.25, "first file");

    let limited = json!({ "service_strategies": [{ "service": SERVICE, "type": "ratelimiting", "param": 7 }] });
    for (file, strategy) in [
        (probabilistic(0.75), "probabilistic 0.75"),
        (limited, "ratelimiting 7/s"),
        (probabilistic(0.0), "probabilistic 0"),
        (probabilistic(1.0), "probabilistic 1"),
    ] {
        let old = jaeger.strategy(SERVICE).await;
        jaeger.write_strategies(&file);
        jaeger.wait_for_strategy(SERVICE, |now| *now != old).await;
        assert_eq!(following.one_poll().await.strategy, strategy);
    }
    assert_eq!(following.sampled_of_10_000("GET"), 10_000);
    let end = following.status.snapshot();
    assert_eq!((end.queries_err, end.updates_err), (0, 0), "{end:?}");
    following.stop().await;
}

#[tokio::test]
async fn each_operation_is_sampled_at_its_own_rate() {
    let operations = [
        ("GET /cart", 0.5),
        ("GET /health", 0.0),
        ("POST /pay", 0.9),
        ("GET /rare", 0.01),
    ];
    let entries: Vec<_> = operations
        .iter()
        .map(|(name, rate)| json!({ "operation": name, "type": "probabilistic", "param": rate }))
        .collect();
    let file = json!({ "service_strategies": [{
        "service": SERVICE, "type": "probabilistic", "param": 0.2, "operation_strategies": entries,
    }]});
    let Some(jaeger) = Jaeger::start(Sampling::File(file)).await else {
        return;
    };
    let following = Following::start(jaeger.sampling_url());
    let snapshot = following
        .wait("per operation", |now| now.operations == operations.len())
        .await;
    assert!(
        snapshot
            .strategy
            .starts_with("per operation, default probabilistic 0.2"),
        "{snapshot:?}"
    );
    for (operation, rate) in operations {
        assert_binomial(following.sampled_of_10_000(operation), rate, operation);
    }
    assert_binomial(
        following.sampled_of_10_000("GET /unlisted"),
        0.2,
        "the service's own rate",
    );
    following.stop().await;
}

#[tokio::test]
async fn a_backend_that_dies_leaves_its_last_strategy_in_force() {
    let Some(mut jaeger) = Jaeger::start(Sampling::File(probabilistic(0.5))).await else {
        return;
    };
    let following = Following::start(jaeger.sampling_url());
    let before = following
        .wait("first strategy", |now| now.updates_ok > 0)
        .await;
    jaeger.kill();
    let after = following
        .wait("failed thrice", |now| now.queries_err >= 3)
        .await;
    assert_eq!(after.strategy, before.strategy);
    assert_eq!(after.strategy, "probabilistic 0.5");
    assert!(
        after
            .last_error
            .is_some_and(|error| error.starts_with("sampling backend unreachable"))
    );
    assert_binomial(following.sampled_of_10_000("GET"), 0.5, "after the end");
    following.stop().await;
}

#[tokio::test]
async fn adaptive_sampling_learns_from_root_spans_and_is_followed() {
    let Some(mut jaeger) = Jaeger::start(Sampling::Adaptive).await else {
        return;
    };
    let following = Following::start(jaeger.sampling_url());
    let start = following
        .wait("first strategy", |now| now.updates_ok > 0)
        .await;
    assert_eq!(
        start.strategy,
        "per operation, default probabilistic 0.5, lower bound 0.1/s"
    );

    // Far more than the target of one sample a second, so that the probability must fall.
    let deadline = Instant::now() + LIMIT;
    let learned = loop {
        report_roots(&jaeger, "GET /cart", 2000).await;
        while jaeger
            .metric("adaptive_sampling_processor_operations_calculated")
            .await
            < 1.0
        {
            assert!(Instant::now() < deadline, "computes nothing");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        jaeger.restart().await;
        let strategy = jaeger.strategy(SERVICE).await;
        let listed = strategy["operationSampling"]["perOperationStrategies"][0].clone();
        let rate = listed["probabilisticSampling"]["samplingRate"].as_f64();
        if rate.is_some_and(|rate| rate < 0.4) {
            break listed;
        }
        assert!(Instant::now() < deadline, "still {strategy}");
    };
    assert_eq!(learned["operation"], "GET /cart");
    following.one_poll().await;
    let sampled = following.sampled_of_10_000("GET /cart");
    assert!(
        sampled < 4_500,
        "the lower probability is followed: {sampled}"
    );
    assert_binomial(
        following.sampled_of_10_000("GET /new"),
        0.5,
        "initial probability",
    );
    following.stop().await;
}

/// Sends root spans as a tracer that follows the backend would, over OTLP as JSON.
async fn report_roots(jaeger: &Jaeger, operation: &str, n_spans: usize) {
    let spans: Vec<_> = (0..n_spans)
        .map(|_| {
            json!({
                "traceId": format!("{:032x}", fastrand::u128(1..)),
                "spanId": format!("{:016x}", fastrand::u64(1..)),
                "name": operation,
                "kind": 2,
                "startTimeUnixNano": "1700000000000000000",
                "endTimeUnixNano": "1700000000001000000",
                "attributes": [
                    { "key": "sampler.type", "value": { "stringValue": "probabilistic" } },
                    { "key": "sampler.param", "value": { "doubleValue": 0.5 } },
                ],
            })
        })
        .collect();
    let service = json!({ "key": "service.name", "value": { "stringValue": SERVICE } });
    let body = json!({ "resourceSpans": [{
        "resource": { "attributes": [service] },
        "scopeSpans": [{ "spans": spans }],
    }]});
    let answer = http::post(
        jaeger.ports.otlp_http,
        "/v1/traces",
        "application/json",
        body.to_string().as_bytes(),
    )
    .await
    .unwrap();
    assert_eq!(
        answer.status,
        200,
        "{}",
        String::from_utf8_lossy(&answer.body)
    );
}
