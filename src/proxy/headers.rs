//! Hop-by-hop headers, upgrades and the headers that tell the program about its caller.

use std::net::IpAddr;

use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::Method;
use http::Request;
use http::Version;
use http::header;
use smallvec::SmallVec;

use crate::net::headers::remove_in_order;
use crate::proxy::config::Forwarded;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// `Connection` options that name no header to remove.
const OPTIONS: &[&str] = &["close", "keep-alive", "upgrade", "te"];
/// Headers that `Connection` must not be able to remove: the framing of the message and its target.
const PROTECTED: &[HeaderName] = &[
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::HOST,
];

/// What the caller wants to turn the connection into.
pub(super) fn wants_upgrade<B>(request: &Request<B>) -> bool {
    if request.version() == Version::HTTP_2 {
        return request.method() == Method::CONNECT
            && request.extensions().get::<hyper::ext::Protocol>().is_some();
    }
    request.version() == Version::HTTP_11
        && request.headers().contains_key(header::UPGRADE)
        && connection_has(request.headers(), "upgrade")
}

/// Removes what belongs to one connection alone; the rest keeps its order. `Upgrade` stays when `upgrading`;
/// `TE: trailers` always does.
///
/// Source: RFC 9110 section 7.6.1.
pub(super) fn remove_hop_by_hop(headers: &mut HeaderMap, upgrading: bool) {
    if !headers.keys().any(is_hop_by_hop) {
        return;
    }
    // Calls of gRPC have this one alone, and it stays as it is.
    let is_kept =
        |name: &HeaderName, value: &HeaderValue| *name == header::TE && value == "trailers";
    let mut fields = headers.iter();
    if !fields.any(|(name, value)| is_hop_by_hop(name) && !is_kept(name, value)) {
        return;
    }
    let named = named_by_connection(headers);
    let upgrade = if upgrading {
        upgrade_option(headers)
    } else {
        None
    };
    let keeps_upgrade = upgrade.is_some();
    if let Some(option) = upgrade {
        // In its place.
        headers.insert(header::CONNECTION, option);
    }
    let keeps_te = headers
        .get_all(header::TE)
        .iter()
        .any(|te| contains_token(te, "trailers"));
    if keeps_te {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    remove_in_order(headers, |name| match *name {
        header::CONNECTION | header::UPGRADE => !keeps_upgrade,
        header::TE => !keeps_te,
        _ => is_hop_by_hop(name) || named.contains(name),
    });
}

/// Removes one field; the others keep their order.
pub(super) fn remove(headers: &mut HeaderMap, unwanted: &HeaderName) {
    if headers.contains_key(unwanted) {
        remove_in_order(headers, |name| name == unwanted);
    }
}

fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(*name, header::CONNECTION | header::UPGRADE | header::TE)
        || *name == KEEP_ALIVE
        || *name == PROXY_CONNECTION
}

/// The fields that `Connection` declares to belong to the connection.
fn named_by_connection(headers: &HeaderMap) -> SmallVec<[HeaderName; 2]> {
    headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|option| {
            !OPTIONS
                .iter()
                .any(|known| known.eq_ignore_ascii_case(option))
        })
        .filter_map(|option| option.parse().ok())
        .filter(|name| !PROTECTED.contains(name))
        .collect()
}

/// Tells the program who called, when the operator wants that.
pub(super) fn add_forwarded(
    how: Forwarded,
    headers: &mut HeaderMap,
    client: IpAddr,
    scheme: &'static str,
    host: Option<&str>,
) {
    match how {
        Forwarded::None => {}
        Forwarded::XForwarded => {
            append_list(headers, X_FORWARDED_FOR, &client.to_string());
            if !headers.contains_key(X_FORWARDED_PROTO) {
                headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(scheme));
            }
            if let Some(host) = host.and_then(|host| HeaderValue::from_str(host).ok())
                && !headers.contains_key(X_FORWARDED_HOST)
            {
                headers.insert(X_FORWARDED_HOST, host);
            }
        }
        Forwarded::Rfc7239 => {
            let client = match client {
                IpAddr::V4(address) => address.to_string(),
                IpAddr::V6(address) => format!("\"[{address}]\""),
            };
            let mut element = format!("for={client};proto={scheme}");
            if let Some(host) = host.filter(|host| !host.contains(['"', '\\'])) {
                element.push_str(&format!(";host=\"{host}\""));
            }
            append_list(headers, header::FORWARDED, &element);
        }
    }
}

/// True when `Connection` names this option.
pub(super) fn connection_has(headers: &HeaderMap, option: &str) -> bool {
    headers
        .get_all(header::CONNECTION)
        .iter()
        .any(|value| contains_token(value, option))
}

/// The `upgrade` option as its sender spelt it.
fn upgrade_option(headers: &HeaderMap) -> Option<HeaderValue> {
    headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .find(|option| option.eq_ignore_ascii_case("upgrade"))
        .and_then(|option| HeaderValue::from_str(option).ok())
}

fn contains_token(value: &HeaderValue, token: &str) -> bool {
    value.to_str().is_ok_and(|text| {
        text.split(',').any(|part| {
            let part = part.split(';').next().unwrap_or_default();
            part.trim().eq_ignore_ascii_case(token)
        })
    })
}

fn append_list(headers: &mut HeaderMap, name: HeaderName, element: &str) {
    let mut list: Vec<u8> = Vec::new();
    for value in headers.get_all(&name) {
        list.extend_from_slice(value.as_bytes());
        list.extend_from_slice(b", ");
    }
    list.extend_from_slice(element.as_bytes());
    if let Ok(value) = HeaderValue::from_bytes(&list) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            );
        }
        headers
    }

    #[test]
    fn hop_by_hop_headers_go_and_the_rest_stays() {
        let mut headers = map(&[
            ("connection", "close, X-Secret-Hop"),
            ("x-secret-hop", "1"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("te", "trailers, deflate"),
            ("upgrade", "h2c"),
            ("x-other", "1"),
            ("x-other", "2"),
        ]);
        remove_hop_by_hop(&mut headers, false);
        assert_eq!(
            headers,
            map(&[("te", "trailers"), ("x-other", "1"), ("x-other", "2")])
        );
    }

    #[test]
    fn connection_cannot_remove_the_framing() {
        let mut headers = map(&[
            ("connection", "content-length, host"),
            ("content-length", "3"),
            ("host", "a"),
        ]);
        remove_hop_by_hop(&mut headers, false);
        assert_eq!(headers, map(&[("content-length", "3"), ("host", "a")]));
    }

    #[test]
    fn an_upgrade_keeps_its_two_headers() {
        let mut headers = map(&[
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "websocket"),
        ]);
        remove_hop_by_hop(&mut headers, true);
        assert_eq!(
            headers,
            map(&[("connection", "Upgrade"), ("upgrade", "websocket")])
        );
    }

    #[test]
    fn callers_are_appended_to_what_came() {
        let mut headers = map(&[
            ("x-forwarded-for", "1.1.1.1"),
            ("x-forwarded-proto", "https"),
        ]);
        add_forwarded(
            Forwarded::XForwarded,
            &mut headers,
            "2.2.2.2".parse().unwrap(),
            "http",
            Some("h"),
        );
        assert_eq!(headers["x-forwarded-for"], "1.1.1.1, 2.2.2.2");
        assert_eq!(headers["x-forwarded-proto"], "https");
        assert_eq!(headers["x-forwarded-host"], "h");
        let mut headers = HeaderMap::new();
        add_forwarded(
            Forwarded::Rfc7239,
            &mut headers,
            "::1".parse().unwrap(),
            "http",
            Some("h:1"),
        );
        assert_eq!(
            headers["forwarded"],
            "for=\"[::1]\";proto=http;host=\"h:1\""
        );
    }
}
