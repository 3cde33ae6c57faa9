//! Settings of the receivers.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;
use serde::Serialize;

use crate::model::AddrError;
use crate::model::ByteSize;
use crate::model::HostPort;

/// Receivers for spans of the programs beside this sidecar, which leave through the reporters with its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Stands in for Jaeger's agent and collector.
    pub jaeger: Jaeger,
    /// Takes OTLP, as an OpenTelemetry Collector does.
    pub otlp: Otlp,
    /// Takes spans as a Zipkin server does.
    pub zipkin: Zipkin,
    /// Takes segments as a SkyWalking server does.
    pub skywalking: SkyWalking,
    /// Largest request or message, as it arrives and after decompression. Datagrams end at 65,000 bytes.
    ///
    /// Unit: size. Default: `16MiB`. Reload: restart.
    #[serde(deserialize_with = "ByteSize::above_zero")]
    pub max_message: ByteSize,
}

/// What Jaeger's clients talk to. The agent's ports are UDP unless said otherwise.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Jaeger {
    /// Opens these ports.
    ///
    /// Unit: boolean. Default: `false`. Reload: restart.
    pub enabled: bool,
    /// Thrift in compact form: the clients of Go, Java, Python and C++.
    ///
    /// Unit: `host:port`, empty for none. Default: `127.0.0.1:6831`. Reload: restart.
    pub compact: Listen,
    /// Thrift in binary form: the client of Node.
    ///
    /// Unit: `host:port`, empty for none. Default: `127.0.0.1:6832`. Reload: restart.
    pub binary: Listen,
    /// Thrift in compact form, in Jaeger's or Zipkin's words: very old clients.
    ///
    /// Unit: `host:port`, empty for none. Default: `127.0.0.1:5775`. Reload: restart.
    pub zipkin_compact: Listen,
    /// Sampling strategies over HTTP.
    ///
    /// Unit: `host:port`, empty for none. Default: `127.0.0.1:5778`. Reload: restart.
    pub sampling: Listen,
    /// Sampling strategies over gRPC.
    ///
    /// Unit: `host:port`, empty for none. Default: `127.0.0.1:5779`. Reload: restart.
    pub sampling_grpc: Listen,
    /// The collector's gRPC: spans and sampling strategies.
    ///
    /// Unit: `host:port`, empty for none. Default: `127.0.0.1:14250`. Reload: restart.
    pub grpc: Listen,
    /// The collector's HTTP: spans and sampling strategies.
    ///
    /// Unit: `host:port`, empty for none. Default: `127.0.0.1:14268`. Reload: restart.
    pub http: Listen,
    /// Memory that the system keeps for datagrams that wait, for each of the three ports; it has a limit of its own
    /// (`net.core.rmem_max`).
    ///
    /// Unit: size. Default: `4MiB`. Reload: restart.
    pub receive_buffer: ByteSize,
    /// Traces a second that a client which asks before it forces one (`jaeger-debug-id`) may force, for each operation.
    ///
    /// Unit: traces a second. Default: `1`. Reload: restart.
    pub debug_credits: f64,
    /// The baggage that clients which ask may set, with the largest length of its values. Without any they are told that
    /// nobody restricts it.
    ///
    /// Unit: characters by key. Default: none. Reload: restart.
    pub baggage: BTreeMap<String, u32>,
}

/// OTLP.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Otlp {
    /// Opens these ports.
    ///
    /// Unit: boolean. Default: `false`. Reload: restart.
    pub enabled: bool,
    /// Over gRPC.
    ///
    /// Unit: `host:port`, empty for none. Default: `127.0.0.1:4317`. Reload: restart.
    pub grpc: Listen,
    /// Over HTTP, protobuf or JSON.
    ///
    /// Unit: `host:port`, empty for none. Default: `127.0.0.1:4318`. Reload: restart.
    pub http: Listen,
}

/// Zipkin, both versions, JSON, proto3 or Thrift.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Zipkin {
    /// Opens the port.
    ///
    /// Unit: boolean. Default: `false`. Reload: restart.
    pub enabled: bool,
    /// Over HTTP.
    ///
    /// Unit: `host:port`, empty for none. Default: `127.0.0.1:9411`. Reload: restart.
    pub listen: Listen,
}

/// SkyWalking.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SkyWalking {
    /// Opens these ports.
    ///
    /// Unit: boolean. Default: `false`. Reload: restart.
    pub enabled: bool,
    /// Over gRPC: segments, and answers to whatever else agents report.
    ///
    /// Unit: `host:port`, empty for none. Default: `127.0.0.1:11800`. Reload: restart.
    pub grpc: Listen,
    /// Over HTTP.
    ///
    /// Unit: `host:port`, empty for none. Default: `127.0.0.1:12800`. Reload: restart.
    pub http: Listen,
}

/// An address to listen on, or none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct Listen(pub Option<HostPort>);

impl Listen {
    /// This port of the loopback address.
    fn local(port: u16) -> Self {
        Self(Some(HostPort::new("127.0.0.1", port)))
    }
}

impl TryFrom<String> for Listen {
    type Error = AddrError;

    fn try_from(text: String) -> Result<Self, AddrError> {
        match text.trim() {
            "" => Ok(Self(None)),
            text => Ok(Self(Some(text.parse()?))),
        }
    }
}

impl From<Listen> for String {
    fn from(listen: Listen) -> Self {
        listen.0.map_or_else(Self::new, |at| at.to_string())
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            jaeger: Jaeger::default(),
            otlp: Otlp::default(),
            zipkin: Zipkin::default(),
            skywalking: SkyWalking::default(),
            max_message: ByteSize(16 << 20),
        }
    }
}

impl Default for Jaeger {
    fn default() -> Self {
        Self {
            enabled: false,
            compact: Listen::local(6831),
            binary: Listen::local(6832),
            zipkin_compact: Listen::local(5775),
            sampling: Listen::local(5778),
            sampling_grpc: Listen::local(5779),
            grpc: Listen::local(14250),
            http: Listen::local(14268),
            receive_buffer: ByteSize(4 << 20),
            debug_credits: 1.0,
            baggage: BTreeMap::new(),
        }
    }
}

impl Default for Otlp {
    fn default() -> Self {
        Self {
            enabled: false,
            grpc: Listen::local(4317),
            http: Listen::local(4318),
        }
    }
}

impl Default for Zipkin {
    fn default() -> Self {
        Self {
            enabled: false,
            listen: Listen::local(9411),
        }
    }
}

impl Default for SkyWalking {
    fn default() -> Self {
        Self {
            enabled: false,
            grpc: Listen::local(11800),
            http: Listen::local(12800),
        }
    }
}
