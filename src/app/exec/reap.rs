//! As the first process of a container we inherit what the program leaves behind; ended processes must be collected.
//!
//! Without this a program that starts others and forgets them fills the process table. The program itself is waited for
//! elsewhere and never touched here.

use std::convert::Infallible;
use std::fs;
use std::io;

use rustix::process::Pid;
use rustix::process::WaitOptions;
use tokio::signal::unix::SignalKind;
use tokio::signal::unix::signal;
use tracing::debug;

/// Collects ended processes other than `program` for ever, when we are the first process; otherwise waits for ever.
pub(super) async fn orphans(program: Option<u32>) -> io::Result<Infallible> {
    if std::process::id() != 1 {
        return std::future::pending().await;
    }
    let mut ended = signal(SignalKind::child())?;
    loop {
        collect(program);
        ended.recv().await;
    }
}

fn collect(program: Option<u32>) {
    for pid in children().filter(|pid| Some(*pid) != program) {
        let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
            continue;
        };
        // Does nothing to one that still runs.
        if let Err(error) = rustix::process::waitpid(Some(pid), WaitOptions::NOHANG) {
            debug!(%error, "ended process not collected");
        }
    }
}

/// Our children, ended ones included. Empty where the kernel does not list them.
fn children() -> impl Iterator<Item = u32> {
    let threads = fs::read_dir("/proc/self/task")
        .into_iter()
        .flatten()
        .flatten();
    let lists =
        threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    let ids: Vec<u32> = lists
        .flat_map(|list| {
            list.split(' ')
                .filter_map(|id| id.trim().parse().ok())
                .collect::<Vec<_>>()
        })
        .collect();
    ids.into_iter()
}
