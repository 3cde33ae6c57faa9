//! The beginning of an exchange: the request read, its span begun, its bytes written for the program.
//!
//! What that takes up is gone when it is done: an exchange that waits does not carry it.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use bytes::BytesMut;

use super::Handover;
use super::How;
use super::Instead;
use super::request;
use super::request::Lines;
use crate::propagation;
use crate::proxy::body::Progress;
use crate::proxy::error::ProxyError;
use crate::proxy::exchange::Exchange;
use crate::proxy::forward;
use crate::proxy::guard;
use crate::proxy::guard::Bounds;
use crate::proxy::guard::FieldLines;
use crate::proxy::guard::Whole;
use crate::proxy::headers;
use crate::proxy::listener::Conn;
use crate::proxy::pacing::Heard;
use crate::proxy::target;
use crate::proxy::target::Target;
use crate::proxy::traced;

/// An exchange that has begun: what goes where.
pub(super) struct Begun {
    pub(super) exchange: Box<Exchange>,
    pub(super) target: Target,
    /// The request as it goes out.
    pub(super) out: Vec<u8>,
    /// The caller wants no further exchange.
    pub(super) closes: bool,
    pub(super) start: Instant,
}

/// Takes the request at the front of `read`, if it is whole, and begins its exchange.
pub(super) fn begin(
    conn: &Arc<Conn>,
    read: &mut BytesMut,
    bounds: Bounds,
    paced: &mut Option<Heard>,
) -> (Bytes, Result<Begun, Instead>) {
    let mut lines = FieldLines::new();
    let Some(whole) = guard::whole(read, bounds, &mut lines) else {
        return (Bytes::new(), Err(Instead::Library(None)));
    };
    let len = whole.head + whole.content;
    let message: Bytes = match read.len() == len {
        true => std::mem::take(read).freeze(),
        false => read.split_to(len).freeze(),
    };
    let begun = of(conn, &message, whole, &lines, paced);
    (message, begun)
}

/// Begins the exchange of the request that `message` is, which has these `lines`. `paced` is what the gate before the
/// program said of it; it is taken when the exchange has begun.
///
/// # Errors
/// The request is the library's, or there is no place for it.
#[allow(
    clippy::result_large_err,
    reason = "an exchange that begins, the usual answer, is no smaller"
)]
fn of(
    conn: &Arc<Conn>,
    message: &Bytes,
    whole: Whole,
    lines: &FieldLines,
    paced: &mut Option<Heard>,
) -> Result<Begun, Instead> {
    let limits = &conn.snapshot.limits;
    if limits.body_size.0 > 0 && whole.content as u64 > limits.body_size.0 {
        return Err(Instead::Library(None));
    }
    let head = message.slice(..whole.head);
    let lines = Lines {
        head: &head,
        fields: lines,
    };
    let mut request = request::read(lines).ok_or(Instead::Library(None))?;
    // Whether a response has content depends on more than its head then.
    if request.method() == http::Method::HEAD {
        return Err(Instead::Library(None));
    }
    conn.phase.busy();
    let start = Instant::now();
    let closes = headers::connection_has(request.headers(), "close");
    let Some(slot) = conn.worker.shared.admit(limits.requests) else {
        let error = ProxyError::Overload(limits.requests);
        traced::count_away(conn, &request, &error, start);
        // It is about this request, and there will be no other attempt at it.
        *paced = None;
        return Err(Instead::Away(error, closes));
    };
    let mut exchange = traced::begin_unwritten(conn, &mut request, slot, paced.take(), start);
    let trace = traced::lines(&exchange, &mut request);
    let content = message.get(whole.head..).unwrap_or_default();
    if !content.is_empty()
        && let Some(reader) = exchange.body_reader(request.headers())
    {
        reader.read(content);
    }
    let prepared = prepare(conn, request, (lines, trace), content);
    if !content.is_empty() {
        exchange.request = Some(Progress::whole(content.len() as u64));
    }
    match prepared {
        Ok((target, out)) => Ok(Begun {
            exchange,
            target,
            out,
            closes,
            start,
        }),
        Err(error) => {
            let how = How::Failed(error);
            Err(Instead::Library(Some(Handover {
                exchange,
                how,
                closes,
            })))
        }
    }
}

/// Where the request goes, and the bytes that do.
fn prepare(
    conn: &Conn,
    mut request: http::Request<()>,
    (lines, trace): (Lines<'_>, Option<propagation::Lines<'_>>),
    content: &[u8],
) -> Result<(Target, Vec<u8>), ProxyError> {
    forward::check(conn, &request)?;
    let target = forward::lead(conn, &mut request, false)?;
    let (mut parts, ()) = request.into_parts();
    let has_content = match content.is_empty() {
        true => target::Content::None,
        false => target::Content::Some,
    };
    target.rewrite(&mut parts, has_content)?;
    let out = request::write(&parts, lines, trace, content);
    Ok((target, out))
}
