//! Where a request goes and how its target is written there.

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderValue;
use http::Request;
use http::Uri;
use http::Version;
use http::header;
use http::request::Parts;
use http::uri::Authority;
use http::uri::PathAndQuery;
use http::uri::Scheme;
use hyper::body::Incoming;

use crate::model::HostPort;
use crate::net::tls::ClientTls;
use crate::proxy::config::AppProtocol;
use crate::proxy::error::ProxyError;
use crate::proxy::headers;
use crate::proxy::listener::Conn;
use crate::proxy::listener::Role;
use crate::proxy::redirect;
use crate::proxy::upstream::Destination;
use crate::proxy::upstream::TlsTarget;
use crate::tracer::Glance;

/// Where one request goes.
pub(super) struct Target {
    /// The connection it needs.
    pub destination: Destination,
    form: Form,
}

/// Whether a request has a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    /// It ended with its head.
    None,
    /// Something follows.
    Some,
}

/// What changes in the request's target.
enum Form {
    /// Nothing: it is the destination's own.
    Own,
    /// A forward proxy's absolute form becomes origin form, and `Host` its authority.
    FromAbsolute,
    /// `Host` becomes the destination.
    RewriteHost,
}

/// Finds the destination of a request that came through this connection's listener.
pub(super) fn of<B>(conn: &Conn, request: &Request<B>) -> Result<Target, ProxyError> {
    let target = match &conn.listener.role {
        Role::Inbound { app } => return Ok(to_program(conn, request, app)),
        Role::RedirectedInbound { .. } => {
            return Ok(to_program(conn, request, of_redirected(conn)?));
        }
        // Loops were looked for when the connection came.
        Role::RedirectedOutbound { .. } => {
            let http2 = request.version() == Version::HTTP_2;
            return Ok(Target {
                destination: plain(of_redirected(conn)?.clone(), http2),
                form: Form::Own,
            });
        }
        Role::ForwardProxy { tls } => absolute(request, tls)?,
        Role::Route {
            to,
            tls,
            rewrite_host,
            ..
        } => {
            let http2 = request.version() == Version::HTTP_2;
            let tls = tls.clone().map(|tls| TlsTarget { tls });
            let form = if *rewrite_host {
                Form::RewriteHost
            } else {
                Form::Own
            };
            Target {
                destination: Destination {
                    to: to.clone(),
                    tls,
                    http2,
                    from: None,
                },
                form,
            }
        }
    };
    refuse_loop(conn, &target.destination.to)?;
    Ok(target)
}

/// Whether an HTTP/2 caller may be told that it can open WebSockets here (RFC 8441). Towards a program that is spoken
/// to in HTTP/1 it cannot; told so, browsers open an HTTP/1 connection for them.
pub(super) fn takes_extended_connect(conn: &Conn) -> bool {
    match (&conn.listener.role, conn.snapshot.app_protocol) {
        (Role::Inbound { .. } | Role::RedirectedInbound { .. }, AppProtocol::Http1) => false,
        (Role::Inbound { .. } | Role::RedirectedInbound { .. }, AppProtocol::Auto) => {
            conn.scheme == "http"
        }
        _ => true,
    }
}

fn to_program<B>(conn: &Conn, request: &Request<B>, app: &HostPort) -> Target {
    let http2 = match conn.snapshot.app_protocol {
        AppProtocol::Http1 => false,
        AppProtocol::Http2 => true,
        AppProtocol::Auto => mirrors_http2(conn, request),
    };
    Target {
        destination: Destination {
            from: redirect::source(conn),
            ..plain(app.clone(), http2)
        },
        form: Form::Own,
    }
}

fn of_redirected(conn: &Conn) -> Result<&HostPort, ProxyError> {
    let redirected = conn.redirected.as_ref();
    redirected
        .map(|redirected| &redirected.to)
        .ok_or(ProxyError::BadRequest(
            "the connection has no original destination",
        ))
}

/// The host and port that the request names.
pub(super) fn host<B>(request: &Request<B>) -> Option<&str> {
    crate::tracer::http::host_of(request.uri(), request.headers())
}

/// Where a CONNECT request wants to go.
pub(super) fn of_connect(conn: &Conn, request: &Request<Incoming>) -> Result<HostPort, ProxyError> {
    let Role::ForwardProxy { .. } = conn.listener.role else {
        return Err(ProxyError::BadRequest(
            "CONNECT is served by the outbound forward proxy alone",
        ));
    };
    let authority = request.uri().authority();
    let authority = authority.ok_or(ProxyError::BadRequest("CONNECT needs HOST:PORT"))?;
    let port = authority
        .port_u16()
        .ok_or(ProxyError::BadRequest("CONNECT needs a port"))?;
    let to = HostPort::new(bare(authority.host()), port);
    refuse_loop(conn, &to)?;
    Ok(to)
}

impl Target {
    /// Rewrites target, version and `Host` for the upstream connection.
    pub(super) fn rewrite(&self, parts: &mut Parts, content: Content) -> Result<(), ProxyError> {
        match self.form {
            Form::Own => {}
            Form::FromAbsolute => {
                // What the program said to its proxy is not for the destination (RFC 9110 section 11.7.2).
                headers::remove(&mut parts.headers, &header::PROXY_AUTHORIZATION);
                if let Some(authority) = parts.uri.authority() {
                    let host = without_userinfo(authority.as_str());
                    set_host(parts, host.to_owned())?;
                }
            }
            Form::RewriteHost => set_host(parts, self.destination.to.to_string())?,
        }
        if self.destination.http2 {
            self.to_http2(parts)
        } else {
            self.to_http1(parts, content)
        }
    }

    fn to_http1(&self, parts: &mut Parts, content: Content) -> Result<(), ProxyError> {
        let from_http2 = parts.version == Version::HTTP_2;
        if from_http2 {
            parts.version = Version::HTTP_11;
            if let Some(authority) = parts.uri.authority()
                && !parts.headers.contains_key(header::HOST)
            {
                let host = without_userinfo(authority.as_str()).to_owned();
                set_host(parts, host)?;
            }
            join_cookies(parts)?;
            if content == Content::Some && !parts.headers.contains_key(header::CONTENT_LENGTH) {
                // hyper would take a GET without a length for one without content.
                let chunked = HeaderValue::from_static("chunked");
                parts.headers.insert(header::TRANSFER_ENCODING, chunked);
            }
        }
        if from_http2 || matches!(self.form, Form::FromAbsolute) {
            let path = parts.uri.path_and_query().cloned();
            parts.uri = Uri::from(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
        }
        Ok(())
    }

    fn to_http2(&self, parts: &mut Parts) -> Result<(), ProxyError> {
        let was_http2 = parts.version == Version::HTTP_2;
        parts.version = Version::HTTP_2;
        headers::remove(&mut parts.headers, &header::TRANSFER_ENCODING);
        let rewritten = matches!(self.form, Form::RewriteHost);
        if was_http2 && !rewritten && parts.uri.authority().is_some() {
            return Ok(());
        }
        let host = parts.headers.get(header::HOST).cloned();
        headers::remove(&mut parts.headers, &header::HOST);
        let host = host.ok_or(ProxyError::BadRequest("the request names no host"))?;
        let authority = Authority::try_from(host.as_bytes())
            .map_err(|_| ProxyError::BadRequest("the Host header is not a host"))?;
        let mut uri = std::mem::take(&mut parts.uri).into_parts();
        uri.scheme = Some(if self.destination.tls.is_some() {
            Scheme::HTTPS
        } else {
            Scheme::HTTP
        });
        uri.authority = Some(authority);
        uri.path_and_query
            .get_or_insert_with(|| PathAndQuery::from_static("/"));
        parts.uri = Uri::from_parts(uri)
            .map_err(|_| ProxyError::BadRequest("the request target has no HTTP/2 form"))?;
        Ok(())
    }
}

/// A forward-proxy request: `GET http://host/path`.
fn absolute<B>(request: &Request<B>, tls: &Arc<ClientTls>) -> Result<Target, ProxyError> {
    const NOT_ABSOLUTE: ProxyError = ProxyError::BadRequest(
        "this is a forward proxy: it takes http://HOST/PATH or CONNECT HOST:PORT, as HTTP_PROXY makes clients send it",
    );
    let uri = request.uri();
    let authority = uri.authority().ok_or(NOT_ABSOLUTE)?;
    let (port, tls) = match uri.scheme_str() {
        Some("http") => (80, None),
        Some("https") => (443, Some(TlsTarget { tls: tls.clone() })),
        _ => return Err(NOT_ABSOLUTE),
    };
    let to = HostPort::new(bare(authority.host()), authority.port_u16().unwrap_or(port));
    let http2 = request.version() == Version::HTTP_2;
    Ok(Target {
        destination: Destination {
            to,
            tls,
            http2,
            from: None,
        },
        form: Form::FromAbsolute,
    })
}

fn mirrors_http2<B>(conn: &Conn, request: &Request<B>) -> bool {
    request.version() == Version::HTTP_2
        && (conn.scheme == "http" || Glance::of(request.headers()).is_grpc())
}

fn plain(to: HostPort, http2: bool) -> Destination {
    Destination {
        to,
        tls: None,
        http2,
        from: None,
    }
}

/// A request whose destination is one of our own listeners would come back for ever.
fn refuse_loop(conn: &Conn, to: &HostPort) -> Result<(), ProxyError> {
    let own = &conn.worker.shared.own_addresses;
    if !own.iter().any(|address| address.port() == to.port) {
        return Ok(());
    }
    let local = match to.ip() {
        Some(ip) => {
            ip.is_loopback() || ip.is_unspecified() || own.iter().any(|address| address.ip() == ip)
        }
        None => to.host.eq_ignore_ascii_case("localhost"),
    };
    if local {
        Err(ProxyError::Loop { to: to.to_string() })
    } else {
        Ok(())
    }
}

fn set_host(parts: &mut Parts, host: String) -> Result<(), ProxyError> {
    if parts
        .headers
        .get(header::HOST)
        .is_some_and(|had| had.as_bytes() == host.as_bytes())
    {
        return Ok(());
    }
    let value = HeaderValue::from_maybe_shared(Bytes::from(host))
        .map_err(|_| ProxyError::BadRequest("the request's authority is not a host"))?;
    parts.headers.insert(header::HOST, value);
    Ok(())
}

/// HTTP/2 may split a cookie into several fields; HTTP/1 may not (RFC 9113 section 8.2.3).
fn join_cookies(parts: &mut Parts) -> Result<(), ProxyError> {
    let crumbs: Vec<&[u8]> = parts
        .headers
        .get_all(header::COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if crumbs.len() < 2 {
        return Ok(());
    }
    let joined = HeaderValue::from_bytes(&crumbs.join(&b"; "[..]))
        .map_err(|_| ProxyError::BadRequest("the cookies cannot be joined"))?;
    parts.headers.insert(header::COOKIE, joined);
    Ok(())
}

fn bare(host: &str) -> &str {
    host.strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host)
}

fn without_userinfo(authority: &str) -> &str {
    authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host)
}
