//! What the program beside us is: its processes, their runtime and how they serve, as far as `/proc` shows them.
//!
//! Facts alone; what follows from them is `correlate`'s. What may not be looked at stays unknown and is named. Nothing
//! here runs on the way of a request: reading takes milliseconds and is done again when processes come, go or turn into others.

mod find;
mod look;
mod stat;

use crate::model::Text;

pub use find::Search;
pub use look::look;
pub use stat::Stat;
pub use stat::children;
pub use stat::stat;

/// One process of the program.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Program {
    /// Its number, as this process sees it.
    pub pid: i32,
    /// When it started, in the kernel's ticks: tells it from a later one with the same number.
    #[serde(skip)]
    pub started: u64,
    /// The file that it runs, or the name it goes by where that may not be read.
    pub name: Text,
    /// What runs it.
    pub runtime: Runtime,
    /// As its file names say, `3.11` or `21`; empty: unknown.
    pub version: Text,
    /// What hands its threads their work.
    pub event_loop: EventLoop,
    /// How many threads it has.
    pub threads: usize,
    /// Threads that the kernel does not know: greenlets, virtual threads.
    pub green_threads: bool,
    /// The processes that its first thread started, as the kernel lists them: another list, and there are others to look
    /// at. Empty too where the kernel does not list them.
    #[serde(skip)]
    pub children: Text,
    /// What looks into the runtime, and what may not.
    pub probes: Vec<Probe>,
}

/// What a program is written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Runtime {
    /// CPython or PyPy.
    Python,
    /// Node.js.
    Node,
    /// Go.
    Go,
    /// A Java virtual machine.
    Java,
    /// Ruby.
    Ruby,
    /// PHP.
    Php,
    /// .NET.
    Dotnet,
    /// Compiled, with an async runtime of Rust.
    Tokio,
    /// Compiled, with none of these.
    Native,
    /// Not permitted to see, or none of these.
    Unknown,
}

/// What waits for a program's connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EventLoop {
    /// Each thread for itself.
    None,
    /// libuv, of Node.js.
    Libuv,
    /// Python's own.
    Asyncio,
    /// libuv, of Python.
    Uvloop,
    /// The poller of Go's scheduler.
    Netpoll,
    /// That of tokio.
    Tokio,
    /// Some other, or one that the runtime has for a part of its work.
    Other,
    /// Not permitted to see.
    Unknown,
}

/// Something that looks into a process's runtime.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Probe {
    /// What it follows: `python`, `libuv`, `go`, `tokio`.
    pub name: &'static str,
    /// `None`: attached, and its check of itself succeeded. Else why it is not.
    pub refused: Option<Text>,
}

impl Program {
    /// True when the probe of this name is attached and fits.
    pub fn is_probed_by(&self, name: &str) -> bool {
        let mut probes = self.probes.iter();
        probes.any(|probe| probe.name == name && probe.refused.is_none())
    }

    /// True while the process is there and has the same children.
    pub fn is_same(&self) -> bool {
        stat(self.pid).is_some_and(|stat| stat.started == self.started)
            && children(self.pid) == self.children
    }
}

#[cfg(test)]
mod tests;
