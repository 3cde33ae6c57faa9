//! The protobuf wire: tags, varints, length-delimited fields; a writer and a reader that cannot run away.

use bytes::BufMut;

/// Bytes a varint takes.
pub(in crate::codec) const fn varint_len(value: u64) -> usize {
    // One byte for each started group of seven bits; zero still takes one.
    ((64 - (value | 1).leading_zeros()) as usize).div_ceil(7)
}

/// Bytes of a tag with this field number.
pub(in crate::codec) const fn tag_len(field: u32) -> usize {
    varint_len((field as u64) << 3)
}

/// Bytes of a length-delimited field with this content length, tag included.
pub(in crate::codec) const fn delimited_len(field: u32, content: usize) -> usize {
    tag_len(field) + varint_len(content as u64) + content
}

pub(in crate::codec) fn put_varint(out: &mut impl BufMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

pub(in crate::codec) fn put_tag(out: &mut impl BufMut, field: u32, wire: Wire) {
    put_varint(out, u64::from(field) << 3 | wire as u64);
}

/// Opens a length-delimited field: the caller writes exactly `len` bytes next.
pub(in crate::codec) fn put_header(out: &mut impl BufMut, field: u32, len: usize) {
    put_tag(out, field, Wire::Delimited);
    put_varint(out, len as u64);
}

pub(in crate::codec) fn put_bytes(out: &mut impl BufMut, field: u32, bytes: &[u8]) {
    put_header(out, field, bytes.len());
    out.put_slice(bytes);
}

/// Leaves an empty text out, as proto3 does.
pub(in crate::codec) fn put_text(out: &mut impl BufMut, field: u32, text: &str) {
    if !text.is_empty() {
        put_bytes(out, field, text.as_bytes());
    }
}

/// A length-delimited field whose content `write` writes: one that is mostly short.
pub(in crate::codec) fn put_nested(
    out: &mut Vec<u8>,
    field: u32,
    write: impl FnOnce(&mut Vec<u8>),
) {
    put_behind::<1>(out, field, write);
}

/// The same for one that is mostly of some hundred bytes.
pub(in crate::codec) fn put_long(out: &mut Vec<u8>, field: u32, write: impl FnOnce(&mut Vec<u8>)) {
    put_behind::<2>(out, field, write);
}

/// Keeps `KEPT` bytes for the length; content whose length takes more or fewer is moved.
fn put_behind<const KEPT: usize>(out: &mut Vec<u8>, field: u32, write: impl FnOnce(&mut Vec<u8>)) {
    put_tag(out, field, Wire::Delimited);
    let at = out.len();
    out.extend_from_slice(&[0; KEPT]);
    write(out);
    let content = at + KEPT..out.len();
    let (len, end) = (content.len(), content.end);
    let n_bytes = varint_len(len as u64);
    if n_bytes > KEPT {
        out.resize(end + n_bytes - KEPT, 0);
    }
    if n_bytes != KEPT {
        out.copy_within(content, at + n_bytes);
        out.truncate(at + n_bytes + len);
    }
    if let Some(mut place) = out.get_mut(at..at + n_bytes) {
        put_varint(&mut place, len as u64);
    }
}

/// The wire types in use; groups (3 and 4) are long deprecated and refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::codec) enum Wire {
    Varint = 0,
    Fixed64 = 1,
    Delimited = 2,
    Fixed32 = 5,
}

/// One field's value as it lies on the wire.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::codec) enum Field<'a> {
    Varint(u64),
    Fixed64(u64),
    Delimited(&'a [u8]),
    Fixed32(u32),
}

/// The bytes broke the protobuf wire format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::codec) struct BadWire;

/// Reads the fields of one message in order; nested messages are read by another reader over their bytes.
#[derive(Debug, Clone, Copy)]
pub(in crate::codec) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(in crate::codec) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Bytes that were not read.
    pub(in crate::codec) fn left(&self) -> usize {
        self.rest.len()
    }

    /// The next field number and value; `Ok(None)` at the end.
    pub(in crate::codec) fn next(&mut self) -> Result<Option<(u32, Field<'a>)>, BadWire> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).map_err(|_| BadWire)?;
        if number == 0 {
            return Err(BadWire);
        }
        let field = match tag & 7 {
            0 => Field::Varint(self.varint()?),
            1 => Field::Fixed64(u64::from_le_bytes(self.fixed()?)),
            2 => {
                let len = usize::try_from(self.varint()?).map_err(|_| BadWire)?;
                Field::Delimited(self.take(len)?)
            }
            5 => Field::Fixed32(u32::from_le_bytes(self.fixed()?)),
            _ => return Err(BadWire),
        };
        Ok(Some((number, field)))
    }

    fn varint(&mut self) -> Result<u64, BadWire> {
        let mut value = 0;
        for shift in (0..70).step_by(7) {
            let [byte] = self.fixed()?;
            value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(BadWire)
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], BadWire> {
        self.take(N)?.try_into().map_err(|_| BadWire)
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], BadWire> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(BadWire)?;
        self.rest = rest;
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;

    #[test]
    fn varints_take_the_announced_bytes_and_come_back() {
        for value in [
            0,
            1,
            127,
            128,
            300,
            u64::from(u32::MAX),
            u64::MAX >> 1,
            u64::MAX,
        ] {
            let mut out = BytesMut::new();
            put_varint(&mut out, value);
            assert_eq!(out.len(), varint_len(value), "{value}");
            assert_eq!(Reader::new(&out).varint(), Ok(value));
        }
    }

    #[test]
    fn nested_fields_have_the_length_of_their_content() {
        for len in [0, 1, 127, 128, 300, 16_383, 16_384, 3_000_000] {
            let mut out = vec![9];
            put_nested(&mut out, 20, |out| out.resize(out.len() + len, 7));
            put_long(&mut out, 3, |out| out.resize(out.len() + len, 8));
            let mut reader = Reader::new(&out[1..]);
            for (field, byte) in [(20, 7), (3, 8)] {
                let content = vec![byte; len];
                let expected = Some((field, Field::Delimited(&content)));
                assert_eq!(reader.next(), Ok(expected), "{len}");
            }
            assert_eq!(reader.next(), Ok(None), "{len}");
        }
    }

    #[test]
    fn broken_fields_are_refused() {
        for (bytes, why) in [
            (&[0x00, 0x00][..], "field number zero"),
            (&[0x0b], "group"),
            (&[0x0a, 0x05, 1], "length beyond the end"),
            (&[0x09, 1, 2], "fixed64 cut short"),
            (&[0x80], "tag cut short"),
            (
                &[
                    0x08, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0,
                ],
                "11-byte varint",
            ),
        ] {
            assert_eq!(Reader::new(bytes).next(), Err(BadWire), "{why}");
        }
    }
}
