//! Evidence from the kernel: which request was the program working on when it sent?
//!
//! Loads the programs of `bpf/`, built ahead of time, and maps what they write. They look at the TCP connections of
//! one network namespace. Everything ends when [`Kernel`] is dropped.

mod probes;
mod slots;

use std::fmt;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::Instant;

use aya::Btf;
use aya::Ebpf;
use aya::EbpfLoader;
use aya::maps::Array;
use aya::maps::Map;
use aya::maps::MapData;
use aya::programs::BtfTracePoint;
use rustix::pipe::PipeFlags;

use crate::net::kernel::probes::Watch;

pub use probes::Probed;
pub use slots::Moment;
pub use slots::Sent;
pub use slots::Slots;
pub use slots::Word;

/// What `bpf/build` makes of `bpf/evidence.bpf.c`.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../../bpf/evidence.bpf.o");

/// The programs that are always attached, each with its tracepoint. Nobody serves anything before `on_receive` looks, and
/// then it is seen how that ends.
const TRACEPOINTS: &[(&str, &str)] = &[
    ("on_send", "tcp_sendmsg_locked"),
    ("on_state", "inet_sock_set_state"),
    ("on_receive", "sock_recv_length"),
];

/// The one for event loops: every system call of the machine passes it.
const SYSTEM_CALLS: (&str, &str) = ("on_system_call", "sys_enter");

/// Why there is no evidence from the kernel.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The system does not let this process load programs.
    #[error("needs the capabilities BPF and PERFMON")]
    Privilege,
    /// The kernel does not say where its parts lie.
    #[error("needs a kernel with BTF")]
    NoTypes,
    /// The kernel is too old, or was built without this.
    #[error("needs Linux 6.16 or later: there is no tracepoint {0}")]
    NoTracepoint(&'static str),
    /// Anything else.
    #[error("cannot {what}: {reason}")]
    Other {
        /// What was tried.
        what: &'static str,
        /// What came of it.
        reason: String,
    },
}

/// What is looked at.
#[derive(Debug, Clone, Copy)]
pub struct Scope {
    /// The inode number of the network namespace.
    pub network: u64,
    /// Where the program listens; `None`: it is not looked into before its first request.
    pub port: Option<u16>,
    /// Requests go to no other port: who listens there is not the program.
    pub has_one_port: bool,
    /// Event loops without a probe are followed too.
    pub follows_events: bool,
}

/// The loaded programs.
pub struct Kernel {
    /// What they write.
    pub slots: Slots,
    /// When they began to look.
    since: Instant,
    /// What became of the processes that serve events.
    pub probed: Arc<Probed>,
    /// Event loops without a probe are followed too.
    pub follows_events: bool,
    /// Dropping them ends the probes, and then these.
    _stop: OwnedFd,
    _programs: Ebpf,
}

impl Kernel {
    /// Loads and attaches the programs.
    ///
    /// # Errors
    /// See [`KernelError`]; nothing stays behind.
    pub fn load(scope: Scope) -> Result<Self, KernelError> {
        let types = Btf::from_sys_fs().map_err(|_| KernelError::NoTypes)?;
        let (dev, pid_namespace) = pid_namespace()?;
        let (network, own) = (scope.network as u32, std::process::id());
        let events = u32::from(scope.follows_events);
        let port = scope.port.map_or(0, u32::from);
        let has_one_port = u32::from(scope.has_one_port && scope.port.is_some());
        let mut loader = EbpfLoader::new();
        loader
            .btf(Some(&types))
            .allow_unsupported_maps()
            .override_global("network", &network, true)
            .override_global("pid_namespace_dev", &dev, true)
            .override_global("pid_namespace", &pid_namespace, true)
            .override_global("sidecar_pid", &own, true)
            .override_global("program_port", &port, true)
            .override_global("has_one_port", &has_one_port, true)
            .override_global("follows_events", &events, true);
        let mut programs = loader
            .load(OBJECT)
            .map_err(|error| because("load", &error))?;
        let slots = map_slots(&mut programs)?;
        let probed = Arc::new(Probed::default());
        let (stopped, stop) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)
            .map_err(|error| because("make a pipe", &io::Error::from(error)))?;
        let watch = Watch::new(&mut programs, &types, probed.clone(), stopped)?;
        let more = scope.follows_events.then_some(&SYSTEM_CALLS);
        for (name, tracepoint) in TRACEPOINTS.iter().chain(more) {
            attach(&mut programs, name, tracepoint, &types)?;
        }
        std::thread::Builder::new()
            .name("probes".to_owned())
            .spawn(|| watch.run())
            .map_err(|error| because("start a thread", &error))?;
        Ok(Self {
            slots,
            since: Instant::now(),
            probed,
            follows_events: scope.follows_events,
            _stop: stop,
            _programs: programs,
        })
    }
}

impl Kernel {
    /// True when a connection that was opened then is unknown to the programs, or to the probes in a runtime.
    pub fn is_older(&self, opened: Instant) -> bool {
        opened < self.since || self.probed.since().is_some_and(|since| opened < since)
    }
}

impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kernel").finish_non_exhaustive()
    }
}

/// The number of the network namespace of the calling thread.
///
/// # Errors
/// There is no `/proc`.
pub fn network_namespace() -> io::Result<u64> {
    Ok(fs::metadata("/proc/thread-self/ns/net")?.ino())
}

fn pid_namespace() -> Result<(u64, u64), KernelError> {
    let own = fs::metadata("/proc/self/ns/pid").map_err(|error| KernelError::Other {
        what: "read /proc/self/ns/pid",
        reason: error.to_string(),
    })?;
    Ok((own.dev(), own.ino()))
}

fn map_slots(programs: &mut Ebpf) -> Result<Slots, KernelError> {
    let missing = || KernelError::Other {
        what: "map evidence",
        reason: "the object has no array of slots".to_owned(),
    };
    let map = programs.map_mut("slots").ok_or_else(missing)?;
    let mut array = Array::<&mut MapData, [u64; 4]>::try_from(&mut *map)
        .map_err(|error| because("map evidence", &error))?;
    array
        .set(0, [slots::LAYOUT, 0, 0, 0], 0)
        .map_err(|error| because("map evidence", &error))?;
    let Map::Array(data) = map else {
        return Err(missing());
    };
    Slots::map(data.fd()).map_err(|error| because("map evidence", &error))
}

fn attach(
    programs: &mut Ebpf,
    name: &str,
    tracepoint: &'static str,
    types: &Btf,
) -> Result<(), KernelError> {
    let missing = || KernelError::NoTracepoint(tracepoint);
    let program = programs.program_mut(name).ok_or_else(missing)?;
    let program: &mut BtfTracePoint = program.try_into().map_err(|_| missing())?;
    program.load(tracepoint, types).map_err(|error| {
        match matches!(&error, aya::programs::ProgramError::Btf(_)) {
            true => missing(),
            false => because("load", &error),
        }
    })?;
    program
        .attach()
        .map_err(|error| because("attach", &error))?;
    Ok(())
}

/// Tells a missing privilege from everything else.
fn because(what: &'static str, error: &(dyn std::error::Error + 'static)) -> KernelError {
    let mut reason = error.to_string();
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>()
            && error.kind() == io::ErrorKind::PermissionDenied
        {
            return KernelError::Privilege;
        }
        cause = error.source();
        if let Some(deeper) = cause {
            reason = format!("{reason}: {deeper}");
        }
    }
    KernelError::Other { what, reason }
}

#[cfg(test)]
mod tests;
