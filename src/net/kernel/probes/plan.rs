//! From a process to its probes: what the programs in the kernel are told of its runtime, and where they are attached.

use crate::net::kernel::probes::attach::Place;
use crate::net::kernel::probes::go;
use crate::net::kernel::probes::libuv;
use crate::net::kernel::probes::python;
use crate::net::kernel::probes::target::Target;
use crate::net::kernel::probes::tokio;
use crate::net::process::Runtime;

/// As `bpf/strands.h` numbers them.
const PYTHON: u64 = 1;
const GO: u64 = 2;
const LIBUV: u64 = 3;
const TOKIO: u64 = 4;

/// What `bpf/strands.h` calls `struct runtime`, in words.
pub(super) type Entry = [u64; 7];

/// How a process's runtime is read, and where probes belong.
pub(super) struct Plan {
    /// The first word is left to who knows the process.
    pub(super) entry: Entry,
    pub(super) places: Vec<Place>,
    /// Where probes belong until the programs in the kernel have found the rest.
    pub(super) search: Vec<Place>,
}

/// What a runtime's probe is called; `None`: there is none for it.
pub(super) fn name_of(runtime: Runtime) -> Option<&'static str> {
    Some(match runtime {
        Runtime::Python => "python",
        Runtime::Go => "go",
        Runtime::Node => "libuv",
        Runtime::Tokio => "tokio",
        _ => return None,
    })
}

/// Finds where things lie in a process, and where to look.
///
/// # Errors
/// What is missing or does not fit.
pub(super) fn of(target: &Target, runtime: Runtime) -> Result<Plan, &'static str> {
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
