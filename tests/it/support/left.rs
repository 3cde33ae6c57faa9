//! What a program of the tests leaves behind when it is killed.

use std::fs;
use std::path::Path;
use std::process::Child;
use std::time::Duration;
use std::time::Instant;

use rustix::process::Pid;
use rustix::process::Signal;

use crate::support::pillion::LIMIT;

/// Waits until it holds.
pub(crate) fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not within {LIMIT:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Sends the signal and waits for the end.
pub(crate) fn end(child: &mut Child, signal: Signal) {
    rustix::process::kill_process(Pid::from_child(child), signal).unwrap();
    child.wait().unwrap();
}

/// Whether a process runs with this path among its arguments.
pub(crate) fn names(path: &Path) -> bool {
    let path = path.to_str().unwrap();
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let mut lines = processes.filter_map(|process| fs::read(process.path().join("cmdline")).ok());
    lines.any(|line| String::from_utf8_lossy(&line).contains(path))
}
