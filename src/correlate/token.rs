//! The token that a shim inside the program carries from an inbound request to the calls it causes.
//!
//! It names a place in the table of requests in flight and says nothing about the request. Written on requests to the
//! program and taken off its calls; it never leaves the machine.

use std::fmt;

use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;

/// The header that carries it between Pillion and the program.
pub const TOKEN: HeaderName = HeaderName::from_static("pillion-token");
/// Hexadecimal digits of a token.
const DIGITS: usize = 28;

/// Where a request in flight stands in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    /// The worker's shard.
    pub(super) shard: u16,
    /// The place in it.
    pub(super) place: u32,
    /// Tells the request from others that have had the place.
    pub(super) nonce: u64,
}

impl Token {
    /// Reads a token: 28 lower-case hexadecimal digits. `None` for anything else.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let lower_hex = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if text.len() != DIGITS || !text.iter().all(lower_hex) {
            return None;
        }
        let text = std::str::from_utf8(text).ok()?;
        Some(Self {
            shard: u16::from_str_radix(text.get(..4)?, 16).ok()?,
            place: u32::from_str_radix(text.get(4..12)?, 16).ok()?,
            nonce: u64::from_str_radix(text.get(12..)?, 16).ok()?,
        })
    }

    /// As a header value.
    pub fn header(self) -> Option<HeaderValue> {
        HeaderValue::try_from(self.to_string()).ok()
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}{:08x}{:016x}", self.shard, self.place, self.nonce)
    }
}

/// What the shim says on a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carried {
    /// Nothing: there is no shim, or the call belongs to no request.
    Nothing,
    /// This request caused the call.
    Token(Token),
    /// Something that is no single token.
    Garbage,
}

impl Carried {
    /// Reads the token header. Several equal values are one.
    pub fn read(headers: &HeaderMap) -> Self {
        let mut values = headers.get_all(TOKEN).iter();
        let Some(first) = values.next() else {
            return Self::Nothing;
        };
        match Token::parse(first.as_bytes()) {
            Some(token) if values.all(|value| value == first) => Self::Token(token),
            _ => Self::Garbage,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = "0001000000020000000000000003";

    #[test]
    fn a_token_is_read_as_it_was_written() {
        let token = Token {
            shard: 1,
            place: 2,
            nonce: 3,
        };
        assert_eq!(token.to_string(), WHOLE);
        assert_eq!(Token::parse(WHOLE.as_bytes()), Some(token));
        for (text, why) in [
            ("", "empty"),
            ("000100000002000000000000000", "a digit short"),
            ("00010000000200000000000000030", "a digit more"),
            ("000100000002000000000000000g", "no digit"),
            ("+001000000020000000000000003", "a sign is no digit"),
            ("00010000000200000000000000\u{e9}", "not ASCII"),
        ] {
            assert_eq!(Token::parse(text.as_bytes()), None, "{why}");
        }
    }

    #[test]
    fn two_different_tokens_are_garbage() {
        let read = |values: &[&'static str]| {
            let pairs = values
                .iter()
                .map(|value| (TOKEN, HeaderValue::from_static(value)));
            let mut headers = HeaderMap::new();
            pairs.for_each(|(name, value)| {
                headers.append(name, value);
            });
            Carried::read(&headers)
        };
        assert_eq!(read(&[]), Carried::Nothing);
        assert!(matches!(read(&[WHOLE]), Carried::Token(_)));
        assert!(matches!(read(&[WHOLE, WHOLE]), Carried::Token(_)));
        let other = "0001000000020000000000000004";
        assert_eq!(read(&[WHOLE, other]), Carried::Garbage);
        assert_eq!(read(&["x"]), Carried::Garbage);
    }
}
