//! Clients that know nothing of Pillion, unmodified, with a sidecar where they expect their own system: Jaeger's four, whose
//! spans arrive in a real Jaeger v2 as if they had reported there, and SkyWalking's agent.

use std::process::Command;
use std::time::Duration;

use pillion::codec::skywalking;
use pillion::model::SpanId;
use pillion::model::TraceId;
use serde_json::Value;
use serde_json::json;

use crate::support::apps;
use crate::support::collector::Collector;
use crate::support::collector::Reply;
use crate::support::collector::Speaks;
use crate::support::jaeger;
use crate::support::jaeger::Jaeger;
use crate::support::jaeger::Sampling;
use crate::support::jaeger::spans;
use crate::support::otlp;
use crate::support::pillion::Pillion;
use crate::support::pillion::scrub;
use crate::support::proxy;
use crate::support::receivers::everywhere;
use crate::support::skip::skip;

/// Where a client finds its agent.
struct Agent {
    compact: u16,
    binary: u16,
    sampling: u16,
}

/// The program of a client and whether it sends the binary form. `None`: not installed, and the skip is printed.
fn program(language: &str) -> Option<(Command, bool)> {
    let tools = jaeger::tools()?;
    let apps = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/interop/apps");
    let found = match language {
        "python" => {
            apps::python()?;
            let mut command = Command::new(tools.join("python/bin/python"));
            command.arg(format!("{apps}/reports_jaeger.py"));
            (command, false)
        }
        "node" => {
            apps::node()?;
            let mut command = Command::new("node");
            command.arg(format!("{apps}/reports_jaeger.js"));
            command.env("NODE_PATH", tools.join("node/node_modules"));
            (command, true)
        }
        "go" => (Command::new(tools.join("bin/reports-go")), false),
        _ => {
            let classes = tools.join("java");
            let mut command = Command::new("java");
            command
                .arg("-cp")
                .arg(format!("{0}:{0}/*", classes.display()));
            command.arg("Reports");
            (command, false)
        }
    };
    let missing = match language {
        "go" => !tools.join("bin/reports-go").is_file(),
        "java" => !tools.join("java/Reports.class").is_file() || !apps::command("java"),
        _ => false,
    };
    if missing {
        skip(&format!(
            "no client for {language}: run tests/interop/install.sh clients"
        ));
        return None;
    }
    Some(found)
}

/// Runs a client to its end; the trace of its first pair and the number of its spans.
async fn report(language: &str, service: &str, agent: &Agent) -> Option<(String, usize)> {
    let (mut command, is_binary) = program(language)?;
    let port = if is_binary {
        agent.binary
    } else {
        agent.compact
    };
    scrub(&mut command);
    command
        .env("SERVICE", service)
        .env("AGENT_HOST", "127.0.0.1")
        .env("AGENT_PORT", port.to_string())
        .env("SAMPLING_PORT", agent.sampling.to_string())
        .envs([("RATE", "200"), ("SECONDS", "1")]);
    let printed = apps::output(Pillion::spawn(command), language).await;
    let word = |name: &str| {
        let line = printed.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("{language}: {printed}"))
            .trim()
            .to_owned()
    };
    Some((word("trace"), word("spans").parse().unwrap()))
}

/// A trace without what differs between two runs: ids, times, the client's own number.
fn essence(trace: &Value) -> Vec<Value> {
    let without_own = |tags: &Value| {
        let tags = tags.as_array().cloned().unwrap_or_default();
        let mut tags: Vec<Value> = tags
            .into_iter()
            .filter(|tag| tag["key"] != "client-uuid")
            .collect();
        tags.sort_by_key(|tag| tag["key"].to_string());
        tags
    };
    let mut spans: Vec<Value> = spans(trace)
        .iter()
        .map(|span| {
            let process = span["processID"].as_str().unwrap();
            let references = span["references"].as_array().unwrap().iter();
            let mut references: Vec<_> = references
                .map(|other| other["refType"].as_str().unwrap().to_owned())
                .collect();
            references.sort();
            let logs = span["logs"].as_array().unwrap().iter();
            json!({
                "name": span["operationName"],
                "tags": without_own(&span["tags"]),
                "references": references,
                "logs": logs.map(|log| without_own(&log["fields"])).collect::<Vec<_>>(),
                "process": without_own(&trace["processes"][process]["tags"]),
            })
        })
        .collect();
    spans.sort_by_key(|span| span["name"].to_string());
    spans
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_clients_report_and_sample_as_with_jaegers_own_receivers() {
    let strategies = json!({ "default_strategy": { "type": "probabilistic", "param": 1 } });
    let Some(jaeger) = Jaeger::start(Sampling::File(strategies)).await else {
        return;
    };
    let sidecar = Pillion::run(
        &json!({
            "receivers": everywhere(),
            "outbound": { "listen": "127.0.0.1:0" },
            "admin": { "listen": "127.0.0.1:0" },
            "reporters": [{ "jaeger_grpc": { "endpoint": format!("http://127.0.0.1:{}", jaeger.ports.jaeger_grpc) } }],
            "sampling": { "remote": { "endpoint": format!("grpc://127.0.0.1:{}", jaeger.ports.sampling_grpc) } },
        })
        .to_string(),
    );
    // Early versions of Jaeger v2 spell strategies in numbers alone, which three of the clients do not read: all ask the
    // sidecar, which asks Jaeger over gRPC.
    let sampling = sidecar.port("jaeger.sampling");
    let direct = Agent {
        compact: jaeger.ports.thrift_compact_udp,
        binary: jaeger.ports.thrift_binary_udp,
        sampling,
    };
    let through = Agent {
        compact: sidecar.port("jaeger.compact"),
        binary: sidecar.port("jaeger.binary"),
        sampling,
    };
    for language in ["python", "node", "go", "java"] {
        let mut essences = Vec::new();
        for (way, agent) in [("direct", &direct), ("through", &through)] {
            let service = format!("{language}-{way}");
            let Some((trace, n_spans)) = report(language, &service, agent).await else {
                break;
            };
            let limit = Duration::from_secs(30);
            let first = jaeger.wait_for_trace(&trace, 2, limit).await;
            assert_eq!(spans(&first).len(), 2, "{first}");
            essences.push(essence(&first));
            let deadline = std::time::Instant::now() + limit;
            loop {
                let arrived: usize = jaeger
                    .traces(&service)
                    .await
                    .iter()
                    .map(|trace| spans(trace).len())
                    .sum();
                if arrived == n_spans {
                    break;
                }
                assert!(
                    arrived < n_spans && std::time::Instant::now() < deadline,
                    "{service}: {arrived} of {n_spans} spans"
                );
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        if let [direct, through] = &essences[..] {
            assert_eq!(through, direct, "{language}");
            assert!(direct[1].to_string().contains("blue"), "{direct:?}");
        }
    }
}

/// Starts with nothing sampled, so what it says comes from the sidecar.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn opentelemetrys_remote_sampler_asks_the_sidecar() {
    let Some(node) = apps::node() else { return };
    let pillion = proxy::Pillion::start(json!({
        "receivers": everywhere(),
        "sampling": { "probabilistic": { "rate": 0.875 } },
    }));
    let endpoint = format!("http://{}", pillion.address("jaeger.sampling"));
    let variables = [("ENDPOINT", endpoint.as_str()), ("SERVICE", "shop")];
    let process = apps::run(&node, "asks_opentelemetry.js", &[], &variables);
    let limit = Duration::from_secs(30);
    let printed = tokio::time::timeout(limit, apps::output(process, "the sampler")).await;
    let printed = printed.unwrap();
    assert!(printed.contains("0.875"), "{printed}");
    let told = pillion
        .metric("pillion_receiver_strategies_total", &["own"])
        .await;
    assert!(told >= 1.0, "{told}");
}

/// A client that has to ask before it forces a trace starts with nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_ask_for_credits_force_as_many_traces_as_they_get() {
    let Some(node) = apps::node() else { return };
    for (credits, expected) in [(1, "forced"), (0, "refused")] {
        let mut receivers = everywhere();
        receivers["jaeger"]["debug_credits"] = json!(credits);
        let pillion = proxy::Pillion::start(json!({ "receivers": receivers }));
        let port = pillion.address("jaeger.sampling").port().to_string();
        let variables = [
            ("AGENT_HOST", "127.0.0.1"),
            ("SAMPLING_PORT", port.as_str()),
        ];
        let process = apps::run(&node, "forces_jaeger.js", &[], &variables);
        let limit = Duration::from_secs(30);
        let printed = tokio::time::timeout(limit, apps::output(process, "the client")).await;
        assert_eq!(printed.unwrap().trim(), expected, "{credits}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_benchmark_against_jaegers_agent_loses_nothing_in_its_short_form() {
    let all = ["python", "node", "go", "java"];
    let Some(tools) = jaeger::tools() else { return };
    if all.iter().any(|language| program(language).is_none()) {
        return;
    }
    if !tools.join("bin/jaeger-agent").is_file() {
        skip("no jaeger-agent: run tests/interop/install.sh jaeger_agent");
        return;
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/bench/agent/run");
    let mut command = Command::new(script);
    scrub(&mut command);
    command.args(["--quick", env!("CARGO_BIN_EXE_pillion")]);
    // Eight clients have to start and end in it, four of them on a virtual machine of their own.
    let output = tokio::process::Command::from(command).output();
    let output = tokio::time::timeout(Duration::from_secs(300), output).await;
    let output = output.unwrap().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(printed.contains("lost by Pillion: 0"), "{printed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn skywalkings_agent_reports_below_the_sidecars_span_and_stays_quiet() {
    skywalkings_agent("grpc", "skywalking.grpc").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn skywalkings_agent_reports_over_http_as_well() {
    skywalkings_agent("http", "skywalking.http").await;
}

async fn skywalkings_agent(protocol: &str, port: &'static str) {
    let Some(tools) = jaeger::tools() else { return };
    let python = tools.join("agents/bin/python");
    if !python.is_file() || !tools.join("agents/installed.txt").is_file() {
        skip("no agents: run tests/interop/install.sh agents");
        return;
    }
    let collector = Collector::start(Speaks::Http1, Vec::new(), Reply::Accept).await;
    let pillion = proxy::Pillion::start(json!({
        "receivers": everywhere(),
        "reporters": [{ "otlp": { "endpoint": collector.url(), "queue": { "flush_interval": "10ms" } } }],
    }));
    // What a sidecar writes for its own server span.
    let (trace_id, span_id) = (
        TraceId::from_halves(7, 8).unwrap(),
        SpanId::from_u64(9).unwrap(),
    );
    let caller = skywalking::Reference {
        sampled: true,
        trace: trace_id.to_string(),
        segment: skywalking::segment_text(trace_id, span_id),
        span: 0,
        service: "sidecar".into(),
        instance: "one".into(),
        endpoint: "/".into(),
        peer: "sw-app:80".into(),
    };
    let apps = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/interop/apps");
    let mut command = Command::new(python);
    scrub(&mut command);
    command
        .arg(format!("{apps}/reports_skywalking.py"))
        .env("OAP", pillion.address(port).to_string())
        .env("PROTOCOL", protocol)
        .env("SW8", caller.header());
    let mut process = Pillion::spawn(command);
    let process = tokio::task::spawn_blocking(move || {
        assert!(process.wait().success(), "{}", process.stderr());
        process
    });
    let printed = process.await.unwrap().stderr();
    let complaints: Vec<_> = printed
        .lines()
        .filter(|line| line.contains("ERROR") || line.contains("RpcError"))
        .collect();
    assert!(complaints.is_empty(), "{complaints:?}");
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    while otlp::spans(&collector).len() < 3 && std::time::Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let spans = otlp::spans(&collector);
    assert_eq!(spans.len(), 3, "{spans:?}");
    let named = |name: &str| spans.iter().find(|span| span.name == name).unwrap();
    let entry = named("/orders");
    assert_eq!(entry.parent_id, span_id.to_string());
    for span in &spans {
        assert_eq!(
            (&*span.service, &span.trace_id),
            ("sw-app", &trace_id.to_string())
        );
    }
    for name in ["work", "/stock"] {
        assert_eq!(named(name).parent_id, entry.span_id, "{name}");
    }
    assert_eq!(named("/stock").attribute("server.port"), "8080");
}
