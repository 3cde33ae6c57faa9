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

use crate::net::value::header_value;
use crate::propagation;
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
        let value = header_value(head.slice(from..to))?;
        headers.try_append(name, value).ok()?;
    }
    Some(request)
}

/// The request as it goes out, with the trace headers and `content` behind it.
pub(super) fn write(
    request: &Parts,
    lines: Lines<'_>,
    trace: Option<propagation::Lines<'_>>,
    content: &[u8],
) -> Vec<u8> {
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
    let mut trace = trace.map(Trace::of);
    for (name, value) in &request.headers {
        if let Some(trace) = &mut trace
            && let Some(number) = trace.number(name)
        {
            // What the request had is replaced where it stood first.
            if trace.takes(number) {
                trace.put(number, lines.spelling(name), &mut out);
            }
            continue;
        }
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
    if let Some(trace) = trace {
        trace.put_rest(&mut out);
    }
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(content);
    out
}

/// Trace headers of which some are written.
struct Trace<'a> {
    lines: propagation::Lines<'a>,
    /// One bit for each of them.
    written: u32,
}

impl<'a> Trace<'a> {
    fn of(lines: propagation::Lines<'a>) -> Self {
        Self { lines, written: 0 }
    }

    fn number(&self, name: &HeaderName) -> Option<usize> {
        self.lines.names().position(|known| known == name)
    }

    /// True for the first time.
    fn takes(&mut self, number: usize) -> bool {
        let before = self.written;
        self.written |= 1 << number;
        before != self.written
    }

    fn put(&self, number: usize, name: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(name);
        out.extend_from_slice(b": ");
        self.lines.put_value(number, out);
        out.extend_from_slice(b"\r\n");
    }

    fn put_rest(mut self, out: &mut Vec<u8>) {
        for (number, name) in self.lines.names().enumerate() {
            if self.takes(number) {
                self.put(number, name.as_str().as_bytes(), out);
            }
        }
    }
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

    /// How the sender of the first field of this name wrote it. Apart, for [`Lines::find`] is to stand in line where it
    /// is called for each field.
    #[cold]
    fn spelling(&self, name: &'a HeaderName) -> &'a [u8] {
        let name = name.as_str().as_bytes();
        let mut spellings = self.fields.iter().filter_map(|line| {
            let spelling = self.head.get(line.start..line.name_end)?;
            spelling.eq_ignore_ascii_case(name).then_some(spelling)
        });
        spellings.next().unwrap_or(name)
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
    use crate::model::SamplingState;
    use crate::model::SpanContext;
    use crate::model::SpanId;
    use crate::model::TraceId;
    use crate::propagation::Config;
    use crate::propagation::Propagator;
    use crate::proxy::guard::Bounds;
    use crate::proxy::guard::FieldLines;

    const BOUNDS: Bounds = Bounds {
        head: 8192,
        fields: 100,
    };

    /// What goes out for a message after `change`.
    fn passed_on(message: &str, content: &str, change: impl FnOnce(&mut Request<()>)) -> String {
        let change = |request: &mut Request<()>| {
            change(request);
            None
        };
        written(message, content, change)
    }

    /// The same with the trace headers that `change` gives back.
    fn written<'a>(
        message: &str,
        content: &str,
        change: impl FnOnce(&mut Request<()>) -> Option<propagation::Lines<'a>>,
    ) -> String {
        let bytes = Bytes::copy_from_slice(message.as_bytes());
        let mut fields = FieldLines::new();
        let whole = guard::whole(&bytes, BOUNDS, &mut fields).unwrap();
        let head = bytes.slice(..whole.head);
        let lines = Lines {
            head: &head,
            fields: &fields,
        };
        let mut request = read(lines).unwrap();
        let trace = change(&mut request);
        let parts = request.into_parts().0;
        let out = write(&parts, lines, trace, content.as_bytes());
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
    fn trace_headers_are_written_as_if_they_had_been_in_the_map() {
        let state = SamplingState::Accept;
        let ids = (TraceId::from_halves(1, 2), SpanId::from_u64(3));
        let context = SpanContext::new(ids.0.unwrap(), ids.1.unwrap(), state);
        for formats in ["w3c,jaeger,baggage", "b3", "none", "jaeger"] {
            let (config, _) = Config::from_list(formats);
            let propagator = Propagator::new(&config);
            for (fields, why) in [
                ("", "none there"),
                ("traceparent: 00-x\r\n", "an old one"),
                (
                    "A: 1\r\nTraceParent: 00-x\r\nC: 1\r\n",
                    "its spelling stays",
                ),
                ("uber-trace-id: x\r\nA: 1\r\ntraceparent: y\r\n", "two"),
                (
                    "B3: 0\r\nA: 1\r\ntraceparent: x\r\ntraceparent: y\r\n",
                    "one twice",
                ),
                ("baggage: a=1\r\nuberctx-a: 1\r\n", "baggage"),
            ] {
                let message = format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
                let by_lines = written(&message, "", |request| {
                    let lines = propagator.lines(&context, request.headers());
                    assert!(lines.is_some(), "{why}");
                    lines
                });
                let by_map = passed_on(&message, "", |request| {
                    propagator.inject(&context, request.headers_mut());
                });
                assert_eq!(by_lines, by_map, "{formats}: {why}");
            }
        }
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
