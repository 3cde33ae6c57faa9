//! Recent spans in memory, for the page and the query API: capped by bytes and by traces, oldest trace out first.
//!
//! The request path only pushes into a bounded lock-free queue. A task on the control runtime moves spans from there
//! onto the shelf, and so does every reader, so that a reader sees what was reported before it asked. When more comes
//! than anybody could follow, only a share of the traces is taken, each of them whole: see [`intake`].
//! Nothing here is the way out of a span: what is dropped or evicted here was still offered to every other reporter.
//!
//! At every moment `received = held + evicted + dropped + queued` (see [`Stats`]).

mod intake;
mod packed;

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::collections::HashSet;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use crossbeam_queue::ArrayQueue;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::admin::store::intake::Intake;
use crate::admin::store::intake::ROUND;
use crate::admin::store::packed::Packed;
use crate::model::Attribute;
use crate::model::Kind;
use crate::model::Resource;
use crate::model::Span;
use crate::model::Text;
use crate::model::Timestamp;
use crate::model::TraceId;
use crate::reporter::Sink;

/// Spans that wait for the shelf; more than this between two rounds are dropped and counted.
const QUEUE: usize = 8_192;
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
    intake: Intake,
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
    /// Spans left out, with their whole traces, because more came than anybody could follow.
    pub dropped_thinned: u64,
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
    index: Index,
    bytes: usize,
    spans: usize,
    generation: u64,
    evicted_spans: u64,
    evicted_traces: u64,
    too_large: u64,
    /// Spans are packed here.
    scratch: Vec<u8>,
}

/// Whose spans are held.
#[derive(Debug, Default)]
struct Index {
    services: BTreeMap<Text, Service>,
    /// Spans per resource, by address: the spans keep it alive, its memory counts once.
    resources: HashMap<usize, usize>,
}

#[derive(Debug, Default)]
struct Entry {
    spans: Vec<Packed>,
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
            intake: Intake::new(),
            overflowed: AtomicU64::new(0),
            shelf: Mutex::new(Shelf {
                max_bytes: max_bytes.max(1),
                max_traces: max_traces.max(1),
                traces: HashMap::new(),
                order: VecDeque::new(),
                index: Index::default(),
                bytes: 0,
                spans: 0,
                generation: 0,
                evicted_spans: 0,
                evicted_traces: 0,
                too_large: 0,
                scratch: Vec::new(),
            }),
        }
    }

    /// Moves reported spans onto the shelf until cancelled. Runs on the control runtime and never waits for a reader.
    pub async fn keep(&self, cancel: CancellationToken) {
        let mut rounds = self.intake.rounds();
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                () = self.crowded.notified() => {}
                () = tokio::time::sleep(ROUND) => self.intake.end_round(&mut rounds),
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
            self.intake.takes_anyway();
            shelf.put(&span);
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
            received: self.intake.received(),
            evicted_spans: shelf.evicted_spans,
            evicted_traces: shelf.evicted_traces,
            dropped_queue_full: self.overflowed.load(Ordering::Relaxed),
            dropped_thinned: self.intake.thinned(),
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
            let Some(entry) = shelf.traces.get(id) else {
                continue;
            };
            let trace = entry.read(*id);
            if matches(&trace.spans) {
                found.push(trace);
            }
        }
        found
    }

    /// The names of the services that have spans here, sorted.
    pub fn services(&self) -> Vec<Text> {
        let mut shelf = self.shelf.lock();
        self.settle(&mut shelf);
        shelf.index.services.keys().cloned().collect()
    }

    /// The operations of one service, sorted; empty when it is unknown.
    pub fn operations(&self, service: &str) -> Vec<Operation> {
        let mut shelf = self.shelf.lock();
        self.settle(&mut shelf);
        let service = shelf.index.services.get(service);
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
            shelf.put(&span);
        }
    }
}

impl Sink for Store {
    fn report(&self, span: Arc<Span>) {
        if !self.intake.takes(span.context.trace_id) {
            return;
        }
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
    fn put(&mut self, span: &Span) {
        let id = span.context.trace_id;
        let packed = Packed::of(span, &mut self.scratch);
        let size = packed.size();
        self.generation += 1;
        let entry = self.traces.entry(id).or_insert_with(|| {
            self.order.push_back(id);
            self.bytes += ENTRY;
            // Many traces have one span here.
            let spans = Vec::with_capacity(1);
            Entry {
                spans,
                ..Entry::default()
            }
        });
        if entry.bytes + size > self.max_bytes / LARGEST_TRACE {
            entry.refused += 1;
            self.too_large += 1;
            if entry.spans.is_empty() {
                self.traces.remove(&id);
                self.order.pop_back();
                self.bytes -= ENTRY;
            }
            return;
        }
        entry.bytes += size;
        self.bytes += size + self.index.count_in(&packed);
        entry.spans.push(packed);
        self.spans += 1;
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
        self.bytes = self.bytes.saturating_sub(entry.bytes + ENTRY);
        self.spans -= entry.spans.len();
        self.evicted_spans += entry.spans.len() as u64;
        self.evicted_traces += 1;
        for span in &entry.spans {
            self.bytes = self.bytes.saturating_sub(self.index.count_out(span));
        }
        true
    }
}

impl Index {
    /// Answers the bytes that are held with the span beside its own.
    fn count_in(&mut self, span: &Packed) -> usize {
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
        let users = self.resources.entry(address(&span.resource)).or_default();
        *users += 1;
        match *users {
            1 => resource_bytes(&span.resource),
            _ => 0,
        }
    }

    /// Answers the bytes that go with the span beside its own.
    fn count_out(&mut self, span: &Packed) -> usize {
        let address = address(&span.resource);
        let mut bytes = 0;
        if let Some(users) = self.resources.get_mut(&address) {
            *users -= 1;
            if *users == 0 {
                self.resources.remove(&address);
                bytes = resource_bytes(&span.resource);
            }
        }
        let Some(service) = self.services.get_mut(&span.resource.service) else {
            return bytes;
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
        bytes
    }
}

impl Entry {
    /// A retried export can bring a span twice; its id, kind and start tell.
    fn read(&self, id: TraceId) -> Trace {
        let mut seen = HashSet::with_capacity(self.spans.len());
        let mut spans: Vec<_> = self
            .spans
            .iter()
            .filter_map(Packed::span)
            .filter(|span| seen.insert((span.context.span_id, span.kind.name(), span.start.0)))
            .map(Arc::new)
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
    fn of(span: &Packed) -> Self {
        Self {
            name: span.name.clone(),
            kind: Kind::name(span.kind),
        }
    }
}

fn address(resource: &Arc<Resource>) -> usize {
    Arc::as_ptr(resource) as usize
}

fn resource_bytes(resource: &Resource) -> usize {
    size_of::<Resource>() + resource.service.len() + attributes_bytes(&resource.attributes)
}

fn attributes_bytes(attributes: &[Attribute]) -> usize {
    let one = |attribute: &Attribute| {
        let value = attribute.value.as_str().map_or(0, str::len);
        size_of::<Attribute>() + attribute.key.len() + value
    };
    attributes.iter().map(one).sum()
}

/// What a trace takes beside its spans: its places in the map and in the order.
const ENTRY: usize = 2 * (size_of::<TraceId>() + size_of::<Entry>());

#[cfg(test)]
pub(in crate::admin) mod tests;
