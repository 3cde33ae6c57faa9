//! What a service manager of systemd's kind is told. Without one every call does nothing.

use std::future::pending;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::Interval;
use tokio::time::MissedTickBehavior;
use tracing::debug;

/// Listeners are open, or a reload is over.
pub(super) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// A reload begins. `Type=notify-reload` wants the time with it.
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => debug!(%error, "no monotonic clock for the service manager"),
    }
}

/// The end begins.
pub(super) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Ticks twice in the time after which the manager would give us up; `None` when it does not watch.
pub(super) fn watchdog() -> Option<Interval> {
    let limit = sd_notify::watchdog_enabled()?;
    let mut interval = tokio::time::interval((limit / 2).max(Duration::from_millis(1)));
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    Some(interval)
}

/// Waits for the next tick and says that we live. Never returns without a watchdog.
pub(super) async fn beat(watchdog: &mut Option<Interval>) {
    match watchdog {
        Some(interval) => interval.tick().await,
        None => pending().await,
    };
    tell(&[NotifyState::Watchdog]);
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        debug!(%error, "the service manager cannot be told");
    }
}
