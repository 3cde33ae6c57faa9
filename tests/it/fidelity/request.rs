//! Requests that pass whole.

use super::OK;
use super::Shape;
use super::message;

fn row(name: &'static str, head: &str, body: &[u8]) -> Shape {
    Shape::new(name, message(head, body), message(OK, b""))
}

/// A request line, an otherwise plain head.
fn line(name: &'static str, line: &str) -> Shape {
    row(
        name,
        &format!("{line}\nHost: {{host}}\nAccept: */*\n\n"),
        b"",
    )
}

/// Header lines after a plain request line and `Host`.
fn headers(name: &'static str, lines: &str) -> Shape {
    row(
        name,
        &format!("GET / HTTP/1.1\nHost: {{host}}\n{lines}\n\n"),
        b"",
    )
}

pub(super) fn shapes() -> Vec<Shape> {
    [methods(), targets(), fields(), hops(), bodies(), versions()]
        .into_iter()
        .flatten()
        .collect()
}

fn methods() -> Vec<Shape> {
    let long = format!("{} / HTTP/1.1", "LONG".repeat(64));
    vec![
        line("get", "GET / HTTP/1.1"),
        row("head", "HEAD /h HTTP/1.1\nHost: {host}\n\n", b"")
            .answered("HTTP/1.1 200 OK\nContent-Length: 1234\nETag: \"x\"\n\n"),
        line("delete", "DELETE /users/1 HTTP/1.1"),
        line("options of a path", "OPTIONS /a HTTP/1.1"),
        line("trace", "TRACE /a HTTP/1.1"),
        row(
            "query with a body",
            "QUERY /search HTTP/1.1\nHost: {host}\nContent-Type: text/plain\nContent-Length: 5\n\n",
            b"a = 1",
        ),
        line("a method of WebDAV", "PROPFIND /dav HTTP/1.1"),
        line("a method nobody knows", "FROBNICATE /x HTTP/1.1"),
        line("a method in lower case", "get /x HTTP/1.1"),
        line(
            "a method of every token character",
            "A!#$%&'*+-.^_`|~9 /x HTTP/1.1",
        ),
        line("a very long method", &long),
    ]
}

fn targets() -> Vec<Shape> {
    let long = format!("GET /{}?q=1 HTTP/1.1", "0123456789abcdef".repeat(512));
    vec![
        line(
            "encoded slashes and dots",
            "GET /a%2Fb%2f%2E%2e/%41 HTTP/1.1",
        ),
        line("double slashes", "GET //double//slash// HTTP/1.1"),
        line("dot segments", "GET /a/../b/./c;p=1;q HTTP/1.1"),
        line("an empty query", "GET /? HTTP/1.1"),
        line("an odd query", "GET /p?a=b&&c==?/d&%zz HTTP/1.1"),
        // In absolute form it has no path at all, and the `http` crate knows no such target: it becomes `/`.
        line("an asterisk", "OPTIONS * HTTP/1.1").not_absolute(),
        line(
            "percent-encoded bytes that are no UTF-8",
            "GET /%C3%A9%FF%80 HTTP/1.1",
        ),
        line("raw UTF-8", "GET /\u{e9}?\u{20ac} HTTP/1.1"),
        line(
            "characters that clients forget to encode",
            "GET /{a}\"?x=[1]|^ HTTP/1.1",
        ),
        line("a target of 8 KiB", &long),
        line("the absolute form", "GET http://{host}/abs?x HTTP/1.1").not_absolute(),
    ]
}

fn fields() -> Vec<Shape> {
    let many: Vec<String> = (0..180)
        .map(|n| format!("X-Header-{n}: value {n}"))
        .collect();
    let large = format!("X-Large: {}", "v".repeat(32 * 1024));
    let mut obs_text =
        b"GET / HTTP/1.1\r\nHost: {host}\r\nX-Latin: caf\xe9 \xff\x80\r\n\r\n".to_vec();
    obs_text.shrink_to_fit();
    vec![
        headers(
            "names keep their case",
            "X-CamelCase: 1\nx-lower: 2\nX-UPPER: 3\naCCEPT: 4",
        ),
        headers(
            "duplicates keep their order and case",
            "X-A: 1\nx-a: 2\nX-a: 3\nX-B: b",
        ),
        // Blanks around a value are not part of it: hyper writes none here.
        headers("empty values", "X-Empty:\nX-Also:\nX-Last: x"),
        Shape::new("bytes beyond ASCII in values", obs_text, message(OK, b"")),
        headers("180 fields", &many.join("\n")),
        headers("a value of 32 KiB", &large),
        headers(
            "inner blanks and tabs",
            "X-Blank: a  b\tc   d\nX-Quoted: \"a, b\" ; c=\\\"d\\\"",
        ),
        headers("cookies", "Cookie: a=1; b=2\nCookie: c=3"),
        headers("odd but legal names", "x_under.dot!: 1\n1: 2\n~: 3"),
        row(
            "host in the last place",
            "GET / HTTP/1.1\nAccept: */*\nX-A: 1\nHost: {host}\n\n",
            b"",
        ),
        headers(
            "conditional and range fields",
            "If-None-Match: W/\"a\", \"b\"\nRange: bytes=0-0,-1\nIf-Range: \"b\"",
        ),
        headers(
            "another tracer's headers",
            "x-datadog-trace-id: 1\nx-amzn-trace-id: Root=1-a\nX-B3-Flags: 0",
        ),
    ]
}

fn hops() -> Vec<Shape> {
    vec![
        headers(
            "order around a removed connection field",
            "X-1: 1\nConnection: keep-alive\nX-2: 2\nX-3: 3\nX-4: 4",
        )
        .forwarded(
            "GET / HTTP/1.1\nHost: {host}\nX-1: 1\nX-2: 2\nX-3: 3\nX-4: 4\n\n",
            b"",
        ),
        headers(
            "fields that connection names",
            "X-1: 1\nX-Hop: gone\nConnection: X-Hop, close\nX-2: 2\nX-Hop: gone too\nX-3: 3",
        )
        .forwarded(
            "GET / HTTP/1.1\nHost: {host}\nX-1: 1\nX-2: 2\nX-3: 3\n\n",
            b"",
        )
        .returned(
            "HTTP/1.1 200 OK\nContent-Length: 2\nconnection: close\n\n",
            b"ok",
        ),
        headers(
            "fields of proxies and of keep-alive",
            "Proxy-Connection: keep-alive\nX-1: 1\nKeep-Alive: timeout=5\nX-2: 2\nX-3: 3",
        )
        .forwarded(
            "GET / HTTP/1.1\nHost: {host}\nX-1: 1\nX-2: 2\nX-3: 3\n\n",
            b"",
        ),
        headers(
            "te keeps trailers in its place",
            "X-1: 1\nTE: gzip, trailers;q=0.5\nX-2: 2\nX-3: 3",
        )
        .forwarded(
            "GET / HTTP/1.1\nHost: {host}\nX-1: 1\nTE: trailers\nX-2: 2\nX-3: 3\n\n",
            b"",
        ),
        headers(
            "an upgrade that connection does not name",
            "Upgrade: h2c\nX-1: 1\nX-2: 2",
        )
        .forwarded("GET / HTTP/1.1\nHost: {host}\nX-1: 1\nX-2: 2\n\n", b""),
    ]
}

fn bodies() -> Vec<Shape> {
    let every_byte: Vec<u8> = (0..=255).collect();
    let large: Vec<u8> = (0..1_500_000_u32).map(|n| ((n * 31) >> 3) as u8).collect();
    let post =
        |length: usize| format!("POST /b HTTP/1.1\nHost: {{host}}\nContent-Length: {length}\n\n");
    let chunked = "POST /c HTTP/1.1\nHost: {host}\nTransfer-Encoding: chunked\nX-A: 1\n\n";
    vec![
        row(
            "a post without a body",
            "POST / HTTP/1.1\nHost: {host}\n\n",
            b"",
        ),
        row("content-length 0", &post(0), b""),
        row("content-length 5", &post(5), b"hello"),
        row("every byte", &post(256), &every_byte),
        row("1.5 MB", &post(large.len()), &large),
        row(
            "a get with a body",
            "GET /b HTTP/1.1\nHost: {host}\nContent-Length: 3\n\n",
            b"abc",
        ),
        row(
            "a get with a chunked body",
            "GET /b HTTP/1.1\nHost: {host}\nTransfer-Encoding: chunked\n\n",
            b"3\r\nabc\r\n0\r\n\r\n",
        ),
        row(
            "a delete with a body",
            "DELETE /b HTTP/1.1\nHost: {host}\nContent-Length: 3\n\n",
            b"abc",
        ),
        row(
            "chunks of odd sizes",
            chunked,
            b"1\r\na\r\n7\r\nbcdefgh\r\n00d\r\nijklmnopqrstu\r\n0\r\n\r\n",
        ),
        row(
            "chunk extensions",
            chunked,
            b"3;a=1;b=\"x y\"\r\nabc\r\n0;last\r\n\r\n",
        )
        .forwarded(chunked, b"3\r\nabc\r\n0\r\n\r\n"),
        row("an empty chunked body", chunked, b"0\r\n\r\n"),
        row(
            "1.5 MB chunked",
            chunked,
            &[
                b"1\r\nx\r\n".as_slice(),
                format!("{:x}\r\n", large.len()).as_bytes(),
                &large,
                b"\r\n0\r\n\r\n",
            ]
            .concat(),
        ),
        row(
            "announced trailers",
            "POST /t HTTP/1.1\nHost: {host}\nTransfer-Encoding: chunked\nTrailer: x-sum, x-other\n\n",
            b"3\r\nabc\r\n0\r\nx-sum: 1\r\nx-other: 2\r\n\r\n",
        ),
        row(
            "a content coding is not looked at",
            "POST /z HTTP/1.1\nHost: {host}\nContent-Encoding: gzip\nContent-Length: 4\n\n",
            b"\x1f\x8b\x00\xff",
        ),
    ]
}

fn versions() -> Vec<Shape> {
    let ok_and_close = "HTTP/1.0 200 OK\nContent-Length: 2\n\n";
    vec![
        row(
            "HTTP/1.0",
            "GET /10 HTTP/1.0\nHost: {host}\nX-A: 1\n\n",
            b"",
        )
        .answered_with("HTTP/1.0 200 OK\nContent-Length: 2\n\n", b"ok")
        .closes()
        .returned(ok_and_close, b"ok"),
        row(
            "HTTP/1.0 with keep-alive",
            "GET /10 HTTP/1.0\nHost: {host}\nConnection: keep-alive\nX-A: 1\n\n",
            b"",
        )
        .forwarded("GET /10 HTTP/1.0\nHost: {host}\nX-A: 1\n\n", b"")
        .answered_with("HTTP/1.0 200 OK\nContent-Length: 2\n\n", b"ok")
        .closes()
        .returned(
            "HTTP/1.0 200 OK\nContent-Length: 2\nconnection: keep-alive\n\n",
            b"ok",
        ),
        row(
            "HTTP/1.0 with a body",
            "POST /10 HTTP/1.0\nHost: {host}\nContent-Length: 3\n\n",
            b"abc",
        )
        .answered_with("HTTP/1.0 200 OK\n\n", b"until the end")
        .closes()
        .returned("HTTP/1.0 200 OK\n\n", b"until the end"),
        row(
            "HTTP/1.0 without a host",
            "GET /10 HTTP/1.0\nX-A: 1\n\n",
            b"",
        )
        .answered_with(ok_and_close, b"ok")
        .closes()
        .not_absolute(),
    ]
}

impl Shape {
    fn answered(self, head: &str) -> Self {
        self.answered_with(head, b"")
    }

    fn answered_with(mut self, head: &str, body: &[u8]) -> Self {
        self.response = message(head, body);
        self
    }
}
