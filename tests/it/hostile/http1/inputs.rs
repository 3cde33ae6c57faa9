//! What callers send, and what comes of it.

/// What the caller gets.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Gets {
    /// This status with a text of ours.
    Status(u16),
    /// Nothing: the connection ends.
    Closed,
}

/// What the upstream may see.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Sees {
    /// Not a byte.
    Nothing,
    /// The beginning of a request that does not end.
    Part,
}

pub(super) struct Input {
    pub(super) name: &'static str,
    pub(super) bytes: Vec<u8>,
    pub(super) gets: Gets,
    pub(super) sees: Sees,
}

/// After each input comes a request that must not be served.
pub(super) const AFTER: &str = "GET /smuggled HTTP/1.1\r\nHost: evil\r\n\r\n";

fn input(name: &'static str, bytes: impl Into<Vec<u8>>, gets: Gets) -> Input {
    Input {
        name,
        bytes: bytes.into(),
        gets,
        sees: Sees::Nothing,
    }
}

/// Header lines of a POST that is otherwise in order, and what follows its head.
fn post(name: &'static str, lines: &str, body: &str, status: u16) -> Input {
    let bytes = format!("POST /p HTTP/1.1\r\nHost: app\r\n{lines}\r\n\r\n{body}{AFTER}");
    input(name, bytes, Gets::Status(status))
}

/// The body of a chunked POST.
fn chunks(name: &'static str, body: &str) -> Input {
    let mut input = post(name, "Transfer-Encoding: chunked", body, 400);
    input.sees = Sees::Part;
    input
}

/// A whole head.
fn head(name: &'static str, head: &str, status: u16) -> Input {
    input(name, format!("{head}{AFTER}"), Gets::Status(status))
}

pub(super) fn inputs() -> Vec<Input> {
    [
        smuggling(),
        lengths(),
        lines(),
        hosts(),
        versions(),
        targets(),
        sizes(),
        bodies(),
        other_protocols(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn smuggling() -> Vec<Input> {
    let chunk = "1c\r\nGET /smuggled HTTP/1.1\r\nX: \r\n0\r\n\r\n";
    vec![
        post(
            "CL.TE",
            "Content-Length: 6\r\nTransfer-Encoding: chunked",
            "0\r\n\r\nG",
            400,
        ),
        post(
            "TE.CL",
            "Transfer-Encoding: chunked\r\nContent-Length: 4",
            chunk,
            400,
        ),
        post(
            "CL 0 and TE",
            "Content-Length: 0\r\nTransfer-Encoding: chunked",
            chunk,
            400,
        ),
        post(
            "TE with a blank before the colon",
            "Transfer-Encoding : chunked",
            chunk,
            400,
        ),
        post(
            "TE with a vertical tab",
            "Transfer-Encoding:\x0bchunked",
            chunk,
            400,
        ),
        post(
            "TE with a form feed behind",
            "Transfer-Encoding: chunked\x0c",
            chunk,
            400,
        ),
        post(
            "chunked, identity",
            "Transfer-Encoding: chunked, identity",
            chunk,
            501,
        ),
        post(
            "identity, chunked",
            "Transfer-Encoding: identity, chunked",
            chunk,
            501,
        ),
        post(
            "gzip, chunked",
            "Transfer-Encoding: gzip, chunked",
            chunk,
            501,
        ),
        post(
            "chunked, chunked",
            "Transfer-Encoding: chunked, chunked",
            chunk,
            501,
        ),
        post("xchunked", "Transfer-Encoding: xchunked", chunk, 501),
        post(
            "quoted chunked",
            "Transfer-Encoding: \"chunked\"",
            chunk,
            501,
        ),
        post(
            "chunked with a parameter",
            "Transfer-Encoding: chunked;q=1",
            chunk,
            501,
        ),
        post("an empty TE", "Transfer-Encoding: ", chunk, 501),
        post(
            "TE twice",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            chunk,
            400,
        ),
        post(
            "TE twice, the second odd",
            "Transfer-Encoding: chunked\r\nTransfer-encoding: x",
            chunk,
            400,
        ),
        post(
            "TE twice, the first odd",
            "Transfer-Encoding: x\r\nTransfer-encoding: chunked",
            chunk,
            501,
        ),
        post(
            "TE behind a bare CR",
            "X: y\rTransfer-Encoding: chunked",
            chunk,
            400,
        ),
        post(
            "TE behind a bare LF",
            "X: y\nTransfer-Encoding: chunked",
            chunk,
            400,
        ),
        post(
            "TE folded",
            "X: y\r\n Transfer-Encoding: chunked",
            chunk,
            400,
        ),
        post(
            "TE with a folded value",
            "Transfer-Encoding:\r\n chunked",
            chunk,
            501,
        ),
        head(
            "TE in HTTP/1.0",
            "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
        head(
            "TE in HTTP/1.0 with keep-alive",
            "POST / HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
    ]
}

fn lengths() -> Vec<Input> {
    let length = |name, value: &str| post(name, &format!("Content-Length: {value}"), "abcde", 400);
    vec![
        post(
            "two lengths",
            "Content-Length: 5\r\nContent-Length: 6",
            "abcde",
            400,
        ),
        post(
            "one length twice",
            "Content-Length: 5\r\nContent-Length: 5",
            "abcde",
            400,
        ),
        length("a length with a plus", "+5"),
        length("a negative length", "-5"),
        length("a hexadecimal length", "0x5"),
        length("a length with a blank inside", "5 5"),
        length("a list of equal lengths", "5, 5"),
        length("a list of lengths", "5,6"),
        length("a length of 2^64", "18446744073709551616"),
        length("a length of 2^64-1", "18446744073709551615"),
        length(
            "a length of thirty digits",
            "999999999999999999999999999999",
        ),
        length("a length with a letter", "5a"),
        length("an empty length", ""),
        length("a length with a point", "5.0"),
        length("a length in other digits", "\u{0665}"),
    ]
}

fn lines() -> Vec<Input> {
    let field = |name, line: &str| {
        head(
            name,
            &format!("GET / HTTP/1.1\r\nHost: app\r\n{line}\r\n\r\n"),
            400,
        )
    };
    vec![
        head("bare LF everywhere", "GET / HTTP/1.1\nHost: app\n\n", 400),
        head(
            "bare LF behind the request line",
            "GET / HTTP/1.1\nHost: app\r\n\r\n",
            400,
        ),
        head(
            "bare LF behind a field",
            "GET / HTTP/1.1\r\nHost: app\nX: y\r\n\r\n",
            400,
        ),
        head(
            "bare LF at the end of the head",
            "GET / HTTP/1.1\r\nHost: app\r\n\n",
            400,
        ),
        head("CR CR LF", "GET / HTTP/1.1\r\r\nHost: app\r\n\r\n", 400),
        head(
            "lines that end with CR",
            "GET / HTTP/1.1\rHost: app\r\r\n",
            400,
        ),
        field("a bare CR in a value", "X: a\rb"),
        field("a folded value", "X: a\r\n b"),
        field("a folded value with a tab", "X: a\r\n\tb"),
        head(
            "a blank before the first name",
            "GET / HTTP/1.1\r\n Host: app\r\n\r\n",
            400,
        ),
        field("NUL in a value", "X: a\0b"),
        field("NUL in a name", "X\0: a"),
        field("a control character in a value", "X: a\x01b"),
        field("DEL in a value", "X: a\x7f"),
        field("a blank before the colon", "X : a"),
        field("a blank in a name", "X Y: a"),
        field("a name beyond ASCII", "X\u{e9}: a"),
        field("a name with parentheses", "X(): a"),
        field("an empty name", ": a"),
        field("a line without a colon", "Xa"),
        field("a colon alone", ":"),
    ]
}

fn hosts() -> Vec<Input> {
    let host =
        |name, lines: &str| head(name, &format!("GET / HTTP/1.1\r\n{lines}X: y\r\n\r\n"), 400);
    vec![
        host("no host", ""),
        host("two hosts", "Host: app\r\nHost: evil\r\n"),
        host("one host twice", "Host: app\r\nhost: app\r\n"),
        host("a host with a blank", "Host: app evil\r\n"),
        host("a host with a path", "Host: app/evil\r\n"),
        host("a host with user information", "Host: user@app\r\n"),
        host("a host with an open bracket", "Host: [::1\r\n"),
        host("a host with a closing bracket", "Host: ::1]\r\n"),
        host("a host with port 99999", "Host: app:99999\r\n"),
        host("a host with a named port", "Host: app:http\r\n"),
        host("a list of hosts", "Host: app,evil\r\n"),
        head(
            "two hosts in HTTP/1.0",
            "GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n",
            400,
        ),
    ]
}

fn versions() -> Vec<Input> {
    let version = |name, version: &str, status| {
        head(
            name,
            &format!("GET / {version}\r\nHost: app\r\n\r\n"),
            status,
        )
    };
    vec![
        version("HTTP/1.2", "HTTP/1.2", 505),
        version("HTTP/2.0 without its preface", "HTTP/2.0", 505),
        version("HTTP/3.0", "HTTP/3.0", 505),
        version("HTTP/9.9", "HTTP/9.9", 505),
        version("http/1.1 in lower case", "http/1.1", 400),
        version("HTTP/1.1x", "HTTP/1.1x", 400),
        version("HTTP/01.1", "HTTP/01.1", 400),
        version("HTTP/1", "HTTP/1", 400),
        version("a blank behind the version", "HTTP/1.1 ", 400),
        version("no version", "", 400),
        head("HTTP/0.9", "GET /\r\n", 400),
    ]
}

fn targets() -> Vec<Input> {
    let line = |name, line: &str| head(name, &format!("{line} HTTP/1.1\r\nHost: app\r\n\r\n"), 400);
    vec![
        line("two blanks before the target", "GET  /"),
        line("a tab before the target", "GET\t/"),
        line("a blank in the target", "GET /a b"),
        line("a blank in front", " GET /"),
        line("no method", "/"),
        line("a method that is no token", "GE(T /"),
        line("NUL in the target", "GET /\0"),
        line("a control character in the target", "GET /\x1b[2J"),
        line("a fragment", "GET /a#b"),
        line("neither path nor URI", "GET smuggled"),
        line("GET with an asterisk", "GET *"),
        line("GET with host and port", "GET evil:80"),
        line("another host in the target", "GET http://evil/"),
        line("another port in the target", "GET http://app:81/"),
        line("user information in the target", "GET http://app@evil/"),
        line("a password in the target", "GET http://u:p@app/"),
        line("an open bracket in the target", "GET http://[::1/"),
        line("port 99999 in the target", "GET http://app:99999/"),
        line("no authority in the target", "GET http:///"),
        line("CONNECT here", "CONNECT app:80"),
        line("CONNECT to a path", "CONNECT /"),
        line("CONNECT without a port", "CONNECT app"),
        input(
            "bytes in the target that are no UTF-8",
            [
                b"GET /\xff\xfe HTTP/1.1\r\nHost: app\r\n\r\n",
                AFTER.as_bytes(),
            ]
            .concat(),
            Gets::Status(400),
        ),
        line(
            "a method that stands in for refused requests",
            "PILLION-REFUSED /",
        ),
    ]
}

fn sizes() -> Vec<Input> {
    let mega = "a".repeat(1 << 20);
    let field = |name, field: &str| {
        head(
            name,
            &format!("GET / HTTP/1.1\r\nHost: app\r\n{field}: {mega}\r\n\r\n"),
            431,
        )
    };
    let many = |count: usize| -> String { (0..count).map(|n| format!("X{n}: {n}\r\n")).collect() };
    vec![
        head(
            "a target of 1 MB",
            &format!("GET /{mega} HTTP/1.1\r\nHost: app\r\n\r\n"),
            414,
        ),
        head(
            "a method of 1 MB",
            &format!("{} / HTTP/1.1\r\n\r\n", mega.to_uppercase()),
            414,
        ),
        head("a request line without end", &mega, 414),
        field("a traceparent of 1 MB", "traceparent"),
        field("a tracestate of 1 MB", "tracestate"),
        field("a baggage of 1 MB", "baggage"),
        field("an uber-trace-id of 1 MB", "uber-trace-id"),
        field("a cookie of 1 MB", "Cookie"),
        head(
            "a name of 1 MB",
            &format!("GET / HTTP/1.1\r\nHost: app\r\n{mega}: 1\r\n\r\n"),
            431,
        ),
        head(
            "101 fields",
            &format!("GET / HTTP/1.1\r\nHost: app\r\n{}\r\n", many(100)),
            431,
        ),
        head(
            "10,000 fields",
            &format!("GET / HTTP/1.1\r\nHost: app\r\n{}\r\n", many(10_000)),
            431,
        ),
        head("empty lines without end", &"\r\n".repeat(20_000), 414),
        post(
            "a length over the limit",
            "Content-Length: 2000000",
            "",
            413,
        ),
    ]
}

fn bodies() -> Vec<Input> {
    let zeros = format!("{}1\r\na\r\n0\r\n\r\n", "0".repeat(40));
    let extension = format!("1;{}\r\na\r\n0\r\n\r\n", "x".repeat(20_000));
    let trailers = format!("0\r\n{}\r\n", "X: y\r\n".repeat(200));
    let large_trailer = format!("0\r\nX: {}\r\n\r\n", "y".repeat(40_000));
    let mut too_large = chunks(
        "chunks over the limit",
        &format!("{:x}\r\n{}\r\n0\r\n\r\n", 2_000_000, "b".repeat(2_000_000)),
    );
    too_large.gets = Gets::Status(413);
    let mut many_trailers = chunks("200 trailers", &trailers);
    many_trailers.gets = Gets::Status(431);
    let mut one_trailer = chunks("a trailer of 40 KB", &large_trailer);
    one_trailer.gets = Gets::Status(431);
    let short = |name, bytes: &str| Input {
        name,
        bytes: bytes.into(),
        gets: Gets::Status(400),
        sees: Sees::Part,
    };
    vec![
        chunks("no chunk size", "\r\nabc\r\n0\r\n\r\n"),
        chunks("a chunk size that is no number", "g\r\n"),
        chunks("a negative chunk size", "-1\r\na\r\n0\r\n\r\n"),
        chunks("a chunk size with a plus", "+1\r\na\r\n0\r\n\r\n"),
        chunks("a chunk size with a prefix", "0x1\r\na\r\n0\r\n\r\n"),
        chunks("a chunk size with blanks behind", "1  \r\na\r\n0\r\n\r\n"),
        chunks("a chunk size with a blank in front", " 1\r\na\r\n0\r\n\r\n"),
        chunks(
            "a chunk size of 2^64",
            "10000000000000000\r\na\r\n0\r\n\r\n",
        ),
        chunks(
            "a chunk size of 2^64-1",
            "ffffffffffffffff\r\na\r\n0\r\n\r\n",
        ),
        chunks("a chunk size with forty zeros", &zeros),
        chunks("a chunk size that ends with LF", "1\na\r\n0\r\n\r\n"),
        chunks(
            "a chunk size that ends with CR CR LF",
            "1\r\r\na\r\n0\r\n\r\n",
        ),
        chunks(
            "a chunk that is longer than its size",
            "1\r\nabc\r\n0\r\n\r\n",
        ),
        chunks("a chunk that ends with LF", "1\r\na\n0\r\n\r\n"),
        chunks("a chunk that ends with nothing", "1\r\na0\r\n\r\n"),
        chunks("an extension of 20 KB", &extension),
        chunks("LF in an extension", "1;a\nb\r\na\r\n0\r\n\r\n"),
        chunks("CR in an extension", "1;a\rb\r\na\r\n0\r\n\r\n"),
        chunks("a length in the trailers", "0\r\nContent-Length: 5\r\n\r\n"),
        chunks(
            "a coding in the trailers",
            "0\r\nTransfer-Encoding: chunked\r\n\r\n",
        ),
        chunks("a host in the trailers", "0\r\nHost: evil\r\n\r\n"),
        chunks("a trailer without a colon", "0\r\nevil\r\n\r\n"),
        chunks("a folded trailer", "0\r\nX: a\r\n b\r\n\r\n"),
        chunks("a trailer that ends with LF", "0\r\nX: a\n\r\n"),
        many_trailers,
        one_trailer,
        too_large,
        short(
            "a body shorter than its length",
            "POST / HTTP/1.1\r\nHost: app\r\nContent-Length: 10\r\n\r\nabc",
        ),
        short(
            "a body without its last chunk",
            "POST / HTTP/1.1\r\nHost: app\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        ),
        short(
            "half a chunk",
            "POST / HTTP/1.1\r\nHost: app\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
        ),
        short(
            "trailers without end",
            "POST / HTTP/1.1\r\nHost: app\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: y\r\n",
        ),
    ]
}

fn other_protocols() -> Vec<Input> {
    let binary: Vec<u8> = (0..4000_u32).map(|n| ((n * 7919) >> 3) as u8).collect();
    let hello = [
        b"\x16\x03\x01\x00\xc8\x01\x00\x00\xc4\x03\x03".as_slice(),
        &[0xab; 189],
        b"\r\n",
    ]
    .concat();
    vec![
        input("a TLS ClientHello", hello, Gets::Status(400)),
        input(
            "an SSH banner",
            *b"SSH-2.0-OpenSSH_9.9\r\n",
            Gets::Status(400),
        ),
        input("SMTP", *b"EHLO example.org\r\n", Gets::Status(400)),
        input("Redis", *b"*1\r\n$4\r\nPING\r\n", Gets::Status(400)),
        input(
            "noise with lines",
            [&binary[..], b"\n\n"].concat(),
            Gets::Status(400),
        ),
        input("zeros", vec![0; 40_000], Gets::Status(414)),
        input("half a request line", *b"GET / HT", Gets::Closed),
        input("half a head", *b"GET / HTTP/1.1\r\nHost: a", Gets::Closed),
        input("nothing", *b"", Gets::Closed),
        input(
            "an HTTP/2 preface with another ending",
            *b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
            Gets::Status(505),
        ),
    ]
}
