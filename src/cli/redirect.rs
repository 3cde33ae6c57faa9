//! `redirect`: the rules of the system that lead connections to the proxy.

use std::fmt::Write;

use clap::Args;
use clap::Subcommand;
use clap::ValueEnum;

use crate::cli::Exit;
use crate::cli::args::Settings;
use crate::config::Config;
use crate::model::HostPort;
use crate::net::rules::Inbound;
use crate::net::rules::Interface;
use crate::net::rules::Network;
use crate::net::rules::Outbound;
use crate::net::rules::Ports;
use crate::net::rules::Rules;
use crate::net::rules::apply;
use crate::net::rules::apply::Call;
use crate::net::rules::apply::RulesError;
use crate::net::rules::apply::Tool;
use crate::proxy::config::InboundRedirect;
use crate::proxy::config::Interception;
use crate::proxy::config::OutboundRedirect;

/// The user that the container image runs as.
const SIDECAR_UID: u32 = 65532;

#[derive(Debug, Args)]
pub(crate) struct RedirectArgs {
    #[command(subcommand)]
    pub(crate) action: Action,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    /// Installs the rules, in place of those installed before
    ///
    /// TCP connections that arrive for this machine or container go to the proxy's inbound redirect port (15607),
    /// those that leave it to the outbound one (15602). Loopback, DNS, SSH's port 22 (inbound) and the proxy's own
    /// ports and user stay untouched. Needs the capability NET_ADMIN.
    Install(Box<InstallArgs>),
    /// Removes the rules without a trace
    Remove(ToolArgs),
    /// Shows the rules that are installed
    Show(ToolArgs),
}

#[derive(Debug, Clone, Args)]
pub(crate) struct ToolArgs {
    /// Print what would be run instead of running it
    #[arg(long)]
    dry_run: bool,
    /// What rules are written with; without it nft, or iptables where nft is absent
    #[arg(long, value_name = "TOOL")]
    tool: Option<ToolName>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ToolName {
    Nft,
    Iptables,
}

#[derive(Debug, Args)]
pub(crate) struct InstallArgs {
    #[command(flatten)]
    pub(crate) settings: Settings,
    #[command(flatten)]
    tool: ToolArgs,
    /// Leave connections that arrive alone
    #[arg(long)]
    no_inbound: bool,
    /// Leave connections that leave alone
    #[arg(long, conflicts_with = "no_inbound")]
    no_outbound: bool,
    /// Lead connections that arrive by TPROXY; `inbound.redirect.mode: tproxy` says so too
    #[arg(long)]
    tproxy: bool,
    /// Lead connections that leave by TPROXY; `outbound.redirect.mode: tproxy` says so too
    #[arg(long)]
    outbound_tproxy: bool,
    /// Users whose connections are not redirected: the proxy's own
    #[arg(long, value_name = "UIDS", value_delimiter = ',', default_values_t = [SIDECAR_UID])]
    exclude_uids: Vec<u32>,
    /// Groups whose connections are not redirected
    #[arg(long, value_name = "GIDS", value_delimiter = ',')]
    exclude_gids: Vec<u32>,
    /// Redirect connections of these users alone
    #[arg(long, value_name = "UIDS", value_delimiter = ',')]
    uids: Vec<u32>,
    /// Redirect what arrives at these ports alone, such as 80,8000-8100
    #[arg(long, value_name = "PORTS", value_delimiter = ',')]
    inbound_ports: Vec<Ports>,
    /// Do not redirect what arrives at these ports
    #[arg(long, value_name = "PORTS", value_delimiter = ',')]
    exclude_inbound_ports: Vec<Ports>,
    /// Redirect what arrives from these networks alone
    #[arg(long, value_name = "CIDRS", value_delimiter = ',')]
    inbound_cidrs: Vec<Network>,
    /// Do not redirect what arrives from these networks
    #[arg(long, value_name = "CIDRS", value_delimiter = ',')]
    exclude_inbound_cidrs: Vec<Network>,
    /// Redirect what leaves for these ports alone
    #[arg(long, value_name = "PORTS", value_delimiter = ',')]
    outbound_ports: Vec<Ports>,
    /// Do not redirect what leaves for these ports
    #[arg(long, value_name = "PORTS", value_delimiter = ',')]
    exclude_outbound_ports: Vec<Ports>,
    /// Redirect what leaves for these networks alone
    #[arg(long, value_name = "CIDRS", value_delimiter = ',')]
    outbound_cidrs: Vec<Network>,
    /// Do not redirect what leaves for these networks
    #[arg(long, value_name = "CIDRS", value_delimiter = ',')]
    exclude_outbound_cidrs: Vec<Network>,
    /// Redirect on these interfaces alone; `eth+` means all that begin with eth
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    interfaces: Vec<Interface>,
    /// Do not redirect on these interfaces
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    exclude_interfaces: Vec<Interface>,
}

/// Installs, or says how it would be done.
pub(crate) fn install(args: InstallArgs, config: &Config) -> Exit {
    let tool = args.tool.clone();
    let rules = rules(args, config);
    let done = chosen(&tool).and_then(|found| {
        if tool.dry_run {
            let calls = apply::plan_install(&rules, found, apply::saved);
            return Ok(crate::cli::print(&scripts(&calls)));
        }
        apply::install(&rules, found).map(|()| Exit::Ok)
    });
    ended(done)
}

/// Removes.
pub(crate) fn remove(args: &ToolArgs) -> Exit {
    if !args.dry_run {
        return ended(apply::remove().map(|()| Exit::Ok));
    }
    let done = chosen(args).map(|tool| {
        let calls = apply::plan_remove(&[tool], apply::saved);
        crate::cli::print(&scripts(&calls))
    });
    ended(done)
}

/// Shows.
pub(crate) fn show(args: &ToolArgs) -> Exit {
    if args.dry_run {
        return crate::cli::print("nft list table inet pillion\niptables-save\nip6tables-save\n");
    }
    let done = apply::show().map(|text| match text.is_empty() {
        true => crate::cli::print("no rules of pillion are installed\n"),
        false => crate::cli::print(&text),
    });
    ended(done)
}

fn chosen(args: &ToolArgs) -> Result<Tool, RulesError> {
    match args.tool {
        Some(ToolName::Nft) => Ok(Tool::Nft),
        Some(ToolName::Iptables) => Ok(Tool::Iptables),
        None if args.dry_run => Ok(apply::find().unwrap_or(Tool::Nft)),
        None => apply::find(),
    }
}

/// The calls as a shell would take them.
fn scripts(calls: &[Call]) -> String {
    let mut out = String::new();
    for call in calls.iter().filter(|call| !call.input.is_empty()) {
        let (program, args) = call.part.command();
        writeln!(
            out,
            "{program} {} <<'END'\n{}END",
            args.join(" "),
            call.input
        )
        .unwrap_or_default();
    }
    out
}

fn ended(done: Result<Exit, RulesError>) -> Exit {
    match done {
        Ok(exit) => exit,
        Err(error) => {
            crate::cli::complain(&format!("error: {error}{}", super::start::Causes(&error)));
            match error {
                RulesError::NotPermitted => Exit::MissingCapability,
                _ => Exit::Failure,
            }
        }
    }
}

fn rules(args: InstallArgs, config: &Config) -> Rules {
    let arriving = config.inbound.redirect.clone().unwrap_or_default();
    let leaving = config.outbound.redirect.clone().unwrap_or_default();
    let tproxy = args.tproxy || arriving.mode == Interception::Tproxy;
    let inbound = Inbound {
        port: arriving.listen.port,
        tproxy,
        keep_source: arriving.keeps_source(),
        own_ports: own_ports(config, &arriving, &leaving),
        ports: args.inbound_ports,
        exclude_ports: args.exclude_inbound_ports,
        networks: args.inbound_cidrs,
        exclude_networks: args.exclude_inbound_cidrs,
    };
    let outbound = Outbound {
        port: leaving.listen.port,
        tproxy: args.outbound_tproxy || leaving.mode == Interception::Tproxy,
        exclude_users: args.exclude_uids,
        exclude_groups: args.exclude_gids,
        exclude_mark: None,
        loopback: false,
        dns: None,
        users: args.uids,
        ports: args.outbound_ports,
        exclude_ports: args.exclude_outbound_ports,
        networks: args.outbound_cidrs,
        exclude_networks: args.exclude_outbound_cidrs,
    };
    Rules {
        inbound: (!args.no_inbound).then_some(inbound),
        outbound: (!args.no_outbound).then_some(outbound),
        interfaces: args.interfaces,
        exclude_interfaces: args.exclude_interfaces,
    }
}

/// Whoever dials the proxy itself is to reach it.
fn own_ports(config: &Config, arriving: &InboundRedirect, leaving: &OutboundRedirect) -> Vec<u16> {
    let admin = [&config.admin.listen, &config.admin.probe_listen];
    let admin = admin.map(|listen| listen.parse::<HostPort>().ok());
    let routes = config.routes.iter().map(|route| route.listen.port);
    let receivers = config.receivers.listens().map(|(_, listen)| listen.port);
    [&config.inbound.listen, &config.outbound.listen]
        .into_iter()
        .chain([&arriving.listen, &leaving.listen])
        .chain(admin.iter().flatten())
        .map(|listen| listen.port)
        .chain(routes)
        .chain(receivers)
        .filter(|port| *port > 0)
        .collect()
}
