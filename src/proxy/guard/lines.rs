//! What single lines of a head say, and which of them nobody says.
//!
//! Source: RFC 9110 sections 5 and 7.2, RFC 9112 sections 3, 5, 6 and 7.1.2.

use super::Refusal;
use super::authority;

/// What the HTTP library takes.
const MAX_TARGET: usize = 65_534;
const MAX_NAME: usize = 65_535;
/// Digits of a Content-Length.
const MAX_LENGTH_DIGITS: usize = 18;

/// What a head says about framing.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Facts {
    /// HTTP/1.0.
    pub(super) is_old: bool,
    /// What follows the message may be no HTTP.
    pub(super) upgrade: bool,
    /// There was an `Expect`.
    pub(super) expects: bool,
    /// There was a `Host`.
    pub(super) has_host: bool,
    /// `Content-Length`.
    pub(super) length: Option<u64>,
    /// `Transfer-Encoding: chunked`.
    pub(super) chunked: bool,
}

pub(super) const fn malformed<T>(what: &'static str) -> Result<T, Refusal> {
    Err(Refusal::Malformed(what))
}

impl Facts {
    /// Takes a field's part in the framing; its name and its value.
    pub(super) fn take<'a>(&mut self, line: &'a [u8]) -> Result<(&'a [u8], &'a [u8]), Refusal> {
        let (name, value) = field(line)?;
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => {
                if std::mem::replace(&mut self.has_host, true) {
                    return malformed("more than one Host");
                }
                if !authority::is_valid(value) {
                    return malformed("Host is no host and port");
                }
            }
            6 if name.eq_ignore_ascii_case(b"expect") => self.expects = true,
            7 if name.eq_ignore_ascii_case(b"upgrade") => self.upgrade = true,
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                if self.length.is_some() {
                    return malformed("more than one Content-Length");
                }
                self.length = Some(content_length(value)?);
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                if self.chunked {
                    return malformed("more than one Transfer-Encoding");
                }
                if !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(Refusal::Coding);
                }
                self.chunked = true;
            }
            _ => {}
        }
        Ok((name, value))
    }

    /// What can only be said about the whole head.
    pub(super) fn check(&self) -> Result<(), Refusal> {
        if !self.is_old && !self.has_host {
            return malformed("no Host");
        }
        if self.chunked && self.length.is_some() {
            return malformed("both Content-Length and Transfer-Encoding");
        }
        if self.chunked && self.is_old {
            return malformed("Transfer-Encoding in HTTP/1.0");
        }
        Ok(())
    }
}

/// Fields that would change what the message means or how long it is.
const FORBIDDEN_TRAILERS: &[&[u8]] = &[
    b"transfer-encoding",
    b"content-length",
    b"host",
    b"connection",
    b"trailer",
    b"te",
    b"upgrade",
    b"content-encoding",
    b"content-type",
    b"content-range",
    b"authorization",
    b"cookie",
    b"set-cookie",
    b"expect",
];

/// `METHOD target HTTP/1.1`: single blanks, nothing around.
pub(super) fn request_line(line: &[u8]) -> Result<Facts, Refusal> {
    let Some((method, target, version)) = words(line) else {
        return malformed("not HTTP");
    };
    if method.is_empty() || !all(method, &TOKEN) {
        return malformed("not HTTP");
    }
    let is_old = match version {
        b"HTTP/1.1" => false,
        b"HTTP/1.0" => true,
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            return Err(Refusal::Version);
        }
        _ => return malformed("not HTTP"),
    };
    let is_connect = method == b"CONNECT";
    check_target(target, is_connect)?;
    Ok(Facts {
        is_old,
        upgrade: is_connect,
        ..Facts::default()
    })
}

/// Three words with single blanks between them. There is none in a target, as the target's check says.
fn words(line: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (method, rest) = line.split_at_checked(memchr::memchr(b' ', line)?)?;
    let rest = rest.get(1..)?;
    let (target, version) = rest.split_at_checked(memchr::memrchr(b' ', rest)?)?;
    Some((method, target, version.get(1..)?))
}

fn check_target(target: &[u8], is_connect: bool) -> Result<(), Refusal> {
    if target.len() > MAX_TARGET {
        return Err(Refusal::TargetTooLong);
    }
    let query = memchr::memchr(b'?', target).unwrap_or(target.len());
    let (path, query) = target.split_at(query);
    if !all(path, &PATH) || !all(query, &QUERY) {
        return malformed("the target has a byte that no URI has");
    }
    if !target.is_ascii() && std::str::from_utf8(target).is_err() {
        return malformed("the target is not UTF-8");
    }
    if is_connect {
        return match authority::is_valid(target) && !target.is_empty() {
            true => Ok(()),
            false => malformed("CONNECT needs HOST:PORT"),
        };
    }
    if matches!(target, [b'/', ..] | b"*") {
        return Ok(());
    }
    let authority = target
        .windows(3)
        .position(|window| window == b"://")
        .and_then(|at| target.get(at + 3..));
    let Some(authority) = authority else {
        return malformed("the target is neither a path nor a URI");
    };
    let end = authority
        .iter()
        .position(|byte| matches!(byte, b'/' | b'?'));
    let authority = authority
        .get(..end.unwrap_or(authority.len()))
        .unwrap_or_default();
    if authority.is_empty() || !authority::is_valid(authority) {
        return malformed("the target's authority is no host and port");
    }
    Ok(())
}

/// Name and trimmed value of a field line.
///
/// # Errors
/// Says why it is none.
pub(in crate::proxy) fn field(line: &[u8]) -> Result<(&[u8], &[u8]), Refusal> {
    let len = memchr::memchr(b':', line).unwrap_or(line.len());
    let (name, value) = line.split_at(len);
    let (true, Some((_, value))) = (all(name, &TOKEN), value.split_first()) else {
        return malformed("a header line without a name and a colon");
    };
    if name.is_empty() {
        return malformed("a header line without a name");
    }
    if name.len() > MAX_NAME {
        return Err(Refusal::HeadTooLarge);
    }
    if !all(value, &VALUE) {
        return malformed("a header value has a control character");
    }
    Ok((name, value.trim_ascii()))
}

fn content_length(value: &[u8]) -> Result<u64, Refusal> {
    if value.is_empty() || value.len() > MAX_LENGTH_DIGITS || !value.iter().all(u8::is_ascii_digit)
    {
        return malformed("Content-Length is no number");
    }
    Ok(value
        .iter()
        .fold(0, |length, digit| length * 10 + u64::from(digit - b'0')))
}

/// Checks a trailer line.
pub(super) fn trailer(line: &[u8]) -> Result<(), Refusal> {
    let (name, _) = field(line)?;
    let is_name = |forbidden: &&[u8]| name.eq_ignore_ascii_case(forbidden);
    if FORBIDDEN_TRAILERS.iter().any(is_name) {
        return malformed("a trailer that must not be one");
    }
    Ok(())
}

/// True when all bytes are of this class. Looks at each of them: no branch costs less than stopping early saves.
pub(super) fn all(bytes: &[u8], class: &[bool; 256]) -> bool {
    let and = |all, byte: &u8| all & class[usize::from(*byte)];
    bytes.iter().fold(true, and)
}

/// Bytes of methods and names (RFC 9110 section 5.6.2).
const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = matches!(
            byte as u8,
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9'
                | b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
        );
        byte += 1;
    }
    table
};

/// Bytes of field values (RFC 9110 section 5.5).
pub(super) const VALUE: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = matches!(byte as u8, b'\t' | b' '..=b'~' | 0x80..=0xff);
        byte += 1;
    }
    table
};

/// Bytes of targets in front of the query. Some clients send a few of the bytes that a URI must encode; those that cannot
/// be carried on are left out.
const PATH: [bool; 256] = target_without([b'#', b'<', b'>', b'`']);

/// Bytes of queries.
const QUERY: [bool; 256] = target_without([b'#', b'<', b'>', b'"']);

const fn target_without(lost: [u8; 4]) -> [bool; 256] {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = matches!(byte as u8, 0x21..=0x7e | 0x80..=0xff);
        byte += 1;
    }
    let mut at = 0;
    while at < lost.len() {
        table[lost[at] as usize] = false;
        at += 1;
    }
    table
}
