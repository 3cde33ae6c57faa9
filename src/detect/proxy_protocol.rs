//! The PROXY protocol's header, by which a balancer says whom it speaks for.
//!
//! The header is read only where an operator says that it comes: whoever may send it may claim any address.

use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;

/// The most of a connection's first bytes that a header may take: version 2 allows 64 KiB, no balancer sends so much.
pub const MAX_PROXY_HEADER: usize = 4096;
/// The longest header of version 1, its line end included.
const MAX_V1: usize = 107;
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// What a prefix of a connection holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyHeader {
    /// The header goes on.
    NeedMore,
    /// All of it.
    Whole {
        /// Its bytes; the connection's own begin behind.
        len: usize,
        /// The caller; `None` for health checks of the balancer (`LOCAL`, `UNKNOWN`) and other families.
        source: Option<SocketAddr>,
    },
    /// No header of either version.
    Malformed,
}

/// Reads the header at the beginning of a connection, version 1 or 2.
///
/// Source: HAProxy, "The PROXY protocol, versions 1 & 2", sections 2.1 and 2.2.
pub fn proxy_header(prefix: &[u8]) -> ProxyHeader {
    match prefix.first() {
        None => ProxyHeader::NeedMore,
        Some(b'\r') => version2(prefix),
        Some(_) => version1(prefix),
    }
}

fn version1(prefix: &[u8]) -> ProxyHeader {
    let start = b"PROXY ";
    if !prefix.iter().zip(start).all(|(a, b)| a == b) {
        return ProxyHeader::Malformed;
    }
    let line = prefix.get(..MAX_V1.min(prefix.len())).unwrap_or_default();
    let Some(end) = line.windows(2).position(|pair| pair == b"\r\n") else {
        return match prefix.len() < MAX_V1 {
            true => ProxyHeader::NeedMore,
            false => ProxyHeader::Malformed,
        };
    };
    let text = line.get(start.len()..end).unwrap_or_default();
    let Ok(text) = std::str::from_utf8(text) else {
        return ProxyHeader::Malformed;
    };
    let len = end + 2;
    if text == "UNKNOWN" || text.starts_with("UNKNOWN ") {
        return ProxyHeader::Whole { len, source: None };
    }
    match addresses(text) {
        Some(source) => ProxyHeader::Whole {
            len,
            source: Some(source),
        },
        None => ProxyHeader::Malformed,
    }
}

/// `TCP4 SOURCE DESTINATION SOURCE-PORT DESTINATION-PORT`.
fn addresses(text: &str) -> Option<SocketAddr> {
    let mut words = text.split(' ');
    let mut word = || words.next();
    let family = word()?;
    let (source, destination): (IpAddr, IpAddr) = (word()?.parse().ok()?, word()?.parse().ok()?);
    let (port, _) = (port(word()?)?, port(word()?)?);
    let fits = match family {
        "TCP4" => source.is_ipv4() && destination.is_ipv4(),
        "TCP6" => source.is_ipv6() && destination.is_ipv6(),
        _ => false,
    };
    (fits && word().is_none()).then(|| SocketAddr::new(source, port))
}

/// Decimal digits without a sign or a leading zero.
fn port(text: &str) -> Option<u16> {
    let plain =
        text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    plain.then(|| text.parse().ok()).flatten()
}

fn version2(prefix: &[u8]) -> ProxyHeader {
    if !prefix.iter().zip(SIGNATURE).all(|(a, b)| a == b) {
        return ProxyHeader::Malformed;
    }
    let Some([command, family, high, low]) = prefix.get(12..16) else {
        return ProxyHeader::NeedMore;
    };
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    let len = 16 + length;
    if !matches!(command, 0x20 | 0x21) || len > MAX_PROXY_HEADER {
        return ProxyHeader::Malformed;
    }
    let Some(body) = prefix.get(16..len) else {
        return ProxyHeader::NeedMore;
    };
    if *command == 0x20 {
        return ProxyHeader::Whole { len, source: None };
    }
    let source = match family {
        0x11 => stream4(body),
        0x21 => stream6(body),
        // Unspecified, datagrams and Unix sockets: the connection counts as the balancer's own.
        0x00 | 0x12 | 0x22 | 0x31 | 0x32 => return ProxyHeader::Whole { len, source: None },
        _ => None,
    };
    match source {
        Some(source) => ProxyHeader::Whole {
            len,
            source: Some(source),
        },
        None => ProxyHeader::Malformed,
    }
}

fn stream4(body: &[u8]) -> Option<SocketAddr> {
    let body: &[u8; 12] = body.first_chunk()?;
    let [a, b, c, d, _, _, _, _, high, low, _, _] = *body;
    let ip = Ipv4Addr::new(a, b, c, d);
    Some(SocketAddr::new(ip.into(), u16::from_be_bytes([high, low])))
}

fn stream6(body: &[u8]) -> Option<SocketAddr> {
    body.get(..36)?;
    let ip: [u8; 16] = *body.first_chunk()?;
    let port: [u8; 2] = body.get(32..34)?.try_into().ok()?;
    Some(SocketAddr::new(
        Ipv6Addr::from(ip).into(),
        u16::from_be_bytes(port),
    ))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend([command, family]);
        bytes.extend((body.len() as u16).to_be_bytes());
        bytes.extend(body);
        bytes
    }

    fn check(bytes: &[u8], source: Option<&str>) {
        for len in 0..bytes.len() {
            assert_eq!(
                proxy_header(&bytes[..len]),
                ProxyHeader::NeedMore,
                "{len} of {bytes:x?}"
            );
        }
        let whole = ProxyHeader::Whole {
            len: bytes.len(),
            source: source.map(|text| text.parse().unwrap()),
        };
        let followed = [bytes, b"GET / HTTP/1.1\r\n"].concat();
        assert_eq!(proxy_header(&followed), whole);
    }

    #[test]
    fn both_versions_name_the_caller() {
        check(
            b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n",
            Some("192.0.2.1:56324"),
        );
        check(
            b"PROXY TCP6 2001:db8::1 2001:db8::2 1 65535\r\n",
            Some("[2001:db8::1]:1"),
        );
        check(b"PROXY UNKNOWN\r\n", None);
        check(b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", None);
        let four = [192, 0, 2, 1, 198, 51, 100, 1, 0xdc, 4, 1, 0xbb];
        check(&v2(0x21, 0x11, &four), Some("192.0.2.1:56324"));
        let with_tlv = [&four[..], &[4, 0, 1, 0]].concat();
        check(&v2(0x21, 0x11, &with_tlv), Some("192.0.2.1:56324"));
        let mut six = [0; 36];
        (six[15], six[33]) = (1, 80);
        check(&v2(0x21, 0x21, &six), Some("[::1]:80"));
        check(&v2(0x20, 0x00, b""), None);
        check(&v2(0x21, 0x31, &[0; 216]), None);
    }

    #[test]
    fn anything_else_is_refused() {
        for (bytes, why) in [
            (b"GET / HTTP/1.1\r\n".to_vec(), "no header"),
            (
                b"PROXY TCP4 192.0.2.1 198.51.100.1 56324\r\n".to_vec(),
                "a port is missing",
            ),
            (
                b"PROXY TCP4 192.0.2.1 198.51.100.1 1 2 3\r\n".to_vec(),
                "a word too many",
            ),
            (b"PROXY TCP4 ::1 ::1 1 2\r\n".to_vec(), "the wrong family"),
            (
                b"PROXY TCP4 192.0.2.1 198.51.100.1 070 2\r\n".to_vec(),
                "a leading zero",
            ),
            (
                b"PROXY TCP4 192.0.2.1 198.51.100.1 65536 2\r\n".to_vec(),
                "no such port",
            ),
            (
                b"PROXY UDP4 192.0.2.1 198.51.100.1 1 2\r\n".to_vec(),
                "no such word",
            ),
            ([&b"PROXY "[..], &[b'x'; 200]].concat(), "no end"),
            (v2(0x31, 0x11, &[0; 12]), "version 3"),
            (v2(0x22, 0x11, &[0; 12]), "no such command"),
            (v2(0x21, 0x11, &[0; 11]), "too short for its addresses"),
            (v2(0x21, 0x41, &[0; 12]), "no such family"),
            (v2(0x21, 0x11, &[0; 5000]), "larger than any balancer's"),
            (b"\r\n\r\nGET".to_vec(), "not the signature"),
        ] {
            assert_eq!(proxy_header(&bytes), ProxyHeader::Malformed, "{why}");
        }
    }

    proptest! {
        #[test]
        fn an_answer_never_changes_when_more_comes(
            bytes in prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..60),
                "PROXY (TCP4|TCP6|UNKNOWN) [0-9.: ]{0,60}\r\n".prop_map(String::into_bytes),
                (any::<u8>(), any::<u8>(), proptest::collection::vec(any::<u8>(), 0..50))
                    .prop_map(|(command, family, body)| v2(command, family, &body)),
            ]
        ) {
            let mut decided = None;
            for len in 0..=bytes.len() {
                let answer = proxy_header(&bytes[..len]);
                if let Some(before) = decided {
                    prop_assert_eq!(answer, before);
                } else if answer != ProxyHeader::NeedMore {
                    decided = Some(answer);
                }
            }
        }
    }
}
