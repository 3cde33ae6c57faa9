//! From `/proc/<pid>` to what a process is.

use std::fs;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use memchr::memmem;

use crate::model::Text;
use crate::net::process::EventLoop;
use crate::net::process::Program;
use crate::net::process::Runtime;
use crate::net::process::children;
use crate::net::process::stat;

/// Most bytes of a list of mapped files that are read: some thousand libraries.
const MAX_MAPS: u64 = 4 << 20;
/// Most bytes of a program's file that are searched for what its compiler left.
const MAX_FILE: u64 = 96 << 20;
/// So much of it at a time.
const PIECE: usize = 1 << 20;
/// Most threads whose names are read.
const MAX_THREADS: usize = 4_096;
/// Most descriptors that are looked at.
const MAX_FDS: usize = 4_096;

/// What Go's linker writes into every program (`debug/buildinfo`).
const GO_MARK: &[u8] = b"\xff Go buildinf:";
/// Where the panics of tokio's runtime say they are; stays in a stripped program.
const TOKIO_MARK: &[u8] = b"/src/runtime/scheduler/";

/// Looks at a process. `None`: there is none.
pub fn look(pid: i32) -> Option<Program> {
    look_again(pid, None)
}

/// Looks at a process that was like this before: its file is not searched twice.
pub(super) fn look_again(pid: i32, before: Option<&Program>) -> Option<Program> {
    let stat = stat(pid)?;
    let file = fs::read_link(format!("/proc/{pid}/exe")).ok();
    let name = name_of(pid, file.as_deref());
    let maps = read_up_to(&format!("/proc/{pid}/maps"), MAX_MAPS);
    let seen = Seen {
        is_open: file.is_some() && maps.is_some(),
        maps: maps.unwrap_or_default(),
        polls: polls(pid),
        threads: thread_names(pid),
    };
    let (mut runtime, version) = runtime_of(&name, &seen.maps);
    let same = before.filter(|before| before.started == stat.started && before.name == name);
    if let (Runtime::Unknown, Some(same)) = (runtime, same) {
        runtime = same.runtime;
    }
    if runtime == Runtime::Unknown && seen.is_open {
        // The link leads to the very file, even when another one has its name now.
        runtime = compiled_for(Path::new(&format!("/proc/{pid}/exe")));
    }
    Some(Program {
        pid,
        started: stat.started,
        name,
        runtime,
        version,
        event_loop: event_loop_of(runtime, &seen),
        threads: stat.threads,
        green_threads: has_green_threads(runtime, &seen),
        children: children(pid),
        probes: Vec::new(),
    })
}

/// What was seen of it.
pub(super) struct Seen {
    /// Its files may be looked at.
    pub(super) is_open: bool,
    /// Its mapped files, as `/proc/<pid>/maps` lists them.
    pub(super) maps: Vec<u8>,
    /// It has descriptors of epoll; `None`: not permitted to see.
    pub(super) polls: Option<bool>,
    /// The names of its threads, a line each.
    pub(super) threads: String,
}

fn name_of(pid: i32, file: Option<&Path>) -> Text {
    let base = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
    let from_file = file.and_then(Path::to_str).map(base);
    let name = from_file.or_else(|| {
        let line = read_up_to(&format!("/proc/{pid}/cmdline"), 4_096)?;
        let first = line.split(|byte| *byte == 0).next()?;
        Some(base(std::str::from_utf8(first).ok()?))
    });
    Text::from(name.unwrap_or_default())
}

/// The runtime that a program's name or its libraries tell, and its version.
pub(super) fn runtime_of(name: &str, maps: &[u8]) -> (Runtime, Text) {
    let by_name = [
        ("python", Runtime::Python),
        ("pypy", Runtime::Python),
        ("node", Runtime::Node),
        ("java", Runtime::Java),
        ("ruby", Runtime::Ruby),
        ("php", Runtime::Php),
        ("dotnet", Runtime::Dotnet),
    ];
    for (prefix, runtime) in by_name {
        if let Some(rest) = name.strip_prefix(prefix)
            && rest
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'.' | b'-'))
        {
            return (runtime, Text::from(rest.trim_start_matches('-')));
        }
    }
    let by_library: [(&[u8], Runtime); 5] = [
        (b"/libpython", Runtime::Python),
        (b"/libnode.so", Runtime::Node),
        (b"/libjvm.so", Runtime::Java),
        (b"/libruby", Runtime::Ruby),
        (b"/libcoreclr.so", Runtime::Dotnet),
    ];
    for (library, runtime) in by_library {
        if let Some(at) = memmem::find(maps, library) {
            let rest = maps.get(at + library.len()..).unwrap_or_default();
            let version = rest
                .split(|byte| !matches!(byte, b'0'..=b'9' | b'.'))
                .next();
            let version = version.and_then(|digits| std::str::from_utf8(digits).ok());
            return (
                runtime,
                Text::from(version.unwrap_or_default().trim_end_matches('.')),
            );
        }
    }
    (Runtime::Unknown, Text::default())
}

/// What the compiler left in a program's file.
pub(super) fn compiled_for(path: &Path) -> Runtime {
    let Ok(file) = File::open(path) else {
        return Runtime::Unknown;
    };
    let mut file = file.take(MAX_FILE);
    let (mut bytes, mut runtime) = (Vec::with_capacity(PIECE + GO_MARK.len()), Runtime::Native);
    loop {
        let mut piece = (&mut file).take(PIECE as u64);
        match piece.read_to_end(&mut bytes) {
            Ok(0) => return runtime,
            Ok(_) => {}
            Err(_) => return Runtime::Unknown,
        }
        if memmem::find(&bytes, GO_MARK).is_some() {
            return Runtime::Go;
        }
        if let Some(at) = memmem::find(&bytes, TOKIO_MARK) {
            let before = bytes.get(at.saturating_sub(24)..at).unwrap_or_default();
            if memmem::find(before, b"/tokio-").is_some() {
                runtime = Runtime::Tokio;
            }
        }
        // What lies across the border of two pieces is found in the next one.
        let keep = bytes.len().saturating_sub(TOKIO_MARK.len() + 24);
        bytes.drain(..keep);
    }
}

pub(super) fn event_loop_of(runtime: Runtime, seen: &Seen) -> EventLoop {
    let has = |part: &[u8]| memmem::find(&seen.maps, part).is_some();
    match runtime {
        Runtime::Node => EventLoop::Libuv,
        Runtime::Go => EventLoop::Netpoll,
        Runtime::Tokio => EventLoop::Tokio,
        _ if !seen.is_open || seen.polls.is_none() => EventLoop::Unknown,
        _ if seen.polls == Some(false) => EventLoop::None,
        Runtime::Python if has(b"/uvloop/") => EventLoop::Uvloop,
        Runtime::Python if has(b"/_asyncio.") => EventLoop::Asyncio,
        _ => EventLoop::Other,
    }
}

pub(super) fn has_green_threads(runtime: Runtime, seen: &Seen) -> bool {
    let has = |part: &[u8]| memmem::find(&seen.maps, part).is_some();
    match runtime {
        Runtime::Python => has(b"/gevent/") || has(b"/eventlet/"),
        // Names are cut at 15 bytes. They are there from the first virtual thread that waits on.
        Runtime::Java => seen
            .threads
            .lines()
            .any(|name| name.starts_with("VirtualThread-")),
        _ => false,
    }
}

/// True when it has a descriptor of epoll.
fn polls(pid: i32) -> Option<bool> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    let mut entries = entries.take(MAX_FDS).flatten();
    Some(entries.any(|entry| {
        let target = fs::read_link(entry.path());
        target.is_ok_and(|target| target.as_os_str() == "anon_inode:[eventpoll]")
    }))
}

fn thread_names(pid: i32) -> String {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return String::new();
    };
    let names = tasks.take(MAX_THREADS).flatten();
    names
        .filter_map(|task| fs::read_to_string(task.path().join("comm")).ok())
        .collect()
}

fn read_up_to(path: &str, limit: u64) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)
        .ok()?
        .take(limit)
        .read_to_end(&mut bytes)
        .ok()?;
    Some(bytes)
}
