//! The names in a TLS ClientHello: which server is meant and which protocols are offered.
//!
//! Reads what passes in the clear and checks nothing else; a hello that cannot be read is passed on all the same.

use crate::model::Text;

/// The most of a connection's first bytes that is looked at. Usual hellos have 200 to 2,000 bytes.
pub const MAX_HELLO: usize = 16 * 1024;
/// Offered protocols beyond this many are not told.
const MAX_ALPN: usize = 8;
/// The longest host name (RFC 1035 section 2.3.4).
const MAX_NAME: usize = 253;

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;

/// What a ClientHello says in the clear.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClientHello {
    /// The server name (SNI); `None` when the client sends none or one that is no host name.
    pub server_name: Option<Text>,
    /// The offered protocols (ALPN) in the client's order, at most eight, those of printable ASCII alone.
    pub alpn: Vec<Text>,
}

/// What a prefix of a TLS connection holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hello {
    /// The hello goes on.
    NeedMore,
    /// All of it.
    Whole(ClientHello),
    /// Not a ClientHello, or one that breaks its grammar or is larger than [`MAX_HELLO`].
    Malformed,
}

/// Reads the ClientHello at the beginning of a connection. It may lie in several records.
///
/// Source: RFC 8446 sections 4.1.2 and 5.1, RFC 6066 section 3, RFC 7301 section 3.1.
pub fn client_hello(prefix: &[u8]) -> Hello {
    let mut message = Vec::new();
    let mut rest = prefix;
    loop {
        match whole_message(&message) {
            Message::Whole(body) => {
                return body_of(body).map_or(Hello::Malformed, Hello::Whole);
            }
            Message::Wrong => return Hello::Malformed,
            Message::NeedMore => {}
        }
        if prefix.len() > MAX_HELLO || message.len() > MAX_HELLO {
            return Hello::Malformed;
        }
        let [kind, major, _, high, low, after @ ..] = rest else {
            return more_unless(rest.first().is_some_and(|kind| *kind != HANDSHAKE));
        };
        let len = usize::from(u16::from_be_bytes([*high, *low]));
        if *kind != HANDSHAKE || *major != 3 || !(1..=1 << 14).contains(&len) {
            return Hello::Malformed;
        }
        let available = len.min(after.len());
        message.extend_from_slice(after.get(..available).unwrap_or_default());
        rest = after.get(available..).unwrap_or_default();
    }
}

fn more_unless(wrong: bool) -> Hello {
    if wrong {
        Hello::Malformed
    } else {
        Hello::NeedMore
    }
}

enum Message<'a> {
    NeedMore,
    Whole(&'a [u8]),
    Wrong,
}

/// The body of the first handshake message.
fn whole_message(message: &[u8]) -> Message<'_> {
    match message {
        [] => Message::NeedMore,
        [kind, ..] if *kind != CLIENT_HELLO => Message::Wrong,
        [_, a, b, c, body @ ..] => {
            let len = u32::from_be_bytes([0, *a, *b, *c]) as usize;
            if len > MAX_HELLO {
                return Message::Wrong;
            }
            body.get(..len).map_or(Message::NeedMore, Message::Whole)
        }
        _ => Message::NeedMore,
    }
}

fn body_of(body: &[u8]) -> Option<ClientHello> {
    let mut body = Reader(body);
    body.take(2 + 32)?;
    let session = body.vector8()?;
    let ciphers = body.vector16()?;
    let compressions = body.vector8()?;
    if session.len() > 32 || ciphers.is_empty() || compressions.is_empty() {
        return None;
    }
    let mut hello = ClientHello::default();
    if body.0.is_empty() {
        // TLS 1.2 and before may go without extensions.
        return Some(hello);
    }
    let mut extensions = Reader(body.vector16()?);
    while !extensions.0.is_empty() {
        let kind = extensions.u16()?;
        let mut content = Reader(extensions.vector16()?);
        match kind {
            SERVER_NAME => hello.server_name = server_name(&mut content)?,
            ALPN => hello.alpn = protocols(&mut content)?,
            _ => {}
        }
    }
    Some(hello)
}

/// Outer `None`: malformed. Inner `None`: no host name in the list.
fn server_name(content: &mut Reader<'_>) -> Option<Option<Text>> {
    let mut list = Reader(content.vector16()?);
    let mut found = None;
    while !list.0.is_empty() {
        let kind = list.take(1)?;
        let name = list.vector16()?;
        if kind == [0] && found.is_none() {
            found = host_name(name);
        }
    }
    Some(found)
}

fn host_name(name: &[u8]) -> Option<Text> {
    let fits = (1..=MAX_NAME).contains(&name.len());
    let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    let text = std::str::from_utf8(name).ok()?;
    (fits && name.iter().all(is_name)).then(|| Text::new(text))
}

fn protocols(content: &mut Reader<'_>) -> Option<Vec<Text>> {
    let mut list = Reader(content.vector16()?);
    let mut found = Vec::new();
    while !list.0.is_empty() {
        let name = list.vector8()?;
        if name.is_empty() {
            return None;
        }
        // GREASE values (RFC 8701) are no text.
        let printable = name.iter().all(u8::is_ascii_graphic);
        if printable && found.len() < MAX_ALPN {
            found.push(Text::new(std::str::from_utf8(name).ok()?));
        }
    }
    Some(found)
}

/// Reads from the front; `None` when there is too little.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn u16(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    fn vector8(&mut self) -> Option<&'a [u8]> {
        let len = *self.take(1)?.first()?;
        self.take(usize::from(len))
    }

    fn vector16(&mut self) -> Option<&'a [u8]> {
        let len = self.u16()?;
        self.take(usize::from(len))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
        [
            &kind.to_be_bytes()[..],
            &(content.len() as u16).to_be_bytes(),
            content,
        ]
        .concat()
    }

    fn list16(content: &[u8]) -> Vec<u8> {
        [&(content.len() as u16).to_be_bytes()[..], content].concat()
    }

    fn sni(name: &str) -> Vec<u8> {
        extension(0, &list16(&[&[0][..], &list16(name.as_bytes())].concat()))
    }

    fn alpn(names: &[&[u8]]) -> Vec<u8> {
        let list: Vec<u8> = names
            .iter()
            .flat_map(|name| [&[name.len() as u8][..], name].concat())
            .collect();
        extension(16, &list16(&list))
    }

    fn message(extensions: &[u8]) -> Vec<u8> {
        let mut body = vec![3, 3];
        body.extend([7; 32]);
        body.extend([0, 0, 2, 0x13, 1, 1, 0]);
        if !extensions.is_empty() {
            body.extend(list16(extensions));
        }
        [&[1][..], &(body.len() as u32).to_be_bytes()[1..], &body].concat()
    }

    fn records(message: &[u8], size: usize) -> Vec<u8> {
        message
            .chunks(size)
            .flat_map(|part| [&[22, 3, 1][..], &list16(part)].concat())
            .collect()
    }

    fn names(bytes: &[u8]) -> Option<(Option<String>, Vec<String>)> {
        match client_hello(bytes) {
            Hello::Whole(hello) => Some((
                hello.server_name.map(|name| name.to_string()),
                hello.alpn.iter().map(Text::to_string).collect(),
            )),
            _ => None,
        }
    }

    #[test]
    fn names_are_read_from_one_record_or_many_and_never_too_early() {
        let extensions = [sni("shop.example"), alpn(&[b"h2", b"http/1.1"])].concat();
        let message = message(&extensions);
        for size in [message.len(), 1, 7, 64] {
            let bytes = records(&message, size);
            for len in 0..bytes.len() {
                assert_eq!(client_hello(&bytes[..len]), Hello::NeedMore, "{len}");
            }
            let expected = Some((
                Some("shop.example".to_owned()),
                vec!["h2".to_owned(), "http/1.1".to_owned()],
            ));
            assert_eq!(names(&bytes), expected, "{size}");
        }
    }

    #[test]
    fn what_is_absent_or_odd_is_left_out() {
        for (extensions, expected, why) in [
            (Vec::new(), (None, vec![]), "no extensions"),
            (
                sni("10.0.0.1"),
                (Some("10.0.0.1"), vec![]),
                "forbidden, and some send it",
            ),
            (sni("a b"), (None, vec![]), "no host name"),
            (sni(&"a".repeat(254)), (None, vec![]), "longer than a name"),
            (alpn(&[&[0x0a, 0x0a], b"h2"]), (None, vec!["h2"]), "GREASE"),
            (
                extension(0x0a0a, b""),
                (None, vec![]),
                "an unknown extension",
            ),
        ] {
            let (name, alpn) = names(&records(&message(&extensions), 4096)).unwrap();
            assert_eq!(
                (name.as_deref(), alpn),
                (
                    expected.0,
                    expected.1.iter().map(|a| (*a).to_owned()).collect()
                ),
                "{why}"
            );
        }
    }

    #[test]
    fn malformed_hellos_are_told() {
        let good = records(&message(&sni("a.example")), 4096);
        let mut lengths = good.clone();
        lengths[5 + 4 + 2 + 32] = 33;
        let mut server = good.clone();
        server[5] = 2;
        for (bytes, why) in [
            (server, "a ServerHello"),
            (lengths, "a session id of 33 bytes"),
            ([&[23][..], &good[1..]].concat(), "application data"),
            (vec![22, 3, 1, 0, 0], "an empty record"),
            (vec![22, 3, 1, 0, 4, 1, 1, 0, 0], "a message of 64 KiB"),
            (
                records(&message(&extension(0, &[0, 9, 0])), 4096),
                "a list cut short",
            ),
            (records(&message(&alpn(&[b""])), 4096), "an empty protocol"),
        ] {
            assert_eq!(client_hello(&bytes), Hello::Malformed, "{why}");
        }
    }

    proptest! {
        #[test]
        fn no_input_breaks_it(bytes in proptest::collection::vec(any::<u8>(), 0..300), cut in 0usize..200, flip in 0usize..200) {
            client_hello(&bytes);
            let mut hello = records(&message(&[sni("a.example"), alpn(&[b"h2"])].concat()), 50);
            let at = flip % hello.len();
            hello[at] = hello[at].wrapping_add(1);
            client_hello(&hello);
            client_hello(&hello[..cut.min(hello.len())]);
        }
    }
}
