//! What the program finds in its environment.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;

use tracing::warn;

use crate::app::build::BuildError;
use crate::app::run::RunError;
use crate::config::Config;
use crate::model::HostPort;
use crate::reporter;
use crate::sampling;

/// The variables that differ from our own environment.
///
/// `HTTP_PROXY` names the outbound listener, and so does `HTTPS_PROXY` unless it is set already: a tunnel is passed on
/// unread, so `https://` calls become spans of whole connections. `NO_PROXY` keeps what was there and gains our own
/// ports and the collectors, so that spans about sending spans do not appear. Loopback addresses stay in: calls between
/// services of one machine are calls too.
///
/// `addresses` are the listeners by role, `env` is our own environment. Empty when there is no outbound listener.
pub(super) fn variables(
    config: &Config,
    addresses: &[(&'static str, SocketAddr)],
    env: &BTreeMap<String, String>,
) -> Vec<(&'static str, String)> {
    let Some((_, outbound)) = addresses.iter().find(|(role, _)| *role == "outbound") else {
        return Vec::new();
    };
    let set = |name: &str| env.get(name).is_some_and(|value| !value.is_empty());
    let proxy = format!("http://{}", reachable(*outbound));
    for name in ["HTTP_PROXY", "http_proxy"] {
        if set(name) {
            warn!(
                name,
                "the program sends through this proxy instead of the one that was set"
            );
        }
    }
    let mut variables = vec![("HTTP_PROXY", proxy.clone()), ("http_proxy", proxy.clone())];
    if !set("HTTPS_PROXY") && !set("https_proxy") {
        variables.push(("HTTPS_PROXY", proxy.clone()));
        variables.push(("https_proxy", proxy));
    }
    let no_proxy = no_proxy(config, addresses, env);
    variables.push(("NO_PROXY", no_proxy.clone()));
    variables.push(("no_proxy", no_proxy));
    if !env.contains_key("NODE_USE_ENV_PROXY") {
        // Node.js looks at the variables above only with this one.
        variables.push(("NODE_USE_ENV_PROXY", "1".to_owned()));
    }
    variables
}

fn no_proxy(
    config: &Config,
    addresses: &[(&'static str, SocketAddr)],
    env: &BTreeMap<String, String>,
) -> String {
    let mut entries: Vec<String> = Vec::new();
    let mut add = |entry: String| {
        if !entry.is_empty() && !entries.contains(&entry) {
            entries.push(entry);
        }
    };
    for name in ["NO_PROXY", "no_proxy"] {
        let inherited = env.get(name).map_or("", String::as_str);
        inherited
            .split(',')
            .for_each(|entry| add(entry.trim().to_owned()));
    }
    for (role, address) in addresses {
        // The inbound port is called by the program's own clients as well; only the others never lead anywhere.
        if *role != "inbound" {
            with_names(&reachable(*address), &mut add);
        }
    }
    for backend in backends(config) {
        with_names(&backend, &mut add);
    }
    entries.join(",")
}

/// The address as clients may write it: loopback has two spellings.
fn with_names(addr: &HostPort, add: &mut impl FnMut(String)) {
    add(addr.to_string());
    let port = addr.port;
    match addr.ip() {
        Some(ip) if ip.is_loopback() => add(format!("localhost:{port}")),
        None if addr.host.as_str() == "localhost" => add(format!("127.0.0.1:{port}")),
        _ => {}
    }
}

/// Collectors and strategy servers: the program's own tracing, if it has any, sends there too.
fn backends(config: &Config) -> Vec<HostPort> {
    let reporters = config
        .reporters
        .iter()
        .filter_map(reporter::Config::collector);
    let sampling = match &config.sampling {
        sampling::Config::Remote(remote) => {
            let (_, uri) = remote.endpoint.target();
            let host = uri.host().unwrap_or_default();
            let port = uri.port_u16().unwrap_or(80);
            Some(HostPort::new(host.trim_matches(['[', ']']), port))
        }
        _ => None,
    };
    reporters.chain(sampling).collect()
}

/// A listening address as a client on this machine reaches it.
fn reachable(listen: SocketAddr) -> HostPort {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    HostPort::new(&ip.to_string(), listen.port())
}

/// Moves a port that has its default to a free one when another process has it; false when that is not what failed.
///
/// The program learns the outbound port from its environment, so several programs can be started side by side without
/// choosing ports.
pub(super) fn give_way(config: &mut Config, error: &RunError) -> bool {
    let RunError::Build(BuildError::Bind { source: error, .. }) = error else {
        return false;
    };
    if error.source.kind() != io::ErrorKind::AddrInUse {
        return false;
    }
    let (taken, default) = (error.addr.to_string(), Config::default());
    let moved = SocketAddr::new(error.addr.ip(), 0).to_string();
    if taken == config.admin.listen && taken == default.admin.listen {
        config.admin.listen = moved;
    } else if taken == config.outbound.listen.to_string() && config.outbound == default.outbound {
        config.outbound.listen.port = 0;
    } else {
        return false;
    }
    true
}
