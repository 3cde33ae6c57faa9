//! Keeps secrets out of spans: signature query parameters, credentials in URLs, credential headers.

use std::borrow::Cow;

use http::HeaderName;

/// Parameters whose values are credentials by themselves, matched case-sensitively.
/// Source: OpenTelemetry semantic conventions, HTTP spans, `url.query`.
const SIGNATURES: &[&str] = &[
    "X-Amz-Signature",
    "X-Amz-Credential",
    "X-Amz-Security-Token",
    "AWSAccessKeyId",
    "Signature",
    "sig",
    "X-Goog-Signature",
];
/// Headers that are never recorded, whatever the configuration says.
const CREDENTIAL_HEADERS: &[&str] = &[
    "authorization",
    "proxy-authorization",
    "cookie",
    "set-cookie",
    "x-api-key",
    "x-amz-security-token",
];
const REDACTED: &str = "REDACTED";

/// Which query parameters lose their values.
#[derive(Debug, Clone, Default)]
pub struct Redaction {
    extra: Vec<String>,
    all: bool,
}

impl Redaction {
    /// The standard list plus `extra`; `*` among them redacts every value.
    pub fn new(extra: &[String]) -> Self {
        Self {
            extra: extra.to_vec(),
            all: extra.iter().any(|name| name == "*"),
        }
    }

    /// The query string (without `?`) with secret values replaced. Borrowed when nothing had to change.
    pub fn query<'a>(&self, query: &'a str) -> Cow<'a, str> {
        if !query.split('&').any(|pair| self.is_secret(pair)) {
            return Cow::Borrowed(query);
        }
        let mut out = String::with_capacity(query.len());
        for (index, pair) in query.split('&').enumerate() {
            if index > 0 {
                out.push('&');
            }
            match pair.split_once('=') {
                Some((name, _)) if self.is_secret(pair) => {
                    out.push_str(name);
                    out.push('=');
                    out.push_str(REDACTED);
                }
                _ => out.push_str(pair),
            }
        }
        Cow::Owned(out)
    }

    fn is_secret(&self, pair: &str) -> bool {
        let Some((name, value)) = pair.split_once('=') else {
            return false;
        };
        !value.is_empty()
            && (self.all
                || SIGNATURES.contains(&name)
                || self.extra.iter().any(|extra| extra == name))
    }
}

/// An authority with any user information replaced: `user:pw@host` becomes `REDACTED:REDACTED@host`.
pub(super) fn authority(authority: &str) -> Cow<'_, str> {
    match authority.rsplit_once('@') {
        Some((_, host)) => Cow::Owned(format!("{REDACTED}:{REDACTED}@{host}")),
        None => Cow::Borrowed(authority),
    }
}

/// True for headers that must never be recorded.
pub(super) fn is_credential(name: &HeaderName) -> bool {
    CREDENTIAL_HEADERS.contains(&name.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secret_values_are_replaced_and_nothing_else() {
        let redaction = Redaction::new(&["token".to_owned()]);
        for (query, expected) in [
            ("a=1&sig=abc&b=2", "a=1&sig=REDACTED&b=2"),
            ("token=x", "token=REDACTED"),
            (
                "X-Amz-Signature=f00&X-Amz-Date=1",
                "X-Amz-Signature=REDACTED&X-Amz-Date=1",
            ),
            ("SIG=abc", "SIG=abc"),
            ("sig=", "sig="),
            ("sig", "sig"),
            ("", ""),
        ] {
            assert_eq!(redaction.query(query), expected, "{query}");
        }
        assert_eq!(
            Redaction::new(&["*".to_owned()]).query("a=1&b"),
            "a=REDACTED&b"
        );
        assert_eq!(authority("u:p@h:1"), "REDACTED:REDACTED@h:1");
        assert_eq!(authority("h:1"), "h:1");
    }
}
