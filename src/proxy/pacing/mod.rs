//! Causal pacing: what goes to the program is delivered one at a time, so that what comes out of it tells its cause.
//!
//! A paced request's bytes, and the responses to its calls, are each delivered in a *window*: the gate closes for
//! everything else that is for the program, the program comes to rest, the delivery passes, the program comes to rest
//! again. A call that came meanwhile was caused by the delivery, unless something speaks against it: the program did not
//! come to rest in time, it answered somebody meanwhile (a thread that is free takes up something older), its calls
//! queue for connections, bytes reach it that the gate does not see, or too little was seen of requests of this kind. Some windows deliver nothing: what comes out of
//! those the program does by itself, and that tells how often the others err.
//!
//! `windows` runs them in a thread of its own; here is what passes the gate, and what asks. With pacing off there is
//! none of this.

mod kinds;
mod load;
mod verdicts;
mod windows;

use std::collections::HashMap;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::task::Poll;
use std::task::Waker;
use std::time::Duration;
use std::time::Instant;

use arc_swap::ArcSwap;
use parking_lot::Condvar;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::correlate::Inbound;
use crate::correlate::Pacing;
use crate::correlate::Shape;
use crate::net::process::Program;
use crate::proxy::pacing::load::Awaits;
use crate::proxy::pacing::load::Load;
use crate::proxy::pacing::verdicts::Verdicts;

pub use load::Busy;
pub use verdicts::Standing;

/// Longest wait of a call for what its window says, beyond the window itself.
const VERDICT: Duration = Duration::from_millis(50);
/// So many times its usual limit a window may take, when few do.
const LONGEST: u32 = 4;
/// Most deliveries that wait for a window: beyond that requests are not paced.
const MAX_WANTED: usize = 3;

/// The gate before the program.
pub struct Pacer {
    /// How long a window may take, and a delivery wait for one.
    window: Duration,
    patience: Duration,
    /// Nothing passes but a window's own delivery.
    is_closed: AtomicBool,
    /// Writes that were let through and are not over.
    passing: AtomicUsize,
    queue: Mutex<Queue>,
    /// Told when a delivery wants a window.
    wanted: Condvar,
    verdicts: Mutex<Verdicts>,
    /// What windows say is believed by now.
    is_sure: AtomicBool,
    /// No request is paced for now.
    is_resting: AtomicBool,
    is_over: AtomicBool,
    load: Mutex<Load>,
    /// Connections whose bytes do not pass here.
    n_bypasses: AtomicUsize,
    links: Mutex<HashMap<(Side, u16), Arc<Link>>>,
    next_id: AtomicU64,
    /// The program's processes, as far as they are seen.
    programs: ArcSwap<Vec<Program>>,
    /// Each worker's runtime.
    workers: Mutex<Vec<Handle>>,
}

/// Who opened a connection between Pillion and the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// Pillion: its port tells it apart.
    Ours,
    /// The program: its own port does.
    Theirs,
}

/// The request that caused a call, and how likely.
pub type Verdict = (Arc<Inbound>, f64);

/// What its window told a call.
#[derive(Clone)]
pub struct Heard {
    verdict: Option<Verdict>,
    /// The window's number, and whether it delivered nothing.
    window: u64,
    is_idle: bool,
}

#[derive(Default)]
struct Queue {
    /// Paced deliveries, in the order they came.
    wanted: VecDeque<Wanted>,
    /// Whoever waits for the gate.
    waiting: Vec<Waker>,
    window: Option<Window>,
}

/// A delivery that wants a window.
struct Wanted {
    link: Arc<Link>,
    owner: Arc<Inbound>,
    since: Instant,
    waker: Waker,
}

struct Window {
    number: u64,
    /// Which connection may pass; 0: none.
    link: u64,
    is_delivered: bool,
    /// Calls that came in it and wait to hear.
    calls: Vec<oneshot::Sender<Heard>>,
    /// Responses of the program that began in it.
    n_answers: usize,
}

/// A connection between Pillion and the program.
struct Link {
    id: u64,
    side: Side,
    /// The program's end, then Pillion's.
    ends: (SocketAddr, SocketAddr),
    /// Whose bytes are delivered next, when they are to be delivered alone.
    owner: Mutex<Option<Arc<Inbound>>>,
    has_owner: AtomicBool,
    /// What is to come on it.
    awaits: Mutex<Awaits>,
}

/// A connection's way through the gate; the connection holds it.
pub struct Passage {
    pacer: Arc<Pacer>,
    link: Arc<Link>,
}

/// A write on its way.
pub struct Pass<'a>(&'a Pacer);

/// A connection whose bytes do not pass the gate, while this lives.
pub struct Bypass(Arc<Pacer>);

impl Pacer {
    /// A gate that stands open. [`Pacer::run`] is to run in a thread.
    pub fn new(config: &Pacing) -> Arc<Self> {
        Arc::new(Self {
            window: config.window.0,
            patience: config.patience.0,
            is_closed: AtomicBool::new(false),
            passing: AtomicUsize::new(0),
            queue: Mutex::default(),
            wanted: Condvar::new(),
            verdicts: Mutex::default(),
            is_sure: AtomicBool::new(false),
            is_resting: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
            load: Mutex::default(),
            n_bypasses: AtomicUsize::new(0),
            links: Mutex::default(),
            next_id: AtomicU64::new(1),
            programs: ArcSwap::default(),
            workers: Mutex::default(),
        })
    }

    /// The calling worker takes part: what a window brought out has been read when its runtime has come round.
    pub fn join(&self, worker: Handle) {
        self.workers.lock().push(worker);
    }

    /// The program's processes are these from now on.
    pub fn look_at(&self, programs: Vec<Program>) {
        self.programs.store(Arc::new(programs));
    }

    /// Ends the thread; the gate stays open.
    pub fn end(&self) {
        self.is_over.store(true, Ordering::Release);
        self.wanted.notify_all();
    }

    /// How it went so far.
    pub fn standing(&self) -> Standing {
        let mut standing = self.verdicts.lock().standing();
        standing.is_blind = self.programs.load().is_empty();
        standing
    }

    /// True when one more request may be paced, chosen by chance.
    pub(super) fn wants(&self, share: f64) -> bool {
        fastrand::f64() < share
            && !self.is_resting.load(Ordering::Relaxed)
            && self.n_bypasses.load(Ordering::Relaxed) == 0
            && !self.programs.load().is_empty()
            && self.queue.lock().wanted.len() < MAX_WANTED
            && !self.load.lock().is_limited()
    }

    /// True when what windows say is believed: until then requests are paced to learn.
    pub(super) fn is_sure(&self) -> bool {
        self.is_sure.load(Ordering::Relaxed)
    }

    /// What is delivered next on this connection is for `owner`: alone if that is paced, as everything else if it is not.
    pub(super) fn deliver(&self, side: Side, port: u16, owner: Option<&Arc<Inbound>>) {
        if side == Side::Ours && owner.is_none() {
            self.load.lock().shares();
        }
        let Some(link) = self.link(side, port) else {
            return;
        };
        if side == Side::Ours {
            self.load.lock().move_on(&link, Awaits::called);
        }
        let owner = owner.filter(|owner| owner.is_paced());
        if owner.is_some() || link.has_owner.load(Ordering::Acquire) {
            link.belongs_to(owner.cloned());
        }
    }

    /// What the window tells a call that comes now. Waits for the window's end.
    pub(super) async fn verdict(&self) -> Option<Heard> {
        if !self.is_closed.load(Ordering::Acquire) {
            return None;
        }
        let verdict = {
            let mut queue = self.queue.lock();
            let window = queue.window.as_mut().filter(|window| window.is_delivered)?;
            let (told, verdict) = oneshot::channel();
            window.calls.push(told);
            verdict
        };
        let heard = tokio::time::timeout(self.window * LONGEST + VERDICT, verdict).await;
        heard.ok()?.ok()
    }

    /// The request that caused a call of this kind, when what its window told can be believed of such calls.
    pub(super) fn believe(&self, heard: Heard, kind: Shape) -> Option<Verdict> {
        let calls = &mut self.verdicts.lock().calls;
        calls.called(kind, heard.window, heard.is_idle);
        heard.verdict.filter(|_| calls.believes(kind))
    }

    /// The program's response to a request begins, on Pillion's connection from this port.
    pub(super) fn answered(&self, port: u16) {
        if let Some(link) = self.link(Side::Ours, port) {
            self.load.lock().move_on(&link, Awaits::over);
        }
        if self.is_closed.load(Ordering::Acquire)
            && let Some(window) = &mut self.queue.lock().window
        {
            window.n_answers += usize::from(window.is_delivered);
        }
    }

    /// A call goes to this destination while so many requests are in flight, on the program's connection from this port,
    /// when it does not share that with others.
    pub(super) fn calls(
        self: &Arc<Self>,
        destination: &str,
        port: Option<u16>,
        in_flight: usize,
    ) -> Busy {
        let link = port.and_then(|port| self.link(Side::Theirs, port));
        let mut load = self.load.lock();
        load.begin(destination, in_flight);
        if let Some(link) = &link {
            load.move_on(link, Awaits::called);
        }
        drop(load);
        Busy::new(self.clone(), destination, link)
    }

    /// Bytes reach the program on a connection that the gate does not see.
    pub(super) fn bypass(self: &Arc<Self>) -> Bypass {
        self.n_bypasses.fetch_add(1, Ordering::AcqRel);
        Bypass(self.clone())
    }

    /// The way through the gate of a connection with these ends, the program's first.
    pub(super) fn passage(self: &Arc<Self>, side: Side, ends: (SocketAddr, SocketAddr)) -> Passage {
        let link = Arc::new(Link {
            id: self.next_id.fetch_add(1, Ordering::Relaxed),
            side,
            ends,
            owner: Mutex::default(),
            has_owner: AtomicBool::new(false),
            awaits: Mutex::default(),
        });
        self.links.lock().insert(link.key(), link.clone());
        Passage {
            pacer: self.clone(),
            link,
        }
    }

    fn link(&self, side: Side, port: u16) -> Option<Arc<Link>> {
        self.links.lock().get(&(side, port)).cloned()
    }

    fn pass(&self) -> Pass<'_> {
        self.passing.fetch_add(1, Ordering::SeqCst);
        Pass(self)
    }
}

impl Passage {
    /// Lets a write through, at once or when it is its turn.
    pub(super) fn poll_pass(&self, cx: &mut Context<'_>) -> Poll<Pass<'_>> {
        let pass = self.poll_turn(cx);
        if pass.is_ready() {
            self.pacer.load.lock().move_on(&self.link, Awaits::passed);
        }
        pass
    }

    fn poll_turn(&self, cx: &mut Context<'_>) -> Poll<Pass<'_>> {
        let pacer = &*self.pacer;
        // Counted first: who closes the gate waits for those that saw it open.
        let pass = pacer.pass();
        let has_owner = self.link.has_owner.load(Ordering::Acquire);
        if !has_owner && !pacer.is_closed.load(Ordering::SeqCst) {
            return Poll::Ready(pass);
        }
        drop(pass);
        let mut queue = pacer.queue.lock();
        if let Some(window) = &mut queue.window
            && window.link == self.link.id
        {
            let pass = pacer.pass();
            window.is_delivered = true;
            return Poll::Ready(pass);
        }
        let owner = self.link.owner.lock().clone();
        let is_over = pacer.is_over.load(Ordering::Acquire);
        if let Some(owner) = owner.filter(|owner| !owner.has_ended() && !is_over) {
            let mut wanted = queue.wanted.iter_mut();
            match wanted.find(|wanted| wanted.link.id == self.link.id) {
                Some(wanted) => wanted.waker.clone_from(cx.waker()),
                None => queue.wanted.push_back(Wanted {
                    link: self.link.clone(),
                    owner,
                    since: Instant::now(),
                    waker: cx.waker().clone(),
                }),
            }
            pacer.wanted.notify_one();
            return Poll::Pending;
        }
        if pacer.is_closed.load(Ordering::SeqCst) {
            queue.waiting.push(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(pacer.pass())
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        let mut links = self.pacer.links.lock();
        let key = self.link.key();
        // A later connection may have the port already.
        if links.get(&key).is_some_and(|link| link.id == self.link.id) {
            links.remove(&key);
        }
        drop(links);
        self.pacer.load.lock().move_on(&self.link, Awaits::gone);
        let mut queue = self.pacer.queue.lock();
        queue.wanted.retain(|wanted| wanted.link.id != self.link.id);
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        self.0.passing.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Drop for Bypass {
    fn drop(&mut self) {
        self.0.n_bypasses.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Link {
    fn key(&self) -> (Side, u16) {
        let (program, pillion) = self.ends;
        match self.side {
            Side::Ours => (self.side, pillion.port()),
            Side::Theirs => (self.side, program.port()),
        }
    }

    fn belongs_to(&self, owner: Option<Arc<Inbound>>) {
        self.has_owner.store(owner.is_some(), Ordering::Release);
        *self.owner.lock() = owner;
    }
}

#[cfg(test)]
mod tests;
