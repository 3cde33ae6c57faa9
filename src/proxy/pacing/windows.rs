//! The thread that opens and closes windows.
//!
//! It closes the gate, waits for the program to rest, and grants one delivery after the other until none waits or the
//! others have waited long enough. Then the gate stands open for as long as it was closed.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::thread::sleep;
use std::time::Duration;
use std::time::Instant;

use crate::net::process::Program;
use crate::net::rest::Rest;
use crate::proxy::pacing::Heard;
use crate::proxy::pacing::LONGEST;
use crate::proxy::pacing::Pacer;
use crate::proxy::pacing::Queue;
use crate::proxy::pacing::Side;
use crate::proxy::pacing::Verdict;
use crate::proxy::pacing::Wanted;
use crate::proxy::pacing::Window;

/// So many windows' time the program has for what it was given before; meanwhile it does not lack work. And so long do
/// windows follow each other before the gate opens.
const BACKLOG: u32 = 6;
const CHAIN: u32 = 2;
/// Between two looks at the program.
const LOOK: Duration = Duration::from_micros(20);
/// So many looks in a row must find it at rest.
const LOOKS: u32 = 2;
/// Longest wait for a delivery that was granted, for writes that are under way, and for a worker to come round: on a
/// machine at rest each takes some microseconds, on a busy one as long as others have the processors.
const GRANTED: Duration = Duration::from_millis(10);
const PASSING: Duration = Duration::from_millis(2);
const ROUND: Duration = Duration::from_millis(20);
/// So often a worker's runtime must come round until it has accepted and read what was there.
const ROUNDS: usize = 6;
/// How long the thread sleeps when nothing wants a window.
const IDLE: Duration = Duration::from_millis(200);
/// A response waits so many times as long for its window as a request: who gives up loses the calls that follow.
const BEGUN: u32 = 4;

impl Pacer {
    /// Runs windows until [`Pacer::end`]. `rest` looks at the program's sockets.
    pub fn run(&self, mut rest: Rest) {
        let mut programs: Arc<Vec<Program>> = Arc::default();
        while !self.is_over.load(Ordering::Acquire) {
            let is_paused = self.verdicts.lock().is_paused(Instant::now());
            self.is_resting.store(is_paused, Ordering::Relaxed);
            let mut queue = self.queue.lock();
            if queue.wanted.is_empty() {
                self.wanted.wait_for(&mut queue, IDLE);
            }
            if is_paused || self.is_over.load(Ordering::Acquire) {
                queue.give_up(|_| true);
            }
            let is_wanted = !queue.wanted.is_empty();
            drop(queue);
            if !is_wanted {
                continue;
            }
            let now = self.programs.load_full();
            if !Arc::ptr_eq(&now, &programs) {
                rest.look_at(&now);
                programs = now;
            }
            let took = self.run_windows(&mut rest);
            self.open();
            // The others get as much time as the paced ones had.
            sleep(took);
        }
        self.open();
    }

    /// Closes the gate and grants deliveries. How long others waited for that although the program was at rest.
    fn run_windows(&self, rest: &mut Rest) -> Duration {
        self.is_closed.store(true, Ordering::SeqCst);
        // Calls that are older than the first window are read before it.
        let rests = rest.is_whole()
            && self.nothing_passes()
            && self.comes_to_rest(rest, None, self.window * BACKLOG);
        if !rests || !self.workers_come_round() {
            self.verdicts.lock().never_rested();
            self.give_up_late();
            return self.window;
        }
        let begun = Instant::now();
        while begun.elapsed() < self.window * CHAIN {
            if self.verdicts.lock().is_idle_due() {
                self.idle_window();
            }
            self.give_up_late();
            let wanted = self.queue.lock().next();
            if !wanted.is_some_and(|wanted| self.paced_window(wanted, rest)) {
                break;
            }
        }
        begun.elapsed()
    }

    /// One delivery. False: the program has not come to rest.
    fn paced_window(&self, wanted: Wanted, rest: &mut Rest) -> bool {
        let Wanted {
            link, owner, waker, ..
        } = wanted;
        let begun = Instant::now();
        let is_first = link.side == Side::Ours;
        if is_first {
            self.verdicts.lock().meets(owner.arrival.operation);
        }
        let is_full = link.side == Side::Theirs && self.may_free();
        self.queue.lock().window = Some(self.new_window(link.id));
        waker.wake();
        let is_delivered = self.until(GRANTED, || {
            let queue = self.queue.lock();
            queue
                .window
                .as_ref()
                .is_some_and(|window| window.is_delivered)
        });
        let ends = Some(link.ends);
        // What is a little late is waited for, unless that is the rule.
        let limit = match self.verdicts.lock().may_take_longer() {
            true => self.window * LONGEST,
            false => self.window,
        };
        let delivered = Instant::now();
        let rests = is_delivered && self.nothing_passes() && self.comes_to_rest(rest, ends, limit);
        let is_long = delivered.elapsed() > self.window;
        let in_time = rests && self.workers_come_round();
        let Some(window) = self.queue.lock().window.take() else {
            return false;
        };
        let is_limited = link.side == Side::Theirs && self.load.lock().is_limited();
        let is_seen = self.n_bypasses.load(Ordering::Acquire) == 0;
        let queues = is_full || is_limited;
        let is_clean = in_time && window.n_answers == 0 && !queues && is_seen;
        let mut verdicts = self.verdicts.lock();
        if is_delivered {
            verdicts.paced(window.calls.len(), begun.elapsed(), in_time);
            verdicts.took_longer(is_long);
        }
        if is_first && in_time {
            verdicts.first(window.calls.is_empty() && window.n_answers == 0);
        }
        let (p, is_sure) = (verdicts.p(), verdicts.is_sure());
        let has_learned = is_sure && verdicts.calls.believes_any();
        drop(verdicts);
        self.is_sure.store(has_learned, Ordering::Relaxed);
        let is_believed = is_clean && is_sure;
        if is_believed && window.calls.len() > 1 {
            self.load.lock().fans();
        }
        window.tell(is_believed.then_some((owner, p)));
        in_time
    }

    /// True when the response that is to be delivered may free a place for a call that queues for one.
    fn may_free(&self) -> bool {
        // Calls that the window before brought out count once they have heard of it.
        self.workers_come_round();
        self.load.lock().is_full()
    }

    /// A window in which nothing is delivered.
    fn idle_window(&self) {
        let begun = Instant::now();
        let window = Window {
            is_delivered: true,
            ..self.new_window(0)
        };
        self.queue.lock().window = Some(window);
        sleep(self.verdicts.lock().usual().min(self.window));
        self.workers_come_round();
        if let Some(window) = self.queue.lock().window.take() {
            let n_calls = window.calls.len();
            self.verdicts.lock().idle(n_calls, begun.elapsed());
            window.tell(None);
        }
    }

    fn new_window(&self, link: u64) -> Window {
        Window {
            number: self.next_id.fetch_add(1, Ordering::Relaxed),
            link,
            is_delivered: false,
            calls: Vec::new(),
            n_answers: 0,
        }
    }

    /// Opens the gate.
    fn open(&self) {
        let mut queue = self.queue.lock();
        self.is_closed.store(false, Ordering::SeqCst);
        let waiting = std::mem::take(&mut queue.waiting);
        drop(queue);
        waiting.into_iter().for_each(std::task::Waker::wake);
    }

    /// Waits until the program rests, and has read what came to the socket with these ends.
    fn comes_to_rest(
        &self,
        rest: &mut Rest,
        ends: Option<(SocketAddr, SocketAddr)>,
        limit: Duration,
    ) -> bool {
        let mut n_looks = 0;
        self.until(limit, || {
            n_looks = match rest.is_resting(ends) {
                true => n_looks + 1,
                false => 0,
            };
            n_looks >= LOOKS
        })
    }

    fn nothing_passes(&self) -> bool {
        self.until(PASSING, || self.passing.load(Ordering::SeqCst) == 0)
    }

    /// Waits until every worker has read what was there to read.
    fn workers_come_round(&self) -> bool {
        let workers = self.workers.lock().clone();
        let (done, rounds) = mpsc::channel();
        for worker in &workers {
            let done = done.clone();
            worker.spawn(async move {
                for _ in 0..ROUNDS {
                    tokio::task::yield_now().await;
                }
                done.send(()).unwrap_or_default();
            });
        }
        let deadline = Instant::now() + ROUND;
        workers.iter().all(|_| {
            let left = deadline.saturating_duration_since(Instant::now());
            rounds.recv_timeout(left).is_ok()
        })
    }

    /// Deliveries that have waited too long, or whose request has ended, go as others do.
    fn give_up_late(&self) {
        let patience = self.patience;
        let mut queue = self.queue.lock();
        queue.give_up(|wanted| {
            let patience = match wanted.link.side {
                Side::Ours => patience,
                Side::Theirs => patience * BEGUN,
            };
            wanted.since.elapsed() > patience || wanted.owner.has_ended()
        });
    }

    fn until(&self, limit: Duration, mut is_so: impl FnMut() -> bool) -> bool {
        let deadline = Instant::now() + limit;
        loop {
            if is_so() {
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
            sleep(LOOK);
        }
    }
}

impl Queue {
    /// Responses first: what was begun is worth more than what could be.
    fn next(&mut self) -> Option<Wanted> {
        let begun = |wanted: &Wanted| wanted.link.side == Side::Theirs;
        let at = self.wanted.iter().position(begun).unwrap_or(0);
        self.wanted.remove(at)
    }

    fn give_up(&mut self, which: impl Fn(&Wanted) -> bool) {
        self.wanted.retain(|wanted| {
            let gives_up = which(wanted);
            if gives_up {
                wanted.link.belongs_to(None);
                if wanted.link.side == Side::Ours {
                    wanted.owner.pace(false);
                }
                wanted.waker.wake_by_ref();
            }
            !gives_up
        });
    }
}

impl Window {
    fn tell(self, verdict: Option<Verdict>) {
        let heard = Heard {
            verdict,
            window: self.number,
            is_idle: self.link == 0,
        };
        for call in self.calls {
            // Who asked may be gone.
            call.send(heard.clone()).unwrap_or_default();
        }
    }
}
