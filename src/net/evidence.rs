//! Memory that a library inside the program writes and this process reads: which request a sending thread works on.
//!
//! Each of the program's outgoing connections has two places for a word, which is written before bytes leave, so that
//! reading it needs no system call and no waiting. What stands there is foreign: any value is possible, and none harms.
//! The memory cannot be made smaller under our feet.

#![allow(unsafe_code)]

pub mod offer;

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::ptr::null_mut;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use rustix::fs::MemfdFlags;
use rustix::fs::SealFlags;
use rustix::mm::MapFlags;
use rustix::mm::ProtFlags;

use crate::net::kernel::Moment;
use crate::net::places::latest;
use crate::net::places::place;

/// Slots.
const SLOTS: usize = 1 << 16;
/// Bytes of all slots.
const SIZE: usize = SLOTS * size_of::<AtomicU64>();

/// The slots.
///
/// Shape: 65,536 native 64-bit words. From the top: 16 bits port from which the inbound connection was opened (0: none),
/// 16 bits fold of this connection's remote address and port, 30 bits time of the write in units of 1,024 ns of the
/// monotonic clock, 1 bit that tells a connection's second place from its first, 1 bit always set. The two places follow
/// from the local port and the fold; for one fold they give the local port. Source: `src/app/shims/slots.h`.
pub struct Evidence {
    memory: OwnedFd,
    slots: NonNull<AtomicU64>,
    /// Something was found about a connection.
    is_used: AtomicBool,
}

/// What a slot says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    /// The port from which the inbound connection was opened, that the thread was serving; `None` for none.
    pub inbound: Option<u16>,
    /// When it was written, as the program's clock says.
    pub at: Moment,
}

// SAFETY: the memory is only touched through atomics and stays mapped as long as the value lives.
unsafe impl Send for Evidence {}
// SAFETY: as above.
unsafe impl Sync for Evidence {}

impl Evidence {
    /// Fresh memory, all slots empty.
    ///
    /// # Errors
    /// The system refuses anonymous files or mappings.
    pub fn new() -> io::Result<Self> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let memory = rustix::fs::memfd_create("pillion-evidence", flags)?;
        rustix::fs::ftruncate(&memory, SIZE as u64)?;
        // Who gets the file cannot seal it further, so that others could not write.
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&memory, seals)?;
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice aliases nothing. The file has this size and, being
        // sealed, keeps it.
        let map =
            unsafe { rustix::mm::mmap(null_mut(), SIZE, access, MapFlags::SHARED, &memory, 0)? };
        let slots = NonNull::new(map.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self {
            memory,
            slots,
            is_used: AtomicBool::new(false),
        })
    }

    /// Where other processes of this user find the memory while this one lives.
    pub fn path(&self) -> String {
        let process = std::process::id();
        format!("/proc/{process}/fd/{}", self.memory.as_raw_fd())
    }

    /// Another handle of the memory, to be given away.
    ///
    /// # Errors
    /// Too many files are open.
    pub fn handle(&self) -> io::Result<OwnedFd> {
        self.memory.try_clone()
    }

    /// What was written before the latest bytes of the connection from this local port to this address; `None` when
    /// nothing was, or for another connection.
    pub fn of(&self, local: u16, remote: SocketAddr) -> Option<Sent> {
        let fold = fold(remote);
        let sent = latest(|is_second| self.at(local, fold, is_second), |sent| sent.at);
        if sent.is_some() && !self.is_used() {
            self.is_used.store(true, Ordering::Relaxed);
        }
        sent
    }

    /// True once something was found about a connection: a program has loaded the library.
    pub fn is_used(&self) -> bool {
        self.is_used.load(Ordering::Relaxed)
    }

    fn at(&self, local: u16, fold: u16, is_second: bool) -> Option<Sent> {
        let word = self
            .slot(place(local, fold, is_second))
            .load(Ordering::Acquire);
        let is_own = word & 1 != 0 && (word >> 32) as u16 == fold && (word & 2 != 0) == is_second;
        let inbound = (word >> 48) as u16;
        is_own.then_some(Sent {
            inbound: (inbound != 0).then_some(inbound),
            at: Moment::from_bits((word as u32) >> 2),
        })
    }

    fn slot(&self, place: u16) -> &AtomicU64 {
        // SAFETY: the mapping holds a slot for every 16-bit number, page alignment is enough for it, and it lives as
        // long as `self`.
        unsafe { self.slots.add(usize::from(place)).as_ref() }
    }
}

/// A remote address in 16 bits, as `fold_of` in `src/app/shims/slots.h` folds it.
fn fold(remote: SocketAddr) -> u16 {
    let mixed = |before: u32, word: u32| {
        let product = (before ^ word).wrapping_mul(0x9e37_79b1);
        product ^ product >> 15
    };
    let word = |bytes: &[u8]| bytes.try_into().map_or(0, u32::from_ne_bytes);
    let address = match remote.ip().to_canonical() {
        IpAddr::V4(ip) => mixed(0, word(&ip.octets())),
        IpAddr::V6(ip) => ip.octets().chunks(4).map(word).fold(0, mixed),
    };
    (mixed(address, remote.port().into()) >> 16) as u16
}

impl Drop for Evidence {
    fn drop(&mut self) {
        // SAFETY: the mapping was made in `new` with this size, and nothing refers to it any more.
        let unmapped = unsafe { rustix::mm::munmap(self.slots.as_ptr().cast(), SIZE) };
        debug_assert!(unmapped.is_ok());
    }
}

impl fmt::Debug for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Evidence").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    use super::*;

    const REMOTES: [&str; 2] = ["10.1.2.3:80", "10.1.2.4:80"];

    fn remote(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    /// What the library would write about this connection in this place of its two.
    fn word(inbound: u64, fold: u16, at: u64, is_second: bool) -> u64 {
        inbound << 48 | u64::from(fold) << 32 | at << 2 | u64::from(is_second) << 1 | 1
    }

    struct Theirs(File);

    impl Theirs {
        fn of(evidence: &Evidence) -> Self {
            Self(File::options().write(true).open(evidence.path()).unwrap())
        }

        fn write(&self, place: u16, word: u64) {
            let at = 8 * u64::from(place);
            self.0.write_all_at(&word.to_ne_bytes(), at).unwrap();
        }

        /// In its first or second place.
        fn say(&self, local: u16, remote: SocketAddr, inbound: u64, (at, is_second): (u64, bool)) {
            let fold = fold(remote);
            let word = word(inbound, fold, at, is_second);
            self.write(place(local, fold, is_second), word);
        }
    }

    #[test]
    fn what_another_process_writes_is_read_for_its_own_connection_alone() {
        let evidence = Evidence::new().unwrap();
        let theirs = Theirs::of(&evidence);
        let [one, other] = REMOTES.map(remote);
        assert_eq!(evidence.of(40_000, one), None, "nothing yet");
        theirs.say(40_000, one, 50_000, (7, false));
        let sent = Sent {
            inbound: Some(50_000),
            at: Moment::from_bits(7),
        };
        assert_eq!(evidence.of(40_000, one), Some(sent));
        let mapped = remote("[::ffff:10.1.2.3]:80");
        assert_eq!(evidence.of(40_000, mapped), Some(sent), "the same address");
        for (local, remote, why) in [
            (40_000, other, "another address"),
            (40_000, remote("10.1.2.3:81"), "another port there"),
            (40_000, remote("[::1]:80"), "another family"),
            (40_001, one, "another port here"),
        ] {
            assert_eq!(evidence.of(local, remote), None, "{why}");
        }
        theirs.say(40_001, one, 0, (8, false));
        assert_eq!(evidence.of(40_001, one).unwrap().inbound, None);
    }

    #[test]
    fn connections_from_one_port_to_two_addresses_do_not_meet() {
        let evidence = Evidence::new().unwrap();
        let theirs = Theirs::of(&evidence);
        for port in 40_000..41_000 {
            for (name, cause) in REMOTES.iter().zip([50_000, 50_001]) {
                let remote = remote(name);
                // As the library does: the second place where the first one is another's.
                let first = evidence.slot(place(port, fold(remote), false));
                let is_taken = first.load(Ordering::Relaxed) != 0;
                theirs.say(port, remote, cause, (7, is_taken));
            }
        }
        let right = (40_000..41_000).filter(|port| {
            let found = REMOTES.map(|name| evidence.of(*port, remote(name)));
            let found = found.map(|sent| sent.and_then(|sent| sent.inbound));
            assert!(found[0].is_none_or(|inbound| inbound == 50_000));
            assert!(found[1].is_none_or(|inbound| inbound == 50_001));
            found.iter().all(Option::is_some)
        });
        assert!(right.count() > 990);
    }

    #[test]
    fn what_was_said_last_counts_in_either_place() {
        let evidence = Evidence::new().unwrap();
        let theirs = Theirs::of(&evidence);
        let one = remote(REMOTES[0]);
        let end = (1 << 30) - 3;
        for (first, second, expected) in [(7, 9, 2), (9, 7, 1), (3, end, 1)] {
            theirs.say(40_000, one, 1, (first, false));
            theirs.say(40_000, one, 2, (second, true));
            let sent = evidence.of(40_000, one).unwrap();
            assert_eq!(sent.inbound, Some(expected), "{first} {second}");
        }
        // Of another connection, whose first place this is.
        let fold = fold(one);
        theirs.write(place(40_000, fold, true), word(2, fold, 9, false));
        assert_eq!(evidence.of(40_000, one).unwrap().inbound, Some(1));
    }

    #[test]
    fn garbage_is_read_without_harm() {
        let evidence = Evidence::new().unwrap();
        let theirs = Theirs::of(&evidence);
        for garbage in [0, 1, u64::MAX, u64::MAX - 1, 0x5555_5555_5555_5555] {
            for place in 0..=u16::MAX {
                evidence.slot(place).store(garbage, Ordering::Relaxed);
            }
            theirs.write(u16::MAX, garbage);
            for port in [0, 1, 40_000, u16::MAX] {
                let name = "255.255.255.255:65535";
                for name in REMOTES.into_iter().chain([name, "[::]:0"]) {
                    let said = evidence.of(port, remote(name));
                    let theirs = (garbage >> 48) as u16;
                    assert!(said.is_none_or(|sent| sent.inbound.unwrap_or(0) == theirs));
                }
            }
        }
    }

    #[test]
    fn the_memory_cannot_be_made_smaller() {
        let evidence = Evidence::new().unwrap();
        let theirs = File::options().write(true).open(evidence.path()).unwrap();
        for size in [0, 4096, SIZE as u64 - 1, SIZE as u64 + 1] {
            assert!(theirs.set_len(size).is_err(), "{size}");
        }
        // It can be emptied, which is what it was.
        let emptied =
            rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(&theirs, emptied, 0, SIZE as u64).unwrap();
        assert_eq!(evidence.of(1, remote(REMOTES[0])), None);
    }
}
