//! Where a program's functions and variables lie in its file: the symbols of 64-bit little-endian ELF files.
//!
//! Files are foreign: everything is bounded, nothing panics, and what does not fit is an error.

use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;

/// Most bytes of names that are read of one file.
const MAX_NAMES: u64 = 64 << 20;
/// Most bytes of symbols that are read of one file.
const MAX_SYMBOLS: u64 = 256 << 20;
/// Most parts of a file.
const MAX_PARTS: usize = 1_024;
/// Bytes read at a time: a whole number of symbols.
const PIECE: usize = 24 * 4_096;

const SYMBOL: usize = 24;
const IS_SYMBOLS: u32 = 2;
const IS_DYNAMIC_SYMBOLS: u32 = 11;
const IS_LOADED: u32 = 1;
const IS_THREAD_LOCAL: u32 = 7;
const IS_THREAD_LOCAL_SYMBOL: u64 = 6;

/// One file.
#[derive(Debug)]
pub(super) struct Elf {
    file: File,
    tables: Vec<Table>,
    segments: Vec<Segment>,
    /// What each thread has a copy of: its address, size and alignment.
    thread_local: Option<(u64, u64, u64)>,
}

/// A symbol that is defined in the file.
#[derive(Debug)]
pub(super) struct Symbol<'a> {
    pub(super) name: &'a [u8],
    /// Of a variable that each thread has: from the beginning of all of them.
    pub(super) address: u64,
    pub(super) size: u64,
    pub(super) is_thread_local: bool,
}

/// Symbols, with where their names are.
#[derive(Debug)]
struct Table {
    symbols: (u64, u64),
    names: (u64, u64),
}

/// A part of the file that is loaded.
#[derive(Debug)]
struct Segment {
    offset: u64,
    address: u64,
    size: u64,
}

impl Elf {
    /// Reads the file's lists of parts.
    ///
    /// # Errors
    /// It cannot be read, or is none of these files.
    pub(super) fn read(file: File) -> io::Result<Self> {
        let mut head = [0; 64];
        file.read_exact_at(&mut head, 0)?;
        if !head.starts_with(b"\x7fELF\x02\x01") {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let segments = parts(&file, number(&head, 32, 8), number(&head, 56, 2), 56)?;
        let sections = parts(&file, number(&head, 40, 8), number(&head, 60, 2), 64)?;
        let place = |section: &[u8]| (number(section, 24, 8), number(section, 32, 8));
        let mut tables = Vec::new();
        for section in &sections {
            let kind = number(section, 4, 4) as u32;
            let names = sections.get(number(section, 40, 4) as usize);
            if matches!(kind, IS_SYMBOLS | IS_DYNAMIC_SYMBOLS)
                && let Some(names) = names
            {
                tables.push(Table {
                    symbols: place(section),
                    names: place(names),
                });
            }
        }
        let thread_local = segments
            .iter()
            .find(|segment| number(segment, 0, 4) as u32 == IS_THREAD_LOCAL)
            .map(|segment| {
                let field = |at| number(segment, at, 8);
                (field(16), field(40), field(48))
            });
        let segments = segments
            .iter()
            .filter(|segment| number(segment, 0, 4) as u32 == IS_LOADED)
            .map(|segment| Segment {
                offset: number(segment, 8, 8),
                address: number(segment, 16, 8),
                size: number(segment, 32, 8),
            })
            .collect();
        Ok(Self {
            file,
            tables,
            segments,
            thread_local,
        })
    }

    /// The addresses of these names, as the file counts them; `None` for each that is not defined there.
    ///
    /// # Errors
    /// The file is shorter than it says, or its tables are too long.
    pub(super) fn symbols<const N: usize>(&self, names: [&str; N]) -> io::Result<[Option<u64>; N]> {
        let mut found = [None; N];
        for table in &self.tables {
            if found.iter().all(Option::is_some) {
                break;
            }
            self.walk(table, &names, |symbol| {
                let index = names.iter().position(|name| name.as_bytes() == symbol.name);
                if symbol.address != 0
                    && let Some(entry) = index.and_then(|index| found.get_mut(index))
                {
                    entry.get_or_insert(symbol.address);
                }
                match found.iter().all(Option::is_some) {
                    true => ControlFlow::Break(()),
                    false => ControlFlow::Continue(()),
                }
            })?;
        }
        Ok(found)
    }

    /// Shows each symbol whose name begins in one of these ways, some twice.
    ///
    /// # Errors
    /// As for [`Elf::symbols`].
    pub(super) fn each_symbol(
        &self,
        beginnings: &[&str],
        mut look: impl FnMut(&Symbol<'_>),
    ) -> io::Result<()> {
        let mut tables = self.tables.iter();
        tables.try_for_each(|table| {
            self.walk(table, beginnings, |symbol| {
                look(symbol);
                ControlFlow::Continue(())
            })
        })
    }

    /// Programs have hundreds of thousands of symbols: only of those that are meant is more than the beginning read.
    fn walk(
        &self,
        table: &Table,
        beginnings: &[&str],
        mut look: impl FnMut(&Symbol<'_>) -> ControlFlow<()>,
    ) -> io::Result<()> {
        let is_meant = |name: &[u8]| {
            let mut beginnings = beginnings.iter();
            beginnings.any(|beginning| name.starts_with(beginning.as_bytes()))
        };
        let (names_at, names_size) = table.names;
        let (mut at, mut left) = table.symbols;
        if names_size > MAX_NAMES || left > MAX_SYMBOLS {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        // A size that the file only claims must not be allocated.
        if names_at.saturating_add(names_size) > self.file.metadata()?.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut text = vec![0; names_size as usize];
        self.file.read_exact_at(&mut text, names_at)?;
        let mut piece = vec![0; PIECE];
        while left >= SYMBOL as u64 {
            let size = left.min(PIECE as u64) as usize;
            let Some(piece) = piece.get_mut(..size) else {
                break;
            };
            self.file.read_exact_at(piece, at)?;
            for symbol in piece.chunks_exact(SYMBOL) {
                let rest = text.get(number(symbol, 0, 4) as usize..);
                let Some(rest) = rest.filter(|rest| is_meant(rest)) else {
                    continue;
                };
                let name = rest.split(|byte| *byte == 0).next();
                if let Some(name) = name
                    && number(symbol, 6, 2) != 0
                    && look(&Symbol {
                        name,
                        address: number(symbol, 8, 8),
                        size: number(symbol, 16, 8),
                        is_thread_local: number(symbol, 4, 1) & 0xf == IS_THREAD_LOCAL_SYMBOL,
                    })
                    .is_break()
                {
                    return Ok(());
                }
            }
            at = at.saturating_add(size as u64);
            left -= size as u64;
        }
        Ok(())
    }

    /// How far before a thread's own block of memory this variable of it begins, in a program (x86-64).
    pub(super) fn before_block(&self, variable: &Symbol<'_>) -> Option<u64> {
        let (address, size, alignment) = self.thread_local?;
        let end = size.checked_add(address)?;
        let padding = end.wrapping_neg() & alignment.max(1).wrapping_sub(1);
        let all = size.checked_add(padding)?;
        all.checked_sub(variable.address)
    }

    /// Where in the file the byte at this address is.
    pub(super) fn offset_of(&self, address: u64) -> Option<u64> {
        let within = |segment: &&Segment| {
            address
                .checked_sub(segment.address)
                .is_some_and(|into| into < segment.size)
        };
        let segment = self.segments.iter().find(within)?;
        segment.offset.checked_add(address - segment.address)
    }

    /// How far a process's addresses are from the file's, when the page at `offset` of the file is at `start`.
    pub(super) fn shift(&self, start: u64, offset: u64) -> Option<u64> {
        let page = |number: u64| number & !0xfff;
        let segment = self
            .segments
            .iter()
            .find(|segment| page(segment.offset) == offset)?;
        Some(start.wrapping_sub(page(segment.address)))
    }
}

/// The entries of one of the file's lists.
fn parts(file: &File, at: u64, count: u64, size: usize) -> io::Result<Vec<Vec<u8>>> {
    let count = (count as usize).min(MAX_PARTS);
    let mut bytes = vec![0; count * size];
    file.read_exact_at(&mut bytes, at)?;
    Ok(bytes.chunks_exact(size).map(<[u8]>::to_vec).collect())
}

/// A little-endian number of so many bytes; 0 when there are not as many.
fn number(bytes: &[u8], at: usize, size: usize) -> u64 {
    let mut word = [0; 8];
    if let (Some(from), Some(to)) = (bytes.get(at..at + size), word.get_mut(..size)) {
        to.copy_from_slice(from);
    }
    u64::from_le_bytes(word)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    #[test]
    fn functions_of_a_real_program_are_found_where_they_are() {
        let elf = Elf::read(File::open("/proc/self/exe").unwrap()).unwrap();
        let [main, none] = elf.symbols(["main", "no such name"]).unwrap();
        assert_eq!(none, None);
        let main = main.unwrap();
        assert!(elf.offset_of(main).is_some());
        assert_eq!(elf.offset_of(u64::MAX), None);
        assert_eq!(elf.shift(0x5000, 0), Some(0x5000), "loaded at any place");
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn variables_of_threads_lie_before_their_blocks() {
        use std::os::unix::thread::JoinHandleExt;

        thread_local! {
            static MARK_OF_THIS_TEST: u64 = const { 7 };
        }
        let (tell, told) = std::sync::mpsc::channel();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            let address = MARK_OF_THIS_TEST.with(|mark| &raw const *mark as u64);
            tell.send(address).unwrap();
            ended.recv().ok();
        });
        // A thread's handle is its block's address.
        let before = thread.as_pthread_t() as u64 - told.recv().unwrap();
        drop(end);
        thread.join().unwrap();
        let elf = Elf::read(File::open("/proc/self/exe").unwrap()).unwrap();
        let mut found = Vec::new();
        elf.each_symbol(&[""], |symbol| {
            let name = String::from_utf8_lossy(symbol.name);
            if symbol.is_thread_local && name.contains("MARK_OF_THIS_TEST") {
                found.push(elf.before_block(symbol));
            }
        })
        .unwrap();
        assert_eq!(found, [Some(before)]);
    }

    #[test]
    fn garbage_is_refused() {
        let mut claims = vec![0; 64];
        claims[..6].copy_from_slice(b"\x7fELF\x02\x01");
        claims[32..64].fill(0xff);
        for (bytes, why) in [
            (&b""[..], "empty"),
            (b"#!/bin/sh", "a script"),
            (&claims, "lists beyond its end"),
        ] {
            assert!(Elf::read(file(bytes)).is_err(), "{why}");
        }
    }

    /// One loaded part, one table with the symbol `main`.
    fn small() -> Vec<u8> {
        let mut bytes = b"\x7fELF\x02\x01".to_vec();
        bytes.resize(64 + 56 + 3 * 64, 0);
        let mut put = |at: usize, number: u64| {
            bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
        };
        let sections = 64 + 56;
        let symbols = sections + 3 * 64;
        let names = symbols + 2 * SYMBOL;
        put(32, 64);
        put(40, sections as u64);
        put(56, 1);
        put(60, 3);
        put(64, IS_LOADED.into());
        put(64 + 16, 0x1000);
        put(64 + 32, 0x1000);
        put(sections + 64 + 4, IS_SYMBOLS.into());
        put(sections + 64 + 24, symbols as u64);
        put(sections + 64 + 32, 2 * SYMBOL as u64);
        put(sections + 64 + 40, 2);
        put(sections + 128 + 24, names as u64);
        put(sections + 128 + 32, 6);
        bytes.resize(names, 0);
        bytes[symbols + SYMBOL] = 1;
        bytes[symbols + SYMBOL + 6] = 1;
        bytes[symbols + SYMBOL + 8..][..2].copy_from_slice(&0x1040_u16.to_le_bytes());
        bytes.extend(b"\0main\0");
        bytes
    }

    #[test]
    fn a_cut_or_altered_file_does_no_harm() {
        let whole = small();
        let elf = Elf::read(file(&whole)).unwrap();
        assert_eq!(elf.symbols(["main"]).unwrap(), [Some(0x1040)]);
        assert_eq!(elf.offset_of(0x1040), Some(0x40));
        for size in 0..whole.len() {
            if let Ok(elf) = Elf::read(file(&whole[..size])) {
                elf.symbols(["main"]).ok();
            }
        }
        for at in 0..whole.len() {
            for bits in [0xff, 0x80, 1] {
                let mut altered = whole.clone();
                altered[at] ^= bits;
                if let Ok(elf) = Elf::read(file(&altered)) {
                    elf.symbols(["main"]).ok();
                    elf.offset_of(0x1040);
                    elf.shift(0x5000, 0);
                }
            }
        }
    }
}
