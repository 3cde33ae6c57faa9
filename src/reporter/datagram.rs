//! Datagrams to an address that may move: the socket, its name, and what is known of what became of them.
//!
//! Nobody answers, so "exported" means that the operating system took the datagram and did not report it refused. On
//! loopback a refusal is known at once; from another host it may come a moment later, so a batch is only booked after a
//! short wait. Follows jaeger-client-go: `transport_udp.go`, `utils/udp_client.go`.

use std::io;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::time::Instant;
use tokio::time::timeout;

use crate::model::HostPort;
use crate::reporter::ledger::Reason;
use crate::reporter::sender::Delivery;
use crate::reporter::sender::SendError;

/// A datagram, or spans that no datagram can hold.
pub(super) enum Packet {
    Ready { spans: usize, bytes: Vec<u8> },
    Refused { spans: usize, reason: Reason },
}

/// The way to one receiver of datagrams. Names are resolved again every 30 seconds.
pub(super) struct Datagrams {
    endpoint: HostPort,
    /// Connected, so that refusals are reported to us. Replaced when the name is resolved again.
    socket: Option<Connected>,
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

impl Datagrams {
    pub(super) fn new(endpoint: HostPort) -> Self {
        Self {
            endpoint,
            socket: None,
        }
    }

    /// Sends the packets of one batch in order. What was sent is never sent again: only a name that does not resolve
    /// is worth a repetition.
    pub(super) async fn send(&mut self, packets: Vec<Packet>) -> Result<Delivery, SendError> {
        self.connect().await.map_err(|error| {
            SendError::retry(format!("{} cannot be reached: {error}", self.endpoint))
        })?;
        let Some(connected) = &self.socket else {
            return Err(SendError::retry("no socket"));
        };
        let mut delivery = Delivery::default();
        // An error from before this batch belongs to spans that are booked already.
        let _before = connected.socket.take_error();
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
            // The receiver may have moved: ask for its address before the next batch.
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
