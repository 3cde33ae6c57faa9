//! Values of an inbound request, of its head and the start of its body, that recur in the head of a call: ids that the
//! program passes on by itself.
//!
//! Only what is long and varied enough to be an identifier counts, and it asserts a parent only when no earlier request
//! had it: an id that comes again belongs to a thing, not to a request, and then a call of the program's own could carry
//! it too. A value exists here only as a hash whose key is drawn at start and never leaves the process.

use std::hash::BuildHasher;
use std::hash::RandomState;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;

use http::HeaderMap;
use http::HeaderName;
use http::Uri;
use http::header;
use smallvec::SmallVec;

use crate::correlate::REQUEST_ID;
use crate::correlate::in_flight::Inbound;

/// Most values taken from one head.
const MAX_VALUES: usize = 16;
/// Most bytes of one head that are looked at.
const MAX_BYTES: usize = 4096;
/// Shortest and longest value.
const LENGTHS: std::ops::RangeInclusive<usize> = 8..=512;
/// A value must be hard to guess.
const MIN_BITS: f32 = 48.0;
/// An identifier has digits; words have none.
const MIN_DIGITS: usize = 2;
/// Most bytes of a body that are looked at: those that come first.
const BODY_BYTES: usize = 1024;
/// A body that holds more identifiers is a list of things.
const MAX_BODY_VALUES: usize = 4;
/// Values of past requests that are remembered, as 32 bits of their hashes.
const REMEMBERED: usize = 1 << 14;

/// Headers of an inbound request that hold an id of that request, if anything.
static ID_HEADERS: [HeaderName; 4] = [
    REQUEST_ID,
    HeaderName::from_static("x-correlation-id"),
    HeaderName::from_static("x-transaction-id"),
    HeaderName::from_static("idempotency-key"),
];

/// Headers of a call that say nothing about its cause.
const DUMB_HEADERS: &[HeaderName] = &[
    header::HOST,
    header::USER_AGENT,
    header::ACCEPT,
    header::ACCEPT_ENCODING,
    header::ACCEPT_LANGUAGE,
    header::AUTHORIZATION,
    header::COOKIE,
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::DATE,
    header::PROXY_AUTHORIZATION,
    header::TRANSFER_ENCODING,
];

/// Turns heads into comparable values and remembers which values have been there before.
#[derive(Debug)]
pub struct Fingerprints {
    key: RandomState,
    seen: Box<[AtomicU32]>,
}

/// The values of one head.
#[derive(Debug, Clone, Default)]
pub struct Values {
    /// One bit for each value: most heads have none in common, and then one comparison tells.
    mask: u64,
    hashes: SmallVec<[Hash; 4]>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Hash {
    hash: u64,
    /// No earlier request had it.
    is_new: bool,
}

/// What recurs in a call.
#[derive(Debug)]
pub(super) enum Recurring {
    /// Nothing.
    Nothing,
    /// Values of one request alone.
    Of(Arc<Inbound>),
    /// Values of several requests, or values that earlier requests had too.
    Doubtful(Vec<Arc<Inbound>>),
}

impl Default for Fingerprints {
    fn default() -> Self {
        Self {
            key: RandomState::new(),
            seen: (0..REMEMBERED).map(|_| AtomicU32::new(0)).collect(),
        }
    }
}

impl Fingerprints {
    /// The values of an inbound request: its path, its query and its id headers.
    ///
    /// What it has is from now on no longer new.
    pub fn inbound(&self, uri: &Uri, headers: &HeaderMap) -> Values {
        let mut values = self.of_uri(uri);
        // Most heads have none of them: one look over the names costs less than four searches.
        let has_ids = headers.keys().any(|name| ID_HEADERS.contains(name));
        for name in ID_HEADERS.iter().filter(|_| has_ids) {
            for value in headers.get_all(name) {
                values.take(value.as_bytes());
            }
        }
        self.met(values.values)
    }

    /// The values of what comes first of an inbound request's body: text of whatever syntax.
    ///
    /// What it has is from now on no longer new.
    pub fn body(&self, start: &[u8]) -> Values {
        let mut values = self.taking();
        let (read, rest) = start.split_at(start.len().min(BODY_BYTES));
        let whole = match rest.first() {
            // What is cut off in the middle is another value.
            Some(next) if is_part(*next) => read.iter().rposition(|byte| !is_part(*byte)),
            _ => Some(read.len()),
        };
        values.take(&read[..whole.unwrap_or_default()]);
        let values = values.values;
        match values.hashes.len() > MAX_BODY_VALUES {
            true => Values::default(),
            false => self.met(values),
        }
    }

    /// Remembers values of an inbound request and says which are new.
    fn met(&self, mut values: Values) -> Values {
        for value in &mut values.hashes {
            value.is_new = self.remember(value.hash);
        }
        values
    }

    /// The values of a call: its path, its query and its headers, but those that say nothing.
    pub(super) fn outbound(&self, uri: &Uri, headers: &HeaderMap) -> Values {
        let mut values = self.of_uri(uri);
        for (name, value) in headers {
            if !DUMB_HEADERS.contains(name) {
                values.take(value.as_bytes());
            }
        }
        values.values
    }

    fn of_uri(&self, uri: &Uri) -> Taking<'_> {
        let mut taking = self.taking();
        taking.take(uri.path().as_bytes());
        taking.take(uri.query().unwrap_or_default().as_bytes());
        taking
    }

    fn taking(&self) -> Taking<'_> {
        Taking {
            key: &self.key,
            left: MAX_BYTES,
            values: Values::default(),
        }
    }

    /// True when the value was not there before, as far as memory goes.
    fn remember(&self, hash: u64) -> bool {
        let (place, mark) = ((hash as usize) % REMEMBERED, (hash >> 32) as u32);
        let place = self.seen.get(place);
        place.is_some_and(|place| place.swap(mark, Ordering::Relaxed) != mark)
    }
}

/// Takes values out of one head.
struct Taking<'a> {
    key: &'a RandomState,
    /// Bytes that may still be looked at.
    left: usize,
    values: Values,
}

impl Taking<'_> {
    fn take(&mut self, text: &[u8]) {
        let text = text.get(..self.left).unwrap_or(text);
        self.left -= text.len();
        // Most have too few digits for a single identifier: counted all at once that is soon told.
        let digits = text.iter().filter(|byte| byte.is_ascii_digit()).count();
        if digits < MIN_DIGITS || text.len() < *LENGTHS.start() {
            return;
        }
        for token in text.split(|byte| !is_part(*byte)) {
            if self.values.hashes.len() < MAX_VALUES && is_identifier(token) {
                self.values.add(self.key.hash_one(token));
            }
        }
    }
}

impl Values {
    fn add(&mut self, hash: u64) {
        if !self.hashes.iter().any(|other| other.hash == hash) {
            self.mask |= bit(hash);
            self.hashes.push(Hash {
                hash,
                is_new: false,
            });
        }
    }

    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.hashes.is_empty()
    }

    /// True when the two have a value in common.
    pub(super) fn meet(&self, other: &Self) -> bool {
        self.mask & other.mask != 0 && self.hashes.iter().any(|own| other.find(own.hash).is_some())
    }

    pub(super) fn find(&self, hash: u64) -> Option<&Hash> {
        if self.mask & bit(hash) == 0 {
            return None;
        }
        self.hashes.iter().find(|own| own.hash == hash)
    }

    /// Whom the values of a call point at, among the requests that have one in common with it.
    pub(super) fn owner(&self, mut meeting: Vec<Arc<Inbound>>) -> Recurring {
        let mut owner: Option<usize> = None;
        for value in &self.hashes {
            let mut holders = meeting
                .iter()
                .enumerate()
                .filter_map(|(at, inbound)| Some((at, inbound.value(value.hash)?)));
            let (Some((at, held)), None) = (holders.next(), holders.next()) else {
                continue;
            };
            if !held.is_new {
                continue;
            }
            if owner.is_some_and(|owner| owner != at) {
                return Recurring::Doubtful(meeting);
            }
            owner = Some(at);
        }
        match owner {
            Some(at) => Recurring::Of(meeting.swap_remove(at)),
            None if meeting.is_empty() => Recurring::Nothing,
            None => Recurring::Doubtful(meeting),
        }
    }
}

fn bit(hash: u64) -> u64 {
    1 << (hash >> 58)
}

/// Bytes that identifiers consist of; every other byte ends one. Percent-encoding is left as it is.
fn is_part(byte: u8) -> bool {
    PART[usize::from(byte)]
}

const PART: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0_u8;
    while byte < 128 {
        let is_other = matches!(byte, b'-' | b'_' | b'.' | b'~' | b'%');
        table[byte as usize] = byte.is_ascii_alphanumeric() || is_other;
        byte += 1;
    }
    table
};

/// True for what could not be there by accident: digits enough, and as many bits as its alphabet and length allow.
fn is_identifier(token: &[u8]) -> bool {
    if !LENGTHS.contains(&token.len()) {
        return false;
    }
    let (mut digits, mut hex, mut lower, mut upper) = (0_usize, 0_usize, 0_usize, 0_usize);
    for byte in token {
        match byte {
            b'0'..=b'9' => digits += 1,
            b'a'..=b'f' | b'A'..=b'F' => hex += 1,
            b'g'..=b'z' => lower += 1,
            b'G'..=b'Z' => upper += 1,
            _ => {}
        }
    }
    let bits_each = match (hex, lower, upper) {
        (0, 0, 0) => 3.32,
        (_, 0, 0) => 4.0,
        (_, 0, _) | (_, _, 0) => 5.17,
        _ => 5.95,
    };
    let n = (digits + hex + lower + upper) as f32;
    digits >= MIN_DIGITS && n * bits_each >= MIN_BITS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_told_from_words() {
        for (token, expected, why) in [
            ("7b1a4c7e-0f4e-4b8e-9a57-6d1f0a2f9f10", true, "a UUID"),
            ("507f1f77bcf86cd799439011", true, "an object id"),
            ("1541815603606036480", true, "a snowflake"),
            ("01ARZ3NDEKTSV4RRFFQ69G5FAV", true, "a ULID"),
            ("cus_NffrFeUfNV2Hib9s", true, "a prefixed id"),
            ("1234567", false, "a short number"),
            ("2026-11-20", false, "a date"),
            ("20261120124304", false, "a time"),
            ("transactions", false, "a word"),
            ("internationalization-settings", false, "words"),
            ("v1", false, "a version"),
            ("", false, "nothing"),
        ] {
            assert_eq!(is_identifier(token.as_bytes()), expected, "{why}");
        }
        assert!(
            !is_identifier(&[b'7'; 513]),
            "longer than any id: a document"
        );
    }

    #[test]
    fn one_head_costs_a_bounded_amount() {
        let fingerprints = Fingerprints::default();
        let ids: Vec<String> = (0..100).map(|n| format!("{n:032}")).collect();
        let uri: Uri = format!("/{}", ids.join("/")).parse().unwrap();
        let values = fingerprints.inbound(&uri, &HeaderMap::new());
        assert_eq!(values.hashes.len(), MAX_VALUES);
        let padding = "x/".repeat(MAX_BYTES / 2);
        let uri: Uri = format!("/{padding}{}", ids[0]).parse().unwrap();
        let values = fingerprints.inbound(&uri, &HeaderMap::new());
        assert!(values.is_empty(), "beyond the bytes that are looked at");
    }

    #[test]
    fn of_a_body_only_the_start_is_looked_at() {
        let fingerprints = Fingerprints::default();
        let id = |n: usize| format!("{n:032}");
        let count = |body: String| fingerprints.body(body.as_bytes()).hashes.len();
        let padding = |n: usize| " ".repeat(n);
        for (body, expected, why) in [
            (format!(r#"{{"order":"{}"}}"#, id(1)), 1, "JSON"),
            (format!("order={}&n=12", id(2)), 1, "a form"),
            (format!("<order id='{}'/>", id(3)), 1, "XML"),
            (
                padding(BODY_BYTES - 32) + &id(4),
                1,
                "at the end of what is looked at",
            ),
            (padding(BODY_BYTES - 31) + &id(5), 0, "cut in the middle"),
            (padding(BODY_BYTES) + &id(6), 0, "beyond"),
            ("7".repeat(2 * BODY_BYTES), 0, "no end to it"),
            ((10..14).map(id).collect::<Vec<_>>().join(","), 4, "several"),
            (
                (20..25).map(id).collect::<Vec<_>>().join(","),
                0,
                "a list of things",
            ),
            (String::new(), 0, "nothing"),
        ] {
            assert_eq!(count(body), expected, "{why}");
        }
    }

    #[test]
    fn keys_differ_between_processes() {
        let uri = Uri::from_static("/507f1f77bcf86cd799439011");
        let hash = || {
            Fingerprints::default()
                .outbound(&uri, &HeaderMap::new())
                .hashes[0]
                .hash
        };
        assert_ne!(hash(), hash());
    }
}
