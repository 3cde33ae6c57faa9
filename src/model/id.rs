//! Trace and span identifiers: fixed-width bytes, never all zero.

use std::fmt;

/// Identifies a trace: 16 bytes, big-endian, never all zero.
///
/// A 64-bit id (old Jaeger and Zipkin clients) has a zero high half.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TraceId([u8; 16]);

/// Identifies a span inside its trace: 8 bytes, big-endian, never all zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpanId([u8; 8]);

/// Lower-case hexadecimal text on the stack; derefs to `str`.
#[derive(Clone, Copy)]
pub struct Hex<const N: usize> {
    text: [u8; N],
}

impl TraceId {
    /// `None` when every byte is zero.
    pub fn from_bytes(bytes: [u8; 16]) -> Option<Self> {
        (bytes != [0; 16]).then_some(Self(bytes))
    }

    /// Builds an id from its two 64-bit halves; `None` when both are zero.
    pub fn from_halves(high: u64, low: u64) -> Option<Self> {
        Self::from_bytes(((u128::from(high) << 64) | u128::from(low)).to_be_bytes())
    }

    /// The 16 bytes, big-endian.
    pub fn bytes(self) -> [u8; 16] {
        self.0
    }

    /// The last 8 bytes as a number: what 64-bit systems call the trace id.
    pub fn low(self) -> u64 {
        u128::from_be_bytes(self.0) as u64
    }

    /// The first 8 bytes as a number; zero for 64-bit ids.
    pub fn high(self) -> u64 {
        (u128::from_be_bytes(self.0) >> 64) as u64
    }

    /// 32 lower-case hexadecimal digits.
    pub fn hex(self) -> Hex<32> {
        Hex::of(&self.0)
    }

    /// 16 lower-case hexadecimal digits of the low half.
    pub fn low_hex(self) -> Hex<16> {
        Hex::of(&self.low().to_be_bytes())
    }

    /// Parses 1 to 32 hexadecimal digits of any case, left-padded with zeros; `None` when malformed or zero.
    pub fn from_hex(digits: &[u8]) -> Option<Self> {
        let mut bytes = [0; 16];
        parse_hex(digits, &mut bytes)?;
        Self::from_bytes(bytes)
    }

    /// The id that stands for an id which is text (SkyWalking, Pinpoint, CAT): the same for the same text everywhere
    /// and in every version.
    pub fn of_text(text: &str) -> Self {
        let high = digest(text.as_bytes(), 1);
        Self::from_halves(high, digest(text.as_bytes(), 2).max(1)).unwrap_or(Self([1; 16]))
    }
}

impl SpanId {
    /// `None` when every byte is zero.
    pub fn from_bytes(bytes: [u8; 8]) -> Option<Self> {
        (bytes != [0; 8]).then_some(Self(bytes))
    }

    /// `None` when zero.
    pub fn from_u64(id: u64) -> Option<Self> {
        Self::from_bytes(id.to_be_bytes())
    }

    /// The 8 bytes, big-endian.
    pub fn bytes(self) -> [u8; 8] {
        self.0
    }

    /// The id as a number.
    pub fn to_u64(self) -> u64 {
        u64::from_be_bytes(self.0)
    }

    /// 16 lower-case hexadecimal digits.
    pub fn hex(self) -> Hex<16> {
        Hex::of(&self.0)
    }

    /// Parses 1 to 16 hexadecimal digits of any case, left-padded with zeros; `None` when malformed or zero.
    pub fn from_hex(digits: &[u8]) -> Option<Self> {
        let mut bytes = [0; 8];
        parse_hex(digits, &mut bytes)?;
        Self::from_bytes(bytes)
    }

    /// The id that stands for an id which is text; see [`TraceId::of_text`].
    pub fn of_text(text: &str) -> Self {
        Self::from_u64(digest(text.as_bytes(), 3)).unwrap_or(Self([1; 8]))
    }

    /// Another id that follows from this one: for wires whose caller names the callee's span too. Different ids have
    /// different successors.
    pub fn successor(self) -> Self {
        // Zero would be the successor of a single id, which gets that id's own instead.
        Self::from_u64(scatter(self.to_u64())).unwrap_or(self)
    }
}

/// FNV-1a, scattered: ids that differ in their last character must differ in their first bits too, for samplers look
/// there.
fn digest(text: &[u8], seed: u64) -> u64 {
    let start = 0xcbf2_9ce4_8422_2325 ^ scatter(seed);
    let hash = text.iter().fold(start, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    scatter(hash)
}

/// The finalizer of SplitMix64: a bijection in which every bit depends on every bit.
fn scatter(mut bits: u64) -> u64 {
    bits = bits.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// The two digits of each byte.
static PAIRS: [[u8; 2]; 256] = {
    let digits = b"0123456789abcdef";
    let mut pairs = [[0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        pairs[byte] = [digits[byte >> 4], digits[byte & 15]];
        byte += 1;
    }
    pairs
};

impl<const N: usize> Hex<N> {
    fn of(bytes: &[u8]) -> Self {
        let mut text = [b'0'; N];
        for (pair, byte) in text.chunks_exact_mut(2).zip(bytes) {
            pair.copy_from_slice(&PAIRS[usize::from(*byte)]);
        }
        Self { text }
    }

    /// The digits.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.text).unwrap_or_default()
    }

    /// The digits as bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.text
    }
}

impl<const N: usize> std::ops::Deref for Hex<N> {
    type Target = str;
    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl<const N: usize> fmt::Display for Hex<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.hex())
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.hex())
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TraceId({self})")
    }
}

impl fmt::Debug for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SpanId({self})")
    }
}

/// Fills `out` from the right with the digits' value. `None`: no digits, too many, or a character that is no digit.
fn parse_hex(digits: &[u8], out: &mut [u8]) -> Option<()> {
    if digits.is_empty() || digits.len() > out.len() * 2 {
        return None;
    }
    for (place, digit) in digits.iter().rev().enumerate() {
        let value = (*digit as char).to_digit(16)? as u8;
        let at = out.len() - 1 - place / 2;
        out[at] |= if place % 2 == 0 { value } else { value << 4 };
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_hex_is_left_padded() {
        assert_eq!(
            TraceId::from_hex(b"abc").unwrap().hex().as_str(),
            format!("{:032x}", 0xabc)
        );
        assert_eq!(SpanId::from_hex(b"1").unwrap().to_u64(), 1);
        assert_eq!(TraceId::from_halves(1, 2).unwrap().high(), 1);
        assert_eq!(TraceId::from_halves(1, 2).unwrap().low(), 2);
    }

    #[test]
    fn text_stands_for_the_same_id_in_every_version() {
        let id = TraceId::of_text("agent^1700000000000^1");
        assert_eq!(id.hex().as_str(), "60bd783886e8d4269576cfea959d780f");
        assert_eq!(SpanId::of_text("0.1").hex().as_str(), "fa2939bda3faa330");
        let next = TraceId::of_text("agent^1700000000000^2");
        assert_ne!(id.low() >> 56, next.low() >> 56, "first bits differ too");
        let one = SpanId::from_u64(1).unwrap();
        assert_ne!(one.successor(), one);
        assert_eq!(one.successor(), one.successor());
    }

    #[test]
    fn malformed_hex_is_refused() {
        for (digits, why) in [
            (&b""[..], "empty"),
            (b"0", "zero"),
            (b"0000000000000000", "zero, padded"),
            (b"g", "not a digit"),
            (b"12345678901234567", "17 digits in a span id"),
            (b"+1", "sign"),
        ] {
            assert_eq!(SpanId::from_hex(digits), None, "{why}");
        }
    }
}
