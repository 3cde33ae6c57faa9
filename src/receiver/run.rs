//! The receivers' thread.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::error;

use crate::receiver::Bound;
use crate::receiver::Intake;
use crate::receiver::Jaeger;
use crate::receiver::Strategies;
use crate::receiver::server;
use crate::receiver::server::Shared;
use crate::receiver::udp;

/// The receivers at work. Dropping it ends them without taking what still waits.
pub struct Receivers {
    cancel: CancellationToken,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// What programs are told when they ask for strategies; a reload replaces it.
    pub strategies: Arc<ArcSwap<Strategies>>,
}

impl Receivers {
    /// Starts the thread; without ports there is none.
    ///
    /// # Errors
    /// The system has no thread, or no descriptors for a runtime.
    pub fn start(
        bound: Bound,
        jaeger: Jaeger,
        intake: Intake,
        strategies: Strategies,
    ) -> io::Result<Self> {
        let cancel = CancellationToken::new();
        let strategies = Arc::new(ArcSwap::from_pointee(strategies));
        let shared = Arc::new(Shared::new(
            Arc::new(intake),
            Arc::clone(&strategies),
            jaeger,
        ));
        let thread = if bound.addresses.is_empty() {
            None
        } else {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .max_blocking_threads(4)
                .build()?;
            let stop = cancel.clone();
            let work = move || runtime.block_on(work(bound, shared, stop));
            let thread = std::thread::Builder::new().name("receivers".to_owned());
            Some(thread.spawn(work)?)
        };
        Ok(Self {
            cancel,
            thread: Mutex::new(thread),
            strategies,
        })
    }

    /// Takes what has arrived, closes the ports and ends the thread.
    pub async fn stop(&self) {
        self.cancel.cancel();
        let Some(thread) = self.thread.lock().take() else {
            return;
        };
        let joined = tokio::task::spawn_blocking(move || thread.join()).await;
        if !matches!(joined, Ok(Ok(()))) {
            error!("the receivers panicked");
        }
    }
}

impl Drop for Receivers {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

async fn work(bound: Bound, shared: Arc<Shared>, cancel: CancellationToken) {
    let tasks = TaskTracker::new();
    for (door, socket) in bound.udp {
        match UdpSocket::from_std(socket) {
            Ok(socket) => {
                let intake = Arc::clone(&shared.intake);
                tasks.spawn(udp::serve(socket, door, intake, cancel.clone()));
            }
            Err(error) => error!(%error, "a receiver cannot be polled"),
        }
    }
    for (service, socket) in bound.tcp {
        match TcpListener::from_std(socket) {
            Ok(listener) => {
                let shared = Arc::clone(&shared);
                tasks.spawn(server::serve(listener, service, shared, cancel.clone()));
            }
            Err(error) => error!(%error, "a receiver cannot be polled"),
        }
    }
    drop(shared);
    tasks.close();
    tasks.wait().await;
}
