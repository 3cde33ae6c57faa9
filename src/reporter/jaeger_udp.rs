//! The `jaeger_udp` reporter: `emitBatch` datagrams to a Jaeger agent.
//!
//! Nobody answers, so "exported" means that the operating system took the datagram and did not report it refused. On
//! loopback a refusal is known at once; from another host it may come a moment later, so a batch is only booked after a
//! short wait. Splitting follows jaeger-client-go: `transport_udp.go`, `utils/udp_client.go`.

use std::io;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::time::Instant;
use tokio::time::timeout;

use crate::codec::jaeger;
use crate::codec::thrift;
use crate::codec::thrift::BatchRef;
use crate::codec::thrift::Process;
use crate::model::ByteSize;
use crate::model::HostPort;
use crate::model::HumanDuration;
use crate::model::Span;
use crate::reporter::BuildError;
use crate::reporter::Settings;
use crate::reporter::ledger::Reason;
use crate::reporter::queue;
use crate::reporter::retry;
use crate::reporter::sender::Delivery;
use crate::reporter::sender::SendError;
use crate::reporter::sender::Sender;
use crate::reporter::sender::Sending;

/// Settings of the `jaeger_udp` reporter.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The agent. Names are resolved again every 30 seconds.
    ///
    /// Unit: host and port. Default: `localhost:6831`, for the binary protocol `localhost:6832`. Reload: live.
    pub endpoint: Option<HostPort>,

    /// The Thrift protocol.
    ///
    /// Values: `compact`, `binary`. Default: `compact`. Reload: live.
    pub protocol: Protocol,

    /// Largest datagram; a span that does not fit into one is dropped (`too_large`).
    ///
    /// Unit: size. Default: `65000`, what agents read at most. Reload: live.
    pub max_packet_size: ByteSize,

    /// How spans wait. Reload: live.
    pub queue: queue::Config,
}

/// Thrift's protocols.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Default,
    serde::Serialize,
    serde::Deserialize,
    schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// Compact, port 6831.
    #[default]
    Compact,
    /// Binary, port 6832.
    Binary,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            endpoint: None,
            protocol: Protocol::default(),
            max_packet_size: ByteSize(MAX_PACKET as u64),
            queue: queue::Config::default(),
        }
    }
}

/// What an agent reads at most.
const MAX_PACKET: usize = 65_000;

/// Room for everything in a message beside process and spans.
const OVERHEAD: usize = 70;

impl Settings for Config {
    const EXAMPLE: &'static str = "jaeger_udp: { endpoint: 'agent:6831', protocol: compact }";

    fn queue(&self) -> &queue::Config {
        &self.queue
    }

    /// Only for names that do not resolve: then nothing was sent. What was sent is never sent again.
    fn retry(&self) -> retry::Config {
        retry::Config {
            max_elapsed: HumanDuration::from_secs(30),
            ..retry::Config::default()
        }
    }

    fn collector(&self) -> Option<HostPort> {
        Some(self.agent())
    }

    fn sender(&self) -> Result<Box<dyn Sender>, BuildError> {
        let protocol = match self.protocol {
            Protocol::Compact => thrift::Protocol::Compact,
            Protocol::Binary => thrift::Protocol::Binary,
        };
        Ok(Box::new(JaegerUdp {
            endpoint: self.agent(),
            protocol,
            max_packet: self.max_packet_size.as_usize().clamp(512, MAX_PACKET),
            socket: None,
            sequence: 0,
        }))
    }
}

impl Config {
    fn agent(&self) -> HostPort {
        let port = match self.protocol {
            Protocol::Compact => 6831,
            Protocol::Binary => 6832,
        };
        let configured = self.endpoint.clone();
        configured.unwrap_or_else(|| HostPort::new("localhost", port))
    }
}

struct JaegerUdp {
    endpoint: HostPort,
    protocol: thrift::Protocol,
    max_packet: usize,
    /// Connected, so that refusals are reported to us. Replaced when the name is resolved again.
    socket: Option<Connected>,
    sequence: i32,
}

struct Connected {
    socket: UdpSocket,
    peer: SocketAddr,
    resolved: Instant,
}

const RESOLVE_INTERVAL: Duration = Duration::from_secs(30);
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a full socket buffer may hold us up, and how long we listen for a refusal from another host.
const SEND_TIMEOUT: Duration = Duration::from_secs(1);
const REFUSAL_WAIT: Duration = Duration::from_millis(20);

/// Between two datagrams: the usual receive buffer holds about three large ones, and what overflows it is lost in silence.
const PACE: Duration = Duration::from_millis(1);

impl Sender for JaegerUdp {
    fn send<'a>(&'a mut self, batch: &'a [Arc<Span>]) -> Sending<'a> {
        Box::pin(self.send_batch(batch))
    }
}

impl JaegerUdp {
    async fn send_batch(&mut self, batch: &[Arc<Span>]) -> Result<Delivery, SendError> {
        self.connect().await.map_err(|error| {
            SendError::retry(format!("{} cannot be reached: {error}", self.endpoint))
        })?;
        let Some(connected) = &self.socket else {
            return Err(SendError::retry("no socket"));
        };
        let mut delivery = Delivery::default();
        // An error from before this batch belongs to spans that are booked already.
        let _before = connected.socket.take_error();
        for group in jaeger::groups(batch) {
            let packets = packets(
                &group.process,
                group.spans,
                self.protocol,
                self.max_packet,
                &mut self.sequence,
            );
            for packet in packets {
                let (spans, bytes) = match packet {
                    Packet::Ready { spans, bytes } => (spans, bytes),
                    Packet::Refused { spans, reason } => {
                        delivery.exported += spans;
                        delivery.lose(reason, spans);
                        delivery.remark = Some("a span exceeds the largest datagram".to_owned());
                        continue;
                    }
                };
                if delivery.exported > 0 {
                    tokio::time::sleep(PACE).await;
                }
                delivery.exported += spans;
                if let Err(error) = connected.send(&bytes).await {
                    delivery.lose(reason_of(&error), spans);
                    delivery.remark = Some(format!("{}: {error}", connected.peer));
                }
            }
        }
        if delivery.exported > 0
            && let Some(error) = connected.late_error().await
        {
            let unsure = delivery.exported;
            delivery.lose(reason_of(&error), unsure);
            delivery.remark = Some(format!("{}: {error}", connected.peer));
        }
        if delivery
            .dropped
            .iter()
            .any(|(reason, _)| *reason == Reason::SendFailed)
        {
            // The agent may have moved: ask for its address before the next batch.
            self.socket = None;
        }
        Ok(delivery)
    }

    /// Makes sure of a socket whose address is fresh. A name that no longer resolves keeps the address it had.
    async fn connect(&mut self) -> io::Result<()> {
        if let Some(connected) = &self.socket
            && connected.resolved.elapsed() < RESOLVE_INTERVAL
        {
            return Ok(());
        }
        match self.resolve().await {
            Ok(peer) => {
                let known = self.socket.as_ref().map(|connected| connected.peer);
                if known != Some(peer) {
                    self.socket = Some(open(peer).await?);
                }
            }
            Err(error) if self.socket.is_none() => return Err(error),
            Err(_) => {}
        }
        if let Some(connected) = &mut self.socket {
            connected.resolved = Instant::now();
        }
        Ok(())
    }

    async fn resolve(&self) -> io::Result<SocketAddr> {
        let name = (self.endpoint.host.as_str(), self.endpoint.port);
        let mut addrs = timeout(RESOLVE_TIMEOUT, tokio::net::lookup_host(name)).await??;
        // Agents mostly listen on IPv4 alone, and nothing tells us that nobody reads on the other: prefer it.
        let mut first = None;
        let preferred = addrs.find(|addr| {
            first.get_or_insert(*addr);
            addr.is_ipv4()
        });
        preferred
            .or(first)
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

async fn open(peer: SocketAddr) -> io::Result<Connected> {
    let any: SocketAddr = if peer.is_ipv4() {
        (Ipv4Addr::UNSPECIFIED, 0).into()
    } else {
        (Ipv6Addr::UNSPECIFIED, 0).into()
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(peer).await?;
    Ok(Connected {
        socket,
        peer,
        resolved: Instant::now(),
    })
}

impl Connected {
    /// Sends one datagram; an error means that it was not delivered, as far as is known now.
    async fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let sent = match timeout(SEND_TIMEOUT, self.socket.send(bytes)).await? {
            // The refusal of an earlier datagram, told instead of sending this one.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                timeout(SEND_TIMEOUT, self.socket.send(bytes)).await?
            }
            sent => sent,
        };
        sent?;
        match self.socket.take_error()? {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// Listens a moment for a refusal that has to travel.
    async fn late_error(&self) -> Option<io::Error> {
        if !self.peer.ip().is_loopback() {
            let heard = self.socket.ready(Interest::ERROR);
            let _quiet = timeout(REFUSAL_WAIT, heard).await.is_err();
        }
        self.socket.take_error().ok().flatten()
    }
}

fn reason_of(error: &io::Error) -> Reason {
    // EMSGSIZE: the system allows less than we were told.
    if error.raw_os_error() == Some(rustix::io::Errno::MSGSIZE.raw_os_error()) {
        return Reason::TooLarge;
    }
    Reason::SendFailed
}

/// A datagram, or spans that no datagram can hold.
enum Packet {
    Ready { spans: usize, bytes: Vec<u8> },
    Refused { spans: usize, reason: Reason },
}

/// Packs the spans of one process in order. A batch is flushed when the next span would not fit.
fn packets(
    process: &Process,
    spans: Vec<thrift::Span>,
    protocol: thrift::Protocol,
    max_packet: usize,
    sequence: &mut i32,
) -> Vec<Packet> {
    let room = max_packet.saturating_sub(OVERHEAD);
    let process_len = thrift::process_len(process, protocol).unwrap_or(usize::MAX / 2);
    let mut packets = Vec::new();
    let mut waiting = Vec::new();
    let mut size = process_len;
    let mut flush = |waiting: &mut Vec<thrift::Span>, packets: &mut Vec<Packet>| {
        if !waiting.is_empty() {
            packets.push(packet(process, waiting, protocol, max_packet, sequence));
            waiting.clear();
        }
    };
    for span in spans {
        let refused = match thrift::span_len(&span, protocol) {
            Ok(len) if process_len.saturating_add(len) > room => Reason::TooLarge,
            Ok(len) => {
                if size + len > room {
                    flush(&mut waiting, &mut packets);
                    size = process_len;
                }
                size += len;
                waiting.push(span);
                continue;
            }
            Err(_) => Reason::Encode,
        };
        packets.push(Packet::Refused {
            spans: 1,
            reason: refused,
        });
    }
    flush(&mut waiting, &mut packets);
    packets
}

fn packet(
    process: &Process,
    spans: &[thrift::Span],
    protocol: thrift::Protocol,
    max_packet: usize,
    sequence: &mut i32,
) -> Packet {
    *sequence = sequence.wrapping_add(1);
    let batch = BatchRef {
        process,
        spans,
        sequence: None,
        stats: None,
    };
    let refused = |reason| Packet::Refused {
        spans: spans.len(),
        reason,
    };
    match thrift::encode_message(&batch, *sequence, protocol) {
        Ok(bytes) if bytes.len() <= max_packet => Packet::Ready {
            spans: spans.len(),
            bytes,
        },
        Ok(_) => refused(Reason::TooLarge),
        Err(_) => refused(Reason::Encode),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Limits;
    use crate::codec::tests::full_span;
    use crate::model::Attribute;

    fn spans(sizes: &[usize]) -> Vec<thrift::Span> {
        sizes
            .iter()
            .map(|size| {
                let mut span = full_span();
                span.attributes = vec![Attribute::new("filler", "x".repeat(*size))];
                jaeger::span_of(&span)
            })
            .collect()
    }

    #[test]
    fn datagrams_are_filled_in_order_and_never_exceed_the_limit() {
        let process = jaeger::process_of(&full_span().resource);
        for protocol in [thrift::Protocol::Compact, thrift::Protocol::Binary] {
            for (sizes, expected, why) in [
                (&[10; 5][..], &[5][..], "small spans share a datagram"),
                (&[30_000; 5], &[2, 2, 1], "two of 30 kB fit"),
                (
                    &[63_900, 1_000, 63_900],
                    &[1, 1, 1],
                    "the small one fits beside neither",
                ),
                (
                    &[10, 70_000, 10],
                    &[0, 2],
                    "a span too large for any is left out",
                ),
                (&[64_930], &[0], "too large with its process"),
            ] {
                let mut sequence = 0;
                let packets = packets(&process, spans(sizes), protocol, MAX_PACKET, &mut sequence);
                let counts: Vec<usize> = packets
                    .iter()
                    .map(|packet| match packet {
                        Packet::Refused { .. } => 0,
                        Packet::Ready { spans, bytes } => {
                            assert!(bytes.len() <= MAX_PACKET, "{why}");
                            let read =
                                thrift::decode_message(bytes, protocol, Limits::default()).unwrap();
                            assert_eq!(read.batch.spans.len(), *spans, "{why}");
                            assert!(read.oneway);
                            *spans
                        }
                    })
                    .collect();
                assert_eq!(counts, expected, "{protocol:?}: {why}");
            }
        }
    }

    #[test]
    fn every_size_around_the_limit_either_fits_or_is_refused() {
        let process = jaeger::process_of(&full_span().resource);
        for protocol in [thrift::Protocol::Compact, thrift::Protocol::Binary] {
            let mut refused = 0;
            for size in 64_300..64_800 {
                let mut sequence = i32::MAX;
                let packets = packets(
                    &process,
                    spans(&[size]),
                    protocol,
                    MAX_PACKET,
                    &mut sequence,
                );
                match &packets[..] {
                    [Packet::Ready { spans: 1, bytes }] => assert!(bytes.len() <= MAX_PACKET),
                    [Packet::Refused { spans: 1, .. }] => refused += 1,
                    _ => panic!("{size}: neither sent nor refused"),
                }
            }
            assert!(
                (1..500).contains(&refused),
                "the limit lies inside the range"
            );
        }
    }
}
