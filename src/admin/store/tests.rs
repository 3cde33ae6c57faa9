//! The store's promises: caps hold, the oldest trace goes first, nothing is unaccounted for, readers see what was reported.

use std::time::Duration;

use super::*;
use crate::admin::store::intake::TAKEN;
use crate::model::Baggage;
use crate::model::SamplingState;
use crate::model::SpanContext;
use crate::model::SpanId;
use crate::model::Status;
use crate::model::TraceState;

pub(in crate::admin) fn span(trace: u64, id: u64, service: &Arc<Resource>, name: &str) -> Span {
    Span {
        context: SpanContext {
            trace_id: TraceId::from_halves(0, trace).unwrap(),
            span_id: SpanId::from_u64(id).unwrap(),
            state: SamplingState::Accept,
            random: true,
            firehose: false,
            trace_state: TraceState::default(),
            baggage: Baggage::default(),
            carried: crate::model::Carried::default(),
        },
        parent: None,
        remote_parent: false,
        name: name.into(),
        kind: Kind::Server,
        start: Timestamp(1_000 * id),
        end: Timestamp(1_000 * id + 500),
        attributes: Vec::new().into(),
        events: Vec::new(),
        links: Vec::new(),
        status: Status::Unset,
        resource: Arc::clone(service),
    }
}

pub(in crate::admin) fn resource(service: &str) -> Arc<Resource> {
    Arc::new(Resource {
        service: service.into(),
        attributes: Vec::new(),
        scope: None,
    })
}

/// A store that takes every span that its queue has room for.
fn open(max_bytes: usize, max_traces: usize) -> Store {
    Store {
        intake: Intake::open(),
        ..Store::new(max_bytes, max_traces)
    }
}

fn ids(traces: &[Trace]) -> Vec<u64> {
    traces.iter().map(|trace| trace.id.low()).collect()
}

#[test]
fn a_reader_sees_what_was_reported_before_it_asked() {
    let store = Store::new(1 << 20, 10);
    store.report(Arc::new(span(1, 1, &resource("a"), "GET")));
    let trace = store.trace(TraceId::from_halves(0, 1).unwrap()).unwrap();
    assert_eq!(trace.spans.len(), 1);
    assert_eq!(store.trace(TraceId::from_halves(1, 1).unwrap()), None);
}

#[test]
fn the_oldest_trace_makes_room_for_the_newest() {
    let store = Store::new(1 << 20, 3);
    let (a, b) = (resource("a"), resource("b"));
    for trace in 1..=4 {
        let service = if trace == 1 { &a } else { &b };
        store.report(Arc::new(span(trace, 1, service, "GET")));
        store.report(Arc::new(span(trace, 2, service, "POST")));
    }
    assert_eq!(ids(&store.find(10, |_| true)), [4, 3, 2], "newest first");
    let stats = store.stats();
    assert_eq!((stats.traces, stats.spans), (3, 6));
    assert_eq!((stats.evicted_traces, stats.evicted_spans), (1, 2));
    assert_eq!(store.services(), ["b"], "an evicted service is forgotten");
    assert_eq!(store.operations("a"), []);
}

#[test]
fn memory_stays_below_the_limit_and_returns_to_zero() {
    let limit = 200_000;
    let store = open(limit, 1_000_000);
    for n in 0..2_000 {
        // A resource of its own each time, as a hostile exporter would send.
        let service = Arc::new(Resource {
            service: format!("service-{n}").into(),
            attributes: vec![Attribute::new("padding", "x".repeat(200))],
            scope: None,
        });
        let mut one = span(n + 1, 1, &service, "GET");
        one.attributes = vec![Attribute::new("long", "y".repeat(300))].into();
        store.report(Arc::new(one));
        assert!(store.stats().bytes <= limit, "after {n}");
    }
    assert!(store.stats().traces > 50, "not everything is thrown away");
    let mut shelf = store.shelf.lock();
    while shelf.evict() {}
    assert_eq!(
        (shelf.bytes, shelf.spans),
        (0, 0),
        "every byte counted in is counted out"
    );
    let index = &shelf.index;
    assert!(index.services.is_empty() && index.resources.is_empty() && shelf.traces.is_empty());
}

#[test]
fn a_runaway_trace_cannot_push_out_the_others() {
    let store = open(100_000, 100);
    let a = resource("a");
    store.report(Arc::new(span(1, 1, &a, "GET")));
    for id in 1..2_000 {
        store.report(Arc::new(span(2, id, &a, "GET")));
    }
    let traces = store.find(10, |_| true);
    assert_eq!(ids(&traces), [2, 1]);
    let stats = store.stats();
    assert!(stats.dropped_trace_too_large > 1_000);
    assert_eq!(traces[0].refused, stats.dropped_trace_too_large);
    let mut huge = span(3, 1, &a, "GET");
    huge.attributes = vec![Attribute::new("body", "x".repeat(60_000))].into();
    store.report(Arc::new(huge));
    assert_eq!(
        ids(&store.find(10, |_| true)),
        [2, 1],
        "an empty trace leaves no entry"
    );
}

#[test]
fn every_span_received_is_held_evicted_or_dropped() {
    let store = open(50_000, 20);
    let a = resource("a");
    for n in 0..(QUEUE as u64 + 500) {
        store.report(Arc::new(span(n % 70 + 1, n + 1, &a, "GET")));
    }
    let stats = store.stats();
    assert_eq!(stats.dropped_queue_full, 500, "the queue never grows");
    assert!(stats.evicted_spans > 0);
    let accounted = stats.spans as u64
        + stats.evicted_spans
        + stats.dropped_queue_full
        + stats.dropped_trace_too_large;
    assert_eq!(stats.received, accounted);
}

#[test]
fn beyond_what_can_be_followed_a_share_of_the_traces_is_taken_whole() {
    let store = Store::new(64 << 20, 1_000_000);
    let a = resource("a");
    let mut rounds = store.intake.rounds();
    let mut trace = 0;
    let mut round = |n_traces| {
        for _ in 0..n_traces {
            trace += 1;
            store.report(Arc::new(span(trace, 1, &a, "GET")));
            store.report(Arc::new(span(trace, 2, &a, "GET")));
        }
        store.intake.end_round(&mut rounds);
        store.stats()
    };
    let few = TAKEN / 2;
    let stats = (0..20).map(|_| round(few)).last().unwrap();
    assert_eq!(stats.dropped_thinned, 0, "few are all taken");
    let before = (0..20).map(|_| round(4 * few)).last().unwrap();
    let stats = round(4 * few);
    let taken = (stats.spans - before.spans) as u64;
    assert!((TAKEN / 2..TAKEN * 3 / 2).contains(&taken), "{taken}");
    assert_eq!(
        stats.dropped_thinned - before.dropped_thinned,
        4 * TAKEN - taken
    );
    assert_eq!(stats.received, stats.spans as u64 + stats.dropped_thinned);
    for trace in store.find(usize::MAX, |_| true) {
        assert_eq!(trace.spans.len(), 2, "no trace is taken in part");
    }
}

#[test]
fn a_span_that_came_twice_is_shown_once() {
    let store = Store::new(1 << 20, 10);
    let a = resource("a");
    let mut server = span(1, 7, &a, "GET");
    store.insert([Arc::new(server.clone()), Arc::new(server.clone())]);
    server.kind = Kind::Client;
    store.insert([Arc::new(server)]);
    let trace = store.trace(TraceId::from_halves(0, 1).unwrap()).unwrap();
    assert_eq!(
        trace.spans.len(),
        2,
        "a shared id of two kinds is two spans"
    );
}

#[test]
fn the_generation_moves_with_the_content_alone() {
    let store = Store::new(1 << 20, 10);
    let before = store.stats().generation;
    assert_eq!(store.stats().generation, before);
    store.report(Arc::new(span(1, 1, &resource("a"), "GET")));
    assert_ne!(store.stats().generation, before);
}

#[tokio::test(start_paused = true)]
async fn the_keeper_empties_the_queue_when_nobody_reads() {
    let store = Arc::new(Store::new(1 << 20, 10));
    let cancel = CancellationToken::new();
    let keeper = {
        let (store, cancel) = (Arc::clone(&store), cancel.clone());
        tokio::spawn(async move { store.keep(cancel).await })
    };
    store.report(Arc::new(span(1, 1, &resource("a"), "GET")));
    assert_eq!(store.queue.len(), 1);
    while !store.queue.is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    cancel.cancel();
    keeper.await.unwrap();
}

#[test]
fn operations_are_names_with_kinds_and_bounded() {
    let store = Store::new(1 << 30, 1_000_000);
    let a = resource("a");
    let mut client = span(1, 1, &a, "GET");
    client.kind = Kind::Client;
    store.insert([Arc::new(client), Arc::new(span(1, 2, &a, "GET"))]);
    let kinds: Vec<_> = store.operations("a").iter().map(|o| o.kind).collect();
    assert_eq!(kinds, ["client", "server"]);
    store.insert((0..5_000).map(|n| Arc::new(span(2, n + 1, &a, &format!("GET /{n}")))));
    assert_eq!(store.operations("a").len(), MAX_OPERATIONS);
}

#[test]
fn reporting_never_waits_for_a_reader() {
    let store = Arc::new(open(1 << 20, 10));
    let (done, finished) = std::sync::mpsc::channel();
    let reading = store.shelf.lock();
    let reporter = {
        let store = Arc::clone(&store);
        std::thread::spawn(move || {
            for id in 1..=2 * QUEUE as u64 {
                store.report(Arc::new(span(1, id, &resource("a"), "GET")));
            }
            done.send(()).unwrap();
        })
    };
    let in_time = finished.recv_timeout(Duration::from_secs(10));
    drop(reading);
    reporter.join().unwrap();
    assert_eq!(in_time, Ok(()));
}

#[test]
fn versions_tell_stores_apart() {
    let (one, two) = (Store::new(1, 1), Store::new(1, 1));
    assert_eq!(one.version(), one.version());
    assert_ne!(one.version(), two.version());
}
