//! What callers send, and what comes of it.

use crate::support::frames::*;

type Field = (&'static [u8], &'static [u8]);

/// How the proxy may answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Gets {
    /// GOAWAY with an error, or a closed connection.
    Closed,
    /// Stream 1 gets this status.
    Status(u16),
    /// Stream 1 gets this status or is reset.
    StatusOrReset(u16),
    /// Whatever it is, it ends or is served.
    Survives,
}

pub(super) struct Input {
    pub(super) name: &'static str,
    /// What follows preface and settings.
    pub(super) bytes: Vec<u8>,
    pub(super) gets: Gets,
    /// The upstream may see the beginning of a request.
    pub(super) in_part: bool,
}

fn input(name: &'static str, bytes: Vec<u8>, gets: Gets) -> Input {
    Input {
        name,
        bytes,
        gets,
        in_part: false,
    }
}

/// A request on stream 1 with these fields and no body.
fn request(name: &'static str, fields: &[Field], gets: Gets) -> Input {
    let headers = frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(fields));
    input(name, headers, gets)
}

/// A GET with one more field.
fn field(name: &'static str, field: Field, gets: Gets) -> Input {
    request(name, &[&GET[..], &[field]].concat(), gets)
}

/// A GET with one pseudo-header replaced.
fn pseudo(name: &'static str, (key, value): Field, gets: Gets) -> Input {
    let fields = GET.map(|(old, kept)| (old, if old == key { value } else { kept }));
    request(name, &fields, gets)
}

/// A GET without one pseudo-header.
fn without(name: &'static str, key: &[u8]) -> Input {
    let fields: Vec<Field> = GET.into_iter().filter(|(name, _)| *name != key).collect();
    request(name, &fields, Gets::StatusOrReset(400))
}

/// A POST with these fields and this content.
fn post(name: &'static str, fields: &[Field], content: &[u8], gets: Gets) -> Input {
    let mut all: Vec<Field> = vec![(b":method", b"POST")];
    all.extend(&GET[1..]);
    all.extend(fields);
    let headers = frame(HEADERS, END_HEADERS, 1, &block(&all));
    let mut input = input(
        name,
        [headers, frame(DATA, END_STREAM, 1, content)].concat(),
        gets,
    );
    input.in_part = true;
    input
}

pub(super) fn inputs() -> Vec<Input> {
    [
        frames(),
        heads(),
        smuggling(),
        bodies(),
        compression(),
        floods(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn frames() -> Vec<Input> {
    let get = |stream| frame(HEADERS, END_HEADERS | END_STREAM, stream, &block(&GET));
    let opened = |more: Vec<u8>| [frame(HEADERS, END_HEADERS, 1, &block(&GET)), more].concat();
    let closed = |name, bytes| input(name, bytes, Gets::Closed);
    vec![
        closed(
            "text instead of frames",
            b"GET /smuggled HTTP/1.1\r\nHost: evil\r\n\r\n".repeat(9),
        ),
        closed(
            "a frame of 16 MB",
            [&[0xff, 0xff, 0xff, DATA, 0, 0, 0, 0, 1][..], &[0; 70_000]].concat(),
        ),
        closed("headers on stream 0", get(0)),
        closed("headers on an even stream", get(2)),
        closed("data on stream 0", frame(DATA, 0, 0, b"x")),
        closed("data on an idle stream", frame(DATA, 0, 1, b"x")),
        closed(
            "a reset of an idle stream",
            frame(RST_STREAM, 0, 1, &[0, 0, 0, 8]),
        ),
        closed(
            "a reset of stream 0",
            frame(RST_STREAM, 0, 0, &[0, 0, 0, 8]),
        ),
        closed("a stream number that goes back", [get(5), get(3)].concat()),
        closed("settings of 5 bytes", frame(SETTINGS, 0, 0, &[0; 5])),
        closed("settings on a stream", frame(SETTINGS, 0, 1, &[])),
        closed(
            "an acknowledgement with content",
            frame(SETTINGS, ACK, 0, &[0; 6]),
        ),
        closed(
            "a window beyond 2^31",
            frame(SETTINGS, 0, 0, &[0, 4, 0xff, 0xff, 0xff, 0xff]),
        ),
        closed(
            "frames of one byte",
            frame(SETTINGS, 0, 0, &[0, 5, 0, 0, 0, 1]),
        ),
        closed("a ping of 7 bytes", frame(PING, 0, 0, &[0; 7])),
        closed("a ping on a stream", frame(PING, 0, 1, &[0; 8])),
        closed("an update by 0", frame(WINDOW_UPDATE, 0, 0, &[0; 4])),
        closed("an update by 3 bytes", frame(WINDOW_UPDATE, 0, 0, &[0; 3])),
        closed(
            "updates beyond 2^31",
            frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff]).repeat(2),
        ),
        closed(
            "a push from a client",
            opened(frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2])),
        ),
        closed(
            "a continuation of nothing",
            frame(CONTINUATION, END_HEADERS, 1, &block(&GET)),
        ),
        closed(
            "another frame inside a header block",
            [
                frame(HEADERS, 0, 1, &block(&GET)),
                frame(PING, 0, 0, &[0; 8]),
            ]
            .concat(),
        ),
        closed(
            "a continuation of another stream",
            [
                frame(HEADERS, 0, 1, &block(&GET)),
                frame(CONTINUATION, END_HEADERS, 3, &[]),
            ]
            .concat(),
        ),
        closed(
            "padding longer than the frame",
            frame(HEADERS, END_HEADERS | 8, 1, &[200, 1, 2]),
        ),
        input(
            "a stream that depends on itself",
            frame(
                HEADERS,
                END_HEADERS | END_STREAM | 0x20,
                1,
                &[&[0, 0, 0, 1, 0][..], &block(&GET)].concat(),
            ),
            Gets::Survives,
        ),
    ]
}

fn heads() -> Vec<Input> {
    use Gets::StatusOrReset;
    let long: Vec<u8> = block(&[&GET[..], &[(b"x", LARGE)]].concat());
    let mut split = Vec::new();
    for (index, piece) in long.chunks(16_000).enumerate() {
        let kind = if index == 0 { HEADERS } else { CONTINUATION };
        let end = if (index + 1) * 16_000 >= long.len() {
            END_HEADERS
        } else {
            0
        };
        let stream = if index == 0 { END_STREAM } else { 0 };
        split.extend(frame(kind, end | stream, 1, piece));
    }
    vec![
        field(
            "a name in upper case",
            (b"X-Upper", b"1"),
            StatusOrReset(400),
        ),
        field("connection", (b"connection", b"close"), StatusOrReset(400)),
        field(
            "transfer-encoding",
            (b"transfer-encoding", b"chunked"),
            StatusOrReset(400),
        ),
        field("keep-alive", (b"keep-alive", b"1"), StatusOrReset(400)),
        field(
            "proxy-connection",
            (b"proxy-connection", b"1"),
            StatusOrReset(400),
        ),
        field("upgrade", (b"upgrade", b"h2c"), StatusOrReset(400)),
        field(
            "te with more than trailers",
            (b"te", b"gzip"),
            StatusOrReset(400),
        ),
        without("no method", b":method"),
        without("no scheme", b":scheme"),
        without("no path", b":path"),
        pseudo("an empty path", (b":path", b""), StatusOrReset(400)),
        pseudo("an empty method", (b":method", b""), StatusOrReset(400)),
        field(
            "a pseudo-header behind others",
            (b":path", b"/smuggled"),
            StatusOrReset(400),
        ),
        request(
            "a regular field in front",
            &[&[(b"x" as &[u8], b"1" as &[u8])], &GET[..]].concat(),
            StatusOrReset(400),
        ),
        request(
            "two paths",
            &[&[(b":path" as &[u8], b"/smuggled" as &[u8])], &GET[..]].concat(),
            StatusOrReset(400),
        ),
        request(
            "an unknown pseudo-header",
            &[&[(b":evil" as &[u8], b"1" as &[u8])], &GET[..]].concat(),
            StatusOrReset(400),
        ),
        request(
            "a status in a request",
            &[&[(b":status" as &[u8], b"200" as &[u8])], &GET[..]].concat(),
            StatusOrReset(400),
        ),
        field("another host", (b"host", b"evil"), Gets::Status(400)),
        pseudo(
            "user information",
            (b":authority", b"app@evil"),
            StatusOrReset(400),
        ),
        pseudo(
            "port 99999",
            (b":authority", b"app:99999"),
            StatusOrReset(400),
        ),
        pseudo(
            "an open bracket",
            (b":authority", b"[::1"),
            StatusOrReset(400),
        ),
        pseudo("GET with an asterisk", (b":path", b"*"), StatusOrReset(400)),
        request(
            "CONNECT here",
            &[(b":method", b"CONNECT"), (b":authority", b"app:80")],
            StatusOrReset(400),
        ),
        input("a field of 100 KB", split, StatusOrReset(431)),
        request(
            "300 fields",
            &[&GET[..], &[(b"x" as &[u8], b"y" as &[u8]); 300]].concat(),
            StatusOrReset(431),
        ),
    ]
}

const LARGE: &[u8] = &[b'y'; 100_000];

fn smuggling() -> Vec<Input> {
    use Gets::StatusOrReset;
    const LINES: &[u8] = b"a\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: evil\r\n\r\n";
    vec![
        field("CRLF in a value", (b"x", LINES), StatusOrReset(400)),
        field(
            "LF in a value",
            (b"x", b"a\nx: /smuggled"),
            StatusOrReset(400),
        ),
        field(
            "CR in a value",
            (b"x", b"a\rx: /smuggled"),
            StatusOrReset(400),
        ),
        field(
            "NUL in a value",
            (b"x", b"a\0/smuggled"),
            StatusOrReset(400),
        ),
        field(
            "CRLF in a name",
            (b"x: a\r\ny/smuggled", b"1"),
            StatusOrReset(400),
        ),
        field(
            "a colon in a name",
            (b"x: /smuggled", b"1"),
            StatusOrReset(400),
        ),
        field(
            "a blank in a name",
            (b"x /smuggled", b"1"),
            StatusOrReset(400),
        ),
        field("an empty name", (b"", b"/smuggled"), StatusOrReset(400)),
        pseudo(
            "CRLF in the path",
            (b":path", b"/ HTTP/1.1\r\nHost: a\r\n\r\nGET /smuggled"),
            StatusOrReset(400),
        ),
        pseudo(
            "a blank in the path",
            (b":path", b"/ HTTP/1.1 /smuggled"),
            StatusOrReset(400),
        ),
        pseudo(
            "a path without a slash",
            (b":path", b"smuggled"),
            StatusOrReset(400),
        ),
        pseudo(
            "a URI as path",
            (b":path", b"http://evil/smuggled"),
            StatusOrReset(400),
        ),
        pseudo(
            "CRLF in the method",
            (b":method", b"GET /smuggled HTTP/1.1\r\nX: y\r\n\r\nGET"),
            StatusOrReset(400),
        ),
        pseudo(
            "a blank in the method",
            (b":method", b"GET /smuggled"),
            StatusOrReset(400),
        ),
        pseudo(
            "CRLF in the authority",
            (b":authority", b"a\r\n\r\nGET /smuggled"),
            StatusOrReset(400),
        ),
        pseudo(
            "a path in the authority",
            (b":authority", b"app/smuggled"),
            StatusOrReset(400),
        ),
        pseudo(
            "another scheme with CRLF",
            (b":scheme", b"http\r\nGET /smuggled"),
            StatusOrReset(400),
        ),
    ]
}

fn bodies() -> Vec<Input> {
    use Gets::StatusOrReset;
    let mut large = post("content over the limit", &[], &[], Gets::Status(413));
    let mut headers = vec![(b":method" as &[u8], b"POST" as &[u8])];
    headers.extend(&GET[1..]);
    large.bytes = frame(HEADERS, END_HEADERS, 1, &block(&headers));
    large
        .bytes
        .extend(frame(DATA, 0, 1, &[b'z'; 16_000]).repeat(15));
    // The library drops it; nothing of it goes on.
    let mut trailers = post("a pseudo-header in the trailers", &[], b"", Gets::Survives);
    trailers.bytes = [
        frame(HEADERS, END_HEADERS, 1, &block(&headers)),
        frame(
            HEADERS,
            END_HEADERS | END_STREAM,
            1,
            &block(&[(b":path", b"/smuggled")]),
        ),
    ]
    .concat();
    vec![
        post(
            "more than the length",
            &[(b"content-length", b"3")],
            b"abcde",
            StatusOrReset(400),
        ),
        post(
            "less than the length",
            &[(b"content-length", b"9")],
            b"abcde",
            StatusOrReset(400),
        ),
        post(
            "a length that is no number",
            &[(b"content-length", b"+5")],
            b"abcde",
            StatusOrReset(400),
        ),
        post(
            "two lengths",
            &[(b"content-length", b"5"), (b"content-length", b"6")],
            b"abcde",
            StatusOrReset(400),
        ),
        field(
            "a length without content",
            (b"content-length", b"5"),
            StatusOrReset(400),
        ),
        post(
            "an announced length over the limit",
            &[(b"content-length", b"99999999")],
            b"a",
            StatusOrReset(413),
        ),
        large,
        trailers,
    ]
}

fn compression() -> Vec<Input> {
    let headers = |payload: &[u8]| frame(HEADERS, END_HEADERS | END_STREAM, 1, payload);
    // One field of 4000 bytes goes into the table, then is named by its index again and again.
    let mut bomb = block(&GET);
    bomb.push(0x40);
    string(b"b", &mut bomb);
    string(&[b'b'; 4000], &mut bomb);
    bomb.extend(vec![0xbe; 12_000]);
    vec![
        input(
            "an index that does not exist",
            headers(&[0xff, 0xff, 0x7f]),
            Gets::Closed,
        ),
        input("index 0", headers(&[0x80]), Gets::Closed),
        input("a number without end", headers(&[0xff; 64]), Gets::Closed),
        input(
            "a string longer than the block",
            headers(&[0x00, 0x7f, 0x64, b'a']),
            Gets::Closed,
        ),
        input(
            "broken Huffman code",
            headers(&[0x00, 0x84, 0xff, 0xff, 0xff, 0xff, 0x81, 0xff]),
            Gets::Closed,
        ),
        input(
            "a table larger than agreed",
            headers(&[0x3f, 0xe1, 0xff, 0xff, 0x7f]),
            Gets::Closed,
        ),
        input(
            "a compression bomb",
            headers(&bomb),
            Gets::StatusOrReset(431),
        ),
    ]
}

fn floods() -> Vec<Input> {
    let get = |stream: u32| frame(HEADERS, END_HEADERS | END_STREAM, stream, &block(&GET));
    let rapid: Vec<u8> = (0..20_000_u32)
        .flat_map(|n| {
            [
                get(n * 2 + 1),
                frame(RST_STREAM, 0, n * 2 + 1, &[0, 0, 0, 8]),
            ]
            .concat()
        })
        .collect();
    let begun = frame(HEADERS, 0, 1, &block(&GET));
    let field = block(&[(b"x-flood", &[b'y'; 1000])]);
    vec![
        input("rapid reset", rapid, Gets::Closed),
        input(
            "empty continuations without end",
            [
                begun.clone(),
                frame(CONTINUATION, 0, 1, &[]).repeat(100_000),
            ]
            .concat(),
            Gets::Closed,
        ),
        input(
            "continuations without end",
            [begun, frame(CONTINUATION, 0, 1, &field).repeat(50_000)].concat(),
            Gets::Closed,
        ),
        input(
            "100,000 settings",
            frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0]).repeat(100_000),
            Gets::Survives,
        ),
        input(
            "100,000 pings",
            frame(PING, 0, 0, &[7; 8]).repeat(100_000),
            Gets::Survives,
        ),
        input(
            "100,000 empty data frames",
            [
                frame(HEADERS, END_HEADERS, 1, &block(&GET)),
                frame(DATA, 0, 1, &[]).repeat(100_000),
            ]
            .concat(),
            Gets::Survives,
        ),
        input(
            "100,000 priorities",
            frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 9]).repeat(100_000),
            Gets::Survives,
        ),
        input(
            "100,000 updates",
            frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]).repeat(100_000),
            Gets::Survives,
        ),
        input(
            "10,000 streams without an end",
            (0..10_000_u32)
                .flat_map(|n| frame(HEADERS, END_HEADERS, n * 2 + 1, &block(&GET)))
                .collect(),
            Gets::Survives,
        ),
    ]
}
