//! The table of inbound requests that have begun and not ended.
//!
//! One shard per worker: entering and leaving take the worker's own lock, which only a search from another worker can
//! hold. Searches happen on outbound calls alone.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::AtomicU16;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Instant;

use http::HeaderValue;
use http::Method;
use parking_lot::Mutex;
use parking_lot::RwLock;

use crate::correlate::audit::Audit;
use crate::correlate::audit::Figures;
use crate::correlate::class::Class;
use crate::correlate::shape::Shape;
use crate::correlate::shape::Shapes;
use crate::correlate::token::Token;
use crate::correlate::values::Fingerprints;
use crate::correlate::values::Hash;
use crate::correlate::values::Values;
use crate::correlate::windows;
use crate::correlate::windows::Learned;
use crate::correlate::windows::Made;
use crate::correlate::windows::Start;
use crate::correlate::windows::Told;
use crate::correlate::windows::Windows;
use crate::model::SpanContext;
use crate::net::kernel::Moment;

/// Most destinations remembered as called in the background.
const MAX_BACKGROUND: usize = 256;

/// Places an empty shard keeps; after a peak beyond that it gives its memory back.
const KEEP_PLACES: usize = 64;

/// What an inbound request brings along.
#[derive(Debug, Default)]
pub struct Arrival {
    /// The server span's context; `None` for requests that get no span (probes).
    pub context: Option<SpanContext>,
    /// Its `x-request-id`.
    pub request_id: Option<HeaderValue>,
    /// The values in its head that may recur.
    pub values: Values,
    /// Its kind.
    pub operation: Shape,
}

/// An inbound request in flight.
#[derive(Debug)]
pub struct Inbound {
    /// What it brought along.
    pub arrival: Arrival,
    /// The values at the start of its body, once that was there.
    body: OnceLock<Values>,
    /// Tells this request from the one that had its place before.
    nonce: u64,
    /// The port from which it was passed on to the program; 0 until then.
    port: AtomicU16,
    /// When it was passed on, as the bits of a [`Moment`]; 0 while that is not known.
    since: AtomicU32,
    /// Order of arrival.
    sequence: u64,
    /// Another request was in flight when this one arrived.
    arrived_in_company: bool,
    /// When it arrived, and what had been before.
    began: Instant,
    start: Start,
    /// The calls that came while it was alone.
    made: Mutex<Made>,
    /// A call that came while it was alone was not believed to be its.
    doubted: AtomicBool,
    /// It went to the program: a connection was found.
    passed_on: AtomicBool,
    /// Its response has begun.
    answered: AtomicBool,
    /// What is for it is delivered alone.
    paced: AtomicBool,
    /// It has ended.
    ended: AtomicBool,
}

/// All inbound requests in flight, of all workers.
#[derive(Debug)]
pub struct InFlight {
    shards: Vec<Mutex<Shard>>,
    total: AtomicUsize,
    sequence: AtomicU64,
    /// Sequence of the last request that arrived while others were in flight: everything older that is still in
    /// flight has overlapped with it.
    crowded: AtomicU64,
    /// Destinations that were called while no request was in flight.
    background: RwLock<HashSet<Box<str>>>,
    /// What kind of program this is: the number of a [`Class`].
    class: AtomicU8,
    /// A call came with the token of a request: a shim is at work in the program.
    shim_speaks: AtomicBool,
    /// Calls of the program can come here.
    calls_come: AtomicBool,
    /// How values become comparable without being kept.
    pub fingerprints: Fingerprints,
    /// How requests are sorted into kinds.
    pub shapes: Shapes,
    /// What requests that were alone have shown.
    windows: Windows,
    /// How often evidence was right.
    pub(super) audit: Audit,
}

/// One worker's requests. Places are used again, so that entering and leaving cost the same however many are in
/// flight.
#[derive(Debug, Default)]
struct Shard {
    places: Vec<Option<Arc<Inbound>>>,
    free: Vec<usize>,
}

/// Keeps a request in the table; dropping it removes the request.
#[derive(Debug)]
pub struct InboundGuard {
    table: Arc<InFlight>,
    shard: usize,
    place: usize,
    inbound: Arc<Inbound>,
    ended: Option<Instant>,
}

impl InFlight {
    /// A table for this many workers.
    pub fn new(workers: usize) -> Arc<Self> {
        Arc::new(Self {
            shards: (0..workers.max(1)).map(|_| Mutex::default()).collect(),
            total: AtomicUsize::new(0),
            sequence: AtomicU64::new(1),
            crowded: AtomicU64::new(0),
            background: RwLock::default(),
            class: AtomicU8::new(Class::default() as u8),
            shim_speaks: AtomicBool::new(false),
            calls_come: AtomicBool::new(false),
            fingerprints: Fingerprints::default(),
            shapes: Shapes::default(),
            windows: Windows::default(),
            audit: Audit::default(),
        })
    }

    /// Puts a request into the worker's shard until the guard is dropped.
    pub fn enter(self: &Arc<Self>, worker: usize, arrival: Arrival, now: Instant) -> InboundGuard {
        let sequence = self.sequence.fetch_add(1, Ordering::AcqRel);
        let company = self.total.fetch_add(1, Ordering::AcqRel) > 0;
        let start = match company {
            true => {
                self.crowded.fetch_max(sequence, Ordering::AcqRel);
                Start::Crowded
            }
            false => self.windows.begin(arrival.operation, now),
        };
        let inbound = Arc::new(Inbound {
            arrival,
            body: OnceLock::new(),
            nonce: fastrand::u64(..),
            port: AtomicU16::new(0),
            since: AtomicU32::new(0),
            sequence,
            arrived_in_company: company,
            began: now,
            start,
            made: Mutex::default(),
            doubted: AtomicBool::new(false),
            passed_on: AtomicBool::new(false),
            answered: AtomicBool::new(false),
            paced: AtomicBool::new(false),
            ended: AtomicBool::new(false),
        });
        let shard = worker % self.shards.len();
        let place = self.shards[shard].lock().put(inbound.clone());
        InboundGuard {
            table: self.clone(),
            shard,
            place,
            inbound,
            ended: None,
        }
    }

    /// How many requests are in flight.
    pub fn len(&self) -> usize {
        self.total.load(Ordering::Acquire)
    }

    /// True when no request is in flight.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The one request in flight, and whether it ever overlapped with another; `None` unless there is exactly one.
    pub fn only(&self) -> Option<(Arc<Inbound>, bool)> {
        if self.len() != 1 {
            return None;
        }
        let mut found = self.matching(|_| true);
        let one = found.pop()?;
        // The total is raised before a request is visible in its shard: a newcomer makes the count disagree.
        if !found.is_empty() || self.len() != 1 {
            return None;
        }
        let overlapped = self.has_overlapped(&one);
        Some((one, overlapped))
    }

    fn has_overlapped(&self, one: &Inbound) -> bool {
        one.arrived_in_company || self.crowded.load(Ordering::Acquire) > one.sequence
    }

    /// Counts a call that came while this request alone was in flight, from its beginning to now. What it says: is the
    /// call the request's, as far as can be told?
    ///
    /// Before the program has the request, and once its response has begun, the program may do anything: then the call
    /// counts as one without a request. `at_sight`: what an operation does when it is first seen may be believed.
    pub(super) fn call_while_alone(
        &self,
        one: &Inbound,
        (call, destination): (Shape, &str),
        at_sight: bool,
        now: Instant,
    ) -> Told {
        let is_there = one.passed_on.load(Ordering::Acquire);
        if !is_there || one.answered.load(Ordering::Acquire) {
            self.call_without_request(destination, now);
            return Told::Doubtful;
        }
        let before = windows::count(&mut one.made.lock(), call);
        let told = self
            .windows
            .tells(one.window(), (call, before), at_sight, now);
        if told != Told::Its {
            one.doubted.store(true, Ordering::Relaxed);
        }
        told
    }

    /// Remembers a call that came with nobody in flight.
    pub(super) fn call_without_request(&self, destination: &str, now: Instant) {
        self.windows.call_without_request(now);
        self.learn_background(destination);
    }

    /// The request that this token was given to, if it is still in flight.
    pub fn holder(&self, token: Token) -> Option<Arc<Inbound>> {
        let shard = self.shards.get(usize::from(token.shard))?.lock();
        let inbound = shard.places.get(token.place as usize)?.as_ref()?;
        (inbound.nonce == token.nonce).then(|| inbound.clone())
    }

    /// Remembers that a shim is at work in the program.
    pub fn learn_shim(&self) {
        if !self.shim_speaks() {
            self.shim_speaks.store(true, Ordering::Relaxed);
        }
    }

    /// True once a call has come with a token.
    pub fn shim_speaks(&self) -> bool {
        self.shim_speaks.load(Ordering::Relaxed)
    }

    /// From now on calls of the program can come: requests are to be entered.
    pub fn expect_calls(&self) {
        self.calls_come.store(true, Ordering::Release);
    }

    /// False while nobody would ever look for the cause of a call.
    pub fn expects_calls(&self) -> bool {
        self.calls_come.load(Ordering::Acquire)
    }

    /// Says what kind of program this is.
    pub fn is_of(&self, class: Class) {
        self.class.store(class as u8, Ordering::Relaxed);
    }

    /// What kind of program this is.
    pub fn class(&self) -> Class {
        Class::from_number(self.class.load(Ordering::Relaxed))
    }

    /// What requests of this kind are called is wanted now and then, for [`Self::audit`].
    pub fn learn_name(
        &self,
        operation: Shape,
        (method, route, path): (&Method, Option<&str>, &str),
    ) {
        if self.audit.wants_name(operation) {
            let name = Shape::name(method, route, path);
            self.audit.is_named(operation, name);
        }
    }

    /// How often evidence was right, by layer.
    pub fn audit(&self) -> Vec<Figures> {
        self.audit.figures()
    }

    /// What `exclusive` has learned.
    pub fn learned(&self) -> Learned {
        let background = self.background.read().len();
        self.windows.learned(background)
    }

    /// Every request in flight that satisfies `test`, oldest first.
    pub fn matching(&self, test: impl Fn(&Inbound) -> bool) -> Vec<Arc<Inbound>> {
        let mut found = Vec::new();
        for shard in &self.shards {
            found.extend(
                shard
                    .lock()
                    .requests()
                    .filter(|inbound| test(inbound))
                    .cloned(),
            );
        }
        found.sort_by_key(|inbound| inbound.sequence);
        found
    }

    /// The oldest requests in flight, at most `count`.
    pub fn oldest(&self, count: usize) -> Vec<Arc<Inbound>> {
        let mut found: Vec<Arc<Inbound>> = Vec::with_capacity(count + 1);
        for shard in &self.shards {
            for inbound in shard.lock().requests() {
                let at = found.partition_point(|other| other.sequence < inbound.sequence);
                if at < count {
                    found.insert(at, inbound.clone());
                    found.truncate(count);
                }
            }
        }
        found
    }

    /// Remembers that the program calls this destination by itself.
    fn learn_background(&self, destination: &str) {
        if self.calls_in_background(destination) {
            return;
        }
        let mut known = self.background.write();
        if known.len() < MAX_BACKGROUND {
            known.insert(destination.into());
        }
    }

    /// True when this destination was called while no request was in flight.
    pub fn calls_in_background(&self, destination: &str) -> bool {
        self.background.read().contains(destination)
    }
}

impl Inbound {
    /// It goes to the program on the connection that was opened from this port. `at`: now, where threads are looked at.
    pub fn passed_on_from(&self, port: u16, at: Option<Moment>) {
        let since = at.map_or(0, |at| at.bits().max(1));
        self.since.store(since, Ordering::Release);
        self.port.store(port, Ordering::Release);
        self.passed_on.store(true, Ordering::Release);
    }

    /// True when the program could work on it at this moment, on the connection from this port.
    pub(super) fn was_on(&self, port: u16, at: Moment) -> bool {
        if self.port() != port {
            return false;
        }
        let since = self.since.load(Ordering::Acquire);
        since != 0 && Moment::from_bits(since).is_until(at)
    }

    /// The start of its body is on its way to the program.
    pub fn begins_with(&self, values: Values) {
        // There is one start: what was set before stays.
        self.body.get_or_init(|| values);
    }

    /// True when these values and its own have one in common.
    pub(super) fn meets(&self, values: &Values) -> bool {
        let in_body = || self.body.get().is_some_and(|body| values.meet(body));
        values.meet(&self.arrival.values) || in_body()
    }

    /// Its value of this hash: of the head, else of the body.
    pub(super) fn value(&self, hash: u64) -> Option<&Hash> {
        let in_body = || self.body.get()?.find(hash);
        self.arrival.values.find(hash).or_else(in_body)
    }

    fn window(&self) -> (Shape, Start, Instant) {
        (self.arrival.operation, self.start, self.began)
    }

    /// Its response has begun: what the program does now need not be for it.
    pub fn answered(&self) {
        self.answered.store(true, Ordering::Release);
    }

    /// Whether what is for it is delivered to the program alone from now on.
    pub fn pace(&self, paced: bool) {
        self.paced.store(paced, Ordering::Relaxed);
    }

    /// True when it is delivered alone.
    pub fn is_paced(&self) -> bool {
        self.paced.load(Ordering::Relaxed)
    }

    /// True when it has ended: nothing is caused by it any more.
    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// The port from which it was passed on; 0 while it was not.
    pub fn port(&self) -> u16 {
        self.port.load(Ordering::Acquire)
    }
}

impl InboundGuard {
    /// The request.
    pub fn inbound(&self) -> &Arc<Inbound> {
        &self.inbound
    }

    /// Says when the request ended; otherwise that is when this is dropped.
    pub fn ended_at(&mut self, time: Instant) {
        self.ended = Some(time);
    }

    /// What a shim in the program passes on to the calls of this request; `None` for a place that has no token.
    pub fn token(&self) -> Option<Token> {
        Some(Token {
            shard: self.shard.try_into().ok()?,
            place: self.place.try_into().ok()?,
            nonce: self.inbound.nonce,
        })
    }
}

impl Drop for InboundGuard {
    fn drop(&mut self) {
        let now = self.ended.unwrap_or_else(Instant::now);
        let (windows, one) = (&self.table.windows, &self.inbound);
        one.ended.store(true, Ordering::Release);
        // A request that the program never saw tells nothing about it, and leaves it no work.
        if one.passed_on.load(Ordering::Acquire) {
            if !self.table.has_overlapped(one) {
                let doubted = one.doubted.load(Ordering::Relaxed);
                windows.learn(one.window(), (&one.made.lock(), doubted), now);
            }
            // Before the count falls: whoever sees it fallen sees what was learned.
            windows.end(one.arrival.operation, now);
        }
        self.table.shards[self.shard].lock().take(self.place);
        self.table.total.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Shard {
    fn put(&mut self, inbound: Arc<Inbound>) -> usize {
        match self.free.pop() {
            Some(place) => {
                self.places[place] = Some(inbound);
                place
            }
            None => {
                self.places.push(Some(inbound));
                self.places.len() - 1
            }
        }
    }

    fn take(&mut self, place: usize) {
        self.places[place] = None;
        self.free.push(place);
        if self.free.len() == self.places.len() && self.places.len() > KEEP_PLACES {
            *self = Self::default();
        }
    }

    fn requests(&self) -> impl Iterator<Item = &Arc<Inbound>> {
        self.places.iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guards_leave_the_table_as_they_found_it() {
        let table = InFlight::new(3);
        let guards: Vec<_> = (0..9)
            .map(|worker| table.enter(worker, Arrival::default(), Instant::now()))
            .collect();
        assert_eq!(table.len(), 9);
        assert_eq!(table.oldest(3).len(), 3);
        assert_eq!(table.oldest(3)[0].sequence, 1);
        assert!(table.only().is_none());
        drop(guards);
        assert!(table.is_empty());
        assert!(table.matching(|_| true).is_empty());
    }

    #[test]
    fn a_token_leads_to_its_request_until_that_ends() {
        let table = InFlight::new(2);
        let first = table.enter(1, Arrival::default(), Instant::now());
        let token = first.token().unwrap();
        assert!(Arc::ptr_eq(&table.holder(token).unwrap(), first.inbound()));
        drop(first);
        assert!(table.holder(token).is_none());
        let second = table.enter(1, Arrival::default(), Instant::now());
        assert!(table.holder(token).is_none(), "the place is another's now");
        assert!(table.holder(second.token().unwrap()).is_some());
        for (shard, place) in [(1, u32::MAX), (u16::MAX, 0)] {
            let foreign = Token {
                shard,
                place,
                ..token
            };
            assert!(table.holder(foreign).is_none(), "no such place");
        }
    }

    #[test]
    fn background_destinations_are_bounded() {
        let table = InFlight::new(1);
        for index in 0..2 * MAX_BACKGROUND {
            table.learn_background(&index.to_string());
        }
        assert_eq!(table.background.read().len(), MAX_BACKGROUND);
    }
}
