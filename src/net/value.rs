//! Header values of plain text, checked many bytes at a time: the library looks at one after the other.

use bytes::Bytes;
use http::HeaderValue;

/// The header value of these bytes; `None`: bytes that no header may have.
#[allow(unsafe_code)]
pub fn header_value(bytes: Bytes) -> Option<HeaderValue> {
    // Without a way out of the loop the compiler compares sixteen or more at once.
    let is_text = |text: bool, byte: &u8| text & matches!(byte, 0x20..=0x7e);
    if bytes.iter().fold(true, is_text) {
        // SAFETY: a value may consist of visible ASCII and blanks, and of some other bytes, and this one has no others.
        return Some(unsafe { HeaderValue::from_maybe_shared_unchecked(bytes) });
    }
    HeaderValue::from_maybe_shared(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_taken_or_refused_as_the_library_does() {
        for byte in 0..=u8::MAX {
            for (before, behind) in [("", ""), ("a", "b"), (&*"x".repeat(40), &*"y".repeat(9))] {
                let text = [before.as_bytes(), &[byte], behind.as_bytes()].concat();
                let expected = HeaderValue::from_bytes(&text).ok();
                assert_eq!(header_value(Bytes::from(text)), expected, "{byte:#x}");
            }
        }
        assert_eq!(
            header_value(Bytes::new()),
            Some(HeaderValue::from_static(""))
        );
    }
}
