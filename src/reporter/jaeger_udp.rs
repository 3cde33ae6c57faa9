//! The `jaeger_udp` reporter: `emitBatch` datagrams to a Jaeger agent.
//!
//! Nobody answers: `datagram` says what "exported" means then. Splitting follows jaeger-client-go: `transport_udp.go`.

use std::sync::Arc;

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
use crate::reporter::datagram::Datagrams;
use crate::reporter::datagram::Packet;
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
    #[serde(deserialize_with = "ByteSize::above_zero")]
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

    fn is_stream(&self) -> bool {
        true
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
            datagrams: Datagrams::new(self.agent()),
            protocol,
            max_packet: self.max_packet_size.as_usize().clamp(512, MAX_PACKET),
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
    datagrams: Datagrams,
    protocol: thrift::Protocol,
    max_packet: usize,
    sequence: i32,
}

impl Sender for JaegerUdp {
    fn send<'a>(&'a mut self, batch: &'a [Arc<Span>]) -> Sending<'a> {
        Box::pin(self.send_batch(batch))
    }
}

impl JaegerUdp {
    async fn send_batch(&mut self, batch: &[Arc<Span>]) -> Result<Delivery, SendError> {
        let mut all = Vec::new();
        for group in jaeger::groups(batch) {
            all.extend(packets(
                &group.process,
                group.spans,
                self.protocol,
                self.max_packet,
                &mut self.sequence,
            ));
        }
        self.datagrams.send(all).await
    }
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
                span.attributes = vec![Attribute::new("filler", "x".repeat(*size))].into();
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
