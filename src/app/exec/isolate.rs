//! A network of the program's own, in which everything it sends is redirected to the proxy. The machine's network stays
//! as it is, and nothing is left behind: the namespace ends with the program.
//!
//! The program sees a loopback device through which every address seems reachable. The proxy's listener for
//! redirected connections is inside; what it opens upwards is outside. Loopback is both: what the program listens on
//! there is tried first, then the machine's. Names are resolved by a relay to the machine's name server.

use std::io;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;
use std::net::UdpSocket;
use std::process::Command;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tracing::debug;

use crate::config;
use crate::config::Loaded;
use crate::config::Setting;
use crate::config::Sources;
use crate::net::netns;
use crate::net::netns::Netns;
use crate::net::rules::Outbound;
use crate::net::rules::Rules;
use crate::net::rules::apply;
use crate::net::rules::apply::RulesError;

/// Where the listener is, inside.
const LISTEN: &str = "[::]:15602";
/// Everything seems to be behind the loopback device, the only one that every kernel has; the rules take all there is
/// before it gets there. Nobody outside sees the addresses (RFC 5737, RFC 3849).
const ADDRESSES: [&str; 3] = [
    "link set lo up",
    "address add 192.0.2.2/32 dev lo",
    "route add default dev lo src 192.0.2.2",
];
const ADDRESSES_V6: [&str; 2] = [
    "-6 address add 2001:db8::2/128 dev lo nodad",
    "-6 route add default dev lo src 2001:db8::2",
];
/// Most names that are being resolved at once; more are not answered, and resolvers ask again.
const MAX_QUERIES: usize = 256;
/// How long a name server may take.
const QUERY: Duration = Duration::from_secs(5);
/// The largest answer over UDP.
const MAX_ANSWER: usize = 65_535;

/// Why the program cannot have a network of its own.
#[derive(Debug, thiserror::Error)]
pub enum IsolateError {
    /// Capabilities are missing.
    #[error(
        "a network of the program's own needs the capabilities SYS_ADMIN and NET_ADMIN: run as root, or without \
         --isolate, which needs none"
    )]
    NotPermitted,
    /// An address or a route could not be set.
    #[error("`ip {command}` failed: {message}")]
    Device {
        /// Its arguments.
        command: &'static str,
        /// What it said.
        message: String,
    },
    /// The rules could not be installed.
    #[error(transparent)]
    Rules(#[from] RulesError),
    /// A socket, a thread or a program could not be had.
    #[error("the network of the program's own cannot be set up")]
    System(#[from] io::Error),
}

impl IsolateError {
    /// True when a privilege is what is missing.
    pub fn is_privilege(&self) -> bool {
        matches!(
            self,
            Self::NotPermitted | Self::Rules(RulesError::NotPermitted)
        )
    }
}

/// Sets what isolation needs, for reloads too: the listener inside, and no forward proxy outside.
pub(super) fn configure(loaded: &mut Loaded, sources: &mut Sources) {
    for (path, value) in [
        ("outbound.redirect.listen", LISTEN),
        ("outbound.redirect.mode", "redirect"),
        ("outbound.enabled", "false"),
    ] {
        sources.flags.push(Setting {
            flag: "--isolate",
            path,
            value: value.to_owned(),
        });
    }
    // If the file changed into a bad one a moment ago, the first reading stands.
    if let Ok(isolated) = config::load(sources) {
        *loaded = isolated;
    }
}

/// A namespace with its addresses; no rules yet.
pub(super) fn network() -> Result<Netns, IsolateError> {
    apply::find()?;
    let netns = Netns::new().map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied => IsolateError::NotPermitted,
        _ => IsolateError::System(error),
    })?;
    let reaches_v6 = has_default_route_v6();
    netns.run(move || {
        ADDRESSES.into_iter().try_for_each(ip)?;
        if reaches_v6 {
            ADDRESSES_V6.into_iter().try_for_each(ip)?;
        }
        Ok::<(), IsolateError>(())
    })??;
    Ok(netns)
}

/// Installs the rules inside and starts the relay for names. To be called in a runtime.
pub(super) fn redirect(netns: &Netns, port: u16) -> Result<(), IsolateError> {
    let relay = names(netns)?;
    let rules = Rules {
        inbound: None,
        outbound: Some(Outbound {
            port,
            exclude_mark: Some(netns::MARK),
            loopback: true,
            dns: Some(relay),
            ..Outbound::default()
        }),
        interfaces: Vec::new(),
        exclude_interfaces: Vec::new(),
    };
    let tool = apply::find()?;
    netns.run(move || apply::install(&rules, tool))??;
    Ok(())
}

fn ip(command: &'static str) -> Result<(), IsolateError> {
    let failed = |message: String| IsolateError::Device { command, message };
    let output = Command::new("ip")
        .args(command.split(' '))
        .stdin(Stdio::null())
        .output()
        .map_err(|error| failed(format!("{error}, install iproute2")))?;
    let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    match output.status.success() {
        true => Ok(()),
        false if message.contains("not permitted") => Err(IsolateError::NotPermitted),
        false => Err(failed(message)),
    }
}

/// Where IPv6 leads nowhere outside it leads nowhere inside: programs that ask before they choose choose IPv4.
fn has_default_route_v6() -> bool {
    let table = std::fs::read_to_string("/proc/net/ipv6_route").unwrap_or_default();
    table.lines().any(|line| {
        let mut fields = line.split_whitespace();
        let to_all = fields
            .next()
            .is_some_and(|to| to.bytes().all(|b| b == b'0'));
        to_all && fields.next() == Some("00") && fields.last() != Some("lo")
    })
}

/// Starts a relay from inside to the machine's name server; its port, the same for both IP versions.
fn names(netns: &Netns) -> io::Result<u16> {
    let bound = netns.run(|| {
        let v4 = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = v4.local_addr()?.port();
        // Without IPv6 nobody asks over it.
        let v6 = UdpSocket::bind((Ipv6Addr::LOCALHOST, port)).ok();
        Ok::<_, io::Error>((v4, v6, port))
    })?;
    let (v4, v6, port) = bound?;
    let room = Arc::new(Semaphore::new(MAX_QUERIES));
    for socket in [Some(v4), v6].into_iter().flatten() {
        socket.set_nonblocking(true)?;
        let socket = tokio::net::UdpSocket::from_std(socket)?;
        tokio::spawn(relay(Arc::new(socket), room.clone()));
    }
    Ok(port)
}

async fn relay(socket: Arc<tokio::net::UdpSocket>, room: Arc<Semaphore>) {
    let mut query = [0; 4096];
    loop {
        let Ok((n, from)) = socket.recv_from(&mut query).await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let Ok(place) = room.clone().try_acquire_owned() else {
            continue;
        };
        let (socket, query) = (socket.clone(), query.get(..n).unwrap_or_default().to_vec());
        tokio::spawn(async move {
            let _place = place;
            match tokio::time::timeout(QUERY, ask(&query)).await {
                Ok(Ok(answer)) => {
                    // Whoever asked may be gone.
                    socket.send_to(&answer, from).await.unwrap_or_default();
                }
                Ok(Err(error)) => debug!(%error, "name server not reached"),
                Err(_) => debug!("name server silent"),
            }
        });
    }
}

async fn ask(query: &[u8]) -> io::Result<Vec<u8>> {
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let server = name_server(&text);
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = tokio::net::UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(query).await?;
    let mut answer = vec![0; MAX_ANSWER];
    let n = socket.recv(&mut answer).await?;
    answer.truncate(n);
    Ok(answer)
}

/// The first name server; the machine itself when none is named (resolv.conf(5)).
fn name_server(resolv_conf: &str) -> SocketAddr {
    let named = resolv_conf.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next()?.parse::<IpAddr>().ok())?
    });
    SocketAddr::new(named.unwrap_or(Ipv4Addr::LOCALHOST.into()), 53)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_name_server_is_asked() {
        for (text, expected) in [
            (
                "# x\nsearch a.example\nnameserver 10.0.0.2\nnameserver 10.0.0.3\n",
                "10.0.0.2:53",
            ),
            ("nameserver fd00::1\n", "[fd00::1]:53"),
            (
                "nameserver fe80::1%eth0\nnameserver 10.0.0.3",
                "10.0.0.3:53",
            ),
            ("", "127.0.0.1:53"),
        ] {
            assert_eq!(name_server(text).to_string(), expected);
        }
    }
}
