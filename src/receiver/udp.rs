//! Datagrams of Jaeger's clients.
//!
//! The socket is emptied into a bounded queue before each datagram is decoded: the system's own buffer holds only a few
//! large ones. What finds the queue full is counted. Buffers go round.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;
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
    let mut queue = Waiting::new();
    let mut lost = Lost::of(&socket);
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = cancel.cancelled() => break,
            _ = looks.tick() => {
                lost.count(door, &intake);
                continue;
            }
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
    lost.count(door, &intake);
}

/// How often the system is asked for what it dropped.
const LOOK: Duration = Duration::from_secs(5);

/// Datagrams for this socket that the system had no room for.
struct Lost {
    /// The socket's number in the system's table; `None` where there is no such table.
    inode: Option<u64>,
    table: &'static str,
    counted: u64,
}

impl Lost {
    fn of(socket: &UdpSocket) -> Self {
        let is_ipv6 = socket.local_addr().is_ok_and(|at| at.is_ipv6());
        let stat = rustix::fs::fstat(socket);
        Self {
            inode: stat.ok().map(|stat| stat.st_ino),
            table: if is_ipv6 {
                "/proc/self/net/udp6"
            } else {
                "/proc/self/net/udp"
            },
            counted: 0,
        }
    }

    fn count(&mut self, door: Door, intake: &Intake) {
        let Some(inode) = self.inode else { return };
        let Ok(table) = std::fs::read_to_string(self.table) else {
            self.inode = None;
            return;
        };
        let dropped = dropped(&table, inode).unwrap_or(self.counted);
        for _ in self.counted..dropped {
            intake.refuse(door, Receipt::Overflow);
        }
        self.counted = self.counted.max(dropped);
    }
}

/// The last column of the socket's line. Source: proc_pid_net(5).
fn dropped(table: &str, inode: u64) -> Option<u64> {
    let inode = inode.to_string();
    let line = table
        .lines()
        .find(|line| line.split_whitespace().nth(9) == Some(inode.as_str()))?;
    line.split_whitespace().nth(12)?.parse().ok()
}

struct Waiting {
    /// What the next datagram is read into: one byte more than allowed shows what is too large.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_systems_count_is_found_by_the_sockets_number() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n \
             1130: 0100007F:1AAF 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 41234 2 0000000000000000 0\n \
             1131: 0100007F:1AB0 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 41235 2 0000000000000000 17\n";
        assert_eq!(dropped(table, 41234), Some(0));
        assert_eq!(dropped(table, 41235), Some(17));
        assert_eq!(dropped(table, 7), None);
    }

    #[tokio::test]
    async fn this_systems_table_knows_a_socket() {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let lost = Lost::of(&socket);
        if let Ok(table) = std::fs::read_to_string(lost.table) {
            assert_eq!(dropped(&table, lost.inode.unwrap()), Some(0));
        }
    }
}
