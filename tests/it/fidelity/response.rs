//! Responses that pass whole.

use super::Shape;
use super::message;

const GET: &str = "GET / HTTP/1.1\nHost: {host}\n\n";

fn row(name: &'static str, head: &str, body: &[u8]) -> Shape {
    Shape::new(name, message(GET, b""), message(head, body))
}

pub(super) fn shapes() -> Vec<Shape> {
    [status_lines(), fields(), lengths(), hops()]
        .into_iter()
        .flatten()
        .collect()
}

fn status_lines() -> Vec<Shape> {
    let status = |name, line: &str| row(name, &format!("{line}\nContent-Length: 2\n\n"), b"ok");
    vec![
        status("a reason of its own", "HTTP/1.1 200 Fine by me"),
        status("an empty reason", "HTTP/1.1 200 "),
        status("no reason and no blank", "HTTP/1.1 404")
            .returned("HTTP/1.1 404 \nContent-Length: 2\n\n", b"ok"),
        status("status 299", "HTTP/1.1 299 Odd"),
        status("status 299 without a reason", "HTTP/1.1 299 "),
        status("status 418", "HTTP/1.1 418 I'm a teapot"),
        status("status 500", "HTTP/1.1 500 Internal Server Error"),
        status("status 599", "HTTP/1.1 599 Far Out"),
        status("status 999", "HTTP/1.1 999 Request denied"),
        row("status 204", "HTTP/1.1 204 No Content\nX-A: 1\n\n", b""),
        row(
            "status 205",
            "HTTP/1.1 205 Reset Content\nContent-Length: 0\n\n",
            b"",
        ),
        row(
            "the length that 304 would have had",
            "HTTP/1.1 304 Not Modified\nContent-Length: 77\nX-A: 1\n\n",
            b"",
        ),
        row(
            "status 304",
            "HTTP/1.1 304 Not Modified\nETag: \"a\"\n\n",
            b"",
        ),
        row(
            "status 301",
            "HTTP/1.1 301 Moved Permanently\nLocation: http://x/%2F?\nContent-Length: 0\n\n",
            b"",
        ),
        row(
            "a status of HTTP/1.0",
            "HTTP/1.0 200 OK\nContent-Length: 2\n\n",
            b"ok",
        )
        .closes()
        .returned("HTTP/1.1 200 OK\nContent-Length: 2\n\n", b"ok"),
    ]
}

fn fields() -> Vec<Shape> {
    let many: Vec<String> = (0..180)
        .map(|n| format!("x-header-{n}: value {n}"))
        .collect();
    vec![
        row(
            "names of responses keep their case",
            "HTTP/1.1 200 OK\nX-CamelCase: 1\nx-lower: 2\nCONTENT-LENGTH: 0\n\n",
            b"",
        ),
        row(
            "several set-cookie fields",
            "HTTP/1.1 200 OK\nSet-Cookie: a=1; Path=/\nSet-Cookie: b=2, c\nset-cookie: d=\"x\"\nContent-Length: 0\n\n",
            b"",
        ),
        row(
            "empty values in responses",
            "HTTP/1.1 200 OK\nX-Empty: \nContent-Length: 0\nX-Also: \n\n",
            b"",
        ),
        Shape::new(
            "bytes beyond ASCII in responses",
            message(GET, b""),
            b"HTTP/1.1 200 OK\r\nX-Latin: caf\xe9\r\nContent-Length: 0\r\n\r\n".to_vec(),
        ),
        row(
            "180 fields in responses",
            &format!(
                "HTTP/1.1 200 OK\n{}\nContent-Length: 0\n\n",
                many.join("\n")
            ),
            b"",
        ),
        row(
            "date, server and via stay as they are",
            "HTTP/1.1 200 OK\nDate: yesterday\nServer: x\nVia: 1.1 y\nContent-Length: 0\n\n",
            b"",
        ),
    ]
}

fn lengths() -> Vec<Shape> {
    let large: Vec<u8> = (0..1_500_000_u32).map(|n| ((n * 37) >> 4) as u8).collect();
    let chunked = "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\nX-A: 1\n\n";
    let chunked_added = "HTTP/1.1 200 OK\nX-A: 1\ntransfer-encoding: chunked\n\n";
    let in_one_chunk = |body: &[u8]| {
        [
            format!("{:x}\r\n", body.len()).as_bytes(),
            body,
            b"\r\n0\r\n\r\n",
        ]
        .concat()
    };
    let mut trailers = row(
        "announced trailers in responses",
        "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\nTrailer: x-sum\n\n",
        b"3\r\nabc\r\n0\r\nx-sum: 1\r\n\r\n",
    );
    trailers.request = message("GET / HTTP/1.1\nHost: {host}\nTE: trailers\n\n", b"");
    let mut head = row(
        "the length that a head request would have had",
        "HTTP/1.1 200 OK\nContent-Length: 77\n\n",
        b"",
    );
    head.request = message("HEAD / HTTP/1.1\nHost: {host}\n\n", b"");
    let mut old_caller = row(
        "chunks for a caller of HTTP/1.0",
        chunked,
        &in_one_chunk(b"abc"),
    )
    .returned("HTTP/1.0 200 OK\nX-A: 1\n\n", b"abc");
    old_caller.request = message("GET / HTTP/1.0\nHost: {host}\n\n", b"");
    vec![
        row(
            "1.5 MB in a response",
            &format!("HTTP/1.1 200 OK\nContent-Length: {}\n\n", large.len()),
            &large,
        ),
        row(
            "1.5 MB in a chunked response",
            chunked,
            &in_one_chunk(&large),
        ),
        row(
            "chunks of odd sizes in a response",
            chunked,
            b"1\r\na\r\n00A\r\nbcdefghijk\r\n0\r\n\r\n",
        ),
        row(
            "chunk extensions in a response",
            chunked,
            b"3;a=b\r\nabc\r\n0\r\n\r\n",
        )
        .returned(chunked, b"3\r\nabc\r\n0\r\n\r\n"),
        row("an empty chunked response", chunked, b"0\r\n\r\n"),
        trailers,
        head,
        old_caller,
        row(
            "a length that only the end tells",
            "HTTP/1.1 200 OK\nX-A: 1\n\n",
            b"abc",
        )
        .closes()
        .returned(chunked_added, &in_one_chunk(b"abc")),
        row(
            "1.5 MB until the end",
            "HTTP/1.1 200 OK\nX-A: 1\n\n",
            &large,
        )
        .closes()
        .returned(chunked_added, &in_one_chunk(&large)),
        row(
            "HTTP/1.0 until the end",
            "HTTP/1.0 200 OK\nX-A: 1\n\n",
            b"abc",
        )
        .closes()
        .returned(chunked_added, &in_one_chunk(b"abc")),
    ]
}

fn hops() -> Vec<Shape> {
    vec![
        row(
            "connection fields of responses",
            "HTTP/1.1 200 OK\nX-1: 1\nConnection: close, X-Hop\nX-2: 2\nX-Hop: 1\nKeep-Alive: timeout=9\nX-3: 3\nContent-Length: 2\nX-4: 4\n\n",
            b"ok",
        )
        .returned(
            "HTTP/1.1 200 OK\nX-1: 1\nX-2: 2\nX-3: 3\nContent-Length: 2\nX-4: 4\n\n",
            b"ok",
        ),
        row(
            "an upgrade that is offered",
            "HTTP/1.1 200 OK\nUpgrade: h2c\nConnection: Upgrade\nX-1: 1\nContent-Length: 2\nX-2: 2\n\n",
            b"ok",
        )
        .returned("HTTP/1.1 200 OK\nX-1: 1\nContent-Length: 2\nX-2: 2\n\n", b"ok"),
    ]
}
