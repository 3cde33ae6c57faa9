//! One strict reading of a byte stream as HTTP/1 requests: bytes in, "so many may pass" or a refusal out.
//!
//! Heads are judged whole and pass whole. Of a body only the framing is looked at. Everything here is a subset of what
//! the HTTP library accepts, with the same meaning, so the two never lose step.
//!
//! Source: RFC 9112 sections 2.2, 3, 5, 6, 7.1 and 11.

use smallvec::SmallVec;

use super::Refusal;
use super::lines;
use super::lines::Facts;
use super::lines::malformed;

/// Bytes of a chunk extension: no client sends any, attackers send long ones.
const MAX_CHUNK_EXTENSION: usize = 4096;
/// Digits of a chunk size: 2^60 is enough.
const MAX_CHUNK_DIGITS: usize = 15;

/// The limits that an answer of its own belongs to.
#[derive(Debug, Clone, Copy)]
pub(in crate::proxy) struct Bounds {
    /// Bytes of a head, and of a trailer section.
    pub(in crate::proxy) head: usize,
    /// Fields of a head, and of a trailer section.
    pub(in crate::proxy) fields: usize,
}

/// What was found in bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Scanned {
    /// So many bytes at the front may pass.
    pub(super) pass: usize,
    /// Why it stopped there; `None`: everything may pass.
    pub(super) stop: Option<Stop>,
}

/// Why not everything may pass yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// The head that begins there is not complete. Ask again with the same bytes and more.
    Incomplete,
    /// What follows is the next request or, if the upgrade is accepted, no HTTP. Ask again when that is known.
    Undecided,
    /// The head that begins there is refused.
    Head(Refusal),
    /// The body is refused from there on.
    Body(Refusal),
}

/// The reader.
#[derive(Debug)]
pub(super) struct Scanner {
    bounds: Bounds,
    state: State,
    head: Head,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Head,
    /// Bytes of content that are still to come.
    Body(u64),
    Chunk(Chunk),
    Trailers,
    Undecided,
}

/// A place in a chunked body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Chunk {
    Size { size: u64, digits: usize },
    Extension { size: u64, len: usize },
    SizeEnd { size: u64 },
    Data(u64),
    DataEnd,
    DataLineEnd,
}

/// A head (or trailer section) that is being read: offsets from its first byte.
#[derive(Debug, Default)]
struct Head {
    /// Where the current line begins.
    line: usize,
    /// Up to here there is no line end.
    searched: usize,
    /// Complete lines that were not empty.
    n_lines: usize,
    facts: Facts,
}

/// A request that is whole and says nothing unusual: HTTP/1.1, no upgrade, no expectation, no transfer coding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::proxy) struct Whole {
    /// Bytes of its head.
    pub(in crate::proxy) head: usize,
    /// Bytes of its content.
    pub(in crate::proxy) content: usize,
}

/// The lines of its head, the request line and the empty one left out.
pub(in crate::proxy) type FieldLines = SmallVec<[FieldLine; 16]>;

/// A field line in a head: offsets from the head's first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::proxy) struct FieldLine {
    /// Where the line, and so its name, begins.
    pub(in crate::proxy) start: usize,
    /// Behind the name.
    pub(in crate::proxy) name_end: usize,
    /// Where the value without blanks begins, and where it ends.
    pub(in crate::proxy) value: (usize, usize),
    /// Behind all but the line's end.
    pub(in crate::proxy) end: usize,
}

/// The request at the front of `bytes` by the same rule as everywhere, and its lines; `None`: not whole, not usual, or
/// refused.
pub(in crate::proxy) fn whole(
    bytes: &[u8],
    bounds: Bounds,
    lines: &mut FieldLines,
) -> Option<Whole> {
    let mut scanner = Scanner::new(bounds);
    // An empty line in front is to be ignored, but who sends one is not usual.
    if bytes.first()? == &b'\r' {
        return None;
    }
    let keep = |line: FieldLine| lines.push(line);
    let head = scanner.read_lines(bytes, keep).ok()??;
    let Facts {
        is_old,
        upgrade,
        expects,
        chunked,
        length,
        ..
    } = scanner.head.facts;
    let content = usize::try_from(length.unwrap_or(0)).ok()?;
    let is_usual = !is_old && !upgrade && !expects && !chunked;
    (is_usual && content <= bytes.len() - head).then_some(Whole { head, content })
}

impl Scanner {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            state: State::Head,
            head: Head::default(),
        }
    }

    /// True when the last request wanted to upgrade and what follows waits for the answer.
    pub(super) fn is_undecided(&self) -> bool {
        self.state == State::Undecided
    }

    /// The upgrade was refused: a request follows.
    pub(super) fn stay(&mut self) {
        self.state = State::Head;
    }

    /// Reads on. After [`Stop::Incomplete`] the same bytes must come again, more behind them.
    pub(super) fn scan(&mut self, bytes: &[u8]) -> Scanned {
        let mut pass = 0;
        loop {
            let rest = bytes.get(pass..).unwrap_or_default();
            let stop = match self.state {
                State::Undecided => Some(Stop::Undecided),
                _ if rest.is_empty() => return Scanned { pass, stop: None },
                State::Head => match self.read_head(rest) {
                    Ok(Some(len)) => {
                        pass += len;
                        None
                    }
                    Ok(None) => Some(Stop::Incomplete),
                    Err(refusal) => Some(Stop::Head(refusal)),
                },
                State::Body(left) => {
                    let len = left.min(rest.len() as u64);
                    pass += len as usize;
                    self.state = State::Body(left - len);
                    if left == len {
                        self.message_over();
                    }
                    None
                }
                State::Chunk(chunk) => match self.read_chunked(chunk, rest) {
                    Ok(len) => {
                        pass += len;
                        None
                    }
                    Err(refusal) => Some(Stop::Body(refusal)),
                },
                State::Trailers => match self.read_trailers(rest) {
                    Ok(Some(len)) => {
                        pass += len;
                        None
                    }
                    Ok(None) => Some(Stop::Incomplete),
                    Err(refusal) => Some(Stop::Body(refusal)),
                },
            };
            if stop.is_some() {
                return Scanned { pass, stop };
            }
        }
    }

    fn message_over(&mut self) {
        let facts = std::mem::take(&mut self.head).facts;
        self.state = if facts.upgrade {
            State::Undecided
        } else {
            State::Head
        };
    }

    /// The length of the head at the front; `None`: not complete.
    fn read_head(&mut self, bytes: &[u8]) -> Result<Option<usize>, Refusal> {
        let len = self.read_lines(bytes, |_| {})?;
        if len.is_some() {
            self.begin_body();
        }
        Ok(len)
    }

    fn read_lines(
        &mut self,
        bytes: &[u8],
        mut each: impl FnMut(FieldLine),
    ) -> Result<Option<usize>, Refusal> {
        while let Some((line, next)) = self.next_line(bytes)? {
            match (self.head.n_lines, line) {
                // Empty lines before a request are to be ignored.
                (0, []) => {}
                (0, line) => {
                    self.head.facts = lines::request_line(line)?;
                    self.head.n_lines = 1;
                }
                (_, []) => {
                    self.head.facts.check()?;
                    return Ok(Some(next));
                }
                (_, line) => {
                    self.count_field()?;
                    let (name, value) = self.head.facts.take(line)?;
                    let end = next - b"\r\n".len();
                    let start = end - line.len();
                    let from = start + (value.as_ptr().addr() - line.as_ptr().addr());
                    each(FieldLine {
                        start,
                        name_end: start + name.len(),
                        value: (from, from + value.len()),
                        end,
                    });
                }
            }
        }
        Ok(None)
    }

    /// The next complete line without its end, and where the one after it begins. Bounds the whole head.
    fn next_line<'a>(&mut self, bytes: &'a [u8]) -> Result<Option<(&'a [u8], usize)>, Refusal> {
        let head = &mut self.head;
        let fresh = bytes.get(head.searched..).unwrap_or_default();
        let Some(end) = memchr::memchr(b'\n', fresh) else {
            head.searched = bytes.len();
            return match bytes.len() > self.bounds.head {
                true => Err(head.too_large()),
                false => Ok(None),
            };
        };
        let end = head.searched + end;
        if end >= self.bounds.head {
            return Err(head.too_large());
        }
        let line = bytes.get(head.line..end).unwrap_or_default();
        let Some(line) = line.strip_suffix(b"\r") else {
            return malformed("a line ends without CR");
        };
        head.line = end + 1;
        head.searched = end + 1;
        Ok(Some((line, end + 1)))
    }

    fn count_field(&mut self) -> Result<(), Refusal> {
        if self.head.n_lines > self.bounds.fields {
            return Err(Refusal::TooManyFields);
        }
        self.head.n_lines += 1;
        Ok(())
    }

    fn begin_body(&mut self) {
        let facts = self.head.facts;
        self.head = Head {
            facts,
            ..Head::default()
        };
        match (facts.chunked, facts.length) {
            (true, _) => self.state = State::Chunk(Chunk::START),
            (false, Some(length)) if length > 0 => self.state = State::Body(length),
            (false, _) => self.message_over(),
        }
    }

    /// Reads at least one byte of a chunked body; says how many.
    fn read_chunked(&mut self, chunk: Chunk, bytes: &[u8]) -> Result<usize, Refusal> {
        let Some(&byte) = bytes.first() else {
            return Ok(0);
        };
        let (next, len) = match chunk {
            Chunk::Data(left) => {
                let len = left.min(bytes.len() as u64);
                let next = match left - len {
                    0 => Chunk::DataEnd,
                    left => Chunk::Data(left),
                };
                (next, len as usize)
            }
            Chunk::Size { size, digits } => (size_byte(size, digits, byte)?, 1),
            Chunk::Extension { size, len } => (extension_byte(size, len, byte)?, 1),
            Chunk::SizeEnd { .. } | Chunk::DataLineEnd if byte != b'\n' => {
                return malformed("a CR in a chunked body is not followed by LF");
            }
            Chunk::SizeEnd { size: 0 } => {
                self.state = State::Trailers;
                // The size line stands for the request line.
                self.head.n_lines = 1;
                return Ok(1);
            }
            Chunk::SizeEnd { size } => (Chunk::Data(size), 1),
            Chunk::DataEnd if byte == b'\r' => (Chunk::DataLineEnd, 1),
            Chunk::DataEnd => return malformed("a chunk is longer than its size"),
            Chunk::DataLineEnd => (Chunk::START, 1),
        };
        self.state = State::Chunk(next);
        Ok(len)
    }

    /// The length of the trailer section at the front, its empty line included; `None`: not complete.
    fn read_trailers(&mut self, bytes: &[u8]) -> Result<Option<usize>, Refusal> {
        while let Some((line, next)) = self.next_line(bytes)? {
            if line.is_empty() {
                self.message_over();
                return Ok(Some(next));
            }
            self.count_field()?;
            lines::trailer(line)?;
        }
        Ok(None)
    }
}

impl Chunk {
    const START: Self = Self::Size { size: 0, digits: 0 };
}

impl Head {
    /// What a head that is too large is too large with.
    fn too_large(&self) -> Refusal {
        match self.n_lines {
            0 => Refusal::TargetTooLong,
            _ => Refusal::HeadTooLarge,
        }
    }
}

fn size_byte(size: u64, digits: usize, byte: u8) -> Result<Chunk, Refusal> {
    let digit = match byte {
        b'0'..=b'9' => byte - b'0',
        b'a'..=b'f' => byte - b'a' + 10,
        b'A'..=b'F' => byte - b'A' + 10,
        b'\r' if digits > 0 => return Ok(Chunk::SizeEnd { size }),
        b';' if digits > 0 => return Ok(Chunk::Extension { size, len: 0 }),
        _ => return malformed("a chunk size is no hexadecimal number"),
    };
    if digits == MAX_CHUNK_DIGITS {
        return malformed("a chunk size has too many digits");
    }
    Ok(Chunk::Size {
        size: size << 4 | u64::from(digit),
        digits: digits + 1,
    })
}

fn extension_byte(size: u64, len: usize, byte: u8) -> Result<Chunk, Refusal> {
    match byte {
        b'\r' => Ok(Chunk::SizeEnd { size }),
        _ if !lines::VALUE[usize::from(byte)] => {
            malformed("a chunk extension has a control character")
        }
        _ if len == MAX_CHUNK_EXTENSION => malformed("a chunk extension is too long"),
        _ => Ok(Chunk::Extension { size, len: len + 1 }),
    }
}

#[cfg(test)]
mod tests;
