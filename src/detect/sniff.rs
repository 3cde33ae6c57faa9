//! The rule: a prefix of a connection's bytes in, a protocol or "more" out.

/// The rule decides on this many bytes at the latest: the length of HTTP/2's preface.
pub const MAX_PREFIX: usize = PREFACE.len();

/// HTTP/2's connection preface (RFC 9113, section 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The length of the longest registered method is 17 (`UPDATEREDIRECTREF`).
const MAX_METHOD: usize = 17;
/// The largest record that a ClientHello may come in (RFC 8446, section 5.1).
const MAX_RECORD: usize = 1 << 14;

/// What a prefix shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sniff {
    /// More than one protocol begins like this.
    NeedMore,
    /// A method, a space and the start of a target.
    Http1,
    /// The whole preface.
    Http2,
    /// The head of a ClientHello.
    Tls,
    /// Nothing that is understood.
    Opaque(Reason),
}

/// Why bytes are opaque.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// No method of HTTP/1: another character, or too long.
    Method,
    /// A method, and after it no path, `*`, `http` URI or, for CONNECT, authority.
    Target,
    /// HTTP/2's preface up to some byte.
    Preface,
    /// A TLS record that holds no ClientHello, or no TLS record at all.
    ClientHello,
    /// The peer closed in the middle.
    Truncated,
}

/// Looks at a connection's first bytes.
///
/// The answer for a prefix never changes when more bytes come, and is not `NeedMore` from [`MAX_PREFIX`] bytes on.
///
/// Source: RFC 9112 sections 2.2 and 3, RFC 9113 section 3.4, RFC 8446 sections 4 and 5.1.
pub fn sniff(prefix: &[u8]) -> Sniff {
    match prefix.first() {
        None => Sniff::NeedMore,
        Some(0x16) => client_hello(prefix),
        Some(b'P') if begins_alike(prefix, b"PRI ") => preface(prefix),
        Some(_) => request_line(prefix),
    }
}

/// True when one is a prefix of the other.
fn begins_alike(one: &[u8], other: &[u8]) -> bool {
    one.iter().zip(other).all(|(a, b)| a == b)
}

fn preface(prefix: &[u8]) -> Sniff {
    if !begins_alike(prefix, PREFACE) {
        // `PRI` is reserved, so it is no method either.
        return Sniff::Opaque(Reason::Preface);
    }
    if prefix.len() < PREFACE.len() {
        return Sniff::NeedMore;
    }
    Sniff::Http2
}

/// Record type 22, version 3.x, a length, then handshake message 1. Each byte is checked as soon as it is there.
fn client_hello(prefix: &[u8]) -> Sniff {
    let opaque = Sniff::Opaque(Reason::ClientHello);
    match *prefix {
        [_, major, ..] if major != 3 => opaque,
        [_, _, minor, ..] if minor > 4 => opaque,
        [_, _, _, high, low, ..] if !is_record_length(high, low) => opaque,
        [_, _, _, _, _, kind, ..] if kind != 1 => opaque,
        [_, _, _, _, _, _, ..] => Sniff::Tls,
        _ => Sniff::NeedMore,
    }
}

fn is_record_length(high: u8, low: u8) -> bool {
    // A ClientHello has at least its own head of 4 bytes.
    (4..=MAX_RECORD).contains(&usize::from(u16::from_be_bytes([high, low])))
}

fn request_line(prefix: &[u8]) -> Sniff {
    // One empty line before a request is to be ignored; hyper does so too.
    let line = match prefix {
        [b'\r'] | [b'\r', b'\n'] | [b'\n'] => return Sniff::NeedMore,
        [b'\r', b'\n', rest @ ..] | [b'\n', rest @ ..] => rest,
        other => other,
    };
    let is_method = |byte: &u8| byte.is_ascii_uppercase() || matches!(byte, b'-' | b'_');
    let len = line.iter().take_while(|byte| is_method(byte)).count();
    if len > MAX_METHOD {
        return Sniff::Opaque(Reason::Method);
    }
    match line.get(len) {
        None => Sniff::NeedMore,
        Some(b' ') if len > 0 => {
            let (method, target) = (&line[..len], &line[len + 1..]);
            request_target(method, target)
        }
        Some(_) => Sniff::Opaque(Reason::Method),
    }
}

fn request_target(method: &[u8], target: &[u8]) -> Sniff {
    let is_connect = method == b"CONNECT";
    match target.first() {
        None => Sniff::NeedMore,
        Some(b'/' | b'*') if !is_connect => Sniff::Http1,
        // NATS says `CONNECT {…}`.
        Some(byte) if is_connect && (byte.is_ascii_alphanumeric() || *byte == b'[') => Sniff::Http1,
        // RTSP and SIP say `OPTIONS rtsp://…` and `INVITE sip:…`; Redis and memcached name keys here.
        Some(b'h' | b'H') if !is_connect => {
            let scheme = target.iter().map(u8::to_ascii_lowercase);
            if !scheme.zip(b"http").all(|(a, b)| a == *b) {
                Sniff::Opaque(Reason::Target)
            } else if target.len() < 4 {
                Sniff::NeedMore
            } else {
                Sniff::Http1
            }
        }
        Some(_) => Sniff::Opaque(Reason::Target),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Feeds every prefix: no answer before `decided` bytes, and the same answer ever after.
    fn check(bytes: &[u8], expected: Sniff) {
        let mut decided = None;
        for len in 0..=bytes.len() {
            let answer = sniff(&bytes[..len]);
            match decided {
                None if answer == Sniff::NeedMore => {}
                None => decided = Some(answer),
                Some(before) => assert_eq!(answer, before, "{len} bytes of {bytes:x?}"),
            }
        }
        assert_eq!(decided.unwrap_or(Sniff::NeedMore), expected, "{bytes:x?}");
    }

    #[test]
    fn http1_requests_of_every_form() {
        for line in [
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "HEAD /index.html HTTP/1.0\r\n\r\n",
            "POST /v1/traces HTTP/1.1\r\n",
            "PUT /a HTTP/1.1\r\n",
            "PATCH /a HTTP/1.1\r\n",
            "PROPFIND /dav HTTP/1.1\r\n",
            "PRINT /a HTTP/1.1\r\n",
            "DELETE /users/1 HTTP/1.1\r\n",
            "OPTIONS * HTTP/1.1\r\n",
            "CONNECT example.org:443 HTTP/1.1\r\n",
            "CONNECT [::1]:443 HTTP/1.1\r\n",
            "GET http://example.org/ HTTP/1.1\r\n",
            "GET HTTPS://example.org/ HTTP/1.1\r\n",
            "VERSION-CONTROL /a HTTP/1.1\r\n",
            "UPDATEREDIRECTREF /a HTTP/1.1\r\n",
            "BASELINE-CONTROL http://a/ HTTP/1.1\r\n",
            "\r\nGET / HTTP/1.1\r\n",
            "\nGET / HTTP/1.1\r\n",
        ] {
            check(line.as_bytes(), Sniff::Http1);
        }
    }

    #[test]
    fn http2_is_its_whole_preface() {
        let mut bytes = PREFACE.to_vec();
        bytes.extend_from_slice(&[0, 0, 0, 4, 0, 0, 0, 0, 0]);
        check(&bytes, Sniff::Http2);
        assert_eq!(sniff(&PREFACE[..23]), Sniff::NeedMore);
        for flipped in 4..PREFACE.len() {
            let mut bytes = *PREFACE;
            bytes[flipped] ^= 1;
            check(&bytes, Sniff::Opaque(Reason::Preface));
        }
    }

    #[test]
    fn tls_is_a_client_hello() {
        check(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", Sniff::Tls);
        check(b"\x16\x03\x03\x00\x04\x01", Sniff::Tls);
        for (bytes, why) in [
            (b"\x16\x02\x00\x01\x00\x01", "SSL 2"),
            (b"\x16\x03\x05\x01\x00\x01", "no such version"),
            (b"\x16\x03\x01\x00\x03\x01", "shorter than a message's head"),
            (b"\x16\x03\x01\x40\x01\x01", "longer than a record"),
            (b"\x16\x03\x01\x02\x00\x02", "a ServerHello"),
        ] {
            check(bytes, Sniff::Opaque(Reason::ClientHello));
            assert_ne!(sniff(bytes), Sniff::Tls, "{why}");
        }
    }

    #[test]
    fn what_begins_like_http_and_is_not() {
        for (bytes, reason, what) in [
            ("EHLO mail.example\r\n", Reason::Target, "SMTP"),
            ("GET key\r\n", Reason::Target, "Redis, inline"),
            ("*2\r\n$3\r\nGET\r\n", Reason::Method, "Redis"),
            ("get key\r\n", Reason::Method, "memcached"),
            ("CONNECT\naccept-version:1.2\n", Reason::Method, "STOMP"),
            ("CONNECT {\"verbose\":false}\r\n", Reason::Target, "NATS"),
            ("OPTIONS rtsp://a RTSP/1.0\r\n", Reason::Target, "RTSP"),
            ("INVITE sip:a@b SIP/2.0\r\n", Reason::Target, "SIP"),
            ("SSH-2.0-OpenSSH_9.2\r\n", Reason::Method, "SSH"),
            (
                "PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n",
                Reason::Target,
                "PROXY protocol",
            ),
            ("PRIVMSG #a :b\r\n", Reason::Target, "IRC"),
            ("GET  / HTTP/1.1\r\n", Reason::Target, "two spaces"),
            (" GET / HTTP/1.1\r\n", Reason::Method, "a space first"),
            ("GET\t/ HTTP/1.1\r\n", Reason::Method, "a tab"),
            (
                "GET help\r\n",
                Reason::Target,
                "a word that begins like http",
            ),
            (
                "CONNECT /a HTTP/1.1\r\n",
                Reason::Target,
                "CONNECT has no path",
            ),
            ("\r\n\r\nGET / HTTP/1.1", Reason::Method, "two empty lines"),
            (
                "ABCDEFGHIJKLMNOPQR /",
                Reason::Method,
                "longer than any method",
            ),
        ] {
            check(bytes.as_bytes(), Sniff::Opaque(reason));
            assert_ne!(sniff(bytes.as_bytes()), Sniff::Http1, "{what}");
        }
        for (bytes, what) in [
            (&[0x10, 0x17, 0, 4, b'M', b'Q', b'T', b'T'][..], "MQTT"),
            (&[0, 0, 0, 8, 4, 0xd2, 0x16, 0x2f], "PostgreSQL SSLRequest"),
            (&[0x0d, 0x0a, 0x0d, 0x0a, 0, 0x0d, 0x0a], "PROXY protocol 2"),
            (&[0xff; 30], "noise"),
        ] {
            check(bytes, Sniff::Opaque(Reason::Method));
            assert_ne!(sniff(bytes), Sniff::NeedMore, "{what}");
        }
    }

    proptest! {
        #[test]
        fn every_prefix_is_decided_once_and_by_the_limit(
            bytes in prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..40),
                proptest::collection::vec(prop_oneof![
                    Just(b'G'), Just(b'P'), Just(b' '), Just(b'/'), Just(b'\r'), Just(b'\n'), Just(b'h'), Just(0x16)
                ], 0..40),
                "PRI \\* HTTP/2.0\r\n\r\nSM\r\n\r\n.{0,9}".prop_map(String::into_bytes),
                "[A-Z]{1,20} [/*h].{0,20}".prop_map(String::into_bytes),
            ]
        ) {
            let mut decided = None;
            for len in 0..=bytes.len() {
                let answer = sniff(&bytes[..len]);
                if let Some(before) = decided {
                    prop_assert_eq!(answer, before);
                } else if answer != Sniff::NeedMore {
                    decided = Some(answer);
                }
                prop_assert!(decided.is_some() || len < MAX_PREFIX);
            }
        }
    }
}
