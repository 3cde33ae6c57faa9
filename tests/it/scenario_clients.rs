//! Real command-line clients and real protocol libraries through a sidecar process: curl, h2load, gRPC, WebSocket;
//! promtool over the metrics afterwards. Spans are counted at a collector that decodes them independently.

use std::io::Write;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use serde_json::Value;
use serde_json::json;

use crate::support::apps;
use crate::support::apps::App;
use crate::support::apps::Sidecar;
use crate::support::collector::Collector;
use crate::support::collector::Reply;
use crate::support::collector::Speaks;
use crate::support::echo;
use crate::support::echo::Echo;
use crate::support::http;
use crate::support::otlp;
use crate::support::otlp::Span;
use crate::support::pillion::LIMIT;
use crate::support::pillion::Pillion;
use crate::support::pillion::scrub;

const SERVER: i32 = 2;
const CLIENT: i32 = 3;

async fn collector() -> Collector {
    Collector::start(Speaks::Http1, Vec::new(), Reply::Accept).await
}

fn settings(collector: &Collector, more: Value) -> Value {
    let mut settings = apps::otlp(&collector.url());
    for (key, value) in more.as_object().unwrap() {
        settings[key] = value.clone();
    }
    settings
}

/// Runs a command to its end; what it printed.
async fn run(program: &str, args: &[&str]) -> String {
    let mut command = Command::new(program);
    scrub(&mut command);
    command.args(args);
    apps::output(Pillion::spawn(command), &format!("{program} {args:?}")).await
}

/// Waits until so many spans have arrived; no more may come.
async fn spans(collector: &Collector, expected: usize) -> Vec<Span> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let spans = otlp::spans(collector);
        if spans.len() >= expected || Instant::now() > deadline {
            assert_eq!(spans.len(), expected, "{spans:?}");
            return spans;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn curl_in_every_way_it_speaks() {
    if !apps::commands(&["curl"]) {
        return;
    }
    let collector = collector().await;
    let echo = Echo::start().await;
    let mirrors_http1 = json!({ "inbound": { "listen": "127.0.0.1:0", "app_protocol": "http1" } });
    let sidecar = Sidecar::beside("curl", echo.port, &settings(&collector, mirrors_http1));
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let body: Vec<u8> = (0..3_000_000_u32).map(|at| (at % 251) as u8).collect();
    file.write_all(&body).unwrap();
    let upload = format!("@{}", file.path().display());

    let base = format!("http://127.0.0.1:{}", sidecar.inbound);
    let direct = format!("http://localhost:{}/direct?q=1", echo.port);
    let proxy = sidecar.proxy();
    let url = |path: &str| format!("{base}{path}");
    let (plain, h2, post, expect, chunked, posted_h2) = (
        url("/plain"),
        url("/h2"),
        url("/post"),
        url("/expect"),
        url("/chunked"),
        url("/post-h2"),
    );
    // Arguments, whether the body goes along, version and kind of the span.
    let cases: &[(&[&str], bool, &str, i32)] = &[
        (&[&plain], false, "1.1", SERVER),
        (&["--http1.0", &plain], false, "1.0", SERVER),
        (&["--http2-prior-knowledge", &h2], false, "2", SERVER),
        (&["--data-binary", &upload, &post], true, "1.1", SERVER),
        (
            &[
                "-H",
                "Expect: 100-continue",
                "--data-binary",
                &upload,
                &expect,
            ],
            true,
            "1.1",
            SERVER,
        ),
        (
            &[
                "-H",
                "Transfer-Encoding: chunked",
                "--data-binary",
                &upload,
                &chunked,
            ],
            true,
            "1.1",
            SERVER,
        ),
        (
            &[
                "--http2-prior-knowledge",
                "--data-binary",
                &upload,
                &posted_h2,
            ],
            true,
            "2",
            SERVER,
        ),
        (&["-x", &proxy, &direct], false, "1.1", CLIENT),
        (
            &["-x", &proxy, "--data-binary", &upload, &direct],
            true,
            "1.1",
            CLIENT,
        ),
        (&["-x", &proxy, "-p", &direct], false, "1.1", CLIENT),
    ];
    for (number, (args, has_body, version, kind)) in cases.iter().enumerate() {
        let args = [
            &["-sS", "--fail", "--max-time", "20", "--noproxy", ""][..],
            args,
        ]
        .concat();
        let answer: Value = serde_json::from_str(&run("curl", &args).await).unwrap();
        let (length, sum) = match has_body {
            true => (body.len(), echo::hash(&body)),
            false => (0, echo::hash(b"")),
        };
        assert_eq!(
            (answer["length"].as_u64(), &answer["hash"]),
            (Some(length as u64), &json!(sum.to_string())),
            "{args:?}"
        );
        let spans = spans(&collector, number + 1).await;
        let span = spans.last().unwrap();
        assert_eq!(span.kind, *kind, "{args:?}");
        assert_eq!(
            span.attribute("network.protocol.version"),
            *version,
            "{args:?} {span:?}"
        );
        let tunnel = args.contains(&"-p");
        // A tunnel's own answers are not ours to read: its 200 is the answer to CONNECT.
        assert_eq!(
            span.attribute("http.response.status_code"),
            "200",
            "{args:?}"
        );
        let header = answer["headers"]["traceparent"].as_str();
        let expected = (!tunnel).then(|| format!("00-{}-{}-03", span.trace_id, span.span_id));
        assert_eq!(header, expected.as_deref(), "{args:?}");
        assert_eq!(
            span.attribute("http.request.method"),
            if tunnel {
                "CONNECT"
            } else {
                answer["method"].as_str().unwrap()
            }
        );
    }
    let head = run(
        "curl",
        &["-sS", "-I", "--max-time", "20", "--noproxy", "", &plain],
    )
    .await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    spans(&collector, cases.len() + 1).await;
    assert_eq!(
        sidecar.accounted_for("otlp").await,
        (cases.len() + 1) as f64
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h2load_loses_no_request_and_no_span() {
    if !apps::commands(&["h2load"]) {
        return;
    }
    let collector = collector().await;
    let echo = Echo::start().await;
    let more = json!({
        "inbound": { "listen": "127.0.0.1:0", "app_protocol": "http1" },
        "reporters": [{ "otlp": {
            "endpoint": collector.url(), "queue": { "flush_interval": "20ms", "capacity": 20_000 },
        } }],
    });
    let sidecar = Sidecar::beside("load", echo.port, &settings(&collector, more));
    let url = format!("http://127.0.0.1:{}/load", sidecar.inbound);
    let mut sent = 0;
    for (requests, args) in [(2_000, &["-c8", "-m10"][..]), (1_000, &["--h1", "-c8"][..])] {
        let n = format!("-n{requests}");
        let printed = run(
            "h2load",
            &[&[n.as_str()][..], args, &[url.as_str()]].concat(),
        )
        .await;
        let summary = format!(
            "{requests} total, {requests} started, {requests} done, {requests} succeeded, 0 failed, 0 errored, 0 timeout"
        );
        assert!(printed.contains(&summary), "{printed}");
        sent += requests;
        assert_eq!(sidecar.accounted_for("otlp").await, f64::from(sent));
    }
    let spans = spans(&collector, sent as usize).await;
    let mut ids: Vec<&str> = spans.iter().map(|span| span.span_id.as_str()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), sent as usize, "every span once");
    assert_eq!(echo.requests(), sent as usize);
    let counted = sidecar
        .metric("pillion_http_requests_total", "direction=\"inbound\"")
        .await;
    assert_eq!(counted, f64::from(sent));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_calls_of_every_shape_with_their_status() {
    let Some(python) = apps::python() else {
        return;
    };
    let collector = collector().await;
    let sidecar = Sidecar::start("greeter", &settings(&collector, json!({})));
    let port = sidecar.app_port;
    let server = App::start(&python, "greeter_grpc.py", &["server"], port, &[]).await;
    let target = format!("127.0.0.1:{}", sidecar.inbound);
    let client = apps::run(
        &python,
        "greeter_grpc.py",
        &["client"],
        &[("TARGET", &target)],
    );
    let said = apps::output(client, "the gRPC client").await;
    assert_eq!(said, "all calls answered", "{}", server.stderr());

    let spans = spans(&collector, 3).await;
    let mut seen: Vec<(&str, &str, &str)> = spans
        .iter()
        .map(|span| {
            assert_eq!(span.kind, SERVER);
            assert_eq!(span.attribute("rpc.system.name"), "grpc");
            assert_eq!(span.attribute("network.protocol.version"), "2");
            (
                span.name.as_str(),
                span.attribute("rpc.method"),
                span.attribute("rpc.response.status_code"),
            )
        })
        .collect();
    seen.sort_unstable();
    let (greet, count) = ("demo.Greeter/Greet", "demo.Greeter/Count");
    assert_eq!(
        seen,
        [
            (count, count, "OK"),
            (greet, greet, "NOT_FOUND"),
            (greet, greet, "OK")
        ]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn websockets_pass_inbound_and_through_the_proxy() {
    let Some(python) = apps::python() else {
        return;
    };
    let collector = collector().await;
    let sidecar = Sidecar::start("echo", &settings(&collector, json!({})));
    let port = sidecar.app_port;
    let _server = App::start(&python, "echo_websocket.py", &["server"], port, &[]).await;
    // The check whether the server listens is not a request.
    let inbound = format!("ws://127.0.0.1:{}/chat", sidecar.inbound);
    let direct = format!("ws://localhost:{port}/chat");
    let proxy = sidecar.proxy();
    for (number, variables, kind, status) in [
        (1, [("URL", inbound.as_str()), ("PROXY", "")], SERVER, "101"),
        (
            2,
            [("URL", direct.as_str()), ("PROXY", proxy.as_str())],
            CLIENT,
            "200",
        ),
    ] {
        let client = apps::run(&python, "echo_websocket.py", &["client"], &variables);
        assert_eq!(
            apps::output(client, "the client").await,
            "all messages echoed"
        );
        let spans = spans(&collector, number).await;
        let span = spans.last().unwrap();
        assert_eq!(
            (span.kind, span.attribute("http.response.status_code")),
            (kind, status),
            "{span:?}"
        );
        assert_eq!(
            span.attribute("error.type"),
            "",
            "a normal close is no error: {span:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promtool_finds_nothing_to_say_about_the_metrics() {
    if !apps::commands(&["promtool"]) {
        return;
    }
    let collector = collector().await;
    let echo = Echo::start().await;
    let routes = json!({ "spans": { "routes": ["/users/{id}"] } });
    let sidecar = Sidecar::beside("shop", echo.port, &settings(&collector, routes));
    for path in ["/users/1", "/users/2", "/other"] {
        assert_eq!(http::get(sidecar.inbound, path).await.unwrap().status, 200);
    }
    let absolute = format!("http://localhost:{}/x", echo.port);
    assert_eq!(
        http::get(sidecar.outbound, &absolute).await.unwrap().status,
        200
    );
    assert_eq!(
        http::get(sidecar.outbound, "http://localhost:1/x")
            .await
            .unwrap()
            .status,
        502
    );
    sidecar.accounted_for("otlp").await;
    let scrape = http::get(sidecar.admin, "/metrics").await.unwrap();
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    promtool
        .stdin
        .take()
        .unwrap()
        .write_all(&scrape.body)
        .unwrap();
    let said = promtool.wait_with_output().unwrap();
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&said.stdout),
        String::from_utf8_lossy(&said.stderr)
    );
    assert!(said.status.success() && text.is_empty(), "{text}");
    let scrape = String::from_utf8_lossy(&scrape.body).into_owned();
    for series in [
        "http_route=\"/users/{id}\"",
        "direction=\"outbound\"",
        "pillion_links_total",
        "process_",
    ] {
        assert!(scrape.contains(series), "{series}\n{scrape}");
    }
}
