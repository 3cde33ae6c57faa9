//! What kind of request is this? Requests of one kind differ only in their values.
//!
//! A kind is a keyed hash of the method, of where the request goes, and of the path with its values left out. Only
//! hashes are kept.

use std::hash::BuildHasher;
use std::hash::Hash;
use std::hash::Hasher;

use foldhash::quality::RandomState;
use http::Method;

/// Most bytes of a path that are looked at.
const MAX_PATH: usize = 256;
/// A longer segment is a value.
const MAX_WORD: usize = 32;

/// Turns requests into kinds.
#[derive(Debug, Default)]
pub struct Shapes {
    key: RandomState,
}

/// The kind of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Shape(u64);

impl Shapes {
    /// The kind of a request to `host` (empty: the program itself).
    ///
    /// A segment of the path is a value when it has a digit, an escape or another character that words do not have, or
    /// when it is long.
    pub fn of(&self, method: &Method, host: &str, path: &str) -> Shape {
        let mut hasher = self.key.build_hasher();
        (method, host).hash(&mut hasher);
        let path = path.as_bytes();
        let path = path.get(..MAX_PATH).unwrap_or(path);
        for segment in path.split(|byte| *byte == b'/') {
            let word = if is_word(segment) { segment } else { b"*" };
            word.hash(&mut hasher);
        }
        Shape(hasher.finish().max(1))
    }
}

impl Shape {
    /// No kind: nothing is learned from such requests.
    pub const NONE: Self = Self(0);

    /// As a number.
    pub(super) fn number(self) -> u64 {
        self.0
    }
}

fn is_word(segment: &[u8]) -> bool {
    segment.len() <= MAX_WORD
        && segment
            .iter()
            .all(|byte| byte.is_ascii_alphabetic() || matches!(byte, b'-' | b'_' | b'.' | b':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_leave_values_out() {
        let shapes = Shapes::default();
        let of = |host, path| shapes.of(&Method::GET, host, path);
        for (one, other, same, why) in [
            ("/orders/1", "/orders/2", true, "a number"),
            ("/orders/1", "/orders/a%20b", true, "an escape"),
            ("/orders", "/items", false, "another word"),
            ("/orders", "/orders/", false, "another depth"),
            ("/a/b", "/ab", false, "segments do not run together"),
            ("/v/7b1a4c7e-0f4e-4b8e", "/v/x9", true, "an identifier"),
        ] {
            assert_eq!(of("", one) == of("", other), same, "{why}");
        }
        assert_ne!(of("db", "/"), of("", "/"), "where it goes counts");
        assert_ne!(
            shapes.of(&Method::POST, "", "/"),
            of("", "/"),
            "the method counts"
        );
        assert_ne!(of("", "/"), Shape::NONE);
    }
}
