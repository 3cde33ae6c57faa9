//! Callers that break HTTP/1.

use std::net::SocketAddr;

use super::check_nothing_smuggled;
use super::eventually;
use super::next_is_served;
use super::settings;
use super::status_of;
use crate::support::proxy::Pillion;
use crate::support::raw::Missing;
use crate::support::raw::Peer;
use crate::support::raw::Recorder;
use crate::support::raw::find;
use crate::support::raw::show;

/// What the caller gets.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Gets {
    /// This status with a text of ours.
    Status(u16),
    /// Nothing: the connection ends.
    Closed,
}

/// What the upstream may see.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Sees {
    /// Not a byte.
    Nothing,
    /// The beginning of a request that does not end.
    Part,
}

struct Input {
    name: &'static str,
    bytes: Vec<u8>,
    gets: Gets,
    sees: Sees,
}

/// After each input comes a request that must not be served.
const AFTER: &str = "GET /smuggled HTTP/1.1\r\nHost: evil\r\n\r\n";

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

fn inputs() -> Vec<Input> {
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

pub(super) fn count() -> usize {
    inputs().len() + SLOW.len()
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

async fn run(
    input: &Input,
    in_pieces: bool,
    to: SocketAddr,
    upstream: &Recorder,
) -> Result<(), String> {
    upstream.restart(|_, peer| crate::support::raw::friendly(peer));
    let mut caller = Peer::connect(to).await;
    if in_pieces {
        caller.send_in_pieces(&input.bytes, 7).await;
    } else {
        caller.send(&input.bytes).await;
    }
    caller.half_close().await;
    let answer = caller.rest().await.map_err(|Missing(why)| why)?;
    match input.gets {
        Gets::Closed if answer.is_empty() => {}
        Gets::Status(status) if status_of(&answer) == status => {
            if find(&answer, b"\r\n\r\npillion: ").is_none() {
                return Err(format!("no text of ours: {}", show(&answer)));
            }
            if find(&answer[9..], b"HTTP/1.1 ").is_some() {
                return Err(format!("more than one answer: {}", show(&answer)));
            }
        }
        expected => return Err(format!("expected {expected:?}, got {}", show(&answer))),
    }
    check_nothing_smuggled(upstream)?;
    let seen = upstream.all();
    let whole = crate::support::raw::message_length(&seen, 0);
    match input.sees {
        Sees::Nothing if !seen.is_empty() => Err(format!("the upstream saw {}", show(&seen))),
        Sees::Part if whole.is_some() => Err(format!("the upstream saw all of {}", show(&seen))),
        _ => next_is_served(to).await,
    }
}

/// Every input once; what failed.
pub(super) async fn run_all(to: SocketAddr, upstream: &Recorder, in_pieces: bool) -> Vec<String> {
    let mut failures = Vec::new();
    for input in inputs() {
        if in_pieces && input.bytes.len() > 3000 {
            continue;
        }
        if let Err(why) = run(&input, in_pieces, to, upstream).await {
            failures.push(format!("{}: {why}", input.name));
        }
    }
    failures
}

async fn check_all(in_pieces: bool) {
    let upstream = Recorder::friendly().await;
    let proxy = Pillion::inbound_to(upstream.addr, settings());
    let failures = run_all(proxy.inbound(), &upstream, in_pieces).await;
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    let refused = proxy.metric("pillion_rejections_total", &[]).await;
    assert!(refused > 0.0, "refusals are counted");
}

#[tokio::test]
async fn bad_requests_are_refused_and_nothing_is_smuggled() {
    check_all(false).await;
}

#[tokio::test]
async fn bad_requests_are_refused_wherever_they_are_cut() {
    check_all(true).await;
}

/// Bytes, then silence.
const SLOW: &[(&str, &str, Gets)] = &[
    ("silence", "", Gets::Closed),
    ("silence in the method", "GE", Gets::Status(408)),
    ("silence in the request line", "GET / HT", Gets::Status(408)),
    (
        "silence in the head",
        "GET / HTTP/1.1\r\nHost: a",
        Gets::Status(408),
    ),
    (
        "silence before the end of the head",
        "GET / HTTP/1.1\r\nHost: a\r\n",
        Gets::Status(408),
    ),
    ("silence in a TLS hello", "\x16\x03\x01", Gets::Status(408)),
];

#[tokio::test]
async fn whoever_stops_in_the_middle_is_told_and_closed() {
    let upstream = Recorder::friendly().await;
    let proxy = Pillion::inbound_to(upstream.addr, settings());
    for (name, bytes, gets) in SLOW {
        let mut caller = Peer::connect(proxy.inbound()).await;
        caller.send(bytes.as_bytes()).await;
        let answer = caller.rest().await.unwrap();
        match gets {
            Gets::Closed => assert!(answer.is_empty(), "{name}: {}", show(&answer)),
            Gets::Status(status) => assert_eq!(status_of(&answer), *status, "{name}"),
        }
        next_is_served(proxy.inbound()).await.unwrap();
    }
    let late = ["reason=\"head_timeout\""];
    eventually("every late head is counted", async || {
        proxy.metric("pillion_rejections_total", &late).await == 5.0
    })
    .await;
}

#[tokio::test]
async fn a_head_that_drips_has_no_more_time_than_one_that_stops() {
    let upstream = Recorder::friendly().await;
    let proxy = Pillion::inbound_to(upstream.addr, settings());
    let mut caller = Peer::connect(proxy.inbound()).await;
    caller.send(b"GET / HTTP/1.1\r\n").await;
    let mut answer = Vec::new();
    for _ in 0..200 {
        if !answer.is_empty() {
            break;
        }
        caller.send(b"X: y\r\n").await;
        answer = caller.within(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(status_of(&answer), 408, "{}", show(&answer));
}

#[tokio::test]
async fn a_bad_request_behind_good_ones_is_answered_in_its_turn() {
    let upstream = Recorder::friendly().await;
    let proxy = Pillion::inbound_to(upstream.addr, settings());
    let good = "GET /1 HTTP/1.1\r\nHost: app\r\n\r\nPOST /2 HTTP/1.1\r\nHost: app\r\nContent-Length: 3\r\n\r\nabc";
    let bad = "GET /3 HTTP/1.1\nHost: app\r\n\r\n";
    let mut caller = Peer::connect(proxy.inbound()).await;
    caller.send(format!("{good}{bad}{AFTER}").as_bytes()).await;
    let answers = [
        caller.response().await.unwrap(),
        caller.response().await.unwrap(),
        caller.rest().await.unwrap(),
    ];
    assert_eq!(
        answers.each_ref().map(|answer| status_of(answer)),
        [200, 200, 400]
    );
    check_nothing_smuggled(&upstream).unwrap();
    assert!(find(&upstream.all(), b"/3").is_none());
}

#[tokio::test]
async fn every_byte_of_a_target_passes_as_it_is_or_is_refused() {
    let upstream = Recorder::friendly().await;
    let proxy = Pillion::inbound_to(upstream.addr, settings());
    let mut without_text = Vec::new();
    for byte in 0_u8..=127 {
        for place in ["/a{}b", "/?a{}b"] {
            let target = place.replace("{}", &char::from(byte).to_string());
            upstream.restart(|_, peer| crate::support::raw::friendly(peer));
            let mut caller = Peer::connect(proxy.inbound()).await;
            let line = format!("GET {target} HTTP/1.1\r\n");
            caller
                .send(format!("{line}Host: app\r\nConnection: close\r\n\r\n").as_bytes())
                .await;
            let answer = caller.rest().await.unwrap();
            match status_of(&answer) {
                200 => assert!(upstream.all().starts_with(line.as_bytes()), "{target:?}"),
                400 => {
                    assert!(upstream.all().is_empty(), "{target:?}");
                    if find(&answer, b"pillion: ").is_none() {
                        without_text.push(target);
                    }
                }
                other => panic!("{target:?}: {other} {}", show(&answer)),
            }
        }
    }
    assert!(without_text.is_empty(), "{without_text:?}");
}
