//! Random trace and span ids, per thread, without locks or system calls.

use std::cell::RefCell;
use std::hash::BuildHasher;
use std::hash::RandomState;

use fastrand::Rng;

use crate::model::SpanId;
use crate::model::Timestamp;
use crate::model::TraceId;

/// Two generators with independent seeds from the operating system: together 128 bits of state, so that processes of a
/// large fleet do not repeat each other's trace ids.
struct Source {
    high: Rng,
    low: Rng,
}

thread_local! {
    static SOURCE: RefCell<Source> =
        RefCell::new(Source { high: Rng::with_seed(os_seed()), low: Rng::with_seed(os_seed()) });
}

/// A new trace id: 128 random bits, or 64 with a zero high half when `short`.
pub fn trace_id(short: bool) -> TraceId {
    SOURCE.with_borrow_mut(|source| {
        loop {
            let high = if short { 0 } else { source.high.u64(..) };
            if let Some(id) = TraceId::from_halves(high, source.low.u64(..)) {
                return id;
            }
        }
    })
}

/// The id with the seconds since 1970 in its first four bytes. The other twelve stay random, of which W3C's random flag
/// asks seven. Source: AWS X-Ray Developer Guide, "Tracing header".
pub fn dated(id: TraceId, now: Timestamp) -> TraceId {
    let seconds = (now.0 / 1_000_000_000) & 0xffff_ffff;
    TraceId::from_halves(seconds << 32 | id.high() & 0xffff_ffff, id.low()).unwrap_or(id)
}

/// A new span id: 64 random bits.
pub fn span_id() -> SpanId {
    SOURCE.with_borrow_mut(|source| {
        loop {
            if let Some(id) = SpanId::from_u64(source.high.u64(..) ^ source.low.u64(..)) {
                return id;
            }
        }
    })
}

/// The standard library keys its hashers from the operating system's random source; hashing nothing reveals that key.
fn os_seed() -> u64 {
    RandomState::new().hash_one(std::thread::current().id())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_dated_id_begins_with_the_seconds_and_keeps_the_rest() {
        let id = TraceId::from_hex(b"ffffffff16cd43dd8448eb211c80319c").unwrap();
        let dated = dated(id, Timestamp(0x5759_e988 * 1_000_000_000 + 5));
        assert_eq!(dated.to_string(), "5759e98816cd43dd8448eb211c80319c");
    }

    #[test]
    fn ids_differ_between_threads_and_calls() {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                std::thread::spawn(|| {
                    (0..1000)
                        .map(|_| (trace_id(false), span_id()))
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        let all: Vec<_> = threads
            .into_iter()
            .flat_map(|t| t.join().unwrap())
            .collect();
        assert_eq!(
            all.iter().map(|(t, _)| *t).collect::<HashSet<_>>().len(),
            4000
        );
        assert_eq!(
            all.iter().map(|(_, s)| *s).collect::<HashSet<_>>().len(),
            4000
        );
        assert_eq!(trace_id(true).high(), 0);
    }
}
