//! The same exchange through sidecar processes that report over every wire into a real Jaeger v2: what Jaeger shows does
//! not depend on the wire.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use serde_json::json;

use crate::support::apps::Sidecar;
use crate::support::echo::Echo;
use crate::support::http;
use crate::support::jaeger::Jaeger;
use crate::support::jaeger::Sampling;
use crate::support::jaeger::spans;

const LIMIT: Duration = Duration::from_secs(20);
/// Differ from run to run.
const VARYING: [&str; 2] = ["network.peer.port", "server.port"];
/// OTLP alone has a place for it.
const OTLP_ONLY: [&str; 2] = ["otel.scope.name", "otel.scope.version"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_jaeger_shows_does_not_depend_on_the_wire() {
    let Some(jaeger) = Jaeger::start(Sampling::File(json!({}))).await else {
        return;
    };
    let echo = Echo::start().await;
    let ports = &jaeger.ports;
    let at = |port: u16| format!("127.0.0.1:{port}");
    let url = |port: u16| format!("http://127.0.0.1:{port}");
    let wires = [
        json!({ "otlp": { "endpoint": url(ports.otlp_http) } }),
        json!({ "otlp": { "endpoint": url(ports.otlp_grpc), "protocol": "grpc" } }),
        json!({ "jaeger_http": { "endpoint": url(ports.thrift_http) } }),
        json!({ "jaeger_udp": { "endpoint": at(ports.thrift_compact_udp) } }),
        json!({ "jaeger_udp": { "endpoint": at(ports.thrift_binary_udp), "protocol": "binary" } }),
    ];
    let mut shown: Vec<(String, Value, BTreeMap<String, Value>)> = Vec::new();
    for (number, wire) in wires.iter().enumerate() {
        let settings = json!({
            "reporters": [wire],
            "sampling": { "constant": { "decision": true } },
            "resource": { "deployment.environment.name": "test", "service.instance.id": "one" },
        });
        let mut sidecar = Sidecar::beside("shop", echo.port, &settings);
        let trace_id = format!("4bf92f3577b34da6a3ce929d0e0e47{number:02x}");
        let context = format!("traceparent: 00-{trace_id}-00f067aa0ba902b7-01");
        let answer = http::get_with(sidecar.inbound, "/cart?x=%C3%A4", &[&context]).await;
        assert_eq!(answer.unwrap().status, 200);
        let sent = Instants::around(&sidecar).await;
        tokio::task::block_in_place(|| sidecar.process.stop());

        let trace = jaeger.wait_for_trace(&trace_id, 1, LIMIT).await;
        let [span] = spans(&trace) else {
            panic!("{wire}: {trace}");
        };
        assert_eq!(
            span["references"][0]["spanID"], "00f067aa0ba902b7",
            "{wire}"
        );
        assert_eq!(
            span["references"][0]["traceID"],
            trace_id.as_str(),
            "{wire}"
        );
        assert_eq!(span["operationName"], "GET", "{wire}");
        let duration = span["duration"].as_u64().unwrap();
        assert!((1..10_000_000).contains(&duration), "{wire}: {duration} µs");
        sent.check(span["startTime"].as_u64().unwrap(), wire);
        let process = &trace["processes"][span["processID"].as_str().unwrap()];
        assert_eq!(process["serviceName"], "shop", "{wire}");
        let mut tags = table(&span["tags"]);
        let of_process = table(&process["tags"]);
        for key in VARYING.iter().chain(&OTLP_ONLY) {
            tags.remove(*key);
        }
        tags.insert("process".to_owned(), json!(of_process));
        shown.push((wire.to_string(), span["spanID"].clone(), tags));
    }
    let (first, _, expected) = &shown[0];
    for (wire, _, tags) in &shown[1..] {
        assert_eq!(tags, expected, "{wire} against {first}");
    }
    for key in ["http.request.method", "span.kind", "url.path", "url.query"] {
        assert!(expected.contains_key(key), "{key} in {expected:?}");
    }
}

/// Tags by key, each with its type.
fn table(tags: &Value) -> BTreeMap<String, Value> {
    let tags = tags.as_array().cloned().unwrap_or_default();
    let entry = |tag: Value| {
        (
            tag["key"].as_str().unwrap().to_owned(),
            json!([tag["type"], tag["value"]]),
        )
    };
    tags.into_iter().map(entry).collect()
}

/// When a sidecar served, by its own account.
struct Instants {
    /// Microseconds since 1970.
    start: u64,
}

impl Instants {
    async fn around(sidecar: &Sidecar) -> Self {
        let seconds = sidecar.metric("process_start_time_seconds", "").await;
        Self {
            start: (seconds * 1e6) as u64,
        }
    }

    /// Between the start of the process and half a minute later.
    fn check(&self, micros: u64, wire: &Value) {
        let window = self.start.saturating_sub(1_000_000)..self.start + 30_000_000;
        assert!(
            window.contains(&micros),
            "{wire}: {micros} not in {window:?}"
        );
    }
}
