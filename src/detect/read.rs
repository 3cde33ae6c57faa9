//! Reading until the rule has decided.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::Poll;
use std::task::ready;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::AsyncRead;
use tokio::io::ReadBuf;

use super::Protocol;
use super::Reason;
use super::Sniff;
use super::sniff;
use crate::net::rewind::Rewind;

/// Enough for the head of a usual request, so that it is read and parsed in one go.
const READ: usize = 2048;

/// Reads from `io` until its protocol is clear, at most for `timeout`. The bytes are put back.
///
/// Holds no buffer while the peer is silent. Whatever the outcome, the connection comes back whole; after
/// [`Protocol::Timeout`] the caller may go on as with opaque bytes.
///
/// # Errors
/// The connection broke.
pub async fn detect<IO>(mut io: IO, timeout: Duration) -> io::Result<(Protocol, Rewind<IO>)>
where
    IO: AsyncRead + Unpin,
{
    let mut prefix = BytesMut::new();
    let decided = tokio::time::timeout(timeout, decide(&mut io, &mut prefix)).await;
    let protocol = match decided {
        Ok(protocol) => protocol?,
        Err(_) => Protocol::Timeout,
    };
    Ok((protocol, Rewind::new(io, prefix.freeze())))
}

async fn decide<IO>(io: &mut IO, prefix: &mut BytesMut) -> io::Result<Protocol>
where
    IO: AsyncRead + Unpin,
{
    loop {
        let end = read_more(io, prefix).await? == 0;
        if let Some(protocol) = verdict(prefix, end) {
            return Ok(protocol);
        }
    }
}

/// What a connection carries whose first bytes these are; `None` when more must tell. `end`: no more will come.
pub fn verdict(prefix: &[u8], end: bool) -> Option<Protocol> {
    match sniff(prefix) {
        _ if prefix.is_empty() && end => Some(Protocol::Closed),
        Sniff::NeedMore if end => Some(Protocol::Opaque(Reason::Truncated)),
        Sniff::NeedMore => None,
        Sniff::Http1 => Some(Protocol::Http1),
        Sniff::Http2 => Some(Protocol::Http2),
        Sniff::Tls => Some(Protocol::Tls),
        Sniff::Opaque(reason) => Some(Protocol::Opaque(reason)),
    }
}

/// Appends what is there and says how much that was; 0 at the end. The buffer lives on the stack of each poll:
/// thousands of silent connections hold none. Nothing is lost when the future is dropped.
///
/// # Errors
/// The connection broke.
pub async fn read_more<IO>(io: &mut IO, prefix: &mut BytesMut) -> io::Result<usize>
where
    IO: AsyncRead + Unpin,
{
    poll_fn(|cx| {
        let mut buffer = [MaybeUninit::uninit(); READ];
        let mut buf = ReadBuf::uninit(&mut buffer);
        ready!(Pin::new(&mut *io).poll_read(cx, &mut buf))?;
        prefix.extend_from_slice(buf.filled());
        Poll::Ready(Ok(buf.filled().len()))
    })
    .await
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::io::AsyncWriteExt;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(10);

    async fn all<IO: AsyncRead + Unpin>(mut io: IO) -> Vec<u8> {
        let mut bytes = Vec::new();
        io.read_to_end(&mut bytes).await.unwrap();
        bytes
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_cut_at_any_byte_is_recognised_and_comes_back_whole() {
        for (bytes, protocol) in [
            (&b"GET /a HTTP/1.1\r\nHost: b\r\n\r\n"[..], Protocol::Http1),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0", Protocol::Http2),
            (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", Protocol::Tls),
            (b"*1\r\n$4\r\nPING\r\n", Protocol::Opaque(Reason::Method)),
        ] {
            for cut in 1..bytes.len() {
                let io = tokio_test::io::Builder::new()
                    .read(&bytes[..cut])
                    .wait(Duration::from_millis(1))
                    .read(&bytes[cut..])
                    .build();
                let (detected, rewind) = detect(io, TIMEOUT).await.unwrap();
                assert_eq!(detected, protocol, "{cut} of {bytes:x?}");
                assert_eq!(all(rewind).await, bytes, "{cut}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn silence_and_half_a_word_end_with_the_timeout() {
        for sent in [&b""[..], b"GE", b"PRI * HT"] {
            let (mut client, server) = tokio::io::duplex(64);
            client.write_all(sent).await.unwrap();
            let start = tokio::time::Instant::now();
            let (detected, rewind) = detect(server, TIMEOUT).await.unwrap();
            assert_eq!(detected, Protocol::Timeout);
            assert_eq!(start.elapsed(), TIMEOUT);
            client.write_all(b" and more").await.unwrap();
            drop(client);
            assert_eq!(all(rewind).await, [sent, b" and more"].concat());
        }
    }

    #[tokio::test]
    async fn a_peer_that_closes_early_is_told_apart_from_one_that_said_something() {
        for (sent, protocol) in [
            (&b""[..], Protocol::Closed),
            (b"GE", Protocol::Opaque(Reason::Truncated)),
        ] {
            let (mut client, server) = tokio::io::duplex(64);
            client.write_all(sent).await.unwrap();
            drop(client);
            let (detected, rewind) = detect(server, TIMEOUT).await.unwrap();
            assert_eq!(detected, protocol);
            assert_eq!(all(rewind).await, sent);
        }
    }

    #[tokio::test]
    async fn a_broken_connection_is_an_error() {
        let io = tokio_test::io::Builder::new()
            .read(b"GE")
            .read_error(io::ErrorKind::ConnectionReset.into())
            .build();
        let error = detect(io, TIMEOUT).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
}
