//! One exchange: the request out, the response back, nothing kept that has passed.

use std::future::poll_fn;
use std::io;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::task::ready;
use std::time::Duration;
use std::time::Instant;

use bytes::Bytes;
use bytes::BytesMut;
use http::HeaderMap;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::io::ReadBuf;

use super::Caller;
use super::Handover;
use super::How;
use super::begin::Begun;
use super::chunks::Chunks;
use super::poll_read;
use super::response;
use super::response::Content;
use crate::proxy::error::ProxyError;
use crate::proxy::exchange::Exchange;
use crate::proxy::forward;
use crate::proxy::listener::Conn;
use crate::proxy::upstream::Lease;
use crate::proxy::upstream::Read;
use crate::proxy::upstream::Speaker;
use crate::telemetry::metrics::Direction;
use crate::telemetry::metrics::ErrorType;

/// Bytes of a response that are read at a time.
const READ: usize = 32 * 1024;
/// Bytes of further requests that may wait while one is served.
const MAX_AHEAD: usize = 16 * 1024;

/// What came of an exchange.
pub(super) enum End {
    /// The connection waits for the next one, since then.
    Next(Instant),
    /// So does nobody any more; whether it ended well.
    Over(bool),
    /// Not for us. The request is to be read again.
    Library(Handover),
}

/// Serves one request. `ahead` takes what the caller sends behind it.
pub(super) async fn exchange<IO>(
    conn: &Arc<Conn>,
    io: &mut Caller<IO>,
    mut begun: Begun,
    ahead: &mut BytesMut,
) -> End
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let (lease, sent) = match send(conn, io, &mut begun).await {
        Ok(sent) => sent,
        Err(how) => {
            let Begun {
                exchange, closes, ..
            } = begun;
            return End::Library(Handover {
                exchange,
                how,
                closes,
            });
        }
    };
    let timeouts = &conn.snapshot.timeouts;
    let mut relay = Relay {
        conn,
        exchange: begun.exchange,
        lease,
        closes: begun.closes,
        keeps: true,
        has_caller: true,
        deadline: deadline(sent, [timeouts.response.0, timeouts.stall.0]),
        state: State::Head(Vec::new()),
        waiting: Vec::new(),
        n_written: 0,
        is_flushed: true,
    };
    match poll_fn(|cx| relay.poll(cx, io, ahead)).await {
        Done::Whole => relay.finish(),
        Done::Broken => End::Over(false),
        Done::Library(how) => {
            let Relay {
                exchange,
                lease,
                closes,
                ..
            } = relay;
            let how = match how {
                Ok(read) => How::Sent(Box::new(lease), read),
                Err(error) => How::Failed(error),
            };
            End::Library(Handover {
                exchange,
                how,
                closes,
            })
        }
    }
}

/// Sends the request on an upstream connection of its own, and says when.
async fn send<IO>(
    conn: &Conn,
    io: &mut Caller<IO>,
    begun: &mut Begun,
) -> Result<(Lease, Instant), How> {
    let Begun {
        exchange,
        target,
        out,
        start,
        ..
    } = begun;
    let direction = conn.listener.direction();
    let pool = match direction {
        Direction::Inbound => &conn.worker.inbound_pool,
        Direction::Outbound => &conn.worker.outbound_pool,
    };
    let stall = conn.snapshot.timeouts.stall.0;
    let mut tries = 0;
    loop {
        let (connector, fresh) = (
            conn.snapshot.connector(direction),
            tries >= forward::STALE_TRIES,
        );
        let speaker = Speaker::Plain;
        let leased = pool.lease(&target.destination, connector, fresh, speaker, None, *start);
        let mut lease = leased.await.map_err(How::Failed)?;
        exchange.connected(&lease);
        let now = Instant::now();
        exchange.sent(now);
        let (mut n_sent, deadline) = (0, deadline(now, [stall, Duration::ZERO]));
        let sending = poll_fn(|cx| poll_send(cx, io, &mut lease, out, &mut n_sent, deadline));
        match sending.await {
            Ok(()) => return Ok((lease, now)),
            Err(None) => return Err(How::Failed(ProxyError::Stalled(stall))),
            // It never left: a reused connection was gone. Nothing else is ever sent twice.
            Err(Some(_)) if n_sent == 0 && lease.reused => {
                pool.count_stale_retry();
                tries += 1;
            }
            // The upstream may have answered before it closed.
            Err(Some(error)) => {
                let (bytes, error) = (Bytes::new(), Some(error));
                return Err(How::Sent(Box::new(lease), Read { bytes, error }));
            }
        }
    }
}

/// Writes the rest of the request. An error of `None`: the upstream takes nothing for too long.
fn poll_send<IO>(
    cx: &mut Context<'_>,
    io: &mut Caller<IO>,
    lease: &mut Lease,
    out: &[u8],
    n_sent: &mut usize,
    deadline: Option<Instant>,
) -> Poll<Result<(), Option<io::Error>>> {
    let Some(upstream) = lease.plain() else {
        return Poll::Ready(Err(Some(io::ErrorKind::NotConnected.into())));
    };
    while let Some(rest) = out.get(*n_sent..).filter(|rest| !rest.is_empty()) {
        match Pin::new(&mut upstream.io).poll_write(cx, rest) {
            Poll::Ready(Ok(0)) => return Poll::Ready(Err(Some(io::ErrorKind::WriteZero.into()))),
            Poll::Ready(Ok(len)) => *n_sent += len,
            Poll::Ready(Err(error)) => return Poll::Ready(Err(Some(error))),
            Poll::Pending => return poll_deadline(cx, io, deadline).map(|()| Err(None)),
        }
    }
    // Encrypted connections keep bytes back until then.
    Pin::new(&mut upstream.io).poll_flush(cx).map_err(Some)
}

/// The earliest of these limits from then on; zero is none.
fn deadline(from: Instant, limits: [Duration; 2]) -> Option<Instant> {
    let limits = limits.into_iter().filter(|limit| !limit.is_zero());
    limits.min().map(|limit| from + limit)
}

fn poll_deadline<IO>(
    cx: &mut Context<'_>,
    io: &mut Caller<IO>,
    deadline: Option<Instant>,
) -> Poll<()> {
    match deadline {
        Some(deadline) => io.poll_until(cx, deadline.into()),
        None => Poll::Pending,
    }
}

/// The response on its way.
struct Relay<'a> {
    conn: &'a Arc<Conn>,
    exchange: Box<Exchange>,
    lease: Lease,
    /// The caller wants no further exchange, or shall have none.
    closes: bool,
    /// The upstream's connection can carry another one.
    keeps: bool,
    /// The caller may still send something.
    has_caller: bool,
    deadline: Option<Instant>,
    state: State,
    /// What the caller did not take yet.
    waiting: Vec<u8>,
    n_written: usize,
    /// Nothing is on its way to the caller.
    is_flushed: bool,
}

enum State {
    /// The head is not here; this much of it is.
    Head(Vec<u8>),
    /// So much of the content is to come.
    Length(u64),
    Chunks(Chunks),
    Over,
}

enum Done {
    Whole,
    /// In the middle of the response.
    Broken,
    /// Before it began.
    Library(Result<Read, ProxyError>),
}

impl Relay<'_> {
    fn poll<IO>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut Caller<IO>,
        ahead: &mut BytesMut,
    ) -> Poll<Done>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        loop {
            if ready!(self.poll_written(cx, io)).is_err() {
                return Poll::Ready(Done::Broken);
            }
            if let State::Over = self.state {
                return Poll::Ready(Done::Whole);
            }
            let mut space = [MaybeUninit::uninit(); READ];
            let mut buf = ReadBuf::uninit(&mut space);
            let Some(upstream) = self.lease.plain() else {
                return Poll::Ready(Done::Broken);
            };
            let error = match Pin::new(&mut upstream.io).poll_read(cx, &mut buf) {
                Poll::Pending => return self.poll_waiting(cx, io, ahead),
                Poll::Ready(Ok(())) if !buf.filled().is_empty() => {
                    if let Some(done) = self.take(cx, io, buf.filled()) {
                        return Poll::Ready(done);
                    }
                    continue;
                }
                Poll::Ready(Ok(())) => None,
                Poll::Ready(Err(error)) => Some(error),
            };
            return Poll::Ready(self.ended(error));
        }
    }

    /// Nothing comes from upstream: for how long, and is the caller still there?
    fn poll_waiting<IO>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut Caller<IO>,
        ahead: &mut BytesMut,
    ) -> Poll<Done>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        if poll_deadline(cx, io, self.deadline).is_ready() {
            return Poll::Ready(self.too_late());
        }
        while self.has_caller && ahead.len() < MAX_AHEAD {
            match ready!(poll_read(io, cx, ahead)) {
                // It may only have nothing more to say.
                Ok(0) => self.has_caller = false,
                Ok(_) => {}
                Err(_) => return Poll::Ready(Done::Broken),
            }
        }
        Poll::Pending
    }

    /// Writes what waits.
    fn poll_written<IO>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut Caller<IO>,
    ) -> Poll<io::Result<()>>
    where
        IO: AsyncWrite + Unpin,
    {
        if self.is_flushed {
            return Poll::Ready(Ok(()));
        }
        while let Some(rest) = self
            .waiting
            .get(self.n_written..)
            .filter(|rest| !rest.is_empty())
        {
            match ready!(Pin::new(&mut *io).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                len => self.n_written += len,
            }
        }
        (self.waiting, self.n_written) = (Vec::new(), 0);
        // Encrypted connections keep bytes back until then.
        ready!(Pin::new(io).poll_flush(cx))?;
        self.is_flushed = true;
        Poll::Ready(Ok(()))
    }

    /// Takes bytes from upstream.
    fn take<IO>(&mut self, cx: &mut Context<'_>, io: &mut Caller<IO>, bytes: &[u8]) -> Option<Done>
    where
        IO: AsyncWrite + Unpin,
    {
        let stall = self.conn.snapshot.timeouts.stall.0;
        let result = match &mut self.state {
            State::Head(before) if before.is_empty() => {
                let result = self.take_head(cx, io, bytes);
                if let State::Head(kept) = &mut self.state {
                    kept.extend_from_slice(bytes);
                }
                result
            }
            State::Head(before) => {
                let mut all = std::mem::take(before);
                all.extend_from_slice(bytes);
                let result = self.take_head(cx, io, &all);
                if let State::Head(kept) = &mut self.state {
                    *kept = all;
                }
                result
            }
            _ => {
                self.deadline = deadline(Instant::now(), [stall, Duration::ZERO]);
                self.take_content(cx, io, Vec::new(), bytes)
            }
        };
        result.err()
    }

    /// Takes a head, if it is whole; else it is kept by who calls.
    fn take_head<IO>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut Caller<IO>,
        bytes: &[u8],
    ) -> Result<(), Done>
    where
        IO: AsyncWrite + Unpin,
    {
        let limits = &self.conn.snapshot.limits;
        let Some(end) = response::end(bytes) else {
            if bytes.len() > limits.head_size.as_usize() {
                return Err(library(bytes));
            }
            return Ok(());
        };
        let (head, content) = bytes.split_at(end);
        let mut out = Vec::with_capacity(head.len() + 64);
        let Some(read) = response::rewrite(head, limits.headers, &mut out) else {
            return Err(library(bytes));
        };
        let tracer = self.conn.snapshot.tracer.as_ref();
        let is_looked_at = read.has_grpc_status
            || tracer.is_some_and(|tracer| tracer.conventions.reads_response_headers());
        let fields = match is_looked_at {
            true => response::fields(head),
            false => HeaderMap::new(),
        };
        let now = Instant::now();
        self.exchange.responded(read.status, &fields, now);
        self.conn.interims.close();
        self.closes |= self.conn.drain.is_signaled();
        if self.closes {
            out.extend_from_slice(b"connection: close\r\n");
        }
        out.extend_from_slice(b"\r\n");
        self.keeps = read.keeps;
        self.lease.idle_limit = read.keep_alive;
        let stall = self.conn.snapshot.timeouts.stall.0;
        self.deadline = deadline(now, [stall, Duration::ZERO]);
        self.state = match read.content {
            Content::Length(len) => State::Length(len),
            Content::Chunked => State::Chunks(Chunks::new()),
        };
        self.take_content(cx, io, out, content)
    }

    /// Takes content that came behind `out`.
    fn take_content<IO>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut Caller<IO>,
        mut out: Vec<u8>,
        bytes: &[u8],
    ) -> Result<(), Done>
    where
        IO: AsyncWrite + Unpin,
    {
        let (n_read, direct) = match &mut self.state {
            State::Length(left) => {
                let len = usize::try_from(*left).map_or(bytes.len(), |left| left.min(bytes.len()));
                *left -= len as u64;
                if *left == 0 {
                    self.state = State::Over;
                }
                self.exchange.passed(len);
                (len, bytes.get(..len).unwrap_or_default())
            }
            State::Chunks(chunks) => {
                let Ok((n_read, n_content)) = chunks.pass(bytes, &mut out) else {
                    let (label, name) = (ErrorType::Protocol, "malformed_response");
                    self.exchange.fail_as(label, name);
                    // What came before the fault is the caller's, as far as it takes it at once.
                    self.write(cx, io, out, &[]);
                    return Err(Done::Broken);
                };
                if chunks.is_over() {
                    self.state = State::Over;
                }
                self.exchange.passed(n_content);
                (n_read, &[][..])
            }
            State::Head(_) | State::Over => (0, &[][..]),
        };
        // Nobody asked for what comes behind the response.
        self.keeps &= n_read == bytes.len();
        self.write(cx, io, out, direct);
        Ok(())
    }

    /// Writes as much as the caller takes at once; the rest waits. An error shows at the next write.
    fn write<IO>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut Caller<IO>,
        mut head: Vec<u8>,
        data: &[u8],
    ) where
        IO: AsyncWrite + Unpin,
    {
        let io = Pin::new(io);
        self.is_flushed &= head.is_empty() && data.is_empty();
        let written = match (head.is_empty(), data.is_empty()) {
            (true, true) => return,
            (true, false) => io.poll_write(cx, data),
            (false, true) => io.poll_write(cx, &head),
            (false, false) if io.is_write_vectored() => {
                io.poll_write_vectored(cx, &[IoSlice::new(&head), IoSlice::new(data)])
            }
            (false, false) => Poll::Pending,
        };
        let written = match written {
            Poll::Ready(Ok(len)) => len,
            _ => 0,
        };
        if written == head.len() + data.len() {
            return;
        }
        let of_data = written.saturating_sub(head.len());
        self.n_written = written.min(head.len());
        head.extend_from_slice(data.get(of_data..).unwrap_or_default());
        self.waiting = head;
    }

    /// The upstream's connection ended, by an error or not.
    fn ended(&mut self, error: Option<io::Error>) -> Done {
        if let State::Head(before) = &mut self.state {
            let bytes = std::mem::take(before).into();
            return Done::Library(Ok(Read { bytes, error }));
        }
        self.exchange.fail_as(ErrorType::Reset, "connection_reset");
        Done::Broken
    }

    fn too_late(&mut self) -> Done {
        let timeouts = &self.conn.snapshot.timeouts;
        let (response, stall) = (timeouts.response.0, timeouts.stall.0);
        if !matches!(self.state, State::Head(_)) {
            self.exchange.stalled();
            return Done::Broken;
        }
        let is_stalled = response.is_zero() || (!stall.is_zero() && stall < response);
        Done::Library(Err(match is_stalled {
            true => ProxyError::Stalled(stall),
            false => ProxyError::ResponseTimeout(response),
        }))
    }

    /// The caller has all of it.
    fn finish(self) -> End {
        let Self {
            mut exchange,
            lease,
            keeps,
            closes,
            ..
        } = self;
        let now = Instant::now();
        exchange.complete_on(keeps.then_some(lease), now);
        drop(exchange);
        match closes {
            true => End::Over(true),
            false => End::Next(now),
        }
    }
}

fn library(bytes: &[u8]) -> Done {
    let bytes = Bytes::copy_from_slice(bytes);
    Done::Library(Ok(Read { bytes, error: None }))
}
