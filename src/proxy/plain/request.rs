//! A whole request out of bytes, and into bytes again: the spelling of its header names stays its sender's.

use std::io::Write;

use bytes::Bytes;
use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::Method;
use http::Request;
use http::Uri;
use http::Version;
use http::request::Parts;

use crate::proxy::guard;
use crate::proxy::guard::FieldLine;

/// The lines of a head as they were written.
#[derive(Clone, Copy)]
pub(super) struct Lines<'a> {
    pub(super) head: &'a Bytes,
    pub(super) fields: &'a [FieldLine],
}

/// Room for the headers that tracing adds, mostly.
const ADDED: usize = 3;

/// Takes a request apart that the guard found whole. `None`: the header map or the URI has no place for it.
pub(super) fn read(lines: Lines<'_>) -> Option<Request<()>> {
    let Lines { head, fields } = lines;
    let line_end = memchr::memchr(b'\r', head)?;
    let line = head.get(..line_end)?;
    let method_end = memchr::memchr(b' ', line)?;
    let target_end = memchr::memrchr(b' ', line)?;
    let target = head.slice(method_end + 1..target_end);
    let mut request = Request::new(());
    *request.method_mut() = Method::from_bytes(line.get(..method_end)?).ok()?;
    if guard::is_stand_in(&request) {
        return None;
    }
    *request.uri_mut() = Uri::from_maybe_shared(target).ok()?;
    *request.version_mut() = Version::HTTP_11;
    let headers = request.headers_mut();
    *headers = HeaderMap::with_capacity(fields.len() + ADDED);
    for field in fields {
        let name = HeaderName::from_bytes(head.get(field.start..field.name_end)?).ok()?;
        let (from, to) = field.value;
        let value = HeaderValue::from_maybe_shared(head.slice(from..to)).ok()?;
        headers.try_append(name, value).ok()?;
    }
    Some(request)
}

/// The request as it goes out, `content` behind it.
pub(super) fn write(request: &Parts, lines: Lines<'_>, content: &[u8]) -> Vec<u8> {
    let uri = &request.uri;
    let mut out = Vec::with_capacity(lines.head.len() + content.len() + 256);
    out.extend_from_slice(request.method.as_str().as_bytes());
    out.push(b' ');
    match uri.path_and_query() {
        Some(target) if uri.authority().is_none() => {
            out.extend_from_slice(target.as_str().as_bytes());
        }
        // Writing to memory does not fail.
        _ => write!(out, "{uri}").unwrap_or_default(),
    }
    out.extend_from_slice(b" HTTP/1.1\r\n");
    let mut cursor = 0;
    for (name, value) in &request.headers {
        let spelling = match lines.find(name, &mut cursor) {
            Some((line, _)) if lines.is_untouched(line, value) => {
                let line = lines.head.get(line.start..line.end + 2);
                out.extend_from_slice(line.unwrap_or_default());
                continue;
            }
            Some((_, spelling)) => spelling,
            None => name.as_str().as_bytes(),
        };
        out.extend_from_slice(spelling);
        out.push(b':');
        if !value.is_empty() {
            out.push(b' ');
            out.extend_from_slice(value.as_bytes());
        }
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(content);
    out
}

impl<'a> Lines<'a> {
    /// The line of this name and how its sender wrote it, searched from `cursor` on: headers mostly leave in the order in
    /// which they came.
    fn find(&self, name: &HeaderName, cursor: &mut usize) -> Option<(&'a FieldLine, &'a [u8])> {
        let name = name.as_str().as_bytes();
        let (before, behind) = self.fields.split_at_checked(*cursor)?;
        for (fields, offset) in [(behind, *cursor), (before, 0)] {
            for (index, line) in fields.iter().enumerate() {
                if line.name_end - line.start != name.len() {
                    continue;
                }
                let spelling = self.head.get(line.start..line.name_end)?;
                if spelling == name || spelling.eq_ignore_ascii_case(name) {
                    *cursor = offset + index + 1;
                    return Some((line, spelling));
                }
            }
        }
        None
    }

    /// True when the value is that line's own and the line is written as we write lines: it can go out as it stands.
    fn is_untouched(&self, line: &FieldLine, value: &HeaderValue) -> bool {
        let ((from, to), at) = (line.value, value.as_bytes().as_ptr().addr());
        !value.is_empty()
            && at == self.head.as_ptr().addr() + from
            && value.len() == to - from
            && to == line.end
            && self.head.get(line.name_end..from) == Some(b": ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::guard::Bounds;
    use crate::proxy::guard::FieldLines;

    const BOUNDS: Bounds = Bounds {
        head: 8192,
        fields: 100,
    };

    /// What goes out for a message after `change`.
    fn passed_on(message: &str, content: &str, change: impl FnOnce(&mut Request<()>)) -> String {
        let bytes = Bytes::copy_from_slice(message.as_bytes());
        let mut fields = FieldLines::new();
        let whole = guard::whole(&bytes, BOUNDS, &mut fields).unwrap();
        let head = bytes.slice(..whole.head);
        let lines = Lines {
            head: &head,
            fields: &fields,
        };
        let mut request = read(lines).unwrap();
        change(&mut request);
        let out = write(&request.into_parts().0, lines, content.as_bytes());
        String::from_utf8_lossy(&out).into_owned()
    }

    #[test]
    fn what_came_goes_out_as_it_was_spelt() {
        for message in [
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /x?y=1%20&z=ü HTTP/1.1\r\nhOsT: a\r\nX-One: 1\r\nx-ONE: 2\r\nAccept: */*\r\nX-Empty:\r\n\r\n",
            "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET http://a/x HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nX-One: 1\r\nHost: a\r\nCookie: b\r\n\r\n",
        ] {
            assert_eq!(passed_on(message, "", |_| {}), message);
        }
    }

    #[test]
    fn new_headers_are_in_lower_case_and_content_follows() {
        let message = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length:  2 \r\n\r\nok";
        let out = passed_on(message, "ok", |request| {
            let added = HeaderValue::from_static("00");
            request.headers_mut().insert("traceparent", added);
        });
        assert_eq!(
            out,
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\ntraceparent: 00\r\n\r\nok"
        );
    }

    #[test]
    fn only_whole_and_usual_requests_are_taken() {
        for (message, why) in [
            ("", "nothing"),
            ("GET / HTTP/1.1\r\nHost: a\r\n", "half a head"),
            (
                "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
                "an empty line in front",
            ),
            ("GET / HTTP/1.0\r\nHost: a\r\n\r\n", "an old version"),
            (
                "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: x\r\n\r\n",
                "an upgrade",
            ),
            ("CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", "a tunnel"),
            (
                "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nok",
                "half a body",
            ),
            (
                "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 0\r\n\r\n",
                "an expectation",
            ),
            (
                "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
                "chunks",
            ),
            (
                "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
                "what the guard refuses",
            ),
            ("GET / HTTP/1.1\nHost: a\n\n", "what the guard refuses"),
        ] {
            let found = guard::whole(message.as_bytes(), BOUNDS, &mut FieldLines::new());
            assert_eq!(found, None, "{why}");
        }
    }
}
