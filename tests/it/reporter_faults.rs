//! Collectors that refuse, hang, reset, reject, delay: the ledger is exact each time and the request path never waits.

use std::collections::HashSet;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;
use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use pillion::codec::Limits;
use pillion::codec::thrift;
use pillion::codec::thrift::Protocol;
use pillion::model::Span;
use pillion::reporter::Config;
use pillion::reporter::Reason;
use pillion::reporter::Reporters;
use pillion::reporter::Sink;
use pillion::reporter::Snapshot;

use crate::support::collector::Collector;
use crate::support::collector::Reply;
use crate::support::collector::Speaks;
use crate::support::collector::Where;
use crate::support::spans::spans;

const LIMIT: Duration = Duration::from_secs(20);
const SECOND: Duration = Duration::from_secs(1);

fn config(yaml: &str) -> Config {
    serde_saphyr::from_str(yaml).unwrap_or_else(|error| panic!("{yaml}: {error}"))
}

/// An `otlp` reporter that flushes and repeats quickly; `more` are further settings.
fn otlp(collector: &Collector, more: &str) -> Config {
    let url = collector.url();
    config(&format!(
        "otlp: {{ endpoint: '{url}', queue: {{ flush_interval: 20ms }}, \
         retry: {{ initial: 20ms, max: 100ms }}, {more} }}"
    ))
}

fn start(configs: &[Config]) -> Reporters {
    Reporters::start(configs, None, None).unwrap()
}

fn report(reporters: &Reporters, spans: &[Arc<Span>]) {
    for span in spans {
        reporters.report(Arc::clone(span));
    }
}

fn book(reporters: &Reporters) -> Snapshot {
    let mut books = reporters.snapshot();
    assert_eq!(books.len(), 1);
    let book = books.remove(0);
    assert_balanced(&book);
    book
}

fn assert_balanced(book: &Snapshot) {
    let sum = book.exported + book.dropped_total() + book.queued;
    assert_eq!(book.accepted, sum, "{book:?}");
}

/// Waits until nothing is queued, looking at the equation all the while.
async fn settled(reporters: &Reporters) -> Snapshot {
    let deadline = Instant::now() + LIMIT;
    loop {
        let book = book(reporters);
        if book.queued == 0 {
            return book;
        }
        assert!(Instant::now() < deadline, "never settled: {book:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn each_answer_leads_to_its_place_in_the_ledger() {
    let status = |code, headers| Reply::Status(code, headers, "why not");
    let later = vec![("retry-after", "0".to_owned())];
    for (why, script, expected, dropped, requests) in [
        ("accepted", vec![], 10, None, 1),
        (
            "slow",
            vec![Reply::Slow(Duration::from_millis(150))],
            10,
            None,
            1,
        ),
        (
            "partial",
            vec![Reply::Partial(3)],
            7,
            Some((Reason::Rejected, 3)),
            1,
        ),
        (
            "none accepted",
            vec![Reply::Partial(99)],
            0,
            Some((Reason::Rejected, 10)),
            1,
        ),
        (
            "400",
            vec![status(400, vec![])],
            0,
            Some((Reason::Rejected, 10)),
            1,
        ),
        (
            "413",
            vec![status(413, vec![])],
            0,
            Some((Reason::TooLarge, 10)),
            1,
        ),
        (
            "500",
            vec![status(500, vec![])],
            0,
            Some((Reason::Rejected, 10)),
            1,
        ),
        (
            "503, then accepted",
            vec![status(503, vec![]); 2],
            10,
            None,
            3,
        ),
        (
            "429 with Retry-After",
            vec![status(429, later)],
            10,
            None,
            2,
        ),
        ("reset in mid-answer", vec![Reply::Reset], 10, None, 2),
        (
            "503, then partial",
            vec![status(503, vec![]), Reply::Partial(1)],
            9,
            Some((Reason::Rejected, 1)),
            2,
        ),
    ] {
        let collector = Collector::start(Speaks::Http1, script, Reply::Accept).await;
        let reporters = start(&[otlp(&collector, "")]);
        report(&reporters, &spans(0..10, 10));
        let book = settled(&reporters).await;
        assert_eq!(
            (book.accepted, book.exported),
            (10, expected),
            "{why}: {book:?}"
        );
        let (reason, lost) = dropped.unwrap_or((Reason::Rejected, 0));
        assert_eq!(book.dropped_for(reason), lost, "{why}");
        assert_eq!(book.dropped_total(), lost, "{why}");
        assert_eq!(collector.received().len(), requests, "{why}");
        assert_eq!(collector.received()[0].path, "/v1/traces");
    }
}

#[tokio::test]
async fn retry_after_is_waited_for() {
    let later = Reply::Status(503, vec![("retry-after", "1".to_owned())], "");
    let collector = Collector::start(Speaks::Http1, vec![later], Reply::Accept).await;
    let reporters = start(&[otlp(&collector, "")]);
    report(&reporters, &spans(0..1, 10));
    assert_eq!(settled(&reporters).await.exported, 1);
    let received = collector.received();
    assert!(received[1].at - received[0].at >= SECOND);
}

#[tokio::test]
async fn a_collector_that_refuses_or_hangs_costs_spans_after_the_retry_limit() {
    let gone = Collector::start(Speaks::Http1, vec![], Reply::Hang).await;
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let refusing = format!("http://{}", closed.local_addr().unwrap());
    drop(closed);
    let retry = "retry: { initial: 20ms, max: 50ms, max_elapsed: 200ms }";
    let queue = "queue: { flush_interval: 20ms }";
    for (url, why) in [(refusing, "refusing"), (gone.url(), "hanging")] {
        let yaml = format!("otlp: {{ endpoint: '{url}', timeout: 50ms, {retry}, {queue} }}");
        let reporters = start(&[config(&yaml)]);
        report(&reporters, &spans(0..100, 10));
        let book = settled(&reporters).await;
        assert_eq!(
            book.dropped_for(Reason::RetriesExhausted),
            100,
            "{why}: {book:?}"
        );
        assert!(book.attempts >= 2, "{why}: {book:?}");
        assert!(book.last_error.is_some(), "{why}");
    }
}

#[tokio::test]
async fn the_request_path_never_waits_for_a_collector_that_hangs() {
    let collector = Collector::start(Speaks::Http1, vec![], Reply::Hang).await;
    let reporters = start(&[otlp(&collector, "timeout: 1h")]);
    report(&reporters, &spans(0..512, 10));
    let deadline = Instant::now() + LIMIT;
    while collector.received().is_empty() {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // One batch is on its way and stays there; the queue takes 2,048 more, the rest is dropped.
    let more = spans(1_000..11_000, 10);
    let started = Instant::now();
    report(&reporters, &more);
    assert!(started.elapsed() < SECOND, "{:?}", started.elapsed());
    let full = book(&reporters);
    assert_eq!(full.accepted, 10_512);
    assert_eq!(full.dropped_for(Reason::QueueFull), 10_000 - 2_048);
    assert_eq!(full.queued, 2_048 + 512);
    let started = Instant::now();
    reporters.shutdown(Duration::from_millis(200)).await;
    assert!(started.elapsed() < SECOND, "{:?}", started.elapsed());
    let after = book(&reporters);
    assert_eq!(after.queued, 0);
    assert_eq!(after.dropped_for(Reason::Shutdown), 2_048 + 512);
}

#[tokio::test]
async fn thousands_of_spans_from_many_threads_arrive_once_each() {
    let collector = Collector::start(Speaks::Http1, vec![], Reply::Accept).await;
    let queue = "queue: { capacity: 20000, batch: 500, flush_interval: 20ms }";
    let url = collector.url();
    let yaml = format!("otlp: {{ endpoint: '{url}', compression: gzip, {queue} }}");
    let reporters = Arc::new(start(&[config(&yaml)]));
    let threads: Vec<_> = (0..4_u64)
        .map(|thread| {
            let reporters = Arc::clone(&reporters);
            let spans = spans(thread * 2_000..(thread + 1) * 2_000, 50);
            std::thread::spawn(move || report(&reporters, &spans))
        })
        .collect();
    for thread in threads {
        tokio::task::spawn_blocking(move || thread.join().unwrap())
            .await
            .unwrap();
    }
    let book = settled(&reporters).await;
    assert_eq!((book.accepted, book.exported), (8_000, 8_000));
    let batches = collector.otlp_batches();
    assert!(batches.iter().all(|batch| batch.len() <= 500));
    let ids: Vec<u64> = batches.into_iter().flatten().collect();
    assert_eq!(ids.len(), 8_000);
    assert_eq!(ids.iter().collect::<HashSet<_>>().len(), 8_000);
}

#[tokio::test]
async fn shutdown_sends_what_is_left_and_refuses_what_comes_later() {
    let script = vec![Reply::Status(503, vec![], "")];
    let collector = Collector::start(Speaks::Http1, script, Reply::Accept).await;
    let url = collector.url();
    let retry = "retry: { initial: 20ms }";
    let queue = "queue: { flush_interval: 1h, batch: 30 }";
    let yaml = format!("otlp: {{ endpoint: '{url}', {queue}, {retry} }}");
    let reporters = start(&[config(&yaml)]);
    report(&reporters, &spans(0..100, 10));
    reporters.shutdown(Duration::from_secs(10)).await;
    let flushed = book(&reporters);
    assert_eq!((flushed.exported, flushed.queued), (100, 0), "{flushed:?}");
    report(&reporters, &spans(100..105, 10));
    let late = book(&reporters);
    assert_eq!(late.dropped_for(Reason::Shutdown), 5);
    assert_eq!((late.accepted, late.queued), (105, 0));
}

#[tokio::test]
async fn shutdown_ends_long_waits_with_one_last_try() {
    let later = Reply::Status(503, vec![("retry-after", "50".to_owned())], "");
    let collector = Collector::start(Speaks::Http1, vec![later], Reply::Accept).await;
    let reporters = start(&[otlp(&collector, "")]);
    report(&reporters, &spans(0..10, 10));
    let deadline = Instant::now() + LIMIT;
    while collector.received().is_empty() {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let started = Instant::now();
    reporters.shutdown(Duration::from_secs(10)).await;
    assert!(started.elapsed() < Duration::from_secs(5));
    assert_eq!(book(&reporters).exported, 10);
}

#[tokio::test]
async fn reload_keeps_unchanged_reporters_and_counters_never_go_back() {
    let first = Collector::start(Speaks::Http1, vec![], Reply::Accept).await;
    let second = Collector::start(Speaks::Http1, vec![], Reply::Accept).await;
    let lazy = |collector: &Collector| {
        let url = collector.url();
        config(&format!(
            "otlp: {{ endpoint: '{url}', queue: {{ flush_interval: 1h }} }}"
        ))
    };
    let reporters = start(&[lazy(&first)]);
    report(&reporters, &spans(0..10, 10));
    reporters.reload(&[lazy(&first)], SECOND).unwrap().await;
    assert_eq!(book(&reporters).queued, 10, "unchanged: nothing is flushed");
    let flush = reporters
        .reload(&[lazy(&second)], Duration::from_secs(10))
        .unwrap();
    report(&reporters, &spans(10..15, 10));
    flush.await;
    assert_eq!(
        first.otlp_batches().concat().len(),
        10,
        "flushed when replaced"
    );
    assert_eq!(
        (book(&reporters).accepted, book(&reporters).queued),
        (15, 5)
    );
    let bad = config("otlp: { headers: { 'a b': c } }");
    assert!(reporters.reload(&[bad], SECOND).is_err());
    report(&reporters, &spans(15..20, 10));
    reporters.shutdown(Duration::from_secs(10)).await;
    assert_eq!(
        second.otlp_batches().concat().len(),
        10,
        "a refused reload changes nothing"
    );
    assert_eq!(book(&reporters).exported, 20);
}

#[tokio::test]
async fn batches_beyond_the_largest_request_go_out_in_halves() {
    let collector = Collector::start(Speaks::Http1, vec![], Reply::Accept).await;
    let reporters = start(&[otlp(&collector, "max_request_size: 10kB")]);
    let mut batch = spans(0..16, 1_000);
    batch.extend(spans(16..17, 20_000));
    report(&reporters, &batch);
    let book = settled(&reporters).await;
    assert_eq!(book.exported, 16);
    assert_eq!(book.dropped_for(Reason::TooLarge), 1);
    assert!(
        collector
            .received()
            .iter()
            .all(|request| request.body.len() <= 10_000)
    );
    assert_eq!(
        collector.otlp_batches().concat(),
        (1..=16).collect::<Vec<u64>>()
    );
}

#[tokio::test]
async fn one_bad_reporter_takes_nothing_from_the_others_or_the_store() {
    struct Store(Mutex<Vec<u64>>);
    impl Sink for Store {
        fn report(&self, span: Arc<Span>) {
            self.0.lock().unwrap().push(span.context.span_id.to_u64());
        }
    }
    let good = Collector::start(Speaks::Http1, vec![], Reply::Accept).await;
    let bad = Collector::start(Speaks::Http1, vec![], Reply::Hang).await;
    let store = Arc::new(Store(Mutex::default()));
    let heard = Arc::new(Mutex::new(Vec::new()));
    let hearing = Arc::clone(&heard);
    let configs = [otlp(&good, ""), otlp(&bad, "timeout: 1h")];
    let reporters = Reporters::start(
        &configs,
        Some(Arc::clone(&store) as Arc<dyn Sink>),
        Some(Arc::new(move |name: &str, _, delivered| {
            hearing.lock().unwrap().push((name.to_owned(), delivered));
        })),
    )
    .unwrap();
    report(&reporters, &spans(0..50, 10));
    let deadline = Instant::now() + LIMIT;
    while reporters.snapshot()[0].exported < 50 {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    reporters.shutdown(Duration::from_millis(100)).await;
    let books = reporters.snapshot();
    books.iter().for_each(assert_balanced);
    assert_eq!(
        (books[0].name.as_str(), books[1].name.as_str()),
        ("otlp", "otlp_2")
    );
    assert_eq!(books[1].dropped_for(Reason::Shutdown), 50);
    assert_eq!(store.0.lock().unwrap().len(), 50);
    assert!(heard.lock().unwrap().contains(&("otlp".to_owned(), true)));
}

#[tokio::test]
async fn grpc_answers_lead_to_their_place_in_the_ledger() {
    let fail = |code, place| Reply::Grpc(code, None, place);
    // google.rpc.Status { details: [Any { RetryInfo { retry_delay { nanos: 1 } } }] }
    let info: &[u8] = b"\x0a\x02\x10\x01";
    let url = b"type.googleapis.com/google.rpc.RetryInfo";
    let mut any = vec![0x0a, url.len() as u8];
    any.extend(url);
    any.extend([0x12, info.len() as u8]);
    any.extend(info);
    let mut status = vec![0x1a, any.len() as u8];
    status.extend(any);
    let come_back = Reply::Grpc(8, Some(STANDARD_NO_PAD.encode(status)), Where::Trailers);
    for (why, script, exported, rejected, requests) in [
        ("accepted", vec![], 10, 0, 1),
        ("partial", vec![Reply::Partial(4)], 6, 4, 1),
        (
            "unavailable",
            vec![fail(14, Where::Headers), fail(14, Where::Trailers)],
            10,
            0,
            3,
        ),
        ("invalid", vec![fail(3, Where::Headers)], 0, 10, 1),
        ("exhausted", vec![fail(8, Where::Trailers)], 0, 10, 1),
        ("exhausted, come back", vec![come_back], 10, 0, 2),
        (
            "a gateway in between",
            vec![Reply::Status(502, vec![], "")],
            10,
            0,
            2,
        ),
    ] {
        let collector = Collector::start(Speaks::Http2, script, Reply::Accept).await;
        let more = "protocol: grpc, compression: gzip, headers: { x-key: secret }";
        let reporters = start(&[otlp(&collector, more)]);
        report(&reporters, &spans(0..10, 10));
        let book = settled(&reporters).await;
        assert_eq!(
            (book.exported, book.dropped_for(Reason::Rejected)),
            (exported, rejected),
            "{why}"
        );
        let received = collector.received();
        assert_eq!(received.len(), requests, "{why}");
        let path = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
        assert_eq!(received[0].path, path);
        assert_eq!(received[0].headers["te"], "trailers");
        assert_eq!(received[0].headers["x-key"], "secret");
        assert_eq!(received[0].otlp_spans().len(), 10);
    }
}

#[tokio::test]
async fn jaeger_over_http_posts_thrift_with_credentials() {
    let accepted = Reply::Status(202, vec![], "");
    let script = vec![Reply::Status(500, vec![], "queue full"), accepted.clone()];
    let collector = Collector::start(Speaks::Http1, script, accepted).await;
    let url = collector.url();
    let auth = "basic_auth: { user: u, password: p }";
    let queue = "queue: { flush_interval: 20ms }";
    let reporters = start(&[config(&format!(
        "jaeger_http: {{ endpoint: '{url}', {auth}, {queue} }}"
    ))]);
    report(&reporters, &spans(0..10, 10));
    assert_eq!(
        settled(&reporters).await.dropped_for(Reason::Rejected),
        10,
        "500 is final"
    );
    report(&reporters, &spans(10..20, 10));
    assert_eq!(settled(&reporters).await.exported, 10);
    let received = collector.received();
    assert_eq!(received[1].path, "/api/traces?format=jaeger.thrift");
    assert_eq!(received[1].headers["authorization"], "Basic dTpw");
    assert_eq!(received[1].headers["content-type"], "application/x-thrift");
    let batch =
        thrift::decode_batch(&received[1].body, Protocol::Binary, Limits::default()).unwrap();
    assert_eq!(batch.spans.len(), 10);
    assert_eq!(batch.process.service, "svc");
}

#[tokio::test]
async fn datagrams_hold_every_span_that_fits_and_count_the_one_that_does_not() {
    for (protocol, yaml) in [(Protocol::Compact, "compact"), (Protocol::Binary, "binary")] {
        let agent = UdpSocket::bind("127.0.0.1:0").unwrap();
        agent.set_read_timeout(Some(LIMIT)).unwrap();
        let addr = agent.local_addr().unwrap();
        let queue = "queue: { flush_interval: 20ms }";
        let yaml = format!("jaeger_udp: {{ endpoint: '{addr}', protocol: {yaml}, {queue} }}");
        // All of it must fit into the buffer, however late this thread reads.
        let buffer = socket2::SockRef::from(&agent).set_recv_buffer_size(1 << 20);
        buffer.unwrap();
        let reporters = start(&[config(&yaml)]);
        let mut batch = spans(0..4, 20_000);
        batch.extend(spans(4..5, 70_000));
        batch.extend(spans(5..6, 64_000));
        report(&reporters, &batch);
        let book = settled(&reporters).await;
        assert_eq!(
            (book.exported, book.dropped_for(Reason::TooLarge)),
            (5, 1),
            "{book:?}"
        );
        let ids = read_datagrams(&agent, protocol, 5);
        assert_eq!(ids, [1, 2, 3, 4, 6]);
    }
}

/// The ids of the first `count` spans that arrive.
fn read_datagrams(agent: &UdpSocket, protocol: Protocol, count: usize) -> Vec<u64> {
    let mut ids = Vec::new();
    let mut buffer = vec![0; 70_000];
    while ids.len() < count {
        let (len, _) = agent.recv_from(&mut buffer).unwrap();
        assert!(len <= 65_000);
        let message = thrift::decode_message(&buffer[..len], protocol, Limits::default()).unwrap();
        assert!(message.oneway);
        ids.extend(message.batch.spans.iter().map(|span| span.span_id));
    }
    ids
}

#[tokio::test]
async fn datagrams_that_nobody_reads_are_counted_as_failed() {
    let agent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let addr = agent.local_addr().unwrap();
    let yaml = format!("jaeger_udp: {{ endpoint: '{addr}', queue: {{ flush_interval: 20ms }} }}");
    let reporters = start(&[config(&yaml)]);
    report(&reporters, &spans(0..5, 10));
    assert_eq!(settled(&reporters).await.exported, 5);
    drop(agent);
    report(&reporters, &spans(5..10, 10));
    let book = settled(&reporters).await;
    assert_eq!(
        (book.exported, book.dropped_for(Reason::SendFailed)),
        (5, 5),
        "{book:?}"
    );
    assert!(book.last_error.unwrap().contains("refused"));
    let Ok(_back) = UdpSocket::bind(addr) else {
        return; // somebody else took the port
    };
    report(&reporters, &spans(10..15, 10));
    assert_eq!(settled(&reporters).await.exported, 10, "back again");
}

#[tokio::test]
async fn collectors_behind_tls_are_verified() {
    let dir = tempfile::tempdir().unwrap();
    let key = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let (cert, key) = (key.cert.pem(), key.signing_key.serialize_pem());
    let cert_file = dir.path().join("cert.pem");
    let key_file = dir.path().join("key.pem");
    std::fs::write(&cert_file, cert).unwrap();
    std::fs::write(&key_file, key).unwrap();
    for (speaks, protocol) in [(Speaks::Http1, "http_protobuf"), (Speaks::Http2, "grpc")] {
        let collector = Collector::start_tls(speaks, &cert_file, &key_file).await;
        let port = collector.addr.port();
        let reporter = |ca: &str| {
            config(&format!(
                "otlp: {{ endpoint: 'https://localhost:{port}', protocol: {protocol}, {ca} \
                 queue: {{ flush_interval: 20ms }}, retry: {{ max_elapsed: 0 }} }}"
            ))
        };
        let trusting = format!("tls: {{ ca_file: '{}' }},", cert_file.display());
        let reporters = start(&[reporter(&trusting)]);
        report(&reporters, &spans(0..5, 10));
        let trusted = settled(&reporters).await;
        assert_eq!(trusted.exported, 5, "{protocol}: {trusted:?}");
        let reporters = start(&[reporter("")]);
        report(&reporters, &spans(0..5, 10));
        let unknown = settled(&reporters).await;
        assert_eq!(
            unknown.dropped_for(Reason::RetriesExhausted),
            5,
            "{protocol}: {unknown:?}"
        );
        assert_eq!(
            collector.received().len(),
            1,
            "{protocol}: nothing was sent to a stranger"
        );
    }
}

#[tokio::test]
async fn a_collector_that_asks_for_quiet_beyond_the_retry_limit_gets_it() {
    let later = Reply::Status(429, vec![("retry-after", "1".to_owned())], "");
    let collector = Collector::start(Speaks::Http1, vec![later], Reply::Accept).await;
    let url = collector.url();
    let queue = "queue: { flush_interval: 20ms }";
    let retry = "retry: { max_elapsed: 0 }";
    let reporters = start(&[config(&format!(
        "otlp: {{ endpoint: '{url}', {queue}, {retry} }}"
    ))]);
    report(&reporters, &spans(0..5, 10));
    assert_eq!(
        settled(&reporters)
            .await
            .dropped_for(Reason::RetriesExhausted),
        5
    );
    report(&reporters, &spans(5..10, 10));
    assert_eq!(settled(&reporters).await.exported, 5);
    let received = collector.received();
    assert!(
        received[1].at - received[0].at >= SECOND,
        "the next batch waited too"
    );
}

#[tokio::test]
async fn a_small_queue_is_emptied_before_it_overflows() {
    let collector = Collector::start(Speaks::Http1, vec![], Reply::Accept).await;
    let url = collector.url();
    let queue = "queue: { capacity: 64, batch: 512, flush_interval: 1h }";
    let reporters = start(&[config(&format!("otlp: {{ endpoint: '{url}', {queue} }}"))]);
    for chunk in spans(0..320, 10).chunks(16) {
        report(&reporters, chunk);
        let deadline = Instant::now() + LIMIT;
        while book(&reporters).queued >= 16 {
            assert!(Instant::now() < deadline, "nobody was woken");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    assert_eq!(book(&reporters).dropped_total(), 0);
}
