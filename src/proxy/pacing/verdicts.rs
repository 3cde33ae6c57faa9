//! How good windows are: what came out of those that delivered nothing, and how many did not end in time.

use std::collections::HashSet;
use std::time::Duration;
use std::time::Instant;

use crate::correlate::Shape;
use crate::proxy::pacing::kinds::Kinds;

/// Windows with nothing delivered: one of two at first, then one of so many. Which one is drawn: what always comes at the
/// same place between two openings of the gate meets them too.
const AT_FIRST: u64 = 40;
const EACH_AT_FIRST: u64 = 2;
const EACH: u64 = 8;
/// How likely a call must be its window's, and the windows that are needed to say so.
const LEAST: f64 = 0.995;
const FEWEST: u32 = 8;
/// After so many windows the older half counts half.
const FORGET: u32 = 512;
/// One request in so many that has neither a call nor an answer in its first window: it waits for something that is not
/// seen, a timer or a place in a queue, and then calls in a window of another.
const SILENT: u32 = 20;
/// Kinds of requests that are remembered; what is new is watched first.
const KINDS: usize = 256;
/// More than one in so many windows that do not end in time: the program is too busy.
const LATE: u32 = 2;
/// One in so many windows may take longer than the limit says.
const LONG: u32 = 4;
/// How long nothing is paced then; twice as long each time.
const PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(600);
/// What a window takes, before any did.
const USUAL: Duration = Duration::from_micros(500);

/// What windows showed.
#[derive(Debug, Default)]
pub(super) struct Verdicts {
    /// Windows with a delivery, and without.
    paced: Sum,
    idle: Sum,
    n_late: u32,
    /// Windows that took longer than the limit, in time or not.
    n_long: u32,
    /// First windows of requests, and those with neither call nor answer.
    n_first: u32,
    n_silent: u32,
    requests: HashSet<Shape>,
    /// Kinds of calls.
    pub(super) calls: Kinds,
    n_turns: u64,
    /// Which one of these is to deliver nothing.
    idle_at: u64,
    until: Option<Instant>,
    n_pauses: u32,
    totals: Totals,
}

#[derive(Debug, Clone, Copy, Default)]
struct Sum {
    n_windows: u32,
    n_calls: u32,
    time: Duration,
}

#[derive(Debug, Clone, Copy, Default)]
struct Totals {
    windows: u64,
    late: u64,
    calls: u64,
    strays: u64,
}

/// How pacing stands.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Standing {
    /// The program's threads are not to be seen: nothing is paced.
    pub is_blind: bool,
    /// Nothing is paced for a while: the program calls by itself, or does not come to rest.
    pub is_paused: bool,
    /// How likely a call is its window's.
    pub p: f64,
    /// Windows with a delivery.
    pub windows: u64,
    /// Those at whose end the program had not come to rest.
    pub late: u64,
    /// Calls that came in windows with a delivery.
    pub calls: u64,
    /// Calls that came in windows without.
    pub strays: u64,
}

impl Verdicts {
    /// True when the next window is to deliver nothing.
    pub(super) fn is_idle_due(&mut self) -> bool {
        let each = match self.n_turns < AT_FIRST {
            true => EACH_AT_FIRST,
            false => EACH,
        };
        let at = self.n_turns % each;
        if at == 0 {
            self.idle_at = fastrand::u64(..each);
        }
        self.n_turns += 1;
        at == self.idle_at
    }

    /// How long a window without a delivery lasts: as others do.
    pub(super) fn usual(&self) -> Duration {
        match self.paced.n_windows {
            0 => USUAL,
            n => self.paced.time / n,
        }
    }

    /// A window with a delivery has ended, with so many calls.
    pub(super) fn paced(&mut self, n_calls: usize, took: Duration, in_time: bool) {
        self.paced.add(n_calls, took);
        self.calls.paced(took);
        self.n_late += u32::from(!in_time);
        self.totals.windows += 1;
        self.totals.late += u64::from(!in_time);
        self.totals.calls += n_calls as u64;
        if self.paced.n_windows >= FORGET {
            self.paced.halve();
            self.idle.halve();
            self.n_late /= 2;
            self.n_long /= 2;
            self.n_pauses = 0;
        }
    }

    /// A window with a delivery took longer than the limit, or not.
    pub(super) fn took_longer(&mut self, is_long: bool) {
        self.n_long += u32::from(is_long);
    }

    /// True when so few windows take longer than the limit that the next one may.
    pub(super) fn may_take_longer(&self) -> bool {
        self.n_long.saturating_mul(LONG) <= self.paced.n_windows
    }

    /// A request of this kind is delivered. Nothing is known of a kind that is new, nor of the others beside it.
    pub(super) fn meets(&mut self, kind: Shape) {
        if self.requests.contains(&kind) {
            return;
        }
        if self.requests.len() < KINDS {
            self.requests.insert(kind);
        }
        self.forget();
    }

    /// The first window of a request has ended, in time.
    pub(super) fn first(&mut self, is_silent: bool) {
        if self.n_first >= FORGET {
            (self.n_first, self.n_silent) = (self.n_first / 2, self.n_silent / 2);
        }
        self.n_first += 1;
        self.n_silent += u32::from(is_silent);
    }

    /// True when enough was seen to believe what windows say.
    pub(super) fn is_sure(&self) -> bool {
        self.idle.n_windows >= FEWEST
            && self.n_first >= FEWEST
            && self.p() >= LEAST
            && !self.has_silent()
    }

    /// For tests: enough was seen, of requests of no kind.
    #[cfg(test)]
    pub(super) fn learned(&mut self) {
        self.meets(Shape::NONE);
        for _ in 0..2 * FEWEST {
            self.paced(1, USUAL, true);
            self.idle(0, USUAL);
            self.first(false);
        }
    }

    fn has_silent(&self) -> bool {
        self.n_silent.saturating_mul(SILENT) > self.n_first
    }

    fn forget(&mut self) {
        (self.paced, self.idle) = (Sum::default(), Sum::default());
        (self.n_late, self.n_long, self.n_turns) = (0, 0, 0);
        (self.n_first, self.n_silent) = (0, 0);
        self.calls = Kinds::default();
    }

    /// The program did not come to rest before a delivery.
    pub(super) fn never_rested(&mut self) {
        self.paced(0, Duration::ZERO, false);
    }

    /// A window without one has ended.
    pub(super) fn idle(&mut self, n_calls: usize, took: Duration) {
        self.idle.add(n_calls, took);
        self.calls.idle(took);
        self.totals.strays += n_calls as u64;
    }

    /// How likely a call in a window is caused by what was delivered.
    pub(super) fn p(&self) -> f64 {
        if self.idle.n_calls == 0 {
            return 1.0;
        }
        let rate = f64::from(self.idle.n_calls) / self.idle.time.as_secs_f64().max(1e-6);
        let expected = rate * self.paced.time.as_secs_f64();
        (1.0 - expected / f64::from(self.paced.n_calls.max(1))).max(0.0)
    }

    /// True when nothing is to be paced at this moment.
    pub(super) fn is_paused(&mut self, now: Instant) -> bool {
        if self.until.is_some_and(|until| until > now) {
            return true;
        }
        self.until = None;
        let is_silent = self.n_first >= 2 * FEWEST && self.has_silent();
        let errs = is_silent || (self.idle.n_windows >= FEWEST && self.p() < LEAST);
        let is_busy = self.paced.n_windows >= 2 * FEWEST
            && self.n_late.saturating_mul(LATE) > self.paced.n_windows;
        if !errs && !is_busy {
            return false;
        }
        let pause = PAUSE
            .saturating_mul(1 << self.n_pauses.min(16))
            .min(MAX_PAUSE);
        self.n_pauses += 1;
        self.until = Some(now + pause);
        self.forget();
        true
    }

    pub(super) fn standing(&self) -> Standing {
        let Totals {
            windows,
            late,
            calls,
            strays,
        } = self.totals;
        Standing {
            is_blind: false,
            is_paused: self.until.is_some(),
            p: self.p(),
            windows,
            late,
            calls,
            strays,
        }
    }
}

impl Sum {
    fn add(&mut self, n_calls: usize, took: Duration) {
        self.n_windows += 1;
        self.n_calls = self
            .n_calls
            .saturating_add(u32::try_from(n_calls).unwrap_or(u32::MAX));
        self.time += took;
    }

    fn halve(&mut self) {
        self.n_windows /= 2;
        self.n_calls /= 2;
        self.time /= 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLI: Duration = Duration::from_millis(1);

    fn after(n_windows: u32, calls: usize, strays_each: u32) -> Verdicts {
        let mut verdicts = Verdicts::default();
        for n in 0..n_windows {
            verdicts.paced(calls, MILLI, true);
            let strays = strays_each > 0 && n % strays_each == 0;
            verdicts.idle(usize::from(strays), MILLI);
        }
        verdicts
    }

    #[test]
    fn strays_tell_how_often_windows_err_and_end_pacing() {
        let now = Instant::now();
        for (mut verdicts, p, paused, why) in [
            (after(100, 1, 0), 1.0, false, "nothing came by itself"),
            (
                after(100, 2, 100),
                0.995,
                false,
                "one stray to two hundred calls",
            ),
            (after(100, 1, 10), 0.9, true, "one in ten"),
            (after(100, 0, 10), 0.0, true, "nothing but strays"),
            (after(4, 1, 1), 0.0, false, "too few to say"),
        ] {
            assert!((verdicts.p() - p).abs() < 1e-9, "{why}: {}", verdicts.p());
            assert_eq!(verdicts.is_paused(now), paused, "{why}");
        }
    }

    #[test]
    fn windows_are_believed_when_requests_call_in_their_first_ones() {
        let sure = |n_first: u32, each_silent: u32| {
            let mut verdicts = after(2 * FEWEST, 1, 0);
            for n in 1..=n_first {
                verdicts.first(n.is_multiple_of(each_silent));
            }
            (verdicts.is_sure(), verdicts.is_paused(Instant::now()))
        };
        for (n_first, each_silent, expected, why) in [
            (FEWEST - 1, 100, (false, false), "too few"),
            (99, 100, (true, false), "each calls at once"),
            (100, 50, (true, false), "one in fifty waits for something"),
            (100, 10, (false, true), "one in ten does"),
            (100, 1, (false, true), "all sleep first"),
        ] {
            assert_eq!(sure(n_first, each_silent), expected, "{why}");
        }
        let mut verdicts = after(2 * FEWEST, 1, 0);
        (0..100).for_each(|_| verdicts.first(false));
        assert!(verdicts.is_sure());
        verdicts.meets(Shape::NONE);
        assert!(!verdicts.is_sure(), "a new kind of request");
    }

    #[test]
    fn a_program_that_does_not_rest_is_left_alone_for_longer_each_time() {
        let mut verdicts = Verdicts::default();
        let mut now = Instant::now();
        let mut busy = |verdicts: &mut Verdicts| {
            for _ in 0..3 * FEWEST {
                verdicts.never_rested();
            }
            assert!(verdicts.is_paused(now));
            let mut waited = Duration::ZERO;
            while verdicts.is_paused(now) {
                now += MILLI * 500;
                waited += MILLI * 500;
            }
            waited
        };
        assert_eq!(busy(&mut verdicts), PAUSE);
        assert_eq!(busy(&mut verdicts), 2 * PAUSE);
    }

    #[test]
    fn a_few_windows_may_take_longer() {
        for (each_long, expected, why) in [
            (u32::MAX, true, "none did"),
            (8, true, "one in eight"),
            (2, false, "every second one"),
        ] {
            let mut verdicts = Verdicts::default();
            assert!(verdicts.may_take_longer(), "nothing was seen");
            for n in 1..=32_u32 {
                verdicts.paced(1, MILLI, true);
                verdicts.took_longer(n.is_multiple_of(each_long));
            }
            assert_eq!(verdicts.may_take_longer(), expected, "{why}");
        }
    }

    #[test]
    fn windows_without_a_delivery_are_many_at_first() {
        let mut verdicts = Verdicts::default();
        let mut count = |n| (0..n).filter(|_| verdicts.is_idle_due()).count();
        assert_eq!((count(40), count(80)), (20, 10));
        // Chains of two windows: neither the first nor the second is left out.
        let mut idle: Vec<u64> = (0..800).filter(|_| verdicts.is_idle_due()).collect();
        idle.iter_mut().for_each(|at| *at %= 2);
        assert!(idle.contains(&0) && idle.contains(&1));
    }
}
