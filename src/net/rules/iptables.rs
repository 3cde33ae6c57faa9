//! The rules as input for `iptables-restore --noflush` and `ip6tables-restore --noflush`: chains of our own, and one
//! jump to each. A table is one transaction.

use std::fmt::Write;

use crate::net::rules::Chain;
use crate::net::rules::Hook;
use crate::net::rules::KEPT;
use crate::net::rules::LEAVING;
use crate::net::rules::Match;
use crate::net::rules::Step;

/// The beginning of our chains' names.
pub const PREFIX: &str = "PILLION_";

/// Which version of IP, and so which of the two tools.
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
    replace(saved, |table| {
        let mut names = Vec::new();
        let mut rules = Vec::new();
        for chain in chains.iter().filter(|one| table_of(one.hook) == table) {
            write_chain(chain, family, &mut names, &mut rules);
        }
        (names, rules)
    })
}

/// Takes away what is ours in `saved`; empty when nothing is.
pub fn remove(saved: &str) -> String {
    put_back("", saved)
}

/// Brings what was ours in `before` back in place of what is ours in `saved`.
pub fn put_back(before: &str, saved: &str) -> String {
    replace(saved, |table| {
        let ours = ours(before, table);
        (ours.chains, ours.rules)
    })
}

/// What is ours in `saved` goes, and what `wanted` has for each table (chains and rules) comes.
fn replace(saved: &str, wanted: impl Fn(&'static str) -> (Vec<String>, Vec<String>)) -> String {
    let mut out = String::new();
    for table in TABLES {
        let (names, rules) = wanted(table);
        let old = ours(saved, table);
        let (old_chains, old_jumps) = (&old.chains, &old.deletions);
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
        Hook::Tproxy | Hook::Mark | Hook::Divert | Hook::Kept => "mangle",
    }
}

/// What is ours in a table.
#[derive(Default)]
struct Ours {
    chains: Vec<String>,
    /// In our chains and to them.
    rules: Vec<String>,
    /// Delete those to them.
    deletions: Vec<String>,
}

fn ours(saved: &str, table: &str) -> Ours {
    let mut ours = Ours::default();
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
            ours.chains.push(name.to_owned());
        }
        let Some(rule) = line.strip_prefix("-A ") else {
            continue;
        };
        if rule.starts_with(PREFIX) {
            ours.rules.push(line.to_owned());
        } else if rule.contains(&format!(" {PREFIX}")) {
            ours.rules.push(line.to_owned());
            ours.deletions.push(format!("-D {rule}"));
        }
    }
    ours
}

fn write_chain(chain: &Chain, family: Family, names: &mut Vec<String>, rules: &mut Vec<String>) {
    let port = chain.port;
    let (own, hook) = match chain.hook {
        Hook::Output | Hook::Mark => ("OUTPUT", "OUTPUT"),
        Hook::Prerouting | Hook::Tproxy => ("PREROUTING", "PREROUTING"),
        Hook::Divert => ("DIVERT", "PREROUTING"),
        Hook::Kept => ("KEPT", "OUTPUT"),
    };
    let first = format!("{PREFIX}{own}");
    let mut name = first.clone();
    names.push(name.clone());
    if chain.hook == Hook::Mark {
        rules.push(format!(
            "-A {name} -m conntrack --ctdir ORIGINAL -m connmark --mark {LEAVING:#x} -j MARK --set-mark {LEAVING:#x}"
        ));
    }
    if matches!(chain.hook, Hook::Mark | Hook::Tproxy) {
        // TPROXY drops packets of connections that others have.
        rules.push(format!("-A {name} -m conntrack ! --ctstate NEW -j RETURN"));
    }
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
    const LOCAL: &str = "-m addrtype --dst-type LOCAL";
    let ends = match chain.hook {
        Hook::Output => vec![format!("-j REDIRECT --to-ports {port}")],
        Hook::Prerouting => vec![format!("{LOCAL} -j REDIRECT --to-ports {port}")],
        Hook::Tproxy => vec![format!("{LOCAL} -j TPROXY --on-port {port}")],
        Hook::Mark => vec![
            format!("-j CONNMARK --set-mark {LEAVING:#x}"),
            format!("-j MARK --set-mark {LEAVING:#x}"),
        ],
        Hook::Divert => vec![format!(
            "-i lo -m mark --mark {LEAVING:#x} -j TPROXY --on-port {port}"
        )],
        Hook::Kept => vec![
            format!("-m mark --mark {KEPT:#x} -j CONNMARK --set-mark {KEPT:#x}"),
            format!(
                "-m conntrack --ctdir REPLY -m connmark --mark {KEPT:#x} -j MARK --set-mark {KEPT:#x}"
            ),
        ],
    };
    for end in ends {
        rules.push(format!("-A {name} -p tcp {end}"));
    }
    rules.push(format!("-A {hook} -p tcp -j {first}"));
    if let Some(port) = chain.dns {
        let dns = format!("{PREFIX}DNS");
        rules.push(format!("-A {dns} -p udp -j REDIRECT --to-ports {port}"));
        rules.push(format!("-A {hook} -p udp --dport 53 -j {dns}"));
        names.push(dns);
    }
}

fn texts(matches: &[Match], hook: Hook, family: Family) -> Vec<String> {
    let leaves = hook.leaves();
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
