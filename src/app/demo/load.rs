//! Requests that come without anybody typing.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::MissedTickBehavior;

use crate::app::demo::service;

/// Requests in flight; more are left out.
const CONCURRENT: usize = 64;
/// Who is greeted, in turn.
const NAMES: [&str; 5] = ["Ada", "Grace", "Edsger", "Barbara", "Tony"];

/// Sends one request to `front`.
pub(super) async fn request(front: SocketAddr, name: &str) -> io::Result<()> {
    let via = front.to_string();
    let url = format!("/?name={name}").parse().map_err(io::Error::other)?;
    let (status, text) = service::get(&via, url).await?;
    match status.is_success() {
        true => Ok(()),
        false => Err(io::Error::other(format!("{status}: {text}"))),
    }
}

/// Keeps so many requests a second coming, for ever. With 0 none come.
pub(super) async fn keep(front: SocketAddr, per_second: u32) {
    if per_second == 0 {
        return std::future::pending().await;
    }
    let places = Arc::new(Semaphore::new(CONCURRENT));
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / per_second);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for name in NAMES.into_iter().cycle() {
        ticks.tick().await;
        let Ok(place) = places.clone().try_acquire_owned() else {
            continue;
        };
        tokio::spawn(async move {
            // What fails is seen on the page.
            request(front, name).await.unwrap_or_default();
            drop(place);
        });
    }
}
