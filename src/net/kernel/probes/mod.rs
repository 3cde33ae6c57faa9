//! Probes in the runtimes of programs: which task, goroutine or event is at work, where threads say too little.
//!
//! The programs in the kernel name each process that has read a request as an event. It is looked at once, on a thread
//! of its own: a runtime that is known gets its probes when a check of the process itself has shown where things lie;
//! everything else is left alone, with the reason.

mod attach;
mod elf;
mod go;
mod libuv;
mod python;
mod target;
mod tokio;

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::Instant;

use aya::Btf;
use aya::Ebpf;
use aya::maps::HashMap as KernelMap;
use aya::maps::MapData;
use aya::maps::RingBuf;
use rustix::event::PollFd;
use rustix::event::PollFlags;
use tracing::debug;
use tracing::info;

use crate::net::kernel::KernelError;
use crate::net::kernel::OBJECT;
use crate::net::kernel::because;
use crate::net::kernel::probes::attach::Place;
use crate::net::kernel::probes::attach::Programs;
use crate::net::kernel::probes::target::Target;
use crate::net::process;
use crate::net::process::Probe;
use crate::net::process::Runtime;

/// Most processes with probes at a time.
const MAX_PROCESSES: usize = 64;
/// A process that has just begun may not show everything yet: so often it is looked at, and so long apart.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(25);

/// As `bpf/strands.h` numbers them.
const PYTHON: u64 = 1;
const GO: u64 = 2;
const LIBUV: u64 = 3;
const TOKIO: u64 = 4;

/// As `bpf/strands.h` numbers what it says of a process.
const FITS: u32 = 1;
const FITS_NOT: u32 = 2;

/// What `bpf/strands.h` calls `struct runtime`, in words.
type Entry = [u64; 7];

/// What became of the processes that were named.
#[derive(Debug, Default)]
pub struct Probed {
    list: Mutex<Vec<(i32, Probe)>>,
    /// When the latest probes were attached.
    since: Mutex<Option<Instant>>,
}

impl Probed {
    /// Each process with its probe, the latest last. Those that have ended may still be there.
    pub fn list(&self) -> Vec<(i32, Probe)> {
        self.lock().clone()
    }

    /// When probes were attached the latest time; `None`: never.
    pub fn since(&self) -> Option<Instant> {
        *self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_attached(&self) {
        let mut since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        *since = Some(Instant::now());
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(i32, Probe)>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, pid: i32, probe: Option<Probe>) {
        let mut list = self.lock();
        list.retain(|(other, _)| *other != pid);
        list.extend(probe.map(|probe| (pid, probe)));
    }
}

/// Looks at processes as they are named, until the other end of `stop` is closed. Runs on a thread of its own.
pub(super) struct Watch {
    programs: Programs,
    seen: RingBuf<MapData>,
    runtimes: KernelMap<MapData, u32, Entry>,
    probed: Arc<Probed>,
    stop: OwnedFd,
    links: HashMap<u32, Links>,
}

/// The probes in one process.
struct Links {
    pid: u32,
    /// When the process started: tells it from a later one with the same number.
    started: u64,
    name: &'static str,
    _links: Vec<OwnedFd>,
    /// Those by which the programs in the kernel find what they need; dropped when they say so.
    search: Vec<OwnedFd>,
}

/// How a process's runtime is read, and where probes belong.
struct Plan {
    entry: Entry,
    places: Vec<Place>,
    /// Where probes belong until the programs in the kernel have found the rest.
    search: Vec<Place>,
}

/// A process as the kernel's programs name it: `struct seen`.
struct Seen {
    memory: u64,
    /// Its number for the kernel, and for this process; 0: out of sight.
    process: u32,
    pid: u32,
    what: u32,
}

impl Watch {
    /// Loads the programs for probes, beside the others of the object.
    ///
    /// # Errors
    /// The kernel refuses them.
    pub(super) fn new(
        programs: &mut Ebpf,
        types: &Btf,
        probed: Arc<Probed>,
        stop: OwnedFd,
    ) -> Result<Self, KernelError> {
        let missing = || KernelError::Other {
            what: "load probes",
            reason: "the object lacks a map".to_owned(),
        };
        let probes = Programs::load(OBJECT, programs, types)?;
        let seen = programs.take_map("seen").ok_or_else(missing)?;
        let runtimes = programs.take_map("runtimes").ok_or_else(missing)?;
        Ok(Self {
            programs: probes,
            seen: RingBuf::try_from(seen).map_err(|error| because("load probes", &error))?,
            runtimes: KernelMap::try_from(runtimes)
                .map_err(|error| because("load probes", &error))?,
            probed,
            stop,
            links: HashMap::new(),
        })
    }

    /// Waits for names.
    pub(super) fn run(mut self) {
        loop {
            while let Some(seen) = self.next() {
                self.forget_ended();
                match seen.what {
                    FITS => self.end_search(&seen, None),
                    FITS_NOT => self.end_search(&seen, Some(tokio::FITS_NOT)),
                    _ => self.look(&seen),
                }
            }
            let mut sources = [
                PollFd::new(&self.seen, PollFlags::IN),
                PollFd::new(&self.stop, PollFlags::IN),
            ];
            match rustix::event::poll(&mut sources, None) {
                Err(rustix::io::Errno::INTR) => continue,
                Err(_) => return,
                Ok(_) => {}
            }
            let [_, stop] = sources;
            if !stop.revents().is_empty() {
                return;
            }
        }
    }

    fn next(&mut self) -> Option<Seen> {
        let item = self.seen.next()?;
        let number = |at: usize, size: usize| {
            let bytes = item.get(at..at + size).unwrap_or_default();
            let digits = bytes.iter().rev();
            digits.fold(0, |number, byte| number << 8 | u64::from(*byte))
        };
        Some(Seen {
            memory: number(0, 8),
            process: number(8, 4) as u32,
            pid: number(12, 4) as u32,
            what: number(16, 4) as u32,
        })
    }

    fn forget_ended(&mut self) {
        let (runtimes, probed) = (&mut self.runtimes, &self.probed);
        self.links.retain(|process, links| {
            let pid = links.pid as i32;
            let is_alive = process::stat(pid).is_some_and(|stat| stat.started == links.started);
            if !is_alive {
                runtimes.remove(process).ok();
                probed.set(pid, None);
            }
            is_alive
        });
    }

    fn look(&mut self, seen: &Seen) {
        let pid = seen.pid as i32;
        // Another program may run in the process now.
        self.links.remove(&seen.process);
        self.runtimes.remove(&seen.process).ok();
        let (Some(program), Some(stat)) = (process::look(pid), process::stat(pid)) else {
            return;
        };
        let name = match program.runtime {
            Runtime::Python => "python",
            Runtime::Go => "go",
            Runtime::Node => "libuv",
            Runtime::Tokio => "tokio",
            _ => return,
        };
        let begun = Instant::now();
        let attached = match self.links.len() < MAX_PROCESSES {
            true => self.attach(seen, program.runtime, name, stat.started),
            false => Err("too many processes have probes".to_owned()),
        };
        let refused = match attached {
            Ok(links) => {
                let is_searching = !links.search.is_empty();
                self.links.insert(seen.process, links);
                debug!(took = ?begun.elapsed(), pid, "probes attached");
                match is_searching {
                    true => Some(tokio::SEARCHES.into()),
                    false => {
                        self.is_at_work(pid, name);
                        None
                    }
                }
            }
            Err(reason) => {
                info!(
                    pid,
                    runtime = name,
                    reason,
                    "linking does not look into the program"
                );
                Some(reason.into())
            }
        };
        self.probed.set(pid, Some(Probe { name, refused }));
    }

    fn is_at_work(&self, pid: i32, name: &'static str) {
        info!(pid, runtime = name, "linking looks into the program");
        self.probed.has_attached();
    }

    /// The programs in the kernel have found what they need in a process, or there is a reason why they never will.
    fn end_search(&mut self, seen: &Seen, refused: Option<&'static str>) {
        let Some(links) = self.links.get_mut(&seen.process) else {
            return;
        };
        links.search.clear();
        let (pid, name) = (links.pid as i32, links.name);
        match refused {
            None => self.is_at_work(pid, name),
            Some(reason) => {
                info!(
                    pid,
                    runtime = name,
                    reason,
                    "linking does not look into the program"
                );
                self.links.remove(&seen.process);
                self.runtimes.remove(&seen.process).ok();
            }
        }
        let refused = refused.map(Into::into);
        self.probed.set(pid, Some(Probe { name, refused }));
    }

    fn attach(
        &mut self,
        seen: &Seen,
        runtime: Runtime,
        name: &'static str,
        started: u64,
    ) -> Result<Links, String> {
        if !cfg!(target_arch = "x86_64") {
            return Err("probes know the x86-64 alone".to_owned());
        }
        let mut tries = 0;
        let mut plan = loop {
            let target = Target::open(seen.pid).map_err(|error| refusal(&error))?;
            tries += 1;
            match inspect(&target, runtime) {
                Ok(found) => break found,
                Err(reason) if tries == TRIES => return Err(reason.to_owned()),
                Err(_) => std::thread::sleep(PAUSE),
            }
        };
        let attach = |places| {
            let links = self.programs.attach(places, seen.pid);
            links.map_err(|error| format!("the kernel refused: {error}"))
        };
        let links = Links {
            pid: seen.pid,
            started,
            name,
            _links: attach(&plan.places)?,
            search: attach(&plan.search)?,
        };
        plan.entry[0] = seen.memory;
        // Only now that nothing goes unseen.
        let written = self.runtimes.insert(seen.process, plan.entry, 0);
        written.map_err(|error| error.to_string())?;
        Ok(links)
    }
}

fn inspect(target: &Target, runtime: Runtime) -> Result<Plan, &'static str> {
    let pair = |low: u64, high: u32| low | u64::from(high) << 32;
    let mut search = Vec::new();
    let (entry, places) = match runtime {
        Runtime::Python => {
            let (layout, places) = python::inspect(target)?;
            let entry = [
                0,
                layout.context_type,
                pair(PYTHON, layout.state_at),
                pair(layout.id_at.into(), layout.context_at),
                pair(0, layout.reads_outside.into()),
                0,
                0,
            ];
            (entry, places)
        }
        Runtime::Go => {
            let (layout, places) = go::inspect(target)?;
            let entry = [
                0,
                0,
                GO,
                0,
                pair(layout.number_at.into(), layout.knows_parked.into()),
                0,
                0,
            ];
            (entry, places)
        }
        Runtime::Tokio => {
            let (layout, found) = tokio::inspect(target)?;
            search = found.search;
            let entry = [
                0,
                layout.context_before,
                pair(TOKIO, layout.context_size),
                0,
                layout.number_at.into(),
                0,
                0,
            ];
            (entry, found.places)
        }
        _ => ([0, 0, LIBUV, 0, 0, 0, 0], libuv::inspect(target)?),
    };
    Ok(Plan {
        entry,
        places,
        search,
    })
}

fn refusal(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "needs the capability SYS_PTRACE where users differ".to_owned()
        }
        _ => error.to_string(),
    }
}
