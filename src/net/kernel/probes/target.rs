//! The process that a probe looks into: what it has mapped, and what stands in its memory.

#![allow(unsafe_code)]

use std::fs;
use std::fs::File;
use std::io;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use crate::net::kernel::probes::elf::Elf;

/// Most bytes of the list of mapped files.
const MAX_MAPS: u64 = 4 << 20;
/// Addresses of programs are below this.
const END: u64 = 1 << 47;

/// What can be read of a process.
pub(super) trait Memory {
    /// Fills the buffer from this address on; `false` when not all of it can be read.
    fn read(&self, address: u64, buffer: &mut [u8]) -> bool;

    /// True when something that changes may be there.
    fn is_written(&self, address: u64) -> bool;

    /// The word there.
    fn word(&self, address: u64) -> Option<u64> {
        let mut bytes = [0; 8];
        self.read(address, &mut bytes)
            .then(|| u64::from_le_bytes(bytes))
    }

    /// So many words from there on, less where the memory ends.
    fn words(&self, address: u64, count: usize) -> Vec<u64> {
        let mut bytes = vec![0; count * 8];
        let mut size = bytes.len();
        while size >= 8
            && !bytes
                .get_mut(..size)
                .is_some_and(|part| self.read(address, part))
        {
            size /= 2;
        }
        let words = bytes.chunks_exact(8).take(size / 8);
        words
            .filter_map(|word| Some(u64::from_le_bytes(word.try_into().ok()?)))
            .collect()
    }
}

/// A process.
#[derive(Debug)]
pub(super) struct Target {
    /// Its number, as this process sees it.
    pub(super) pid: u32,
    maps: String,
    /// Where it may write, ascending.
    written: Vec<(u64, u64)>,
}

/// A file that the process has mapped.
#[derive(Debug)]
pub(super) struct Mapped {
    /// Where this process finds it.
    pub(super) path: PathBuf,
    /// Its symbols.
    pub(super) elf: Elf,
    /// What is added to the file's addresses.
    pub(super) shift: u64,
    /// Where in the process its parts are that are not run, and those that are.
    pub(super) data: Vec<(u64, u64)>,
    pub(super) code: Vec<(u64, u64)>,
}

impl Target {
    /// Looks at what the process has mapped, and whether its memory can be read.
    ///
    /// # Errors
    /// It has ended, or this process may not look into it.
    pub(super) fn open(pid: u32) -> io::Result<Self> {
        let mut maps = Vec::new();
        let file = File::open(format!("/proc/{pid}/maps"))?;
        file.take(MAX_MAPS).read_to_end(&mut maps)?;
        let maps = String::from_utf8_lossy(&maps).into_owned();
        let written: Vec<(u64, u64)> = maps.lines().filter_map(written).collect();
        let (first, _) = written.first().ok_or(io::ErrorKind::NotFound)?;
        copy(pid, *first, &mut [0])?;
        Ok(Self { pid, written, maps })
    }

    /// True when a file is mapped whose path has this in it.
    pub(super) fn has(&self, part: &str) -> bool {
        let mut files = self.maps.lines().filter_map(file_of);
        files.any(|file| file.contains(part))
    }

    /// The program's own file.
    ///
    /// # Errors
    /// It cannot be read, or is no such file.
    pub(super) fn program(&self) -> io::Result<Mapped> {
        let path = PathBuf::from(format!("/proc/{}/exe", self.pid));
        let own = fs::metadata(&path)?.ino();
        self.mapped(path, |line| inode_of(line) == Some(own))
    }

    /// The first mapped file whose name starts so.
    ///
    /// # Errors
    /// There is none, it cannot be read, or another file has its name now.
    pub(super) fn library(&self, prefix: &str) -> io::Result<Mapped> {
        let is_it = |line: &str| {
            let name = file_of(line).and_then(|file| file.rsplit('/').next());
            name.is_some_and(|name| name.starts_with(prefix))
        };
        let line = self.maps.lines().find(|line| is_it(line));
        let line = line.ok_or(io::ErrorKind::NotFound)?;
        let file = file_of(line).unwrap_or_default();
        let path = PathBuf::from(format!("/proc/{}/root{file}", self.pid));
        if inode_of(line) != Some(fs::metadata(&path)?.ino()) {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.mapped(path, is_it)
    }

    fn mapped(&self, path: PathBuf, is_it: impl Fn(&str) -> bool) -> io::Result<Mapped> {
        let elf = Elf::read(File::open(&path)?)?;
        let line = self.maps.lines().find(|line| is_it(line));
        let place = line.and_then(|line| {
            let (start, _) = range_of(line)?;
            let offset = line.split_ascii_whitespace().nth(2)?;
            elf.shift(start, u64::from_str_radix(offset, 16).ok()?)
        });
        let shift = place.ok_or(io::ErrorKind::InvalidData)?;
        let lines = || self.maps.lines().filter(|line| is_it(line));
        let is_run = |line: &&str| rights_of(line).is_some_and(|rights| rights.contains('x'));
        Ok(Mapped {
            path,
            elf,
            shift,
            data: lines()
                .filter(|line| !is_run(line))
                .filter_map(range_of)
                .collect(),
            code: lines().filter(is_run).filter_map(range_of).collect(),
        })
    }
}

impl Memory for Target {
    fn read(&self, address: u64, buffer: &mut [u8]) -> bool {
        let size = buffer.len();
        address < END && copy(self.pid, address, buffer).is_ok_and(|copied| copied == size)
    }

    fn is_written(&self, address: u64) -> bool {
        let after = self.written.partition_point(|(start, _)| *start <= address);
        let range = after.checked_sub(1).and_then(|at| self.written.get(at));
        range.is_some_and(|(_, end)| address.is_multiple_of(8) && address < *end)
    }
}

/// Copies from a process's memory; how many bytes. `/proc/<pid>/mem` would ask for the program's user, or more than the
/// right to look into processes.
fn copy(pid: u32, address: u64, buffer: &mut [u8]) -> io::Result<usize> {
    let here = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    let there = libc::iovec {
        iov_base: address as *mut libc::c_void,
        iov_len: buffer.len(),
    };
    // SAFETY: the kernel writes into the buffer alone, as far as it goes; the other address is one of the other process.
    let copied = unsafe { libc::process_vm_readv(pid.cast_signed(), &here, 1, &there, 1, 0) };
    usize::try_from(copied).map_err(|_| io::Error::last_os_error())
}

fn range_of(line: &str) -> Option<(u64, u64)> {
    let (start, end) = line.split_ascii_whitespace().next()?.split_once('-')?;
    let hex = |text| u64::from_str_radix(text, 16).ok();
    Some((hex(start)?, hex(end)?))
}

fn written(line: &str) -> Option<(u64, u64)> {
    let rights = rights_of(line)?;
    rights.starts_with("rw").then(|| range_of(line)).flatten()
}

fn rights_of(line: &str) -> Option<&str> {
    line.split_ascii_whitespace().nth(1)
}

fn inode_of(line: &str) -> Option<u64> {
    line.split_ascii_whitespace().nth(4)?.parse().ok()
}

/// The path in a line of the list; `None` when nothing of a file is there.
fn file_of(line: &str) -> Option<&str> {
    line.find('/').and_then(|at| line.get(at..))
}

#[cfg(test)]
pub(super) mod fake {
    use std::collections::BTreeMap;

    use super::*;

    /// Memory with these words and nothing else.
    #[derive(Debug, Default)]
    pub(crate) struct Words(pub(crate) BTreeMap<u64, u64>);

    impl Words {
        /// Puts zeros there.
        pub(crate) fn block(&mut self, address: u64, count: u64) {
            for index in 0..count {
                self.0.insert(address + 8 * index, 0);
            }
        }

        /// Puts a word there.
        pub(crate) fn put(&mut self, address: u64, word: u64) {
            self.0.insert(address, word);
        }
    }

    impl Memory for Words {
        fn read(&self, address: u64, buffer: &mut [u8]) -> bool {
            for (index, part) in buffer.chunks_mut(8).enumerate() {
                let Some(word) = self.0.get(&(address + 8 * index as u64)) else {
                    return false;
                };
                part.copy_from_slice(&word.to_le_bytes()[..part.len()]);
            }
            true
        }

        fn is_written(&self, address: u64) -> bool {
            address.is_multiple_of(8) && (0x1_0000..END).contains(&address)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn a_process_sees_itself() {
        let target = Target::open(std::process::id()).unwrap();
        let word = 0x1234_5678_9abc_def0_u64;
        assert_eq!(target.word(&raw const word as u64), Some(word));
        assert_eq!(target.word(8), None, "nothing is there");
        assert!(target.words(8, 4).is_empty(), "nothing is there");
        let program = target.program().unwrap();
        let [main] = program.elf.symbols(["main"]).unwrap();
        let main = main.unwrap();
        let mut bytes = [0; 8];
        assert!(target.read(main.wrapping_add(program.shift), &mut bytes));
        let file = File::open("/proc/self/exe").unwrap();
        let mut same = [0; 8];
        file.read_exact_at(&mut same, program.elf.offset_of(main).unwrap())
            .unwrap();
        assert_eq!(bytes, same, "the file's bytes are at that address");
        assert!(target.library("libc.so").is_ok() || target.has("ld-musl"));
        assert!(target.library("no such library").is_err());
    }
}
