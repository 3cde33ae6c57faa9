//! What proxies before us noted about the caller: `Forwarded` (RFC 7239), else `X-Forwarded-*`.
//!
//! Only the first element counts: it is the farthest proxy's. Nothing here is verified; whoever may speak to a listener
//! may write these headers.

use std::net::IpAddr;

use http::HeaderMap;
use http::HeaderName;
use http::header::FORWARDED;

/// Looked up in every request: parsed once.
static X_FORWARDED: [(HeaderName, &str); 3] = [
    (HeaderName::from_static("x-forwarded-for"), "for"),
    (HeaderName::from_static("x-forwarded-proto"), "proto"),
    (HeaderName::from_static("x-forwarded-host"), "host"),
];

/// The first proxy's view of the request; each part may be absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Noted<'a> {
    /// The caller; `None` when it is hidden or no address.
    pub(super) client: Option<IpAddr>,
    /// `http` or `https`.
    pub(super) scheme: Option<&'static str>,
    /// Host with or without port, as the caller wrote it.
    pub(super) host: Option<&'a str>,
}

impl<'a> Noted<'a> {
    /// Reads the headers; what `Forwarded` does not say, `X-Forwarded-*` may.
    pub(super) fn of(headers: &'a HeaderMap) -> Self {
        let mut noted = Self::default();
        if let Some(forwarded) = text(headers, &FORWARDED) {
            for pair in first(forwarded, ',').split(';') {
                let Some((name, value)) = pair.split_once('=') else {
                    continue;
                };
                noted.take(name.trim(), unquoted(value.trim()));
            }
        }
        for (header, name) in &X_FORWARDED {
            if let Some(value) = text(headers, header) {
                noted.take(name, first(value, ',').trim());
            }
        }
        noted
    }

    /// Takes one value unless it is known already.
    fn take(&mut self, name: &str, value: &'a str) {
        if name.eq_ignore_ascii_case("for") {
            self.client = self.client.or_else(|| address(value));
        } else if name.eq_ignore_ascii_case("proto") {
            self.scheme = self.scheme.or_else(|| scheme(value));
        } else if name.eq_ignore_ascii_case("host") && !value.is_empty() {
            self.host = self.host.or(Some(value));
        }
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// The text before the first separator outside quotes.
fn first(list: &str, separator: char) -> &str {
    let mut quoted = false;
    let end = list.find(|letter| {
        quoted ^= letter == '"';
        letter == separator && !quoted
    });
    list.get(..end.unwrap_or(list.len())).unwrap_or(list)
}

/// Without the quotes; nothing with escapes inside is a host or an address.
fn unquoted(value: &str) -> &str {
    value
        .strip_prefix('"')
        .and_then(|value| value.strip_suffix('"'))
        .unwrap_or(value)
}

/// `1.2.3.4`, `1.2.3.4:80`, `::1`, `[::1]` and `[::1]:80`.
fn address(value: &str) -> Option<IpAddr> {
    if let Ok(address) = value.parse() {
        return Some(address);
    }
    match value.strip_prefix('[') {
        Some(rest) => rest.split(']').next()?.parse().ok(),
        None => value.split(':').next()?.parse().ok(),
    }
}

fn scheme(value: &str) -> Option<&'static str> {
    ["http", "https"]
        .into_iter()
        .find(|known| known.eq_ignore_ascii_case(value))
}

#[cfg(test)]
mod tests {
    use http::HeaderName;
    use http::HeaderValue;

    use super::*;

    #[test]
    fn the_first_element_counts() {
        for (headers, client, scheme, host) in [
            (&[][..], None, None, None),
            (
                &[("x-forwarded-for", "1.2.3.4, 5.6.7.8")],
                Some("1.2.3.4"),
                None,
                None,
            ),
            (
                &[("x-forwarded-for", "1.2.3.4:99")],
                Some("1.2.3.4"),
                None,
                None,
            ),
            (
                &[
                    ("x-forwarded-proto", "HTTPS,http"),
                    ("x-forwarded-host", "a:1, b"),
                ],
                None,
                Some("https"),
                Some("a:1"),
            ),
            (
                &[(
                    "forwarded",
                    "For=\"[2001:db8::1]:47\";Proto=https;host=\"a,b\", for=9.9.9.9",
                )],
                Some("2001:db8::1"),
                Some("https"),
                Some("a,b"),
            ),
            (
                &[
                    ("forwarded", "for=unknown;proto=gopher"),
                    ("x-forwarded-for", "::1"),
                ],
                Some("::1"),
                None,
                None,
            ),
            (
                &[
                    ("forwarded", "for=_hidden;;=;x;by=\""),
                    ("x-forwarded-for", ""),
                ],
                None,
                None,
                None,
            ),
        ] {
            let map: HeaderMap = headers
                .iter()
                .map(|(name, value)| {
                    (
                        HeaderName::from_static(name),
                        HeaderValue::from_static(value),
                    )
                })
                .collect();
            let expected = Noted {
                client: client.map(|client: &str| client.parse().unwrap()),
                scheme,
                host,
            };
            assert_eq!(Noted::of(&map), expected, "{headers:?}");
        }
    }
}
