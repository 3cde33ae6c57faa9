//! A worker thread: its runtime, its sockets, its pools.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tracing::error;

use crate::net::drain::Drain;
use crate::proxy::habits::Habits;
use crate::proxy::listener;
use crate::proxy::listener::Listener;
use crate::proxy::shared::Shared;
use crate::proxy::shared::Worker;
use crate::proxy::upstream::Pool;
use crate::proxy::upstream::PoolLimits;
use crate::telemetry::metrics::Direction;
use crate::telemetry::metrics::Metrics;

/// What one worker starts with.
pub(super) struct Plan {
    pub(super) index: usize,
    pub(super) shared: Arc<Shared>,
    pub(super) metrics: Metrics,
    /// To the program, and elsewhere.
    pub(super) limits: [PoolLimits; 2],
    pub(super) sockets: Vec<(Arc<Listener>, TcpListener)>,
    pub(super) drain: Drain,
    /// Ends the thread: whatever is still open then is cut.
    pub(super) stop: CancellationToken,
}

/// Starts the thread. Its sockets listen already: nothing that arrives before it runs is lost.
///
/// # Errors
/// The system has no thread, or no descriptors for a runtime.
pub(super) fn spawn(plan: Plan) -> io::Result<JoinHandle<()>> {
    // Here and not in the thread: a proxy that lacks a worker must not call itself ready.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    std::thread::Builder::new()
        .name(format!("worker-{}", plan.index))
        .spawn(move || runtime.block_on(work(plan)))
}

async fn work(plan: Plan) {
    let Plan {
        index,
        shared,
        metrics,
        limits: [to_program, elsewhere],
        sockets,
        drain,
        stop,
    } = plan;
    let pool = |direction, limits| {
        Pool::new(
            limits,
            metrics.pool(direction),
            shared.metrics(direction).upstream.clone(),
            match direction {
                Direction::Inbound => shared.pacer.clone(),
                Direction::Outbound => None,
            },
        )
    };
    if let Some(pacer) = &shared.pacer {
        pacer.join(Handle::current());
    }
    let worker = Arc::new(Worker {
        index,
        inbound_pool: pool(Direction::Inbound, to_program),
        outbound_pool: pool(Direction::Outbound, elsewhere),
        requests: metrics.requests(),
        habits: Habits::default(),
        shared,
    });
    tokio::spawn(worker.inbound_pool.clone().run_sweep());
    tokio::spawn(worker.outbound_pool.clone().run_sweep());
    for (listener, socket) in sockets {
        match tokio::net::TcpListener::from_std(socket) {
            Ok(socket) => {
                tokio::spawn(listener::accept(
                    worker.clone(),
                    listener,
                    socket,
                    drain.watch(),
                ));
            }
            Err(error) => error!(%error, "a listener cannot be polled"),
        }
    }
    drop(drain);
    stop.cancelled().await;
}
