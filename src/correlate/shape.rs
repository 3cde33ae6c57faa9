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
    /// What people read of a kind of requests to the program: the method and the route, where there is one, or else the path
    /// without its values.
    pub(super) fn name(method: &Method, route: Option<&str>, path: &str) -> String {
        let mut name = format!("{method} ");
        if let Some(route) = route {
            name.push_str(route);
            return name;
        }
        let (path, _) = path.split_at(path.floor_char_boundary(MAX_PATH));
        for (n, segment) in path.split('/').enumerate() {
            let is_word = is_word(segment.as_bytes());
            name.push_str(if n == 0 { "" } else { "/" });
            name.push_str(if is_word { segment } else { "*" });
        }
        name
    }

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

    #[test]
    fn names_leave_values_out() {
        let whole = format!("/{}", "a/".repeat(127));
        let long = format!("{whole}é");
        for (route, path, expected) in [
            (None, "/orders/1/items", "GET /orders/*/items"),
            (None, "/", "GET /"),
            (None, "/a%20b/", "GET /*/"),
            (Some("/orders/{id}"), "/orders/1", "GET /orders/{id}"),
            (None, &long, &format!("GET {whole}")),
        ] {
            assert_eq!(Shape::name(&Method::GET, route, path), expected, "{path}");
        }
    }
}
