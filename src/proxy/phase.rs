//! Where a connection stands: shared by what watches its bytes and the exchanges on it.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering;
use std::task::Waker;

use parking_lot::Mutex;

use crate::proxy::guard::Refusal;

const IDLE: u8 = 0;
const HEAD: u8 = 1;
const BUSY: u8 = 2;
const TUNNEL: u8 = 3;

/// A connection's state. Cloning shares it.
#[derive(Debug, Clone, Default)]
pub struct Phase(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    now: AtomicU8,
    refusal: OnceLock<Refusal>,
    /// Who waits to hear whether an upgrade was accepted.
    undecided: Mutex<Option<Waker>>,
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
    }

    /// The exchange is over. A tunnel stays one.
    pub fn idle(&self) {
        if self.0.now.load(Ordering::Relaxed) != TUNNEL {
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

    /// What the connection is doing now.
    pub(super) fn doing(&self) -> Doing {
        match self.0.now.load(Ordering::Relaxed) {
            IDLE => Doing::Idle,
            HEAD => Doing::Head,
            BUSY => Doing::Busy,
            _ => Doing::Tunnel,
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

    /// Wakes this task when the exchange is over or becomes a tunnel.
    pub(super) fn wait(&self, waker: &Waker) {
        *self.0.undecided.lock() = Some(waker.clone());
    }

    fn tell(&self) {
        if let Some(waker) = self.0.undecided.lock().take() {
            waker.wake();
        }
    }
}
