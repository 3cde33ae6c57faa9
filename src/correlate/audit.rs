//! How often evidence was right, by layer and operation, and which layer has lost its word.
//!
//! A call on which the program passes on the trace context that its request was given tells the truth without being
//! asked. Whatever else points at a request for such a call is held against that. Counters only: no lock, nothing that
//! grows, the latest operation has its place.

use std::sync::atomic::AtomicU32;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use crate::correlate::Method;
use crate::correlate::shape::Shape;

/// Operations with figures of their own; two that fall on one place take it from each other.
const OPERATIONS: usize = 256;
/// The layers that can be wrong about a program that forwards.
const AUDITED: [Method; 5] = [
    Method::Shim,
    Method::Thread,
    Method::Lineage,
    Method::Runtime,
    Method::Values,
];
/// One wrong answer in more than so many takes a layer's word away.
const RIGHT_OF_ONE_WRONG: u32 = 1_000;
/// Every so many forwarded calls are looked at.
const EACH: u32 = 4;

/// The figures.
#[derive(Debug)]
pub(super) struct Audit {
    calls: AtomicU32,
    sums: [Tally; AUDITED.len()],
    places: Box<[Place]>,
}

/// How often one layer was right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Figures {
    /// The layer.
    pub method: &'static str,
    /// It pointed at the request that the program named too.
    pub right: u32,
    /// It pointed at another.
    pub wrong: u32,
    /// Operations for which it is not believed.
    pub demoted_operations: usize,
}

#[derive(Debug, Default)]
struct Place {
    operation: AtomicU64,
    tallies: [Tally; AUDITED.len()],
}

#[derive(Debug, Default)]
struct Tally {
    right: AtomicU32,
    wrong: AtomicU32,
}

impl Default for Audit {
    fn default() -> Self {
        Self {
            calls: AtomicU32::new(0),
            sums: Default::default(),
            places: (0..OPERATIONS).map(|_| Place::default()).collect(),
        }
    }
}

impl Audit {
    /// True for the calls that are to be looked at.
    pub(super) fn wants_next(&self) -> bool {
        self.calls
            .fetch_add(1, Ordering::Relaxed)
            .is_multiple_of(EACH)
    }

    /// A layer pointed at a request of this operation, rightly or wrongly.
    pub(super) fn tell(&self, operation: Shape, method: Method, right: bool) {
        let Some(index) = index_of(method) else {
            return;
        };
        self.sums[index].add(right);
        let place = self.place(operation);
        if place.operation.swap(operation.number(), Ordering::Relaxed) != operation.number() {
            place.tallies.iter().for_each(Tally::clear);
        }
        place.tallies[index].add(right);
    }

    /// False when a layer was wrong too often about this operation.
    pub(super) fn believes(&self, operation: Shape, method: Method) -> bool {
        let place = self.place(operation);
        index_of(method).is_none_or(|index| {
            place.operation.load(Ordering::Relaxed) != operation.number()
                || place.tallies[index].is_good()
        })
    }

    /// What was found, by layer.
    pub(super) fn figures(&self) -> Vec<Figures> {
        let of = |(index, method): (usize, &Method)| {
            let demoted = |place: &&Place| !place.tallies[index].is_good();
            let (right, wrong) = self.sums[index].read();
            Figures {
                method: method.name(),
                right,
                wrong,
                demoted_operations: self.places.iter().filter(demoted).count(),
            }
        };
        AUDITED.iter().enumerate().map(of).collect()
    }

    fn place(&self, operation: Shape) -> &Place {
        // The remainder is in range.
        &self.places[operation.number() as usize % OPERATIONS]
    }
}

impl Tally {
    fn add(&self, right: bool) {
        let counter = if right { &self.right } else { &self.wrong };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn clear(&self) {
        self.right.store(0, Ordering::Relaxed);
        self.wrong.store(0, Ordering::Relaxed);
    }

    fn read(&self) -> (u32, u32) {
        let read = |counter: &AtomicU32| counter.load(Ordering::Relaxed);
        (read(&self.right), read(&self.wrong))
    }

    fn is_good(&self) -> bool {
        let (right, wrong) = self.read();
        wrong == 0 || right / wrong >= RIGHT_OF_ONE_WRONG
    }
}

fn index_of(method: Method) -> Option<usize> {
    AUDITED.iter().position(|audited| *audited == method)
}

#[cfg(test)]
mod tests {
    use http::Method as Verb;

    use super::*;
    use crate::correlate::shape::Shapes;

    #[test]
    fn a_layer_loses_its_word_where_it_was_wrong_and_earns_it_back() {
        let (audit, shapes) = (Audit::default(), Shapes::default());
        let [one, other] = ["/one", "/other"].map(|path| shapes.of(&Verb::GET, "", path));
        audit.tell(other, Method::Thread, true);
        audit.tell(one, Method::Thread, false);
        assert!(!audit.believes(one, Method::Thread));
        assert!(audit.believes(other, Method::Thread), "another operation");
        assert!(audit.believes(one, Method::Shim), "another layer");
        let thread = audit.figures()[1];
        assert_eq!((thread.method, thread.demoted_operations), ("thread", 1));
        assert_eq!((thread.right, thread.wrong), (1, 1));
        for _ in 0..RIGHT_OF_ONE_WRONG {
            audit.tell(one, Method::Thread, true);
        }
        assert!(audit.believes(one, Method::Thread));
        audit.tell(one, Method::Exclusive, false);
        assert!(audit.believes(one, Method::Exclusive), "has its own judge");
    }
}
