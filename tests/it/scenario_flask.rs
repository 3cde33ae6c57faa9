//! Three Flask services that know nothing of tracing, each behind a sidecar process, reporting to a real Jaeger v2: the
//! sidecars started beside them with `run`, or around them with `exec`.
//!
//! At concurrency 1 every trace is whole. At concurrency 16 a trace may fall apart, but no parent that is asserted with
//! confidence is wrong: each request carries an id that every URL on its way repeats and that linking does not read.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::time::Duration;
use std::time::Instant;

use serde_json::Value;

use crate::support::apps;
use crate::support::apps::App;
use crate::support::apps::Sidecar;
use crate::support::http;
use crate::support::jaeger::Jaeger;
use crate::support::jaeger::Sampling;
use crate::support::jaeger::spans;
use crate::support::jaeger::tag;
use crate::support::pillion::Pillion;
use crate::support::skip::skip;

const LIMIT: Duration = Duration::from_secs(60);
/// Spans of a request: three servers, two clients.
const WHOLE: usize = 5;

/// The three services with their sidecars and the backend.
struct Scene {
    jaeger: Jaeger,
    sidecars: Vec<Sidecar>,
    _apps: Vec<App>,
    /// Where requests to `hello` go.
    front: u16,
}

/// A span as Jaeger shows it.
#[derive(Debug, Clone)]
struct Shown {
    trace: String,
    id: String,
    parent: Option<String>,
    service: String,
    kind: String,
    /// The id of the request that its URL carries.
    request: String,
    method: String,
    confidence: String,
    candidates: i64,
}

impl Scene {
    async fn set() -> Option<Self> {
        let python = apps::python()?;
        let jaeger = Jaeger::start(Sampling::File(serde_json::json!({}))).await?;
        let settings = apps::otlp(&format!("http://127.0.0.1:{}", jaeger.ports.otlp_http));
        let mut urls: Vec<(String, String)> = Vec::new();
        let (mut sidecars, mut running) = (Vec::new(), Vec::new());
        for service in ["publisher", "formatter", "hello"] {
            let sidecar = Sidecar::start(service, &settings);
            let proxy = sidecar.proxy();
            let mut variables = vec![("HTTP_PROXY", proxy.as_str())];
            variables.extend(urls.iter().map(|(name, url)| (name.as_str(), url.as_str())));
            let file = format!("{service}.py");
            running.push(App::start(&python, &file, &[], sidecar.app_port, &variables).await);
            urls.push((format!("{}_URL", service.to_uppercase()), sidecar.url()));
            sidecars.push(sidecar);
        }
        Some(Self {
            jaeger,
            front: sidecars.last()?.inbound,
            sidecars,
            _apps: running,
        })
    }

    async fn send(&self, ids: &[String], concurrency: usize, pause: Duration) {
        send(self.front, ids, concurrency, pause).await;
    }

    async fn spans(&self, expected: usize) -> Vec<Shown> {
        shown_by(&self.jaeger, expected).await
    }

    /// Every sidecar exported every span it started; the sum.
    async fn accounted_for(&self) -> usize {
        let mut sum = 0;
        for sidecar in &self.sidecars {
            sum += sidecar.accounted_for("otlp").await as usize;
        }
        sum
    }
}

/// Sends these requests, `concurrency` at a time, each after a pause of up to so long; all must succeed.
async fn send(front: u16, ids: &[String], concurrency: usize, pause: Duration) {
    let mut rounds = tokio::task::JoinSet::new();
    for first in 0..concurrency {
        let mine: Vec<String> = ids
            .iter()
            .skip(first)
            .step_by(concurrency)
            .cloned()
            .collect();
        rounds.spawn(async move {
            let mut random = fastrand::Rng::with_seed(first as u64);
            for id in mine {
                tokio::time::sleep(pause.mul_f64(random.f64())).await;
                let answer = http::get(front, &format!("/?name={id}")).await.unwrap();
                let text = String::from_utf8_lossy(&answer.body).into_owned();
                assert_eq!((answer.status, text), (200, format!("Hello, {id}!")));
            }
        });
    }
    rounds.join_all().await;
}

/// Waits until Jaeger has so many spans of all services; all of them.
async fn shown_by(jaeger: &Jaeger, expected: usize) -> Vec<Shown> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let mut found = BTreeMap::new();
        for service in ["hello", "formatter", "publisher"] {
            for trace in jaeger.traces(service).await {
                for span in spans(&trace) {
                    let shown = shown(&trace, span);
                    found.insert(shown.id.clone(), shown);
                }
            }
        }
        if found.len() >= expected {
            assert_eq!(found.len(), expected, "more spans than exchanges");
            return found.into_values().collect();
        }
        assert!(
            Instant::now() < deadline,
            "{} of {expected} spans",
            found.len()
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn shown(trace: &Value, span: &Value) -> Shown {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let process = text(&span["processID"]);
    let references = span["references"].as_array().cloned().unwrap_or_default();
    let parent = references
        .iter()
        .find(|reference| reference["refType"] == "CHILD_OF");
    let url = format!(
        "{}{}",
        text(tag(span, "url.full")),
        text(tag(span, "url.query"))
    );
    Shown {
        trace: text(&span["traceID"]),
        id: text(&span["spanID"]),
        parent: parent.map(|parent| text(&parent["spanID"])),
        service: text(&trace["processes"][&process]["serviceName"]),
        kind: text(tag(span, "span.kind")),
        request: signed_id(&url).unwrap_or_else(|| panic!("no id in {span}")),
        method: text(tag(span, "pillion.link.method")),
        confidence: text(tag(span, "pillion.link.confidence")),
        candidates: tag(span, "pillion.link.candidates").as_i64().unwrap_or(-1),
    }
}

/// An id with a checksum, so that a damaged or mixed-up one is noticed.
fn sign(number: usize) -> String {
    format!("r{number}s{}", checksum(number))
}

fn checksum(number: usize) -> usize {
    (number + 7).wrapping_mul(2_654_435_761) % 99_991
}

fn signed_id(url: &str) -> Option<String> {
    url.match_indices('r').find_map(|(at, _)| {
        let digits = |text: &str| {
            text.chars()
                .take_while(char::is_ascii_digit)
                .collect::<String>()
        };
        let number = digits(&url[at + 1..]);
        let rest = url[at + 1 + number.len()..].strip_prefix('s')?;
        let number: usize = number.parse().ok()?;
        (digits(rest).parse() == Ok(checksum(number))).then(|| sign(number))
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_after_the_other_every_trace_is_whole() {
    let Some(scene) = Scene::set().await else {
        return;
    };
    let ids: Vec<String> = (0..30).map(sign).collect();
    scene.send(&ids, 1, Duration::ZERO).await;
    let spans = scene.spans(WHOLE * ids.len()).await;
    assert_eq!(scene.accounted_for().await, spans.len());

    for id in &ids {
        assert_whole(id, &spans);
    }
    for span in spans.iter().filter(|span| span.kind == "client") {
        assert_eq!(span.method, "exclusive", "{span:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_concurrency_16_no_confident_parent_is_wrong() {
    let outcomes = outcomes(320, 16, Duration::ZERO).await;
    let candidates = outcomes.get(&("none".to_owned(), "none".to_owned(), false));
    assert!(
        outcomes.is_empty() || candidates.is_some(),
        "requests overlapped: {outcomes:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn between_alone_and_crowded_no_confident_parent_is_wrong() {
    // Requests that now overlap and now do not: what is certain one moment is doubtful the next.
    outcomes(160, 3, Duration::from_millis(120)).await;
}

/// Client spans by method, confidence and whether the parent is right.
type Outcomes = BTreeMap<(String, String, bool), usize>;

/// Sends so many requests and looks at every parent. Empty when the test is skipped.
async fn outcomes(requests: usize, concurrency: usize, pause: Duration) -> Outcomes {
    let Some(scene) = Scene::set().await else {
        return Outcomes::new();
    };
    let ids: Vec<String> = (0..requests).map(sign).collect();
    scene.send(&ids, concurrency, pause).await;
    let spans = scene.spans(WHOLE * ids.len()).await;
    assert_eq!(scene.accounted_for().await, spans.len());

    let by_id: BTreeMap<&str, &Shown> = spans.iter().map(|span| (span.id.as_str(), span)).collect();
    let mut outcomes = Outcomes::new();
    for span in &spans {
        let parent = span
            .parent
            .as_ref()
            .map(|parent| by_id.get(parent.as_str()));
        if span.kind == "server" && span.service != "hello" {
            // From one sidecar to the next the context travels in headers: always right.
            let parent = parent
                .flatten()
                .unwrap_or_else(|| panic!("parent of {span:?}"));
            assert_eq!(
                (parent.kind.as_str(), &parent.request),
                ("client", &span.request)
            );
            continue;
        }
        if span.kind == "server" {
            assert_eq!(span.parent, None, "{span:?}");
            continue;
        }
        let right = parent
            .flatten()
            .is_some_and(|parent| parent.request == span.request);
        let outcome = (span.method.clone(), span.confidence.clone(), right);
        *outcomes.entry(outcome).or_default() += 1;
        match span.confidence.as_str() {
            "exact" | "high" => assert!(right, "wrong parent, asserted as certain: {span:?}"),
            "low" => assert!(span.parent.is_some(), "{span:?}"),
            "none" => {
                assert_eq!(span.parent, None, "{span:?}");
                assert!(span.candidates > 0, "{span:?}");
            }
            other => panic!("confidence {other:?}: {span:?}"),
        }
    }
    let clients: usize = outcomes.values().sum();
    assert_eq!(clients, 2 * ids.len());
    eprintln!("{concurrency} at a time, by method, confidence, right parent: {outcomes:?}");
    outcomes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_the_preloaded_library_every_trace_of_a_crowd_is_whole() {
    crowd(&["--preload"], "off").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_the_kernel_every_trace_of_a_crowd_is_whole() {
    crowd(&[], "required").await;
}

/// Flask serves each request in a thread: at concurrency 16 and 64 every trace is whole, and says what really happened.
async fn crowd(flags: &[&str], kernel: &str) {
    let Some(python) = apps::python() else {
        return;
    };
    let Some(jaeger) = Jaeger::start(Sampling::File(serde_json::json!({}))).await else {
        return;
    };
    let collector = format!("http://127.0.0.1:{}", jaeger.ports.otlp_http);
    let mut urls: Vec<(String, String)> = Vec::new();
    let (mut processes, mut front) = (Vec::new(), 0);
    for service in ["publisher", "formatter", "hello"] {
        let port = apps::free_port();
        let mut variables = vec![
            ("PORT", port.to_string()),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.clone()),
            ("OTEL_TRACES_SAMPLER", "always_on".to_owned()),
            ("PILLION_LINKING__KERNEL", kernel.to_owned()),
        ];
        variables.extend(urls.iter().map(|(name, url)| (name.as_str(), url.clone())));
        let (app, name) = (
            format!("--app=127.0.0.1:{port}"),
            format!("--service={service}"),
        );
        let mut args = vec!["--inbound=127.0.0.1:0", app.as_str(), name.as_str()];
        args.extend(flags);
        let file = format!("{service}.py");
        let mut process = apps::exec(&python, &args, &file, &variables);
        if kernel == "required"
            && let Some(reason) = refusal(&mut process)
        {
            return skip(&reason);
        }
        front = process.port("inbound");
        apps::listening(port).await;
        urls.push((
            format!("{}_URL", service.to_uppercase()),
            format!("http://localhost:{front}"),
        ));
        processes.push(process);
    }
    let (mut requests, mut parted) = (0, 0);
    for (concurrency, count) in [(16, 96), (64, 192)] {
        let ids: Vec<String> = (requests..requests + count).map(sign).collect();
        send(front, &ids, concurrency, Duration::ZERO).await;
        requests += count;
        let spans = shown_by(&jaeger, WHOLE * requests).await;
        for id in &ids {
            let lost = |span: &Shown| span.request == *id && span.method == "none";
            if spans.iter().any(lost) {
                parted += 1;
            } else {
                assert_whole(id, &spans);
            }
        }
    }
    eprintln!("{parted} of {requests} traces are not whole");
    assert_eq!(parted, 0, "of {requests}");
}

/// Why a sidecar that needs the kernel did not start; `None` when it did.
fn refusal(process: &mut Pillion) -> Option<String> {
    let deadline = Instant::now() + LIMIT;
    while Instant::now() < deadline {
        let log = process.stderr();
        if log.contains("linking looks at threads") {
            return None;
        }
        if process.has_ended() {
            let text = "linking.kernel is required";
            let line = log.lines().find(|line| line.contains(text));
            return Some(line.unwrap_or_else(|| panic!("{log}")).to_owned());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("neither starts nor ends: {}", process.stderr());
}

/// One trace with five spans: the server of `hello`, below it two clients, below each the server that it called.
fn assert_whole(id: &str, spans: &[Shown]) {
    let mine: Vec<&Shown> = spans.iter().filter(|span| span.request == id).collect();
    assert_eq!(mine.len(), WHOLE, "{id}: {mine:?}");
    let traces: BTreeSet<_> = mine.iter().map(|span| &span.trace).collect();
    assert_eq!(traces.len(), 1, "{id}: {mine:?}");
    let of = |service: &str, kind: &str| -> Vec<&Shown> {
        let found = mine.iter().copied();
        found
            .filter(|span| span.service == service && span.kind == kind)
            .collect()
    };
    let roots = of("hello", "server");
    assert_eq!((roots.len(), &roots[0].parent), (1, &None), "{mine:?}");
    let clients = of("hello", "client");
    assert_eq!(clients.len(), 2, "{mine:?}");
    for client in &clients {
        assert_eq!(client.parent.as_ref(), Some(&roots[0].id), "{client:?}");
        assert_eq!(client.confidence, "high", "{client:?}");
    }
    let called: BTreeSet<_> = ["formatter", "publisher"]
        .iter()
        .flat_map(|service| of(service, "server"))
        .map(|server| server.parent.clone().unwrap())
        .collect();
    let callers: BTreeSet<_> = clients.iter().map(|client| client.id.clone()).collect();
    assert_eq!(called, callers, "each server below its own client");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn started_with_exec_every_trace_is_whole_and_nothing_is_lost_at_the_end() {
    let Some(python) = apps::python() else {
        return;
    };
    let Some(jaeger) = Jaeger::start(Sampling::File(serde_json::json!({}))).await else {
        return;
    };
    let collector = format!("http://127.0.0.1:{}", jaeger.ports.otlp_http);
    let mut urls: Vec<(String, String)> = Vec::new();
    let mut processes = Vec::new();
    for service in ["publisher", "formatter", "hello"] {
        let (port, file) = (apps::free_port(), format!("{service}.py"));
        let app = format!("--app=127.0.0.1:{port}");
        let name = format!("--service={service}");
        let mut variables = vec![
            ("PORT", port.to_string()),
            // The standard variables mean the sidecar; a program that knows them reads the same.
            ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.clone()),
            ("OTEL_TRACES_SAMPLER", "always_on".to_owned()),
        ];
        variables.extend(urls.iter().map(|(name, url)| (name.as_str(), url.clone())));
        let args = ["--inbound=127.0.0.1:0", app.as_str(), name.as_str()];
        let process = apps::exec(&python, &args, &file, &variables);
        let inbound = process.port("inbound");
        apps::listening(port).await;
        urls.push((
            format!("{}_URL", service.to_uppercase()),
            format!("http://localhost:{inbound}"),
        ));
        processes.push((process, inbound));
    }
    let (_, front) = processes.last().unwrap();
    for number in 0..5 {
        let id = sign(number);
        let answer = http::get(*front, &format!("/?name={id}")).await.unwrap();
        assert_eq!(answer.status, 200);
    }
    // At once after the last answer.
    for (process, _) in &mut processes {
        process.signal(rustix::process::Signal::TERM);
    }
    for (process, _) in &mut processes {
        let status = tokio::task::block_in_place(|| process.wait());
        assert_eq!(
            status.code(),
            Some(143),
            "Flask ends by the signal\n{}",
            process.stderr()
        );
    }
    let deadline = Instant::now() + LIMIT;
    loop {
        let traces = jaeger.traces("hello").await;
        let sizes: Vec<usize> = traces.iter().map(|trace| spans(trace).len()).collect();
        if sizes == [WHOLE; 5] {
            break;
        }
        assert!(Instant::now() < deadline, "{sizes:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
