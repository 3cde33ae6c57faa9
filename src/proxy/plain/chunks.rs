//! Chunked content, decoded as it comes and chunked anew: what goes on is ours alone.

/// A chunk size has at most so many digits.
const MAX_DIGITS: usize = 15;
/// Bytes of all chunk extensions of a message, and of its trailers.
const MAX_IGNORED: usize = 16 * 1024;

/// The reader of one message's chunks.
#[derive(Debug)]
pub(super) struct Chunks {
    state: State,
    /// Bytes that mean nothing so far.
    ignored: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Size {
        size: u64,
        digits: usize,
    },
    Extension {
        size: u64,
    },
    SizeEnd {
        size: u64,
    },
    Data(u64),
    DataEnd,
    DataLineEnd,
    /// At the begin of a line behind the last chunk.
    Trailer,
    TrailerLine,
    TrailerLineEnd,
    End,
    Over,
}

/// No chunks.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed;

const START: State = State::Size { size: 0, digits: 0 };

impl Chunks {
    pub(super) fn new() -> Self {
        Self {
            state: START,
            ignored: 0,
        }
    }

    /// True when the last chunk and what belongs to it were read.
    pub(super) fn is_over(&self) -> bool {
        self.state == State::Over
    }

    /// Reads on and appends what goes on. Says how many bytes were read, all of them unless the message is over, and how
    /// many of them were content. Trailers are left out: nothing announced them.
    ///
    /// # Errors
    /// These are no chunks.
    pub(super) fn pass(
        &mut self,
        bytes: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(usize, usize), Malformed> {
        let (mut at, mut n_content) = (0, 0);
        while let (Some(&byte), false) = (bytes.get(at), self.is_over()) {
            if let State::Data(left) = self.state {
                let rest = bytes.get(at..).unwrap_or_default();
                let len = usize::try_from(left).map_or(rest.len(), |left| left.min(rest.len()));
                put_chunk(rest.get(..len).unwrap_or_default(), out);
                (at, n_content) = (at + len, n_content + len);
                self.state = match left - len as u64 {
                    0 => State::DataEnd,
                    left => State::Data(left),
                };
                continue;
            }
            self.state = self.next(byte)?;
            at += 1;
        }
        if self.is_over() {
            out.extend_from_slice(b"0\r\n\r\n");
        }
        Ok((at, n_content))
    }

    fn next(&mut self, byte: u8) -> Result<State, Malformed> {
        Ok(match (self.state, byte) {
            (State::Size { size, digits }, b'\r') if digits > 0 => State::SizeEnd { size },
            (State::Size { size, digits }, b';') if digits > 0 => State::Extension { size },
            (State::Size { size, digits }, digit) if digits < MAX_DIGITS => {
                let digit = char::from(digit).to_digit(16).ok_or(Malformed)?;
                State::Size {
                    size: size << 4 | u64::from(digit),
                    digits: digits + 1,
                }
            }
            (State::Extension { size }, b'\r') => State::SizeEnd { size },
            (state @ (State::Extension { .. } | State::TrailerLine), byte) if is_text(byte) => {
                self.ignore()?;
                state
            }
            (State::SizeEnd { size: 0 }, b'\n') => State::Trailer,
            (State::SizeEnd { size }, b'\n') => State::Data(size),
            (State::DataEnd, b'\r') => State::DataLineEnd,
            (State::DataLineEnd, b'\n') => START,
            (State::Trailer, b'\r') => State::End,
            (State::Trailer, byte) if byte.is_ascii_graphic() => {
                self.ignore()?;
                State::TrailerLine
            }
            (State::TrailerLine, b'\r') => State::TrailerLineEnd,
            (State::TrailerLineEnd, b'\n') => State::Trailer,
            (State::End, b'\n') => State::Over,
            _ => return Err(Malformed),
        })
    }

    fn ignore(&mut self) -> Result<(), Malformed> {
        self.ignored += 1;
        (self.ignored <= MAX_IGNORED).then_some(()).ok_or(Malformed)
    }
}

fn is_text(byte: u8) -> bool {
    matches!(byte, b'\t' | b' '..=b'~' | 0x80..=0xff)
}

fn put_chunk(data: &[u8], out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut shift = (usize::BITS - data.len().leading_zeros()).div_ceil(4);
    while shift > 0 {
        shift -= 1;
        out.push(DIGITS[data.len() >> (4 * shift) & 15]);
    }
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(data);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pass(pieces: &[&[u8]]) -> Result<(String, usize, bool), Malformed> {
        let (mut chunks, mut out, mut total) = (Chunks::new(), Vec::new(), 0);
        for piece in pieces {
            total += chunks.pass(piece, &mut out)?.1;
        }
        Ok((String::from_utf8(out).unwrap(), total, chunks.is_over()))
    }

    #[test]
    fn chunks_come_out_as_they_went_in_however_they_are_cut() {
        let whole = b"5\r\nhello\r\n1F\r\n0123456789012345678901234567890\r\n0\r\n\r\n";
        let (out, total, over) = pass(&[whole]).unwrap();
        assert_eq!(
            out.as_bytes().to_ascii_uppercase(),
            whole.to_ascii_uppercase()
        );
        assert_eq!((total, over), (36, true));
        let single: Vec<&[u8]> = whole.chunks(1).collect();
        let (out, total, over) = pass(&single).unwrap();
        assert_eq!((total, over), (36, true));
        assert!(
            out.starts_with("1\r\nh\r\n1\r\ne\r\n") && out.ends_with("0\r\n\r\n"),
            "{out}"
        );
    }

    #[test]
    fn extensions_and_trailers_are_left_out_and_what_follows_is_not_read() {
        let (mut chunks, mut out) = (Chunks::new(), Vec::new());
        let bytes = b"2;a=\"b\"\r\nok\r\n000;x\r\nA: b\r\nC: d\r\n\r\nHTTP/1.1";
        let read = chunks.pass(bytes, &mut out).unwrap();
        assert_eq!(read, (bytes.len() - 8, 2));
        assert_eq!(out, b"2\r\nok\r\n0\r\n\r\n");
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_refused() {
        let long = [&b"1;"[..], &[b'x'; MAX_IGNORED + 1]].concat();
        for (bytes, why) in [
            (&b"\r\n"[..], "no size"),
            (b";a\r\n", "no size"),
            (b"x\r\n", "no number"),
            (b"+1\r\n", "a sign"),
            (b"1 \r\n", "a blank"),
            (b"1\n", "LF alone"),
            (b"1\rx", "CR alone"),
            (b"1;\x01\r\n", "a control character"),
            (b"1\r\nab", "longer than its size"),
            (b"1\r\na\n", "LF alone"),
            (b"1\r\na\rx", "CR alone"),
            (b"0\r\n a: b\r\n", "a folded trailer"),
            (b"0\r\n\n", "LF alone"),
            (b"0\r\na: b\n", "LF alone"),
            (b"1000000000000000\r\n", "too many digits"),
            (&long, "an endless extension"),
        ] {
            assert_eq!(pass(&[bytes]), Err(Malformed), "{why}");
        }
    }
}
