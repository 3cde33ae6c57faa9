//! Rules of the system that lead connections here: what they match, as text for nft and for iptables, and their
//! installation.
//!
//! TCP alone is redirected; DNS stays untouched, and so does what goes over loopback. [`Rules::chains`] says what is
//! matched in which order, [`nft`] and [`iptables`] write it down, [`apply`] runs the tools. Everything lies in a table
//! (nft) or in chains (iptables) of our own.
//!
//! TPROXY takes packets that arrive. What the program sends is made to arrive: it is marked, and [`route`] says that
//! what carries the mark goes to the loopback device. The connection remembers the mark, so that packets without a
//! user (the last ones of a connection) go the same way.

pub mod apply;
pub mod iptables;
pub mod nft;
pub mod route;

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// The name of our table, and the beginning of our chains' names.
pub const NAME: &str = "pillion";
/// Marks what the program sends, where TPROXY takes it.
pub const LEAVING: u32 = 0x0070_696d;
/// Marks what the proxy sends to the program from a caller's address, and the answers.
pub const KEPT: u32 = 0x0070_696e;
/// DNS over TCP.
const DNS: u16 = 53;
/// Nobody is to be locked out of a machine whose sidecar is down.
const SSH: u16 = 22;

/// What is redirected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// Connections that arrive.
    pub inbound: Option<Inbound>,
    /// Connections that leave.
    pub outbound: Option<Outbound>,
    /// Only these interfaces; empty: all.
    pub interfaces: Vec<Interface>,
    /// Not these interfaces.
    pub exclude_interfaces: Vec<Interface>,
}

/// Connections that arrive from elsewhere for an address of this machine or container.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Inbound {
    /// The listener's port.
    pub port: u16,
    /// TPROXY instead of REDIRECT.
    pub tproxy: bool,
    /// With TPROXY: the proxy calls the program from the caller's address, and answers are to find it.
    pub keep_source: bool,
    /// The proxy's own ports: never redirected.
    pub own_ports: Vec<u16>,
    /// Only these; empty: all.
    pub ports: Vec<Ports>,
    /// Not these.
    pub exclude_ports: Vec<Ports>,
    /// Only from these sources; empty: all.
    pub networks: Vec<Network>,
    /// Not from these sources.
    pub exclude_networks: Vec<Network>,
}

/// Connections that leave.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outbound {
    /// The listener's port.
    pub port: u16,
    /// TPROXY instead of REDIRECT.
    pub tproxy: bool,
    /// Not those of these users. The proxy's must be among them, or everything goes in circles.
    pub exclude_users: Vec<u32>,
    /// Not those of these groups.
    pub exclude_groups: Vec<u32>,
    /// Not those of packets with this mark.
    pub exclude_mark: Option<u32>,
    /// Those over loopback too.
    pub loopback: bool,
    /// Lead DNS to this port: datagrams to a relay there, connections like any other. `None`: it stays untouched.
    pub dns: Option<u16>,
    /// Only those of these users; empty: all.
    pub users: Vec<u32>,
    /// Only to these; empty: all.
    pub ports: Vec<Ports>,
    /// Not to these.
    pub exclude_ports: Vec<Ports>,
    /// Only to these destinations; empty: all.
    pub networks: Vec<Network>,
    /// Not to these destinations.
    pub exclude_networks: Vec<Network>,
}

/// One port, or a range: `80`, `8000-8100`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ports {
    first: u16,
    last: u16,
}

/// A range of addresses: `10.0.0.0/8`, `fd00::/8`, or one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Network {
    ip: IpAddr,
    len: u8,
}

/// The name of a network interface; a `+` at its end stands for any ending.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Interface(String);

/// A text that is no port, network or interface.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no {what}")]
pub struct ParseError {
    text: String,
    what: &'static str,
}

/// One hook with its steps in order, and where what passes them all is led.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Where it stands.
    pub hook: Hook,
    /// Each lets connections go untouched.
    pub steps: Vec<Step>,
    /// The listener's port.
    pub port: u16,
    /// The port that DNS datagrams are led to.
    pub dns: Option<u16>,
}

/// Where a chain stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// Connections that leave, by REDIRECT.
    Output,
    /// Connections that arrive, by REDIRECT.
    Prerouting,
    /// Connections that arrive, by TPROXY.
    Tproxy,
    /// Connections that leave, by a mark that makes them arrive at [`Hook::Divert`].
    Mark,
    /// Marked connections, by TPROXY.
    Divert,
    /// The program's answers to the proxy where it calls from a caller's address.
    Kept,
}

impl Hook {
    /// The mark that these packets get.
    fn mark(self) -> Option<u32> {
        match self {
            Self::Mark => Some(LEAVING),
            Self::Kept => Some(KEPT),
            Self::Output | Self::Prerouting | Self::Tproxy | Self::Divert => None,
        }
    }

    /// True where connections leave.
    fn leaves(self) -> bool {
        matches!(self, Self::Output | Self::Mark | Self::Kept)
    }
}

/// Which connections go untouched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Those that match one of these.
    Except(Vec<Match>),
    /// Those that match none of these. All matches are of one kind.
    Only(Vec<Match>),
}

/// What can be said of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Match {
    /// The user of the socket.
    User(u32),
    /// The group of the socket.
    Group(u32),
    /// The mark of its packets.
    Mark(u32),
    /// The interface it leaves or arrives by.
    Interface(Interface),
    /// The port it goes to.
    Ports(Ports),
    /// The address it goes to, or for those that arrive comes from.
    Network(Network),
}

impl Rules {
    /// The chains, in no particular order.
    pub fn chains(&self) -> Vec<Chain> {
        let mut chains = Vec::new();
        if let Some(outbound) = &self.outbound {
            chains.push(self.output(outbound));
            if outbound.tproxy {
                chains.push(chain(Hook::Divert, Vec::new(), outbound.port));
            }
        }
        if let Some(inbound) = &self.inbound {
            chains.push(self.prerouting(inbound));
            if inbound.tproxy && inbound.keep_source {
                chains.push(chain(Hook::Kept, Vec::new(), inbound.port));
            }
        }
        chains
    }

    /// The marks whose packets go to the loopback device.
    pub fn marks(&self) -> Vec<u32> {
        let marks = self
            .chains()
            .into_iter()
            .filter_map(|chain| chain.hook.mark());
        marks.collect()
    }

    fn output(&self, outbound: &Outbound) -> Chain {
        let users = |users: &[u32]| users.iter().copied().map(Match::User).collect();
        let groups = outbound.exclude_groups.iter().copied().map(Match::Group);
        let mut steps = vec![
            Step::Except(users(&outbound.exclude_users)),
            Step::Except(groups.collect()),
            Step::Except(outbound.exclude_mark.into_iter().map(Match::Mark).collect()),
        ];
        if outbound.tproxy {
            steps.push(Step::Except(vec![Match::Mark(KEPT)]));
        }
        if !outbound.loopback {
            steps.push(Step::Except(vec![loopback()]));
        }
        steps.extend(self.interfaces());
        let untouched = outbound.dns.is_none().then_some(DNS.into());
        let excluded = outbound.exclude_ports.iter().copied().chain(untouched);
        steps.push(Step::Except(ports(excluded)));
        steps.push(Step::Except(networks(&outbound.exclude_networks)));
        steps.push(Step::Only(users(&outbound.users)));
        steps.push(Step::Only(ports(outbound.ports.iter().copied())));
        steps.push(Step::Only(networks(&outbound.networks)));
        let hook = match outbound.tproxy {
            true => Hook::Mark,
            false => Hook::Output,
        };
        Chain {
            dns: outbound.dns,
            ..chain(hook, steps, outbound.port)
        }
    }

    fn prerouting(&self, inbound: &Inbound) -> Chain {
        let own = inbound.own_ports.iter().copied().map(Ports::from);
        let excluded = inbound.exclude_ports.iter().copied();
        // Whoever names it wants it.
        let ssh = (!inbound.ports.contains(&SSH.into())).then_some(SSH.into());
        let mut steps = vec![Step::Except(vec![loopback()])];
        steps.extend(self.interfaces());
        steps.push(Step::Except(ports(own.chain(excluded).chain(ssh))));
        steps.push(Step::Except(networks(&inbound.exclude_networks)));
        steps.push(Step::Only(ports(inbound.ports.iter().copied())));
        steps.push(Step::Only(networks(&inbound.networks)));
        let hook = match inbound.tproxy {
            true => Hook::Tproxy,
            false => Hook::Prerouting,
        };
        chain(hook, steps, inbound.port)
    }

    fn interfaces(&self) -> [Step; 2] {
        let matches = |names: &[Interface]| names.iter().cloned().map(Match::Interface).collect();
        [
            Step::Except(matches(&self.exclude_interfaces)),
            Step::Only(matches(&self.interfaces)),
        ]
    }
}

/// Steps without matches say nothing and are left out.
fn chain(hook: Hook, steps: Vec<Step>, port: u16) -> Chain {
    let says = |step: &Step| {
        let (Step::Except(matches) | Step::Only(matches)) = step;
        !matches.is_empty()
    };
    Chain {
        hook,
        steps: steps.into_iter().filter(says).collect(),
        port,
        dns: None,
    }
}

fn loopback() -> Match {
    Match::Interface(Interface("lo".to_owned()))
}

/// In order, those that touch or overlap made one: a set may not name a port twice.
fn ports(all: impl Iterator<Item = Ports>) -> Vec<Match> {
    let mut sorted: Vec<Ports> = all.collect();
    sorted.sort();
    let mut merged: Vec<Ports> = Vec::new();
    for next in sorted {
        match merged.last_mut() {
            Some(last) if u32::from(next.first) <= u32::from(last.last) + 1 => {
                last.last = last.last.max(next.last);
            }
            _ => merged.push(next),
        }
    }
    merged.into_iter().map(Match::Ports).collect()
}

/// Without those that lie in another one.
fn networks(all: &[Network]) -> Vec<Match> {
    let mut sorted = all.to_vec();
    sorted.sort_by_key(|network| network.len);
    let mut kept: Vec<Network> = Vec::new();
    for network in sorted {
        if !kept.iter().any(|wider| wider.contains(network.ip)) {
            kept.push(network);
        }
    }
    kept.sort();
    kept.into_iter().map(Match::Network).collect()
}

impl Network {
    fn contains(self, ip: IpAddr) -> bool {
        match (self.ip, ip) {
            (IpAddr::V4(own), IpAddr::V4(ip)) => {
                let shift = 32_u32.saturating_sub(u32::from(self.len));
                (u32::from(own) ^ u32::from(ip))
                    .checked_shr(shift)
                    .unwrap_or(0)
                    == 0
            }
            (IpAddr::V6(own), IpAddr::V6(ip)) => {
                let shift = 128_u32.saturating_sub(u32::from(self.len));
                (u128::from(own) ^ u128::from(ip))
                    .checked_shr(shift)
                    .unwrap_or(0)
                    == 0
            }
            _ => false,
        }
    }

    /// True for IPv4.
    pub fn is_ipv4(self) -> bool {
        self.ip.is_ipv4()
    }
}

impl From<u16> for Ports {
    fn from(port: u16) -> Self {
        Self {
            first: port,
            last: port,
        }
    }
}

impl Ports {
    /// Both ends, joined by `by` when they differ.
    fn text(self, by: char) -> String {
        match self.first == self.last {
            true => self.first.to_string(),
            false => format!("{}{by}{}", self.first, self.last),
        }
    }
}

impl FromStr for Ports {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let port = |text: &str| text.parse().ok().filter(|port: &u16| *port > 0);
        match (port(first), port(last)) {
            (Some(first), Some(last)) if first <= last => Ok(Self { first, last }),
            _ => Err(ParseError {
                text: text.to_owned(),
                what: "port or range of ports such as 8000-8100",
            }),
        }
    }
}

impl FromStr for Network {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let error = || ParseError {
            text: text.to_owned(),
            what: "network such as 10.0.0.0/8",
        };
        let (ip, len) = match text.split_once('/') {
            Some((ip, len)) => (ip, Some(len)),
            None => (text, None),
        };
        let ip: IpAddr = ip.parse().map_err(|_| error())?;
        let longest = if ip.is_ipv4() { 32 } else { 128 };
        let len = match len {
            Some(len) => len.parse().map_err(|_| error())?,
            None => longest,
        };
        if len > longest {
            return Err(error());
        }
        Ok(Self { ip, len })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.ip, self.len)
    }
}

impl FromStr for Interface {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.@:+".contains(&byte);
        // 15 bytes are what the kernel takes.
        if text.is_empty() || text.len() > 15 || !text.bytes().all(allowed) {
            return Err(ParseError {
                text: text.to_owned(),
                what: "network interface",
            });
        }
        Ok(Self(text.to_owned()))
    }
}

#[cfg(test)]
mod tests;
