//! What requests that were alone in flight have shown: which calls each operation makes while it is served.
//!
//! A request alone in flight need not have made the call that comes meanwhile: the program may still work for the
//! request before, or have work of its own. Three things tell them apart:
//!
//! - A window is *clean* when for a while before it nobody was in flight and nothing called, and nobody came during it.
//!   An operation's first clean window is believed, unless the program has shown so many calls of its own that one of
//!   them may have fallen into it. Later ones must be like the first; what is new in them counts by chance: how likely would
//!   work of the program's own have fallen into windows only?
//! - A request that comes close behind another counts when the one before was of the same operation, or of one that was
//!   seen to rest after its response. Then only calls are believed that every clean window of its operation had, and no
//!   more of them.
//! - A request that makes more or fewer calls than that takes the belief away, until many clean windows agree again.
//!
//! Only requests that were alone from beginning to end touch the shared state behind the lock.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use parking_lot::Mutex;
use smallvec::SmallVec;

use crate::correlate::shape::Shape;

/// How long a program may still be busy with a request whose answer has left.
pub(super) const GRACE: Duration = Duration::from_millis(250);
/// Operations remembered; two that fall on one place take it from each other.
const OPERATIONS: usize = 256;
/// Kinds of calls remembered of an operation, and counted in a request.
const KINDS: usize = 16;
/// How many operations are believed in their first clean window: paths without end must not each be a first one.
const FIRST_BELIEVED: usize = 32;
/// Clean windows that must agree before a kind of call is believed that not all windows have had.
const AGREE: u32 = 8;
/// Before anything is known: how likely a call while a request is alone is not that request's.
const PRIOR: f64 = 0.1;
/// How likely a belief may be wrong.
const DOUBT: f64 = 0.001;

/// What a window says of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    /// It is the request's.
    Its,
    /// It is one more than such requests make.
    OneTooMany,
    /// Nothing.
    Doubtful,
}

/// How a request came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    /// Nobody had been in flight for a while, and nothing had called.
    Clean,
    /// Close behind requests of its own operation, or of operations that rest after their responses.
    Behind,
    /// Close behind requests that may not have ended for the program, or among others.
    Crowded,
}

/// Calls of one request, by kind.
pub(super) type Made = SmallVec<[(Shape, u32); 4]>;

/// What was learned.
#[derive(Debug)]
pub(super) struct Windows {
    origin: Instant,
    /// When the latest request ended, as all times here in nanoseconds since the origin; 0: never.
    ended: AtomicU64,
    /// Of which operation it was.
    ended_operation: AtomicU64,
    /// When the latest call came with nobody in flight, and how many have.
    called_idle: AtomicU64,
    n_called_idle: AtomicU64,
    /// The latest request that ended and was of an operation not known to rest, and when.
    restless: AtomicU64,
    restless_ended: AtomicU64,
    /// When the latest one of another operation ended.
    restless_before: AtomicU64,
    /// Operations after whose responses nothing happened.
    rests: Box<[AtomicU64]>,
    /// Time with nobody in flight, until when it is counted, and time in clean windows.
    idle: AtomicU64,
    idle_until: AtomicU64,
    clean: AtomicU64,
    known: Mutex<Known>,
}

/// What has been learned, in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Learned {
    /// Operations that were seen alone after a pause.
    pub operations: usize,
    /// Kinds of calls that are believed, of all operations.
    pub believed_calls: usize,
    /// Kinds of calls that are not, or not yet.
    pub doubted_calls: usize,
    /// Destinations that the program also calls by itself.
    pub background_destinations: usize,
}

#[derive(Debug, Default)]
struct Known {
    places: Vec<Option<Operation>>,
    /// Operations that were new.
    n_new: usize,
}

/// What the windows of an operation had.
#[derive(Debug)]
struct Operation {
    shape: Shape,
    calls: SmallVec<[Usual; 2]>,
    /// A window had more kinds of calls than are counted.
    overflowed: bool,
}

/// One kind of call that an operation makes.
#[derive(Debug)]
struct Usual {
    shape: Shape,
    /// How many in the latest clean window.
    count: u32,
    /// Clean windows in a row with this count.
    agreeing: u32,
    /// How many it takes to be believed.
    needed: u32,
    /// Clean windows that had one, however many.
    seen: u32,
}

impl Default for Windows {
    fn default() -> Self {
        let zero = AtomicU64::default;
        Self {
            origin: Instant::now(),
            ended: zero(),
            ended_operation: zero(),
            called_idle: zero(),
            n_called_idle: zero(),
            restless: zero(),
            restless_ended: zero(),
            restless_before: zero(),
            rests: (0..OPERATIONS).map(|_| zero()).collect(),
            idle: zero(),
            idle_until: zero(),
            clean: zero(),
            known: Mutex::default(),
        }
    }
}

impl Windows {
    /// A request comes and nobody is in flight.
    pub(super) fn begin(&self, operation: Shape, now: Instant) -> Start {
        let now = self.time(now);
        let ended = self.ended.load(Ordering::Acquire);
        let counted = self.idle_until.swap(now, Ordering::Relaxed);
        let idle = now.saturating_sub(ended.max(counted));
        self.idle.fetch_add(idle, Ordering::Relaxed);
        let was_before = |time: u64| time == 0 || now.saturating_sub(time) >= nanos(GRACE);
        let called_idle = self.called_idle.load(Ordering::Acquire);
        if !was_before(called_idle) {
            // Work of the program's own is under way.
            return Start::Crowded;
        }
        if was_before(ended) {
            if ended != 0 && called_idle <= ended {
                let rests = self.ended_operation.load(Ordering::Relaxed);
                self.place(rests).store(rests, Ordering::Relaxed);
            }
            return Start::Clean;
        }
        let same = self.restless.load(Ordering::Relaxed) == operation.number();
        let settled = was_before(self.restless_before.load(Ordering::Relaxed))
            && (same || was_before(self.restless_ended.load(Ordering::Relaxed)));
        match settled {
            true => Start::Behind,
            false => Start::Crowded,
        }
    }

    /// A request ends.
    pub(super) fn end(&self, operation: Shape, now: Instant) {
        let (operation, now) = (operation.number(), self.time(now));
        if self.place(operation).load(Ordering::Relaxed) != operation || operation == 0 {
            if self.restless.swap(operation, Ordering::Relaxed) != operation {
                let before = self.restless_ended.load(Ordering::Relaxed);
                self.restless_before.store(before, Ordering::Relaxed);
            }
            self.restless_ended.store(now, Ordering::Relaxed);
        }
        self.ended_operation.store(operation, Ordering::Relaxed);
        self.ended.store(now, Ordering::Release);
    }

    /// A call came with nobody in flight.
    pub(super) fn call_without_request(&self, now: Instant) {
        self.n_called_idle.fetch_add(1, Ordering::Relaxed);
        self.called_idle.store(self.time(now), Ordering::Release);
    }

    /// What is said of a call that comes while a request is alone in flight: its kind, and how many of that kind the
    /// request has made before it. `at_sight`: an operation's first window may be believed.
    pub(super) fn tells(
        &self,
        (operation, start, began): (Shape, Start, Instant),
        (call, before): (Shape, u32),
        at_sight: bool,
        now: Instant,
    ) -> Told {
        if start == Start::Crowded || operation == Shape::NONE {
            return Told::Doubtful;
        }
        let window = now.saturating_duration_since(began);
        let known = self.known.lock();
        let Some(operation) = known.find(operation) else {
            let is_believed = start == Start::Clean
                && at_sight
                && known.n_new < FIRST_BELIEVED
                && self.by_itself(window) <= DOUBT;
            return match is_believed {
                true => Told::Its,
                false => Told::Doubtful,
            };
        };
        let usual = operation.calls.iter().find(|usual| usual.shape == call);
        if !operation.overflowed && usual.is_some_and(|usual| usual.is_believed(before)) {
            return Told::Its;
        }
        let seen = usual.map_or(0, |usual| usual.seen);
        if start == Start::Clean && self.by_chance(seen, window) <= DOUBT {
            return Told::Its;
        }
        match usual.is_some_and(|usual| usual.agreeing >= AGREE && before >= usual.count) {
            true => Told::OneTooMany,
            false => Told::Doubtful,
        }
    }

    /// How likely a call of the program's own comes within this time, by those that came with nobody in flight.
    fn by_itself(&self, window: Duration) -> f64 {
        let n_calls = self.n_called_idle.load(Ordering::Relaxed);
        if n_calls == 0 {
            return 0.0;
        }
        let idle = self.idle.load(Ordering::Relaxed) as f64;
        n_calls as f64 * nanos(window) as f64 / (idle + 1.0)
    }

    /// How likely a call of the program's own has come in so many clean windows and in this one, and never with nobody
    /// in flight.
    fn by_chance(&self, seen: u32, window: Duration) -> f64 {
        let clean = self
            .clean
            .load(Ordering::Relaxed)
            .saturating_add(nanos(window)) as f64;
        let idle = self.idle.load(Ordering::Relaxed) as f64;
        let share = (clean + 1.0) / (clean + idle + 1.0);
        PRIOR * share.powi(i32::try_from(seen).unwrap_or(i32::MAX).saturating_add(1))
    }

    /// A request ends that was alone all the time, with the calls it made. `doubted`: not all of them were believed.
    pub(super) fn learn(
        &self,
        (operation, start, began): (Shape, Start, Instant),
        (made, doubted): (&Made, bool),
        now: Instant,
    ) {
        if start == Start::Crowded || operation == Shape::NONE {
            return;
        }
        if start == Start::Clean {
            let window = nanos(now.saturating_duration_since(began));
            self.clean.fetch_add(window, Ordering::Relaxed);
        }
        let mut known = self.known.lock();
        match (known.find_mut(operation), start) {
            (Some(operation), Start::Clean) => operation.agree(made),
            (Some(operation), _) => operation.contradict(made),
            (None, Start::Clean) => known.add(operation, made, doubted),
            (None, _) => {}
        }
    }

    /// What has been learned, in numbers.
    pub(super) fn learned(&self, background_destinations: usize) -> Learned {
        let known = self.known.lock();
        let operations = || known.places.iter().flatten();
        let (believed, doubted): (Vec<_>, Vec<_>) = operations()
            .flat_map(|operation| &operation.calls)
            .partition(|usual| usual.is_believed(0));
        Learned {
            operations: operations().count(),
            believed_calls: believed.len(),
            doubted_calls: doubted.len(),
            background_destinations,
        }
    }

    fn place(&self, operation: u64) -> &AtomicU64 {
        // The remainder is in range.
        &self.rests[operation as usize % OPERATIONS]
    }

    fn time(&self, time: Instant) -> u64 {
        // Never 0, which means never.
        nanos(time.saturating_duration_since(self.origin)).saturating_add(1)
    }
}

impl Known {
    fn find(&self, operation: Shape) -> Option<&Operation> {
        let place = self.places.get(place_of(operation))?.as_ref()?;
        (place.shape == operation).then_some(place)
    }

    fn find_mut(&mut self, operation: Shape) -> Option<&mut Operation> {
        let place = self.places.get_mut(place_of(operation))?.as_mut()?;
        (place.shape == operation).then_some(place)
    }

    fn add(&mut self, shape: Shape, made: &Made, doubted: bool) {
        if self.places.is_empty() {
            self.places.resize_with(OPERATIONS, || None);
        }
        // What is believed at first sight is believed only as long as that is so for all.
        let needed = match self.n_new < FIRST_BELIEVED && !doubted {
            true => 1,
            false => AGREE,
        };
        self.n_new = self.n_new.saturating_add(1);
        let mut operation = Operation {
            shape,
            calls: SmallVec::new(),
            overflowed: false,
        };
        for (call, count) in made {
            operation.add(*call, *count, needed);
        }
        self.places[place_of(shape)] = Some(operation);
    }
}

impl Operation {
    /// A clean window had these calls.
    fn agree(&mut self, made: &Made) {
        for usual in &mut self.calls {
            let count = count_of(made, usual.shape);
            usual.seen = usual.seen.saturating_add(u32::from(count > 0));
            if count == usual.count {
                usual.agreeing = usual.agreeing.saturating_add(1);
            } else {
                usual.doubt();
                usual.count = count;
            }
        }
        for (call, count) in made {
            if self.calls.iter().all(|usual| usual.shape != *call) {
                self.add(*call, *count, AGREE);
            }
        }
    }

    /// A request close behind another made these calls.
    fn contradict(&mut self, made: &Made) {
        for usual in &mut self.calls {
            if count_of(made, usual.shape) != usual.count {
                usual.doubt();
            }
        }
    }

    fn add(&mut self, shape: Shape, count: u32, needed: u32) {
        if self.calls.len() == KINDS {
            self.overflowed = true;
            return;
        }
        self.calls.push(Usual {
            shape,
            count,
            agreeing: 1,
            needed,
            seen: 1,
        });
    }
}

impl Usual {
    fn is_believed(&self, before: u32) -> bool {
        self.agreeing >= self.needed && before < self.count
    }

    /// Each time it takes more to be believed again.
    fn doubt(&mut self) {
        self.agreeing = 0;
        self.needed = self.needed.max(1).saturating_mul(AGREE);
    }
}

/// Counts a call of this kind; how many there were before it.
pub(super) fn count(made: &mut Made, call: Shape) -> u32 {
    if let Some((_, n)) = made.iter_mut().find(|(shape, _)| *shape == call) {
        *n = n.saturating_add(1);
        return *n - 1;
    }
    // One more than is remembered tells that there were too many.
    if made.len() <= KINDS {
        made.push((call, 1));
    }
    0
}

fn count_of(made: &Made, call: Shape) -> u32 {
    let same = made.iter().find(|(shape, _)| *shape == call);
    same.map_or(0, |(_, n)| *n)
}

fn place_of(operation: Shape) -> usize {
    operation.number() as usize % OPERATIONS
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
