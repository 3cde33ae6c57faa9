//! Probes in the runtimes of programs: which task, goroutine or event is at work, where threads say too little.
//!
//! The programs in the kernel name each process that begins to listen for requests, or has read one as an event. It is
//! looked at on a thread of its own: a runtime that is known gets its probes when a check of the process itself has shown
//! where things lie; everything else is left alone, with the reason. Nothing stays of a process that has ended.

mod attach;
mod elf;
mod go;
mod libuv;
mod maps;
mod plan;
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
use aya::maps::MapData;
use aya::maps::RingBuf;
use rustix::event::PollFd;
use rustix::event::PollFlags;
use rustix::event::Timespec;
use rustix::process::Pid;
use rustix::process::PidfdFlags;
use rustix::process::pidfd_open;
use tracing::debug;
use tracing::info;

use crate::model::Text;
use crate::net::kernel::KernelError;
use crate::net::kernel::OBJECT;
use crate::net::kernel::because;
use crate::net::kernel::probes::attach::Programs;
use crate::net::kernel::probes::maps::Maps;
use crate::net::kernel::probes::target::Target;
use crate::net::process;
use crate::net::process::EventLoop;
use crate::net::process::Probe;
use crate::net::process::Program;
use crate::net::process::Runtime;

/// Most processes with probes at a time, and most that are kept in mind.
const MAX_PROCESSES: usize = 64;
const MAX_KNOWN: usize = 256;
/// A process that has just begun may not show everything yet: so often it is looked at, so long apart at first and later.
const TRIES: u32 = 12;
const FIRST_PAUSE: Duration = Duration::from_millis(2);
const PAUSE: Duration = Duration::from_millis(100);

/// As `bpf/strands.h` numbers what it says of a process.
const FITS: u32 = 1;
const FITS_NOT: u32 = 2;
const LISTENS: u32 = 3;

/// What became of the processes that were named.
#[derive(Debug, Default)]
pub struct Probed {
    list: Mutex<Vec<(i32, Probe)>>,
    /// When the latest probes were attached.
    since: Mutex<Option<Instant>>,
    /// Processes that were named: whoever listens for requests or reads them.
    named: Mutex<Vec<i32>>,
}

impl Probed {
    /// The processes that were named, as far as they are there: what serves requests, whoever may look into it.
    pub fn named(&self) -> Vec<i32> {
        let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        named.retain(|pid| process::stat(*pid).is_some());
        named.clone()
    }

    fn is_named(&self, pid: i32) {
        let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        if !named.contains(&pid) && named.len() < MAX_KNOWN {
            named.push(pid);
        }
    }

    /// Each process with its probe, the latest last.
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
    maps: Maps,
    probed: Arc<Probed>,
    stop: OwnedFd,
    /// By their numbers for the kernel.
    known: HashMap<u32, Known>,
    waiting: Vec<Waiting>,
}

/// A process that was looked at, until it ends or runs another program.
struct Known {
    pid: i32,
    /// Which of the programs that have run in the process.
    program: u64,
    name: &'static str,
    /// Can be read once the process has ended.
    ended: OwnedFd,
    /// The probes; none where they were refused.
    links: Vec<OwnedFd>,
    /// Those by which the programs in the kernel find what they need; dropped when they say so.
    search: Vec<OwnedFd>,
}

/// The links of a process, and those as long as is searched.
type Probes = (Vec<OwnedFd>, Vec<OwnedFd>);

/// A process that is still to be looked at, or once more.
struct Waiting {
    seen: Seen,
    tries: u32,
    due: Instant,
}

/// Why a process has no probes.
enum Refusal {
    /// What has not been found may come.
    Yet(String),
    /// It never will.
    Never(String),
}

/// The other end of `stop` was closed.
struct Stopped;

/// A process as the kernel's programs name it: `struct seen`.
struct Seen {
    program: u64,
    /// Its number for the kernel, and for this process; 0: out of sight.
    process: u32,
    pid: i32,
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
        let probes = Programs::load(OBJECT, programs, types)?;
        let seen = maps::take(programs, "seen")?;
        Ok(Self {
            programs: probes,
            seen: RingBuf::try_from(seen).map_err(|error| because("load probes", &error))?,
            maps: Maps::take(programs)?,
            probed,
            stop,
            known: HashMap::new(),
            waiting: Vec::new(),
        })
    }

    /// Waits for names.
    pub(super) fn run(mut self) {
        loop {
            while let Some(seen) = self.next() {
                match seen.what {
                    FITS => self.end_search(&seen, None),
                    FITS_NOT => self.end_search(&seen, Some(tokio::FITS_NOT)),
                    _ => self.is_named(seen),
                }
            }
            self.look_at_due();
            match self.wait() {
                Ok(ended) => {
                    for process in ended {
                        self.forget(process, Maps::forget);
                    }
                }
                Err(Stopped) => return,
            }
        }
    }

    /// Waits until a process is named, one is to be looked at, or some have ended: those.
    fn wait(&self) -> Result<Vec<u32>, Stopped> {
        let due = self.waiting.iter().map(|waiting| waiting.due).min();
        let pause = due.map(|due| due.saturating_duration_since(Instant::now()));
        let pause = pause.and_then(|pause| Timespec::try_from(pause).ok());
        let mut sources = vec![
            PollFd::new(&self.stop, PollFlags::IN),
            PollFd::new(&self.seen, PollFlags::IN),
        ];
        let known: Vec<u32> = self.known.keys().copied().collect();
        let ends = self.known.values().map(|known| &known.ended);
        sources.extend(ends.map(|ended| PollFd::new(ended, PollFlags::IN)));
        match rustix::event::poll(&mut sources, pause.as_ref()) {
            Err(rustix::io::Errno::INTR) => return Ok(Vec::new()),
            Err(_) => return Err(Stopped),
            Ok(_) => {}
        }
        let mut ready = sources.iter().map(|source| !source.revents().is_empty());
        if ready.next() == Some(true) {
            return Err(Stopped);
        }
        let ended = known.into_iter().zip(ready.skip(1));
        Ok(ended
            .filter_map(|(process, ended)| ended.then_some(process))
            .collect())
    }

    fn next(&mut self) -> Option<Seen> {
        let item = self.seen.next()?;
        let number = |at: usize, size: usize| {
            let bytes = item.get(at..at + size).unwrap_or_default();
            let digits = bytes.iter().rev();
            digits.fold(0, |number, byte| number << 8 | u64::from(*byte))
        };
        Some(Seen {
            program: number(0, 8),
            process: number(8, 4) as u32,
            pid: number(12, 4) as i32,
            what: number(16, 4) as u32,
        })
    }

    /// A process has ended, or another program runs in it: nothing of what was seen in it counts any more.
    fn forget(&mut self, process: u32, forget: impl Fn(&mut Maps, u32)) {
        if let Some(known) = self.known.remove(&process) {
            let pid = known.pid;
            drop(known);
            forget(&mut self.maps, process);
            self.probed.set(pid, None);
        }
    }

    fn is_named(&mut self, seen: Seen) {
        self.probed.is_named(seen.pid);
        if let Some(known) = self.known.get(&seen.process) {
            let has_probes = !known.links.is_empty();
            if known.program == seen.program && (has_probes || seen.what == LISTENS) {
                return;
            }
            self.forget(seen.process, Maps::forget_program);
        }
        self.waiting
            .retain(|waiting| waiting.seen.process != seen.process);
        if self.waiting.len() + self.known.len() < MAX_KNOWN {
            self.waiting.push(Waiting {
                seen,
                tries: 0,
                due: Instant::now(),
            });
        }
    }

    fn look_at_due(&mut self) {
        let now = Instant::now();
        let waiting = std::mem::take(&mut self.waiting);
        let (due, waiting) = waiting.into_iter().partition(|waiting| waiting.due <= now);
        self.waiting = waiting;
        for waiting in due {
            self.look(waiting);
        }
    }

    fn look(&mut self, mut waiting: Waiting) {
        let begun = Instant::now();
        let (pid, is_early) = (waiting.seen.pid, waiting.seen.what == LISTENS);
        let ended = Pid::from_raw(pid).map(|pid| pidfd_open(pid, PidfdFlags::empty()));
        let (Some(Ok(ended)), Some(program)) = (ended, process::look(pid)) else {
            return;
        };
        let Some(name) = name_of(&program) else {
            return;
        };
        waiting.tries += 1;
        let (mut links, mut search, mut refused) = (Vec::new(), Vec::new(), None);
        match self.attach(&waiting.seen, &program) {
            Ok(probes) => (links, search) = probes,
            Err(Refusal::Yet(_)) if waiting.tries < TRIES => {
                let pause = FIRST_PAUSE.saturating_mul(1 << waiting.tries);
                waiting.due = Instant::now() + pause.min(PAUSE);
                self.waiting.push(waiting);
                return;
            }
            // It may never serve anybody: others do so for it.
            Err(_) if is_early => return,
            Err(Refusal::Yet(reason) | Refusal::Never(reason)) => refused = Some(reason),
        }
        debug!(took = ?begun.elapsed(), pid, is_early, tries = waiting.tries, "looked for probes");
        let known = Known {
            pid,
            program: waiting.seen.program,
            name,
            ended,
            links,
            search,
        };
        match refused {
            None if !known.search.is_empty() => self.tell(&known, Some(tokio::SEARCHES.into())),
            refused => self.is_settled(&known, refused.map(Into::into)),
        }
        self.known.insert(waiting.seen.process, known);
    }

    /// The probes are at work, or there is a reason why they are not.
    fn is_settled(&self, known: &Known, refused: Option<Text>) {
        let (pid, runtime) = (known.pid, known.name);
        match &refused {
            None => {
                info!(pid, runtime, "linking looks into the program");
                self.probed.has_attached();
            }
            Some(reason) => {
                info!(pid, runtime, %reason, "linking does not look into the program");
            }
        }
        self.tell(known, refused);
    }

    fn tell(&self, known: &Known, refused: Option<Text>) {
        let name = known.name;
        self.probed.set(known.pid, Some(Probe { name, refused }));
    }

    /// The programs in the kernel have found what they need in a process, or there is a reason why they never will.
    fn end_search(&mut self, seen: &Seen, refused: Option<&'static str>) {
        let Some(mut known) = self.known.remove(&seen.process) else {
            return;
        };
        if known.program == seen.program {
            known.search.clear();
            if refused.is_some() {
                known.links.clear();
                self.maps.forget_program(seen.process);
            }
            self.is_settled(&known, refused.map(Into::into));
        }
        self.known.insert(seen.process, known);
    }

    fn attach(&mut self, seen: &Seen, program: &Program) -> Result<Probes, Refusal> {
        let never = |reason: &str| Refusal::Never(reason.to_owned());
        if !cfg!(target_arch = "x86_64") {
            return Err(never("probes know the x86-64 alone"));
        }
        let has_links = |known: &&Known| !known.links.is_empty();
        if self.known.values().filter(has_links).count() >= MAX_PROCESSES {
            return Err(never("too many processes have probes"));
        }
        let is_served_by_threads = matches!(program.event_loop, EventLoop::None | EventLoop::Other);
        if seen.what == LISTENS && program.runtime == Runtime::Python && is_served_by_threads {
            return Err(never("it has no event loop"));
        }
        let target = Target::open(seen.pid.cast_unsigned()).map_err(|error| refusal(&error))?;
        let mut plan = plan::of(&target, program.runtime).map_err(|reason| {
            // Files stay as they are; what a runtime has in its memory comes with time.
            match program.runtime {
                Runtime::Python | Runtime::Go => Refusal::Yet(reason.to_owned()),
                _ => never(reason),
            }
        })?;
        let attach = |places| {
            let links = self.programs.attach(places, target.pid);
            links.map_err(|error| Refusal::Never(format!("the kernel refused: {error}")))
        };
        let probes = (attach(&plan.places)?, attach(&plan.search)?);
        plan.entry[0] = seen.program;
        // Only now that nothing goes unseen.
        self.maps
            .set_runtime(seen.process, plan.entry)
            .map_err(|error| Refusal::Never(error.to_string()))?;
        Ok(probes)
    }
}

/// What a program's probe is called; `None`: there is none for it.
fn name_of(program: &Program) -> Option<&'static str> {
    let is_hidden = || {
        let file = std::fs::read_link(format!("/proc/{}/exe", program.pid));
        file.is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
    };
    match plan::name_of(program.runtime) {
        None if program.runtime == Runtime::Unknown && is_hidden() => Some("unknown"),
        name => name,
    }
}

fn refusal(error: &io::Error) -> Refusal {
    Refusal::Never(match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "needs CAP_SYS_PTRACE: it is another user's, or Yama guards it".to_owned()
        }
        _ => error.to_string(),
    })
}
