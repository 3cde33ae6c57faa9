//! Do the program's calls queue inside it for connections or threads? Then a response frees a place for somebody else's
//! call.
//!
//! A limit shows as a ceiling: again and again as many calls are under way as ever, although more requests are in flight.
//! And where a request makes one call at a time, a queue is there only while the program has more requests than calls
//! that wait for their responses; where it makes several, only while about as many calls wait as ever. A response that
//! comes then says nothing, however seldom that is.

use std::collections::HashMap;
use std::sync::Arc;

use crate::proxy::pacing::Link;
use crate::proxy::pacing::Pacer;
use crate::proxy::pacing::Side;

/// Destinations that are told apart; others are one.
const MAX_DESTINATIONS: usize = 64;
/// Calls before anything is said, and after which the older ones are forgotten.
const FEWEST: u32 = 32;
const FORGET: u32 = 64;
/// One call in so many at the ceiling makes it a limit.
const OFTEN: u32 = 5;
/// The limit may be lower than the most there ever was by one in so many: calls of the program's own are not below it.
const OWN: usize = 8;

/// Calls under way, by destination.
#[derive(Default)]
pub(super) struct Load {
    destinations: HashMap<Box<str>, Ceiling>,
    /// Connections of the program with a call whose response has not reached it, whatever their destinations.
    unanswered: Ceiling,
    /// Pillion's connections to the program with a request that has reached it and has no answer yet.
    inside: usize,
    /// Requests share connections to the program: what is inside is not known.
    is_shared: bool,
}

#[derive(Default)]
struct Ceiling {
    under_way: usize,
    /// Most calls at once among the latest and the ones before them.
    most: usize,
    most_lately: usize,
    /// How many calls were looked at, and how many were at the ceiling.
    n_calls: u32,
    n_at_most: u32,
    n_lately: u32,
    /// Some requests have several at once: seen among the latest, and before them.
    is_fan: bool,
    is_fan_lately: bool,
}

/// A call under way, while this lives.
pub struct Busy {
    pacer: Arc<Pacer>,
    destination: Box<str>,
    /// Where its response goes, when that is not shared.
    link: Option<Arc<Link>>,
}

impl Busy {
    pub(super) fn new(pacer: Arc<Pacer>, destination: &str, link: Option<Arc<Link>>) -> Self {
        Self {
            pacer,
            destination: destination.into(),
            link,
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let mut load = self.pacer.load.lock();
        load.end(&self.destination);
        if let Some(link) = &self.link {
            load.move_on(link, Awaits::over);
        }
    }
}

/// What is to come on a connection: a call's response to the program, or the answer to a request that it was given.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Awaits {
    /// Nothing.
    #[default]
    No,
    /// A response of which nothing has passed; a request that has not.
    Yes,
    /// The rest of a response; the answer to a request that has begun to pass.
    Begun,
    /// The call is over for Pillion, and nothing of its response has passed the gate.
    Held,
}

impl Awaits {
    /// The exchange is over, or answered.
    pub(super) fn over(self) -> Self {
        match self {
            Self::Yes | Self::Held => Self::Held,
            Self::No | Self::Begun => Self::No,
        }
    }

    /// Bytes have passed.
    pub(super) fn passed(self) -> Self {
        match self {
            Self::Yes | Self::Begun => Self::Begun,
            Self::No | Self::Held => Self::No,
        }
    }

    /// A call has come, or a request is to pass.
    pub(super) fn called(self) -> Self {
        Self::Yes
    }

    /// The connection is gone.
    pub(super) fn gone(self) -> Self {
        Self::No
    }

    /// Whether the program counts it: it waits for a response, or has a request.
    fn counts(self, side: Side) -> bool {
        match side {
            Side::Theirs => self != Self::No,
            Side::Ours => self == Self::Begun,
        }
    }
}

impl Load {
    pub(super) fn begin(&mut self, destination: &str, in_flight: usize) {
        if self.is_shared {
            self.inside = in_flight;
        }
        self.of(destination).begin(in_flight);
    }

    pub(super) fn end(&mut self, destination: &str) {
        self.of(destination).end();
    }

    /// Something happens to what a connection awaits.
    pub(super) fn move_on(&mut self, link: &Link, how: impl FnOnce(Awaits) -> Awaits) {
        let mut awaits = link.awaits.lock();
        let before = *awaits;
        *awaits = how(before);
        let counts = (before.counts(link.side), awaits.counts(link.side));
        match (link.side, counts) {
            (Side::Theirs, (false, true)) => self.unanswered.begin(self.inside),
            (Side::Theirs, (true, false)) => self.unanswered.end(),
            (Side::Ours, (false, true)) if !self.is_shared => self.inside += 1,
            (Side::Ours, (true, false)) if !self.is_shared => {
                self.inside = self.inside.saturating_sub(1);
            }
            _ => {}
        }
    }

    /// From now on requests share connections to the program.
    pub(super) fn shares(&mut self) {
        self.is_shared = true;
    }

    /// A delivery brought out several calls.
    pub(super) fn fans(&mut self) {
        self.unanswered.is_fan_lately = true;
    }

    /// True when a response that comes now may free a place for a call that queues for one.
    pub(super) fn is_full(&self) -> bool {
        self.unanswered.is_full(self.inside)
    }

    /// True when calls to some destination seem to be limited, or there were too few to say.
    pub(super) fn is_limited(&self) -> bool {
        let mut known = self
            .destinations
            .values()
            .filter(|one| one.n_calls >= FEWEST);
        let Some(first) = known.next() else {
            return true;
        };
        first.is_limit() || known.any(Ceiling::is_limit)
    }

    fn of(&mut self, destination: &str) -> &mut Ceiling {
        let is_known = self.destinations.contains_key(destination);
        let name = match is_known || self.destinations.len() < MAX_DESTINATIONS {
            true => destination,
            false => "",
        };
        if !self.destinations.contains_key(name) {
            self.destinations.insert(name.into(), Ceiling::default());
        }
        self.destinations.entry(name.into()).or_default()
    }
}

impl Ceiling {
    fn begin(&mut self, n_requests: usize) {
        self.under_way += 1;
        if self.n_lately == FORGET {
            self.most = self.most_lately;
            self.is_fan = self.is_fan_lately;
            (self.most_lately, self.n_lately, self.is_fan_lately) = (0, 0, false);
            (self.n_calls, self.n_at_most) = (self.n_calls / 2, self.n_at_most / 2);
        }
        self.n_calls += 1;
        self.n_lately += 1;
        self.most_lately = self.most_lately.max(self.under_way);
        if self.under_way > self.most {
            (self.most, self.n_at_most) = (self.under_way, 0);
        } else if self.under_way == self.most && n_requests > self.most {
            self.n_at_most += 1;
        }
    }

    fn end(&mut self) {
        self.under_way = self.under_way.saturating_sub(1);
    }

    /// About as many are under way as ever, and the requests may want more.
    fn is_full(&self, n_requests: usize) -> bool {
        let may_want = n_requests > self.under_way || self.is_fan || self.is_fan_lately;
        may_want && self.under_way + self.most.div_ceil(OWN) >= self.most
    }

    fn is_limit(&self) -> bool {
        self.n_at_most.saturating_mul(OFTEN) > self.n_calls
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ceiling_below_the_requests_in_flight_is_a_limit() {
        for (limit, in_flight, expected, why) in [
            (4, 32, true, "four connections for thirty-two requests"),
            (32, 32, false, "each request has its call"),
            (1, 1, false, "one after the other"),
        ] {
            let mut load = Load::default();
            for _ in 0..limit {
                load.begin("db", in_flight);
            }
            for _ in 0..200 {
                load.end("db");
                load.begin("db", in_flight);
            }
            assert_eq!(load.is_limited(), expected, "{why}");
        }
        let mut load = Load::default();
        for n in 0..300 {
            let calls = 1 + n * 7 % 13;
            (0..calls).for_each(|_| load.begin("db", 32));
            (0..calls).for_each(|_| load.end("db"));
        }
        assert!(!load.is_limited(), "it comes and goes");
        (0..4).for_each(|_| load.begin("db", 32));
        for _ in 0..200 {
            load.end("db");
            load.begin("db", 32);
        }
        assert!(load.is_limited(), "what there was before is forgotten");
        assert!(Load::default().is_limited(), "nothing is known");
    }

    #[test]
    fn a_response_says_nothing_while_as_many_are_awaited_as_ever() {
        for (under_way, most, n_requests, expected, why) in [
            (
                16,
                16,
                32,
                true,
                "sixteen threads for the calls of thirty-two",
            ),
            (16, 17, 32, true, "a job had one more"),
            (13, 16, 32, false, "three threads are free"),
            (32, 32, 32, false, "each request has its call"),
            (12, 16, 8, false, "a thread is free for whatever they want"),
            (16, 16, 8, true, "each may want more than one"),
            (1, 1, 1, false, "one after the other"),
        ] {
            let mut ceiling = Ceiling::default();
            (0..most).for_each(|_| ceiling.begin(n_requests));
            ceiling.is_fan_lately = n_requests < most;
            (under_way..most).for_each(|_| ceiling.end());
            assert_eq!(ceiling.is_full(n_requests), expected, "{why}");
        }
    }

    #[test]
    fn what_is_awaited_counts_until_it_has_passed() {
        use Awaits::{Begun, Held, No, Yes};
        type Step = fn(Awaits) -> Awaits;
        for (before, how, after, why) in [
            (No, Awaits::called as Step, Yes, "a call"),
            (Yes, Awaits::passed, Begun, "the head of its response"),
            (Begun, Awaits::passed, Begun, "its body"),
            (Begun, Awaits::over, No, "its end"),
            (Yes, Awaits::over, Held, "read, and held at the gate"),
            (Held, Awaits::passed, No, "let through"),
            (Held, Awaits::called, Yes, "the next call"),
            (Held, Awaits::gone, No, "the program has closed"),
            (No, Awaits::passed, No, "bytes of no call"),
        ] {
            assert_eq!(how(before), after, "{why}");
        }
        for (awaits, theirs, ours) in [
            (No, false, false),
            (Yes, true, false),
            (Begun, true, true),
            (Held, true, false),
        ] {
            assert_eq!(awaits.counts(Side::Theirs), theirs, "{awaits:?}");
            assert_eq!(awaits.counts(Side::Ours), ours, "{awaits:?}");
        }
    }

    #[test]
    fn destinations_are_bounded() {
        let mut load = Load::default();
        for n in 0..1_000 {
            load.begin(&format!("h{n}"), 1);
        }
        assert!(load.destinations.len() <= MAX_DESTINATIONS + 1);
    }
}
