//! What was learned about destinations: who speaks first there. Bounded, forgotten after a while, one for each worker.
//!
//! A destination whose server spoke first once is not asked to wait for its client again. One that carried HTTP gets
//! no connection before there is a request for it, so that the pool can serve it.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;
use std::time::Instant;

use parking_lot::Mutex;

/// Most destinations remembered; the one learned first makes room.
const MAX: usize = 1024;
/// What was learned is looked at anew after this time: an address may have another owner by then.
const LASTS: Duration = Duration::from_secs(300);

/// Who speaks first at a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Habit {
    /// The server.
    ServerFirst,
    /// The client, and it speaks HTTP.
    Http,
}

/// One worker's memory. The lock is never contended: a worker is one thread.
#[derive(Debug, Default)]
pub struct Habits(Mutex<Memory>);

#[derive(Debug, Default)]
struct Memory {
    known: HashMap<SocketAddr, (Habit, Instant)>,
    /// In the order of learning; each known destination once.
    order: VecDeque<SocketAddr>,
}

impl Habits {
    /// What is known about a destination.
    pub fn of(&self, destination: SocketAddr, now: Instant) -> Option<Habit> {
        let memory = self.0.lock();
        let (habit, learned) = memory.known.get(&destination)?;
        (now.saturating_duration_since(*learned) < LASTS).then_some(*habit)
    }

    /// Remembers what a connection showed.
    pub fn learn(&self, destination: SocketAddr, habit: Habit, now: Instant) {
        let memory = &mut *self.0.lock();
        if memory.known.insert(destination, (habit, now)).is_some() {
            return;
        }
        memory.order.push_back(destination);
        if memory.order.len() > MAX
            && let Some(oldest) = memory.order.pop_front()
        {
            memory.known.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(n: usize) -> SocketAddr {
        SocketAddr::from(([10, 0, (n >> 8) as u8, n as u8], 80))
    }

    #[test]
    fn the_last_lesson_counts_until_it_is_old() {
        let habits = Habits::default();
        let now = Instant::now();
        assert_eq!(habits.of(addr(1), now), None);
        habits.learn(addr(1), Habit::ServerFirst, now);
        assert_eq!(habits.of(addr(1), now), Some(Habit::ServerFirst));
        habits.learn(addr(1), Habit::Http, now);
        assert_eq!(habits.of(addr(1), now), Some(Habit::Http));
        assert_eq!(habits.of(addr(1), now + LASTS), None);
    }

    #[test]
    fn the_memory_is_bounded_and_forgets_the_oldest() {
        let habits = Habits::default();
        let now = Instant::now();
        for n in 0..=MAX {
            habits.learn(addr(n), Habit::Http, now);
        }
        assert_eq!(habits.of(addr(0), now), None);
        assert_eq!(habits.of(addr(MAX), now), Some(Habit::Http));
        let memory = habits.0.lock();
        assert_eq!((memory.known.len(), memory.order.len()), (MAX, MAX));
    }
}
