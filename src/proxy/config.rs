//! What an operator chooses about listeners, limits and timeouts.

use schemars::JsonSchema;
use serde::Deserialize;
use serde::Serialize;

use crate::model::ByteSize;
use crate::model::HostPort;
use crate::model::HumanDuration;
use crate::net::tls::ClientConfig;
use crate::net::tls::ServerConfig;
use crate::tracer::TrustConfig;

/// The inbound side: requests for the program beside us.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Inbound {
    /// Where callers connect.
    ///
    /// Default: `0.0.0.0:15606`. Reload: restart.
    pub listen: HostPort,
    /// The HTTP version spoken to the program: `auto` mirrors the caller's.
    ///
    /// Default: `auto`. Reload: new connections.
    pub app_protocol: AppProtocol,
    /// Terminate TLS here. Absent: plain HTTP.
    ///
    /// Default: none. Reload: certificates live, the rest restart.
    pub tls: Option<ServerConfig>,
    /// How far callers' trace contexts are believed.
    pub trust: TrustConfig,
    /// What is told to the program about its caller.
    ///
    /// Default: `none`. Reload: new connections.
    pub forwarded: Forwarded,
    /// Connections begin with a header of the PROXY protocol (version 1 or 2): the caller is who it names. It is taken
    /// off; a connection without one is closed.
    ///
    /// Default: `false`. Reload: new connections.
    pub proxy_protocol: bool,
    /// Take connections to any port of the program that rules of the system lead here (`pillion redirect install`).
    /// Absent: none.
    ///
    /// Default: none. Reload: restart.
    pub redirect: Option<InboundRedirect>,
}

/// The outbound side: a forward proxy for `HTTP_PROXY`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Outbound {
    /// Listen at all.
    ///
    /// Default: `true`. Reload: restart.
    pub enabled: bool,
    /// Where the program connects.
    ///
    /// Default: `127.0.0.1:15601`. Reload: restart.
    pub listen: HostPort,
    /// TLS towards `https://` URLs in absolute-form requests. CONNECT tunnels are not opened.
    pub tls: ClientConfig,
    /// Take connections of the program to anywhere that rules of the system lead here (`pillion redirect install`).
    /// Absent: none.
    ///
    /// Default: none. Reload: restart.
    pub redirect: Option<OutboundRedirect>,
}

/// Redirected connections to the program.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct InboundRedirect {
    /// Where rules lead connections. `[::]` takes both families.
    ///
    /// Default: `[::]:15607`. Reload: restart.
    pub listen: HostPort,
    /// How rules lead them.
    ///
    /// Default: `redirect`. Reload: restart.
    pub mode: Interception,
    /// Where the program is reached.
    ///
    /// Default: `original`. Reload: restart.
    pub to: Arrival,
    /// Call the program from the caller's address, so that it sees who calls. Only with `mode: tproxy` and
    /// `to: original`.
    ///
    /// Default: `true`. Reload: restart.
    pub keep_source: bool,
}

impl InboundRedirect {
    /// True where, with TPROXY, the program is called from the caller's address.
    pub fn keeps_source(&self) -> bool {
        self.keep_source && self.to == Arrival::Original
    }
}

/// Redirected connections of the program.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OutboundRedirect {
    /// Where rules lead connections. `[::]` takes both families.
    ///
    /// Default: `[::]:15602`. Reload: restart.
    pub listen: HostPort,
    /// How rules lead them.
    ///
    /// Default: `redirect`. Reload: restart.
    pub mode: Interception,
}

/// How rules of the system lead connections here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Interception {
    /// REDIRECT: needs no privilege here.
    #[default]
    Redirect,
    /// TPROXY: needs the capability `NET_ADMIN` or `NET_RAW` here.
    Tproxy,
}

/// Where the program takes connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Arrival {
    /// At the address that the caller dialled.
    #[default]
    Original,
    /// At that port on loopback.
    Loopback,
}

/// Redirected connections that are passed on without being understood, and how they are told from HTTP.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Passthrough {
    /// Ports whose servers speak first (FTP, SSH, Telnet, SMTP, POP3, NNTP, IMAP, MySQL, ManageSieve, NATS, VNC):
    /// connections to them are passed on at once. Others that speak first are recognised and remembered.
    ///
    /// Default: `[21, 22, 23, 25, 110, 119, 143, 587, 3306, 4190, 4222, 5900]`. Reload: new connections.
    pub server_first_ports: Vec<u16>,
    /// How long first bytes that several protocols may begin with are held back before they are passed on unread.
    ///
    /// Unit: duration. Default: `1s`. Reload: new connections.
    pub hold: HumanDuration,
    /// Record TLS connections of the program as client spans: server name, offered protocols, bytes, end.
    ///
    /// Default: `true`. Reload: new connections.
    pub tls_spans: bool,
    /// Record other connections of the program as client spans.
    ///
    /// Default: `false`. Reload: new connections.
    pub tcp_spans: bool,
    /// Record connections to the program that are passed on, TLS and others, as server spans.
    ///
    /// Default: `false`. Reload: new connections.
    pub inbound_spans: bool,
    /// Let the kernel move what long streams carry (splice(2)) instead of copying it.
    ///
    /// Default: `true`. Reload: new connections.
    pub splice: bool,
}

/// A static outbound route: listen here, go there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Where the program connects.
    ///
    /// Reload: restart.
    pub listen: HostPort,
    /// Where its requests go.
    ///
    /// Reload: restart.
    pub to: HostPort,
    /// Originate TLS towards `to`. Absent: plain HTTP.
    ///
    /// Default: none. Reload: restart.
    #[serde(default)]
    pub tls: Option<ClientConfig>,
    /// Replace the `Host` header by `to`. Without it the header passes as the program wrote it.
    ///
    /// Default: `false`. Reload: restart.
    #[serde(default)]
    pub rewrite_host: bool,
    /// The name recorded as `service.peer.name`. Empty: none.
    ///
    /// Default: empty. Reload: restart.
    #[serde(default)]
    pub peer_service: String,
}

/// The HTTP version spoken to the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AppProtocol {
    /// The caller's version; HTTP/1.1 for HTTP/2 that came over TLS, except gRPC.
    #[default]
    Auto,
    /// Always HTTP/1.1.
    Http1,
    /// Always HTTP/2 with prior knowledge.
    Http2,
}

/// Which header tells the program about its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Forwarded {
    /// Nothing is added.
    #[default]
    None,
    /// `X-Forwarded-For`, `-Proto`, `-Host`: appended to what came.
    XForwarded,
    /// `Forwarded` (RFC 7239): appended to what came.
    Rfc7239,
}

/// Upper bounds. Beyond one, the answer says which.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Largest request or response head. Beyond: 431 to callers, 502 for upstreams.
    ///
    /// Unit: size. Default: `64KiB`. Reload: new connections.
    pub head_size: ByteSize,
    /// Most header fields in a head. Beyond: 431 to callers, 502 for upstreams.
    ///
    /// Unit: fields. Default: `200`. Reload: new connections.
    pub headers: usize,
    /// Largest request body. `0`: no limit. Beyond: 413.
    ///
    /// Unit: size. Default: `0`. Reload: new connections.
    pub body_size: ByteSize,
    /// Most downstream connections of all listeners; more wait in the kernel's backlog.
    ///
    /// Unit: connections. Default: `100000`. Reload: restart.
    pub connections: usize,
    /// Most requests in flight. Beyond: 503 with `Retry-After`.
    ///
    /// Unit: requests. Default: `100000`. Reload: new connections.
    pub requests: usize,
    /// Most upstream connections, idle ones included. Beyond: requests wait for `timeouts.pool`, then 503.
    ///
    /// Unit: connections. Default: `10000`. Reload: restart.
    pub upstream_connections: usize,
    /// Most idle upstream connections kept for one destination, by each worker. `0`: a new connection each time.
    ///
    /// Unit: connections. Default: `10000`. Reload: restart.
    pub idle_per_destination: usize,
    /// Most concurrent streams of an HTTP/2 connection, either side. Of each one's body up to 256 KiB wait here for whoever
    /// is slow to take it.
    ///
    /// Unit: streams. Default: `250`. Reload: new connections.
    pub http2_streams: u32,
}

/// How long things may take. `0` means: as long as they like.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// First bytes of a new connection.
    ///
    /// Unit: duration. Default: `30s`. Reload: new connections.
    pub detect: HumanDuration,
    /// TLS handshake, either side.
    ///
    /// Unit: duration. Default: `10s`. Reload: new connections.
    pub tls_handshake: HumanDuration,
    /// A complete request head after its first byte; also how long a kept-alive HTTP/1 connection may stay idle
    /// before the next head, unless `idle` is shorter.
    ///
    /// Unit: duration. Default: `30s`. Reload: new connections.
    pub head: HumanDuration,
    /// A downstream connection without a request. HTTP/2 connections end after twice this time at the latest.
    ///
    /// Unit: duration. Default: `1h`. Reload: new connections.
    pub idle: HumanDuration,
    /// Opening an upstream connection, name resolution included. Beyond: 504.
    ///
    /// Unit: duration. Default: `5s`. Reload: new connections.
    pub connect: HumanDuration,
    /// Waiting for a free upstream connection. Beyond: 503.
    ///
    /// Unit: duration. Default: `5s`. Reload: restart.
    pub pool: HumanDuration,
    /// From the whole request to the response head. Beyond: 504.
    ///
    /// Unit: duration. Default: `0`. Reload: new connections.
    pub response: HumanDuration,
    /// Neither side of an exchange, upgraded connection or tunnel makes progress. Beyond: 504, or a cut when a response
    /// has begun. Noticed after twice this time at the latest.
    ///
    /// Unit: duration. Default: `0`. Reload: new connections.
    pub stall: HumanDuration,
    /// Once we stop: a tunnel, upgraded or passed-on connection through which nothing moves for so long is closed. One that
    /// moves goes on until `shutdown.drain_timeout` is over.
    ///
    /// Unit: duration. Default: `5s`. Reload: new connections.
    pub tunnel_drain: HumanDuration,
    /// An idle connection to the program; its own `Keep-Alive: timeout` shortens it. Below the 2 seconds after which some
    /// servers (gunicorn) close theirs without a word, others after 5: a request that meets such a close is lost.
    ///
    /// Unit: duration. Default: `1500ms`. Reload: restart.
    pub program_idle: HumanDuration,
    /// An idle connection to another upstream; its own `Keep-Alive: timeout` shortens it.
    ///
    /// Unit: duration. Default: `4s`. Reload: restart.
    pub upstream_idle: HumanDuration,
}

impl Default for Inbound {
    fn default() -> Self {
        Self {
            listen: HostPort::new("0.0.0.0", 15606),
            app_protocol: AppProtocol::Auto,
            tls: None,
            trust: TrustConfig::default(),
            forwarded: Forwarded::None,
            proxy_protocol: false,
            redirect: None,
        }
    }
}

impl Default for InboundRedirect {
    fn default() -> Self {
        Self {
            listen: HostPort::new("::", 15607),
            mode: Interception::Redirect,
            to: Arrival::Original,
            keep_source: true,
        }
    }
}

impl Default for OutboundRedirect {
    fn default() -> Self {
        Self {
            listen: HostPort::new("::", 15602),
            mode: Interception::Redirect,
        }
    }
}

impl Default for Passthrough {
    fn default() -> Self {
        Self {
            server_first_ports: vec![21, 22, 23, 25, 110, 119, 143, 587, 3306, 4190, 4222, 5900],
            hold: HumanDuration::from_secs(1),
            tls_spans: true,
            tcp_spans: false,
            inbound_spans: false,
            splice: true,
        }
    }
}

impl Default for Outbound {
    fn default() -> Self {
        Self {
            enabled: true,
            listen: HostPort::new("127.0.0.1", 15601),
            tls: ClientConfig::default(),
            redirect: None,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head_size: ByteSize(64 * 1024),
            headers: 200,
            body_size: ByteSize(0),
            connections: 100_000,
            requests: 100_000,
            upstream_connections: 10_000,
            idle_per_destination: 10_000,
            http2_streams: 250,
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            detect: HumanDuration::from_secs(30),
            tls_handshake: HumanDuration::from_secs(10),
            head: HumanDuration::from_secs(30),
            idle: HumanDuration::from_secs(3600),
            connect: HumanDuration::from_secs(5),
            pool: HumanDuration::from_secs(5),
            response: HumanDuration::from_secs(0),
            stall: HumanDuration::from_secs(0),
            tunnel_drain: HumanDuration::from_secs(5),
            program_idle: HumanDuration::from_millis(1_500),
            upstream_idle: HumanDuration::from_secs(4),
        }
    }
}
