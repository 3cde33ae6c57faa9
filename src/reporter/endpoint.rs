//! Where a reporter sends: an absolute `http` or `https` URL, checked when the configuration is read.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use http::Uri;
use schemars::JsonSchema;
use serde::Deserialize;
use serde::Deserializer;
use serde::Serialize;
use serde::Serializer;

use crate::reporter::BuildError;

use crate::model::HostPort;

/// An absolute `http://` or `https://` URL without credentials.
#[derive(Clone, PartialEq, Eq)]
pub struct Endpoint(Uri);

/// Why a URL was refused. Never repeats the URL: it might hold a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// No URL at all.
    #[error("not a URL: write scheme, host and port, such as http://collector:4318")]
    NotAUrl,
    /// Another scheme.
    #[error("the scheme must be http or https")]
    Scheme,
    /// User and password inside the URL.
    #[error("credentials do not belong into the URL: use headers, basic_auth or bearer_token")]
    Credentials,
}

impl Endpoint {
    /// The URL.
    pub fn uri(&self) -> &Uri {
        &self.0
    }

    /// True for `https`.
    pub fn is_tls(&self) -> bool {
        self.0.scheme_str() == Some("https")
    }

    /// Host without brackets.
    pub fn host(&self) -> &str {
        let host = self.0.host().unwrap_or_default();
        host.strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(host)
    }

    /// The port, or the scheme's own.
    pub fn port(&self) -> u16 {
        let default = if self.is_tls() { 443 } else { 80 };
        self.0.port_u16().unwrap_or(default)
    }

    /// Host and port.
    pub(super) fn host_port(&self) -> HostPort {
        HostPort::new(self.host(), self.port())
    }

    /// The configured URL, else the kind's own.
    pub(super) fn or_default(configured: &Option<Self>, default: &str) -> Result<Self, BuildError> {
        match configured {
            Some(endpoint) => Ok(endpoint.clone()),
            None => default
                .parse()
                .map_err(|error| BuildError::Client(Box::new(error))),
        }
    }

    /// The URL with this path if it has none of its own, and with this query if it has none.
    pub(super) fn with_default_path(&self, path: &str, query: Option<&str>) -> Uri {
        let own = if self.0.path() == "/" {
            path
        } else {
            self.0.path()
        };
        let path_and_query = match self.0.query().or(query) {
            Some(query) => format!("{own}?{query}"),
            None => own.to_owned(),
        };
        self.with_path(&path_and_query)
    }

    /// The URL with this path and query.
    pub(super) fn with_path(&self, path_and_query: &str) -> Uri {
        let mut parts = self.0.clone().into_parts();
        match path_and_query.parse() {
            Ok(path_and_query) => parts.path_and_query = Some(path_and_query),
            Err(_) => return self.0.clone(),
        }
        Uri::from_parts(parts).unwrap_or_else(|_| self.0.clone())
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let uri: Uri = text.trim().parse().map_err(|_| EndpointError::NotAUrl)?;
        match uri.scheme_str() {
            Some("http" | "https") => {}
            Some(_) => return Err(EndpointError::Scheme),
            None => return Err(EndpointError::NotAUrl),
        }
        let authority = uri.authority().ok_or(EndpointError::NotAUrl)?;
        if authority.as_str().contains('@') {
            return Err(EndpointError::Credentials);
        }
        let after_host = authority.as_str().strip_prefix(authority.host());
        let port = after_host.and_then(|rest| rest.strip_prefix(':'));
        let bad_port =
            port.is_some_and(|digits| digits.parse::<u16>().map_or(true, |port| port == 0));
        if authority.host().is_empty() || bad_port {
            return Err(EndpointError::NotAUrl);
        }
        Ok(Self(uri))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl Serialize for Endpoint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Endpoint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Endpoint {
    fn schema_name() -> Cow<'static, str> {
        "Endpoint".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "pattern": "^https?://[^@/]+",
            "description": "A URL: scheme, host and port, such as http://collector:4318."
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_of_ones_own_is_kept() {
        for (text, expected) in [
            ("http://c:4318", "http://c:4318/v1/traces?q=1"),
            ("http://c:4318/", "http://c:4318/v1/traces?q=1"),
            ("https://c/otlp/v1/traces", "https://c/otlp/v1/traces?q=1"),
            ("http://[::1]:9/x?tenant=a", "http://[::1]:9/x?tenant=a"),
        ] {
            let endpoint: Endpoint = text.parse().unwrap();
            let uri = endpoint.with_default_path("/v1/traces", Some("q=1"));
            assert_eq!(uri.to_string(), expected);
        }
    }

    #[test]
    fn what_is_no_endpoint_is_refused_without_being_repeated() {
        for (text, error, why) in [
            ("", EndpointError::NotAUrl, "empty"),
            ("collector:4318", EndpointError::NotAUrl, "no scheme"),
            ("/v1/traces", EndpointError::NotAUrl, "path alone"),
            ("http://", EndpointError::NotAUrl, "no host"),
            ("http://c:99999", EndpointError::NotAUrl, "port too large"),
            ("http://c:", EndpointError::NotAUrl, "empty port"),
            ("ftp://c", EndpointError::Scheme, "scheme"),
            (
                "http://u:p@c",
                EndpointError::Credentials,
                "password in the URL",
            ),
        ] {
            assert_eq!(text.parse::<Endpoint>(), Err(error), "{why}");
        }
    }

    #[test]
    fn hosts_lose_their_brackets_and_ports_come_from_the_scheme() {
        let endpoint: Endpoint = "https://[::1]/".parse().unwrap();
        assert_eq!((endpoint.host(), endpoint.port()), ("::1", 443));
        let endpoint: Endpoint = "http://c".parse().unwrap();
        assert_eq!((endpoint.host(), endpoint.port()), ("c", 80));
    }
}
