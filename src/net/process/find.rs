//! Which processes serve a port: whoever holds a socket that listens on it.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;

use crate::net::process::Program;
use crate::net::process::look::look_again;
use crate::net::process::stat;
use crate::net::sock_diag::Diag;

/// Most processes that are looked at, and descriptors of one.
const MAX_PROCESSES: usize = 4_096;
const MAX_FDS: usize = 4_096;
/// Every so many searches look at all processes, however little seems to have changed.
const THOROUGH: u32 = 6;

/// Looks for the processes behind a port, again and again.
#[derive(Debug)]
pub struct Search {
    diag: Diag,
    port: u16,
    sockets: Vec<u32>,
    n_searches: u32,
    /// What was found.
    pub found: Vec<Program>,
    /// Processes that may not be looked into.
    pub hidden: usize,
}

impl Search {
    /// A search in the calling thread's network namespace.
    ///
    /// # Errors
    /// The kernel tells nothing about sockets.
    pub fn new(port: u16) -> io::Result<Self> {
        Ok(Self {
            diag: Diag::new()?,
            port,
            sockets: Vec::new(),
            n_searches: 0,
            found: Vec::new(),
            hidden: 0,
        })
    }

    /// Looks again. True: `found` has other processes, or other programs in them.
    ///
    /// All processes are looked at when the sockets are others, when one that was found has ended or become another
    /// program, and now and then. `named` are known to serve, by other evidence, where their descriptors may not be seen.
    pub fn again(&mut self, named: &[i32]) -> bool {
        let sockets = self.diag.listeners(self.port).unwrap_or_default();
        let is_same = sockets == self.sockets && self.found.iter().all(Program::is_same);
        let is_due = self.n_searches.is_multiple_of(THOROUGH);
        self.n_searches = self.n_searches.wrapping_add(1);
        self.sockets = sockets;
        let pids = match is_same && !is_due && !self.found.is_empty() {
            true => self.found.iter().map(|program| program.pid).collect(),
            false => self.holders(named),
        };
        let before = |pid| self.found.iter().find(|program| program.pid == pid);
        let found = pids
            .into_iter()
            .filter_map(|pid| look_again(pid, before(pid)));
        let found: Vec<Program> = found.collect();
        // How many threads and children there are says nothing new.
        let is_like = |(one, other): (&Program, &Program)| {
            let mut one = one.clone();
            (one.threads, one.children) = (other.threads, other.children.clone());
            one == *other
        };
        let is_changed =
            found.len() != self.found.len() || !found.iter().zip(&self.found).all(is_like);
        self.found = found;
        is_changed
    }

    /// The processes that hold one of the sockets, ascending.
    fn holders(&mut self, named: &[i32]) -> Vec<i32> {
        self.hidden = 0;
        if self.sockets.is_empty() {
            return Vec::new();
        }
        let own = i32::try_from(std::process::id()).unwrap_or_default();
        let names = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = names.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        let pids: Vec<i32> = pids.filter(|pid| *pid != own).take(MAX_PROCESSES).collect();
        let mut found = Vec::new();
        for pid in pids {
            match holds(pid, &self.sockets) {
                Ok(true) => found.push(pid),
                Ok(false) => {}
                Err(_) if named.contains(&pid) && may_be_seen(pid) => found.push(pid),
                // One that ended meanwhile hides nothing.
                Err(_) => self.hidden += usize::from(stat(pid).is_some()),
            }
        }
        found.sort_unstable();
        found
    }
}

/// True when its program may be looked at, if not its descriptors.
fn may_be_seen(pid: i32) -> bool {
    fs::read_link(format!("/proc/{pid}/exe")).is_ok()
}

fn holds(pid: i32, sockets: &[u32]) -> io::Result<bool> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd"))?;
    Ok(entries.take(MAX_FDS).flatten().any(|entry| {
        let target = fs::read_link(entry.path());
        let inode = target
            .ok()
            .and_then(|target| inode_of(target.as_os_str().as_bytes()));
        inode.is_some_and(|inode| sockets.contains(&inode))
    }))
}

/// The number in `socket:[12345]`.
fn inode_of(target: &[u8]) -> Option<u32> {
    let digits = target.strip_prefix(b"socket:[")?.strip_suffix(b"]")?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}
