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
use smallvec::SmallVec;

use crate::proxy::guard;
use crate::proxy::guard::Whole;

/// Header names as they were written, in their order.
pub(super) struct Names {
    head: Bytes,
    spans: SmallVec<[Span; 16]>,
}

/// Where a header line begins, how long its name is, where its value begins and where the line ends.
#[derive(Debug, Clone, Copy)]
struct Span {
    start: usize,
    name: usize,
    value: usize,
    end: usize,
}

/// Room for the headers that tracing adds.
const ADDED: usize = 4;

/// Takes a request apart that the guard found whole. `None`: the header map or the URI has no place for it.
pub(super) fn read(message: &Bytes, whole: Whole) -> Option<(Request<()>, Names)> {
    let head = message.slice(..whole.head);
    let mut spans = SmallVec::new();
    let mut headers = HeaderMap::with_capacity(whole.fields + ADDED);
    let end = line_end(&head, 0)?;
    let line = head.get(..end)?;
    let method_end = memchr::memchr(b' ', line)?;
    let target_end = memchr::memrchr(b' ', line)?;
    let method = Method::from_bytes(line.get(..method_end)?).ok()?;
    let target = head.slice(method_end + 1..target_end);
    let mut at = end + 2;
    for _ in 0..whole.fields {
        let end = line_end(&head, at)?;
        // What the guard let pass has a name and a colon.
        let line = head.get(at..end)?;
        let (name, value) = line.split_at_checked(memchr::memchr(b':', line)?)?;
        let value = value.get(1..)?.trim_ascii();
        let from = value.as_ptr().addr() - head.as_ptr().addr();
        spans.push(Span {
            start: at,
            name: name.len(),
            value: from,
            end,
        });
        let name = HeaderName::from_bytes(name).ok()?;
        let value = HeaderValue::from_maybe_shared(head.slice(from..from + value.len())).ok()?;
        headers.try_append(name, value).ok()?;
        at = end + 2;
    }
    let mut request = Request::new(());
    *request.method_mut() = method;
    if guard::is_stand_in(&request) {
        return None;
    }
    *request.uri_mut() = Uri::from_maybe_shared(target).ok()?;
    *request.version_mut() = Version::HTTP_11;
    *request.headers_mut() = headers;
    Some((request, Names { head, spans }))
}

/// Where the line that begins at `from` ends: at its CR.
fn line_end(head: &[u8], from: usize) -> Option<usize> {
    memchr::memchr(b'\n', head.get(from..)?).and_then(|len| (from + len).checked_sub(1))
}

/// The request as it goes out, `content` behind it.
pub(super) fn write(request: &Parts, names: &Names, content: &[u8]) -> Vec<u8> {
    let uri = &request.uri;
    let mut out = Vec::with_capacity(names.head.len() + content.len() + 256);
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
        let spelling = match names.line(name, &mut cursor) {
            Some((span, _)) if names.is_untouched(span, value) => {
                let line = names.head.get(span.start..span.end + 2);
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

impl Names {
    /// The line of this name and how its sender wrote it, searched from `cursor` on: headers mostly leave in the order in
    /// which they came.
    fn line(&self, name: &HeaderName, cursor: &mut usize) -> Option<(Span, &[u8])> {
        let name = name.as_str().as_bytes();
        let behind = self.find(name, *cursor..self.spans.len());
        let (at, span, spelling) = behind.or_else(|| self.find(name, 0..*cursor))?;
        *cursor = at + 1;
        Some((span, spelling))
    }

    fn find(&self, name: &[u8], range: std::ops::Range<usize>) -> Option<(usize, Span, &[u8])> {
        let from = range.start;
        let spans = self.spans.get(range)?;
        spans.iter().enumerate().find_map(|(index, span)| {
            if span.name != name.len() {
                return None;
            }
            let spelling = self.head.get(span.start..span.start + span.name)?;
            spelling
                .eq_ignore_ascii_case(name)
                .then_some((from + index, *span, spelling))
        })
    }

    /// True when the value is that line's own and the line is written as we write lines: it can go out as it stands.
    fn is_untouched(&self, span: Span, value: &HeaderValue) -> bool {
        let at = value.as_bytes().as_ptr().addr();
        !value.is_empty()
            && at == self.head.as_ptr().addr() + span.value
            && span.value + value.len() == span.end
            && self.head.get(span.start + span.name..span.value) == Some(b": ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::guard::Bounds;

    const BOUNDS: Bounds = Bounds {
        head: 8192,
        fields: 100,
    };

    fn parse(message: &str) -> (Request<()>, Names) {
        let bytes = Bytes::copy_from_slice(message.as_bytes());
        let whole = guard::whole(&bytes, BOUNDS).unwrap();
        read(&bytes, whole).unwrap()
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
            let (request, names) = parse(message);
            let out = write(&request.into_parts().0, &names, b"");
            assert_eq!(String::from_utf8_lossy(&out), message);
        }
    }

    #[test]
    fn new_headers_are_in_lower_case_and_content_follows() {
        let (mut request, names) =
            parse("POST / HTTP/1.1\r\nHost: a\r\nContent-Length:  2 \r\n\r\nok");
        let added = HeaderValue::from_static("00");
        request.headers_mut().insert("traceparent", added);
        assert_eq!(
            String::from_utf8_lossy(&write(&request.into_parts().0, &names, b"ok")),
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
            assert_eq!(guard::whole(message.as_bytes(), BOUNDS), None, "{why}");
        }
    }
}
