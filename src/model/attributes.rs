//! The attributes of a span: a list, or bytes that become one when somebody reads them.
//!
//! Spans of our own are packed while they are recorded, in the form in which most of them leave; who knows that form
//! passes the bytes on, for everybody else they are a list like any other.

use std::fmt;
use std::ops::Deref;
use std::ops::DerefMut;
use std::sync::LazyLock;
use std::sync::OnceLock;

use crossbeam_queue::ArrayQueue;

use crate::model::Attribute;

/// A span's attributes. Reads like a `Vec<Attribute>`; unpacks itself once, when it is first read.
#[derive(Clone, Default)]
pub struct Attributes {
    packed: Option<Packed>,
    list: OnceLock<Vec<Attribute>>,
}

#[derive(Clone)]
struct Packed {
    bytes: Vec<u8>,
    unpack: fn(&[u8]) -> Vec<Attribute>,
}

/// Buffers of spans that are gone. Requests fill them and a reporter empties them, each on a thread of its own, and
/// between threads the C library passes memory on by its longest way.
static SPARE: LazyLock<ArrayQueue<Vec<u8>>> = LazyLock::new(|| ArrayQueue::new(SPARES));
/// Two batches.
const SPARES: usize = 1024;
/// What a buffer begins with: nearly every span has fewer bytes of attributes.
const ROOM: usize = 1024;

impl Attributes {
    /// An empty buffer with room for what most spans have.
    pub fn buffer() -> Vec<u8> {
        SPARE.pop().unwrap_or_else(|| Vec::with_capacity(ROOM))
    }

    /// Packed attributes, and what makes a list of them.
    pub fn packed(bytes: Vec<u8>, unpack: fn(&[u8]) -> Vec<Attribute>) -> Self {
        Self {
            packed: Some(Packed { bytes, unpack }),
            list: OnceLock::new(),
        }
    }

    /// The bytes they are packed in; `None`: they are a list alone.
    pub fn bytes(&self) -> Option<&[u8]> {
        self.packed.as_ref().map(|packed| &*packed.bytes)
    }
}

impl Drop for Packed {
    fn drop(&mut self) {
        if self.bytes.capacity() == ROOM {
            let mut bytes = std::mem::take(&mut self.bytes);
            bytes.clear();
            // One too many is simply freed.
            SPARE.push(bytes).ok();
        }
    }
}

impl Deref for Attributes {
    type Target = Vec<Attribute>;

    fn deref(&self) -> &Self::Target {
        self.list.get_or_init(|| match &self.packed {
            Some(packed) => (packed.unpack)(&packed.bytes),
            None => Vec::new(),
        })
    }
}

impl DerefMut for Attributes {
    fn deref_mut(&mut self) -> &mut Self::Target {
        let _unpacked = (**self).len();
        self.packed = None;
        self.list.get_mut().expect("set by reading it")
    }
}

impl From<Vec<Attribute>> for Attributes {
    fn from(list: Vec<Attribute>) -> Self {
        Self {
            packed: None,
            list: list.into(),
        }
    }
}

impl<'a> IntoIterator for &'a Attributes {
    type Item = &'a Attribute;
    type IntoIter = std::slice::Iter<'a, Attribute>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl PartialEq for Attributes {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl fmt::Debug for Attributes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unpack(bytes: &[u8]) -> Vec<Attribute> {
        bytes
            .iter()
            .map(|byte| Attribute::new("n", i64::from(*byte)))
            .collect()
    }

    #[test]
    fn a_buffer_is_empty_whoever_had_it_before() {
        for _ in 0..2 * SPARES {
            let mut buffer = Attributes::buffer();
            assert_eq!((buffer.len(), buffer.capacity()), (0, ROOM));
            buffer.push(1);
            drop(Attributes::packed(buffer, unpack));
        }
        let all: Vec<_> = (0..2 * SPARES).map(|_| Attributes::buffer()).collect();
        for buffer in all {
            drop(Attributes::packed(buffer, unpack));
        }
        assert!(SPARE.len() <= SPARES);
    }

    #[test]
    fn packed_ones_read_like_a_list_and_are_one_once_changed() {
        let mut packed = Attributes::packed(vec![1, 2], unpack);
        let list = Attributes::from(unpack(&[1, 2]));
        assert_eq!((packed.bytes(), list.bytes()), (Some(&[1, 2][..]), None));
        assert_eq!(packed, list);
        assert_eq!(packed.clone().len(), 2);
        packed.push(Attribute::new("n", 3_i64));
        assert_eq!(packed.bytes(), None, "the bytes would be wrong");
        assert_eq!(*packed, unpack(&[1, 2, 3]));
        let mut none = Attributes::default();
        none.push(Attribute::new("n", 1_i64));
        assert_eq!(none.len(), 1);
    }
}
