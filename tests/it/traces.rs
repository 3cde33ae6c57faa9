//! What a proxy makes of requests as traces: parents, decisions, headers, links, names, attributes.

use std::net::SocketAddr;
use std::time::Duration;

use pillion::codec::otlp;
use pillion::model::Kind;
use pillion::model::Span;
use pillion::model::Status;
use pillion::model::Value;
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::support::collector::Collector;
use crate::support::collector::Reply;
use crate::support::collector::Speaks;
use crate::support::proxy::Pillion;

const DEADLINE: Duration = Duration::from_secs(20);
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

/// A proxy in front of a program whose answers the test writes itself, and a collector behind it.
struct Bench {
    pillion: Pillion,
    collector: Collector,
    program: TcpListener,
}

/// A request that the program has received and not answered.
struct Held {
    caller: TcpStream,
    program: TcpStream,
    /// The head as the program got it.
    head: String,
}

impl Bench {
    async fn start(settings: serde_json::Value) -> Self {
        let collector = Collector::start(Speaks::Http1, vec![], Reply::Accept).await;
        let program = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut all = json!({
            "sampling": { "constant": { "decision": true } },
            "reporters": [{ "otlp": {
                "endpoint": collector.url(),
                "queue": { "flush_interval": "20ms" },
            } }],
        });
        for (key, value) in settings.as_object().unwrap() {
            all[key] = value.clone();
        }
        let pillion = Pillion::inbound_to(program.local_addr().unwrap(), all);
        Self {
            pillion,
            collector,
            program,
        }
    }

    /// Sends a request inbound and waits until the program has it.
    async fn hold(&self, path: &str, headers: &str) -> Held {
        self.hold_with(path, headers, b"").await
    }

    /// The same with what is sent in one piece with the head.
    async fn hold_with(&self, path: &str, headers: &str, body: &[u8]) -> Held {
        let mut caller = TcpStream::connect(self.pillion.inbound()).await.unwrap();
        let request =
            format!("GET {path} HTTP/1.1\r\nhost: app\r\nconnection: close\r\n{headers}\r\n");
        let message = [request.as_bytes(), body].concat();
        caller.write_all(&message).await.unwrap();
        let accepted = tokio::time::timeout(DEADLINE, self.program.accept()).await;
        let (mut program, _) = accepted.expect("the program gets no request").unwrap();
        let head = head(&mut program).await;
        Held {
            caller,
            program,
            head,
        }
    }

    /// A request inbound, answered with `status` at once. Returns the head as the program got it.
    async fn inbound(&self, path: &str, headers: &str, status: &str) -> String {
        let held = self.hold(path, headers).await;
        held.answer(status).await
    }

    /// A request outbound through `HTTP_PROXY` to a service that answers 200. Returns the head as that service got it.
    async fn outbound(&self, headers: &str) -> String {
        let service = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = service.local_addr().unwrap();
        let mut program = TcpStream::connect(self.pillion.outbound()).await.unwrap();
        let request = format!(
            "GET http://{to}/call HTTP/1.1\r\nhost: {to}\r\nconnection: close\r\n{headers}\r\n"
        );
        program.write_all(request.as_bytes()).await.unwrap();
        let (mut stream, _) = service.accept().await.unwrap();
        let head = head(&mut stream).await;
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            .await
            .unwrap();
        let mut rest = String::new();
        program.read_to_string(&mut rest).await.unwrap();
        assert!(rest.starts_with("HTTP/1.1 200"), "{rest}");
        head
    }

    /// Waits until the collector has exactly so many spans, in the order of their ends.
    async fn spans(&self, count: usize) -> Vec<Span> {
        let start = Instant::now();
        loop {
            let spans: Vec<Span> = self
                .collector
                .received()
                .iter()
                .flat_map(|received| {
                    otlp::decode(&received.message(), pillion::codec::Limits::default())
                        .unwrap()
                        .spans
                })
                .collect();
            if spans.len() >= count {
                assert_eq!(spans.len(), count, "{spans:#?}");
                return spans;
            }
            assert!(
                start.elapsed() < DEADLINE,
                "only {} of {count} spans",
                spans.len()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn span(&self) -> Span {
        self.spans(1).await.remove(0)
    }
}

impl Held {
    async fn answer(mut self, status: &str) -> String {
        let answer = format!("HTTP/1.1 {status}\r\nx-answer: yes\r\ncontent-length: 0\r\n\r\n");
        self.program.write_all(answer.as_bytes()).await.unwrap();
        let mut rest = String::new();
        self.caller.read_to_string(&mut rest).await.unwrap();
        assert!(rest.starts_with(&format!("HTTP/1.1 {status}")), "{rest}");
        self.head
    }
}

async fn head(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        bytes.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(bytes).unwrap()
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

fn text<'a>(span: &'a Span, key: &str) -> Option<&'a str> {
    span.attribute(key).and_then(Value::as_str)
}

fn number(span: &Span, key: &str) -> Option<i64> {
    span.attribute(key).and_then(Value::as_i64)
}

fn traceparent(flags: &str) -> String {
    format!("traceparent: 00-{TRACE}-{PARENT}-{flags}\r\n")
}

#[tokio::test]
async fn a_caller_s_trace_goes_on_and_the_program_is_told_of_our_span() {
    let bench = Bench::start(json!({})).await;
    let head = bench
        .inbound("/", &(traceparent("01") + "tracestate: a=1\r\n"), "200 OK")
        .await;
    let span = bench.span().await;
    assert_eq!(span.context.trace_id.to_string(), TRACE);
    assert_eq!(span.parent.unwrap().to_string(), PARENT);
    let expected = format!("00-{TRACE}-{}-01", span.context.span_id);
    assert_eq!(header(&head, "traceparent"), Some(expected.as_str()));
    assert_eq!(header(&head, "tracestate"), Some("a=1"));
    assert_eq!(text(&span, "pillion.sampling.decided_by"), Some("parent"));
    assert_eq!(
        span.attribute("sampler.type"),
        None,
        "only roots carry the sampler"
    );
}

#[tokio::test]
async fn a_caller_s_no_is_final_and_travels_on() {
    let bench = Bench::start(json!({})).await;
    let head = bench.inbound("/no", &traceparent("00"), "500 Oops").await;
    assert!(
        header(&head, "traceparent")
            .unwrap()
            .starts_with(&format!("00-{TRACE}-")),
        "{head}"
    );
    assert!(
        header(&head, "traceparent").unwrap().ends_with("-00"),
        "{head}"
    );
    let head = bench.inbound("/b3", "b3: 0\r\n", "200 OK").await;
    assert!(
        header(&head, "traceparent").unwrap().ends_with("-02"),
        "random, not sampled: {head}"
    );
    bench.inbound("/yes", "", "200 OK").await;
    assert_eq!(text(&bench.span().await, "url.path"), Some("/yes"));
}

#[tokio::test]
async fn a_root_says_which_sampler_took_it() {
    let bench = Bench::start(json!({ "sampling": { "probabilistic": { "rate": 1.0 } } })).await;
    bench.inbound("/", "", "200 OK").await;
    let span = bench.span().await;
    assert_eq!(span.parent, None);
    assert_eq!(text(&span, "sampler.type"), Some("probabilistic"));
    assert_eq!(span.attribute("sampler.param"), Some(&Value::F64(1.0)));
}

#[tokio::test]
async fn a_debug_id_forces_a_root_that_carries_it() {
    let bench = Bench::start(json!({ "sampling": { "constant": { "decision": false } } })).await;
    let head = bench
        .inbound("/", "jaeger-debug-id: case-7\r\n", "200 OK")
        .await;
    let span = bench.span().await;
    assert_eq!(text(&span, "jaeger-debug-id"), Some("case-7"));
    assert_eq!(text(&span, "pillion.sampling.decided_by"), Some("debug_id"));
    assert_eq!(
        span.attribute("sampler.type"),
        None,
        "debug roots carry no sampler"
    );
    assert!(
        header(&head, "uber-trace-id").unwrap().ends_with(":0:3"),
        "{head}"
    );
}

#[tokio::test]
async fn a_malformed_header_starts_a_new_trace_and_is_counted() {
    let bench = Bench::start(json!({})).await;
    bench
        .inbound("/", "traceparent: 00-zz-zz-01\r\n", "200 OK")
        .await;
    assert_eq!(bench.span().await.parent, None);
    let labels = ["format=\"tracecontext\"", "result=\"malformed\""];
    assert_eq!(
        bench
            .pillion
            .metric("pillion_propagation_extract_total", &labels)
            .await,
        1.0
    );
}

#[tokio::test]
async fn trust_is_by_peer() {
    for (trust, parent, links) in [
        (json!({ "default": "trust" }), Some(PARENT), 0),
        (json!({ "default": "restart" }), None, 1),
        (json!({ "default": "ignore" }), None, 0),
        (
            json!({ "default": "ignore", "peers": [{ "cidr": "127.0.0.0/8", "policy": "trust" }] }),
            Some(PARENT),
            0,
        ),
    ] {
        let inbound = json!({ "inbound": { "listen": "127.0.0.1:0", "trust": trust } });
        let bench = Bench::start(inbound).await;
        let head = bench.inbound("/", &traceparent("01"), "200 OK").await;
        let span = bench.span().await;
        assert_eq!(
            span.parent.map(|id| id.to_string()).as_deref(),
            parent,
            "{trust}"
        );
        assert_eq!(span.links.len(), links, "{trust}");
        let same = span.context.trace_id.to_string() == TRACE;
        assert_eq!(same, parent.is_some(), "{trust}");
        assert!(
            header(&head, "traceparent")
                .unwrap()
                .contains(&span.context.span_id.to_string())
        );
    }
}

#[tokio::test]
async fn a_caller_who_is_not_believed_leaves_no_ids_behind() {
    for policy in ["restart", "ignore"] {
        let trust = json!({ "listen": "127.0.0.1:0", "trust": { "default": policy } });
        let bench = Bench::start(json!({ "inbound": trust })).await;
        let foreign =
            format!("b3: {TRACE}-{PARENT}-1\r\nx-b3-traceid: {TRACE}\r\nbaggage: a=1\r\n");
        let head = bench.inbound("/", &foreign, "200 OK").await;
        assert!(!head.contains(TRACE), "{policy}: {head}");
        assert_eq!(header(&head, "baggage"), Some("a=1"), "{policy}");
    }
}

#[tokio::test]
async fn callers_cannot_force_more_traces_than_the_cap() {
    let trust = json!({ "max_forced_per_second": 1.0 });
    let bench = Bench::start(json!({
        "inbound": { "listen": "127.0.0.1:0", "trust": trust },
        "sampling": { "constant": { "decision": false } },
    }))
    .await;
    let start = Instant::now();
    for _ in 0..20 {
        bench.inbound("/", &traceparent("01"), "200 OK").await;
    }
    let most = 1.0 + start.elapsed().as_secs_f64();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let kept = bench
        .collector
        .otlp_batches()
        .iter()
        .map(Vec::len)
        .sum::<usize>();
    assert!(
        kept >= 1 && kept as f64 <= most,
        "{kept} kept, {most} allowed"
    );
}

#[tokio::test]
async fn a_call_hangs_under_the_only_request_in_flight() {
    let bench = Bench::start(json!({})).await;
    let held = bench.hold("/", "").await;
    let head = bench.outbound("").await;
    held.answer("200 OK").await;
    let spans = bench.spans(2).await;
    let (client, server) = (&spans[0], &spans[1]);
    assert_eq!((client.kind, server.kind), (Kind::Client, Kind::Server));
    assert_eq!(client.context.trace_id, server.context.trace_id);
    assert_eq!(client.parent, Some(server.context.span_id));
    assert_eq!(text(client, "pillion.link.method"), Some("exclusive"));
    assert_eq!(text(client, "pillion.link.confidence"), Some("high"));
    assert_eq!(number(client, "pillion.link.candidates"), Some(1));
    assert!(
        header(&head, "traceparent")
            .unwrap()
            .contains(&client.context.span_id.to_string())
    );
}

#[tokio::test]
async fn a_call_with_forwarded_headers_hangs_where_they_say() {
    let bench = Bench::start(json!({})).await;
    let one = bench.hold("/one", "").await;
    let two = bench.hold("/two", "x-request-id: 77\r\n").await;
    let passed_on = format!(
        "traceparent: {}\r\n",
        header(&one.head, "traceparent").unwrap()
    );
    bench.outbound(&passed_on).await;
    bench.outbound("x-request-id: 77\r\n").await;
    one.answer("200 OK").await;
    two.answer("200 OK").await;
    let spans = bench.spans(4).await;
    let of = |path: &str| {
        spans
            .iter()
            .find(|span| text(span, "url.path") == Some(path))
            .unwrap()
    };
    let by = |confidence: &str| {
        spans
            .iter()
            .find(|span| text(span, "pillion.link.confidence") == Some(confidence))
            .unwrap()
    };
    assert_eq!(by("exact").parent, Some(of("/one").context.span_id));
    assert_eq!(by("high").parent, Some(of("/two").context.span_id));
    for client in [by("exact"), by("high")] {
        assert_eq!(text(client, "pillion.link.method"), Some("forwarded"));
    }
}

#[tokio::test]
async fn a_call_with_several_possible_causes_starts_a_trace_that_links_to_them() {
    let bench = Bench::start(json!({})).await;
    let mut held = Vec::new();
    for _ in 0..5 {
        held.push(bench.hold("/", "").await);
    }
    bench.outbound("").await;
    for held in held {
        held.answer("200 OK").await;
    }
    let spans = bench.spans(6).await;
    let client = spans.iter().find(|span| span.kind == Kind::Client).unwrap();
    assert_eq!(client.parent, None);
    assert_eq!(client.links.len(), 3);
    assert_eq!(number(client, "pillion.link.candidates"), Some(5));
    assert_eq!(text(client, "pillion.link.confidence"), Some("none"));
    for link in &client.links {
        assert!(
            spans
                .iter()
                .any(|span| span.context.span_id == link.span_id)
        );
    }
    let labels = ["method=\"none\"", "outcome=\"none\""];
    assert_eq!(
        bench.pillion.metric("pillion_links_total", &labels).await,
        1.0
    );
}

#[tokio::test]
async fn an_id_in_the_body_of_one_of_several_requests_tells_whose_call_it_is() {
    for whole in [true, false] {
        let bench = Bench::start(json!({})).await;
        let body = br#"{"order": "7b1a4c7e-0f4e-4b8e-9a57-6d1f0a2f9f10"}"#;
        let length = format!("content-length: {}\r\n", body.len());
        let kind = format!("content-type: application/json\r\n{length}");
        let other = bench.hold("/other", "").await;
        let mut one = match whole {
            true => bench.hold_with("/one", &kind, body).await,
            false => {
                let mut one = bench.hold("/one", &kind).await;
                one.caller.write_all(body).await.unwrap();
                one
            }
        };
        let mut there = vec![0; body.len()];
        one.program.read_exact(&mut there).await.unwrap();
        assert_eq!(there, body, "it passes untouched");
        bench
            .outbound("x-order: 7b1a4c7e-0f4e-4b8e-9a57-6d1f0a2f9f10\r\n")
            .await;
        one.answer("200 OK").await;
        other.answer("200 OK").await;
        let spans = bench.spans(3).await;
        let call = spans.iter().find(|span| span.kind == Kind::Client);
        let (call, one) = (call.unwrap(), &spans[1]);
        assert_eq!(
            call.parent,
            Some(one.context.span_id),
            "{whole}: {spans:#?}"
        );
        assert_eq!(text(call, "pillion.link.method"), Some("value"), "{whole}");
    }
}

#[tokio::test]
async fn a_finished_request_is_nobody_s_parent() {
    let bench = Bench::start(json!({})).await;
    bench.inbound("/", "", "200 OK").await;
    bench.spans(1).await;
    bench.outbound("").await;
    let spans = bench.spans(2).await;
    assert_eq!(spans[1].parent, None);
    assert_ne!(spans[0].context.trace_id, spans[1].context.trace_id);
}

#[tokio::test]
async fn an_unsampled_request_s_calls_are_unsampled_too() {
    let bench = Bench::start(json!({})).await;
    let held = bench.hold("/", &traceparent("00")).await;
    let head = bench.outbound("").await;
    held.answer("200 OK").await;
    let value = header(&head, "traceparent").unwrap();
    assert!(
        value.starts_with(&format!("00-{TRACE}-")) && value.ends_with("-00"),
        "{value}"
    );
    assert_eq!(
        bench
            .pillion
            .metric("pillion_spans_unsampled_total", &[])
            .await,
        2.0
    );
}

#[tokio::test]
async fn server_spans_say_what_was_asked_and_answered() {
    let bench = Bench::start(json!({ "spans": {
        "routes": ["/users/{id}"],
        "request_headers": ["X-Tenant", "Authorization"],
        "response_headers": ["X-Answer"],
        "attributes": { "deployment.environment.name": "test" },
        "redact_query": ["token"],
    } }))
    .await;
    let headers = "x-tenant: blue\r\nauthorization: Bearer secret\r\nuser-agent: probe/1\r\n";
    bench
        .inbound("/users/7?token=abc&sig=def&a=1", headers, "503 Busy")
        .await;
    let span = bench.span().await;
    assert_eq!(span.name, "GET /users/{id}");
    assert_eq!(span.status, Status::Error("".into()));
    for (key, value) in [
        ("http.request.method", "GET"),
        ("http.route", "/users/{id}"),
        ("url.path", "/users/7"),
        ("url.query", "token=REDACTED&sig=REDACTED&a=1"),
        ("url.scheme", "http"),
        ("server.address", "app"),
        ("client.address", "127.0.0.1"),
        ("network.peer.address", "127.0.0.1"),
        ("network.protocol.version", "1.1"),
        ("user_agent.original", "probe/1"),
        ("error.type", "503"),
        ("pillion.response.origin", "upstream"),
        ("deployment.environment.name", "test"),
    ] {
        assert_eq!(text(&span, key), Some(value), "{key}");
    }
    assert_eq!(number(&span, "http.response.status_code"), Some(503));
    let all = format!("{span:?}");
    assert!(
        all.contains("blue") && all.contains("http.response.header.x-answer"),
        "{all}"
    );
    assert!(!all.contains("secret"), "{all}");
}

#[tokio::test]
async fn a_4xx_is_the_caller_s_error_and_not_the_program_s() {
    let bench = Bench::start(json!({})).await;
    bench.inbound("/", "", "404 Not Found").await;
    let span = bench.span().await;
    assert_eq!(span.status, Status::Unset);
    assert_eq!(span.attribute("error.type"), None);
}

#[tokio::test]
async fn probes_and_ignored_paths_pass_untouched() {
    let bench = Bench::start(json!({ "spans": { "ignore_paths": ["/healthz"] } })).await;
    for (path, headers) in [("/healthz", ""), ("/", "user-agent: kube-probe/1.30\r\n")] {
        let head = bench.inbound(path, headers, "200 OK").await;
        assert_eq!(header(&head, "traceparent"), None, "{head}");
    }
    assert_eq!(
        bench
            .pillion
            .metric("pillion_spans_started_total", &[])
            .await,
        0.0
    );
}

#[tokio::test]
async fn a_program_that_is_down_is_a_502_of_ours_with_the_reason_on_the_span() {
    let Bench {
        pillion,
        collector,
        program,
    } = Bench::start(json!({})).await;
    drop(program);
    let mut caller = TcpStream::connect(pillion.inbound()).await.unwrap();
    caller
        .write_all(b"GET / HTTP/1.1\r\nhost: app\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    caller.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 502 Bad Gateway"), "{answer}");
    assert!(
        answer.contains("pillion: connect to 127.0.0.1:"),
        "{answer}"
    );
    let program = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let span = Bench {
        pillion,
        collector,
        program,
    }
    .span()
    .await;
    assert_eq!(text(&span, "error.type"), Some("connection_refused"));
    assert_eq!(text(&span, "pillion.response.origin"), Some("pillion"));
    assert_eq!(number(&span, "http.response.status_code"), Some(502));
}

#[tokio::test]
async fn client_spans_say_where_the_time_went() {
    let bench = Bench::start(json!({})).await;
    bench.outbound("").await;
    let span = bench.span().await;
    assert_eq!(span.name, "GET");
    assert!(
        text(&span, "url.full")
            .unwrap()
            .starts_with("http://127.0.0.1:")
    );
    assert_eq!(
        span.attribute("pillion.connection.reused"),
        Some(&Value::Bool(false))
    );
    for key in ["connect", "send", "first_byte", "body"] {
        let micros = number(&span, &format!("pillion.time.{key}_us"));
        assert!(
            micros.is_some_and(|micros| micros >= 0),
            "{key}: {micros:?}"
        );
    }
}

#[tokio::test]
async fn a_tunnel_is_one_span_that_ends_with_it() {
    let bench = Bench::start(json!({})).await;
    let service = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to: SocketAddr = service.local_addr().unwrap();
    let mut program = TcpStream::connect(bench.pillion.outbound()).await.unwrap();
    program
        .write_all(format!("CONNECT {to} HTTP/1.1\r\nhost: {to}\r\n\r\n").as_bytes())
        .await
        .unwrap();
    assert!(head(&mut program).await.starts_with("HTTP/1.1 200"));
    let (mut stream, _) = service.accept().await.unwrap();
    program.write_all(b"four").await.unwrap();
    let mut four = [0; 4];
    stream.read_exact(&mut four).await.unwrap();
    stream.write_all(b"seven!!").await.unwrap();
    drop(stream);
    let mut seven = Vec::new();
    program.read_to_end(&mut seven).await.unwrap();
    drop(program);
    let span = bench.span().await;
    assert_eq!((span.name.as_str(), span.kind), ("CONNECT", Kind::Client));
    assert_eq!(number(&span, "pillion.tunnel.bytes_sent"), Some(4));
    assert_eq!(number(&span, "pillion.tunnel.bytes_received"), Some(7));
    assert_eq!(number(&span, "server.port"), Some(i64::from(to.port())));
    assert_eq!(number(&span, "http.response.status_code"), Some(200));
    assert_eq!(
        span.attribute("http.response.body.size"),
        None,
        "what a tunnel carries is no body"
    );
    assert_eq!(span.status, Status::Unset);
}

#[tokio::test]
async fn tracing_switched_off_touches_nothing() {
    let bench = Bench::start(json!({ "spans": { "enabled": false } })).await;
    let head = bench.inbound("/", &traceparent("01"), "200 OK").await;
    assert_eq!(
        header(&head, "traceparent"),
        Some(format!("00-{TRACE}-{PARENT}-01").as_str())
    );
    assert_eq!(header(&head, "uber-trace-id"), None);
    assert_eq!(
        bench
            .pillion
            .metric("pillion_spans_started_total", &[])
            .await,
        0.0
    );
    assert_eq!(
        bench
            .pillion
            .metric("pillion_http_requests_total", &[])
            .await,
        1.0
    );
}

#[tokio::test]
async fn the_cap_holds_for_what_forces_a_trace_without_ids_too() {
    for forcing in ["jaeger-debug-id: x\r\n", "b3: 1\r\n", "b3: d\r\n"] {
        let trust = json!({ "max_forced_per_second": 0.001 });
        let bench = Bench::start(json!({
            "inbound": { "listen": "127.0.0.1:0", "trust": trust },
            "sampling": { "constant": { "decision": false } },
        }))
        .await;
        for _ in 0..5 {
            bench.inbound("/", forcing, "200 OK").await;
        }
        let unsampled = bench
            .pillion
            .metric("pillion_spans_unsampled_total", &[])
            .await;
        assert_eq!(unsampled, 4.0, "one is within the cap: {forcing}");
    }
}

#[tokio::test]
async fn what_the_program_says_about_its_own_call_outranks_the_request_in_flight() {
    let bench = Bench::start(json!({})).await;
    let held = bench.hold("/", "").await;
    // So do tracers that send their own spans, to be left alone.
    let head = bench.outbound("b3: 0\r\n").await;
    held.answer("200 OK").await;
    assert_eq!(header(&head, "b3"), Some("0"));
    let value = header(&head, "traceparent").unwrap();
    assert!(value.ends_with("-00") || value.ends_with("-02"), "{value}");
    assert_eq!(bench.span().await.kind, Kind::Server);
}

#[tokio::test]
async fn a_debug_id_on_a_call_of_its_own_is_recorded() {
    let bench = Bench::start(json!({ "sampling": { "constant": { "decision": false } } })).await;
    bench.outbound("jaeger-debug-id: case-8\r\n").await;
    let span = bench.span().await;
    assert_eq!(text(&span, "jaeger-debug-id"), Some("case-8"));
    assert_eq!(text(&span, "pillion.sampling.decided_by"), Some("debug_id"));
}

#[tokio::test]
async fn what_proxies_before_us_noted_counts() {
    for (headers, expected) in [
        (
            "x-forwarded-for: 203.0.113.7, 10.0.0.1\r\nx-forwarded-proto: https\r\nx-forwarded-host: shop.example\r\n",
            ("203.0.113.7", "https", "shop.example", 443),
        ),
        (
            "forwarded: for=\"[2001:db8::1]:4711\";proto=https;host=\"shop.example:8443\", for=10.0.0.1\r\nx-forwarded-for: 1.1.1.1\r\n",
            ("2001:db8::1", "https", "shop.example", 8443),
        ),
        (
            "forwarded: for=unknown;proto=gopher\r\n",
            ("127.0.0.1", "http", "app", 80),
        ),
    ] {
        let bench = Bench::start(json!({})).await;
        bench.inbound("/", headers, "200 OK").await;
        let span = bench.span().await;
        let found = (
            text(&span, "client.address").unwrap(),
            text(&span, "url.scheme").unwrap(),
            text(&span, "server.address").unwrap(),
            number(&span, "server.port").unwrap(),
        );
        assert_eq!(found, expected, "{headers}");
        assert_eq!(text(&span, "network.peer.address"), Some("127.0.0.1"));
    }
}

#[tokio::test]
async fn a_route_s_span_names_where_its_requests_go() {
    let service = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = service.local_addr().unwrap();
    let bench = Bench::start(json!({ "routes": [
        { "listen": "127.0.0.1:0", "to": to.to_string(), "rewrite_host": true, "peer_service": "other" },
    ] }))
    .await;
    let mut program = TcpStream::connect(bench.pillion.route()).await.unwrap();
    program
        .write_all(b"GET /x HTTP/1.1\r\nhost: localhost:1\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    let (mut stream, _) = service.accept().await.unwrap();
    let seen = head(&mut stream).await;
    assert_eq!(header(&seen, "host"), Some(to.to_string().as_str()));
    stream
        .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        .await
        .unwrap();
    let span = bench.span().await;
    let url = format!("http://{to}/x");
    assert_eq!(text(&span, "url.full"), Some(url.as_str()));
    assert_eq!(number(&span, "server.port"), Some(i64::from(to.port())));
    assert_eq!(text(&span, "service.peer.name"), Some("other"));
}

#[tokio::test]
async fn credentials_for_the_proxy_do_not_reach_the_destination() {
    let bench = Bench::start(json!({})).await;
    let head = bench
        .outbound("proxy-authorization: Basic dTpw\r\nauthorization: Bearer t\r\n")
        .await;
    assert_eq!(header(&head, "proxy-authorization"), None, "{head}");
    assert_eq!(header(&head, "authorization"), Some("Bearer t"));
}
