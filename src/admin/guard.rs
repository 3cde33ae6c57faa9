//! Keeps foreign web pages out: the `Host` and `Origin` of a request must be names of this port.
//!
//! A page that a browser loaded from elsewhere can send requests to loopback, and after DNS rebinding read the
//! answers too. Rebinding needs a name, so IP addresses and `localhost` are safe hosts and other names must be
//! configured; sending orders from another origin is caught by `Origin` (RFC 6454), which browsers put on every POST.

use std::net::IpAddr;

use http::HeaderMap;
use http::Method;
use http::Request;
use http::Version;
use http::header;

/// Paths that tell nothing and that probes call under any name.
const PROBES: &[&str] = &["/livez", "/readyz", "/healthz"];
/// Receives spans from programs, which send no `Origin`, under whatever name they know this port.
const RECEIVER: &str = "/v1/traces";

/// Why a request was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    /// HTTP/1.1 demands a `Host` (RFC 9112 section 3.2).
    #[error("the host header is missing, repeated or malformed")]
    BadHost,
    /// A name that nobody allowed.
    #[error("the host {0:?} is not allowed here; add it to admin.allowed_hosts")]
    ForeignHost(String),
    /// Sent by a page of another origin.
    #[error("requests from other web origins are not allowed here")]
    ForeignOrigin,
}

/// Checks a request against the names of this port.
pub(super) fn check<B>(request: &Request<B>, allowed: &[String]) -> Result<(), Refusal> {
    let path = request.uri().path();
    let host = host_of(request)?;
    if let Some(origin) = request.headers().get(header::ORIGIN) {
        let same = host.is_some_and(|host| {
            ["http://", "https://"]
                .iter()
                .any(|scheme| origin.as_bytes().strip_prefix(scheme.as_bytes()) == Some(host))
        });
        if !same {
            return Err(Refusal::ForeignOrigin);
        }
    } else if path == RECEIVER && request.method() == Method::POST {
        return Ok(());
    }
    let site = request.headers().get("sec-fetch-site");
    if request.method() == Method::POST && site.is_some_and(|site| site == "cross-site") {
        return Err(Refusal::ForeignOrigin);
    }
    let Some(host) = host else {
        return Ok(());
    };
    if PROBES.contains(&path) || is_allowed(host, allowed) {
        return Ok(());
    }
    Err(Refusal::ForeignHost(
        String::from_utf8_lossy(host).chars().take(100).collect(),
    ))
}

/// The authority that the caller believes to talk to; `None` in HTTP/1.0 without one, which no browser sends.
fn host_of<B>(request: &Request<B>) -> Result<Option<&[u8]>, Refusal> {
    // An absolute target overrides the header (RFC 9112 section 3.2.2); both must then be checked as one.
    let target = request
        .uri()
        .authority()
        .map(|host| host.as_str().as_bytes());
    let header = single(request.headers())?;
    match (target, header) {
        (Some(target), Some(header)) if target != header => Err(Refusal::BadHost),
        (None, None) if request.version() >= Version::HTTP_11 => Err(Refusal::BadHost),
        (target, header) => Ok(target.or(header)),
    }
}

fn single(headers: &HeaderMap) -> Result<Option<&[u8]>, Refusal> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = hosts.next().map(|host| host.as_bytes());
    match hosts.next() {
        Some(_) => Err(Refusal::BadHost),
        None => Ok(host),
    }
}

fn is_allowed(host: &[u8], allowed: &[String]) -> bool {
    let Some(name) = std::str::from_utf8(host).ok().and_then(name_of) else {
        return false;
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    let is = |other: &str| name.eq_ignore_ascii_case(other);
    name.parse::<IpAddr>().is_ok()
        || is("localhost")
        || name.to_ascii_lowercase().ends_with(".localhost")
        || allowed.iter().any(|allowed| is(allowed))
}

/// The name or address without port and brackets; `None` when the port is no number.
fn name_of(authority: &str) -> Option<&str> {
    let (name, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']')?;
            (address, port.strip_prefix(':').unwrap_or(port))
        }
        None => authority.split_once(':').unwrap_or((authority, "")),
    };
    port.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then_some(name)
        .filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_with(host: &[&str], more: &[(&str, &str)], method: Method, path: &str) -> bool {
        let mut request = Request::builder().method(method).uri(path);
        for host in host {
            request = request.header("host", *host);
        }
        for (name, value) in more {
            request = request.header(*name, *value);
        }
        check(&request.body(()).unwrap(), &["View.example".to_owned()]).is_ok()
    }

    #[test]
    fn hosts_are_names_of_this_port() {
        for (host, allowed, why) in [
            ("127.0.0.1:15690", true, "loopback address"),
            ("127.0.0.1", true, "without port"),
            ("[::1]:15690", true, "loopback, IPv6"),
            ("10.1.2.3:15690", true, "an address cannot be rebound"),
            ("localhost:15690", true, "localhost"),
            ("LOCALHOST", true, "case does not matter"),
            ("view.localhost:1", true, "below localhost, RFC 6761"),
            ("view.example:15690", true, "configured"),
            ("view.example.", true, "configured, rooted"),
            ("evil.example:15690", false, "rebound name"),
            ("127.0.0.1.evil.example", false, "begins like an address"),
            ("evil.example/127.0.0.1", false, "no authority"),
            ("localhost.evil.example", false, "begins like localhost"),
            ("evillocalhost", false, "ends like localhost"),
            ("127.0.0.1:80:80", false, "two ports"),
            ("127.0.0.1:8x", false, "port is no number"),
            ("", false, "empty"),
            ("[::1", false, "unclosed bracket"),
        ] {
            assert_eq!(
                check_with(&[host], &[], Method::GET, "/traces"),
                allowed,
                "{why}"
            );
        }
        assert!(
            !check_with(&[], &[], Method::GET, "/"),
            "HTTP/1.1 without host"
        );
        assert!(
            !check_with(&["localhost", "localhost"], &[], Method::GET, "/"),
            "two hosts"
        );
    }

    #[test]
    fn probes_and_receivers_are_called_under_any_name() {
        let foreign = ["pod.namespace.svc:15690"];
        assert!(check_with(&foreign, &[], Method::GET, "/readyz"));
        assert!(check_with(&foreign, &[], Method::POST, "/v1/traces"));
        assert!(!check_with(&foreign, &[], Method::GET, "/v1/traces"));
        let origin = [("origin", "http://pod.namespace.svc:15690")];
        assert!(!check_with(&foreign, &origin, Method::POST, "/v1/traces"));
    }

    #[test]
    fn orders_come_from_the_own_page_or_from_no_page() {
        for (origin, allowed, why) in [
            ("http://localhost:15690", true, "own page"),
            ("https://localhost:15690", true, "behind a TLS front"),
            ("http://evil.example", false, "another site"),
            (
                "http://localhost:3000",
                false,
                "another port is another program",
            ),
            ("null", false, "sandboxed frame or local file"),
        ] {
            let ok = check_with(
                &["localhost:15690"],
                &[("origin", origin)],
                Method::POST,
                "/drain",
            );
            assert_eq!(ok, allowed, "{why}");
        }
        let crossing = [("sec-fetch-site", "cross-site")];
        assert!(!check_with(
            &["localhost:15690"],
            &crossing,
            Method::POST,
            "/drain"
        ));
    }
}
