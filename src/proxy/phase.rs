//! Where a connection stands: shared by what watches its bytes and the exchanges on it.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;
use std::task::Waker;
use std::time::Duration;

use parking_lot::Mutex;

use crate::proxy::guard::Refusal;

/// How often [`Phase::head_over`] looks.
const HEAD_POLL: Duration = Duration::from_millis(5);

const IDLE: u8 = 0;
const HEAD: u8 = 1;
const BUSY: u8 = 2;
const TUNNEL: u8 = 3;

const CUT_IDLE: u8 = 1;
const CUT_STALLED: u8 = 2;

/// A connection's state. Cloning shares it.
#[derive(Debug, Clone, Default)]
pub struct Phase(Arc<Shared>);

/// A connection, its exchanges and its tunnel live on one thread, so nothing here orders anything else.
#[derive(Debug, Default)]
struct Shared {
    now: AtomicU8,
    /// Requests that began, and that are not over. HTTP/2 has several at a time.
    n_begun: AtomicU32,
    n_open: AtomicU32,
    cut: AtomicU8,
    refusal: OnceLock<Refusal>,
    /// Who waits to hear whether an upgrade was accepted, and that somebody does.
    undecided: Mutex<Option<Waker>>,
    is_undecided: AtomicBool,
}

/// Why we ended a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cut {
    /// No request for too long.
    Idle,
    /// No progress for too long.
    Stalled,
}

/// What a connection is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doing {
    /// No request is under way.
    Idle,
    /// A request head is arriving.
    Head,
    /// A request is being served.
    Busy,
    /// It carries HTTP no longer.
    Tunnel,
}

impl Phase {
    /// A request head is complete.
    pub fn busy(&self) {
        self.0.now.store(BUSY, Ordering::Relaxed);
        self.0.n_begun.fetch_add(1, Ordering::Relaxed);
        self.0.n_open.fetch_add(1, Ordering::Relaxed);
    }

    /// The exchange is over; to be called once for each [`Phase::busy`]. A tunnel stays one.
    pub fn idle(&self) {
        self.0.n_open.fetch_sub(1, Ordering::Relaxed);
        if self.doing() != Doing::Tunnel {
            self.0.now.store(IDLE, Ordering::Relaxed);
            self.tell();
        }
    }

    /// A request head begins.
    pub(super) fn head(&self) {
        self.0.now.store(HEAD, Ordering::Relaxed);
    }

    /// The upgrade was accepted: what follows is not HTTP.
    pub(super) fn tunnel(&self) {
        self.0.now.store(TUNNEL, Ordering::Relaxed);
        self.tell();
    }

    /// What the connection is doing now; for HTTP/1, which does one thing at a time.
    pub(super) fn doing(&self) -> Doing {
        match self.0.now.load(Ordering::Relaxed) {
            IDLE => Doing::Idle,
            HEAD => Doing::Head,
            BUSY => Doing::Busy,
            _ => Doing::Tunnel,
        }
    }

    /// Waits until no request has been open for this long, at most twice as long.
    pub(super) async fn idle_for(&self, limit: Duration) {
        loop {
            let before = self.0.n_begun.load(Ordering::Relaxed);
            tokio::time::sleep(limit).await;
            let is_open = self.0.n_open.load(Ordering::Relaxed) > 0;
            if !is_open && self.0.n_begun.load(Ordering::Relaxed) == before {
                return;
            }
        }
    }

    /// Waits until a head has been arriving for this long, at most twice as long.
    pub(super) async fn head_for(&self, limit: Duration) {
        loop {
            let before = self.doing();
            tokio::time::sleep(limit).await;
            if before == Doing::Head && self.doing() == Doing::Head {
                return;
            }
        }
    }

    /// Waits until no head is arriving, which is looked at every few milliseconds: for the last moments of a connection.
    pub(super) async fn head_over(&self) {
        while self.doing() == Doing::Head {
            tokio::time::sleep(HEAD_POLL).await;
        }
    }

    /// Why the connection's last bytes were refused.
    pub(super) fn refusal(&self) -> Option<Refusal> {
        self.0.refusal.get().copied()
    }

    /// The connection's next bytes are refused. The first refusal is the last.
    pub(super) fn refuse(&self, refusal: Refusal) {
        self.0.refusal.get_or_init(|| refusal);
    }

    /// Why we ended the connection, if we did.
    pub(super) fn why_cut(&self) -> Option<Cut> {
        match self.0.cut.load(Ordering::Relaxed) {
            CUT_IDLE => Some(Cut::Idle),
            CUT_STALLED => Some(Cut::Stalled),
            _ => None,
        }
    }

    /// We end the connection.
    pub(super) fn cut(&self, why: Cut) {
        let why = match why {
            Cut::Idle => CUT_IDLE,
            Cut::Stalled => CUT_STALLED,
        };
        self.0.cut.store(why, Ordering::Relaxed);
    }

    /// Wakes this task when the exchange is over or becomes a tunnel.
    pub(super) fn wait(&self, waker: &Waker) {
        *self.0.undecided.lock() = Some(waker.clone());
        self.0.is_undecided.store(true, Ordering::Relaxed);
    }

    fn tell(&self) {
        if self.0.is_undecided.swap(false, Ordering::Relaxed)
            && let Some(waker) = self.0.undecided.lock().take()
        {
            waker.wake();
        }
    }
}
