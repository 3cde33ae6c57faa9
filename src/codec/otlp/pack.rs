//! The attributes of a span, written while it is recorded in the form in which they leave: the `attributes` of a `Span`,
//! one after another. A batch of such spans is mostly copied.

use std::ops::Range;
use std::sync::LazyLock;

use crate::codec::limits::Budget;
use crate::codec::limits::Limits;
use crate::codec::otlp::decode::attribute;
use crate::codec::otlp::encode::put_attribute;
use crate::codec::otlp::wire::Field;
use crate::codec::otlp::wire::Reader;
use crate::codec::otlp::wire::Wire;
use crate::model::Attribute;
use crate::model::Text;
use crate::model::Value;

/// The number of the field that they are in a `Span`.
pub(super) const FIELD: u32 = 9;

/// What can be packed as an attribute's value.
pub trait Pack {
    /// Appends it under this key. Nobody looks whether the key is there already.
    fn pack(self, key: &str, out: &mut Vec<u8>);
}

impl Pack for &str {
    #[inline(always)]
    fn pack(self, key: &str, out: &mut Vec<u8>) {
        let len = VALUE + self.len();
        if !begin(key, len, out) {
            return put_any(key, Value::Str(self.into()), out);
        }
        put_text(self, out);
    }
}

impl Pack for Text {
    #[inline(always)]
    fn pack(self, key: &str, out: &mut Vec<u8>) {
        self.as_str().pack(key, out);
    }
}

impl Pack for bool {
    #[inline(always)]
    fn pack(self, key: &str, out: &mut Vec<u8>) {
        match begin(key, VALUE, out) {
            true => out.extend_from_slice(&[delimited(2), 2, varint(2), u8::from(self)]),
            false => put_any(key, Value::Bool(self), out),
        }
    }
}

impl Pack for i64 {
    #[inline(always)]
    fn pack(self, key: &str, out: &mut Vec<u8>) {
        // Three bytes hold every port and status.
        let (low, middle, high) = (
            self as u8 & 0x7f,
            (self >> 7) as u8 & 0x7f,
            (self >> 14) as u8,
        );
        let value: &[u8] = match self {
            0..0x80 => &[delimited(2), 2, varint(3), low],
            0x80..0x4000 => &[delimited(2), 3, varint(3), low | 0x80, middle],
            0x4000..0x20_0000 => &[delimited(2), 4, varint(3), low | 0x80, middle | 0x80, high],
            _ => return put_any(key, Value::I64(self), out),
        };
        match begin(key, value.len(), out) {
            true => out.extend_from_slice(value),
            false => put_any(key, Value::I64(self), out),
        }
    }
}

impl Pack for f64 {
    #[inline(always)]
    fn pack(self, key: &str, out: &mut Vec<u8>) {
        if !begin(key, VALUE - 1 + size_of::<f64>(), out) {
            return put_any(key, Value::F64(self), out);
        }
        out.extend_from_slice(&[delimited(2), 9, 4 << 3 | Wire::Fixed64 as u8]);
        out.extend_from_slice(&self.to_le_bytes());
    }
}

impl Pack for Value {
    fn pack(self, key: &str, out: &mut Vec<u8>) {
        put_any(key, self, out);
    }
}

#[inline(never)]
fn put_text(text: &str, out: &mut Vec<u8>) {
    let len = text.len() as u8;
    out.extend_from_slice(&[delimited(2), len + 2, delimited(1), len]);
    out.extend_from_slice(text.as_bytes());
}

/// Bytes around a text: tags and lengths of the value and of its text.
const VALUE: usize = 4;

/// Writes what stands before a value of `len` bytes. False, and nothing: it takes a longer form.
#[inline(always)]
fn begin(key: &str, len: usize, out: &mut Vec<u8>) -> bool {
    let len = 2 + key.len() + len;
    if len > 0x7f || key.is_empty() {
        return false;
    }
    out.reserve(2 + len);
    let key_len = key.len() as u8;
    out.extend_from_slice(&[delimited(FIELD), len as u8, delimited(1), key_len]);
    out.extend_from_slice(key.as_bytes());
    true
}

const fn delimited(field: u32) -> u8 {
    (field << 3 | Wire::Delimited as u32) as u8
}

const fn varint(field: u32) -> u8 {
    (field << 3 | Wire::Varint as u32) as u8
}

#[cold]
#[inline(never)]
fn put_any(key: &str, value: Value, out: &mut Vec<u8>) {
    let key = key.into();
    put_attribute(out, FIELD, &Attribute { key, value });
}

/// The attributes that were packed, in their order. Bytes that are none are left out.
pub fn unpack(packed: &[u8]) -> Vec<Attribute> {
    let mut attributes = Vec::with_capacity(USUAL);
    let mut rest = packed;
    loop {
        let (attribute, len) = match short(rest) {
            Some((attribute, len)) => (Some(attribute), len),
            None => match Entries::of(rest).next() {
                Some((content, place)) => (long(content), place.end),
                None => return attributes,
            },
        };
        attributes.extend(attribute);
        rest = rest.get(len..).unwrap_or_default();
    }
}

/// Attributes for which there is room from the beginning: a kilobyte.
const USUAL: usize = 1024 / size_of::<Attribute>();

/// Reads what [`Pack`] writes of short values, and how long that is; `None`: it stands there in another form.
fn short(packed: &[u8]) -> Option<(Attribute, usize)> {
    const ATTRIBUTE: u8 = delimited(FIELD);
    const ONE: u8 = delimited(1);
    const TWO: u8 = delimited(2);
    const BOOL: u8 = varint(2);
    const INTEGER: u8 = varint(3);
    let [ATTRIBUTE, len, ONE, key_len, rest @ ..] = packed else {
        return None;
    };
    let (key, rest) = rest.split_at_checked(usize::from(*key_len))?;
    let [TWO, value_len, kind, rest @ ..] = rest else {
        return None;
    };
    let value = rest.get(..usize::from(*value_len).checked_sub(1)?)?;
    let content = VALUE + key.len() + 1 + value.len();
    if *len > 0x7f || usize::from(*len) != content {
        return None;
    }
    let value = match (*kind, value) {
        (ONE, [len, text @ ..]) if usize::from(*len) == text.len() => Value::Str(text_of(text)?),
        (BOOL, [yes @ (0 | 1)]) => Value::Bool(*yes == 1),
        (INTEGER, [low @ 0..0x80]) => Value::I64(i64::from(*low)),
        (INTEGER, [low @ 0x80..=0xff, high @ 0..0x80]) => Value::I64(number([*low, *high, 0])),
        (INTEGER, [low @ 0x80..=0xff, middle @ 0x80..=0xff, high @ 0..0x80]) => {
            Value::I64(number([*low, *middle, *high]))
        }
        _ => return None,
    };
    let key = match known_key(key) {
        Some(known) => Text::new_static(known),
        None => text_of(key)?,
    };
    Some((Attribute { key, value }, 2 + content))
}

fn number([low, middle, high]: [u8; 3]) -> i64 {
    let bits = |byte: u8| i64::from(byte & 0x7f);
    bits(low) | bits(middle) << 7 | bits(high) << 14
}

fn text_of(bytes: &[u8]) -> Option<Text> {
    std::str::from_utf8(bytes).ok().map(Text::new)
}

/// Reads an attribute's content in any form.
fn long(content: &[u8]) -> Option<Attribute> {
    let mut budget = Budget::new(Limits::default());
    attribute(content, &mut budget).ok()?
}

/// Takes an attribute out. True: it was there.
pub fn remove(packed: &mut Vec<u8>, key: &str) -> bool {
    let Some(place) = find(packed, key) else {
        return false;
    };
    packed.drain(place);
    true
}

/// True when there is an attribute under this key.
pub fn contains(packed: &[u8], key: &str) -> bool {
    find(packed, key).is_some()
}

fn find(packed: &[u8], key: &str) -> Option<Range<usize>> {
    let has_key = |content| {
        let first = Reader::new(content).next();
        matches!(first, Ok(Some((1, Field::Delimited(name)))) if name == key.as_bytes())
    };
    let mut entries = Entries::of(packed);
    entries.find_map(|(content, place)| has_key(content).then_some(place))
}

/// Attributes with the places where they stand, tag and length included.
struct Entries<'a> {
    reader: Reader<'a>,
    len: usize,
}

impl<'a> Entries<'a> {
    fn of(packed: &'a [u8]) -> Self {
        Self {
            reader: Reader::new(packed),
            len: packed.len(),
        }
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = (&'a [u8], Range<usize>);

    fn next(&mut self) -> Option<Self::Item> {
        let start = self.len - self.reader.left();
        match self.reader.next() {
            Ok(Some((_, Field::Delimited(content)))) => {
                Some((content, start..self.len - self.reader.left()))
            }
            _ => None,
        }
    }
}

/// Keys that nearly all spans of ours have: found by their lengths, they need not be read as text.
const KEYS: &[&str] = &[
    "error.type",
    "http.request.method",
    "http.response.status_code",
    "http.request.body.size",
    "http.response.body.size",
    "http.route",
    "url.scheme",
    "url.path",
    "url.query",
    "url.full",
    "client.address",
    "server.address",
    "server.port",
    "network.peer.address",
    "network.peer.port",
    "network.protocol.version",
    "user_agent.original",
    "rpc.system.name",
    "rpc.method",
    "rpc.response.status_code",
    "sampler.type",
    "sampler.param",
    "pillion.sampling.decided_by",
    "pillion.response.origin",
    "pillion.connection.reused",
    "pillion.link.method",
    "pillion.link.confidence",
    "pillion.link.p",
    "pillion.link.candidates",
    "pillion.time.connect_us",
    "pillion.time.send_us",
    "pillion.time.first_byte_us",
    "pillion.time.body_us",
    "service.peer.name",
];
/// One more than the longest.
const LENGTHS: usize = 28;

fn known_key(key: &[u8]) -> Option<&'static str> {
    static BY_LENGTH: LazyLock<[Vec<&'static str>; LENGTHS]> = LazyLock::new(|| {
        let of = |length| KEYS.iter().copied().filter(move |key| key.len() == length);
        std::array::from_fn(|length| of(length).collect())
    });
    let mut candidates = BY_LENGTH.get(key.len())?.iter();
    candidates.find(|known| known.as_bytes() == key).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Packed between two others, with keys short and long.
    fn check(value: Value, pack: impl Fn(&str, &mut Vec<u8>)) {
        for key in ["", "k", "http.response.status_code", &"k".repeat(200)] {
            let (mut packed, mut general) = (Vec::new(), Vec::new());
            "x".pack("before", &mut packed);
            pack(key, &mut packed);
            true.pack("behind", &mut packed);
            let attribute = Attribute {
                key: key.into(),
                value: value.clone(),
            };
            let (before, behind) = (
                Attribute::new("before", "x"),
                Attribute::new("behind", true),
            );
            for attribute in [&before, &attribute, &behind] {
                put_attribute(&mut general, FIELD, attribute);
            }
            assert_eq!(packed, general, "{attribute:?}");
            assert_eq!(unpack(&packed), [before.clone(), attribute, behind.clone()]);
            assert!(!remove(&mut packed, "other"));
            if !key.is_empty() {
                assert!(contains(&packed, key) && remove(&mut packed, key), "{key}");
                assert_eq!(unpack(&packed), [before, behind], "{key}");
            }
        }
    }

    #[test]
    fn whatever_is_packed_has_the_one_form_and_comes_back() {
        for len in [0, 1, 60, 100, 118, 119, 120, 121, 122, 300, 20_000] {
            let text = "t".repeat(len);
            check(Value::Str(text.as_str().into()), |key, out| {
                text.pack(key, out)
            });
        }
        for number in [
            0,
            1,
            127,
            128,
            200,
            8080,
            16_383,
            16_384,
            65_535,
            2_097_151,
            2_097_152,
            -1,
            i64::MIN,
            i64::MAX,
        ] {
            check(Value::I64(number), |key, out| number.pack(key, out));
        }
        for yes in [true, false] {
            check(Value::Bool(yes), |key, out| yes.pack(key, out));
        }
        for share in [0.0, 0.001, -1.5] {
            check(Value::F64(share), |key, out| share.pack(key, out));
        }
        let list = Value::StrList(["a".into(), "".into()].into());
        check(list.clone(), |key, out| list.clone().pack(key, out));
    }

    #[test]
    fn every_known_key_is_found() {
        for key in KEYS {
            assert_eq!(known_key(key.as_bytes()), Some(*key));
        }
        for key in ["", "url.patH", &"k".repeat(100)] {
            assert_eq!(known_key(key.as_bytes()), None);
        }
    }

    #[test]
    fn what_is_not_ours_is_left_out() {
        for (bytes, why) in [
            (&[][..], "nothing"),
            (&[0x4a], "no length"),
            (&[0x4a, 9, 1], "half of it"),
            (&[0x4a, 2, 0xff, 0xff], "no attribute"),
            (&[0x08, 1], "no message"),
        ] {
            assert_eq!(unpack(bytes), [], "{why}");
            assert!(!contains(bytes, "k"), "{why}");
        }
    }
}
