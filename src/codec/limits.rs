//! What foreign bytes may make us hold, and why they are refused.

use crate::model::Span;

/// What one foreign request may make us hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Spans in one request.
    pub spans: usize,
    /// Attributes, events, links and list items of all spans and resources together.
    pub parts: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            spans: 20_000,
            parts: 1_000_000,
        }
    }
}

/// Why foreign bytes were refused. Nothing of a refused request is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes are no message of this type.
    #[error("malformed {0}")]
    Malformed(&'static str),
    /// More spans or parts than the limits allow.
    #[error("too many {0}")]
    TooMany(&'static str),
    /// Values nested deeper than anybody needs.
    #[error("values nested too deeply")]
    TooDeep,
}

/// Decoded spans and how many were left out because their ids are missing, zero or of the wrong length.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Decoded {
    /// The valid spans in the order of the request.
    pub spans: Vec<Span>,
    /// Spans refused; the answer's `rejected_spans`.
    pub rejected: u64,
}

/// What may still be taken: every element is charged as it appears, before anything is allocated for it.
#[derive(Debug)]
pub(super) struct Budget {
    left: Limits,
}

impl Budget {
    pub(super) fn new(limits: Limits) -> Self {
        Self { left: limits }
    }

    pub(super) fn span(&mut self) -> Result<(), DecodeError> {
        let left = self.left.spans.checked_sub(1);
        self.left.spans = left.ok_or(DecodeError::TooMany("spans"))?;
        Ok(())
    }

    pub(super) fn part(&mut self) -> Result<(), DecodeError> {
        let left = self.left.parts.checked_sub(1);
        self.left.parts = left.ok_or(DecodeError::TooMany("attributes, events or links"))?;
        Ok(())
    }
}

/// Refuses JSON that would become many times its size: an empty member takes a few bytes and becomes a struct.
pub(super) fn check_json(bytes: &[u8], limits: Limits) -> Result<(), DecodeError> {
    let mut left = limits.parts;
    for byte in bytes {
        if matches!(byte, b'{' | b'[' | b',') {
            left = left
                .checked_sub(1)
                .ok_or(DecodeError::TooMany("JSON values"))?;
        }
    }
    Ok(())
}
