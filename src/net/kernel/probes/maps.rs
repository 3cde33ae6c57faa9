//! What the programs in the kernel remember of each process: written for its probes, and forgotten with it.

use std::hash::Hash;

use aya::Ebpf;
use aya::Pod;
use aya::maps::HashMap as KernelMap;
use aya::maps::Map;
use aya::maps::MapData;
use aya::maps::MapError;

use crate::net::kernel::KernelError;
use crate::net::kernel::because;
use crate::net::kernel::probes::plan::Entry;

/// More keys than any of the maps has: one that is changed meanwhile may show some twice.
const MAX_KEYS: usize = 1 << 15;

/// The maps of `bpf/` whose keys hold a process's number. Keys and values as words.
pub(super) struct Maps {
    runtimes: KernelMap<MapData, u32, Entry>,
    processes: KernelMap<MapData, u32, [u64; 7]>,
    strands: KernelMap<MapData, [u64; 2], [u64; 7]>,
    idle: KernelMap<MapData, [u32; 3], i32>,
}

impl Maps {
    /// Takes them out of the object.
    ///
    /// # Errors
    /// It lacks one, or has one of another shape.
    pub(super) fn take(programs: &mut Ebpf) -> Result<Self, KernelError> {
        Ok(Self {
            runtimes: typed(programs, "runtimes")?,
            processes: typed(programs, "processes")?,
            strands: typed(programs, "strands")?,
            idle: typed(programs, "idle")?,
        })
    }

    /// Has the programs read a process's runtime.
    ///
    /// # Errors
    /// The map is full.
    pub(super) fn set_runtime(&mut self, process: u32, entry: Entry) -> Result<(), MapError> {
        self.runtimes.insert(process, entry, 0)
    }

    /// Forgets a process that has ended.
    pub(super) fn forget(&mut self, process: u32) {
        self.forget_program(process);
        self.processes.remove(&process).ok();
    }

    /// Forgets what probes have seen in a process. They are gone: nothing comes anew. What `processes` says is of the
    /// program that runs there now.
    pub(super) fn forget_program(&mut self, process: u32) {
        self.runtimes.remove(&process).ok();
        remove(&mut self.strands, |[_, owner]| *owner as u32 == process);
        remove(&mut self.idle, |[owner, ..]| *owner == process);
    }
}

/// A map of the object.
///
/// # Errors
/// There is none of this name.
pub(super) fn take(programs: &mut Ebpf, name: &'static str) -> Result<Map, KernelError> {
    programs.take_map(name).ok_or_else(|| KernelError::Other {
        what: "load probes",
        reason: format!("the object has no map {name}"),
    })
}

fn typed<K: Pod, V: Pod>(
    programs: &mut Ebpf,
    name: &'static str,
) -> Result<KernelMap<MapData, K, V>, KernelError> {
    KernelMap::try_from(take(programs, name)?).map_err(|error| because("load probes", &error))
}

fn remove<K: Pod + Hash + Eq, V: Pod>(
    map: &mut KernelMap<MapData, K, V>,
    is_meant: impl Fn(&K) -> bool,
) {
    let keys = map.keys().take(MAX_KEYS).filter_map(Result::ok);
    let keys: Vec<K> = keys.filter(is_meant).collect();
    for key in keys {
        map.remove(&key).ok();
    }
}
