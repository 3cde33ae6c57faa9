//! The table, the ledger under scripted senders, shutdown and reload.

use std::sync::Arc;

use crate::codec::tests::full_span;
use crate::model::Span;
use crate::model::SpanId;

use super::*;

/// A span whose id is this number.
pub(super) fn span(id: u64) -> Arc<Span> {
    let mut span = full_span();
    span.context.span_id = SpanId::from_u64(id).unwrap();
    Arc::new(span)
}

#[test]
fn every_example_builds_and_unknown_keys_are_refused() {
    for (name, example) in KINDS {
        let config: Config = serde_saphyr::from_str(example).unwrap_or_else(|error| {
            panic!("{name}: {error}");
        });
        assert_eq!(config.kind(), *name);
        config.check().unwrap();
        let misspelt = format!("{name}: {{ no_such_key: 1 }}");
        assert!(
            serde_saphyr::from_str::<Config>(&misspelt).is_err(),
            "{name}"
        );
        let bare = format!("{name}: {{}}");
        let config: Config = serde_saphyr::from_str(&bare).unwrap();
        config.check().unwrap();
        let printed = serde_json::to_value(&config).unwrap();
        assert_eq!(
            serde_json::from_value::<Config>(printed).unwrap(),
            config,
            "{name}"
        );
    }
}

/// With either, no batch would ever arrive.
#[test]
fn neither_time_nor_size_may_be_zero() {
    for (name, example) in KINDS {
        let config: Config = serde_saphyr::from_str(example).unwrap();
        let mut value = serde_json::to_value(config).unwrap();
        for key in ["timeout", "max_request_size", "max_packet_size"] {
            let Some(setting) = value[name].get_mut(key) else {
                continue;
            };
            let good = std::mem::replace(setting, "0".into());
            let error = serde_json::from_value::<Config>(value.clone()).unwrap_err();
            assert!(error.to_string().contains("than zero"), "{name}: {error}");
            value[name][key] = good;
        }
    }
}

/// A reporter with this sender in front of one that can reach nobody.
fn reporters_with(sender: Box<dyn Sender>) -> Reporters {
    let yaml = "otlp: { endpoint: 'http://127.0.0.1:1', retry: { max_elapsed: 0 }, \
                queue: { capacity: 8, batch: 4, flush_interval: 10ms, senders: 1 } }";
    let config: Config = serde_saphyr::from_str(yaml).unwrap();
    let reporters = Reporters::start(&[], None, None).unwrap();
    let mut control = reporters.control.lock();
    let running = reporters.spawn(&mut control, "test".into(), config, sender);
    let queues = vec![Arc::clone(&running.queue)];
    reporters.queues.store(Arc::new(queues));
    control.running.push(running);
    drop(control);
    reporters
}

async fn settled(reporters: &Reporters) -> Snapshot {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let book = reporters.snapshot().remove(0);
        assert_eq!(
            book.accepted,
            book.exported + book.dropped_total() + book.queued
        );
        if book.queued == 0 {
            return book;
        }
        assert!(Instant::now() < deadline, "never settled: {book:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

struct Panicking;

impl Sender for Panicking {
    fn send<'a>(&'a mut self, _: &'a [Arc<Span>]) -> sender::Sending<'a> {
        Box::pin(async { panic!("scripted panic of a sender") })
    }
}

#[tokio::test]
async fn a_panicking_sender_costs_its_batch_and_is_built_anew() {
    let reporters = reporters_with(Box::new(Panicking));
    for id in 1..=4 {
        reporters.report(span(id));
    }
    let book = settled(&reporters).await;
    assert_eq!((book.panics, book.dropped_for(Reason::Panic)), (1, 4));
    reporters.report(span(5));
    let book = settled(&reporters).await;
    assert_eq!(book.panics, 1, "the new sender came from the configuration");
    assert_eq!(book.dropped_for(Reason::RetriesExhausted), 1);
}

#[tokio::test]
async fn a_wait_beyond_what_clocks_reach_ends_nothing_but_its_batch() {
    struct Away;
    impl Sender for Away {
        fn send<'a>(&'a mut self, _: &'a [Arc<Span>]) -> sender::Sending<'a> {
            let away = sender::SendError::Retry {
                after: Some(Duration::MAX),
                cause: "come back at the end of time".to_owned(),
            };
            Box::pin(async { Err(away) })
        }
    }
    let reporters = reporters_with(Box::new(Away));
    for id in 1..=4 {
        reporters.report(span(id));
    }
    let book = settled(&reporters).await;
    assert_eq!(book.dropped_for(Reason::RetriesExhausted), 4);
}

#[test]
fn what_is_written_one_after_another_is_so_in_a_failover_too() {
    for (yaml, senders) in [
        ("failover: { members: [ { otlp: {} } ] }", 4),
        ("failover: { members: [ { otlp: {} }, { file: {} } ] }", 1),
        ("failover: { members: [ { jaeger_udp: {} } ] }", 1),
        ("file: {}", 1),
        ("jaeger_udp: {}", 1),
        ("xray: {}", 1),
        ("kafka: { queue: { senders: 3 } }", 3),
    ] {
        let config: Config = serde_saphyr::from_str(yaml).unwrap();
        assert_eq!(config.senders(), senders, "{yaml}");
    }
}

#[tokio::test]
async fn a_shutdown_from_within_a_hanging_send_is_in_time() {
    struct Hanging;
    impl Sender for Hanging {
        fn send<'a>(&'a mut self, _: &'a [Arc<Span>]) -> sender::Sending<'a> {
            Box::pin(std::future::pending())
        }
    }
    let reporters = reporters_with(Box::new(Hanging));
    for id in 1..=8 {
        reporters.report(span(id));
    }
    let started = Instant::now();
    reporters.shutdown(Duration::from_millis(50)).await;
    assert!(started.elapsed() < Duration::from_secs(1));
    let book = reporters.snapshot().remove(0);
    assert_eq!((book.queued, book.dropped_for(Reason::Shutdown)), (0, 8));
}

#[tokio::test]
async fn pushes_that_race_with_the_closing_are_counted_all_the_same() {
    struct Taking;
    impl Sender for Taking {
        fn send<'a>(&'a mut self, batch: &'a [Arc<Span>]) -> sender::Sending<'a> {
            Box::pin(async { Ok(sender::Delivery::all(batch.len())) })
        }
    }
    for _ in 0..50 {
        let reporters = Arc::new(reporters_with(Box::new(Taking)));
        let pushing = Arc::clone(&reporters);
        let one = span(1);
        let thread = std::thread::spawn(move || {
            for _ in 0..200 {
                pushing.report(Arc::clone(&one));
            }
        });
        reporters.shutdown(Duration::from_secs(5)).await;
        thread.join().unwrap();
        let book = reporters.snapshot().remove(0);
        assert_eq!((book.accepted, book.queued), (200, 0), "{book:?}");
        assert_eq!(book.exported + book.dropped_total(), 200);
    }
}

#[test]
fn settings_print_without_their_secrets() {
    for yaml in [
        "otlp: { headers: { authorization: hunter2 } }",
        "jaeger_http: { bearer_token: hunter2 }",
        "jaeger_http: { basic_auth: { user: u, password: hunter2 } }",
    ] {
        let config: Config = serde_saphyr::from_str(yaml).unwrap();
        let printed = serde_json::to_string(&config).unwrap();
        assert!(
            !printed.contains("hunter2") && printed.contains("<redacted>"),
            "{printed}"
        );
        assert!(!format!("{config:?}").contains("hunter2"));
    }
}

#[test]
fn queues_of_no_size_are_refused() {
    for yaml in [
        "log: { queue: { capacity: 0 } }",
        "log: { queue: { capacity: 1000001 } }",
        "log: { queue: { batch: 0 } }",
        "otlp: { queue: { senders: 0 } }",
        "otlp: { queue: { senders: 17 } }",
    ] {
        let config: Config = serde_saphyr::from_str(yaml).unwrap();
        assert!(config.check().is_err(), "{yaml}");
    }
}

#[test]
fn the_schema_knows_every_kind() {
    let schema = serde_json::to_string(&schemars::schema_for!(Config)).unwrap();
    for (name, _) in KINDS {
        assert!(schema.contains(&format!("\"{name}\"")), "{name}");
    }
}
