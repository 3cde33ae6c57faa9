//! Running nft or iptables-restore: which is there, whether we may, and taking back what failed half-way.

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

/// One call of a tool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The program.
    pub program: &'static str,
    /// Its arguments.
    pub args: &'static [&'static str],
    /// Its standard input; empty: it is not called.
    pub input: String,
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

/// Installs the rules in place of what was installed before with this tool.
///
/// # Errors
/// See [`RulesError`]; what was there before is there still.
pub fn install(rules: &Rules, tool: Tool) -> Result<(), RulesError> {
    check_privilege()?;
    run_all(&plan_install(rules, tool, saved))
}

/// Takes away whatever is ours, of every tool that is there.
///
/// # Errors
/// See [`RulesError`].
pub fn remove() -> Result<(), RulesError> {
    check_privilege()?;
    find()?;
    let mut calls = Vec::new();
    if is_installed("nft") {
        calls.extend(plan_remove(Tool::Nft, saved));
    }
    if is_installed("iptables-save") {
        calls.extend(plan_remove(Tool::Iptables, saved));
    }
    calls.iter().try_for_each(run)
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
    if is_installed("iptables-save") {
        out.push_str(&iptables::show(&saved(Family::Ipv4)));
        out.push_str(&iptables::show(&saved(Family::Ipv6)));
    }
    Ok(out)
}

/// The calls that install, given what `iptables-save` says.
pub fn plan_install(rules: &Rules, tool: Tool, saved: impl Fn(Family) -> String) -> Vec<Call> {
    let chains = rules.chains();
    match tool {
        Tool::Nft => vec![nft_call(nft::install(&chains))],
        Tool::Iptables => families()
            .map(|family| {
                let input = iptables::install(&chains, family, &saved(family));
                restore_call(family, input)
            })
            .collect(),
    }
}

/// The calls that remove, given what `iptables-save` says.
pub fn plan_remove(tool: Tool, saved: impl Fn(Family) -> String) -> Vec<Call> {
    match tool {
        Tool::Nft => vec![nft_call(nft::remove())],
        Tool::Iptables => families()
            .map(|family| restore_call(family, iptables::remove(&saved(family))))
            .collect(),
    }
}

fn nft_call(input: String) -> Call {
    Call {
        program: "nft",
        args: &["-f", "-"],
        input,
    }
}

fn restore_call(family: Family, input: String) -> Call {
    Call {
        program: match family {
            Family::Ipv4 => "iptables-restore",
            Family::Ipv6 => "ip6tables-restore",
        },
        args: &["--noflush"],
        input,
    }
}

/// Both, but for a system without IPv6.
fn families() -> impl Iterator<Item = Family> {
    let v6 = Path::new("/proc/net/if_inet6").exists();
    [Family::Ipv4, Family::Ipv6]
        .into_iter()
        .filter(move |family| *family == Family::Ipv4 || v6)
}

/// Runs the calls; when one fails, those before it are taken back.
fn run_all(calls: &[Call]) -> Result<(), RulesError> {
    for (index, call) in calls.iter().enumerate() {
        if let Err(error) = run(call) {
            if index > 0 {
                let undone = plan_remove(Tool::Iptables, saved);
                undone.iter().try_for_each(run)?;
            }
            return Err(error);
        }
    }
    Ok(())
}

fn run(call: &Call) -> Result<(), RulesError> {
    if call.input.is_empty() {
        return Ok(());
    }
    let program = call.program;
    let failed = |source| RulesError::Start { program, source };
    let mut child = Command::new(program)
        .args(call.args)
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

/// What `iptables-save` says; empty when it says nothing.
pub fn saved(family: Family) -> String {
    let program = match family {
        Family::Ipv4 => "iptables-save",
        Family::Ipv6 => "ip6tables-save",
    };
    output(program, &[]).unwrap_or_default()
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
