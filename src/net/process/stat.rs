//! A process's line in `/proc/<pid>/stat`.

use std::fs;

use crate::model::Text;

/// What is read of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// `S` sleeps, `R` runs or wants to, `D` waits for a device, `Z` has ended.
    pub state: u8,
    /// Its parent's number.
    pub parent: i32,
    /// How many threads it has.
    pub threads: usize,
    /// When it started, in ticks since the machine did.
    pub started: u64,
}

/// The process's line; `None` when there is no such process.
pub fn stat(pid: i32) -> Option<Stat> {
    parse(&fs::read(format!("/proc/{pid}/stat")).ok()?)
}

/// The processes that a process's first thread has started and that are there: their numbers. Empty where the kernel
/// does not list them.
pub fn children(pid: i32) -> Text {
    let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    Text::from(list.unwrap_or_default())
}

/// Reads a line. The name in it may hold anything, even parentheses: what counts stands behind the last one.
///
/// Source: proc_pid_stat(5), fields 3, 4, 20 and 22.
pub(super) fn parse(line: &[u8]) -> Option<Stat> {
    let at = memchr::memrchr(b')', line)?;
    let rest = std::str::from_utf8(line.get(at + 1..)?).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?.bytes().next()?;
    let parent = fields.next()?.parse().ok()?;
    let threads = fields.nth(15)?.parse().ok()?;
    let started = fields.nth(1)?.parse().ok()?;
    Some(Stat {
        state,
        parent,
        threads,
        started,
    })
}
