//! HTTP/2 frames by hand, for sending what no library sends.

use crate::support::raw::Missing;
use crate::support::raw::Peer;

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PUSH_PROMISE: u8 = 5;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const ACK: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// A frame as it was read.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(9 + payload.len());
    bytes.extend_from_slice(&u32::try_from(payload.len()).unwrap().to_be_bytes()[1..]);
    bytes.extend_from_slice(&[kind, flags]);
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// Preface and empty settings: what a client opens with.
pub(crate) fn opening() -> Vec<u8> {
    [PREFACE, &frame(SETTINGS, 0, 0, b"")].concat()
}

/// A header block of literals that are never indexed.
pub(crate) fn block(fields: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        bytes.push(0x10);
        string(name, &mut bytes);
        string(value, &mut bytes);
    }
    bytes
}

/// A plain string with its length as a prefixed integer (RFC 7541 section 5.1).
pub(crate) fn string(text: &[u8], bytes: &mut Vec<u8>) {
    let mut length = text.len();
    if length < 127 {
        bytes.push(length as u8);
    } else {
        bytes.push(127);
        length -= 127;
        while length >= 128 {
            bytes.push((length % 128) as u8 | 128);
            length /= 128;
        }
        bytes.push(length as u8);
    }
    bytes.extend_from_slice(text);
}

/// The pseudo-headers of a request.
pub(crate) const GET: [(&[u8], &[u8]); 4] = [
    (b":method", b"GET"),
    (b":scheme", b"http"),
    (b":authority", b"app"),
    (b":path", b"/h2"),
];

/// Reads one frame.
pub(crate) async fn read(peer: &mut Peer) -> Result<Frame, Missing> {
    let head = peer.exactly(9).await?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
    Ok(Frame {
        kind: head[3],
        flags: head[4],
        stream: u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & 0x7fff_ffff,
        payload: peer.exactly(length).await?,
    })
}

impl Frame {
    /// The error code of RST_STREAM and GOAWAY.
    pub(crate) fn code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        let code = self.payload.get(at..at + 4).unwrap_or(&[0; 4]);
        u32::from_be_bytes(code.try_into().unwrap())
    }

    /// `:status`, which comes first in a response's header block.
    pub(crate) fn status(&self) -> u16 {
        match self.payload[..] {
            [indexed @ 0x88..=0x8e, ..] => {
                [200, 204, 206, 304, 400, 404, 500][usize::from(indexed - 0x88)]
            }
            [0x48 | 0x08, length, ..] if length & 0x80 == 0 => {
                let text = std::str::from_utf8(&self.payload[2..2 + usize::from(length)]);
                text.unwrap().parse().unwrap()
            }
            [0x48 | 0x08, length, ..] => {
                huffman_digits(&self.payload[2..2 + usize::from(length & 0x7f)])
            }
            _ => 0,
        }
    }
}

/// Digits in the Huffman code of RFC 7541: 0 to 2 have five bits, the others six.
fn huffman_digits(bytes: &[u8]) -> u16 {
    let bits: Vec<u8> = bytes
        .iter()
        .flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1))
        .collect();
    let number = |bits: &[u8]| {
        bits.iter()
            .fold(0_u16, |number, bit| number * 2 + u16::from(*bit))
    };
    let (mut status, mut at) = (0, 0);
    while at + 5 <= bits.len() {
        let short = number(&bits[at..at + 5]);
        if short <= 2 {
            status = status * 10 + short;
            at += 5;
        } else if at + 6 <= bits.len() && (25..=31).contains(&number(&bits[at..at + 6])) {
            status = status * 10 + number(&bits[at..at + 6]) - 22;
            at += 6;
        } else {
            break;
        }
    }
    status
}
