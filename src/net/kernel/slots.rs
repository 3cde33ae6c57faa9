//! The array that the kernel's programs write and this process reads: evidence about the program's calls.
//!
//! Shape: 65,536 slots of 32 bytes, four native 64-bit words: what the sending thread served, what the event was about
//! that it handled, what a runtime's probe says, and one for later. Each word, from the top: 16 bits port from which the
//! inbound connection was opened (0: none), 16 bits fold of the connection's remote address, 30 bits time in units of
//! 1,024 ns, 1 bit that tells a connection's second slot from its first, 1 bit set when nothing speaks against it. The
//! two slots of a connection follow from its local port and the fold. Slot 0 belongs to nobody: its first word names
//! this shape. Source: `bpf/state.h`.

#![allow(unsafe_code)]

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::ptr::null_mut;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use rustix::mm::MapFlags;
use rustix::mm::ProtFlags;
use rustix::time::ClockId;

use crate::net::places::latest;
use crate::net::places::place;

/// Slots.
const PORTS: usize = 1 << 16;
/// Words of a slot.
const WORDS: usize = 4;
/// Bytes of all slots.
const SIZE: usize = PORTS * WORDS * size_of::<AtomicU64>();
/// `pillion` and the version of the shape.
pub(super) const LAYOUT: u64 = u64::from_be_bytes(*b"pillion\x02");
/// Bits of a moment.
const MOMENT: u32 = 0x3fff_ffff;

/// The mapped array. Reading takes no system call and no lock.
pub struct Slots {
    words: NonNull<AtomicU64>,
}

/// A point in time, in units of 1,024 ns of the monotonic clock; comparable within nine minutes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment(u32);

/// One kind of evidence about the latest request on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Word {
    /// The port from which the inbound connection was opened.
    pub inbound: u16,
    /// Nothing speaks against it.
    pub is_sure: bool,
}

/// What was written before the bytes of a request left the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    /// When.
    pub at: Moment,
    /// The inbound connection that the sending thread was serving.
    pub thread: Option<Word>,
    /// That of the event which the sending thread was handling.
    pub lineage: Option<Word>,
    /// That of the task which a runtime's probe followed.
    pub runtime: Option<Word>,
}

// SAFETY: the memory is only touched through atomics and stays mapped as long as the value lives.
unsafe impl Send for Slots {}
// SAFETY: as above.
unsafe impl Sync for Slots {}

impl Slots {
    /// Maps the array behind a descriptor, which may be closed afterwards.
    ///
    /// # Errors
    /// It cannot be mapped, or has another shape.
    pub(super) fn map(array: impl AsFd) -> io::Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice aliases nothing. An array that is shorter than this
        // cannot be mapped at this size, and none changes its size.
        let map = unsafe {
            rustix::mm::mmap(
                null_mut(),
                SIZE,
                ProtFlags::READ,
                MapFlags::SHARED,
                array,
                0,
            )?
        };
        let words = NonNull::new(map.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        let slots = Self { words };
        match slots.word(0, 0) {
            LAYOUT => Ok(slots),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// What was written before the latest request on the connection from this local port to this address; `None` when
    /// nothing was, or for another connection.
    pub fn of(&self, local: u16, remote: SocketAddr) -> Option<Sent> {
        let fold = fold(remote);
        latest(|is_second| self.at(local, fold, is_second), |sent| sent.at)
    }

    fn at(&self, local: u16, fold: u16, is_second: bool) -> Option<Sent> {
        let place = place(local, fold, is_second);
        if local == 0 || place == 0 {
            return None;
        }
        let own = |kind| {
            let word = self.word(place, kind);
            let is_own = (word >> 32) as u16 == fold && (word & 2 != 0) == is_second;
            (word != 0 && is_own).then_some(word)
        };
        let read = |word: u64| {
            let inbound = (word >> 48) as u16;
            (inbound != 0).then_some(Word {
                inbound,
                is_sure: word & 1 == 1,
            })
        };
        let thread = own(0)?;
        Some(Sent {
            at: Moment::from_bits((thread as u32) >> 2),
            thread: read(thread),
            lineage: own(1).and_then(read),
            runtime: own(2).and_then(read),
        })
    }

    fn word(&self, place: u16, kind: usize) -> u64 {
        // SAFETY: the mapping holds four words for every 16-bit number and lives as long as `self`; page alignment is
        // enough for them.
        let word = unsafe { self.words.add(usize::from(place) * WORDS + kind).as_ref() };
        word.load(Ordering::Acquire)
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        // SAFETY: the mapping was made in `map` with this size, and nothing refers to it any more.
        let unmapped = unsafe { rustix::mm::munmap(self.words.as_ptr().cast(), SIZE) };
        debug_assert!(unmapped.is_ok());
    }
}

impl fmt::Debug for Slots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slots").finish_non_exhaustive()
    }
}

impl Moment {
    /// This moment.
    pub fn now() -> Self {
        let now = rustix::time::clock_gettime(ClockId::Monotonic);
        Self::at(now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64)
    }

    /// So many nanoseconds after the clock's zero.
    pub fn at(nanos: u64) -> Self {
        Self((nanos >> 10) as u32 & MOMENT)
    }

    /// Earlier than the other, or the same.
    pub fn is_until(self, other: Self) -> bool {
        other.0.wrapping_sub(self.0) & MOMENT <= MOMENT / 2
    }

    /// The moment as a number, to be kept in an atomic.
    pub fn bits(self) -> u32 {
        self.0
    }

    /// The moment of [`Moment::bits`].
    pub fn from_bits(bits: u32) -> Self {
        Self(bits & MOMENT)
    }
}

/// A remote address in 16 bits, as `fold_of` in `bpf/sockets.h` folds it.
fn fold(remote: SocketAddr) -> u16 {
    let word = |bytes: &[u8]| bytes.try_into().map_or(0, u32::from_ne_bytes);
    let bits = match remote.ip().to_canonical() {
        IpAddr::V4(ip) => word(&ip.octets()),
        IpAddr::V6(ip) => ip.octets().chunks(4).map(word).fold(0, |a, b| a ^ b),
    };
    (bits ^ bits >> 16) as u16 ^ remote.port()
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    use super::*;

    fn array() -> (File, Slots) {
        let array = tempfile::tempfile().unwrap();
        array.set_len(SIZE as u64).unwrap();
        array.write_all_at(&LAYOUT.to_ne_bytes(), 0).unwrap();
        let slots = Slots::map(&array).unwrap();
        (array, slots)
    }

    fn word(inbound: u64, fold: u16, at: u64, is_sure: u64) -> u64 {
        inbound << 48 | u64::from(fold) << 32 | at << 2 | is_sure
    }

    fn put(array: &File, place: u16, words: [u64; 4]) {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        array.write_all_at(&bytes, 32 * u64::from(place)).unwrap();
    }

    #[test]
    fn words_are_read_for_their_own_connection_alone() {
        let (array, slots) = array();
        let remote: SocketAddr = "10.1.2.3:80".parse().unwrap();
        assert_eq!(slots.of(40_000, remote), None, "nothing yet");
        let fold = fold(remote);
        let words = [
            word(50_000, fold, 7, 1),
            word(50_001, fold, 7, 0),
            word(50_002, fold ^ 1, 7, 1),
            0,
        ];
        put(&array, place(40_000, fold, false), words);
        let seen = |inbound, is_sure| Some(Word { inbound, is_sure });
        let sent = slots.of(40_000, remote).unwrap();
        assert_eq!(sent.at, Moment(7));
        assert_eq!(sent.thread, seen(50_000, true));
        assert_eq!(sent.lineage, seen(50_001, false));
        assert_eq!(sent.runtime, None, "left by another connection");
        for other in ["10.1.2.3:81", "10.1.2.4:80", "[::1]:80"] {
            assert_eq!(slots.of(40_000, other.parse().unwrap()), None, "{other}");
        }
        let mapped = "[::ffff:10.1.2.3]:80".parse().unwrap();
        assert_eq!(slots.of(40_000, mapped), Some(sent), "the same address");
    }

    #[test]
    fn connections_from_one_port_to_two_addresses_do_not_meet() {
        let (array, slots) = array();
        let remotes: [SocketAddr; 2] = [
            "10.1.2.3:80".parse().unwrap(),
            "10.1.2.4:80".parse().unwrap(),
        ];
        for port in 40_000..40_100 {
            for (remote, cause) in remotes.iter().zip([50_000, 50_001]) {
                let fold = fold(*remote);
                put(
                    &array,
                    place(port, fold, false),
                    [word(cause, fold, 7, 1), 0, 0, 0],
                );
            }
        }
        let found = |remote: SocketAddr| {
            let ports = 40_000..40_100;
            ports
                .filter(|port| slots.of(*port, remote).is_some())
                .count()
        };
        // One is found where no other was put in its place later.
        assert!(found(remotes[0]) > 90 && found(remotes[1]) == 100);
    }

    #[test]
    fn what_was_said_last_counts_in_either_place() {
        let (array, slots) = array();
        let remote: SocketAddr = "10.1.2.3:80".parse().unwrap();
        let fold = fold(remote);
        for (first, second, expected) in [(7, 9, 2), (9, 7, 1), (3, MOMENT - 3, 1)] {
            let [first, second] = [first, second].map(u64::from);
            put(
                &array,
                place(40_000, fold, false),
                [word(1, fold, first, 1), 0, 0, 0],
            );
            put(
                &array,
                place(40_000, fold, true),
                [word(2, fold, second, 1) | 2, 0, 0, 0],
            );
            let thread = slots.of(40_000, remote).unwrap().thread.unwrap();
            assert_eq!(thread.inbound, expected);
        }
        // Of another connection, whose first place this is.
        put(
            &array,
            place(40_000, fold, true),
            [word(2, fold, 9, 1), 0, 0, 0],
        );
        assert_eq!(slots.of(40_000, remote).unwrap().thread.unwrap().inbound, 1);
    }

    #[test]
    fn garbage_is_read_without_harm() {
        let (array, slots) = array();
        let remote: SocketAddr = "127.0.0.1:80".parse().unwrap();
        for (port, byte) in [(0, 0xff), (1, 0xff), (65_535, 0x55)] {
            array.write_all_at(&[byte; 32], 32 * port).unwrap();
            slots.of(port as u16, remote);
        }
        assert_eq!(slots.of(0, remote), None, "the header is no slot");
        let array = tempfile::tempfile().unwrap();
        array.set_len(SIZE as u64).unwrap();
        assert!(Slots::map(&array).is_err(), "another shape");
    }

    #[test]
    fn moments_compare_across_the_end_of_their_range() {
        let late = Moment(MOMENT - 1);
        let later = Moment(3);
        assert!(late.is_until(later) && !later.is_until(late));
        assert!(later.is_until(later));
        assert!(Moment::now().is_until(Moment::now()));
    }
}
