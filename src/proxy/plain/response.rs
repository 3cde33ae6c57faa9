//! The head of a response, judged and rewritten in one pass over its bytes.
//!
//! Only what every reader understands alike is taken: HTTP/1.1, a final status, one length or chunks. Whatever else
//! comes is the library's.

use std::time::Duration;

use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::StatusCode;

use crate::proxy::forward;
use crate::proxy::guard;

/// What a head says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) status: StatusCode,
    /// Bytes of it, the empty line included.
    pub(super) len: usize,
    /// What follows.
    pub(super) content: Content,
    /// The connection can carry another exchange.
    pub(super) keeps: bool,
    /// How long it may wait for one.
    pub(super) keep_alive: Option<Duration>,
    /// A gRPC status is among the fields.
    pub(super) has_grpc_status: bool,
}

/// How the content of a response is delimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    /// So many bytes.
    Length(u64),
    /// Chunks.
    Chunked,
}

/// Where the head ends: behind its empty line; `None`: not here yet.
pub(super) fn end(bytes: &[u8]) -> Option<usize> {
    let is_last = |at: &usize| bytes.get(at + 1..at + 3) == Some(b"\r\n");
    memchr::memchr_iter(b'\n', bytes)
        .find(is_last)
        .map(|at| at + 3)
}

/// Reads the head of `len` bytes and writes it to `out` as it goes to the caller, without its last empty line. `None`:
/// nothing for us.
pub(super) fn rewrite(bytes: &[u8], max_fields: usize, out: &mut Vec<u8>) -> Option<Head> {
    let lines = bytes.strip_suffix(b"\r\n")?;
    let line_end = memchr::memchr(b'\n', lines)?;
    let (status_line, fields) = lines.split_at_checked(line_end + 1)?;
    let status = status_of(status_line.strip_suffix(b"\r\n")?)?;
    out.extend_from_slice(status_line);
    let (mut length, mut chunked) = (None, false);
    let mut head = Head {
        status,
        len: bytes.len(),
        content: Content::Length(0),
        keeps: true,
        keep_alive: None,
        has_grpc_status: false,
    };
    let mut rest = fields;
    let mut n_fields = 0;
    while let Some(end) = memchr::memchr(b'\n', rest) {
        let (line, behind) = rest.split_at(end + 1);
        rest = behind;
        n_fields += 1;
        let (name, value) = guard::field(line.strip_suffix(b"\r\n")?).ok()?;
        let is = |known: &[u8]| name.eq_ignore_ascii_case(known);
        match name.len() {
            2 if is(b"te") => return None,
            7 if is(b"upgrade") || is(b"trailer") => return None,
            10 if is(b"connection") => {
                match value {
                    value if value.eq_ignore_ascii_case(b"keep-alive") => {}
                    value if value.eq_ignore_ascii_case(b"close") => head.keeps = false,
                    _ => return None,
                }
                continue;
            }
            10 if is(b"keep-alive") => {
                let value = std::str::from_utf8(value).ok()?;
                head.keep_alive = forward::keep_alive_of(value);
                continue;
            }
            11 if is(b"grpc-status") => head.has_grpc_status = true,
            12 if is(b"content-type") && value.starts_with(b"application/grpc") => return None,
            14 if is(b"content-length") && length.replace(number(value)?).is_some() => return None,
            16 if is(b"proxy-connection") => return None,
            17 if is(b"transfer-encoding") => {
                if chunked || !value.eq_ignore_ascii_case(b"chunked") {
                    return None;
                }
                chunked = true;
            }
            _ => {}
        }
        let is_as_ours = name.len() + b": \r\n".len() + value.len() == line.len()
            && line.get(name.len() + 1) == Some(&b' ');
        if is_as_ours && !value.is_empty() {
            out.extend_from_slice(line);
            continue;
        }
        out.extend_from_slice(name);
        out.extend_from_slice(b": ");
        out.extend_from_slice(value);
        out.extend_from_slice(b"\r\n");
    }
    let has_content = !matches!(status.as_u16(), 204 | 304);
    head.content = match (length, chunked) {
        _ if n_fields > max_fields || !rest.is_empty() => return None,
        (Some(length), false) if has_content => Content::Length(length),
        (None, true) if has_content => Content::Chunked,
        (None, false) if !has_content => Content::Length(0),
        _ => return None,
    };
    Some(head)
}

/// Its fields as a map, for those who look at single ones.
pub(super) fn fields(bytes: &[u8]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for line in bytes.split(|byte| *byte == b'\n').skip(1) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if let Ok((name, value)) = guard::field(line)
            && let Ok(name) = HeaderName::from_bytes(name)
            && let Ok(value) = HeaderValue::from_bytes(value)
        {
            map.try_append(name, value).ok();
        }
    }
    map
}

/// `HTTP/1.1 200 text`: a final status.
fn status_of(line: &[u8]) -> Option<StatusCode> {
    let (status, reason) = line.strip_prefix(b"HTTP/1.1 ")?.split_at_checked(3)?;
    let [b' ', reason @ ..] = reason else {
        return None;
    };
    let is_text = |byte: &u8| matches!(byte, b'\t' | b' '..=b'~' | 0x80..=0xff);
    let status = StatusCode::from_bytes(status).ok()?;
    (!status.is_informational() && reason.iter().all(is_text)).then_some(status)
}

fn number(digits: &[u8]) -> Option<u64> {
    let is_number = (1..=18).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
    is_number.then(|| {
        let add = |sum: u64, digit: &u8| sum * 10 + u64::from(digit - b'0');
        digits.iter().fold(0, add)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(head: &str) -> Option<(Head, String)> {
        let mut out = Vec::new();
        let head = rewrite(head.as_bytes(), 8, &mut out)?;
        Some((head, String::from_utf8(out).unwrap()))
    }

    #[test]
    fn usual_heads_pass_without_what_is_the_connection_s() {
        let (head, out) = read(
            "HTTP/1.1 200 OK\r\nServer:x \r\nContent-LENGTH: 12\r\nConnection: Keep-Alive\r\nKeep-Alive: timeout=5\r\n\r\n",
        )
        .unwrap();
        assert_eq!(
            out,
            "HTTP/1.1 200 OK\r\nServer: x\r\nContent-LENGTH: 12\r\n"
        );
        assert_eq!(head.content, Content::Length(12));
        assert_eq!(head.keep_alive, Some(Duration::from_secs(4)));
        assert!(head.keeps);
        let (head, _) = read("HTTP/1.1 204 \r\nConnection: close\r\n\r\n").unwrap();
        assert_eq!((head.content, head.keeps), (Content::Length(0), false));
        let (head, _) = read("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
        assert_eq!(head.content, Content::Chunked);
    }

    #[test]
    fn doubtful_heads_are_the_library_s() {
        for (head, why) in [
            (
                "HTTP/1.1 200 OK\r\n\r\n",
                "no length: the connection's end is the content's",
            ),
            (
                "HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\n",
                "an old version",
            ),
            (
                "HTTP/1.1 200\r\nContent-Length: 1\r\n\r\n",
                "no blank behind the status",
            ),
            ("HTTP/1.1 103 Early\r\n\r\n", "an interim response"),
            (
                "HTTP/1.1 101 Switching\r\nContent-Length: 0\r\n\r\n",
                "an upgrade",
            ),
            ("HTTP/1.1 2x0 OK\r\nContent-Length: 1\r\n\r\n", "no status"),
            (
                "HTTP/1.1 200 O\x01K\r\nContent-Length: 1\r\n\r\n",
                "a control character",
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
                "two lengths",
            ),
            ("HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\n", "no number"),
            ("HTTP/1.1 200 OK\r\nContent-Length: 1, 1\r\n\r\n", "a list"),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
                "a length and chunks",
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
                "another coding",
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
                "chunks of chunks",
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: X-A\r\n\r\n",
                "names a field",
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: application/grpc\r\n\r\n",
                "its status is in its trailers",
            ),
            (
                "HTTP/1.1 204 No\r\nContent-Length: 0\r\n\r\n",
                "a length of what cannot be",
            ),
            (
                "HTTP/1.1 304 Not\r\nContent-Length: 5\r\n\r\n",
                "a length of what is elsewhere",
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length : 1\r\n\r\n",
                "a blank before the colon",
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n folded: 1\r\n\r\n",
                "a folded line",
            ),
            ("HTTP/1.1 200 OK\nContent-Length: 1\r\n\r\n", "LF alone"),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 1\nA: b\r\n\r\n",
                "LF alone",
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nA: b\rc\r\n\r\n",
                "CR alone",
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: a\r\n\r\n",
                "trailers",
            ),
            (
                "HTTP/1.1 200 OK\r\na: 1\r\nb: 1\r\nc: 1\r\nd: 1\r\ne: 1\r\nf: 1\r\ng: 1\r\nh: 1\r\nContent-Length: 1\r\n\r\n",
                "too many fields",
            ),
        ] {
            assert_eq!(read(head), None, "{why}");
        }
    }
}
