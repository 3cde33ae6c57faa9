//! Running nft or iptables-restore, and ip: which is there, whether we may, and taking back what failed half-way.

use std::io;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::process::Stdio;

use crate::net::rules::NAME;
use crate::net::rules::Rules;
use crate::net::rules::iptables;
use crate::net::rules::iptables::Family;
use crate::net::rules::nft;
use crate::net::rules::route;

/// `CAP_NET_ADMIN`'s number (capability.h).
const NET_ADMIN: u32 = 12;

/// What rules are installed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tool {
    /// `nft`.
    Nft,
    /// `iptables-restore` and `ip6tables-restore`, of either kind.
    Iptables,
}

/// Why rules could not be installed, removed or shown.
#[derive(Debug, thiserror::Error)]
pub enum RulesError {
    /// The capability is missing.
    #[error(
        "changing the rules of the system needs the capability NET_ADMIN: run as root, or as the init container does"
    )]
    NotPermitted,
    /// Neither tool is there.
    #[error("neither nft nor iptables-restore is installed: install nftables or iptables")]
    NoTool,
    /// TPROXY needs policy routing.
    #[error("TPROXY needs the program ip: install iproute2")]
    NoIp,
    /// A tool did not start.
    #[error("cannot run {program}")]
    Start {
        /// Its name.
        program: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A tool refused.
    #[error("{program} refused the rules: {message}")]
    Refused {
        /// Its name.
        program: &'static str,
        /// What it printed.
        message: String,
    },
}

/// What one call changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The nft table.
    Table,
    /// The iptables chains.
    Chains(Family),
    /// Policy routing.
    Routes(Family),
}

/// One call of a tool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// What it changes.
    pub part: Part,
    /// Its standard input; empty: it is not called.
    pub input: String,
}

impl Part {
    /// The program and its arguments.
    pub fn command(self) -> (&'static str, &'static [&'static str]) {
        match self {
            Self::Table => ("nft", &["-f", "-"]),
            Self::Chains(Family::Ipv4) => ("iptables-restore", &["--noflush"]),
            Self::Chains(Family::Ipv6) => ("ip6tables-restore", &["--noflush"]),
            Self::Routes(Family::Ipv4) => ("ip", &["-4", "-batch", "-"]),
            Self::Routes(Family::Ipv6) => ("ip", &["-6", "-batch", "-"]),
        }
    }
}

/// The tool that is there, nft first.
///
/// # Errors
/// Neither is.
pub fn find() -> Result<Tool, RulesError> {
    if is_installed("nft") {
        Ok(Tool::Nft)
    } else if is_installed("iptables-restore") {
        Ok(Tool::Iptables)
    } else {
        Err(RulesError::NoTool)
    }
}

/// Installs the rules in place of what was installed before, with this tool or the other.
///
/// # Errors
/// See [`RulesError`]; what was there before is there still.
pub fn install(rules: &Rules, tool: Tool) -> Result<(), RulesError> {
    check_privilege()?;
    if !rules.marks().is_empty() && !is_installed("ip") {
        return Err(RulesError::NoIp);
    }
    let calls = plan_install(rules, tool, saved);
    let before: Vec<String> = calls.iter().map(|call| saved(call.part)).collect();
    for (index, call) in calls.iter().enumerate() {
        if let Err(error) = run(call) {
            // A call of its own may have been done in part: iptables-restore takes the tables one by one.
            for (call, before) in calls.iter().zip(&before).take(index + 1) {
                run(&put_back(call.part, before))?;
            }
            return Err(error);
        }
    }
    Ok(())
}

/// Takes away whatever is ours, of every tool that is there.
///
/// # Errors
/// See [`RulesError`].
pub fn remove() -> Result<(), RulesError> {
    check_privilege()?;
    find()?;
    let mut tools = Vec::new();
    if is_installed("nft") {
        tools.push(Tool::Nft);
    }
    if is_installed("iptables-save") {
        tools.push(Tool::Iptables);
    }
    plan_remove(&tools, saved).iter().try_for_each(run)
}

/// What is installed, as the tools print it; empty when nothing is.
///
/// # Errors
/// See [`RulesError`].
pub fn show() -> Result<String, RulesError> {
    check_privilege()?;
    find()?;
    let mut out = String::new();
    if is_installed("nft") {
        out.push_str(&output("nft", &["list", "table", "inet", NAME]).unwrap_or_default());
    }
    for family in [Family::Ipv4, Family::Ipv6] {
        out.push_str(&iptables::show(&saved(Part::Chains(family))));
        out.push_str(&route::show(&saved(Part::Routes(family))));
    }
    Ok(out)
}

/// The calls that install, given what is saved now: what the other tool installed goes.
pub fn plan_install(rules: &Rules, tool: Tool, saved: impl Fn(Part) -> String) -> Vec<Call> {
    let chains = rules.chains();
    let marks = rules.marks();
    let mut calls: Vec<Call> = match tool {
        Tool::Nft => vec![Call {
            part: Part::Table,
            input: nft::install(&chains),
        }],
        Tool::Iptables => families()
            .map(|family| {
                let part = Part::Chains(family);
                let input = iptables::install(&chains, family, &saved(part));
                Call { part, input }
            })
            .collect(),
    };
    // The way is there before anything takes it, and until nothing takes it any more.
    let at = if marks.is_empty() { calls.len() } else { 0 };
    calls.splice(at..at, routes(&marks, &saved));
    // Nft's call takes effect as a whole, so it comes last but for routes that nothing takes any more.
    let at = calls.iter().position(|call| call.part == Part::Table);
    let at = at.unwrap_or(calls.len());
    calls.splice(at..at, replace_other(tool, &saved));
    calls
}

/// The calls that remove what these tools installed, given what is saved now.
pub fn plan_remove(tools: &[Tool], saved: impl Fn(Part) -> String) -> Vec<Call> {
    let mut calls = Vec::new();
    for tool in tools {
        calls.extend(removal(*tool, &saved));
    }
    calls.extend(routes(&[], &saved));
    calls
}

fn removal(tool: Tool, saved: &impl Fn(Part) -> String) -> Vec<Call> {
    match tool {
        Tool::Nft => vec![Call {
            part: Part::Table,
            input: nft::remove(),
        }],
        Tool::Iptables => families()
            .map(|family| {
                let part = Part::Chains(family);
                let input = iptables::remove(&saved(part));
                Call { part, input }
            })
            .collect(),
    }
}

/// The calls that remove what the other tool installed, if it did.
fn replace_other(tool: Tool, saved: &impl Fn(Part) -> String) -> Vec<Call> {
    match tool {
        Tool::Nft => removal(Tool::Iptables, saved),
        Tool::Iptables if saved(Part::Table).is_empty() => Vec::new(),
        Tool::Iptables => removal(Tool::Nft, saved),
    }
}

fn routes(marks: &[u32], saved: &impl Fn(Part) -> String) -> Vec<Call> {
    let call = |family| {
        let part = Part::Routes(family);
        let input = route::install(marks, &saved(part));
        Call { part, input }
    };
    families().map(call).collect()
}

/// The call that brings back what was saved before.
fn put_back(part: Part, before: &str) -> Call {
    let input = match part {
        // A call of its own is all or nothing; another may have failed after it.
        Part::Table if saved(part) == before => String::new(),
        Part::Table => format!("{}{before}", nft::remove()),
        Part::Chains(_) => iptables::put_back(before, &saved(part)),
        Part::Routes(_) => route::install(&route::installed(before), &saved(part)),
    };
    Call { part, input }
}

/// Both, but for a system without IPv6.
fn families() -> impl Iterator<Item = Family> {
    let v6 = Path::new("/proc/net/if_inet6").exists();
    [Family::Ipv4, Family::Ipv6]
        .into_iter()
        .filter(move |family| *family == Family::Ipv4 || v6)
}

fn run(call: &Call) -> Result<(), RulesError> {
    if call.input.is_empty() {
        return Ok(());
    }
    let (program, args) = call.part.command();
    let failed = |source| RulesError::Start { program, source };
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        match stdin.write_all(call.input.as_bytes()) {
            // It ended early: its own words say why.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            written => written.map_err(failed)?,
        }
    }
    let output = child.wait_with_output().map_err(failed)?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let forbidden = [
        "Operation not permitted",
        "Permission denied",
        "must be root",
    ];
    if forbidden.iter().any(|word| message.contains(word)) {
        return Err(RulesError::NotPermitted);
    }
    Err(RulesError::Refused { program, message })
}

/// What the tools say now; empty where they say nothing.
pub fn saved(part: Part) -> String {
    let commands: &[(&str, &[&str])] = match part {
        Part::Table => &[("nft", &["list", "table", "inet", NAME])],
        Part::Chains(Family::Ipv4) => &[("iptables-save", &[])],
        Part::Chains(Family::Ipv6) => &[("ip6tables-save", &[])],
        Part::Routes(Family::Ipv4) => &[
            ("ip", &["-4", "rule", "show"]),
            ("ip", &["-4", "route", "show", "table", "15602"]),
        ],
        Part::Routes(Family::Ipv6) => &[
            ("ip", &["-6", "rule", "show"]),
            ("ip", &["-6", "route", "show", "table", "15602"]),
        ],
    };
    let texts = commands.iter().map(|(program, args)| output(program, args));
    texts.map(Option::unwrap_or_default).collect()
}

fn output(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    output.status.success().then_some(text)
}

fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

fn check_privilege() -> Result<(), RulesError> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    match may(&status, NET_ADMIN) {
        Some(false) => Err(RulesError::NotPermitted),
        _ => Ok(()),
    }
}

/// Whether a process whose `/proc/.../status` this is has a capability; `None` when it does not say.
fn may(status: &str, capability: u32) -> Option<bool> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))?;
    let bits = u64::from_str_radix(line.trim(), 16).ok()?;
    Some(bits >> capability & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_capability_is_read_from_the_status() {
        for (status, answer) in [
            ("Name:\tx\nCapEff:\t0000000000001000\n", Some(true)),
            ("CapEff:\t0000000000000000\n", Some(false)),
            ("CapEff:\t000001ffffffefff\n", Some(false)),
            ("Name:\tx\n", None),
        ] {
            assert_eq!(may(status, NET_ADMIN), answer, "{status}");
        }
    }
}
