//! Programs that trace themselves with the real tracers of other systems and report to their sidecar alone: their spans and
//! the sidecar's are one tree, with the ids that were on the wire, whichever protocol they report by.

use std::time::Duration;
use std::time::Instant;

use serde_json::json;

use crate::support::apps;
use crate::support::apps::App;
use crate::support::collector::Collector;
use crate::support::collector::Reply;
use crate::support::collector::Speaks;
use crate::support::http;
use crate::support::otlp;
use crate::support::proxy::Pillion;
use crate::support::receivers::everywhere;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";
const LIMIT: Duration = Duration::from_secs(20);

/// What the program reports by, and the port for it.
const EXPORTERS: [(&str, &str); 5] = [
    ("otlp_http", "otlp.http"),
    ("otlp_grpc", "otlp.grpc"),
    ("zipkin_v2_json", "zipkin.listen"),
    ("zipkin_v2_proto3", "zipkin.listen"),
    ("zipkin_v1_json", "zipkin.listen"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_exporters_and_their_sidecar_make_one_tree() {
    let Some(python) = apps::python() else { return };
    for (exporter, role) in EXPORTERS {
        let collector = Collector::start(Speaks::Http1, Vec::new(), Reply::Accept).await;
        let port = apps::free_port();
        let pillion = Pillion::inbound_to(
            ([127, 0, 0, 1], port).into(),
            json!({
                "service": "sidecar",
                "receivers": everywhere(),
                "propagation": { "inject": ["tracecontext", "b3multi"] },
                "sampling": { "constant": { "decision": true } },
                "reporters": [{ "otlp": { "endpoint": collector.url(), "queue": { "flush_interval": "10ms" } } }],
            }),
        );
        let endpoint = format!("http://{}", pillion.address(role));
        let variables = [("EXPORTER", exporter), ("ENDPOINT", endpoint.as_str())];
        let app = App::start(&python, "traces_itself.py", &[], port, &variables).await;
        let header = format!("traceparent: 00-{TRACE}-{CALLER}-01");
        let answer = http::get_with(pillion.inbound().port(), "/order", &[&header]).await;
        let answer = answer.unwrap();
        assert_eq!(answer.status, 200, "{exporter}: {}", app.stderr());

        let deadline = Instant::now() + LIMIT;
        while otlp::spans(&collector).len() < 3 {
            let spans = otlp::spans(&collector);
            assert!(
                Instant::now() < deadline,
                "{exporter}: {spans:?} {}",
                app.stderr()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let spans = otlp::spans(&collector);
        assert_eq!(spans.len(), 3, "{exporter}: {spans:?}");
        let named = |service: &str, name: &str| {
            let found = spans
                .iter()
                .find(|span| span.service == service && span.name == name);
            found.unwrap_or_else(|| panic!("{exporter}: no {name} of {service} in {spans:?}"))
        };
        let (server, order, below) = (
            named("sidecar", "GET"),
            named("own", "order"),
            named("own", "look up"),
        );
        for (child, parent) in [
            (server, CALLER),
            (order, &*server.span_id),
            (below, &*order.span_id),
        ] {
            assert_eq!(child.trace_id, TRACE, "{exporter}: {child:?}");
            assert_eq!(child.parent_id, parent, "{exporter}: {child:?}");
        }
        assert_eq!(
            (below.attribute("db"), below.attribute("rows")),
            ("stock", "3"),
            "{exporter}"
        );
        let received = pillion.metric("pillion_spans_received_total", &[]).await;
        assert_eq!(received, 2.0, "{exporter}");
    }
}
