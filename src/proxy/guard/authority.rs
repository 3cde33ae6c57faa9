//! The grammar of hosts: what `Host` and the authority of a target may be.

use super::lines;

/// True for `host`, `host:port`, `[v6]`, `[v6]:port` and the empty text.
///
/// Stricter than RFC 3986, which allows `!$&'()*+,;=` in names: nobody has such hosts, and attackers like them.
/// Percent signs, underscores and bytes above ASCII pass: they are in use.
pub(super) fn is_valid(authority: &[u8]) -> bool {
    if authority.is_empty() {
        return true;
    }
    let (host, port) = if authority.first() == Some(&b'[') {
        let Some(end) = authority.iter().position(|byte| *byte == b']') else {
            return false;
        };
        let (host, rest) = authority.split_at(end + 1);
        if !is_bracketed_address(host) {
            return false;
        }
        (host, rest)
    } else {
        let end = memchr::memchr(b':', authority);
        authority.split_at(end.unwrap_or(authority.len()))
    };
    let is_host = host.first() == Some(&b'[') || (!host.is_empty() && lines::all(host, &HOST));
    is_host && is_port(port)
}

/// `:port`, `:` alone (RFC 3986 section 3.2.3) or nothing.
fn is_port(port: &[u8]) -> bool {
    let Some((colon, digits)) = port.split_first() else {
        return true;
    };
    *colon == b':'
        && digits.len() <= 5
        && digits.iter().all(u8::is_ascii_digit)
        && digits
            .iter()
            .fold(0, |port, digit| port * 10 + u32::from(digit - b'0'))
            <= 65_535
}

fn is_bracketed_address(host: &[u8]) -> bool {
    let inner = host.get(1..host.len() - 1).unwrap_or_default();
    !inner.is_empty()
        && inner
            .iter()
            .all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.' | b'v' | b'V'))
}

/// Bytes of names.
const HOST: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        let (letter, other) = (
            byte as u8,
            matches!(byte as u8, b'-' | b'.' | b'_' | b'~' | b'%'),
        );
        table[byte] = letter.is_ascii_alphanumeric() || other || byte >= 0x80;
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_in_use_pass_and_others_do_not() {
        for good in [
            "",
            "a",
            "a.example",
            "A.example:80",
            "127.0.0.1:0",
            "[::1]",
            "[::1]:65535",
            "a_b",
            "a:",
            "xn--a",
            "[fe80::1]:80",
            "b\u{fc}cher.example",
        ] {
            assert!(is_valid(good.as_bytes()), "{good}");
        }
        for (bad, why) in [
            ("a b", "a blank"),
            ("a/b", "a path"),
            ("user@a", "user information"),
            ("u:p@a", "user information"),
            ("[::1", "an open bracket"),
            ("::1]", "a bracket that was not opened"),
            ("::1", "an address without brackets"),
            ("[]", "no address"),
            ("[::1]x", "text after the bracket"),
            ("[a b]", "no address"),
            ("a:99999", "no such port"),
            ("a:65536", "no such port"),
            ("a:000080", "a port in six digits"),
            ("a:-1", "no port"),
            ("a:http", "no port"),
            ("a:80:80", "two ports"),
            ("a,b", "two hosts"),
            ("a?x", "a query"),
            ("a#x", "a fragment"),
            ("a\\b", "a backslash"),
            (":80", "no host"),
            ("a\"", "a quote"),
            ("<a>", "markup"),
        ] {
            assert!(!is_valid(bad.as_bytes()), "{bad}: {why}");
        }
    }
}
