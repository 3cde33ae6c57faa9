//! The straight path: plain HTTP/1.1 exchanges, read and written where they pass, in the connection's own task.
//!
//! Taken is what needs no judgement: a request that is whole when it is read and asks for nothing unusual, and a final
//! response with one length or in chunks. The guard reads every request first, as everywhere. Whatever else comes (half
//! a head, an upgrade, an expectation, interim responses, anything malformed, an answer that broke before its head was
//! whole) is handed over to the library with all bytes, so that it is judged, answered and counted in one place. A
//! connection that was handed over stays there, which costs it memory: so who is turned away because there is too much to
//! do, or because the upstream gives no answer, is answered here. A connection that waits holds no buffer.

mod begin;
mod chunks;
mod refuse;
mod relay;
mod request;
mod response;

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::time::Instant;

use bytes::BytesMut;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::io::AsyncWriteExt;
use tokio::io::ReadBuf;

use crate::net::rewind::Rewind;
use crate::proxy::config::AppProtocol;
use crate::proxy::error::ProxyError;
use crate::proxy::exchange::Exchange;
use crate::proxy::guard::Bounds;
use crate::proxy::listener::Conn;
use crate::proxy::listener::Role;
use crate::proxy::patience::Patience;
use crate::proxy::upstream::Lease;
use crate::proxy::upstream::Read;

/// Bytes of a request that are read at a time.
const READ: usize = 16 * 1024;

/// An exchange that was begun here and goes on in the library.
pub(super) struct Handover {
    pub(super) exchange: Box<Exchange>,
    pub(super) how: How,
    /// The caller wants no further exchange.
    closes: bool,
}

/// How far it got.
pub(super) enum How {
    /// There will be no response from upstream.
    Failed(ProxyError),
    /// The request was sent; this much of the answer came.
    Sent(Box<Lease>, Read),
}

/// What happens to a request in place of an exchange here.
enum Instead {
    /// The library serves it.
    Library(Option<Handover>),
    /// It was counted, and this is said; whether nobody wants a further one.
    Away(ProxyError, bool),
}

/// What is to become of a connection.
pub(super) enum After {
    /// It is over; whether it ended well.
    Over(bool),
    /// The library goes on: all bytes of the request are put back.
    Library(Option<Handover>),
}

/// A caller's connection.
type Caller<IO> = Patience<Rewind<IO>>;

/// True for connections whose requests go to HTTP/1 upstreams that are opened when there is a request.
fn takes(conn: &Conn) -> bool {
    let to_http1 = match conn.listener.role {
        Role::Inbound { .. } => conn.snapshot.app_protocol != AppProtocol::Http2,
        Role::ForwardProxy { .. } | Role::Route { .. } => true,
        Role::RedirectedInbound { .. } | Role::RedirectedOutbound { .. } => false,
    };
    to_http1 && !is_off()
}

/// For this repository's tests, which run what both paths must do with either: debug builds alone.
fn is_off() -> bool {
    cfg!(debug_assertions) && std::env::var_os("PILLION_TEST_LIBRARY_ALONE").is_some()
}

/// Serves requests until one comes that is the library's.
pub(super) async fn serve<IO>(conn: &Arc<Conn>, io: &mut Caller<IO>, bounds: Bounds) -> After
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    if !takes(conn) {
        return After::Library(None);
    }
    let signaled = conn.drain.signaled();
    tokio::pin!(signaled);
    let mut read = BytesMut::new();
    loop {
        if read.is_empty() {
            let woken = poll_fn(|cx| match poll_read(io, cx, &mut read) {
                Poll::Pending => signaled.as_mut().poll(cx).map(|()| Ok(0)),
                ready => ready,
            });
            match woken.await {
                Ok(0) => return After::Over(io.shutdown().await.is_ok()),
                Ok(_) => {}
                Err(_) => return After::Over(false),
            }
        }
        let mut paced = conn.paced().await;
        let (message, begun) = begin::begin(conn, &mut read, bounds, &mut paced);
        if let Some(told) = paced {
            conn.keep_paced(told);
        }
        let instead = match begun {
            Ok(begun) => {
                // Boxed: a connection that waits does not carry the room for it.
                match Box::pin(relay::exchange(conn, io, begun, &mut read)).await {
                    relay::End::Next(now) => {
                        io.was_busy(now.into());
                        continue;
                    }
                    relay::End::Over(well) => {
                        if well {
                            io.shutdown().await.ok();
                        }
                        return After::Over(well);
                    }
                    relay::End::Library(handover) => Instead::Library(Some(handover)),
                }
            }
            Err(instead) => instead,
        };
        let handover = match Box::pin(refuse::answer(conn, io, instead)).await {
            refuse::Answered::Next => {
                io.was_busy(Instant::now().into());
                continue;
            }
            refuse::Answered::Over(well) => {
                if well {
                    io.shutdown().await.ok();
                }
                return After::Over(well);
            }
            refuse::Answered::Not(handover) => handover,
        };
        io.put_back(match (message.is_empty(), read.is_empty()) {
            (_, true) => message,
            (true, _) => read.freeze(),
            (false, false) => [&message[..], &read[..]].concat().into(),
        });
        return After::Library(handover);
    }
}

/// Appends what is there to `read`. The buffer lives on the stack of each poll.
fn poll_read<IO>(io: &mut IO, cx: &mut Context<'_>, read: &mut BytesMut) -> Poll<io::Result<usize>>
where
    IO: AsyncRead + Unpin,
{
    let mut space = [MaybeUninit::uninit(); READ];
    let mut buf = ReadBuf::uninit(&mut space);
    std::task::ready!(Pin::new(io).poll_read(cx, &mut buf))?;
    read.extend_from_slice(buf.filled());
    Poll::Ready(Ok(buf.filled().len()))
}
