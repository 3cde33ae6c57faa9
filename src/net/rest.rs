//! Does a program rest? Its threads all sleep, and it has read what was sent to it.
//!
//! Seen from outside without a privilege: the states of threads in `/proc`, and what the kernel tells of sockets. For
//! one who waits for the end of some microseconds of work: looking takes a few microseconds for each thread.

use std::fs;
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;

use memchr::memmem;

use crate::model::Text;
use crate::net::process::Program;
use crate::net::process::children;
use crate::net::process::stat;
use crate::net::sock_diag::Diag;

/// A program with more threads than this is not looked at.
const MAX_THREADS: usize = 512;

/// Looks at the threads of a program's processes.
#[derive(Debug)]
pub struct Rest {
    diag: Diag,
    processes: Vec<Process>,
}

#[derive(Debug)]
struct Process {
    pid: i32,
    started: u64,
    /// Its children when it was looked at.
    children: Text,
    /// Open files tell of a thread without a look-up of its name.
    threads: Vec<(u32, File)>,
}

impl Rest {
    /// For sockets of the calling thread's network namespace.
    ///
    /// # Errors
    /// The kernel tells nothing about sockets.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            diag: Diag::new()?,
            processes: Vec::new(),
        })
    }

    /// Looks at these processes from now on.
    pub fn look_at(&mut self, programs: &[Program]) {
        let process = |program: &Program| Process {
            pid: program.pid,
            started: program.started,
            children: program.children.clone(),
            threads: Vec::new(),
        };
        self.processes = programs.iter().map(process).collect();
    }

    /// True when these are all processes that were found: none has children that were not there then.
    pub fn is_whole(&self) -> bool {
        let mut all = self.processes.iter();
        all.all(|process| children(process.pid) == process.children)
    }

    /// True when no thread does anything, and every byte sent to the socket with these ends (the program's first) was
    /// read. False too where that cannot be seen.
    pub fn is_resting(&mut self, socket: Option<(SocketAddr, SocketAddr)>) -> bool {
        if let Some((local, remote)) = socket {
            match self.diag.unread(local, remote) {
                // Closed by the program: it knows all it will know.
                Ok(None | Some(0)) => {}
                _ => return false,
            }
        }
        !self.processes.is_empty() && self.processes.iter_mut().all(Process::is_resting)
    }
}

impl Process {
    fn is_resting(&mut self) -> bool {
        let Some(now) = stat(self.pid).filter(|now| now.started == self.started) else {
            return false;
        };
        // The first thread's line tells of the whole process how many there are.
        if now.state != b'S' || now.threads > MAX_THREADS {
            return false;
        }
        if now.threads != self.threads.len() && self.list().is_err() {
            return false;
        }
        let all_sleep = self.threads.iter().all(|(_, file)| sleeps(file));
        if !all_sleep {
            // One may have ended while another began.
            self.threads
                .retain(|(_, file)| state(file, &mut [0; 128]).is_some());
        }
        all_sleep
    }

    fn list(&mut self) -> io::Result<()> {
        let mut threads = Vec::with_capacity(self.threads.len() + 1);
        for entry in fs::read_dir(format!("/proc/{}/task", self.pid))?.flatten() {
            let name = entry.file_name();
            let Some(id) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            let known = self.threads.iter().position(|(known, _)| *known == id);
            threads.push(match known {
                Some(at) => self.threads.swap_remove(at),
                None => (id, File::open(entry.path().join("stat"))?),
            });
        }
        self.threads = threads;
        Ok(())
    }
}

/// Threads of the Java virtual machine that work beside the program, not for it: what they compile changes nothing.
/// Those that collect garbage hold the program up, so they count.
const ASIDE: [&[u8]; 3] = [
    b"(C1 CompilerThre)",
    b"(C2 CompilerThre)",
    b"(VM Periodic Tas)",
];

fn sleeps(file: &File) -> bool {
    let mut line = [0; 128];
    state(file, &mut line) == Some(b'S')
        || ASIDE.iter().any(|name| memmem::find(&line, name).is_some())
}

/// The letter behind the name; `None` for a thread that has ended.
fn state(file: &File, line: &mut [u8; 128]) -> Option<u8> {
    let len = file.read_at(line, 0).ok()?;
    let line = line.get(..len)?;
    line.get(memchr::memrchr(b')', line)? + 2).copied()
}

#[cfg(test)]
mod tests {
    use std::process::Child;
    use std::process::Command;
    use std::process::Stdio;
    use std::time::Duration;
    use std::time::Instant;

    use super::*;
    use crate::net::process::look;

    fn becomes(rest: &mut Rest, expected: bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while rest.is_resting(None) != expected {
            assert!(Instant::now() < deadline, "expected {expected}");
        }
    }

    fn seen(child: &Child) -> Program {
        look(i32::try_from(child.id()).unwrap()).unwrap()
    }

    #[test]
    fn a_program_rests_when_all_its_threads_sleep() {
        let mut sleeping = Command::new("sleep").arg("60").spawn().unwrap();
        let mut busy = Command::new("sh")
            .args(["-c", "read line; while :; do :; done"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let mut rest = Rest::new().unwrap();
        assert!(!rest.is_resting(None), "nothing is looked at");
        let mut both = [seen(&sleeping), seen(&busy)];
        rest.look_at(&both);
        becomes(&mut rest, true);
        drop(busy.stdin.take());
        becomes(&mut rest, false);
        busy.kill().unwrap();
        busy.wait().unwrap();
        assert!(!rest.is_resting(None), "one has ended");
        rest.look_at(&both[..1]);
        becomes(&mut rest, true);
        assert!(rest.is_whole());
        both[0].children = "1 ".into();
        rest.look_at(&both[..1]);
        assert!(!rest.is_whole(), "it has other children");
        both[0].started += 1;
        rest.look_at(&both[..1]);
        assert!(!rest.is_resting(None), "another program with its number");
        sleeping.kill().unwrap();
        sleeping.wait().unwrap();
    }
}
