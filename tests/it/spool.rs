//! Collectors that go away and come back, processes that are killed meanwhile: what the spool took arrives, what it had no
//! room for is counted, span by span.

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use pillion::model::Span;
use pillion::reporter::Config;
use pillion::reporter::Reason;
use pillion::reporter::Reporters;
use pillion::reporter::Sink;
use pillion::reporter::Snapshot;
use rustix::process::Signal;
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::support::collector::Collector;
use crate::support::collector::Down;
use crate::support::collector::Reply;
use crate::support::echo::Echo;
use crate::support::http;
use crate::support::pillion::Pillion;
use crate::support::skip::skip;
use crate::support::spans::spans;

const LIMIT: Duration = Duration::from_secs(30);

/// An `otlp` reporter with a spool in this folder that holds so much.
fn config(url: &str, folder: &Path, max_size: &str) -> Config {
    let yaml = format!(
        "otlp: {{ endpoint: '{url}', timeout: 2s, retry: {{ initial: 20ms, max: 100ms, max_elapsed: 1s }}, \
         queue: {{ capacity: 1000, batch: 100, flush_interval: 20ms, \
         spool: {{ folder: '{}', max_size: {max_size} }} }} }}",
        folder.display()
    );
    serde_saphyr::from_str(&yaml).unwrap_or_else(|error| panic!("{yaml}: {error}"))
}

fn start(config: &Config) -> Reporters {
    Reporters::start(std::slice::from_ref(config), None, None).unwrap()
}

fn book(reporters: &Reporters) -> Snapshot {
    let book = reporters.snapshot().remove(0);
    let sum = book.exported + book.dropped_total() + book.queued;
    assert_eq!(book.accepted, sum, "{book:?}");
    let spool = book.spool;
    let sum = spool.recovered_exported + spool.recovered_dropped + spool.recovered_queued;
    assert_eq!(spool.recovered, sum, "{book:?}");
    assert!(spool.bytes <= spool.capacity, "{book:?}");
    book
}

/// Waits until the book says so.
async fn until(reporters: &Reporters, what: &str, is_so: impl Fn(&Snapshot) -> bool) -> Snapshot {
    let deadline = Instant::now() + LIMIT;
    loop {
        let book = book(reporters);
        if is_so(&book) {
            return book;
        }
        assert!(Instant::now() < deadline, "never {what}: {book:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn settled(reporters: &Reporters) -> Snapshot {
    let is_so = |book: &Snapshot| book.queued + book.spool.spans == 0;
    until(reporters, "settled", is_so).await
}

/// Reports as fast as the queue is emptied.
async fn report(reporters: &Reporters, spans: &[Arc<Span>]) {
    for some in spans.chunks(100) {
        let roomy = |book: &Snapshot| {
            let on_disk = book.spool.spans.saturating_sub(book.spool.recovered_queued);
            book.queued.saturating_sub(on_disk) <= 600
        };
        until(reporters, "roomy", roomy).await;
        for span in some {
            reporters.report(Arc::clone(span));
        }
    }
}

/// The ids that arrived, in order, each once.
fn arrived(collector: &Collector) -> Vec<u64> {
    let ids = collector.otlp_batches().concat();
    let distinct: HashSet<_> = ids.iter().collect();
    assert_eq!(distinct.len(), ids.len(), "spans arrived twice");
    ids
}

#[tokio::test]
async fn an_outage_costs_no_span_below_the_cap() {
    let folder = tempfile::tempdir().unwrap();
    let down = Down::new();
    let reporters = start(&config(&down.url(), folder.path(), "64MiB"));
    report(&reporters, &spans(0..10_000, 200)).await;
    let is_so = |book: &Snapshot| book.spool.spans == 10_000;
    let away = until(&reporters, "on the disk", is_so).await;
    assert_eq!((away.exported, away.dropped_total()), (0, 0), "{away:?}");
    let trouble = vec![
        Reply::Status(503, vec![], ""),
        Reply::Reset,
        Reply::Partial(0),
    ];
    let collector = down.up(trouble);
    report(&reporters, &spans(10_000..12_000, 200)).await;
    let book = settled(&reporters).await;
    assert_eq!((book.exported, book.dropped_total()), (12_000, 0));
    assert_eq!(book.spool.bytes, 0);
    // A connection that breaks may break after the batch was taken: then it comes twice, and in full.
    let ids: HashSet<u64> = collector.otlp_batches().concat().into_iter().collect();
    assert_eq!(ids.len(), 12_000);
}

#[tokio::test]
async fn above_the_cap_the_oldest_go_and_are_counted_one_by_one() {
    let folder = tempfile::tempdir().unwrap();
    let down = Down::new();
    let reporters = start(&config(&down.url(), folder.path(), "256KiB"));
    report(&reporters, &spans(0..2_000, 1_000)).await;
    let is_so = |book: &Snapshot| book.spool.written == 2_000;
    until(&reporters, "written", is_so).await;
    let collector = down.up(vec![]);
    let book = settled(&reporters).await;
    let lost = book.dropped_for(Reason::SpoolFull);
    assert_eq!((book.exported, book.dropped_total()), (2_000 - lost, lost));
    assert!(lost > 1_500, "{book:?}");
    // What was under way when the outage began may outlive what is newer, but the newest is there.
    let ids = arrived(&collector);
    assert_eq!(ids.len() as u64, book.exported);
    assert!(ids.contains(&2_000));
}

#[tokio::test]
async fn a_collector_that_hangs_does_not_hold_up_the_queue() {
    let folder = tempfile::tempdir().unwrap();
    let collector = Down::new().up(vec![Reply::Hang]);
    let reporters = start(&config(&collector.url(), folder.path(), "64MiB"));
    report(&reporters, &spans(0..5_000, 200)).await;
    let book = settled(&reporters).await;
    assert_eq!((book.exported, book.dropped_total()), (5_000, 0));
    assert!(book.spool.written >= 3_000, "{book:?}");
}

#[tokio::test]
async fn a_healthy_collector_needs_no_disk() {
    let folder = tempfile::tempdir().unwrap();
    let collector = Down::new().up(vec![]);
    let reporters = start(&config(&collector.url(), folder.path(), "64MiB"));
    for some in spans(0..3_000, 200).chunks(300) {
        report(&reporters, some).await;
        settled(&reporters).await;
    }
    let book = book(&reporters);
    assert_eq!(book.exported, 3_000);
    assert_eq!(book.spool.written, 0, "{book:?}");
}

#[tokio::test]
async fn a_stop_during_an_outage_leaves_everything_to_the_next_process() {
    let folder = tempfile::tempdir().unwrap();
    let down = Down::new();
    let settings = config(&down.url(), folder.path(), "64MiB");
    let first = start(&settings);
    report(&first, &spans(0..1_500, 200)).await;
    let started = Instant::now();
    first.shutdown(Duration::from_secs(5)).await;
    assert!(started.elapsed() < Duration::from_secs(5));
    let left = book(&first);
    assert_eq!(
        (left.dropped_total(), left.spool.spans),
        (0, 1_500),
        "{left:?}"
    );
    let second = start(&settings);
    let collector = down.up(vec![]);
    report(&second, &spans(5_000..5_100, 200)).await;
    let done = |book: &Snapshot| book.spool.recovered_exported == 1_500 && book.exported == 100;
    let book = until(&second, "recovered", done).await;
    assert_eq!((book.accepted, book.spool.recovered), (100, 1_500));
    assert_eq!(arrived(&collector).len(), 1_600);
}

#[tokio::test]
async fn a_changed_reporter_takes_over_what_its_predecessor_left() {
    let folder = tempfile::tempdir().unwrap();
    let (gone, down) = (Down::new(), Down::new());
    let reporters = start(&config(&gone.url(), folder.path(), "64MiB"));
    report(&reporters, &spans(0..800, 200)).await;
    let new = config(&down.url(), folder.path(), "32MiB");
    let flush = reporters.reload(&[new], Duration::from_secs(5)).unwrap();
    flush.await;
    report(&reporters, &spans(800..1_000, 200)).await;
    let collector = down.up(vec![]);
    let book = settled(&reporters).await;
    assert_eq!((book.accepted, book.exported), (1_000, 1_000));
    assert_eq!(book.spool.recovered, 0, "one process, one book");
    assert_eq!(arrived(&collector).len(), 1_000);
}

#[tokio::test]
async fn a_folder_in_use_is_left_alone_until_it_is_free() {
    let folder = tempfile::tempdir().unwrap();
    let (down, other) = (Down::new(), Down::new());
    let first = start(&config(&down.url(), folder.path(), "64MiB"));
    report(&first, &spans(0..300, 200)).await;
    until(&first, "on the disk", |book| book.spool.spans == 300).await;
    // As another process would: its own reporters in the same folder.
    let second = start(&config(&other.url(), folder.path(), "64MiB"));
    report(&second, &spans(300..400, 200)).await;
    let lost = |book: &Snapshot| book.dropped_for(Reason::RetriesExhausted) == 100;
    let without = until(&second, "given up as without a spool", lost).await;
    assert_eq!(without.spool.written, 0);
    assert!(without.spool.failures > 0);
    first.shutdown(Duration::from_secs(5)).await;
    report(&second, &spans(400..500, 200)).await;
    let collector = other.up(vec![]);
    let done = |book: &Snapshot| book.exported == 100 && book.spool.recovered_exported == 300;
    until(&second, "took over", done).await;
    assert_eq!(arrived(&collector).len(), 400);
}

#[tokio::test]
async fn a_batch_that_the_collector_refuses_is_not_sent_for_ever() {
    let folder = tempfile::tempdir().unwrap();
    let down = Down::new();
    let reporters = start(&config(&down.url(), folder.path(), "64MiB"));
    report(&reporters, &spans(0..300, 200)).await;
    until(&reporters, "on the disk", |book| book.spool.spans == 300).await;
    let refuse = Reply::Status(400, vec![], "no");
    let collector = down.up(vec![refuse, Reply::Partial(10)]);
    let book = settled(&reporters).await;
    assert_eq!(book.exported + book.dropped_for(Reason::Rejected), 300);
    assert!(book.dropped_for(Reason::Rejected) > 10, "{book:?}");
    assert!(!collector.received().is_empty());
}

/// A sidecar with a spool, in front of this program.
fn sidecar(app: u16, collector: &str, folder: &Path) -> serde_json::Value {
    json!({
        "app": format!("127.0.0.1:{app}"),
        "workers": 1,
        "inbound": { "listen": "127.0.0.1:0" },
        "outbound": { "enabled": false },
        "admin": { "listen": "127.0.0.1:0" },
        "sampling": { "constant": { "decision": true } },
        "reporters": [{ "otlp": {
            "endpoint": collector,
            "queue": {
                "capacity": 200, "batch": 50, "flush_interval": "20ms",
                "spool": { "folder": folder },
            },
            "retry": { "initial": "20ms", "max": "100ms" },
        } }],
    })
}

async fn requests(port: u16, count: usize) {
    for _ in 0..count {
        assert_eq!(http::get(port, "/x").await.unwrap().status, 200);
    }
}

/// The sum of a metric's series in the sidecar's own words.
async fn metric(sidecar: &Pillion, name: &str) -> f64 {
    let port = sidecar.port("admin");
    let answer = http::get(port, "/metrics").await.unwrap();
    let text = String::from_utf8(answer.body).unwrap();
    text.lines()
        .filter(|line| line.split(['{', ' ']).next() == Some(name))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}

async fn until_metric(sidecar: &Pillion, name: &str, value: f64) {
    let deadline = Instant::now() + LIMIT;
    loop {
        let now = metric(sidecar, name).await;
        if now == value {
            return;
        }
        assert!(Instant::now() < deadline, "{name} is {now}, never {value}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn what_was_on_the_disk_survives_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let app = Echo::start().await;
    let down = Down::new();
    let settings = sidecar(app.port, &down.url(), folder.path()).to_string();
    let mut first = Pillion::run(&settings);
    requests(first.port("inbound"), 300).await;
    until_metric(&first, "pillion_spool_spans", 300.0).await;
    first.kill();
    // As if the kill had come in the middle of a write.
    let segment = newest(&folder.path().join("otlp"));
    let mut bytes = fs::read(&segment).unwrap();
    let begin = bytes[24..64].to_vec();
    bytes.extend(begin);
    fs::write(&segment, bytes).unwrap();

    let mut second = Pillion::run(&settings);
    until_metric(&second, "pillion_spool_recovered_spans_total", 300.0).await;
    assert_eq!(
        metric(&second, "pillion_spool_damaged_records_total").await,
        1.0
    );
    requests(second.port("inbound"), 50).await;
    let collector = down.up(vec![]);
    until_metric(
        &second,
        "pillion_spool_recovered_exported_spans_total",
        300.0,
    )
    .await;
    until_metric(&second, "pillion_reporter_spans_exported_total", 50.0).await;
    assert_eq!(metric(&second, "pillion_spool_bytes").await, 0.0);
    assert_eq!(arrived(&collector).len(), 350);
    second.stop();
}

#[tokio::test]
async fn a_full_disk_costs_spans_but_no_request() {
    let folder = tempfile::tempdir().unwrap();
    let app = Echo::start().await;
    let down = Down::new();
    let settings = sidecar(app.port, &down.url(), folder.path()).to_string();
    // A disk of its own, seen by nobody else.
    let mount = format!(
        "mount -t tmpfs -o size=128k none '{}'",
        folder.path().display()
    );
    let Some(mut sidecar) = Pillion::run_after(&mount, &settings) else {
        return skip("a full disk needs the right to mount one");
    };
    let port = sidecar.port("inbound");
    for _ in 0..20 {
        requests(port, 50).await;
    }
    let collector = down.up(vec![]);
    let deadline = Instant::now() + LIMIT;
    while metric(&sidecar, "pillion_reporter_queue_spans").await > 0.0 {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let exported = metric(&sidecar, "pillion_reporter_spans_exported_total").await;
    let dropped = metric(&sidecar, "pillion_reporter_spans_dropped_total").await;
    assert_eq!(exported + dropped, 1_000.0);
    assert!(dropped > 0.0 && exported > 0.0, "{exported} {dropped}");
    assert_eq!(arrived(&collector).len() as f64, exported);
    sidecar.signal(Signal::TERM);
    sidecar.wait();
}

/// Requests at this pace over one kept connection, until told to stop; how many were answered.
async fn load(port: u16, pause: Duration, stop: Arc<AtomicBool>) -> usize {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let mut buffer = vec![0; 4096];
    let mut answered = 0;
    let mut tick = tokio::time::interval(pause);
    while !stop.load(Ordering::Relaxed) {
        tick.tick().await;
        let request = b"HEAD /x HTTP/1.1\r\nhost: app\r\n\r\n";
        if stream.write_all(request).await.is_err() {
            break;
        }
        match stream.read(&mut buffer).await {
            Ok(read) if buffer[..read].starts_with(b"HTTP/1.1 200") => answered += 1,
            _ => break,
        }
    }
    answered
}

/// The long form of the tests above, with a sidecar below its cap, one above it, and one that is killed in the middle:
/// `cargo test --test it two_minutes -- --ignored --nocapture`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes two and a half minutes"]
async fn two_minutes_without_a_collector_under_load() {
    let app = Echo::start().await;
    let folders = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let downs = [(); 3].map(|()| Down::new());
    let settings: Vec<String> = (0..3)
        .map(|at| {
            let mut settings = sidecar(app.port, &downs[at].url(), folders[at].path());
            let queue = &mut settings["reporters"][0]["otlp"]["queue"];
            queue["capacity"] = json!(2048);
            queue["batch"] = json!(512);
            queue["flush_interval"] = json!("1s");
            if at == 1 {
                queue["spool"]["max_size"] = json!("4MiB");
            }
            settings.to_string()
        })
        .collect();
    let pause = Duration::from_millis(2);
    let stop = Arc::new(AtomicBool::new(false));
    let run = |at: usize| {
        let sidecar = Pillion::run(&settings[at]);
        let port = sidecar.port("inbound");
        (sidecar, tokio::spawn(load(port, pause, Arc::clone(&stop))))
    };
    let mut runs: Vec<_> = (0..3).map(run).collect();
    tokio::time::sleep(Duration::from_secs(60)).await;
    let (mut killed, loading) = runs.pop().unwrap();
    let on_disk = metric(&killed, "pillion_spool_spans").await;
    killed.kill();
    let before = loading.await.unwrap();
    runs.push(run(2));
    tokio::time::sleep(Duration::from_secs(60)).await;
    let collectors = downs.map(|down| down.up(vec![]));
    tokio::time::sleep(Duration::from_secs(10)).await;
    stop.store(true, Ordering::Relaxed);
    let mut answered = Vec::new();
    for (at, (mut sidecar, loading)) in runs.into_iter().enumerate() {
        answered.push(loading.await.unwrap());
        until_metric(&sidecar, "pillion_spool_spans", 0.0).await;
        until_metric(&sidecar, "pillion_reporter_queue_spans", 0.0).await;
        let dropped = metric(&sidecar, "pillion_reporter_spans_dropped_total").await;
        let ids = collectors[at].otlp_batches().concat();
        let distinct = ids.iter().collect::<HashSet<_>>().len();
        println!(
            "sidecar {at}: {} requests answered, {distinct} spans arrived ({} twice), {dropped} dropped",
            answered[at],
            ids.len() - distinct
        );
        match at {
            0 => assert_eq!((distinct, dropped), (answered[0], 0.0)),
            1 => assert_eq!(distinct + dropped as usize, answered[1]),
            _ => {
                let first = distinct - answered[2];
                println!("killed after {before} requests, {on_disk} on the disk: {first} arrived");
                assert!(first as f64 >= on_disk && first <= before);
                assert_eq!(dropped, 0.0);
            }
        }
        sidecar.stop();
    }
}

fn newest(folder: &Path) -> std::path::PathBuf {
    let mut paths: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|found| found == "spans"))
        .collect();
    paths.sort();
    paths.pop().unwrap()
}
