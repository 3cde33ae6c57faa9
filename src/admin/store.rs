//! Recent spans in memory, for the page and the query API: capped by bytes and by traces, oldest trace out first.
//!
//! The request path only pushes into a bounded lock-free queue. A task on the control runtime moves spans from there
//! onto the shelf, and so does every reader, so that a reader sees what was reported before it asked. Nothing here
//! is the way out of a span: what is dropped or evicted here was still offered to every other reporter.
//!
//! At every moment `received = held + evicted + dropped + queued` (see [`Stats`]).

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::collections::HashSet;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crossbeam_queue::ArrayQueue;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::model::Attribute;
use crate::model::Kind;
use crate::model::Resource;
use crate::model::Span;
use crate::model::Status;
use crate::model::Text;
use crate::model::Timestamp;
use crate::model::TraceId;
use crate::model::Value;
use crate::reporter::Sink;

/// Spans that wait for the shelf; more than this between two rounds are dropped and counted.
const QUEUE: usize = 8_192;
/// How often the shelf is filled when nobody reads.
const ROUND: Duration = Duration::from_millis(100);
/// One trace may take this part of the byte limit, so that a runaway trace cannot push out all others.
const LARGEST_TRACE: usize = 4;
/// Span names kept apart per service in the list of operations.
const MAX_OPERATIONS: usize = 2_000;

/// The recent spans. Shared between the request path (as a [`Sink`]), the keeper task and the readers.
#[derive(Debug)]
pub struct Store {
    /// Tells this store's generations from those of an earlier process on the same port.
    birth: u64,
    queue: ArrayQueue<Arc<Span>>,
    crowded: Notify,
    received: AtomicU64,
    overflowed: AtomicU64,
    shelf: Mutex<Shelf>,
}

/// What the store holds and what it let go since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Stats {
    /// Changes whenever the content does; equal numbers mean equal content.
    pub generation: u64,
    /// Traces held.
    pub traces: usize,
    /// Spans held.
    pub spans: usize,
    /// Estimated memory of what is held, in bytes.
    pub bytes: usize,
    /// The limit for `bytes`.
    pub max_bytes: usize,
    /// The limit for `traces`.
    pub max_traces: usize,
    /// Spans reported to the store since the start.
    pub received: u64,
    /// Spans that left with their trace to make room.
    pub evicted_spans: u64,
    /// Traces that left to make room.
    pub evicted_traces: u64,
    /// Spans refused because the queue was full.
    pub dropped_queue_full: u64,
    /// Spans refused because their trace alone takes a quarter of the limit.
    pub dropped_trace_too_large: u64,
}

/// The spans of one trace, as read at one moment: each span once, by start time.
#[derive(Debug, Clone, PartialEq)]
pub struct Trace {
    /// The trace.
    pub id: TraceId,
    /// Never empty; by start time.
    pub spans: Vec<Arc<Span>>,
    /// Spans of this trace that were refused because it is too large.
    pub refused: u64,
}

/// An operation of a service: a span name with its kind.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Operation {
    /// The span name.
    pub name: Text,
    /// The lower-case word of [`Kind::name`].
    pub kind: &'static str,
}

#[derive(Debug)]
struct Shelf {
    max_bytes: usize,
    max_traces: usize,
    traces: HashMap<TraceId, Entry>,
    /// Oldest first; holds exactly the keys of `traces`.
    order: VecDeque<TraceId>,
    services: BTreeMap<Text, Service>,
    /// Spans per resource, by address: the spans keep it alive, its memory counts once.
    resources: HashMap<usize, usize>,
    bytes: usize,
    spans: usize,
    generation: u64,
    evicted_spans: u64,
    evicted_traces: u64,
    too_large: u64,
}

#[derive(Debug, Default)]
struct Entry {
    spans: Vec<Arc<Span>>,
    bytes: usize,
    refused: u64,
}

#[derive(Debug, Default)]
struct Service {
    spans: usize,
    operations: BTreeMap<Operation, usize>,
}

impl Store {
    /// An empty store with these limits; both at least 1.
    pub fn new(max_bytes: usize, max_traces: usize) -> Self {
        Self {
            birth: fastrand::u64(..),
            queue: ArrayQueue::new(QUEUE),
            crowded: Notify::new(),
            received: AtomicU64::new(0),
            overflowed: AtomicU64::new(0),
            shelf: Mutex::new(Shelf {
                max_bytes: max_bytes.max(1),
                max_traces: max_traces.max(1),
                traces: HashMap::new(),
                order: VecDeque::new(),
                services: BTreeMap::new(),
                resources: HashMap::new(),
                bytes: 0,
                spans: 0,
                generation: 0,
                evicted_spans: 0,
                evicted_traces: 0,
                too_large: 0,
            }),
        }
    }

    /// Moves reported spans onto the shelf until cancelled. Runs on the control runtime and never waits for a reader.
    pub async fn keep(&self, cancel: CancellationToken) {
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                () = self.crowded.notified() => {}
                () = tokio::time::sleep(ROUND) => {}
            }
            if let Some(mut shelf) = self.shelf.try_lock() {
                self.settle(&mut shelf);
            }
        }
    }

    /// Puts spans on the shelf directly, past the queue: for receivers, which may wait.
    pub fn insert(&self, spans: impl IntoIterator<Item = Arc<Span>>) {
        let mut shelf = self.shelf.lock();
        self.settle(&mut shelf);
        for span in spans {
            self.received.fetch_add(1, Ordering::Relaxed);
            shelf.put(span);
        }
    }

    /// What is held and what was let go.
    pub fn stats(&self) -> Stats {
        let mut shelf = self.shelf.lock();
        self.settle(&mut shelf);
        Stats {
            generation: shelf.generation,
            traces: shelf.traces.len(),
            spans: shelf.spans,
            bytes: shelf.bytes,
            max_bytes: shelf.max_bytes,
            max_traces: shelf.max_traces,
            received: self.received.load(Ordering::Relaxed),
            evicted_spans: shelf.evicted_spans,
            evicted_traces: shelf.evicted_traces,
            dropped_queue_full: self.overflowed.load(Ordering::Relaxed),
            dropped_trace_too_large: shelf.too_large,
        }
    }

    /// Names the content as it is now: equal only while nothing changed, across restarts too.
    pub fn version(&self) -> String {
        format!("{:x}-{}", self.birth, self.stats().generation)
    }

    /// One trace; `None` when it is unknown or already gone.
    pub fn trace(&self, id: TraceId) -> Option<Trace> {
        let mut shelf = self.shelf.lock();
        self.settle(&mut shelf);
        shelf.traces.get(&id).map(|entry| entry.read(id))
    }

    /// The first `limit` traces that `matches` accepts, newest first.
    pub fn find(&self, limit: usize, mut matches: impl FnMut(&[Arc<Span>]) -> bool) -> Vec<Trace> {
        let mut shelf = self.shelf.lock();
        self.settle(&mut shelf);
        let mut found = Vec::new();
        for id in shelf.order.iter().rev() {
            if found.len() >= limit {
                break;
            }
            if let Some(entry) = shelf.traces.get(id)
                && matches(&entry.spans)
            {
                found.push(entry.read(*id));
            }
        }
        found
    }

    /// The names of the services that have spans here, sorted.
    pub fn services(&self) -> Vec<Text> {
        let mut shelf = self.shelf.lock();
        self.settle(&mut shelf);
        shelf.services.keys().cloned().collect()
    }

    /// The operations of one service, sorted; empty when it is unknown.
    pub fn operations(&self, service: &str) -> Vec<Operation> {
        let mut shelf = self.shelf.lock();
        self.settle(&mut shelf);
        let service = shelf.services.get(service);
        service.map_or_else(Vec::new, |service| {
            service.operations.keys().cloned().collect()
        })
    }

    fn settle(&self, shelf: &mut Shelf) {
        // At most one queue's worth, so that a flood cannot hold the caller here.
        for _ in 0..QUEUE {
            let Some(span) = self.queue.pop() else {
                return;
            };
            shelf.put(span);
        }
    }
}

impl Sink for Store {
    fn report(&self, span: Arc<Span>) {
        self.received.fetch_add(1, Ordering::Relaxed);
        if self.queue.push(span).is_err() {
            self.overflowed.fetch_add(1, Ordering::Relaxed);
        } else if self.queue.len() == QUEUE / 2 {
            self.crowded.notify_one();
        }
    }
}

impl Trace {
    /// The first start.
    pub fn start(&self) -> Timestamp {
        self.spans
            .iter()
            .map(|span| span.start)
            .min()
            .unwrap_or_default()
    }

    /// The last end.
    pub fn end(&self) -> Timestamp {
        self.spans
            .iter()
            .map(|span| span.end)
            .max()
            .unwrap_or_default()
    }
}

impl Shelf {
    fn put(&mut self, span: Arc<Span>) {
        let id = span.context.trace_id;
        let size = span_bytes(&span);
        self.generation += 1;
        let entry = self.traces.entry(id).or_insert_with(|| {
            self.order.push_back(id);
            Entry::default()
        });
        if entry.bytes + size > self.max_bytes / LARGEST_TRACE {
            entry.refused += 1;
            self.too_large += 1;
            if entry.spans.is_empty() {
                self.traces.remove(&id);
                self.order.pop_back();
            }
            return;
        }
        entry.bytes += size;
        entry.spans.push(Arc::clone(&span));
        self.bytes += size;
        self.spans += 1;
        self.count_in(&span);
        while self.bytes > self.max_bytes || self.traces.len() > self.max_traces {
            if !self.evict() {
                return;
            }
        }
    }

    fn evict(&mut self) -> bool {
        let Some(id) = self.order.pop_front() else {
            return false;
        };
        let Some(entry) = self.traces.remove(&id) else {
            return true;
        };
        self.bytes = self.bytes.saturating_sub(entry.bytes);
        self.spans -= entry.spans.len();
        self.evicted_spans += entry.spans.len() as u64;
        self.evicted_traces += 1;
        for span in &entry.spans {
            self.count_out(span);
        }
        true
    }

    fn count_in(&mut self, span: &Span) {
        let users = self.resources.entry(address(&span.resource)).or_default();
        *users += 1;
        if *users == 1 {
            self.bytes += resource_bytes(&span.resource);
        }
        let service = self
            .services
            .entry(span.resource.service.clone())
            .or_default();
        service.spans += 1;
        let operation = Operation::of(span);
        if let Some(count) = service.operations.get_mut(&operation) {
            *count += 1;
        } else if service.operations.len() < MAX_OPERATIONS {
            service.operations.insert(operation, 1);
        }
    }

    fn count_out(&mut self, span: &Span) {
        let resource = address(&span.resource);
        if let Some(users) = self.resources.get_mut(&resource) {
            *users -= 1;
            if *users == 0 {
                self.resources.remove(&resource);
                self.bytes = self.bytes.saturating_sub(resource_bytes(&span.resource));
            }
        }
        let Some(service) = self.services.get_mut(&span.resource.service) else {
            return;
        };
        service.spans -= 1;
        let operation = Operation::of(span);
        if let Some(count) = service.operations.get_mut(&operation) {
            *count -= 1;
            if *count == 0 {
                service.operations.remove(&operation);
            }
        }
        if service.spans == 0 {
            self.services.remove(&span.resource.service);
        }
    }
}

impl Entry {
    /// A retried export can bring a span twice; its id, kind and start tell.
    fn read(&self, id: TraceId) -> Trace {
        let mut seen = HashSet::with_capacity(self.spans.len());
        let mut spans: Vec<_> = self
            .spans
            .iter()
            .filter(|span| seen.insert((span.context.span_id, span.kind.name(), span.start.0)))
            .cloned()
            .collect();
        spans.sort_by_key(|span| (span.start, std::cmp::Reverse(span.end)));
        Trace {
            id,
            spans,
            refused: self.refused,
        }
    }
}

impl Operation {
    fn of(span: &Span) -> Self {
        Self {
            name: span.name.clone(),
            kind: Kind::name(span.kind),
        }
    }
}

fn address(resource: &Arc<Resource>) -> usize {
    Arc::as_ptr(resource) as usize
}

/// What a span takes in memory, roughly and never too little: its struct, its lists, its long texts.
fn span_bytes(span: &Span) -> usize {
    let mut bytes = size_of::<Span>() + 64;
    bytes += text_bytes(&span.name) + attributes_bytes(&span.attributes);
    bytes += span.context.trace_state.as_str().len();
    for item in span.context.baggage.items() {
        bytes += 3 * size_of::<Text>() + item.key.len() + item.value.len() + item.properties.len();
    }
    for event in &span.events {
        bytes += 64 + text_bytes(&event.name) + attributes_bytes(&event.attributes);
    }
    for link in &span.links {
        bytes += 64 + attributes_bytes(&link.attributes);
    }
    if let Status::Error(message) = &span.status {
        bytes += text_bytes(message);
    }
    bytes
}

fn resource_bytes(resource: &Resource) -> usize {
    size_of::<Resource>() + text_bytes(&resource.service) + attributes_bytes(&resource.attributes)
}

fn attributes_bytes(attributes: &Vec<Attribute>) -> usize {
    let heap: usize = attributes
        .iter()
        .map(|attribute| {
            text_bytes(&attribute.key)
                + match &attribute.value {
                    Value::Str(text) => text_bytes(text),
                    Value::Bytes(bytes) => bytes.len(),
                    Value::StrList(list) => list
                        .iter()
                        .map(|text| size_of::<Text>() + text_bytes(text))
                        .sum(),
                    Value::Bool(_) | Value::I64(_) | Value::F64(_) => 0,
                }
        })
        .sum();
    attributes.capacity() * size_of::<Attribute>() + heap
}

fn text_bytes(text: &Text) -> usize {
    if text.is_heap_allocated() {
        text.len() + 16
    } else {
        0
    }
}

#[cfg(test)]
pub(in crate::admin) mod tests;
