//! Memory that a library inside the program writes and this process reads: which request a sending thread works on.
//!
//! One slot for each local port of the program's outgoing connections, written before bytes leave, so that reading it
//! needs no system call and no waiting. What stands there is foreign: any value is possible, and none harms. The memory
//! cannot be made smaller under our feet.

#![allow(unsafe_code)]

pub mod offer;

use std::fmt;
use std::io;
use std::os::fd::AsRawFd;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::ptr::null_mut;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use rustix::fs::MemfdFlags;
use rustix::fs::SealFlags;
use rustix::mm::MapFlags;
use rustix::mm::ProtFlags;

/// One slot a port.
const PORTS: usize = 1 << 16;
/// Bytes of all slots.
const SIZE: usize = PORTS * size_of::<AtomicU64>();

/// The slots.
///
/// Shape: at eight times the local port, a native 64-bit word. From the top: 16 bits port of the inbound connection at
/// its other end (0: none), 16 bits remote port of this connection, 32 bits that differ from one write to the next.
pub struct Evidence {
    memory: OwnedFd,
    slots: NonNull<AtomicU64>,
}

/// What a slot says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    /// The port from which the inbound connection was opened, that the thread was serving; `None` for none.
    pub inbound: Option<u16>,
    /// Differs from one write to the next.
    pub number: u32,
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
        Ok(Self { memory, slots })
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

    /// What was written before the latest bytes of the connection between these two ports; `None` when nothing was, or
    /// for another connection.
    pub fn of(&self, local: u16, remote: u16) -> Option<Sent> {
        let word = self.slot(local).load(Ordering::Acquire);
        let [inbound, seen] = [word >> 48, word >> 32].map(|bits| bits as u16);
        (word != 0 && seen == remote).then_some(Sent {
            inbound: (inbound != 0).then_some(inbound),
            number: word as u32,
        })
    }

    fn slot(&self, port: u16) -> &AtomicU64 {
        // SAFETY: the mapping holds a slot for every 16-bit number, page alignment is enough for it, and it lives as
        // long as `self`.
        unsafe { self.slots.add(usize::from(port)).as_ref() }
    }
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

    #[test]
    fn what_another_process_writes_is_read_and_nothing_it_writes_harms() {
        let evidence = Evidence::new().unwrap();
        let theirs = File::options().write(true).open(evidence.path()).unwrap();
        let write = |port: u64, word: u64| {
            theirs.write_all_at(&word.to_ne_bytes(), 8 * port).unwrap();
        };
        assert_eq!(evidence.of(40_000, 80), None, "nothing yet");
        write(40_000, 50_000 << 48 | 80 << 32 | 7);
        let sent = Sent {
            inbound: Some(50_000),
            number: 7,
        };
        assert_eq!(evidence.of(40_000, 80), Some(sent));
        assert_eq!(evidence.of(40_000, 81), None, "another connection's");
        write(40_001, 80 << 32 | 8);
        let own = evidence.of(40_001, 80).unwrap();
        assert_eq!((own.inbound, own.number), (None, 8));
        for port in [0, 1, u64::from(u16::MAX)] {
            write(port, u64::MAX);
            let garbage = evidence.of(port as u16, u16::MAX).unwrap();
            assert_eq!(garbage.inbound, Some(u16::MAX));
        }
    }

    #[test]
    fn the_memory_cannot_be_made_smaller() {
        let evidence = Evidence::new().unwrap();
        let theirs = File::options().write(true).open(evidence.path()).unwrap();
        assert!(theirs.set_len(0).is_err());
        assert_eq!(evidence.of(1, 1), None);
    }
}
