//! gRPC's frames and status, for callers and servers of single methods.
//!
//! Source: gRPC "PROTOCOL-HTTP2.md".

use bytes::Buf;
use bytes::BufMut;
use bytes::Bytes;
use bytes::BytesMut;
use http::HeaderMap;
use http::HeaderValue;
use percent_encoding::AsciiSet;
use percent_encoding::CONTROLS;

/// `application/grpc`.
pub const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("application/grpc");

const HEAD: usize = 5;

/// One message in its frame, not compressed.
pub fn frame(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(HEAD + message.len());
    frame.put_u8(0);
    // Messages here are answers and questions of a few bytes.
    frame.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    frame.put_slice(message);
    frame.freeze()
}

/// One message out of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Whether the bytes are compressed as `grpc-encoding` says.
    pub compressed: bool,
    /// The content.
    pub bytes: Bytes,
}

/// Why a stream of frames cannot be read on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A message larger than the limit is announced.
    #[error("message exceeds {0} bytes")]
    TooLarge(usize),
    /// The first byte is neither 0 nor 1.
    #[error("malformed frame")]
    Malformed,
}

/// Cuts a stream of bytes into messages. Holds one message and what came after it at most.
#[derive(Debug)]
pub struct Frames {
    buffer: BytesMut,
    limit: usize,
}

impl Frames {
    /// For messages of at most `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self {
            buffer: BytesMut::new(),
            limit,
        }
    }

    /// Takes the next bytes of the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message; `Ok(None)` until more bytes have come.
    ///
    /// # Errors
    /// [`FrameError`]: the rest of the stream cannot be understood.
    pub fn pop(&mut self) -> Result<Option<Message>, FrameError> {
        let Some(([flag, length @ ..], _)) = self.buffer.split_first_chunk::<HEAD>() else {
            return Ok(None);
        };
        let compressed = match flag {
            0 => false,
            1 => true,
            _ => return Err(FrameError::Malformed),
        };
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        if length > self.limit {
            return Err(FrameError::TooLarge(self.limit));
        }
        if self.buffer.len() - HEAD < length {
            return Ok(None);
        }
        self.buffer.advance(HEAD);
        let bytes = self.buffer.split_to(length).freeze();
        Ok(Some(Message { compressed, bytes }))
    }

    /// True between messages: a stream that ends here is whole.
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }
}

/// The numbers of gRPC's status that are used here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// Done.
    Ok = 0,
    /// Nothing said what happened.
    Unknown = 2,
    /// The message makes no sense.
    InvalidArgument = 3,
    /// Too large, or too much at once.
    ResourceExhausted = 8,
    /// No such method.
    Unimplemented = 12,
    /// Not now.
    Unavailable = 14,
}

/// The trailers that end a call.
pub fn trailers(code: Code, message: &str) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from(code as u16));
    if !message.is_empty() {
        let text = percent_encoding::utf8_percent_encode(message, MESSAGE).to_string();
        if let Ok(text) = HeaderValue::try_from(text) {
            trailers.insert("grpc-message", text);
        }
    }
    trailers
}

/// What `grpc-message` escapes.
const MESSAGE: &AsciiSet = &CONTROLS.add(b'%');

/// Code and message of a call that ended; the headers stand in where a server that fails at once sends no trailers.
pub fn status(headers: &HeaderMap, trailers: &HeaderMap) -> (u32, String) {
    let place = if trailers.contains_key("grpc-status") {
        trailers
    } else {
        headers
    };
    let code = place
        .get("grpc-status")
        .and_then(|code| code.to_str().ok()?.parse().ok())
        .unwrap_or(Code::Unknown as u32);
    let message = place.get("grpc-message").map(|message| {
        percent_encoding::percent_decode(message.as_bytes())
            .decode_utf8_lossy()
            .into_owned()
    });
    (code, message.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_out_however_their_bytes_were_cut() {
        let stream = [&frame(b"one")[..], &frame(b""), &frame(b"three")].concat();
        for size in 1..=stream.len() {
            let mut frames = Frames::new(10);
            let mut messages = Vec::new();
            for bytes in stream.chunks(size) {
                frames.push(bytes);
                while let Some(message) = frames.pop().unwrap() {
                    messages.push(message.bytes);
                }
            }
            assert_eq!(messages, ["one", "", "three"], "{size}");
            assert!(frames.is_empty());
        }
    }

    #[test]
    fn what_is_no_frame_or_too_large_is_refused_by_its_head() {
        for (bytes, error) in [
            (&[2, 0, 0, 0, 0][..], FrameError::Malformed),
            (&[0, 0, 0, 0, 11], FrameError::TooLarge(10)),
            (&[1, 0xff, 0xff, 0xff, 0xff], FrameError::TooLarge(10)),
        ] {
            let mut frames = Frames::new(10);
            frames.push(bytes);
            assert_eq!(frames.pop(), Err(error));
        }
    }

    #[test]
    fn a_status_comes_back_as_it_was_given() {
        for message in ["", "100 % Ä\n"] {
            let trailers = trailers(Code::Unavailable, message);
            assert_eq!(
                status(&HeaderMap::new(), &trailers),
                (14, message.to_owned())
            );
            assert_eq!(
                status(&trailers, &HeaderMap::new()),
                (14, message.to_owned())
            );
        }
        assert_eq!(status(&HeaderMap::new(), &HeaderMap::new()).0, 2);
    }
}
