//! Do the program's calls queue inside it for connections? Then a response frees a place for somebody else's call.
//!
//! A limit shows as a ceiling: again and again as many calls are under way as ever, although more requests are in flight.

use std::collections::HashMap;
use std::sync::Arc;

use crate::proxy::pacing::Pacer;

/// Destinations that are told apart; others are one.
const MAX_DESTINATIONS: usize = 64;
/// Calls before anything is said, and after which the older ones are forgotten.
const FEWEST: u32 = 32;
const FORGET: u32 = 64;
/// One call in so many at the ceiling makes it a limit.
const OFTEN: u32 = 5;

/// Calls under way, by destination.
#[derive(Default)]
pub(super) struct Load {
    destinations: HashMap<Box<str>, Ceiling>,
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
}

/// A call under way, while this lives.
pub struct Busy {
    pacer: Arc<Pacer>,
    destination: Box<str>,
}

impl Busy {
    pub(super) fn new(pacer: Arc<Pacer>, destination: &str) -> Self {
        Self {
            pacer,
            destination: destination.into(),
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.pacer.load.lock().end(&self.destination);
    }
}

impl Load {
    pub(super) fn begin(&mut self, destination: &str, in_flight: usize) {
        let ceiling = self.of(destination);
        ceiling.under_way += 1;
        if ceiling.n_lately == FORGET {
            ceiling.most = ceiling.most_lately;
            (ceiling.most_lately, ceiling.n_lately) = (0, 0);
            (ceiling.n_calls, ceiling.n_at_most) = (ceiling.n_calls / 2, ceiling.n_at_most / 2);
        }
        ceiling.n_calls += 1;
        ceiling.n_lately += 1;
        ceiling.most_lately = ceiling.most_lately.max(ceiling.under_way);
        if ceiling.under_way > ceiling.most {
            (ceiling.most, ceiling.n_at_most) = (ceiling.under_way, 0);
        } else if ceiling.under_way == ceiling.most && in_flight > ceiling.most {
            ceiling.n_at_most += 1;
        }
    }

    pub(super) fn end(&mut self, destination: &str) {
        let ceiling = self.of(destination);
        ceiling.under_way = ceiling.under_way.saturating_sub(1);
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
    fn destinations_are_bounded() {
        let mut load = Load::default();
        for n in 0..1_000 {
            load.begin(&format!("h{n}"), 1);
        }
        assert!(load.destinations.len() <= MAX_DESTINATIONS + 1);
    }
}
