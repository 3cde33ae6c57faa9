//! The OpenTelemetry HTTP and gRPC conventions: which attributes a request and its answer become.
//!
//! Stable HTTP names; gRPC names of the release candidate. Source: OpenTelemetry semantic conventions 1.44,
//! `docs/http/http-spans.md` and `docs/rpc/grpc.md`.

use std::collections::HashSet;
use std::net::IpAddr;
use std::net::SocketAddr;

use foldhash::quality::RandomState;
use http::HeaderMap;
use http::HeaderName;
use http::Method;
use http::Request;
use http::StatusCode;
use http::Uri;
use http::Version;
use http::header;
use parking_lot::RwLock;

use crate::model::Attribute;
use crate::model::Kind;
use crate::model::Text;
use crate::model::Value;
use crate::telemetry::metrics::Metrics;
use crate::tracer::ActiveSpan;
use crate::tracer::Config;
use crate::tracer::Glance;
use crate::tracer::Redaction;
use crate::tracer::Route;
use crate::tracer::RouteError;
use crate::tracer::Routes;
use crate::tracer::address::AddressText;
use crate::tracer::forwarded::Noted;
use crate::tracer::grpc_code;
use crate::tracer::redact;

static GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
/// Most gRPC methods that become span names; callers choose the path, so the set must be bounded.
const MAX_RPC_NAMES: usize = 2_000;

/// The conventions with the operator's choices, compiled once per configuration snapshot.
#[derive(Debug)]
pub struct Conventions {
    routes: Routes,
    redaction: Redaction,
    request_headers: Vec<CapturedHeader>,
    response_headers: Vec<CapturedHeader>,
    constants: Vec<Attribute>,
    ignore_user_agents: Vec<String>,
    ignore_paths: Vec<String>,
    max_value_length: usize,
    rpc_names: RwLock<HashSet<Text, RandomState>>,
}

#[derive(Debug)]
struct CapturedHeader {
    name: HeaderName,
    key: Text,
}

/// Why the span settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConventionsError {
    /// A route template.
    #[error(transparent)]
    Route(#[from] RouteError),
    /// A captured header's name.
    #[error("{0:?} is not a header name")]
    HeaderName(String),
}

/// The name of a request's span.
#[derive(Debug, Clone)]
pub struct Operation {
    /// `METHOD TEMPLATE`, `METHOD`, or `package.Service/Method`.
    pub name: Text,
    /// The template that matched.
    pub route: Option<Route>,
    /// The path of a gRPC call without its leading slash.
    pub rpc_method: Option<Text>,
}

/// What is known about a request besides its head.
#[derive(Debug, Clone, Copy)]
pub struct Connection<'a> {
    /// The TCP peer: downstream for server spans, upstream for client spans, when connected.
    pub peer: Option<SocketAddr>,
    /// `http` or `https`, as the connection says.
    pub scheme: &'static str,
    /// Where the request goes when that is not what it says itself: `host:port`.
    pub to: Option<&'a str>,
    /// Which side of the call.
    pub kind: Kind,
}

/// A connection that is passed on without being understood.
#[derive(Debug, Clone, Copy)]
pub struct PassedConnection<'a> {
    /// The server's name, or its address.
    pub address: &'a str,
    /// Its port.
    pub port: u16,
    /// The caller, where that is somebody else's program.
    pub client: Option<SocketAddr>,
    /// The name that a TLS client asks for.
    pub server_name: Option<&'a str>,
    /// The protocols that a TLS client offers.
    pub alpn: &'a [Text],
}

impl Conventions {
    /// Compiles the settings.
    ///
    /// # Errors
    /// The first template or header name that cannot be used.
    pub fn new(config: &Config, metrics: &Metrics) -> Result<Self, ConventionsError> {
        Ok(Self {
            routes: Routes::new(&config.routes, metrics)?,
            redaction: Redaction::new(&config.redact_query),
            request_headers: captured(&config.request_headers, "http.request.header.")?,
            response_headers: captured(&config.response_headers, "http.response.header.")?,
            constants: config
                .attributes
                .iter()
                .map(|(key, value)| Attribute {
                    key: Text::new(key),
                    value: Value::Str(Text::new(value)),
                })
                .collect(),
            ignore_user_agents: config.ignore_user_agents.clone(),
            ignore_paths: config.ignore_paths.clone(),
            max_value_length: config.max_value_length.as_usize(),
            rpc_names: RwLock::default(),
        })
    }

    /// True for requests that get no span: probes, and what the operator named.
    pub fn ignores(&self, uri: &Uri, glance: &Glance<'_>) -> bool {
        let by_agent = !self.ignore_user_agents.is_empty()
            && glance.user_agent.is_some_and(|agent| {
                self.ignore_user_agents
                    .iter()
                    .any(|prefix| agent.as_bytes().starts_with(prefix.as_bytes()))
            });
        by_agent || self.ignore_paths.iter().any(|path| path == uri.path())
    }

    /// The low-cardinality name of a request.
    pub fn operation(
        &self,
        kind: Kind,
        method: &Method,
        uri: &Uri,
        glance: &Glance<'_>,
    ) -> Operation {
        let word = known_method(method);
        if glance.is_grpc()
            && let Some(rpc_method) = self.rpc_name(uri.path())
        {
            return Operation {
                name: rpc_method.clone(),
                route: None,
                rpc_method: Some(rpc_method),
            };
        }
        let route = if kind == Kind::Server {
            self.routes.find(uri.path()).cloned()
        } else {
            None
        };
        let word = if word == "_OTHER" { "HTTP" } else { word };
        let name = match &route {
            Some(route) => Text::from(format!("{word} {}", route.template)),
            None => Text::new_static(word),
        };
        Operation {
            name,
            route,
            rpc_method: None,
        }
    }

    /// Attributes known when the request head has arrived.
    pub fn request<B>(
        &self,
        span: &mut ActiveSpan,
        operation: &Operation,
        (request, glance): (&Request<B>, &Glance<'_>),
        connection: Connection<'_>,
    ) {
        if !span.is_recording() {
            return;
        }
        let (method, uri, headers) = (request.method(), request.uri(), request.headers());
        let word = known_method(method);
        span.set("http.request.method", word);
        if word == "_OTHER" {
            span.set("http.request.method_original", self.cut(method.as_str()));
        }
        let scheme = uri
            .scheme_str()
            .map_or(connection.scheme, |scheme| match scheme {
                "https" => "https",
                _ => "http",
            });
        let noted = match connection.kind {
            Kind::Server if glance.is_forwarded => Noted::of(headers),
            _ => Noted::default(),
        };
        let scheme = noted.scheme.unwrap_or(scheme);
        let host = connection.to.or(noted.host);
        let host = host.or_else(|| match uri.authority() {
            Some(authority) => Some(authority.as_str()),
            None => glance.host_text(),
        });
        match connection.kind {
            Kind::Server => {
                span.set("url.scheme", scheme);
                self.server_request(span, uri, glance, noted.client, connection.peer);
            }
            _ => span.set("url.full", self.cut(&self.full_url(uri, scheme, host))),
        }
        if let Some((address, port)) = host.and_then(split_host) {
            span.set("server.address", self.cut(address));
            if let Some(port) = port.or_else(|| default_port(scheme)) {
                span.set("server.port", i64::from(port));
            }
        }
        span.set("network.protocol.version", version_name(request.version()));
        if let Some(route) = &operation.route {
            span.set("http.route", route.template.as_str());
        }
        if let Some(rpc_method) = &operation.rpc_method {
            span.set("rpc.system.name", "grpc");
            span.set("rpc.method", rpc_method.as_str());
        }
        self.capture(span, &self.request_headers, headers);
        span.extend(&self.constants);
    }

    /// Attributes of a connection whose content is not read.
    pub fn connection(&self, span: &mut ActiveSpan, passed: &PassedConnection<'_>) {
        if !span.is_recording() {
            return;
        }
        span.set("network.transport", "tcp");
        span.set("server.address", self.cut(passed.address));
        span.set("server.port", i64::from(passed.port));
        if let Some(client) = passed.client {
            span.set("client.address", &*AddressText::of(client.ip()));
            self.peer(span, client);
        }
        if let Some(name) = passed.server_name {
            span.set("pillion.tls.server_name", self.cut(name));
        }
        if !passed.alpn.is_empty() {
            span.set("pillion.tls.alpn", Value::StrList(passed.alpn.into()));
        }
        span.extend(&self.constants);
    }

    /// The TCP peer of a client span, known once a connection was chosen.
    pub fn peer(&self, span: &mut ActiveSpan, peer: SocketAddr) {
        if span.is_recording() {
            span.set("network.peer.address", &*AddressText::of(peer.ip()));
            span.set("network.peer.port", i64::from(peer.port()));
        } else if let Some(late) = span.late() {
            late.peer = Some(peer);
        }
    }

    /// Attributes and status known when the response head has arrived.
    pub fn response(
        &self,
        span: &mut ActiveSpan,
        kind: Kind,
        status: StatusCode,
        headers: &HeaderMap,
    ) {
        let failed = status.is_server_error() || (kind == Kind::Client && status.is_client_error());
        if !span.is_recording() {
            if failed && span.late().is_some() {
                span.fail(status_text(status));
            }
            return;
        }
        span.set("http.response.status_code", i64::from(status.as_u16()));
        if failed {
            span.fail(status_text(status));
        }
        self.capture(span, &self.response_headers, headers);
    }

    /// True when [`Conventions::response`] looks at headers.
    pub fn reads_response_headers(&self) -> bool {
        !self.response_headers.is_empty()
    }

    /// The gRPC status, from trailers or from a trailers-only response head.
    pub fn grpc_status(&self, span: &mut ActiveSpan, kind: Kind, trailers: &HeaderMap) {
        // A few fields at most: looked through, they need not be hashed for.
        let mut fields = trailers.iter();
        let Some((_, status)) = fields.find(|(name, _)| **name == GRPC_STATUS) else {
            return;
        };
        let Some(code) = status
            .to_str()
            .ok()
            .and_then(|text| text.parse::<u8>().ok())
        else {
            return;
        };
        let name = grpc_code::name_of(code);
        if let Some(late) = span.late() {
            late.rpc_status = Some(name);
        } else if !span.is_recording() {
            return;
        }
        span.set("rpc.response.status_code", name);
        let failed = match kind {
            Kind::Server => matches!(code, 2 | 4 | 12 | 13 | 14 | 15),
            _ => code != 0,
        };
        if failed {
            span.fail(Text::new_static(name));
        }
    }

    fn server_request(
        &self,
        span: &mut ActiveSpan,
        uri: &Uri,
        glance: &Glance<'_>,
        client: Option<IpAddr>,
        peer: Option<SocketAddr>,
    ) {
        span.set("url.path", self.cut(uri.path()));
        if let Some(query) = uri.query().filter(|query| !query.is_empty()) {
            span.set("url.query", self.cut(&self.redaction.query(query)));
        }
        if let Some(peer) = peer {
            let address = AddressText::of(peer.ip());
            match client.filter(|client| *client != peer.ip()) {
                Some(client) => span.set("client.address", &*AddressText::of(client)),
                None => span.set("client.address", &*address),
            }
            span.set("network.peer.address", &*address);
            span.set("network.peer.port", i64::from(peer.port()));
        }
        if let Some(agent) = glance.user_agent.and_then(|agent| agent.to_str().ok()) {
            span.set("user_agent.original", self.cut(agent));
        }
    }

    fn full_url(&self, uri: &Uri, scheme: &str, host: Option<&str>) -> String {
        let host = redact::authority(host.unwrap_or_default());
        let mut url = String::with_capacity(scheme.len() + 4 + host.len() + uri.path().len() + 1);
        url.push_str(scheme);
        url.push_str("://");
        url.push_str(&host);
        url.push_str(uri.path());
        if let Some(query) = uri.query() {
            url.push('?');
            url.push_str(&self.redaction.query(query));
        }
        url
    }

    fn capture(&self, span: &mut ActiveSpan, wanted: &[CapturedHeader], headers: &HeaderMap) {
        for CapturedHeader { name, key } in wanted {
            let values: Vec<_> = headers
                .get_all(name)
                .iter()
                .map(|value| Text::new(self.cut(&String::from_utf8_lossy(value.as_bytes()))))
                .collect();
            if !values.is_empty() {
                span.set_text(key, Value::StrList(values.into()));
            }
        }
    }

    /// The path of a gRPC call as a name, while there are not too many of them.
    fn rpc_name(&self, path: &str) -> Option<Text> {
        let path = path.strip_prefix('/')?;
        if path.len() > 255 || memchr::memchr_iter(b'/', path.as_bytes()).count() != 1 {
            return None;
        }
        let known = self.rpc_names.read();
        match known.get(path) {
            Some(name) => return Some(name.clone()),
            // Nobody is held up by names for which there is no room.
            None if known.len() >= MAX_RPC_NAMES => return None,
            None => drop(known),
        }
        let mut names = self.rpc_names.write();
        if names.len() >= MAX_RPC_NAMES {
            return None;
        }
        let name = Text::new(path);
        names.insert(name.clone());
        Some(name)
    }

    /// At most `max_value_length` bytes of the text, cut at a character boundary.
    fn cut<'a>(&self, text: &'a str) -> &'a str {
        if text.len() <= self.max_value_length {
            return text;
        }
        text.get(..text.floor_char_boundary(self.max_value_length))
            .unwrap_or_default()
    }
}

/// The method if it is a standard one, else `_OTHER`.
pub fn known_method(method: &Method) -> &'static str {
    const KNOWN: &[&str] = &[
        "GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "CONNECT", "TRACE",
    ];
    KNOWN
        .iter()
        .find(|known| **known == method.as_str())
        .copied()
        .unwrap_or("_OTHER")
}

/// `1.0`, `1.1`, `2`, `3`.
pub fn version_name(version: Version) -> &'static str {
    match version {
        Version::HTTP_09 => "0.9",
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        Version::HTTP_3 => "3",
        _ => "1.1",
    }
}

/// The host and port the request names: the URI's authority, else the `Host` header.
pub fn host_of<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> Option<&'a str> {
    match uri.authority() {
        Some(authority) => Some(authority.as_str()),
        None => headers
            .get(header::HOST)
            .and_then(|host| host.to_str().ok()),
    }
}

fn split_host(host: &str) -> Option<(&str, Option<u16>)> {
    // Byte by byte: hosts are too short for the machinery of searches to pay.
    let is = |wanted: u8| move |byte: &u8| *byte == wanted;
    let bytes = host.as_bytes();
    let host = match bytes.iter().rposition(is(b'@')) {
        Some(at) => host.get(at + 1..)?,
        None => host,
    };
    if let Some(rest) = host.strip_prefix('[') {
        let (address, port) = rest.split_once(']')?;
        return Some((
            address,
            port.strip_prefix(':').and_then(|port| port.parse().ok()),
        ));
    }
    let split = match host.as_bytes().iter().position(is(b':')) {
        Some(at) => (host.get(..at)?, host.get(at + 1..)?.parse().ok()),
        None => (host, None),
    };
    (!split.0.is_empty()).then_some(split)
}

fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}

fn status_text(status: StatusCode) -> Text {
    Text::new(status.as_str())
}

fn captured(names: &[String], prefix: &str) -> Result<Vec<CapturedHeader>, ConventionsError> {
    let mut wanted = Vec::with_capacity(names.len());
    for text in names {
        let name: HeaderName = text
            .to_ascii_lowercase()
            .parse()
            .map_err(|_| ConventionsError::HeaderName(text.clone()))?;
        if !redact::is_credential(&name) {
            let key = Text::from(format!("{prefix}{name}"));
            wanted.push(CapturedHeader { name, key });
        }
    }
    Ok(wanted)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;
    use std::time::Instant;

    use super::*;

    #[test]
    fn hosts_split_into_address_and_port() {
        for (host, expected) in [
            ("example.com", Some(("example.com", None))),
            ("example.com:8080", Some(("example.com", Some(8080)))),
            ("[::1]:80", Some(("::1", Some(80)))),
            ("user:pw@h:1", Some(("h", Some(1)))),
            ("", None),
            ("[::1", None),
        ] {
            assert_eq!(split_host(host), expected, "{host}");
        }
    }

    #[test]
    fn rpc_names_are_bounded_and_shaped() {
        let conventions = Conventions::new(&Config::default(), &Metrics::new()).unwrap();
        assert_eq!(conventions.rpc_name("/a.B/C").as_deref(), Some("a.B/C"));
        assert_eq!(conventions.rpc_name("/a/b/c"), None, "not service/method");
        for index in 0..3 * MAX_RPC_NAMES {
            conventions.rpc_name(&format!("/s/m{index}"));
        }
        assert_eq!(conventions.rpc_names.read().len(), MAX_RPC_NAMES);
        assert_eq!(
            conventions.rpc_name("/a.B/C").as_deref(),
            Some("a.B/C"),
            "known names stay"
        );
        // Whoever would write waits for the one who reads.
        let reading = conventions.rpc_names.read();
        std::thread::scope(|scope| {
            let asking = scope.spawn(|| conventions.rpc_name("/one/more"));
            let deadline = Instant::now() + Duration::from_secs(10);
            while !asking.is_finished() && Instant::now() < deadline {
                std::thread::yield_now();
            }
            let has_waited = !asking.is_finished();
            drop(reading);
            assert_eq!((asking.join().unwrap(), has_waited), (None, false));
        });
    }

    #[test]
    fn captured_credentials_are_refused_silently_and_bad_names_loudly() {
        let config = Config {
            request_headers: vec!["Authorization".into(), "X-Tenant".into()],
            ..Config::default()
        };
        let conventions = Conventions::new(&config, &Metrics::new()).unwrap();
        assert_eq!(conventions.request_headers.len(), 1);
        assert_eq!(
            conventions.request_headers[0].key,
            "http.request.header.x-tenant"
        );
        let config = Config {
            response_headers: vec!["not a name".into()],
            ..Config::default()
        };
        assert!(Conventions::new(&config, &Metrics::new()).is_err());
    }
}
