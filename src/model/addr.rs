//! Addresses as people write them: `HOST:PORT`.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::Deserialize;
use serde::Deserializer;
use serde::Serialize;
use serde::Serializer;

use crate::model::Text;

/// A host name or IP address with a port: `127.0.0.1:3000`, `collector:4317`, `[::1]:8080`.
///
/// The host is kept without brackets. A name is resolved when it is used, never here.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostPort {
    /// Name or address, without brackets, never empty.
    pub host: Text,
    /// Port; 0 asks the system for a free one where a listener is meant.
    pub port: u16,
}

impl HostPort {
    /// Joins a host (without brackets) and a port.
    pub fn new(host: &str, port: u16) -> Self {
        Self {
            host: Text::new(host),
            port,
        }
    }

    /// The host as an IP address; `None` when it is a name.
    pub fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }
}

/// Why a text is not a `HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an address: {reason}, write HOST:PORT such as 127.0.0.1:3000")]
pub struct AddrError {
    text: String,
    reason: &'static str,
}

impl FromStr for HostPort {
    type Err = AddrError;

    fn from_str(text: &str) -> Result<Self, AddrError> {
        parse(text).map_err(|reason| AddrError {
            text: text.to_owned(),
            reason,
        })
    }
}

fn parse(text: &str) -> Result<HostPort, &'static str> {
    if text.contains("://") {
        return Err("it is a URL");
    }
    let (host, port) = text.rsplit_once(':').ok_or("the port is missing")?;
    if port.is_empty() {
        return Err("the port is missing");
    }
    if !port.bytes().all(|b| b.is_ascii_digit()) {
        return Err("the port is not a number");
    }
    let port = port.parse().map_err(|_| "the port is above 65535")?;
    if let Some(inner) = host.strip_prefix('[') {
        let inner = inner.strip_suffix(']').ok_or("a bracket is missing")?;
        if !matches!(inner.parse(), Ok(IpAddr::V6(_))) {
            return Err("the brackets hold no IPv6 address");
        }
        return Ok(HostPort::new(inner, port));
    }
    if host.is_empty() {
        return Err("the host is missing");
    }
    if host.contains(':') {
        return Err("an IPv6 address needs brackets");
    }
    if !host
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
    {
        return Err("the host holds a character that no host name has");
    }
    let numeric = host.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    if numeric && host.parse::<IpAddr>().is_err() {
        return Err("the host is not a valid IPv4 address");
    }
    Ok(HostPort::new(host, port))
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Debug for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for HostPort {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for HostPort {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for HostPort {
    fn schema_name() -> Cow<'static, str> {
        "HostPort".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "pattern": "^(\\[[0-9a-fA-F:.]+\\]|[A-Za-z0-9._-]+):[0-9]{1,5}$",
            "description": "HOST:PORT, such as 127.0.0.1:3000, collector:4317 or [::1]:8080.",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_round_trip() {
        for text in [
            "127.0.0.1:3000",
            "collector:4317",
            "[::1]:8080",
            "a-b.c_d:0",
        ] {
            let parsed: HostPort = text.parse().unwrap();
            assert_eq!(parsed.to_string(), text);
        }
        assert_eq!(&*"[::1]:80".parse::<HostPort>().unwrap().host, "::1");
    }

    #[test]
    fn what_is_no_address_is_refused_with_the_reason() {
        for (text, reason) in [
            ("", "the port is missing"),
            ("localhost", "the port is missing"),
            ("localhost:", "the port is missing"),
            ("localhost:http", "the port is not a number"),
            ("localhost:+80", "the port is not a number"),
            ("localhost:65536", "the port is above 65535"),
            (":8080", "the host is missing"),
            ("::1:8080", "an IPv6 address needs brackets"),
            ("[::1:8080", "a bracket is missing"),
            ("[name]:8080", "the brackets hold no IPv6 address"),
            ("http://a:80", "it is a URL"),
            ("a b:80", "the host holds a character that no host name has"),
            ("127.0.0.300:80", "the host is not a valid IPv4 address"),
        ] {
            let error = text.parse::<HostPort>().unwrap_err();
            assert_eq!(error.reason, reason, "{text}");
        }
    }
}
