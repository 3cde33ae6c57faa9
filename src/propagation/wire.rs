//! Small tools the formats share: fixed-width hexadecimal, short header values built on the stack, careful writes.

use bytes::Bytes;
use http::HeaderMap;
use http::HeaderName;

use crate::model::SamplingState;
use crate::model::SpanContext;
use crate::model::SpanId;
use crate::model::TraceId;
use crate::net::headers::remove_in_order;
use crate::net::value::header_value;
use crate::propagation::ExtractError;

/// Exactly `2 * N` lower-case hexadecimal digits; `None` for anything else.
pub(super) fn lower_hex<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    if digits.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    let mut seen = 0;
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let high = VALUES[usize::from(pair[0])];
        let low = VALUES[usize::from(pair[1])];
        seen |= high | low;
        *byte = (high << 4) | (low & 15);
    }
    (seen < 16).then_some(bytes)
}

/// A trace id of exactly 32 lower-case digits, not zero.
pub(super) fn trace_id(digits: &[u8]) -> Option<TraceId> {
    lower_hex(digits).and_then(TraceId::from_bytes)
}

/// A span id of exactly 16 lower-case digits, not zero.
pub(super) fn span_id(digits: &[u8]) -> Option<SpanId> {
    lower_hex(digits).and_then(SpanId::from_bytes)
}

/// The value of each lower-case hexadecimal digit, 255 for every other byte.
static VALUES: [u8; 256] = {
    let mut values = [255; 256];
    let mut digit = 0;
    while digit < 16 {
        values[b"0123456789abcdef"[digit] as usize] = digit as u8;
        digit += 1;
    }
    values
};

/// A short header value under construction: the only allocation is the finished value.
pub(super) struct Line {
    bytes: [u8; Self::CAPACITY],
    len: usize,
}

impl Line {
    /// Longer than the longest line here: 32 + 16 digits, state and separators.
    const CAPACITY: usize = 64;

    pub(super) fn new() -> Self {
        Self {
            bytes: [0; Self::CAPACITY],
            len: 0,
        }
    }

    #[inline(always)]
    pub(super) fn push(mut self, part: &[u8]) -> Self {
        let end = self.len + part.len();
        debug_assert!(end <= Self::CAPACITY);
        if let Some(place) = self.bytes.get_mut(self.len..end) {
            place.copy_from_slice(part);
            self.len = end;
        }
        self
    }

    /// Writes the trace id as its peers know it: 16 digits when it is a 64-bit id, else 32.
    #[inline(always)]
    pub(super) fn push_trace_id(self, id: TraceId) -> Self {
        if id.high() == 0 {
            self.push(id.low_hex().as_bytes())
        } else {
            self.push(id.hex().as_bytes())
        }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// Puts the line into the headers in place of every value of that name.
    pub(super) fn put(&self, name: &'static HeaderName, headers: &mut HeaderMap) {
        put(name, self.bytes(), headers);
    }
}

/// Replaces every value of that name. Bytes that no header may carry, or a full header map, leave things as they were.
pub(super) fn put(name: &HeaderName, value: &[u8], headers: &mut HeaderMap) {
    if let Some(mut value) = header_value(Bytes::copy_from_slice(value)) {
        // Hardly another request has the same: HTTP/2 is not to search its table for it, nor to drive out what is worth a
        // place there (RFC 7541 section 6.2.3).
        value.set_sensitive(true);
        headers.try_insert(name, value).ok();
    }
}

/// Removes every value of that name; the other fields keep their order.
pub(super) fn remove(name: &HeaderName, headers: &mut HeaderMap) {
    if headers.contains_key(name) {
        remove_in_order(headers, |other| other == name);
    }
}

/// Replaces every value of that name, or removes them all.
pub(super) fn put_or_remove(name: &HeaderName, value: Option<&str>, headers: &mut HeaderMap) {
    match value {
        Some(value) => put(name, value.as_bytes(), headers),
        None => remove(name, headers),
    }
}

/// An unsigned decimal number of digits alone, no sign.
pub(super) fn decimal(digits: &str) -> Option<u64> {
    let is_number = digits.bytes().all(|digit| digit.is_ascii_digit());
    is_number.then(|| digits.parse().ok()).flatten()
}

/// See [`decimal`].
pub(super) fn decimal_bytes(digits: &[u8]) -> Option<u64> {
    decimal(std::str::from_utf8(digits).ok()?)
}

/// The only value of that name as text, without surrounding blanks; `None` when absent or empty.
///
/// # Errors
/// More than one, longer than `max_len`, or no UTF-8.
pub(super) fn text<'a>(
    name: &'static HeaderName,
    max_len: usize,
    headers: &'a HeaderMap,
) -> Result<Option<&'a str>, ExtractError> {
    let Some(value) = single(name, max_len, headers)? else {
        return Ok(None);
    };
    let text = std::str::from_utf8(value).map_err(|_| ExtractError::Malformed(name.as_str()))?;
    Ok((!text.is_empty()).then_some(text))
}

/// The only value of that name, without surrounding blanks; `None` when absent.
///
/// # Errors
/// More than one, or longer than `max_len`: nothing of it is looked at.
pub(super) fn single<'a>(
    name: &'static HeaderName,
    max_len: usize,
    headers: &'a HeaderMap,
) -> Result<Option<&'a [u8]>, ExtractError> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() || value.len() > max_len {
        return Err(ExtractError::Malformed(name.as_str()));
    }
    Ok(Some(value.as_bytes().trim_ascii()))
}

/// A context that has ids and a state, and nothing else yet.
pub(super) fn context(trace_id: TraceId, span_id: SpanId, state: SamplingState) -> SpanContext {
    SpanContext::new(trace_id, span_id, state)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lower_case_digits_of_the_exact_number_are_hex() {
        assert_eq!(lower_hex(b"00ff1a"), Some([0, 255, 0x1a]));
        for (digits, why) in [
            (&b"00FF1A"[..], "upper case"),
            (b"00ff1", "too short"),
            (b"00ff1a0", "too long"),
            (b"00ff1g", "no digit"),
            (b"00 f1a", "blank"),
            (b"00ff1\xe9", "beyond ASCII"),
        ] {
            assert_eq!(lower_hex::<3>(digits), None, "{why}");
        }
    }

    #[test]
    fn what_is_written_stays_out_of_the_tables_of_http2() {
        let mut headers = HeaderMap::new();
        let name = HeaderName::from_static("traceparent");
        put(&name, b"00-ab", &mut headers);
        assert!(headers[&name].is_sensitive());
        assert_eq!(headers[&name], "00-ab");
    }
}
