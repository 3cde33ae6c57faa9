//! Programs that trace themselves, behind sidecars: `jaeger-client` of Python and Node, the OpenTelemetry SDK of Python.
//! Their spans and the sidecars' are one tree in a real Jaeger v2.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use serde_json::json;

use crate::support::apps;
use crate::support::apps::App;
use crate::support::apps::Sidecar;
use crate::support::http;
use crate::support::jaeger::Jaeger;
use crate::support::jaeger::Sampling;
use crate::support::jaeger::spans;
use crate::support::jaeger::tag;
use crate::support::receivers::everywhere;

/// Sent with the request: the trace must be this one.
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

/// Where the programs' own tracers report.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Target {
    Jaeger,
    /// Each program's own sidecar: the pod's only exporter.
    Sidecar,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tracers_inside_the_programs_and_sidecars_make_one_tree() {
    one_tree(Target::Jaeger).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tracers_that_report_to_their_sidecars_make_the_same_tree() {
    one_tree(Target::Sidecar).await;
}

async fn one_tree(target: Target) {
    let (Some(python), Some(node)) = (apps::python(), apps::node()) else {
        return;
    };
    let Some(jaeger) = Jaeger::start(Sampling::File(json!({}))).await else {
        return;
    };
    let collector = format!("http://127.0.0.1:{}", jaeger.ports.otlp_http);
    let mut settings = apps::otlp(&collector);
    if target == Target::Sidecar {
        settings["receivers"] = everywhere();
    }
    let port = |sidecar: &Sidecar, role: &str, of_jaeger: u16| match target {
        Target::Jaeger => of_jaeger,
        Target::Sidecar => sidecar.process.port(role),
    };

    let prices = Sidecar::start("prices", &settings);
    let otlp = port(&prices, "otlp.http", jaeger.ports.otlp_http);
    let otlp = format!("http://127.0.0.1:{otlp}/v1/traces");
    let variables = [("OTLP_URL", otlp.as_str())];
    let _prices = App::start(&python, "prices_otel.py", &[], prices.app_port, &variables).await;

    // Node's clients of that time know no HTTP_PROXY: a static route stands where the next service would.
    let mut routed = settings.clone();
    let to = format!("127.0.0.1:{}", prices.inbound);
    routed["routes"] = json!([{ "listen": "127.0.0.1:0", "to": to, "peer_service": "prices" }]);
    let stock = Sidecar::start("stock", &routed);
    let route = format!("http://127.0.0.1:{}", stock.process.port("route"));
    let agent = port(&stock, "jaeger.binary", jaeger.ports.thrift_binary_udp).to_string();
    let variables = [
        ("PRICES_URL", route.as_str()),
        ("AGENT_PORT", agent.as_str()),
    ];
    let _stock = App::start(&node, "stock_jaeger.js", &[], stock.app_port, &variables).await;

    let orders = Sidecar::start("orders", &settings);
    let agent = port(&orders, "jaeger.compact", jaeger.ports.thrift_compact_udp).to_string();
    let (url, proxy) = (stock.url(), orders.proxy());
    let variables = [
        ("STOCK_URL", url.as_str()),
        ("HTTP_PROXY", proxy.as_str()),
        ("AGENT_PORT", agent.as_str()),
    ];
    let _orders = App::start(
        &python,
        "orders_jaeger.py",
        &[],
        orders.app_port,
        &variables,
    )
    .await;

    let header = format!("traceparent: 00-{TRACE}-b7ad6b7169203331-01");
    let answer = http::get_with(orders.inbound, "/order", &[&header])
        .await
        .unwrap();
    assert_eq!((answer.status, &answer.body[..]), (200, &b"in stock"[..]));

    let trace = jaeger
        .wait_for_trace(TRACE, 8, Duration::from_secs(30))
        .await;
    assert_eq!(spans(&trace).len(), 8, "{trace}");
    let by_id: BTreeMap<&str, &Value> = spans(&trace)
        .iter()
        .map(|span| (span["spanID"].as_str().unwrap(), span))
        .collect();
    let name = |span: &Value| {
        let process = span["processID"].as_str().unwrap();
        let service = trace["processes"][process]["serviceName"].as_str().unwrap();
        let kind = if service.ends_with("-app") {
            "own"
        } else {
            tag(span, "span.kind").as_str().unwrap()
        };
        format!("{service} {kind}")
    };
    let parent = |of: &str| {
        let span = spans(&trace).iter().find(|span| name(span) == of);
        let span = span.unwrap_or_else(|| panic!("{of} in {trace}"));
        let id = span["references"][0]["spanID"].as_str().unwrap();
        by_id.get(id).map_or(id.to_owned(), |parent| name(parent))
    };
    // From the leaf to the caller's span, which is not Jaeger's to know.
    for (child, expected) in [
        ("prices-app own", "prices server"),
        ("prices server", "stock client"),
        ("stock client", "stock-app own"),
        ("stock-app own", "stock server"),
        ("stock server", "orders client"),
        ("orders client", "orders-app own"),
        ("orders-app own", "orders server"),
        ("orders server", "b7ad6b7169203331"),
    ] {
        assert_eq!(parent(child), expected, "parent of {child}");
    }
    for span in spans(&trace) {
        match name(span).as_str() {
            "orders client" | "stock client" => {
                assert_eq!(*tag(span, "pillion.link.method"), *"forwarded");
                assert_eq!(*tag(span, "pillion.link.confidence"), *"exact");
            }
            "stock-app own" => assert_eq!(*tag(span, "tenant"), *"blue", "baggage came through"),
            _ => {}
        }
    }
    for sidecar in [&orders, &stock, &prices] {
        sidecar.accounted_for("otlp").await;
    }
}
