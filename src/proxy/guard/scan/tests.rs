//! Streams that pass and streams that do not, cut at every byte.

use proptest::prelude::*;

use super::*;

const BOUNDS: Bounds = Bounds {
    head: 2000,
    fields: 5,
};

/// Feeds in two parts, as a connection would: what passed is gone, the rest comes again with more.
fn feed(bytes: &[u8], cut: usize) -> (usize, Option<Stop>) {
    let mut scanner = Scanner::new(BOUNDS);
    let first = scanner.scan(&bytes[..cut]);
    match first.stop {
        None | Some(Stop::Incomplete) => {
            let second = scanner.scan(&bytes[first.pass..]);
            (first.pass + second.pass, second.stop)
        }
        stop => (first.pass, stop),
    }
}

/// The same verdict wherever the bytes are cut.
fn check(bytes: &[u8], pass: usize, stop: Option<Stop>, why: &str) {
    for cut in 0..=bytes.len() {
        let got = feed(bytes, cut);
        assert_eq!(
            got,
            (pass, stop),
            "{why}, cut at {cut}: {}",
            bytes.escape_ascii()
        );
    }
}

#[test]
fn well_formed_streams_pass_whole() {
    for stream in [
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nhost:\r\n\r\n",
        "GET /10 HTTP/1.0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n3\r\nabc\r\n00A;x=\"y z\"\r\n0123456789\r\n0\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:chunked\t \r\n\r\n0\r\nx: 1\r\ny: 2\r\n\r\n",
        "get http://a:80/x?y HTTP/1.1\r\nHost: a\r\nX: \t a \x7e\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /\u{e9} HTTP/1.1\r\nHost: a\r\nX: \u{e9}\r\n\r\n",
    ] {
        check(stream.as_bytes(), stream.len(), None, "well-formed");
    }
}

#[test]
fn an_upgrade_holds_back_what_follows() {
    let head = "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: x\r\n\r\n";
    let stream = format!("{head}after");
    check(
        stream.as_bytes(),
        head.len(),
        Some(Stop::Undecided),
        "upgrade",
    );
    let head = "CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n";
    let stream = format!("{head}after");
    check(
        stream.as_bytes(),
        head.len(),
        Some(Stop::Undecided),
        "CONNECT",
    );
    let message = "POST / HTTP/1.1\r\nHost: a\r\nUpgrade: x\r\nContent-Length: 3\r\n\r\nabc";
    let stream = format!("{message}after");
    check(
        stream.as_bytes(),
        message.len(),
        Some(Stop::Undecided),
        "with a body",
    );
    let mut scanner = Scanner::new(BOUNDS);
    scanner.scan(message.as_bytes());
    assert!(scanner.is_undecided());
    scanner.stay();
    let next = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    assert_eq!(
        scanner.scan(next),
        Scanned {
            pass: next.len(),
            stop: None
        }
    );
}

#[test]
fn heads_that_can_be_read_in_two_ways_do_not_pass() {
    for (head, why) in [
        ("GET / HTTP/1.1\nHost: a\r\n\r\n", "bare LF"),
        ("GET / HTTP/1.1\r\nHost: a\n\r\n", "bare LF"),
        ("GET / HTTP/1.1\r\nHost: a\r\n\n", "bare LF"),
        ("GET / HTTP/1.1\r\r\nHost: a\r\n\r\n", "two CR"),
        ("GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n", "bare CR"),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\n\r\n",
            "a folded line",
        ),
        (
            "GET / HTTP/1.1\r\n Host: a\r\n\r\n",
            "a blank before the first name",
        ),
        (
            "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
            "a blank before the colon",
        ),
        ("GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n", "no colon"),
        ("GET / HTTP/1.1\r\nHost: a\r\n: x\r\n\r\n", "no name"),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n", "NUL"),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: \x7f\r\n\r\n", "DEL"),
        ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", "two blanks"),
        ("GET / HTTP/1.1 \r\nHost: a\r\n\r\n", "a blank at the end"),
        ("GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", "a tab"),
        (" GET / HTTP/1.1\r\nHost: a\r\n\r\n", "a blank in front"),
        ("GET /\r\n\r\n", "HTTP/0.9"),
        (
            "GET / http/1.1\r\nHost: a\r\n\r\n",
            "a version in lower case",
        ),
        ("GET /#x HTTP/1.1\r\nHost: a\r\n\r\n", "a fragment"),
        (
            "GET x HTTP/1.1\r\nHost: a\r\n\r\n",
            "neither a path nor a URI",
        ),
        (
            "GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n",
            "user information",
        ),
        ("GET http:/// HTTP/1.1\r\nHost: a\r\n\r\n", "no authority"),
        ("CONNECT / HTTP/1.1\r\nHost: a\r\n\r\n", "CONNECT to a path"),
        ("GET / HTTP/1.1\r\n\r\n", "no Host"),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", "two Hosts"),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", "no host"),
        (
            "GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
            "chunks in HTTP/1.0",
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "CL.TE",
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n",
            "TE.CL",
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
            "TE.TE",
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
            "CL.CL",
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n",
            "a sign",
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1,1\r\n\r\n",
            "a list",
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n",
            "nothing",
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 9999999999999999999\r\n\r\n",
            "more than there is",
        ),
    ] {
        let (pass, stop) = feed(head.as_bytes(), head.len());
        assert!(
            matches!(stop, Some(Stop::Head(Refusal::Malformed(_)))),
            "{why}: {stop:?}"
        );
        check(head.as_bytes(), pass, stop, why);
        assert_eq!(pass, 0, "{why}");
    }
    for (head, refusal) in [
        ("GET / HTTP/2.0\r\n\r\n", Refusal::Version),
        ("GET / HTTP/1.2\r\n\r\n", Refusal::Version),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n",
            Refusal::Coding,
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n",
            Refusal::Coding,
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n\r\n",
            Refusal::Coding,
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\na:\r\nb:\r\nc:\r\nd:\r\ne:\r\n\r\n",
            Refusal::TooManyFields,
        ),
    ] {
        check(
            head.as_bytes(),
            0,
            Some(Stop::Head(refusal)),
            "its own answer",
        );
    }
}

#[test]
fn what_is_too_large_is_refused_before_it_is_complete() {
    let mut scanner = Scanner::new(BOUNDS);
    let line = [b"GET /".as_slice(), &[b'x'; 2000]].concat();
    assert_eq!(
        scanner.scan(&line).stop,
        Some(Stop::Head(Refusal::TargetTooLong))
    );
    let mut scanner = Scanner::new(BOUNDS);
    let head = [b"GET / HTTP/1.1\r\nX: ".as_slice(), &[b'x'; 2000]].concat();
    assert_eq!(
        scanner.scan(&head).stop,
        Some(Stop::Head(Refusal::HeadTooLarge))
    );
    let mut scanner = Scanner::new(BOUNDS);
    let exactly = [
        b"GET / HTTP/1.1\r\nHost: a\r\nX: ".as_slice(),
        &[b'x'; 2000 - 28 - 4],
        b"\r\n\r\n",
    ]
    .concat();
    assert_eq!(exactly.len(), BOUNDS.head);
    assert_eq!(scanner.scan(&exactly).stop, None);
}

#[test]
fn chunks_that_can_be_read_in_two_ways_do_not_pass() {
    const HEAD: &str = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (body, passed, why) in [
        ("\r\n", 0, "no size"),
        ("g\r\n", 0, "no digit"),
        ("-1\r\n", 0, "a sign"),
        ("0x5\r\n", 1, "a prefix"),
        ("5 \r\n", 1, "a blank"),
        (" 5\r\n", 0, "a blank"),
        ("5\n", 1, "bare LF"),
        ("5\r\r\n", 2, "two CR"),
        ("3\r\nabcd\r\n", 6, "longer than its size"),
        ("3\r\nabc\n0\r\n", 6, "bare LF"),
        ("3;a\nb\r\n", 3, "LF in an extension"),
        ("3;a\0\r\n", 3, "NUL in an extension"),
        ("0000000000000001\r\n", 15, "leading zeros"),
        ("ffffffffffffffff\r\n", 15, "more than there is"),
        ("0\r\nContent-Length: 3\r\n\r\n", 3, "framing in trailers"),
        (
            "0\r\nTransfer-Encoding: chunked\r\n\r\n",
            3,
            "framing in trailers",
        ),
        ("0\r\nHost: b\r\n\r\n", 3, "a host in trailers"),
        ("0\r\nx y: 1\r\n\r\n", 3, "no name"),
        ("0\r\nx: 1\n\r\n", 3, "bare LF"),
        ("0\r\nx: 1\r\n y\r\n\r\n", 3, "a folded line"),
    ] {
        let stream = format!("{HEAD}{body}");
        let (pass, stop) = feed(stream.as_bytes(), stream.len());
        assert!(
            matches!(stop, Some(Stop::Body(Refusal::Malformed(_)))),
            "{why}: {stop:?}"
        );
        assert_eq!(pass - HEAD.len(), passed, "{why}");
        check(stream.as_bytes(), pass, stop, why);
    }
    let mut scanner = Scanner::new(BOUNDS);
    let endless = [HEAD.as_bytes(), b"1;", &[b'x'; 5000]].concat();
    assert!(matches!(scanner.scan(&endless).stop, Some(Stop::Body(_))));
    let mut scanner = Scanner::new(BOUNDS);
    let many = format!("{HEAD}0\r\n{}", "x: 1\r\n".repeat(7));
    assert_eq!(
        scanner.scan(many.as_bytes()).stop,
        Some(Stop::Body(Refusal::TooManyFields))
    );
}

/// Pieces of requests, good and bad, in any order.
const PIECES: &[&str] = &[
    "GET / HTTP/1.1\r\n",
    "POST /a?b HTTP/1.0\r\n",
    "CONNECT a:1 HTTP/1.1\r\n",
    "Host: a\r\n",
    "Content-Length: 3\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Upgrade: x\r\n",
    "X: y\r\n",
    "\r\n",
    "3\r\n",
    "abc\r\n",
    "0\r\n",
    "1;x\r\n",
    "\n",
    "\r",
    " ",
    ":",
    "\0",
    "\u{e9}",
];

proptest! {
    #[test]
    fn any_stream_is_judged_alike_wherever_it_is_cut(
        pieces in proptest::collection::vec(proptest::sample::select(PIECES), 0..24),
        cut in any::<proptest::sample::Index>(),
    ) {
        let stream = pieces.concat().into_bytes();
        let whole = feed(&stream, stream.len());
        prop_assert_eq!(feed(&stream, cut.index(stream.len() + 1)), whole);
        prop_assert!(whole.0 <= stream.len());
    }

    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        feed(&bytes, bytes.len() / 2);
    }

    /// A head that passes is one head to the library's parser too, with the same end.
    #[test]
    fn what_passes_is_what_the_library_reads(
        pieces in proptest::collection::vec(proptest::sample::select(&PIECES[..9]), 1..8),
    ) {
        let stream = [pieces.concat().as_bytes(), b"\r\n"].concat();
        let mut scanner = Scanner::new(BOUNDS);
        if let Ok(Some(len)) = scanner.read_head(&stream) {
            let mut fields = [httparse::EMPTY_HEADER; 16];
            let mut request = httparse::Request::new(&mut fields);
            prop_assert_eq!(request.parse(&stream), Ok(httparse::Status::Complete(len)));
        }
    }
}
