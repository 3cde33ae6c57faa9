//! Signals that a program expects, passed on to it.
//!
//! A terminal sends Ctrl-C and Ctrl-\ to every process of the foreground group, so the program has them already; they
//! are passed on only when they came another way, as from `kill` or a service manager.

use std::fs::File;
use std::io;

use rustix::process::Pid;
use rustix::process::Signal;
use tokio::signal::unix::SignalKind;
use tokio::signal::unix::signal;
use tracing::debug;

/// The signals that are passed on, in the order in which they are looked at.
const FORWARDED: [(SignalKind, Signal); 6] = [
    (SignalKind::terminate(), Signal::TERM),
    (SignalKind::interrupt(), Signal::INT),
    (SignalKind::hangup(), Signal::HUP),
    (SignalKind::quit(), Signal::QUIT),
    (SignalKind::user_defined1(), Signal::USR1),
    (SignalKind::user_defined2(), Signal::USR2),
];

/// Signals caught from [`Signals::new`] on.
pub(super) struct Signals([tokio::signal::unix::Signal; 6]);

impl Signals {
    /// Catches every signal that is passed on.
    pub(super) fn new() -> io::Result<Self> {
        let [a, b, c, d, e, f] = FORWARDED.map(|(kind, _)| signal(kind));
        Ok(Self([a?, b?, c?, d?, e?, f?]))
    }

    /// The next signal.
    pub(super) async fn next(&mut self) -> Signal {
        std::future::poll_fn(|cx| {
            for (caught, (_, signal)) in self.0.iter_mut().zip(FORWARDED) {
                if let std::task::Poll::Ready(Some(())) = caught.poll_recv(cx) {
                    return std::task::Poll::Ready(signal);
                }
            }
            std::task::Poll::Pending
        })
        .await
    }

    /// Waits for a signal that asks for the end.
    pub(super) async fn end(&mut self) {
        loop {
            if matches!(self.next().await, Signal::TERM | Signal::INT | Signal::QUIT) {
                return;
            }
        }
    }
}

/// Sends the signal to the program unless the terminal has done so.
pub(super) fn forward(pid: u32, signal: Signal) {
    if matches!(signal, Signal::INT | Signal::QUIT) && in_foreground() {
        return;
    }
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
        return;
    };
    if let Err(error) = rustix::process::kill_process(pid, signal) {
        debug!(%error, ?signal, "signal not passed on");
    }
}

/// True when a terminal sends its signals to our process group, which the program shares.
fn in_foreground() -> bool {
    // Fails without a controlling terminal.
    File::open("/dev/tty")
        .ok()
        .and_then(|terminal| rustix::termios::tcgetpgrp(&terminal).ok())
        .is_some_and(|group| group == rustix::process::getpgrp())
}
