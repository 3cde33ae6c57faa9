//! Flow control of HTTP/2, either side: how much of a body may wait here for whoever is slow to take it.

/// Bytes of one stream's body. As much goes on in each round trip to the sender.
pub(super) const STREAM_WINDOW: u32 = 256 * 1024;
/// RFC 9113 section 6.9.1.
const MAX_WINDOW: u32 = (1 << 31) - 1;

/// Bytes of all bodies of a connection: of so many streams as much as each may have. With less, a few whose bodies are
/// not taken would use it up and hold up all the others.
pub(super) fn connection_window(streams: u32) -> u32 {
    let all = STREAM_WINDOW.saturating_mul(streams.max(1));
    all.min(MAX_WINDOW)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stream_has_its_share_as_far_as_the_protocol_goes() {
        for (streams, expected, why) in [
            (0, STREAM_WINDOW, "never none"),
            (1, STREAM_WINDOW, "one"),
            (250, 250 * STREAM_WINDOW, "the default"),
            (10_000, MAX_WINDOW, "more than there can be"),
            (u32::MAX, MAX_WINDOW, "more than there can be"),
        ] {
            assert_eq!(connection_window(streams), expected, "{why}");
        }
    }
}
