//! Baggage under construction: limits, and which format's word counts when two carry the same key.

use crate::model::Baggage;
use crate::model::BaggageItem;
use crate::model::Text;

/// The most items kept, and the most bytes they may have together: what W3C Baggage asks everyone to pass on.
pub(super) const MAX_ITEMS: usize = 64;
/// See [`MAX_ITEMS`].
pub(super) const MAX_BYTES: usize = 8192;

/// Collects the baggage of one request from several formats, at most 64 items and 8192 bytes.
///
/// Within one source keys may repeat, as W3C Baggage allows. Of two sources with the same key (compared without case, for
/// Jaeger's keys are header names) the earlier one counts.
#[derive(Debug, Default)]
pub struct Items {
    list: Vec<BaggageItem>,
    n_bytes: usize,
    n_settled: usize,
}

impl Items {
    /// Starts the next source: what came so far takes precedence.
    pub fn begin_source(&mut self) {
        self.n_settled = self.list.len();
    }

    /// Adds an item unless an earlier source has the key or a limit would be passed.
    pub fn push(&mut self, key: &str, value: &str, properties: &str) {
        let n_bytes = self.n_bytes + key.len() + value.len() + properties.len();
        let settled = self.list.iter().take(self.n_settled);
        let is_known = settled
            .into_iter()
            .any(|item| item.key.eq_ignore_ascii_case(key));
        if self.list.len() >= MAX_ITEMS || n_bytes > MAX_BYTES || is_known {
            return;
        }
        self.n_bytes = n_bytes;
        self.list.push(BaggageItem {
            key: Text::new(key),
            value: Text::new(value),
            properties: Text::new(properties),
        });
    }

    /// The items so far, oldest first.
    pub fn as_slice(&self) -> &[BaggageItem] {
        &self.list
    }
}

impl From<Items> for Baggage {
    fn from(items: Items) -> Self {
        items.list.into_iter().collect()
    }
}

/// True when `key` is an HTTP token, so that it can be a baggage key or part of a header name.
pub(super) fn is_token(key: &[u8]) -> bool {
    let is_token_char =
        |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !key.is_empty() && key.iter().all(is_token_char)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earlier_source_counts_and_limits_hold() {
        let mut items = Items::default();
        items.begin_source();
        items.push("user", "a", "");
        items.push("user", "b", "");
        items.begin_source();
        items.push("USER", "c", "");
        items.push("other", "d", "");
        let values: Vec<_> = items
            .as_slice()
            .iter()
            .map(|item| item.value.as_str())
            .collect();
        assert_eq!(values, ["a", "b", "d"]);

        items.push("long", &"x".repeat(MAX_BYTES), "");
        assert_eq!(items.as_slice().len(), 3, "over 8192 bytes");
        for n in 0..100 {
            items.push(&format!("k{n}"), "", "");
        }
        assert_eq!(items.as_slice().len(), MAX_ITEMS);
    }
}
