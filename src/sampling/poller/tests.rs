//! Scripted backends: what is asked when, what each answer changes, what each failure leaves alone.

use std::sync::Mutex as StdMutex;

use bytes::Bytes;
use http::Response;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::time::Instant as TokioInstant;

use super::*;
use crate::model::HumanDuration;
use crate::model::TraceId;
use crate::net::client::Client;
use crate::sampling::Config as Sampling;
use crate::sampling::Probability;
use crate::sampling::build;
use crate::sampling::remote::Backend;
use crate::sampling::remote::Config;
use crate::sampling::remote::Remote;
use crate::sampling::source;

const HALF: &str =
    r#"{"strategyType":"PROBABILISTIC","probabilisticSampling":{"samplingRate":0.5}}"#;
const ALL: &str = r#"{"strategyType":0,"probabilisticSampling":{"samplingRate":1}}"#;
const ONE_A_SECOND: &str = r#"{"strategyType":1,"rateLimitingSampling":{"maxTracesPerSecond":1}}"#;
const NONSENSE: &str = r#"{"probabilisticSampling":{"samplingRate":7}}"#;

type Asked = Arc<StdMutex<Vec<Duration>>>;

/// A poller against a script of answers (the last one repeats), which notes when it asked.
fn poller(interval: &str, script: Vec<Answer>) -> (Poller, Asked) {
    let remote = Arc::new(Remote::new(Probability::INITIAL, 2000));
    let asked = Asked::default();
    let (notes, start) = (Arc::clone(&asked), TokioInstant::now());
    let ask = move || {
        let mut asked = notes.lock().unwrap();
        let next = script[asked.len().min(script.len() - 1)];
        asked.push(start.elapsed());
        std::future::ready(next().map_err(PollError::Exchange))
    };
    let backend = Backend {
        ask,
        target: "http://backend/".parse().unwrap(),
        remote: Arc::clone(&remote),
    };
    let interval: HumanDuration = interval.parse().unwrap();
    let mut poller = Poller::new(interval.0, Box::new(backend), remote);
    poller.random = fastrand::Rng::with_seed(7);
    (poller, asked)
}

type Answer = fn() -> Result<Response<Bytes>, ClientError>;

fn answer(status: u16, body: &'static str) -> Result<Response<Bytes>, ClientError> {
    let response = Response::builder().status(status);
    Ok(response.body(Bytes::from_static(body.as_bytes())).unwrap())
}

fn unreachable_backend() -> Result<Response<Bytes>, ClientError> {
    Err(ClientError::Timeout(Duration::from_secs(10)))
}

/// Runs a poller for some virtual time; returns when it asked and what came of it.
async fn play(
    interval: &str,
    script: Vec<Answer>,
    time: Duration,
) -> (Vec<Duration>, StatusSnapshot) {
    let (mut poller, asked) = poller(interval, script);
    tokio::time::timeout(time, poller.poll_forever())
        .await
        .unwrap_err();
    let asked = asked.lock().unwrap().clone();
    (asked, poller.status().snapshot())
}

fn gaps(asked: &[Duration]) -> Vec<f64> {
    asked
        .windows(2)
        .map(|pair| (pair[1] - pair[0]).as_secs_f64())
        .collect()
}

#[tokio::test(start_paused = true)]
async fn asks_at_once_and_then_at_jittered_intervals() {
    let script: Vec<Answer> = vec![|| answer(200, HALF)];
    let (asked, snapshot) = play("60s", script, Duration::from_secs(6000)).await;
    assert_eq!(asked[0], Duration::ZERO);
    let gaps = gaps(&asked);
    assert!(gaps.len() > 90, "{} polls", gaps.len());
    assert!(
        gaps.iter().all(|gap| (54.0..=66.1).contains(gap)),
        "{gaps:?}"
    );
    let (least, most) = (
        gaps.iter().copied().fold(99.0, f64::min),
        gaps.iter().copied().fold(0.0, f64::max),
    );
    assert!(most - least > 6.0, "jitter spreads: {least} to {most}");
    assert_eq!(snapshot.queries_ok, asked.len() as u64);
    assert_eq!(snapshot.updates_ok, asked.len() as u64);
    assert_eq!(snapshot.strategy, "probabilistic 0.5");
    assert_eq!(snapshot.last_error, None);
}

#[tokio::test(start_paused = true)]
async fn any_failure_keeps_the_last_good_strategy_and_is_counted() {
    let failures: [(Answer, bool, &str); 6] = [
        (
            unreachable_backend,
            true,
            "sampling backend unreachable: no answer within 10s",
        ),
        (
            || answer(500, "collector error"),
            true,
            "sampling backend answered 500 Internal Server Error",
        ),
        (
            || answer(404, HALF),
            true,
            "sampling backend answered 404 Not Found",
        ),
        (
            || answer(302, HALF),
            true,
            "sampling backend answered 302 Found",
        ),
        (
            || answer(200, NONSENSE),
            false,
            "sampling backend sent nonsense: samplingRate is out of range: 7 is not a probability from 0 to 1",
        ),
        (
            || answer(200, "{}"),
            false,
            "sampling backend sent nonsense: the answer contains no sampling strategy",
        ),
    ];
    for (failure, is_query, text) in failures {
        let script = vec![|| answer(200, ALL), failure];
        let (_, snapshot) = play("60s", script, Duration::from_secs(100)).await;
        assert_eq!(snapshot.strategy, "probabilistic 1", "{text}");
        assert_eq!(snapshot.last_error.as_deref(), Some(text));
        assert_eq!(snapshot.updates_ok, 1);
        assert_eq!(
            (snapshot.queries_err, snapshot.updates_err),
            if is_query { (1, 0) } else { (0, 1) }
        );
        assert!(snapshot.last_success.is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_starts_later_is_found_soon() {
    let script: Vec<Answer> = vec![
        unreachable_backend,
        unreachable_backend,
        || answer(200, NONSENSE),
        || answer(200, HALF),
    ];
    let (asked, snapshot) = play("60s", script, Duration::from_secs(100)).await;
    let gaps = gaps(&asked);
    for (gap, expected) in gaps.iter().zip([1.0, 2.0, 4.0, 60.0]) {
        assert!((gap / expected - 1.0).abs() < 0.11, "{gaps:?}");
    }
    assert_eq!(snapshot.strategy, "probabilistic 0.5");
}

#[tokio::test(start_paused = true)]
async fn an_absent_backend_is_asked_no_more_often_than_the_interval() {
    let absent = |interval, time| play(interval, vec![unreachable_backend as Answer], time);
    let (asked, _) = absent("10s", Duration::from_secs(1000)).await;
    assert!(
        gaps(&asked)
            .iter()
            .skip(4)
            .all(|gap| (9.0..=11.1).contains(gap))
    );
    let (asked, _) = absent("200ms", Duration::from_secs(2)).await;
    assert!(
        asked.len() >= 9,
        "a short interval is kept: {}",
        asked.len()
    );
}

#[tokio::test(start_paused = true)]
async fn another_kind_replaces_the_sampler_and_the_same_kind_keeps_its_credits() {
    let unlikely = TraceId::from_halves(0, u64::MAX >> 1).unwrap();
    let script: Vec<Answer> = vec![
        || answer(200, ALL),
        || answer(200, ONE_A_SECOND),
        || answer(200, ONE_A_SECOND),
        || answer(200, HALF),
        || answer(200, ONE_A_SECOND),
    ];
    let (mut poller, _) = poller("60s", script);
    let sampler = Arc::clone(&poller.status.sampler);
    let now = TokioInstant::now().into_std();
    let sampled = || sampler.sample(unlikely, "GET", now).sampled;
    assert!(!sampled(), "initial probability");
    for (expected, why) in [
        (true, "everything"),
        (true, "a new limit has credit"),
        (false, "the same limit has spent it"),
        (false, "half"),
        (true, "a new limit again"),
    ] {
        poller.poll().await;
        assert_eq!(sampled(), expected, "{why}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_observer_hears_of_every_outcome_with_the_state_after_it() {
    let heard = Arc::new(StdMutex::new(Vec::new()));
    let ears = Arc::clone(&heard);
    let script: Vec<Answer> = vec![
        unreachable_backend,
        || answer(200, ALL),
        || answer(200, NONSENSE),
        || answer(503, ""),
    ];
    let (poller, _) = poller("60s", script);
    let mut poller = poller.observed_by(move |outcome, status| {
        ears.lock()
            .unwrap()
            .push((outcome, status.snapshot().strategy));
    });
    for _ in 0..4 {
        poller.poll().await;
    }
    let heard = heard.lock().unwrap();
    let heard: Vec<_> = heard
        .iter()
        .map(|(outcome, strategy)| (*outcome, strategy.as_str()))
        .collect();
    assert_eq!(
        heard,
        [
            (PollOutcome::Failed, "probabilistic 0.001"),
            (PollOutcome::Updated, "probabilistic 1"),
            (PollOutcome::Nonsense, "probabilistic 1"),
            (PollOutcome::Failed, "probabilistic 1"),
        ]
    );
}

#[test]
fn the_service_is_added_to_the_endpoint() {
    for (endpoint, expected) in [
        (
            "http://a:5778/sampling",
            "http://a:5778/sampling?service=my%20shop",
        ),
        ("http://a:5778", "http://a:5778/?service=my%20shop"),
        (
            "http://a:14268/api/sampling",
            "http://a:14268/api/sampling?service=my%20shop",
        ),
        (
            "https://a/x?tenant=b",
            "https://a/x?tenant=b&service=my%20shop",
        ),
    ] {
        let request = source::http_request(&endpoint.parse().unwrap(), "my shop").unwrap();
        assert_eq!(request.uri().to_string(), expected);
        assert_eq!(request.method(), http::Method::GET);
    }
}

/// Answers each connection with the next of these bytes, keeping the last connections open without an answer.
async fn serve(listener: tokio::net::TcpListener, answers: Vec<Vec<u8>>) -> Vec<String> {
    let mut requests = Vec::new();
    for answer in answers {
        let (mut conn, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(conn.read_u8().await.unwrap());
        }
        requests.push(String::from_utf8(head).unwrap());
        conn.write_all(&answer).await.unwrap();
        conn.shutdown().await.unwrap();
    }
    requests
}

#[tokio::test]
async fn asks_over_real_sockets_until_cancelled() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = Config {
        endpoint: format!("http://{}/sampling", listener.local_addr().unwrap())
            .try_into()
            .unwrap(),
        poll_interval: "20ms".parse().unwrap(),
        timeout: "10s".parse().unwrap(),
        ..Config::default()
    };
    let good = format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{ALL}",
        ALL.len()
    );
    let huge = format!(
        "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{}",
        " ".repeat(source::MAX_ANSWER + 1)
    );
    let server = tokio::spawn(serve(
        listener,
        vec![good.into(), b"garbage\r\n\r\n".to_vec(), huge.into()],
    ));
    let built = build(&Sampling::Remote(config), "my shop", &Client::plain());
    let poller = built.poller.unwrap();
    let status = poller.status();
    let cancel = CancellationToken::new();
    let task = tokio::spawn(poller.run(cancel.clone()));
    let counted = async {
        while status.snapshot().queries_err < 3 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), counted)
        .await
        .unwrap();
    cancel.cancel();
    task.await.unwrap();

    let snapshot = status.snapshot();
    assert_eq!(
        snapshot.strategy, "probabilistic 1",
        "the one good answer stays"
    );
    assert_eq!(snapshot.updates_ok, 1);
    let requests = server.await.unwrap();
    let first = &requests[0];
    assert!(
        first.starts_with("GET /sampling?service=my%20shop HTTP/1.1\r\n"),
        "{first}"
    );
    assert!(
        first
            .to_ascii_lowercase()
            .contains("accept: application/json"),
        "{first}"
    );
}
