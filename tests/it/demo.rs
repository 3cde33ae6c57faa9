//! `pillion demo` as a newcomer runs it: one whole trace across three services, and nothing left behind.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::time::Duration;
use std::time::Instant;

use rustix::process::Signal;
use serde_json::Value;

use crate::support::http;
use crate::support::jaeger::spans;
use crate::support::jaeger::tag;
use crate::support::pillion::LIMIT;
use crate::support::pillion::Pillion;

fn demo(more: &[&str]) -> Pillion {
    let args: Vec<&str> = ["demo", "--port=0"].iter().chain(more).copied().collect();
    Pillion::start(&args)
}

/// The port in a printed line.
fn port(line: &str) -> u16 {
    let (_, rest) = line.split_once("http://127.0.0.1:").unwrap();
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap()
}

async fn traces(page: u16) -> Vec<Value> {
    let answer = http::get(page, "/api/traces?service=hello&limit=1000").await;
    let answer = answer.unwrap().json();
    answer["data"].as_array().cloned().unwrap_or_default()
}

/// Waits for a trace that satisfies `wanted`.
async fn wait_for(page: u16, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + LIMIT;
    loop {
        let traces = traces(page).await;
        if let Some(found) = traces.iter().find(|trace| wanted(trace)) {
            return found.clone();
        }
        assert!(Instant::now() < deadline, "no trace {what}: {traces:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The processes that this one started, as the system lists them.
fn children(demo: &Pillion) -> Vec<String> {
    let pid = demo.pid().as_raw_nonzero();
    let listed = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let listed = listed.unwrap_or_default();
    listed.split_whitespace().map(str::to_owned).collect()
}

async fn wait_until_gone(pids: &[String]) {
    let deadline = Instant::now() + LIMIT;
    let is_running = |pid: &&String| {
        // A zombie has ended; whoever inherited it will see to it.
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ")
            .is_some_and(|(_, rest)| !rest.starts_with('Z'))
    };
    while let Some(pid) = pids.iter().find(is_running) {
        assert!(Instant::now() < deadline, "process {pid} is left behind");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn the_first_trace_is_whole_and_its_parents_are_right() {
    let mut demo = demo(&["--duration=5s"]);
    let page = port(&demo.stdout_line("Traces"));
    let front = port(&demo.stdout_line("curl"));
    // There before anybody asks for it.
    let shown = traces(page).await;
    assert_eq!(shown.len(), 1, "{shown:?}");
    assert_whole(&shown[0], "World");

    let answer = http::get(front, "/?name=Ada").await.unwrap();
    assert_eq!(
        (answer.status, &answer.body[..]),
        (200, &b"Hello, Ada!\n"[..])
    );
    let is_ada = |trace: &Value| trace.to_string().contains("name=Ada") && spans(trace).len() >= 5;
    let trace = wait_for(page, "of Ada", is_ada).await;
    assert_whole(&trace, "Ada");

    let answer = http::get(page, "/api/v3/services").await.unwrap().json();
    let mut services: Vec<_> = answer["services"].as_array().unwrap().clone();
    services.sort_by_key(ToString::to_string);
    assert_eq!(services, ["formatter", "hello", "publisher"]);
    assert_eq!(http::get(page, "/").await.unwrap().status, 200);

    let pids = children(&demo);
    assert_eq!(pids.len(), 6, "three services, three sidecars");
    let status = demo.wait();
    assert!(status.success(), "{status}\n{}", demo.stderr());
    assert_eq!(demo.stderr(), "", "nothing to complain about");
    wait_until_gone(&pids).await;
}

/// Five spans: hello's server, its two clients, and the server behind each.
fn assert_whole(trace: &Value, name: &str) {
    let spans = spans(trace);
    assert_eq!(spans.len(), 5, "{trace}");
    let service = |span: &Value| {
        let process = span["processID"].as_str().unwrap();
        trace["processes"][process]["serviceName"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let parent = |span: &Value| span["references"][0]["spanID"].as_str().map(str::to_owned);
    let find = |of: &str, kind: &str, path: &str| -> &Value {
        let matches = |span: &&Value| {
            let url = format!("{}{}", tag(span, "url.full"), tag(span, "url.path"));
            service(span) == of && *tag(span, "span.kind") == *kind && url.contains(path)
        };
        let found: Vec<&Value> = spans.iter().filter(matches).collect();
        assert_eq!(found.len(), 1, "{of} {kind} {path} in {trace}");
        found[0]
    };
    let root = find("hello", "server", "/");
    assert_eq!(parent(root), None);
    assert!(tag(root, "url.query").as_str().unwrap().contains(name));
    let by_id: BTreeMap<&str, &Value> = spans
        .iter()
        .map(|span| (span["spanID"].as_str().unwrap(), span))
        .collect();
    assert_eq!(by_id.len(), 5, "ids are unique");
    for (callee, path) in [("formatter", "/format"), ("publisher", "/publish")] {
        let client = find("hello", "client", path);
        assert_eq!(
            parent(client).as_deref(),
            root["spanID"].as_str(),
            "{callee}"
        );
        assert_eq!(*tag(client, "pillion.link.method"), *"exclusive");
        assert_eq!(*tag(client, "pillion.link.confidence"), *"high");
        let server = find(callee, "server", path);
        assert_eq!(
            parent(server).as_deref(),
            client["spanID"].as_str(),
            "{callee}"
        );
        for span in [client, server] {
            assert_eq!(*tag(span, "http.response.status_code"), 200);
        }
    }
}

#[tokio::test]
async fn an_error_is_seen_where_it_happened() {
    let demo = demo(&[]);
    let page = port(&demo.stdout_line("Traces"));
    let front = port(&demo.stdout_line("curl"));
    let answer = http::get(front, "/?name=").await.unwrap();
    assert_eq!(answer.status, 502, "{answer:?}");
    let failed = |trace: &Value| spans(trace).iter().any(|span| *tag(span, "error") == true);
    let trace = wait_for(page, "with an error", |trace| {
        failed(trace) && spans(trace).len() == 3
    })
    .await;
    let statuses: Vec<_> = spans(&trace)
        .iter()
        .map(|span| tag(span, "http.response.status_code").as_i64())
        .collect();
    assert_eq!(
        statuses
            .iter()
            .filter(|status| **status == Some(400))
            .count(),
        2,
        "{trace}"
    );
    assert_eq!(
        statuses
            .iter()
            .filter(|status| **status == Some(502))
            .count(),
        1,
        "{trace}"
    );
}

#[tokio::test]
async fn load_keeps_coming() {
    let demo = demo(&["--load=20"]);
    let page = port(&demo.stdout_line("Traces"));
    assert!(demo.stdout_line("Load").contains("20 requests a second"));
    let deadline = Instant::now() + LIMIT;
    while traces(page).await.len() < 10 {
        assert!(Instant::now() < deadline, "no load");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn nothing_is_left_behind_however_it_ends() {
    for (signal, clean) in [
        (Signal::INT, true),
        (Signal::TERM, true),
        (Signal::KILL, false),
    ] {
        let mut demo = demo(&[]);
        demo.stdout_line("Traces");
        let pids = children(&demo);
        assert_eq!(pids.len(), 6, "{signal:?}");
        demo.signal(signal);
        let status = demo.wait();
        assert_eq!(
            status.success(),
            clean,
            "{signal:?} {status}\n{}",
            demo.stderr()
        );
        wait_until_gone(&pids).await;
    }
}

#[test]
fn a_page_port_that_is_taken_is_said() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = format!("--port={}", taken.local_addr().unwrap().port());
    let mut demo = Pillion::start(&["demo", &port]);
    assert_eq!(demo.wait().code(), Some(1));
    assert!(
        demo.stderr().contains("cannot listen on 127.0.0.1:"),
        "{}",
        demo.stderr()
    );
}
