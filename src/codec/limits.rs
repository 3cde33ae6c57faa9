//! What foreign bytes may make us hold, and why they are refused.

use crate::model::Attribute;
use crate::model::Resource;
use crate::model::Span;
use crate::model::Text;
use crate::model::Value;

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

/// Bytes of texts that a resource keeps: most wires repeat it with each span of a batch.
const MAX_RESOURCE: usize = 64 << 10;
/// Bytes of a name that is kept.
const MAX_NAME: usize = 1 << 10;

/// Leaves out the attributes beyond the limit.
pub fn cut_resource(resource: &mut Resource) {
    let mut left = MAX_RESOURCE;
    let mut fits = |attribute: &Attribute| match left.checked_sub(size(attribute)) {
        Some(rest) => {
            left = rest;
            true
        }
        None => false,
    };
    resource.attributes.retain(&mut fits);
    cut_name(&mut resource.service);
    if let Some(scope) = &mut resource.scope {
        scope.attributes.retain(&mut fits);
        cut_name(&mut scope.name);
        cut_name(&mut scope.version);
    }
}

fn cut_name(name: &mut Text) {
    if name.len() > MAX_NAME {
        let end = name.floor_char_boundary(MAX_NAME);
        *name = name.get(..end).unwrap_or_default().into();
    }
}

fn size(attribute: &Attribute) -> usize {
    let value = match &attribute.value {
        Value::Str(text) => text.len(),
        Value::Bytes(bytes) => bytes.len(),
        Value::StrList(texts) => texts.iter().map(|text| text.len() + 8).sum(),
        Value::Bool(_) | Value::I64(_) | Value::F64(_) => 8,
    };
    attribute.key.len() + value
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Scope;

    #[test]
    fn a_resource_keeps_what_can_be_repeated_with_each_span() {
        let long = || Text::from("n".repeat(4 << 10));
        let attributes = || -> Vec<_> {
            let one = |n: usize| Attribute {
                key: format!("key{n}").into(),
                value: long().into(),
            };
            (0..100).map(one).collect()
        };
        let small = Attribute::new("host.name", Text::from("here"));
        let mut kept = Resource {
            service: Text::from("é".repeat(4 << 10)),
            attributes: [attributes(), vec![small.clone()]].concat(),
            scope: Some(Scope {
                name: long(),
                version: long(),
                attributes: attributes(),
            }),
        };
        cut_resource(&mut kept);
        assert_eq!(
            kept.attributes.len(),
            15 + 1,
            "the first, and what still fits"
        );
        assert_eq!(kept.attributes.last(), Some(&small));
        let scope = kept.scope.as_ref().unwrap();
        assert_eq!(scope.attributes.len(), 0);
        let names = [&kept.service, &scope.name, &scope.version].map(|name| name.len());
        assert_eq!(names, [MAX_NAME; 3]);
    }
}
