//! The rules as input for `iptables-restore --noflush` and `ip6tables-restore --noflush`: chains of our own, and one
//! jump to each. A table is one transaction.

use std::fmt::Write;

use crate::net::rules::Chain;
use crate::net::rules::Hook;
use crate::net::rules::Match;
use crate::net::rules::Step;

/// The beginning of our chains' names.
pub const PREFIX: &str = "PILLION_";

/// Which of the two tools.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// `iptables`.
    Ipv4,
    /// `ip6tables`.
    Ipv6,
}

/// The tables that may hold chains of ours.
const TABLES: [&str; 2] = ["nat", "mangle"];

/// Installs the chains and replaces what was installed before.
///
/// `saved` is what `iptables-save` says now: chains and jumps of ours are found in it.
pub fn install(chains: &[Chain], family: Family, saved: &str) -> String {
    let mut out = String::new();
    for table in TABLES {
        let chains: Vec<_> = chains
            .iter()
            .filter(|chain| table_of(chain.hook) == table)
            .collect();
        let mut names = Vec::new();
        let mut rules = Vec::new();
        for chain in &chains {
            write_chain(chain, family, &mut names, &mut rules);
        }
        let (old_chains, old_jumps) = ours(saved, table);
        if names.is_empty() && old_chains.is_empty() {
            continue;
        }
        writeln!(out, "*{table}").unwrap_or_default();
        // Declaring a chain empties it.
        let gone = old_chains.iter().filter(|name| !names.contains(*name));
        for name in names.iter().chain(gone.clone()) {
            writeln!(out, ":{name} - [0:0]").unwrap_or_default();
        }
        for line in old_jumps.iter().chain(&rules) {
            writeln!(out, "{line}").unwrap_or_default();
        }
        for name in gone {
            writeln!(out, "-X {name}").unwrap_or_default();
        }
        out.push_str("COMMIT\n");
    }
    out
}

/// Takes away what is ours in `saved`; empty when nothing is.
pub fn remove(saved: &str) -> String {
    install(&[], Family::Ipv4, saved)
}

/// The lines of `saved` that are ours, for people.
pub fn show(saved: &str) -> String {
    let mut out = String::new();
    for line in saved.lines().filter(|line| line.contains(PREFIX)) {
        out.push_str(line);
        out.push('\n');
    }
    out
}

fn table_of(hook: Hook) -> &'static str {
    match hook {
        Hook::Output | Hook::Prerouting => "nat",
        Hook::Tproxy => "mangle",
    }
}

/// Our chains in a table, and the commands that delete the jumps to them.
fn ours(saved: &str, table: &str) -> (Vec<String>, Vec<String>) {
    let (mut chains, mut jumps) = (Vec::new(), Vec::new());
    let mut here = false;
    for line in saved.lines() {
        if let Some(name) = line.strip_prefix('*') {
            here = name == table;
        }
        if !here {
            continue;
        }
        if let Some(name) = line
            .strip_prefix(':')
            .and_then(|rest| rest.split(' ').next())
            && name.starts_with(PREFIX)
        {
            chains.push(name.to_owned());
        }
        if let Some(rule) = line.strip_prefix("-A ")
            && !rule.starts_with(PREFIX)
            && rule.contains(&format!(" {PREFIX}"))
        {
            jumps.push(format!("-D {rule}"));
        }
    }
    (chains, jumps)
}

fn write_chain(chain: &Chain, family: Family, names: &mut Vec<String>, rules: &mut Vec<String>) {
    let (hook, target) = match chain.hook {
        Hook::Output => ("OUTPUT", format!("REDIRECT --to-ports {}", chain.port)),
        Hook::Prerouting => ("PREROUTING", format!("REDIRECT --to-ports {}", chain.port)),
        Hook::Tproxy => ("PREROUTING", format!("TPROXY --on-port {}", chain.port)),
    };
    let first = format!("{PREFIX}{hook}");
    let mut name = first.clone();
    names.push(name.clone());
    let mut stage = 1;
    for step in &chain.steps {
        match step {
            Step::Except(matches) => {
                for text in texts(matches, chain.hook, family) {
                    rules.push(format!("-A {name} {text} -j RETURN"));
                }
            }
            // Who passes goes on in the next chain; who does not comes to the end of this one.
            Step::Only(matches) => {
                stage += 1;
                let next = format!("{first}_{stage}");
                for text in texts(matches, chain.hook, family) {
                    rules.push(format!("-A {name} {text} -g {next}"));
                }
                names.push(next.clone());
                name = next;
            }
        }
    }
    let local = match chain.hook {
        Hook::Output => "",
        Hook::Prerouting | Hook::Tproxy => " -m addrtype --dst-type LOCAL",
    };
    rules.push(format!("-A {name} -p tcp{local} -j {target}"));
    rules.push(format!("-A {hook} -p tcp -j {first}"));
    if let Some(port) = chain.dns {
        let dns = format!("{PREFIX}DNS");
        rules.push(format!("-A {dns} -p udp -j REDIRECT --to-ports {port}"));
        rules.push(format!("-A {hook} -p udp --dport 53 -j {dns}"));
        names.push(dns);
    }
}

fn texts(matches: &[Match], hook: Hook, family: Family) -> Vec<String> {
    let leaves = hook == Hook::Output;
    let mut texts = Vec::new();
    for one in matches {
        texts.push(match one {
            Match::User(id) => format!("-m owner --uid-owner {id}"),
            Match::Group(id) => format!("-m owner --gid-owner {id}"),
            Match::Mark(mark) => format!("-m mark --mark {mark}"),
            Match::Interface(name) if leaves => format!("-o {}", name.0),
            Match::Interface(name) => format!("-i {}", name.0),
            Match::Ports(ports) => format!("-p tcp --dport {}", ports.text(':')),
            Match::Network(network) if network.is_ipv4() != (family == Family::Ipv4) => continue,
            Match::Network(network) if leaves => format!("-d {network}"),
            Match::Network(network) => format!("-s {network}"),
        });
    }
    texts
}
