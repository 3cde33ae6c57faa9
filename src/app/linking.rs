//! Evidence for linking from outside the traffic: asked for at start, and told of in `/linking` with what the rest would
//! need and how often each was right.

use std::fmt::Display;
use std::io;
use std::sync::Arc;

use serde_json::Value;
use serde_json::json;
use tracing::info;
use tracing::warn;

use crate::app::run::RunError;
use crate::app::run::Running;
use crate::config::Config;
use crate::correlate;
use crate::net::evidence::Evidence;
use crate::net::evidence::offer::Offer;
use crate::net::kernel::Kernel;
use crate::net::kernel::Scope;
use crate::net::kernel::network_namespace;
use crate::net::memory;
use crate::net::netns::Netns;
use crate::net::privilege;
use crate::net::rest::Rest;
use crate::proxy::pacing::Pacer;
use crate::proxy::shared::Shared;

/// How far a thread's priority is lowered for work that nobody waits for.
const PATIENT: i32 = 10;

impl Running {
    /// The processes whose runtime is looked into, or why not.
    fn probes(&self) -> Vec<Value> {
        let kernel = self.shared.kernel.get();
        let probed = kernel.map(|kernel| kernel.probed.list());
        let probed = probed.into_iter().flatten();
        probed
            .map(|(pid, probe)| {
                json!({
                    "pid": pid,
                    "runtime": probe.name,
                    "active": probe.refused.is_none(),
                    "refused": probe.refused,
                })
            })
            .collect()
    }

    /// The layers in force for new connections.
    pub(super) fn linking_state(&self) -> Value {
        let snapshot = self.shared.snapshot.load();
        let config = &snapshot.correlate;
        let in_flight = &self.shared.in_flight;
        let preload = match (config.preload, &self.shared.evidence) {
            (true, Some(evidence)) if evidence.is_used() => Ok(()),
            (true, Some(_)) => {
                Err("a call of a program that has loaded the library: none has come yet")
            }
            (true, None) => Err("memory that the program can write to; the log says why not"),
            (false, _) => {
                Err("pillion exec --preload, or linking.preload with linking.preload_socket")
            }
        };
        let shims = match (config.shims, in_flight.shim_speaks()) {
            (true, true) => Ok(()),
            (true, false) => Err("a call with the token of a shim: none has come yet"),
            (false, _) => {
                Err("pillion exec --shims, or the files of pillion shims and linking.shims")
            }
        };
        let refusal = self.shared.kernel_refusal.get();
        let kernel = match (self.shared.kernel.get(), refusal) {
            (Some(kernel), _) => Ok(kernel),
            (None, Some(why)) => Err(why.strip_prefix("needs ").unwrap_or(why)),
            (None, None) => Err("a moment: it is being asked"),
        };
        let lineage = match (config.mode.follows_events(), kernel) {
            (false, _) => Err("linking.mode: balanced or eager, at the start"),
            (true, Ok(kernel)) if !kernel.follows_events => {
                Err("a restart: linking.mode was strict at the start")
            }
            (true, kernel) => kernel.map(|_| ()),
        };
        let is_probed = |kernel: &Kernel| {
            let probed = kernel.probed.list();
            probed.iter().any(|(_, probe)| probe.refused.is_none())
        };
        let runtime = match kernel {
            Ok(kernel) if is_probed(kernel) => Ok(()),
            Ok(_) => Err("a program with a runtime that is known: see probes"),
            Err(why) => Err(why),
        };
        let kernel = kernel.map(|_| ());
        let pacing = match (&self.shared.pacer, config.pacing.share > 0.0) {
            (Some(pacer), true) if pacer.standing().is_blind => {
                Err("to see the program's threads: see program")
            }
            (Some(_), true) => Ok(()),
            _ => Err("linking.pacing.share, at the start"),
        };
        let setting = |on, name| if on { Ok(()) } else { Err(name) };
        let layers = [
            ("forwarded", setting(config.forwarded, "linking.forwarded")),
            ("shim", shims),
            ("thread, preload", preload),
            ("thread, kernel", kernel),
            ("runtime, kernel", runtime),
            ("lineage, kernel", lineage),
            ("value", setting(config.values, "linking.values")),
            ("pacing", pacing),
            ("exclusive", setting(config.exclusive, "linking.exclusive")),
        ];
        let layers: Vec<Value> = layers
            .iter()
            .map(|(layer, state)| match state {
                Ok(()) => json!({ "layer": layer, "active": true }),
                Err(needs) => json!({ "layer": layer, "active": false, "needs": needs }),
            })
            .collect();
        let profile = match self.shared.kernel.get().is_some() {
            true => "bpf",
            false => "restricted",
        };
        json!({
            "profile": profile,
            "lacking": privilege::lacking(),
            "program": self.program_state(),
            "pacing": self.shared.pacer.as_ref().map(|pacer| pacer.standing()),
            "mode": config.mode,
            "tracing": snapshot.tracer.is_some(),
            "requests_in_flight": self.shared.inbound_requests(),
            "layers": layers,
            "probes": self.probes(),
            "audit": in_flight.audit(),
            "exclusive": in_flight.learned(),
        })
    }
}

/// Memory for what a library in the program says; without it only links are missing.
pub(super) fn evidence() -> Option<Evidence> {
    Evidence::new()
        .inspect_err(
            |error| warn!(%error, "no memory for linking.preload: threads are not looked at"),
        )
        .ok()
}

/// Opens the socket at which programs get that memory; without it only links are missing.
pub(super) fn offer(config: &correlate::Config, evidence: Option<&Evidence>) -> Option<Offer> {
    let path = config.preload_socket.as_deref()?;
    let Some(evidence) = evidence else {
        warn!("linking.preload_socket is of no use without linking.preload");
        return None;
    };
    let opened = evidence
        .handle()
        .and_then(|memory| Offer::open(path, memory));
    opened
        .inspect_err(|error| {
            warn!(%error, path = %path.display(), "no linking.preload_socket: threads are not looked at");
        })
        .ok()
}

/// The gate before the program, when requests are to be paced.
pub(super) fn pacer(config: &correlate::Config) -> Option<Arc<Pacer>> {
    (config.pacing.share > 0.0).then(|| Pacer::new(&config.pacing))
}

/// Starts the thread that opens and closes the gate.
///
/// # Errors
/// The system has no thread, or tells nothing of sockets.
pub(super) fn start_pacing(shared: &Shared, inside: Option<&Netns>) -> io::Result<()> {
    let Some(pacer) = shared.pacer.clone() else {
        return Ok(());
    };
    let rest = match inside {
        Some(inside) => inside.run(Rest::new)?,
        None => Rest::new(),
    }?;
    std::thread::Builder::new()
        .name("pacing".to_owned())
        .spawn(move || pacer.run(rest))?;
    Ok(())
}

/// Has the kernel give evidence: at once when that is required, else as soon as it can, beside the start.
///
/// # Errors
/// It is required and refused.
pub(super) fn ask_kernel(
    config: &Config,
    inside: Option<&Netns>,
    shared: &Arc<Shared>,
) -> Result<(), RunError> {
    let (program, redirect) = (config.app.as_ref(), config.inbound.redirect.as_ref());
    let config = &config.linking;
    if config.kernel == correlate::Kernel::Off {
        refused(shared, &"linking.kernel is off");
        return Ok(());
    }
    let network = match inside {
        Some(inside) => inside.run(network_namespace)?,
        None => network_namespace(),
    }?;
    let scope = Scope {
        network,
        port: program.map(|program| program.port),
        has_one_port: redirect.is_none(),
        follows_events: config.mode.follows_events(),
    };
    if config.kernel == correlate::Kernel::Required {
        let loaded = Kernel::load(scope);
        memory::trim();
        use_kernel(shared, loaded?);
        return Ok(());
    }
    let shared = shared.clone();
    let load = move || {
        // Who serves goes first.
        rustix::process::setpriority_process(None, PATIENT).ok();
        let loaded = Kernel::load(scope);
        // The kernel's description of itself was read for this alone.
        memory::trim();
        match loaded {
            Ok(kernel) => use_kernel(&shared, kernel),
            Err(error) => refused(&shared, &error),
        }
    };
    std::thread::Builder::new()
        .name("kernel".to_owned())
        .spawn(load)?;
    Ok(())
}

fn use_kernel(shared: &Shared, kernel: Kernel) {
    if shared.kernel.set(kernel).is_ok() {
        tell_profile("bpf", &"linking looks at threads in the kernel");
    }
}

fn refused(shared: &Shared, because: &dyn Display) {
    shared.kernel_refusal.get_or_init(|| because.to_string());
    tell_profile("restricted", because);
}

/// Says once what linking is permitted to look at.
fn tell_profile(profile: &str, because: &dyn Display) {
    let lacking = privilege::lacking().join(", ");
    info!(profile, %because, lacking, "privileges for linking");
}
