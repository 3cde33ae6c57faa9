//! Spans named by their place in the tree, as EagleEye and SOFATracer do: `0` the root, `0.2.1` the first call of its second.
//!
//! The caller names the callee's place. Nobody counts calls across processes here, so the place we give is the caller's
//! with our span id in 20 decimal digits behind it: unique, and read back without loss. A place that already ends so gets
//! the new number instead of the old, so that it does not grow with each of us on the way.

use crate::model::SpanId;

/// Digits of the largest 64-bit number.
const DIGITS: usize = 20;

/// The span at this place of a trace: the one whose id we wrote there, else a digest.
pub(super) fn span_id(trace: &str, place: &str) -> Option<SpanId> {
    let is_place = place
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.');
    if !is_place || place.is_empty() {
        return None;
    }
    if let (_, Some(digits)) = split(place) {
        return SpanId::from_u64(digits.parse().ok()?);
    }
    Some(SpanId::of_text(&format!("{trace}:{place}")))
}

/// The place for what this span calls; `place` is where the request into us stood.
pub(super) fn place(place: Option<&str>, span_id: SpanId) -> String {
    let base = place.map_or("0", |place| split(place).0);
    format!("{base}.{:0DIGITS$}", span_id.to_u64())
}

/// The place without our number, and our number.
fn split(place: &str) -> (&str, Option<&str>) {
    match place.rsplit_once('.') {
        Some((base, digits)) if digits.len() == DIGITS => (base, Some(digits)),
        _ => (place, None),
    }
}
