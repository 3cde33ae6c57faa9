//! The request path, one for HTTP/1 and HTTP/2, inbound and outbound: trace, clean, send upstream, pass the answer on.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use http::HeaderMap;
use http::HeaderName;
use http::Method;
use http::Request;
use http::Response;
use http::StatusCode;
use http::Version;
use http::header;
use http_body::Body;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;

use crate::model::Kind;
use crate::proxy::body::Progress;
use crate::proxy::body::RequestBody;
use crate::proxy::body::ResponseBody;
use crate::proxy::config::Forwarded;
use crate::proxy::error::ProxyError;
use crate::proxy::exchange::Exchange;
use crate::proxy::expect::Gate;
use crate::proxy::guard;
use crate::proxy::guard::Refusal;
use crate::proxy::headers;
use crate::proxy::listener::Conn;
use crate::proxy::listener::Role;
use crate::proxy::plain::Handover;
use crate::proxy::plain::How;
use crate::proxy::redirect::Redirected;
use crate::proxy::respond;
use crate::proxy::stall::unless_stalled;
use crate::proxy::target;
use crate::proxy::target::Content;
use crate::proxy::target::Target;
use crate::proxy::traced;
use crate::proxy::tunnel;
use crate::proxy::upstream::Connector;
use crate::proxy::upstream::Lease;
use crate::proxy::upstream::Speaker;
use crate::telemetry::metrics::Direction;

/// A stale pooled connection is replaced this many times before a fresh one is forced.
pub(super) const STALE_TRIES: usize = 2;
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// Serves one request. Every failure becomes an answer. `handover`: the request was begun without the library.
pub(super) async fn handle(
    conn: Arc<Conn>,
    mut request: Request<Incoming>,
    handover: Option<Handover>,
) -> Result<Response<ResponseBody>, Infallible> {
    if let Some(handover) = handover {
        return Ok(Box::pin(resume(conn, request, handover)).await);
    }
    conn.phase.busy();
    let start = Instant::now();
    if guard::is_stand_in(&request) {
        let refusal = conn.phase.refusal();
        let refusal = refusal.unwrap_or(Refusal::Malformed("not a method"));
        return Ok(traced::turn_away(&conn, &request, &refusal.into(), start));
    }
    let limit = conn.snapshot.limits.requests;
    let Some(slot) = conn.worker.shared.admit(limit) else {
        conn.forget_paced();
        let error = ProxyError::Overload(limit);
        return Ok(traced::turn_away(&conn, &request, &error, start));
    };
    let version = request.version();
    let paced = conn.paced().await;
    let mut exchange = traced::begin(&conn, &mut request, slot, paced, start);
    let result = forward(&conn, request, &mut exchange).await;
    Ok(answered(&conn, version, exchange, result))
}

/// Goes on with an exchange that is no matter for [`plain`](crate::proxy::plain) any more.
async fn resume(
    conn: Arc<Conn>,
    request: Request<Incoming>,
    handover: Handover,
) -> Response<ResponseBody> {
    let Handover {
        mut exchange, how, ..
    } = handover;
    let (parts, body) = request.into_parts();
    // Its content is here whole and was sent whole.
    body.collect().await.ok();
    let result = match how {
        How::Failed(error) => Err(error),
        How::Sent(lease, read) => {
            let mut sent = Request::new(RequestBody::empty());
            *sent.method_mut() = parts.method;
            hear_interims(&conn, &mut sent);
            answer_to(&conn, lease.answer(sent, read), &mut exchange).await
        }
    };
    answered(&conn, parts.version, exchange, result)
}

/// The upstream's answer to an HTTP/1.1 caller's request, once it is there.
async fn answer_to(
    conn: &Arc<Conn>,
    answer: impl Future<Output = Result<Response<Incoming>, ProxyError>>,
    exchange: &mut Exchange,
) -> Result<Answer, ProxyError> {
    let limits = &conn.snapshot.timeouts;
    let answer = within(limits.response.0, &exchange.request, answer);
    let moved = || exchange.request_bytes();
    let answer = unless_stalled(limits.stall.0, moved, answer).await;
    conn.interims.close();
    let answer = answer.ok_or(ProxyError::Stalled(limits.stall.0))???;
    pass_on(conn, Version::HTTP_11, answer, None, exchange)
}

fn answered(
    conn: &Conn,
    version: Version,
    mut exchange: Box<Exchange>,
    result: Result<Answer, ProxyError>,
) -> Response<ResponseBody> {
    match result {
        Ok(answer) => answer.into_response(exchange),
        Err(error) => {
            let error = match &exchange.request {
                Some(progress) => blame(conn, progress, error),
                None => error,
            };
            let mut response = respond::failure(&error);
            if error.is_callers() && version != Version::HTTP_2 {
                respond::close_after(&mut response);
            }
            exchange.refused(&error, response.status());
            response.body_mut().attach(exchange);
            response
        }
    }
}

/// The upstream only saw an exchange break; why it broke is the caller's doing if the request body was not whole.
fn blame(conn: &Conn, progress: &Progress, error: ProxyError) -> ProxyError {
    if progress.too_large() {
        return ProxyError::BodyTooLarge(conn.snapshot.limits.body_size.0);
    }
    if !progress.broken() {
        return error;
    }
    conn.phase
        .refusal()
        .map_or(ProxyError::BodyBroken, ProxyError::from)
}

/// What came of forwarding.
enum Answer {
    /// The upstream's response; its body ends the exchange.
    Upstream(Response<Incoming>),
    /// A tunnel is being set up; it ends the exchange.
    Tunnel(Response<()>, tunnel::Pending),
}

impl Answer {
    fn into_response(self, exchange: Box<Exchange>) -> Response<ResponseBody> {
        match self {
            Self::Upstream(response) => {
                let (head, body) = response.into_parts();
                let body = ResponseBody::upstream(body, &head, exchange);
                Response::from_parts(head, body)
            }
            Self::Tunnel(response, pending) => {
                pending.start(exchange);
                response.map(|()| ResponseBody::local(bytes::Bytes::new()))
            }
        }
    }
}

async fn forward(
    conn: &Arc<Conn>,
    mut request: Request<Incoming>,
    exchange: &mut Exchange,
) -> Result<Answer, ProxyError> {
    check(conn, &request)?;
    let upgrading = headers::wants_upgrade(&request);
    if request.method() == Method::CONNECT && !upgrading {
        let (response, pending) = Box::pin(tunnel::connect(conn, request, exchange)).await?;
        return Ok(Answer::Tunnel(response, pending));
    }
    check_size(conn, &request)?;
    let version = request.version();
    let downstream = upgrading.then(|| hyper::upgrade::on(&mut request));
    let target = lead(conn, &mut request, upgrading)?;
    let outgoing = prepare(conn, request, &target, exchange)?;
    let response = send(conn, outgoing, &target, exchange).await;
    conn.interims.close();
    pass_on(conn, version, response?, downstream, exchange)
}

/// What speaks against a request before anybody asks where it goes.
pub(super) fn check<B>(conn: &Conn, request: &Request<B>) -> Result<(), ProxyError> {
    guard::check(request)?;
    if request.headers().len() > conn.snapshot.limits.headers {
        return Err(Refusal::TooManyFields.into());
    }
    Ok(())
}

/// Where the request goes; takes off what belongs to the caller's connection and adds what the program is told.
pub(super) fn lead<B>(
    conn: &Conn,
    request: &mut Request<B>,
    upgrading: bool,
) -> Result<Target, ProxyError> {
    let target = target::of(conn, request)?;
    if request.method() == Method::CONNECT && !target.destination.http2 {
        return Err(ProxyError::BadRequest(
            "the upstream is spoken to in HTTP/1, which has no extended CONNECT",
        ));
    }
    headers::remove_hop_by_hop(request.headers_mut(), upgrading);
    if conn.listener.direction() == Direction::Inbound {
        guard::check_host(request)?;
        let forwarded = conn.snapshot.forwarded;
        if forwarded != Forwarded::None {
            let host = target::host(request).map(str::to_owned);
            headers::add_forwarded(
                forwarded,
                request.headers_mut(),
                conn.peer.ip(),
                conn.scheme,
                host.as_deref(),
            );
        }
    }
    Ok(target)
}

/// Makes the upstream's response the caller's.
fn pass_on(
    conn: &Arc<Conn>,
    version: Version,
    mut response: Response<Incoming>,
    downstream: Option<OnUpgrade>,
    exchange: &mut Exchange,
) -> Result<Answer, ProxyError> {
    let now = Instant::now();
    exchange.responded(response.status(), response.headers(), now);
    if let Some(downstream) = downstream
        && is_upgraded(version, response.status())
    {
        let upstream = hyper::upgrade::on(&mut response);
        headers::remove_hop_by_hop(response.headers_mut(), true);
        let pending = tunnel::Pending::upgrade(conn, downstream, upstream);
        return Ok(Answer::Tunnel(response.map(drop), pending));
    }
    if response.status().is_informational() {
        return Err(ProxyError::BadResponse(
            "the upstream switched protocols without being asked",
        ));
    }
    if has_two_lengths(&response) {
        // Transfer-Encoding counts (RFC 9112 section 6.3); what may hide behind the response is not read.
        headers::remove(response.headers_mut(), &header::CONTENT_LENGTH);
        exchange.lease = None;
    }
    finish_head(version, &mut response, exchange.lease.as_mut());
    Ok(Answer::Upstream(response))
}

/// Takes the request apart and builds the one that goes upstream.
fn prepare(
    conn: &Arc<Conn>,
    mut request: Request<Incoming>,
    target: &Target,
    exchange: &mut Exchange,
) -> Result<Request<RequestBody>, ProxyError> {
    let gate = hear_interims(conn, &mut request);
    let (mut parts, body) = request.into_parts();
    let content = match body.is_end_stream() {
        true => Content::None,
        false => Content::Some,
    };
    target.rewrite(&mut parts, content)?;
    let body = if content == Content::None {
        RequestBody::empty()
    } else {
        let progress = Arc::new(Progress::default());
        exchange.request = Some(progress.clone());
        let limit = conn.snapshot.limits.body_size.0;
        let reader = exchange.body_reader(&parts.headers);
        RequestBody::streaming(body, progress, gate, limit, reader)
    };
    Ok(Request::from_parts(parts, body))
}

/// What becomes of the upstream's interim responses. The gate holds a body back that the upstream has to ask for.
fn hear_interims<B>(conn: &Conn, request: &mut Request<B>) -> Option<Gate> {
    let (gate, opener) = Gate::for_request(request).unzip();
    let sink = (request.version() == Version::HTTP_11).then(|| conn.interims.sink());
    if opener.is_none() && sink.is_none() {
        return gate;
    }
    hyper::ext::on_informational(request, move |response| match response.status() {
        StatusCode::CONTINUE => {
            if let Some(opener) = &opener {
                opener.open();
            }
        }
        status => {
            if let Some(sink) = &sink {
                sink.take(status, response.headers());
            }
        }
    });
    gate
}

async fn send(
    conn: &Arc<Conn>,
    mut request: Request<RequestBody>,
    target: &Target,
    exchange: &mut Exchange,
) -> Result<Response<Incoming>, ProxyError> {
    let pool = match conn.listener.direction() {
        Direction::Inbound => &conn.worker.inbound_pool,
        Direction::Outbound => &conn.worker.outbound_pool,
    };
    let connector = Connector {
        from: target.destination.from,
        ..conn.snapshot.connector(conn.listener.direction())
    };
    // It closes after HTTP/1.0, whatever version it answers in: nothing of ours asks it to keep the connection.
    let is_last = request.version() == Version::HTTP_10;
    let mut tries = 0;
    loop {
        let opening = conn.redirected.as_ref().and_then(Redirected::take_opening);
        let mut lease = pool
            .lease(
                &target.destination,
                connector.clone(),
                tries >= STALE_TRIES,
                Speaker::Library,
                opening,
                Instant::now(),
            )
            .await?;
        exchange.connected(&lease);
        exchange.sent(Instant::now());
        let limits = &conn.snapshot.timeouts;
        let sent = {
            // Pinned here, or each of the two would have room for it twice.
            let sending = pin!(lease.send(request));
            let sending = pin!(within(limits.response.0, &exchange.request, sending));
            let moved = || exchange.request_bytes();
            unless_stalled(limits.stall.0, moved, sending).await
        };
        match sent
            .ok_or(ProxyError::Stalled(limits.stall.0))??
            .ok_or(ProxyError::BadResponse("not a connection of the library"))?
        {
            Ok(response) => {
                exchange.lease = (!is_last || lease.is_http2()).then_some(lease);
                return Ok(response);
            }
            Err(mut error) => match error.take_message() {
                // The request never left: a reused connection was gone. Nothing else is ever sent twice.
                Some(unsent) if lease.reused => {
                    pool.count_stale_retry();
                    request = unsent;
                    tries += 1;
                }
                _ => return Err(ProxyError::Exchange(error.into_error())),
            },
        }
    }
}

/// Awaits the response head. The limit counts from the end of the request: an upload takes as long as it takes.
async fn within<T>(
    limit: Duration,
    request: &Option<Arc<Progress>>,
    work: impl Future<Output = T>,
) -> Result<T, ProxyError> {
    if limit.is_zero() {
        return Ok(work.await);
    }
    tokio::pin!(work);
    let mut deadline = Instant::now() + limit;
    loop {
        if let Ok(done) = tokio::time::timeout_at(deadline.into(), work.as_mut()).await {
            return Ok(done);
        }
        let now = Instant::now();
        deadline = match request {
            Some(progress) => progress.ended_at().unwrap_or(now) + limit,
            None => return Err(ProxyError::ResponseTimeout(limit)),
        };
        if deadline <= now {
            return Err(ProxyError::ResponseTimeout(limit));
        }
    }
}

/// Makes the upstream's head fit for the downstream connection.
fn finish_head(downstream: Version, response: &mut Response<Incoming>, lease: Option<&mut Lease>) {
    if let Some(lease) = lease {
        lease.idle_limit = keep_alive_timeout(response.headers());
    }
    headers::remove_hop_by_hop(response.headers_mut(), false);
    if downstream != Version::HTTP_11 || response.version() != Version::HTTP_11 {
        // The framing of another version: hyper writes the right one.
        headers::remove(response.headers_mut(), &header::TRANSFER_ENCODING);
    }
    *response.version_mut() = if downstream == Version::HTTP_2 {
        downstream
    } else {
        Version::HTTP_11
    };
}

fn keep_alive_timeout(headers: &HeaderMap) -> Option<Duration> {
    keep_alive_of(headers.get(KEEP_ALIVE)?.to_str().ok()?)
}

/// `Keep-Alive: timeout=N`, less a second for the way.
pub(super) fn keep_alive_of(value: &str) -> Option<Duration> {
    let timeout = value
        .split(',')
        .find_map(|part| part.trim().strip_prefix("timeout="))?;
    let secs: u64 = timeout.trim().parse().ok()?;
    Some(Duration::from_millis(
        secs.saturating_mul(1000).saturating_sub(1000).max(500),
    ))
}

fn check_size(conn: &Conn, request: &Request<Incoming>) -> Result<(), ProxyError> {
    let limit = conn.snapshot.limits.body_size.0;
    if limit > 0 && request.body().size_hint().lower() > limit {
        return Err(ProxyError::BodyTooLarge(limit));
    }
    Ok(())
}

fn has_two_lengths(response: &Response<Incoming>) -> bool {
    let headers = response.headers();
    headers.contains_key(header::TRANSFER_ENCODING) && headers.contains_key(header::CONTENT_LENGTH)
}

fn is_upgraded(version: Version, status: StatusCode) -> bool {
    match version {
        Version::HTTP_2 => status.is_success(),
        _ => status == StatusCode::SWITCHING_PROTOCOLS,
    }
}

/// The span kind of a listener's requests.
pub(super) fn kind(role: &Role) -> Kind {
    match role {
        Role::Inbound { .. } | Role::RedirectedInbound { .. } => Kind::Server,
        Role::ForwardProxy { .. } | Role::Route { .. } | Role::RedirectedOutbound { .. } => {
            Kind::Client
        }
    }
}
