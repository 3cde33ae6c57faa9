//! Datagrams of Jaeger's clients.
//!
//! The socket is emptied into a bounded queue before each datagram is decoded: the system's own buffer holds only a few
//! large ones. What finds the queue full is counted. Buffers go round.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::codec::thrift::Protocol;
use crate::receiver::Intake;
use crate::telemetry::metrics::Door;
use crate::telemetry::metrics::Receipt;

/// The largest datagram, as for Jaeger's agent.
const MAX_DATAGRAM: usize = 65_000;
/// Datagrams that may wait to be decoded, as for Jaeger's agent.
const MAX_WAITING: usize = 1_000;
/// Bytes of those.
const MAX_WAITING_BYTES: usize = 16 << 20;
/// Buffers kept for the next datagrams.
const MAX_SPARE: usize = 64;

/// Takes datagrams until cancelled, then what has arrived by then.
pub(super) async fn serve(
    socket: UdpSocket,
    door: Door,
    intake: Arc<Intake>,
    cancel: CancellationToken,
) {
    let protocol = match door {
        Door::JaegerBinary => Protocol::Binary,
        _ => Protocol::Compact,
    };
    // One byte more than allowed shows what is too large.
    let mut queue = Waiting::new();
    loop {
        tokio::select! {
            () = cancel.cancelled() => break,
            ready = socket.readable() => {
                if let Err(error) = ready {
                    debug!(%error, "socket cannot be polled");
                    break;
                }
            }
        }
        queue.fill(&socket, door, &intake);
        while queue.decode_one(door, protocol, &intake) {
            queue.fill(&socket, door, &intake);
            // Other sockets have their turn.
            tokio::task::yield_now().await;
        }
    }
    queue.fill(&socket, door, &intake);
    while queue.decode_one(door, protocol, &intake) {}
}

struct Waiting {
    /// What the next datagram is read into.
    next: Box<[u8]>,
    datagrams: VecDeque<Vec<u8>>,
    bytes: usize,
    spare: Vec<Vec<u8>>,
}

impl Waiting {
    fn new() -> Self {
        Self {
            next: vec![0; MAX_DATAGRAM + 1].into(),
            datagrams: VecDeque::new(),
            bytes: 0,
            spare: Vec::new(),
        }
    }

    /// Empties the socket, at most one queue's length at a time.
    fn fill(&mut self, socket: &UdpSocket, door: Door, intake: &Intake) {
        for _ in 0..MAX_WAITING {
            let len = match socket.try_recv(&mut self.next) {
                Ok(len) => len,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    // An answer to nothing we sent; the next read goes on.
                    debug!(%error, "datagram not received");
                    return;
                }
            };
            if len > MAX_DATAGRAM {
                intake.refuse(door, Receipt::TooLarge);
            } else if self.datagrams.len() >= MAX_WAITING || self.bytes + len > MAX_WAITING_BYTES {
                intake.refuse(door, Receipt::Busy);
            } else {
                let mut buffer = self.spare.pop().unwrap_or_default();
                buffer.extend_from_slice(self.next.get(..len).unwrap_or_default());
                self.bytes += len;
                self.datagrams.push_back(buffer);
            }
        }
    }

    /// False: nothing waits.
    fn decode_one(&mut self, door: Door, protocol: Protocol, intake: &Intake) -> bool {
        let Some(mut buffer) = self.datagrams.pop_front() else {
            return false;
        };
        self.bytes -= buffer.len();
        intake.datagram(door, protocol, &buffer, Instant::now());
        if self.spare.len() < MAX_SPARE {
            buffer.clear();
            self.spare.push(buffer);
        }
        true
    }
}
