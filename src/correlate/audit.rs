//! How often evidence was right, by layer and operation, and which layer has lost its word.
//!
//! Three things tell the truth without being asked: a call on which the program passes on the trace context that its
//! request was given; one that came while nothing but its request's had been delivered; and a request that is alone and
//! makes its usual calls, or one more. Whatever else points at a request for such a call is held against that. What was
//! seen makes the prior of a method its probability for the operation (the mean of a beta distribution). Counters only:
//! no lock but for names, nothing that grows; where there are too many operations the latest one has the place.

use std::sync::atomic::AtomicU32;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;

use crate::correlate::Method;
use crate::correlate::Mode;
use crate::correlate::shape::Shape;

/// Operations with figures of their own.
const OPERATIONS: usize = 256;
/// Places that an operation may have; when all of them are others' it takes the first.
const CHOICES: usize = 8;
/// The layers that can be wrong about a program that forwards.
const AUDITED: [Method; 7] = [
    Method::Shim,
    Method::Thread,
    Method::Lineage,
    Method::Runtime,
    Method::Values,
    Method::Pacing,
    Method::Exclusive,
];
/// The prior of a method counts as so many answers.
const PRIOR_WEIGHT: f64 = 1_000.0;
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
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Figures {
    /// The layer.
    pub method: &'static str,
    /// It pointed at the request that the program named too.
    pub right: u32,
    /// It pointed at another.
    pub wrong: u32,
    /// How likely it is right by these figures, all operations together.
    pub p: f64,
    /// Operations for which it is right less often than before it was audited, and less than `strict` asks for.
    pub demoted_operations: usize,
    /// Of each operation.
    pub operations: Vec<OfOperation>,
}

/// How often a layer was right about one operation.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct OfOperation {
    /// Method and route, or path without its values; `None` before a request of this kind has come again.
    pub operation: Option<String>,
    /// As of all.
    pub right: u32,
    /// As of all.
    pub wrong: u32,
    /// How likely it is right by these figures.
    pub p: f64,
}

#[derive(Debug, Default)]
struct Place {
    operation: AtomicU64,
    /// The operation that `name` is of.
    named: AtomicU64,
    name: Mutex<String>,
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

    /// True when this operation has figures, or might have the place of nobody, and what it is called is not known.
    pub(super) fn wants_name(&self, operation: Shape) -> bool {
        let (place, own) = (self.place(operation), operation.number());
        let held = place.operation.load(Ordering::Relaxed);
        let named = place.named.load(Ordering::Relaxed);
        match held {
            0 => named == 0,
            held => held == own && named != own,
        }
    }

    /// What an operation is called.
    pub(super) fn is_named(&self, operation: Shape, name: String) {
        let place = self.place(operation);
        let mut held = place.name.lock();
        *held = name;
        place.named.store(operation.number(), Ordering::Relaxed);
    }

    /// How likely a layer is right when it points at a request of this operation.
    pub(super) fn p(&self, operation: Shape, method: Method) -> f64 {
        let place = self.place(operation);
        match index_of(method) {
            Some(index) if place.operation.load(Ordering::Relaxed) == operation.number() => {
                place.tallies[index].p(method)
            }
            _ => method.prior(),
        }
    }

    /// What was found, by layer.
    pub(super) fn figures(&self) -> Vec<Figures> {
        let of = |(index, method): (usize, &Method)| {
            let least = Mode::Strict.least().min(method.prior());
            let demoted = |place: &&Place| place.tallies[index].p(*method) < least;
            let (right, wrong) = self.sums[index].read();
            let operations = self.places.iter();
            Figures {
                method: method.name(),
                right,
                wrong,
                p: self.sums[index].p(*method),
                demoted_operations: self.places.iter().filter(demoted).count(),
                operations: operations
                    .filter_map(|place| place.figures(index))
                    .collect(),
            }
        };
        AUDITED.iter().enumerate().map(of).collect()
    }

    /// The place of this operation, or the one that it would take.
    fn place(&self, operation: Shape) -> &Place {
        let first = operation.number() as usize % OPERATIONS;
        let mut choices = (first..first + CHOICES).map(|at| &self.places[at % OPERATIONS]);
        let is_its = |place: &&Place| {
            let held = place.operation.load(Ordering::Relaxed);
            held == operation.number() || held == 0
        };
        choices.find(is_its).unwrap_or(&self.places[first])
    }
}

impl Place {
    /// What is known of a layer; `None`: nothing.
    fn figures(&self, index: usize) -> Option<OfOperation> {
        let (right, wrong) = self.tallies[index].read();
        if right + wrong == 0 {
            return None;
        }
        let name = self.name.lock();
        let named = self.named.load(Ordering::Relaxed);
        let is_its = named != 0 && named == self.operation.load(Ordering::Relaxed);
        Some(OfOperation {
            operation: is_its.then(|| name.clone()),
            right,
            wrong,
            p: self.tallies[index].p(AUDITED[index]),
        })
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

    fn p(&self, method: Method) -> f64 {
        let (right, wrong) = self.read();
        let (right, wrong) = (f64::from(right), f64::from(wrong));
        // Exactly the prior while nothing was seen.
        let prior = method.prior();
        prior + (right - prior * (right + wrong)) / (PRIOR_WEIGHT + right + wrong)
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
        let believes = |operation, method| Mode::Strict.accepts(method, audit.p(operation, method));
        audit.tell(other, Method::Thread, true);
        audit.tell(one, Method::Thread, false);
        assert!(!believes(one, Method::Thread));
        assert!(believes(other, Method::Thread), "another operation");
        assert!(believes(one, Method::Shim), "another layer");
        let thread = &audit.figures()[1];
        assert_eq!((thread.method, thread.demoted_operations), ("thread", 1));
        assert_eq!((thread.right, thread.wrong), (1, 1));
        for _ in 0..1_000 {
            audit.tell(one, Method::Thread, true);
        }
        assert!(believes(one, Method::Thread));
    }

    #[test]
    fn figures_name_their_operation() {
        let (audit, shapes) = (Audit::default(), Shapes::default());
        let of = |path| shapes.of(&Verb::GET, "", path);
        let [first, later] = ["/first", "/later/1"].map(of);
        assert!(audit.wants_name(first), "nobody has the place");
        audit.is_named(first, "GET /first".to_owned());
        audit.tell(first, Method::Thread, true);
        assert!(!audit.wants_name(first), "it is known");
        audit.tell(later, Method::Thread, false);
        let names = || {
            let mut seen = audit.figures()[1].operations.clone();
            seen.sort_by_key(|one| one.wrong);
            seen.into_iter()
                .map(|one| one.operation)
                .collect::<Vec<_>>()
        };
        let name = |text: &str| Some(text.to_owned());
        assert_eq!(names(), [name("GET /first"), None]);
        assert!(audit.wants_name(later));
        audit.is_named(later, "GET /later/*".to_owned());
        assert_eq!(names(), [name("GET /first"), name("GET /later/*")]);
        assert!(audit.figures()[0].operations.is_empty(), "of each layer");
    }

    #[test]
    fn operations_that_would_have_one_place_keep_their_figures_apart() {
        let (audit, shapes) = (Audit::default(), Shapes::default());
        let word = |n: u32| char::from_u32(u32::from('a') + n % 26).unwrap();
        let of = |n: u32| {
            let path = format!("/{}{}{}", word(n), word(n / 26), word(n / 676));
            shapes.of(&Verb::GET, "", &path)
        };
        let place = |shape: Shape| shape.number() as usize % OPERATIONS;
        let wrong = of(0);
        let same = (1..10_000)
            .map(of)
            .filter(|other| place(*other) == place(wrong));
        let same: Vec<Shape> = same.take(CHOICES - 1).collect();
        assert_eq!(same.len(), CHOICES - 1);
        audit.tell(wrong, Method::Thread, false);
        for other in &same {
            audit.tell(*other, Method::Thread, true);
        }
        assert!(audit.p(wrong, Method::Thread) < Method::Thread.prior());
        for other in &same {
            assert!(audit.p(*other, Method::Thread) > Method::Thread.prior());
        }
    }

    #[test]
    fn what_was_seen_moves_a_prior_as_far_as_it_weighs() {
        let (audit, shapes) = (Audit::default(), Shapes::default());
        let operation = shapes.of(&Verb::GET, "", "/");
        let p = || audit.p(operation, Method::Lineage);
        let accepted = || {
            let modes = [Mode::Strict, Mode::Balanced, Mode::Eager];
            modes.map(|mode| mode.accepts(Method::Lineage, p()))
        };
        assert_eq!(p(), 0.99, "nothing was seen");
        assert_eq!(accepted(), [false, false, true]);
        for _ in 0..1_000 {
            audit.tell(operation, Method::Lineage, true);
        }
        assert!((p() - 0.995).abs() < 1e-9, "as many again were right");
        for _ in 0..100 {
            audit.tell(operation, Method::Lineage, true);
        }
        assert_eq!(accepted(), [false, true, true]);
        for _ in 0..400 {
            audit.tell(operation, Method::Lineage, false);
        }
        assert_eq!(accepted(), [false; 3]);
        let least = [Method::Exclusive, Method::Pacing, Method::Shim];
        for method in least {
            assert!(Mode::Strict.accepts(method, method.prior()), "{method:?}");
        }
    }
}
