//! The rules as one transaction for `nft -f -`: our table, replaced as a whole.

use std::fmt::Write;

use crate::net::rules::Chain;
use crate::net::rules::Hook;
use crate::net::rules::KEPT;
use crate::net::rules::LEAVING;
use crate::net::rules::Match;
use crate::net::rules::NAME;
use crate::net::rules::Step;

/// Installs the chains and replaces what was installed before. Either all of it takes effect or nothing.
pub fn install(chains: &[Chain]) -> String {
    let mut out = remove();
    writeln!(out, "table inet {NAME} {{").unwrap_or_default();
    for chain in chains {
        write_chain(&mut out, chain);
    }
    out.push_str("}\n");
    out
}

/// Takes our table away; does nothing when there is none.
pub fn remove() -> String {
    // A table must exist to be deleted, and adding one that exists does nothing.
    format!("add table inet {NAME}\ndelete table inet {NAME}\n")
}

fn write_chain(out: &mut String, chain: &Chain) {
    let (name, kind, hook, priority) = match chain.hook {
        Hook::Output => ("output", "nat", "output", "-100"),
        Hook::Prerouting => ("prerouting", "nat", "prerouting", "-100"),
        Hook::Tproxy => ("prerouting", "filter", "prerouting", "-150"),
        Hook::Mark => ("output", "route", "output", "-150"),
        Hook::Divert => ("divert", "filter", "prerouting", "-150"),
        Hook::Kept => ("kept", "route", "output", "-150"),
    };
    let mut line = |text: &str| {
        out.push('\t');
        out.push_str(text);
        out.push('\n');
    };
    let head = format!("type {kind} hook {hook} priority {priority}; policy accept;");
    let mut lines = vec![head];
    if let Some(port) = chain.dns {
        lines.push(format!("udp dport 53 redirect to :{port}"));
    }
    lines.push("meta l4proto != tcp return".to_owned());
    if chain.hook == Hook::Mark {
        lines.push(format!(
            "ct direction original ct mark {LEAVING:#x} meta mark set {LEAVING:#x} return"
        ));
    }
    if matches!(chain.hook, Hook::Mark | Hook::Tproxy) {
        lines.push("ct state != new return".to_owned());
    }
    for step in &chain.steps {
        step_lines(step, chain.hook, &mut lines);
    }
    let last = match chain.hook {
        Hook::Output => format!("meta l4proto tcp redirect to :{}", chain.port),
        Hook::Prerouting => format!(
            "fib daddr type local meta l4proto tcp redirect to :{}",
            chain.port
        ),
        Hook::Tproxy => format!(
            "fib daddr type local meta l4proto tcp tproxy to :{}",
            chain.port
        ),
        Hook::Mark => format!("ct mark set {LEAVING:#x} meta mark set {LEAVING:#x}"),
        Hook::Divert => format!(
            "iifname \"lo\" meta mark {LEAVING:#x} meta l4proto tcp tproxy to :{}",
            chain.port
        ),
        Hook::Kept => {
            lines.push(format!("meta mark {KEPT:#x} ct mark set {KEPT:#x}"));
            format!("ct direction reply ct mark {KEPT:#x} meta mark set {KEPT:#x}")
        }
    };
    lines.push(last);
    line(&format!("chain {name} {{"));
    for text in &lines {
        line(&format!("\t{text}"));
    }
    line("}");
}

fn step_lines(step: &Step, hook: Hook, lines: &mut Vec<String>) {
    let (matches, except) = match step {
        Step::Except(matches) => (matches, true),
        Step::Only(matches) => (matches, false),
    };
    let sign = if except { "" } else { "!= " };
    let mut by_key: Vec<(&'static str, Vec<String>)> = Vec::new();
    for one in matches {
        let (key, value) = key_and_value(one, hook);
        match by_key.iter_mut().find(|(known, _)| *known == key) {
            Some((_, values)) => values.push(value),
            None => by_key.push((key, vec![value])),
        }
    }
    let is_network = matches.iter().any(|one| matches!(one, Match::Network(_)));
    if !except && is_network {
        // A family without a network of its own is not wanted at all.
        for (family, key) in [("ipv4", "ip "), ("ipv6", "ip6 ")] {
            if !by_key.iter().any(|(known, _)| known.starts_with(key)) {
                lines.push(format!("meta nfproto {family} return"));
            }
        }
    }
    for (key, values) in by_key {
        lines.push(format!("{key} {sign}{{ {} }} return", values.join(", ")));
    }
}

fn key_and_value(one: &Match, hook: Hook) -> (&'static str, String) {
    let leaves = hook.leaves();
    match one {
        Match::User(id) => ("meta skuid", id.to_string()),
        Match::Group(id) => ("meta skgid", id.to_string()),
        Match::Mark(mark) => ("meta mark", mark.to_string()),
        Match::Interface(name) => {
            let key = if leaves { "oifname" } else { "iifname" };
            let name = match name.0.strip_suffix('+') {
                Some(start) => format!("{start}*"),
                None => name.0.clone(),
            };
            (key, format!("\"{name}\""))
        }
        Match::Ports(ports) => ("tcp dport", ports.text('-')),
        Match::Network(network) => {
            let key = match (network.is_ipv4(), leaves) {
                (true, true) => "ip daddr",
                (true, false) => "ip saddr",
                (false, true) => "ip6 daddr",
                (false, false) => "ip6 saddr",
            };
            (key, network.to_string())
        }
    }
}
