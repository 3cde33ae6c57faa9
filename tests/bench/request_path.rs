//! How many instructions do the pieces of the request path take?
//!
//! `request_path pieces` runs each piece many times, each time inside [`measured`]. Under callgrind, with collection
//! switched on by that function and a dump after it, every dump is one line of the output; `tests/bench/instructions`
//! does that and compares two commits. `request_path serve ARGUMENTS` is the `pillion` program, so that whole
//! exchanges are counted without building another executable; each line on its standard input is answered by one
//! after [`pillion_bench_mark`] ran, so that who counts can tell the phases of a run apart. `request_path answer` and
//! `request_path call PORT h2c|grpc` are the ends of exchanges over HTTP/2.

#![allow(clippy::print_stdout, reason = "its output is its result")]
#![allow(missing_docs, reason = "a benchmark has no callers")]

mod peers;

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use bytes::BytesMut;
use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::Request;
use http::StatusCode;
use http::Version;
use parking_lot::Mutex;

use pillion::codec;
use pillion::codec::jaeger;
use pillion::codec::jaeger_proto;
use pillion::codec::kafka;
use pillion::codec::thrift;
use pillion::correlate;
use pillion::correlate::Arrival;
use pillion::correlate::Call;
use pillion::correlate::Carried;
use pillion::correlate::InFlight;
use pillion::model::Kind;
use pillion::model::Resource;
use pillion::model::SamplingState;
use pillion::model::Span;
use pillion::model::SpanContext;
use pillion::model::SpanId;
use pillion::model::Text;
use pillion::model::TraceId;
use pillion::propagation;
use pillion::propagation::FORMATS;
use pillion::propagation::Propagator;
use pillion::reporter;
use pillion::reporter::Reporters;
use pillion::reporter::Sink;
use pillion::sampling;
use pillion::sampling::Sampler;
use pillion::telemetry::metrics::Direction;
use pillion::telemetry::metrics::Method;
use pillion::telemetry::metrics::Metrics;
use pillion::telemetry::metrics::RequestLabels;
use pillion::telemetry::metrics::RouteId;
use pillion::tracer;
use pillion::tracer::Cause;
use pillion::tracer::Glance;
use pillion::tracer::Policy;
use pillion::tracer::Tracer;
use pillion::tracer::clock::Clock;
use pillion::tracer::http::Connection;
use pillion::tracer::http::Conventions;

/// Repetitions of each piece: enough that its first run does not show.
const TIMES: usize = 200;
/// Spans that go out together.
const BATCH: usize = 512;

fn main() -> std::process::ExitCode {
    let mut arguments = std::env::args_os();
    let program = arguments.next();
    match arguments.next() {
        Some(mode) if mode == "serve" => {
            std::thread::spawn(marks);
            pillion::cli::run(program.into_iter().chain(arguments))
        }
        Some(mode) if mode == "pieces" => {
            pieces();
            std::process::ExitCode::SUCCESS
        }
        Some(mode) if mode == "answer" => ended(peers::answer()),
        Some(mode) if mode == "call" => {
            let port = arguments
                .next()
                .and_then(|port| port.to_str()?.parse().ok());
            let is_grpc = arguments.next().is_some_and(|kind| kind == "grpc");
            ended(peers::call(port.unwrap_or_default(), is_grpc))
        }
        // What `cargo bench` and `cargo test --benches` pass.
        _ => {
            println!("tests/bench/instructions runs this under callgrind");
            std::process::ExitCode::SUCCESS
        }
    }
}

fn ended(result: Result<(), Box<dyn std::error::Error>>) -> std::process::ExitCode {
    match result {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            println!("failed: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}

/// Runs [`pillion_bench_mark`] for each line that comes.
fn marks() {
    for _ in std::io::stdin().lines() {
        pillion_bench_mark();
        println!("marked");
    }
}

/// Where a phase of a run ends: does nothing. Its name is known to `tests/bench/instructions`.
#[inline(never)]
#[unsafe(no_mangle)]
#[allow(unsafe_code, reason = "a name that callgrind can be told")]
extern "C" fn pillion_bench_mark() {
    black_box(());
}

/// What is counted. Its name is known to `tests/bench/instructions`.
#[inline(never)]
#[unsafe(no_mangle)]
#[allow(unsafe_code, reason = "a name that callgrind can be told")]
extern "C" fn pillion_bench_measured(work: &mut &mut dyn FnMut()) {
    work();
}

/// Runs a piece once to warm up and `times` times to be counted; says what the next dump holds.
fn piece(name: &str, times: usize, mut work: impl FnMut()) {
    work();
    let mut all = || (0..times).for_each(|_| work());
    println!("{name} {times}");
    pillion_bench_measured(&mut (&mut all as &mut dyn FnMut()));
}

fn pieces() {
    fastrand::seed(7);
    propagation_pieces();
    sampling_pieces();
    tracer_pieces();
    reporter_pieces();
    correlate_pieces();
    metrics_pieces();
}

/// What a browser or client library sends, without trace headers.
fn ordinary() -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("host", "shop.example:8080"),
        ("user-agent", "client/1.2.3 (linux; x86_64)"),
        ("accept", "*/*"),
        ("accept-encoding", "gzip, br"),
        ("content-type", "application/json"),
        ("x-request-id", "5f3c2a1e-77b1-4d40-9e6b-0c7d3a3b2f11"),
    ] {
        headers.insert(
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        );
    }
    headers
}

fn context(number: u64) -> SpanContext {
    let trace_id = TraceId::from_halves(0x1234_5678_9abc_def0, number.max(1)).expect("not zero");
    let span_id = SpanId::from_u64(number.max(1)).expect("not zero");
    SpanContext::new(trace_id, span_id, SamplingState::Accept)
}

fn propagation_pieces() {
    let context = context(7);
    for format in FORMATS {
        let mut headers = ordinary();
        piece(&format!("inject/{}", format.name()), TIMES, || {
            format.inject(&context, &mut headers);
        });
        piece(&format!("extract/{}", format.name()), TIMES, || {
            black_box(format.extract(black_box(&headers))).ok();
        });
    }
    let propagator = Propagator::new(&propagation::Config::default());
    let plain = ordinary();
    piece("extract/default, nothing there", TIMES, || {
        black_box(propagator.extract(black_box(&plain)));
    });
    let mut headers = ordinary();
    piece("inject/default", TIMES, || {
        propagator.inject(&context, &mut headers);
    });
    piece("extract/default, all there", TIMES, || {
        black_box(propagator.extract(black_box(&headers)));
    });
}

fn sampler(example: &str) -> Arc<dyn Sampler> {
    let config: sampling::Config = serde_json::from_str(example).expect("an example");
    sampling::build(&config, "bench", &pillion::net::client::Client::plain()).sampler
}

fn sampling_pieces() {
    let (id, now) = (context(7).trace_id, Instant::now());
    for kind in sampling::KINDS {
        let sampler = sampler(kind.example);
        piece(&format!("sampler/{}", kind.name), TIMES, || {
            black_box(sampler.sample(id, black_box("GET /users/{id}"), now));
        });
    }
}

/// Keeps what it is told to keep.
#[derive(Default)]
struct Kept(Mutex<Vec<Arc<Span>>>);

impl Sink for Kept {
    fn report(&self, span: Arc<Span>) {
        let mut kept = self.0.lock();
        if kept.len() < BATCH {
            kept.push(span);
        }
    }
}

fn tracer(sampler: Arc<dyn Sampler>, sink: Arc<dyn Sink>) -> Arc<Tracer> {
    let metrics = Metrics::new();
    let config = tracer::Config {
        routes: vec!["/users/{id}".to_owned(), "/orders/{id}/items".to_owned()],
        ..tracer::Config::default()
    };
    Arc::new(Tracer {
        propagator: Propagator::new(&propagation::Config::default()),
        sampler,
        sink,
        resource: Arc::new(Resource {
            service: Text::new_static("bench"),
            attributes: vec![pillion::model::Attribute::new("host.name", "bench")],
            scope: None,
        }),
        clock: Arc::new(Clock::new()),
        ledger: Arc::default(),
        conventions: Conventions::new(&config, &metrics).expect("good settings"),
        decisions: metrics.sampler(&["const", "probabilistic", "ratelimiting", "lowerbound"]),
        keep: None,
        short_trace_ids: false,
        dated_trace_ids: false,
    })
}

fn request(uri: &str) -> Request<()> {
    let mut request = Request::new(());
    *request.uri_mut() = uri.parse().expect("a URI");
    *request.headers_mut() = ordinary();
    request
}

/// One server span, from the request head to the last byte.
fn server_span(tracer: &Arc<Tracer>, request: &mut Request<()>) {
    let start = Instant::now();
    let conventions = &tracer.conventions;
    let extraction = tracer.propagator.extract(request.headers());
    let (kind, uri) = (Kind::Server, request.uri());
    let glance = Glance::of(request.headers());
    let operation = conventions.operation(kind, request.method(), uri, &glance);
    let name = operation.name.clone();
    let mut span = tracer.start_server(&extraction, Policy::Trust, name, start);
    let peer = Some(([127, 0, 0, 1], 40000).into());
    let connection = Connection {
        peer,
        scheme: "http",
        to: None,
        kind,
    };
    conventions.request(&mut span, &operation, (request, &glance), connection);
    conventions.response(&mut span, kind, StatusCode::OK, &HeaderMap::new());
    span.set("pillion.response.origin", "upstream");
    span.set("http.response.body.size", 64);
    span.finish_at(Instant::now());
}

/// One client span whose parent is known.
fn client_span(tracer: &Arc<Tracer>, request: &Request<()>, parent: &SpanContext) {
    let start = Instant::now();
    let (conventions, kind) = (&tracer.conventions, Kind::Client);
    let glance = Glance::of(request.headers());
    let operation = conventions.operation(kind, request.method(), request.uri(), &glance);
    let cause = Cause {
        parent: Some(parent.clone()),
        method: "forwarded",
        confidence: "exact",
        p: 0.9999,
        candidates: 1,
        links: Vec::new(),
        agreed: None,
        decision: None,
        debug_id: None,
    };
    let mut span = tracer.start_client(&cause, operation.name.clone(), start);
    let connection = Connection {
        peer: None,
        scheme: "http",
        to: None,
        kind,
    };
    conventions.request(&mut span, &operation, (request, &glance), connection);
    conventions.peer(&mut span, ([127, 0, 0, 1], 8080).into());
    conventions.response(&mut span, kind, StatusCode::OK, &HeaderMap::new());
    span.finish_at(Instant::now());
}

fn tracer_pieces() {
    let on = r#"{"constant":{"decision":true}}"#;
    let off = r#"{"constant":{"decision":false}}"#;
    let mut incoming = request("/users/42?verbose=1");
    let kept: Arc<Kept> = Arc::default();
    let traced = tracer(sampler(on), kept);
    // Fills what is kept: later spans are dropped where they end.
    (0..=BATCH).for_each(|_| server_span(&traced, &mut incoming));
    piece("span/server", TIMES, || server_span(&traced, &mut incoming));
    let parent = context(9);
    let outgoing = request("http://users.example:8080/v1/users/42");
    piece("span/client", TIMES, || {
        client_span(&traced, &outgoing, &parent);
    });
    let unsampled = tracer(sampler(off), Arc::<Kept>::default());
    piece("span/server, unsampled", TIMES, || {
        server_span(&unsampled, &mut incoming);
    });
}

/// A batch of server spans as the request path makes them.
fn batch() -> Vec<Arc<Span>> {
    let kept: Arc<Kept> = Arc::default();
    let traced = tracer(sampler(r#"{"constant":{"decision":true}}"#), kept.clone());
    let mut incoming = request("/users/42?verbose=1");
    (0..BATCH).for_each(|_| server_span(&traced, &mut incoming));
    std::mem::take(&mut *kept.0.lock())
}

fn reporter_pieces() {
    let spans = batch();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let entered = runtime.enter();
    // Nobody runs its task: the queue only fills.
    let config: reporter::Config =
        serde_json::from_str(r#"{"log":{"queue":{"capacity":100000}}}"#).expect("an example");
    let reporters = Reporters::start(&[config], None, None).expect("a reporter");
    piece("queue", TIMES, || reporters.report(spans[0].clone()));
    drop((entered, reporters));

    for (kind, _) in reporter::KINDS {
        match encoder(kind) {
            Some(work) => encode(kind, work),
            None => assert!(WRITES_LIKE_OTHERS.contains(kind), "no encoder for {kind}"),
        }
    }
}

/// Reporters that write what others write.
const WRITES_LIKE_OTHERS: [&str; 2] = ["failover", "file"];

type Encoder = Box<dyn FnMut(&[Arc<Span>])>;

/// What a reporter of this kind does to make bytes of spans.
fn encoder(kind: &str) -> Option<Encoder> {
    Some(match kind {
        "datadog" => Box::new(|spans| {
            black_box(codec::datadog::encode(spans));
        }),
        "jaeger_grpc" => Box::new(|spans| {
            for group in jaeger::groups(spans) {
                black_box(jaeger_proto::encode(&group));
            }
        }),
        "jaeger_http" => Box::new(|spans| thrift_batch(spans, thrift::Protocol::Binary)),
        "jaeger_udp" => Box::new(|spans| thrift_batch(spans, thrift::Protocol::Compact)),
        "kafka" => Box::new(records),
        "log" => {
            let mut line = Vec::new();
            Box::new(move |spans| {
                for span in spans {
                    line.clear();
                    codec::json_span::write_line(span, &mut line);
                }
            })
        }
        "otlp" => {
            let mut out = BytesMut::new();
            Box::new(move |spans| {
                out.clear();
                codec::otlp::encode(spans, &mut out);
            })
        }
        "skywalking" => Box::new(|spans| {
            black_box(codec::skywalking::encode_segments(spans));
        }),
        "xray" => Box::new(|spans| {
            for span in spans {
                black_box(codec::xray::encode(span));
            }
        }),
        "zipkin" => Box::new(|spans| {
            black_box(codec::zipkin::encode_json(spans));
        }),
        _ => return None,
    })
}

fn thrift_batch(spans: &[Arc<Span>], protocol: thrift::Protocol) {
    for group in jaeger::groups(spans) {
        let batch = thrift::BatchRef {
            process: &group.process,
            spans: &group.spans,
            sequence: None,
            stats: None,
        };
        black_box(thrift::encode_batch(&batch, protocol)).expect("encodes");
    }
}

/// Records of Kafka, one a span.
fn records(spans: &[Arc<Span>]) {
    let mut records = Vec::with_capacity(spans.len());
    for group in jaeger::groups(spans) {
        records.extend(group.spans.iter().map(|span| kafka::Record {
            key: format!("{:016x}{:016x}", span.trace_id_high, span.trace_id_low).into_bytes(),
            value: jaeger_proto::encode_span(&group.process, span),
            time: span.start / 1_000,
        }));
    }
    black_box(kafka::record_batch(&records, kafka::Packing::Plain)).expect("encodes");
}

/// Counted by the span, of spans that nobody has looked at yet: their attributes unpack but once.
fn encode(name: &str, mut work: impl FnMut(&[Arc<Span>])) {
    work(&batch());
    let spans = batch();
    println!("encode/{name} {}", spans.len());
    let mut once = || work(black_box(&spans));
    pillion_bench_measured(&mut (&mut once as &mut dyn FnMut()));
}

fn correlate_pieces() {
    let (config, headers) = (correlate::Config::default(), ordinary());
    let uri = "http://users.example:8080/v1/users/42"
        .parse()
        .expect("a URI");
    let arrival = |number| Arrival {
        context: Some(context(number)),
        ..Arrival::default()
    };
    let now = Instant::now();
    for crowd in [1, 64] {
        let table = InFlight::new(2);
        let guards: Vec<_> = (0..crowd)
            .map(|number| table.enter(0, arrival(number + 1), now))
            .collect();
        let (parent, call) = (context(1), |extracted| Call {
            verb: &http::Method::GET,
            uri: &uri,
            headers: &headers,
            extracted,
            destination: "users.example:8080",
            carried: Carried::Nothing,
            served: None,
            witnesses: &[],
            is_watched: false,
            paced: None,
            now,
        });
        let name = |what: &str| format!("correlate/{what}, {crowd}");
        piece(&name("enter and leave"), TIMES, || {
            drop(table.enter(1, arrival(1), now));
        });
        piece(&name("forwarded"), TIMES, || {
            black_box(correlate::find(&config, &table, &call(Some(&parent))));
        });
        piece(&name("by the table"), TIMES, || {
            black_box(correlate::find(&config, &table, &call(None)));
        });
        drop(guards);
    }
}

fn metrics_pieces() {
    let requests = Metrics::new().requests();
    let labels = RequestLabels {
        direction: Direction::Inbound,
        method: Method::from(&http::Method::GET),
        route: RouteId::NONE,
        status: Some(StatusCode::OK),
        version: Version::HTTP_11.into(),
        error: None,
    };
    piece("metrics", TIMES, || {
        requests.record(&labels, Duration::from_micros(700));
    });
}
